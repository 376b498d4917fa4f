"""From events to the value of a register in one bank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.measure.classification import Exact, OneOf, initial_value
from blindbuild.measure.event import PredictedEvent


def extend_all(register: int, events: Iterable[PredictedEvent], algorithm: HashAlgorithm) -> Digest:
    """Return the register's value after these events, from power-on.

    Raises:
        MeasureError: an event belongs to another register.

    Source: TPM 2.0 Library Part 3, 22.2 (TPM2_PCR_Extend).
    """
    value = initial_value(register, algorithm)
    for event in events:
        if event.register != register:
            raise MeasureError(f"expected events of register {register}, got one of {event.register}")
        value = value.extend(event.digests[algorithm])
    return value


def exact(register: int, events: Sequence[PredictedEvent], algorithm: HashAlgorithm) -> Exact:
    """Classify a register as exact; a register without events would be `Initial`, so that is an error."""
    if not events:
        raise MeasureError(f"register {register}: expected at least one event, got none")
    stated = tuple(event.stated(algorithm) for event in events)
    return Exact(extend_all(register, events, algorithm), stated)


def one_of(values: Iterable[Digest], *, why: str) -> OneOf:
    """Classify a register as one of these values: sorted, each once.

    Raises:
        MeasureError: there is no value, so that nothing could ever match.
    """
    ordered = tuple(sorted(set(values), key=lambda digest: digest.value))
    if not ordered:
        raise MeasureError("expected at least one value to choose from, got none")
    return OneOf(ordered, why)
