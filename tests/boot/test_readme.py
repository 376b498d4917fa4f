"""README is true: its commands run, and print what it shows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from blindbuild.cli.main import VERBS
from tests.boot.lab import ROOT, Lab

README = (ROOT / "README.md").read_text()
DEMO_TIMEOUT_S = 3000


def console_blocks() -> list[str]:
    """The console sessions of README."""
    return re.findall(r"```console\n(.*?)```", README, re.DOTALL)


def normalize(line: str) -> str:
    """A line with everything that differs from run to run made the same."""
    line = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", line)
    line = re.sub(r"\b[0-9a-f]{16,}…?", "HEX", line)
    line = re.sub(r"\b\d[\d,]*(\.\d+)?\b", "N", line)
    return re.sub(r"\s+", " ", line).strip()


def lines_of(text: str) -> list[str]:
    """The lines of a session, made comparable; an ellipsis alone stands for lines left out."""
    return [normalize(line) for line in text.splitlines() if line.strip() not in ("", "…")]


@pytest.mark.boot
def test_the_demo_prints_what_readme_shows(lab: Lab) -> None:
    done = subprocess.run(
        ["./dev", "demo", "-o", str(lab.directory / "demo")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=DEMO_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stdout
    block = next(block for block in console_blocks() if block.startswith("$ ./dev demo"))
    printed = set(lines_of(done.stdout))
    assert [line for line in lines_of(block)[1:] if line not in printed] == []
    assert len(lines_of(block)) > 15


def test_readme_shows_the_recipe_as_it_is() -> None:
    recipe = (ROOT / "recipes" / "hello" / "recipe.yaml").read_text()
    assert f"```yaml\n{recipe}```" in README


def sessions(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a block, each with the lines that are shown below it."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line.removeprefix("$ "), []))
        elif line.strip() not in ("", "…"):
            found[-1][1].append(line)
    return found


SHOWN = [
    (command, lines)
    for block in console_blocks()
    for command, lines in sessions(block)
    if command.startswith(("blindbuild measure", "blindbuild explain", "blindbuild channels")) and lines
]


@pytest.mark.boot
@pytest.mark.parametrize(("command", "lines"), SHOWN, ids=[command.split()[1] for command, _ in SHOWN])
def test_what_readme_shows_of_other_verbs_is_printed(
    lab: Lab, product: Path, command: str, lines: list[str]
) -> None:
    words = command.replace("images/hello/1.0.0", str(product)).split()[1:]
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "blindbuild", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    printed = done.stdout.splitlines() + [line.rstrip() for line in done.stderr.splitlines()]
    assert [line for line in lines if line not in printed] == []
    assert len(SHOWN) == 3


@pytest.mark.parametrize("block", [block for block in console_blocks() if "$ blindbuild" in block])
def test_every_command_in_readme_has_only_options_that_exist(block: str) -> None:
    program = ROOT / ".venv" / "bin" / "blindbuild"
    for line in re.findall(r"^\$ blindbuild (.*)$", block, re.MULTILINE):
        verb, *words = line.split()
        assert verb in VERBS
        known = subprocess.run([program, verb, "--help"], capture_output=True, text=True, check=True).stdout
        for option in (word for word in words if word.startswith("-")):
            assert option in known, line


def test_every_link_in_readme_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_second_command_is_what_ci_runs() -> None:
    assert "$ ./dev test" in README
    assert Path(ROOT / ".ci" / "run").read_text().rstrip().endswith("exec ./dev test")
