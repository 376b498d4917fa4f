"""What the pages say to type is true: the program takes every command, and some are run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from blindbuild.assemble.uki import build_uki
from blindbuild.cli.main import VERBS, main
from tests.cli.test_image_directory import write_image
from tests.fakes.enclave_image import RAMDISKS
from tests.fakes.kernel_image import RELEASE, make_bzimage, make_stub
from tests.fakes.ovmf_image import OvmfImage
from tests.fakes.pe_image import make_pe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
OTHERS = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "recipes/README.md", "images/README.md")
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in OTHERS)]
CONTEXT = click.Context(main)
FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROMPT = re.compile(r"(?:\$ )?blindbuild ")
INLINE = re.compile(rf"`(?:blindbuild )?((?:{'|'.join(VERBS)})(?: -[^`]*)?|(?<=blindbuild )[^`]+)`")
MEASUREMENTS = (DOCS / "spec" / "measurements.md").read_text()


def joined(text: str) -> str:
    return text.replace("\\\n", " ")


def commands(page: Path) -> Iterator[str]:
    """What stands after `blindbuild` in a page's blocks: fenced, or indented with a description behind it."""
    text = page.read_text()
    for block in FENCED.findall(text):
        for line in joined(block).splitlines():
            if PROMPT.match(line):
                yield PROMPT.sub("", line, count=1)
    for line in FENCED.sub("", text).splitlines():
        if line.startswith("    blindbuild "):
            yield re.split(r" {2,}", line.strip())[0].removeprefix("blindbuild ")


WHOLE = [(page, text) for page in PAGES for text in commands(page)]
MENTIONED = [(page, text) for page in PAGES for text in INLINE.findall(page.read_text())]


