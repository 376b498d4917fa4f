"""Alignment of two event sequences: which events stayed, changed, went or came.

A single inserted event must be told as that one event, and not as a difference of all that follow.

Source: Needleman and Wunsch, "A general method applicable to the search for similarities", 1970.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from blindbuild.verify.explain_event import Seen

MAX_CELLS = 1 << 18  # of the table; 512 events against 512, far more than a register has; bounds the work
_GAP, _CHANGED, _RELATED, _UNRELATED = 10, 10, 16, 30  # a pair of one kind costs less than two gaps


class Change(Enum):
    """What became of an event."""

    SAME = "same"
    CHANGED = "changed"
    MISSING = "missing"
    ADDED = "added"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the comparison; exactly one side is None when an event went or came."""

    change: Change
    expected: Seen | None
    got: Seen | None

    @property
    def event(self) -> Seen:
        """The event there is: the one that was measured, or else the one that was expected."""
        event = self.got or self.expected
        if event is None:
            raise ValueError("a step has at least one event")
        return event


def align(expected: Sequence[Seen], got: Sequence[Seen]) -> tuple[Step, ...]:
    """Return the steps that lead from one sequence to the other, in order."""
    start = _common(expected, got)
    end = _common(expected[start:][::-1], got[start:][::-1])
    stop_expected, stop_got = len(expected) - end, len(got) - end
    middle = _align_middle(expected[start:stop_expected], got[start:stop_got])
    return (
        *_same(expected[:start], got[:start]),
        *middle,
        *_same(expected[stop_expected:], got[stop_got:]),
    )


def _common(expected: Sequence[Seen], got: Sequence[Seen]) -> int:
    count = 0
    for one, other in zip(expected, got, strict=False):
        if one.digest != other.digest:
            break
        count += 1
    return count


def _same(expected: Sequence[Seen], got: Sequence[Seen]) -> list[Step]:
    return [Step(Change.SAME, one, other) for one, other in zip(expected, got, strict=True)]


def _cost(expected: Seen, got: Seen) -> int:
    if expected.digest == got.digest:
        return 0
    if expected.slot == got.slot:
        return _CHANGED
    return _RELATED if expected.slot.kind is got.slot.kind and not _named(expected) else _UNRELATED


def _named(event: Seen) -> bool:
    """Return whether two events of this kind with other names are two things, not one thing changed."""
    return bool(event.slot.name)


def _align_middle(expected: Sequence[Seen], got: Sequence[Seen]) -> list[Step]:
    if len(expected) * len(got) > MAX_CELLS:
        went = [Step(Change.MISSING, event, None) for event in expected]
        return went + [Step(Change.ADDED, None, event) for event in got]
    table = _table(expected, got)
    steps: list[Step] = []
    i, j = len(expected), len(got)
    while i or j:
        # of equally short ways the one that keeps early events together: an image before its kernel
        if i and j and expected[i - 1].digest == got[j - 1].digest and table[i][j] == table[i - 1][j - 1]:
            i, j = i - 1, j - 1
            steps.append(Step(Change.SAME, expected[i], got[j]))
        elif i and table[i][j] == table[i - 1][j] + _GAP:
            i -= 1
            steps.append(Step(Change.MISSING, expected[i], None))
        elif j and table[i][j] == table[i][j - 1] + _GAP:
            j -= 1
            steps.append(Step(Change.ADDED, None, got[j]))
        else:
            i, j = i - 1, j - 1
            steps.append(Step(Change.CHANGED, expected[i], got[j]))
    return steps[::-1]


def _table(expected: Sequence[Seen], got: Sequence[Seen]) -> list[list[int]]:
    """Return the least cost of aligning the first i events with the first j."""
    table = [[j * _GAP for j in range(len(got) + 1)]]
    for i, one in enumerate(expected, 1):
        above, row = table[-1], [i * _GAP]
        for j, other in enumerate(got, 1):
            row.append(min(above[j - 1] + _cost(one, other), above[j] + _GAP, row[j - 1] + _GAP))
        table.append(row)
    return table
