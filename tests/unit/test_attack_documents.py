"""docs/attacks.md and the tables of platforms say of every attack what the code says.

To write docs/attacks.md anew, every attack is played: `.venv/bin/python -m tests.boot.attacks`.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blindbuild.cli.attacking import outcome_text
from blindbuild.machine.attack import ATTACKS, NOT_PLAYED
from blindbuild.machine.attack_model import Attack, Outcome, Seen
from tests.boot.attacks import BEGIN, END, HEAD, PAGE

DOCS = Path(__file__).resolve().parents[2] / "docs"
SUCCEED = {name for name, attack in ATTACKS.items() if attack.outcome is Outcome.SUCCEEDS}
UPDATE = "run .venv/bin/python -m tests.boot.attacks, which plays every attack"
_SEEN = re.compile(r"(?P<outcome>[a-z ]+)(, PCR (?P<registers>[0-9, ]+))?( \((?P<reasons>[^)]+)\))?")


def rows_of(text: str) -> list[list[str]]:
    """The cells of each line of a table, without head and rule."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]  # the rule is `|---|`
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[1:]]


def page_rows() -> list[list[str]]:
    generated = PAGE.read_text().split(BEGIN)[1].split(END)[0]
    assert f"| {' | '.join(HEAD)} |" in generated, UPDATE
    return rows_of(generated)


def read_seen(text: str) -> Seen:
    """What a cell of the table says was seen."""
    found = _SEEN.fullmatch(text)
    assert found is not None, text
    outcome = next(outcome for outcome in Outcome if outcome.value == found["outcome"])
    registers = frozenset(int(number) for number in (found["registers"] or "").replace(",", " ").split())
    return Seen(outcome, "", registers, frozenset((found["reasons"] or "").replace(",", " ").split()))


def test_the_page_has_every_attack_in_order() -> None:
    assert [row[0] for row in page_rows()] == [f"`{name}`" for name in ATTACKS], UPDATE


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_the_page_says_of_an_attack_what_the_code_says_and_that_it_was_seen(attack: Attack) -> None:
    (row,) = (row for row in page_rows() if row[0] == f"`{attack.name}`")
    assert row[1:3] == [attack.summary, outcome_text(attack)], UPDATE
    assert attack.expects(read_seen(row[3])), f"{row[3]}: not what must be; {UPDATE}"


def test_the_page_says_when_and_on_what_it_was_made_and_what_is_not_played() -> None:
    text = PAGE.read_text().split(BEGIN)[1]
    found = re.match(
        r"20\d\d-\d\d-\d\d, commit [0-9a-f]{10}, QEMU [0-9.]+ \((tcg|kvm)\): (\d+) of (\d+) ", text
    )
    assert found is not None, UPDATE
    assert found[2] == found[3] == str(len(ATTACKS))
    assert all(f"* {name}: " in text for name in NOT_PLAYED)


def test_the_table_of_platforms_has_the_attacks_that_succeed_here_and_no_other() -> None:
    text = (DOCS / "platforms" / "README.md").read_text()
    section = text.split("## Attacks that succeed on QEMU with a software TPM")[1].split("\n## ")[0]
    rows = rows_of(section)
    assert {row[0].split("`")[1] for row in rows} == SUCCEED
    assert all(row[1] == "succeeds (seen)" for row in rows)


def test_the_threat_model_names_the_attacks_that_succeed_here_and_no_other() -> None:
    text = (DOCS / "THREAT-MODEL.md").read_text()
    sentence = text.split("On QEMU with a software TPM these succeed")[1].split(". All others")[0]
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == SUCCEED
