"""One process that verifies all day: nothing is kept of a session but what the client shall remember."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.client import StateStore
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import VerificationError
from blindbuild.verify import Appraisal, RecordedSession, appraise
from tests.fakes.published import NOW
from tests.fakes.world import TEST_POLICY, pinned_trust, publisher, session, with_evidence

SAMPLE = 2_000
MANY = 100_000
WARM_UP = 300  # until caches of the interpreter and of libraries are what they will be
REMEMBERED_EACH = 50  # sessions: recording waits for the disk, and a client records once a connection
GROWTH_BYTES = (
    4 << 20
)  # resident: 2 KiB for each of 2,000 sessions would be seen, 40 bytes for each of 100,000
TRACED = 100
TRACED_BYTES = 32 << 10  # of Python's objects, over TRACED sessions: 330 bytes for each would be seen


def resident_bytes() -> int:
    """What this process has in memory now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def open_descriptors() -> int:
    """How many descriptors are open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def damaged(honest: RecordedSession) -> Iterator[RecordedSession]:
    """Sessions that are each refused for another reason, without end."""
    wrong = Digest(HashAlgorithm.SHA256, b"\x01" * 32)
    number = 0
    while True:
        number += 1
        quote, log = honest.evidence.quote, honest.evidence.event_log
        flip, cut = number % len(quote), number % len(log)
        yield with_evidence(honest, quote=quote[:flip] + bytes([quote[flip] ^ 1]) + quote[flip + 1 :])
        yield with_evidence(honest, event_log=log[:cut])
        yield with_evidence(honest, registers=(wrong, *honest.evidence.registers[1:]))
        yield replace(honest, nonce=number.to_bytes(32, "big"))


def verifying(store: StateStore) -> Callable[[int], None]:
    """Return what verifies so many sessions, every second one a bad one, and remembers as a client does."""
    published, trust, honest = publisher(), pinned_trust(), session()
    envelope, release = published.envelope, published.release
    bad = damaged(honest)

    def judge(judged: RecordedSession) -> Appraisal:
        history = store.read(trust.domain) if judged is honest else None
        return appraise(
            judged,
            envelope=envelope,
            release=release,
            trust=trust,
            now=NOW,
            policy=TEST_POLICY,
            history=history,
        )

    def verify(count: int) -> None:
        for number in range(count // 2):
            accepted = judge(honest).accepted()
            if number % REMEMBERED_EACH == 0:
                store.record(trust.domain, accepted.history)
            with pytest.raises(VerificationError):
                judge(next(bad)).accepted()

    return verify


def check_no_growth(store: StateStore, count: int) -> None:
    """Verify `count` sessions; memory, descriptors and the state's files stay what they were."""
    verify = verifying(store)
    verify(WARM_UP)
    descriptors, files = open_descriptors(), state_files(store)
    before = resident_bytes()
    for _ in range(10):
        verify(count // 10)
        assert resident_bytes() - before < GROWTH_BYTES
    assert open_descriptors() == descriptors
    assert state_files(store) == files


def state_files(store: StateStore) -> dict[str, int]:
    """Name and size of what the client remembers."""
    return {path.name: path.stat().st_size for path in store.root.iterdir()}


def test_two_thousand_verifications_grow_nothing(tmp_path: Path) -> None:
    check_no_growth(StateStore(tmp_path), SAMPLE)


@pytest.mark.full
def test_a_hundred_thousand_verifications_grow_nothing(tmp_path: Path) -> None:
    check_no_growth(StateStore(tmp_path), MANY)


def traced_growth(work: Callable[[], object]) -> int:
    """Bytes of Python's objects that are there after the work and were not before.

    It is done once before: the interpreter keeps some freed objects for their next use.
    """
    tracemalloc.start()
    try:
        work()
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_no_object_of_a_session_outlives_it(tmp_path: Path) -> None:
    verify = verifying(StateStore(tmp_path))
    assert traced_growth(lambda: verify(TRACED)) < TRACED_BYTES


def test_what_would_be_kept_of_each_session_is_seen(tmp_path: Path) -> None:
    """The control: the same measurement where a secret, its digest and a list of each session are kept."""
    verify = verifying(StateStore(tmp_path))
    kept: list[list[bytes]] = []

    def leaking() -> None:
        verify(2)
        kept.extend([os.urandom(32) for _ in range(4)] for _ in range(TRACED))

    assert traced_growth(leaking) >= TRACED_BYTES
