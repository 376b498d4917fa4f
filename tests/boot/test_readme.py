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
