"""The expected events of a register whose statement has only values: found by trying, proven by the hash.

A sequence of events that leads to a stated value is the one that was meant, since no other can be found. So
the likely ones are tried: without one of the logged events, and the known ways to leave boot services.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.classification import StatedEvent, initial_value
from blindbuild.measure.pcr05 import EXIT_FAILURE, EXIT_INVOCATION, EXIT_SUCCESS
from blindbuild.verify.explain_event import Kind, Seen, stated_events

_MAX_LOGGED = 64  # events of a register that are tried without; real registers have fewer than 40
_DISK_REGISTER = 5
_EXITS = (
    (EXIT_INVOCATION, EXIT_SUCCESS),
    # before and since edk2-stable202411
    (EXIT_FAILURE, EXIT_INVOCATION, EXIT_SUCCESS),
    (EXIT_INVOCATION, EXIT_FAILURE, EXIT_INVOCATION, EXIT_SUCCESS),
)


def reconstruct(register: int, values: Sequence[Digest], got: Sequence[Seen]) -> tuple[Seen, ...] | None:
    """Return the events that lead to one of the values, or None if none of the likely ones does.

    Args:
        register: the register.
        values: what the statement allows; at least one.
        got: the logged events.
    """
    algorithm = values[0].algorithm
    for candidate in _candidates(register, got, algorithm):
        value = initial_value(register, algorithm)
        for event in candidate:
            value = value.extend(event.digest)
        if value in values:
            return candidate
    return None


def _candidates(register: int, got: Sequence[Seen], algorithm: HashAlgorithm) -> Iterator[tuple[Seen, ...]]:
    if len(got) <= _MAX_LOGGED:
        yield tuple(got)
        for index in range(len(got)):
            yield (*got[:index], *got[index + 1 :])
    if register == _DISK_REGISTER:
        tables = [event for event in got if event.slot.kind is Kind.PARTITIONS][:1]
        for exits in _EXITS:
            for table in ([], tables):
                yield (*_separator(algorithm), *table, *_actions(exits, algorithm))


def _separator(algorithm: HashAlgorithm) -> tuple[Seen, ...]:
    digest = Digest.of(algorithm, bytes(4))
    return stated_events(_DISK_REGISTER, (StatedEvent(EventType.EV_SEPARATOR, digest, "separator"),))


def _actions(texts: Sequence[bytes], algorithm: HashAlgorithm) -> tuple[Seen, ...]:
    events = [
        StatedEvent(EventType.EV_EFI_ACTION, Digest.of(algorithm, text), text.decode("ascii"))
        for text in texts
    ]
    return stated_events(_DISK_REGISTER, events)