def verb_of(name: str) -> click.Command:
    found = main.get_command(CONTEXT, name)
    assert found is not None, name
    return found


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words name, through groups of verbs such as `log`, and the words that are left."""
    command, rest = verb_of(words[0]), words[1:]
    while isinstance(command, click.Group) and rest:
        inner = command.get_command(CONTEXT, rest[0])
        assert inner is not None, words
        command, rest = inner, rest[1:]
    return command, rest


def option_names(command: click.Command) -> set[str]:
    names = {"--help", "-h"}
    for parameter in command.params:
        names.update(parameter.opts, parameter.secondary_opts)
    return names


@pytest.mark.parametrize(("page", "text"), WHOLE, ids=[text[:60] for _, text in WHOLE])
def test_every_command_of_a_block_is_taken(page: Path, text: str) -> None:
    command, words = resolve(shlex.split(text))
    context = click.Context(command)
    values, rest, _order = command.make_parser(context).parse_args(words)
    assert rest == []  # an argument more than the verb has
    for parameter in command.params:
        given = values.get(parameter.name or "")
        if isinstance(parameter.type, click.Choice) and given is not None:
            for value in given if isinstance(given, list) else [given]:
                parameter.type.convert(value, parameter, context)


@pytest.mark.parametrize(("page", "text"), MENTIONED, ids=[text[:60] for _, text in MENTIONED])
def test_every_verb_and_option_in_a_sentence_exists(page: Path, text: str) -> None:
    assert text.split()[0] in VERBS
    command, words = resolve(text.split())
    assert {word for word in words if word.startswith("-")} <= option_names(command)


def test_the_pages_have_commands_to_look_at() -> None:
    # were the patterns to find nothing, everything above would hold
    assert len(WHOLE) >= 20
    assert {page.name for page, _ in WHOLE} >= {"explain.md", "secure-boot.md", "nitro-eif.md", "README.md"}
    assert "measure --event-log OUT" in [text for _, text in MENTIONED]


def test_every_platform_of_measure_has_a_row_and_every_row_a_page() -> None:
    page = (DOCS / "platforms" / "README.md").read_text()
    (option,) = [p for p in verb_of("measure").params if p.name == "platform"]
    assert isinstance(option.type, click.Choice)
    for name in option.type.choices:
        short = name.removesuffix("-secboot").replace("qemu-q35-ovmf-2022.11", "…-2022.11")
        assert f"`{short}`" in page, name
    for target in re.findall(r"^\| \[[a-z-]+\]\(([a-z-]+\.md)\)", page, re.MULTILINE):
        assert (DOCS / "platforms" / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#: ]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def run(text: str) -> Result:
    return CliRunner().invoke(main, shlex.split(text), env={"COLUMNS": "200"})


@pytest.fixture
def uki() -> bytes:
    return build_uki(
        stub=make_stub(),
        kernel=make_bzimage(),
        initrd=b"070701",
        command_line="quiet",
        built_in_command_line="quiet",
        os_release="ID=test\n",
        uname=RELEASE,
    )


def of_page(name: str) -> list[str]:
    return [text for page, text in WHOLE if page == DOCS / name]


def test_the_commands_about_enclaves_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uki: bytes) -> None:
    monkeypatch.chdir(tmp_path)
    files = {"hello.efi": uki, "bzImage": make_bzimage()}
    files |= {"init.cpio.gz": RAMDISKS[0], "app.cpio.gz": RAMDISKS[1]}
    for name, data in files.items():
        Path(name).write_bytes(data)
    texts = of_page("platforms/nitro-eif.md")
    assert len(texts) == 3
    for text in texts:
        done = run(text)
        assert done.exit_code == 0, (text, done.exception)


def test_the_pair_of_logs_to_try_differs_where_the_page_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (text,) = of_page("platforms/README.md")
    program = Path(sys.executable).parent / "blindbuild"
    done = subprocess.run([program, *shlex.split(text)], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "differs in PCR 9, PCR 12" in done.stdout


def test_the_keys_that_openssl_makes_as_the_page_says_sign_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images/hello").mkdir(parents=True)
    write_image(tmp_path / "images" / "hello" / "1.0.0", hello__efi=make_pe())
    blocks = FENCED.findall((DOCS / "secure-boot.md").read_text())
    (making,) = [line for line in blocks[0].splitlines() if line.startswith("$ openssl ")]
    subprocess.run(shlex.split(making.removeprefix("$ ")), check=True, capture_output=True)
    text = of_page("secure-boot.md")[0]
    done = run(text)
    assert done.exit_code == 0, done.exception
    assert done.stdout.startswith("images/hello/1.0.0/hello.signed.efi over Authenticode sha256:")
    assert Path("images/hello/1.0.0/hello.signed.raw").exists()


def keys_of(value: object) -> set[str]:
    """Every key that is not itself a name of a bank, a register or a measurement."""
    if isinstance(value, list):
        return {key for item in value for key in keys_of(item)}
    if not isinstance(value, dict):
        return set()
    inner = {key for item in value.values() for key in keys_of(item)}
    return inner | {key for key in value if re.fullmatch(r"[a-z][A-Za-z]*[a-z]", key)}


@pytest.mark.parametrize(
    "text",
    [
        "measure hello.efi --firmware OVMF.fd --bank sha256 --json",
        "measure hello.efi --platform azure --json",
        "measure hello.efi --direct --json",
        "measure --platform sev-snp --firmware OVMF.fd --cpu EPYC-v4 --json",
        "measure --platform tdx --firmware OVMF.fd --json",
        "measure hello.eif --platform nitro-eif --json",
        "eif hello.efi -o again.eif --json",
    ],
)
def test_every_field_that_is_printed_is_in_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uki: bytes, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hello.efi").write_bytes(uki)
    Path("OVMF.fd").write_bytes(OvmfImage().build())
    assert run("eif hello.efi -o hello.eif").exit_code == 0
    done = run(text)
    assert done.exit_code == 0, done.exception
    value = json.loads(done.stdout)
    missing = {
        key for key in keys_of(value) if f"`{key}`" not in MEASUREMENTS and f'"{key}":' not in MEASUREMENTS
    }
    assert missing == set()
    for platform in value.get("platforms", []):
        assert f"`{platform['kind']}`" in MEASUREMENTS
        both = platform.get("measurements", {}).keys() & platform.get("unpredicted", {}).keys()
        assert both == set()
