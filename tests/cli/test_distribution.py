"""`publish directory` and `publish oci`, and `verify` from there; docs/distribution.md is typed in."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import judging, outputs
from blindbuild.cli.log_files import LOG_PROOF
from blindbuild.cli.main import main
from blindbuild.client import Expectation, published
from blindbuild.client.oci import LAYER_KINDS, PUBLICATION_TYPE
from blindbuild.errors import BuildError, ChannelError, UsageError, VerificationError
from blindbuild.manifest.log_entry import log_entry_bytes, log_entry_of
from blindbuild.publish.oci import IMAGE_TYPE
from tests.bad_inputs import refusing
from tests.cli.test_image_directory import write_image
from tests.fakes.attester import Attester, Server
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.log_world import Shown, others, policy_text
from tests.fakes.oci_registry import docker_registry, manifest_value, naive_push, needs_registry, static_files
from tests.fakes.published import NOW, Publisher, honest_boot, log_bytes
from tests.fakes.world import authority, tpm

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "distribution.md").read_text()
README = (ROOT / "README.md").read_text().partition("## Publishing")[2].partition("\n## ")[0]
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
LEDGER = ledger_bytes(closed_ledger())


def write_release(place: Path, owner: Publisher) -> None:
    """An image directory that was built, signed and logged."""
    write_image(place, statement__json=owner.statement, channels__json=LEDGER)
    (place / "manifest.dsse.json").write_bytes(owner.envelope)
    (place / "release.dsse.json").write_bytes(owner.release)
    entry = log_entry_bytes(log_entry_of(owner.envelope))
    (place / "manifest.tlog-proof").write_bytes(Shown(entries=[*others(3), entry, *others(5, 20)]).proof)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a release in it, at the time for which it was made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setattr("blindbuild.cli.log_verify.unix_time", lambda: NOW)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "images" / "hello").mkdir(parents=True)
    owner = publisher_of(LEDGER)
    write_release(tmp_path / "images" / "hello" / "1.0.0", owner)
    (tmp_path / "trust.json").write_bytes(owner.trust(**ROOTS))
    (tmp_path / "log-policy.txt").write_bytes(policy_text())
    return tmp_path


@pytest.fixture
def server() -> Iterator[Server]:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as running:
        yield running


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words, env={"COLUMNS": "300"})


def verified(server: Server, manifest: str, *more: str) -> Result:
    words = ("--trust", "trust.json", "--allow-test-tpm", "--plain-http", "--json")
    return run("verify", server.url, "--manifest", manifest, *words, *more)


# --- the page


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```(?:console)?\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "".join(found).replace("\\\n", " ").splitlines()
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


@needs_registry
@pytest.mark.parametrize(("page", "least"), [(PAGE, 7), (README, 4)], ids=["page", "README"])
def test_the_commands_of_the_page_run_in_their_order(
    place: Path, server: Server, registry: str, page: str, least: int
) -> None:
    (place / "public").mkdir()
    with static_files(place / "public") as address:
        known = {
            "https://releases.example/": address,
            "registry.example/": f"{registry}/page/",
            "https://server.example": server.url,
        }
        commands = blocks(page)
        assert len(commands) >= least
        for command in commands:
            for name, real in known.items():
                command = command.replace(name, real)
            words = shlex.split(command)
            assert words[0] == "blindbuild"
            # what the page does not need: TLS on loopback, and a TPM that is none
            more = ["--plain-http"] if f"{registry}/" in command else []
            more += ["--allow-test-tpm"] if words[1] in ("verify", "call") else []
            done = run(*words[1:], *more)
            assert done.exit_code == 0, (command, done.output, done.exception)
    assert (place / "public/hello/manifest.dsse.json").is_file()


def test_the_page_has_every_file_and_media_type() -> None:
    for kind in oci_kinds():
        assert f"`{kind}`" in PAGE
    for option in ("--plain-http", "--token-host", "--with-image", "--subject"):
        assert option in PAGE


def oci_kinds() -> list[str]:
    kinds = [part for kind in LAYER_KINDS for part in (kind.name, kind.media_type)]
    return [PUBLICATION_TYPE, IMAGE_TYPE, *(f"{kind}/" if kind == "rebuilds" else kind for kind in kinds)]


def test_the_files_have_one_name_each() -> None:
    assert (published.MANIFEST, published.RELEASE) == (outputs.MANIFEST, outputs.RELEASE)
    assert (published.LEDGER, published.LOG_PROOF) == (outputs.LEDGER, LOG_PROOF)
    assert published.PROBE == outputs.PROBE_ENVELOPE


# --- verdicts


@needs_registry
@pytest.mark.parametrize("closed", ["disk", "memory"])
def test_a_server_is_judged_the_same_whichever_way_its_release_came(
    place: Path, server: Server, registry: str, closed: str
) -> None:
    image, there = "images/hello/1.0.0", f"oci://{registry}/way:{closed}"
    assert run("publish", "directory", image, "public").exit_code == 0
    assert run("publish", "oci", image, there, "--plain-http").exit_code == 0
    with static_files(place / "public") as address:
        asked = ("--require-closed", closed, "--require-log", "log-policy.txt", "--no-remember")
        done = [verified(server, way, *asked) for way in (image, "public", address, there)]
    if closed == "memory":
        reasons = {(done.exception.step, done.exception.reason) for done in done}
        messages = {done.exception.message for done in done}
        assert reasons == {("P3", "channel-not-closed")}
        assert len(messages) == 1
        return
    assert [one.exit_code for one in done] == [0, 0, 0, 0], done[0].output
    steps = [[(step["id"], step["outcome"]) for step in json.loads(one.stdout)["steps"]] for one in done]
    assert steps[0] == steps[1] == steps[2] == steps[3]
    assert ("M12", "ok") in steps[0]


@needs_registry
def test_a_tag_that_is_moved_back_is_a_rollback(place: Path, server: Server, registry: str) -> None:
    there, image = f"oci://{registry}/moved:stable", place / "images" / "hello" / "2.0.0"
    write_release(image, publisher_of(LEDGER, sequence=43))
    assert run("publish", "oci", str(image), there, "--plain-http").exit_code == 0
    assert verified(server, there).exit_code == 0
    assert run("publish", "oci", "images/hello/1.0.0", there, "--plain-http").exit_code == 0
    error = verified(server, there).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("M10", "rollback")
    assert "expected sequence 43 or later, as accepted before, got 42" in error.message


@needs_registry
def test_the_image_goes_with_the_release_when_that_is_wished(place: Path, registry: str) -> None:
    words = ("publish", "oci", "images/hello/1.0.0", f"oci://{registry}/app:1.0.0", "--plain-http", "--json")
    done = run(*words, "--with-image")
    assert done.exit_code == 0, done.exception
    report = json.loads(done.stdout)
    digest = report["image"].rpartition("@")[2]
    assert report["attached"] == f"oci://{registry}/app:{digest.replace(':', '-')}"
    assert json.loads(run(*words, "--subject", digest).stdout)["publication"] == report["publication"]
    again = run("publish", "directory", report["image"], "copied")
    assert again.exit_code == 1  # the registry is asked with TLS unless told otherwise
    assert isinstance(again.exception, ChannelError)
    assert run("publish", "directory", report["image"], "copied", "--plain-http").exit_code == 0
    image = Path("images/hello/1.0.0")
    for path in Path("copied").iterdir():
        assert path.read_bytes() == (image / path.name).read_bytes()
    assert len(list(Path("copied").iterdir())) == 4
    shown = run(*words[:-1])
    assert shown.stdout.startswith(f"publication: oci://{registry}/app@sha256:")


@needs_registry
def test_an_image_that_changed_after_its_sums_is_not_pushed(place: Path, registry: str) -> None:
    (place / "images/hello/1.0.0/hello.efi").write_bytes(b"another")
    there = f"oci://{registry}/changed:1"
    done = run("publish", "oci", "images/hello/1.0.0", there, "--plain-http", "--with-image")
    assert isinstance(done.exception, BuildError)
    assert "not the file that SHA256SUMS names" in done.exception.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("images/hello/1.0.0", "registry/hello:1"), "expected oci://HOST"),
        (("images/hello/1.0.0", "oci://h/Hello:1"), "expected oci://HOST"),
        (("images/hello/1.0.0", "oci://h/hello:1", "--plain-http"), "expected TLS, got --plain-http"),
        (("images/hello/1.0.0", "oci://h/hello:1", "--subject", "x"), "--subject: expected sha256:"),
        (
            ("images/hello/1.0.0", "oci://h/x:1", "--subject", f"sha256:{'0' * 64}", "--with-image"),
            "expected --with-image or --subject, got both",
        ),
        (
            ("images/hello/1.0.0/manifest.dsse.json", "oci://h/x:1", "--with-image"),
            "--with-image: expected an image directory",
        ),
        (("images", "oci://h/x:1"), "manifest.dsse.json: not there"),
    ],
)
def test_a_push_that_cannot_work_is_wrong_usage(words: tuple[str, ...], said: str, place: Path) -> None:
    done = run("publish", "oci", *words)
    assert isinstance(done.exception, UsageError)
    assert said in done.exception.message


def test_files_of_two_releases_are_not_handed_out(place: Path) -> None:
    image = place / "images" / "hello" / "1.0.0"
    (image / "release.dsse.json").write_bytes(publisher_of(LEDGER, sequence=41).release)
    done = run("publish", "directory", str(image), "public")
    assert isinstance(done.exception, BuildError)
    assert not (place / "public").exists()


@needs_registry
@pytest.mark.bad_input(126)
def test_a_layer_that_says_it_is_huge_is_refused_unread(place: Path, server: Server, registry: str) -> None:
    files = {"manifest.dsse.json": b"x"}
    value = manifest_value(files)
    value["layers"][0]["size"] = 1 << 39
    naive_push(registry, "huge", "1", files, value)
    with refusing("expected at most 2097152 bytes, got 549755813888", ChannelError):
        raise verified(server, f"oci://{registry}/huge:1").exception or AssertionError
    assert server.connections == 0


def test_plain_http_to_another_machine_is_asked_for_by_name(place: Path, server: Server) -> None:
    words = ("verify", server.url, "--manifest", "http://192.0.2.1/hello/", "--trust", "trust.json")
    done = run(*words)
    assert isinstance(done.exception, UsageError)
    assert "expected https:// for 192.0.2.1, got http://" in done.exception.message
    assert server.connections == 0


@needs_registry
def test_a_logged_release_is_found_in_a_registry(place: Path, registry: str) -> None:
    there = f"oci://{registry}/logged:1"
    assert run("publish", "oci", "images/hello/1.0.0", there, "--plain-http").exit_code == 0
    words = ("log", "verify", there, "--policy", "log-policy.txt", "--plain-http", "--json")
    done = run(*words)
    assert done.exit_code == 0, done.exception
    assert {step["id"] for step in json.loads(done.stdout)["steps"]} >= {"M6", "M12"}
