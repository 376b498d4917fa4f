"""docs/spec/checklist.md has every line of the checklist, and what it says of steps and tests is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blindbuild.verify.checklist import LOG_TITLES, PROBE_TITLES, TITLES
from blindbuild.verify.current import CURRENT_TITLES
from blindbuild.verify.rebuilders import REBUILD_TITLES

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "spec" / "checklist.md").read_text()
LINES = {"M": 13, "P": 5, "Q": 14, "A": 11, "E": 11, "C": 9}
ROWS = re.findall(r"^\| ([MPQAEC]\d+) \| ([^|]+) \| ([^|]+) \| `([^`]+)::(test_\w+)` \|$", PAGE, re.MULTILINE)
STEPS = {*TITLES, *LOG_TITLES, *CURRENT_TITLES, *REBUILD_TITLES, *PROBE_TITLES}


def test_every_line_is_there_once_and_in_order() -> None:
    expected = [f"{group}{number}" for group, last in LINES.items() for number in range(1, last + 1)]
    assert [row[0] for row in ROWS] == expected


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_steps_of_a_line_exist(row: tuple[str, ...]) -> None:
    line, _asks, where, _path, _name = row
    named = {
        word for text in re.findall(r"steps? ([^;,:(]+)", where) for word in re.findall(r"[A-Z]\d+", text)
    }
    assert named <= STEPS, named - STEPS
    # a line without a step of its own says what does it instead
    assert line in named or line not in STEPS or "`" in where


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_the_test_of_a_line_exists(row: tuple[str, ...]) -> None:
    _line, _asks, _where, path, name = row
    source = (ROOT / "tests" / path).read_text()
    assert re.search(rf"^(?:async )?def {name}\(", source, re.MULTILINE), f"{path}: no {name}"


def test_every_step_is_in_a_line_or_is_one_that_the_papers_do_not_have() -> None:
    named = {word for row in ROWS for word in re.findall(r"[A-Z]\d+", row[2])} | {row[0] for row in ROWS}
    # M14: independent rebuilders
    assert STEPS - named == {"M14"}
