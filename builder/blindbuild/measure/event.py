"""An event that firmware, stub or kernel will measure, with its digest in every bank asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.classification import StatedEvent

Digests = Mapping[HashAlgorithm, Digest]

_CHUNK_BYTES = 1 << 18  # what several hashers in turn still find in the processor's cache


@dataclass(frozen=True, slots=True)
class PredictedEvent:
    """One event of a register.

    Attributes:
        digests: what is extended, by bank.
        data: the event data that the log will show; None where it holds addresses or paths of the machine.
        what: a phrase for people.
    """

    register: int
    event_type: EventType
    digests: Digests
    data: bytes | None
    what: str

    def stated(self, algorithm: HashAlgorithm) -> StatedEvent:
        """Return the event as a statement lists it for one bank."""
        return StatedEvent(int(self.event_type), self.digests[algorithm], self.what)


def hash_in_banks(
    parts: Iterable[bytes | bytearray | memoryview], algorithms: Iterable[HashAlgorithm]
) -> dict[HashAlgorithm, Digest]:
    """Hash the concatenation of `parts` with every algorithm, reading each byte once and copying none.

    Raises:
        MeasureError: no algorithm is given.
    """
    hashers = {algorithm: hashlib.new(algorithm.value) for algorithm in algorithms}
    if not hashers:
        raise MeasureError("expected at least one bank to predict, got none")
    for part in parts:
        view = memoryview(part)
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            for hasher in hashers.values():
                hasher.update(chunk)
    return {algorithm: Digest(algorithm, hasher.digest()) for algorithm, hasher in hashers.items()}


def measured_event(
    register: int,
    event_type: EventType,
    measured: bytes,
    what: str,
    *,
    algorithms: Iterable[HashAlgorithm],
    data: bytes | None = None,
) -> PredictedEvent:
    """Return the event that hashes `measured`; its data is the same bytes unless given."""
    digests = hash_in_banks((measured,), algorithms)
    return PredictedEvent(register, event_type, digests, measured if data is None else data, what)
