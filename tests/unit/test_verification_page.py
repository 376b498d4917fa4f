"""docs/spec/verification.md lists the steps that are run, in the order in which they are run."""

from __future__ import annotations

import re
from pathlib import Path

from blindbuild.verify import CHANNEL_GROUPS
from blindbuild.verify.checklist import TITLES
from tests.fakes.world import judge, session

PAGE = Path(__file__).resolve().parents[2] / "docs" / "spec" / "verification.md"


def test_the_page_lists_every_step_in_order() -> None:
    listed = re.findall(r"^\| ([A-Z]\d+)(?: \*certified\*)? \|", PAGE.read_text(), re.MULTILINE)
    assert listed == [step.id for step in judge(session()).steps]
    assert listed == list(TITLES)


def test_the_page_lists_the_groups_of_channels() -> None:
    listed = re.findall(r"^\| `(\w+)` \| (`[^|]+`) \|$", PAGE.read_text(), re.MULTILINE)
    assert {group: tuple(re.findall(r"`([^`]+)`", ids)) for group, ids in listed} == CHANNEL_GROUPS
