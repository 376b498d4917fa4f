"""Whose releases are in a log: told from its entries, which must lead to the signed root."""

from __future__ import annotations

import hashlib

import pytest

from blindbuild.digest import Digest
from blindbuild.formats.checkpoint import Checkpoint
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.tlog_monitor import MAX_ENTRIES, MONITOR_TITLES, MonitorReport, judge_entries
from tests.fakes import naive_log
from tests.fakes.log_world import ORIGIN, others


def mine(number: int, **changes) -> bytes:
    return naive_log.entry(
        b"envelope %d" % number, b"statement %d" % number, **{"sequence": number, **changes}
    )


KNOWN = {Digest.sha256(b"envelope %d" % number) for number in (1, 2)}
ENTRIES = [mine(1), *others(3), mine(2)]


def report(
    entries: list[bytes], head: list[bytes] | None = None, known=KNOWN
) -> tuple[Checklist, MonitorReport | None]:
    signed = entries if head is None else head
    steps = Checklist(MONITOR_TITLES)
    steps.run("M12", lambda: (None, ""))
    checkpoint = Checkpoint(ORIGIN, len(signed), naive_log.mth(signed))
    return steps, judge_entries(steps, iter(entries), checkpoint, product="hello", known=known)


def reasons(steps: Checklist) -> list[str]:
    return [f"{step.id}:{step.reason}" for step in steps.failed()]


def test_a_log_with_ones_own_releases_only_is_quiet() -> None:
    steps, found = report(ENTRIES)
    assert reasons(steps) == []
    assert found is not None
    assert [placed.index for placed in found.releases] == [0, 4]
    assert (found.size, found.strangers, found.unreadable) == (5, (), ())


def test_statements_are_known_as_well_as_envelopes() -> None:
    known = {Digest.sha256(b"statement 1"), Digest.sha256(b"envelope 2")}
    assert reasons(report(ENTRIES, known=known)[0]) == []
    assert reasons(report(ENTRIES, known=set())[0]) == ["L2:unknown-release"]


@pytest.mark.parametrize(
    "stranger",
    [
        mine(3),
        mine(3, channel="beta"),
        mine(9, sequence=1, channel="other"),
        mine(1, envelopeSha256="0" * 64, statementSha256="1" * 64, channel="beta"),
    ],
)
def test_a_release_that_is_on_no_list_is_told(stranger: bytes) -> None:
    steps, found = report([*ENTRIES, stranger])
    assert reasons(steps) == ["L2:unknown-release"]
    assert found is not None
    assert [placed.index for placed in found.strangers] == [5]
    (failed,) = steps.failed()
    assert "entry 5: hello" in failed.detail


def test_two_statements_of_one_sequence_are_told_even_when_both_are_known() -> None:
    second = mine(7, sequence=2)
    known = {*KNOWN, Digest.sha256(b"envelope 7")}
    steps, _found = report([*ENTRIES, second], known=known)
    assert reasons(steps) == ["L3:equivocation"]
    assert "stable sequence 2, got two: entry 4" in steps.failed()[0].detail
    # on another channel it is another line of releases
    assert reasons(report([*ENTRIES, mine(7, sequence=2, channel="beta")], known=known)[0]) == []


def test_entries_that_are_not_those_that_were_signed_are_refused() -> None:
    for shown in (ENTRIES[:-1], [*ENTRIES, mine(1)], ENTRIES[::-1], [], [*ENTRIES[:-1], mine(1)]):
        steps, found = report(shown, ENTRIES)
        assert reasons(steps) == ["L1:entries-differ"]
        assert found is None
        assert not steps.passed("L2")


def test_a_log_that_is_too_large_is_not_read() -> None:
    steps = Checklist(MONITOR_TITLES)
    steps.run("M12", lambda: (None, ""))
    huge = Checkpoint(ORIGIN, MAX_ENTRIES + 1, bytes(32))
    judge_entries(steps, iter(()), huge, product="hello", known=KNOWN)
    assert reasons(steps) == ["L1:log-too-large"]


def test_what_is_no_entry_is_counted() -> None:
    junk = [b"", b"{}", mine(1)[:-1], mine(1, v=2), mine(1).replace(b'"v":1', b'"v": 1'), bytes(65535)]
    steps, found = report([*ENTRIES, *junk])
    assert reasons(steps) == []
    assert found is not None
    assert found.unreadable == tuple(range(5, 11))
    assert steps.warnings == ("6 entries of the log are none of ours; no client accepts them",)


def test_nothing_is_judged_below_a_refused_checkpoint() -> None:
    steps = Checklist(MONITOR_TITLES)
    checkpoint = Checkpoint(ORIGIN, 5, hashlib.sha256(b"").digest())
    assert judge_entries(steps, iter(ENTRIES), checkpoint, product="hello", known=KNOWN) is None
    assert not steps.passed("L1")
