"""Records of TCG event logs, as TPM logs and logs of confidential guests share them.

Source: TCG PC Client Platform Firmware Profile 1.06 (PFP), 10.2.1 (TCG_PCR_EVENT), 10.2.2 (TCG_PCR_EVENT2),
10.4.5.1 (Spec ID event).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError, FormatError
from blindbuild.formats.tcgevent import EventType

MAX_EVENT_BYTES = 1 << 18  # a dbx is tens of KiB, a GPT 16 KiB; bounds one copy

SPEC_ID_PREFIX = b"Spec ID Event"
SPEC_ID_CRYPTO_AGILE = b"Spec ID Event03\0"


@dataclass(frozen=True, slots=True)
class LogEvent:
    """One record; `event_type` is a number because a log may name types that no specification knows.

    `digests` keeps the order of the record: it is written back in that order.
    """

    register: int
    event_type: int
    digests: Mapping[HashAlgorithm, Digest]
    data: bytes


@dataclass(frozen=True, slots=True)
class SpecId:
    """TCG_EfiSpecIdEvent without its algorithm list (PFP 10.4.5.1)."""

    platform_class: int = 0
    version_minor: int = 0
    version_major: int = 2
    errata: int = 0
    uintn_size: int = 2
    vendor: bytes = b""


class Reader:
    """Little-endian reads that never run past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def take(self, size: int, field: str) -> bytes:
        """Return exactly `size` bytes; EventLogError if there are fewer."""
        left = len(self._data) - self.offset
        if size > left:
            raise EventLogError(
                f"{self._what} at offset {self.offset}: expected {size} bytes for {field}, got {left}"
            )
        start, self.offset = self.offset, self.offset + size
        return self._data[start : self.offset]

    def integer(self, size: int, field: str) -> int:
        """Return an unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size, field), "little")

    def at_end(self) -> bool:
        """Return whether all was read."""
        return self.offset == len(self._data)


def read_sha1_event(reader: Reader) -> LogEvent:
    """Read a TCG_PCR_EVENT; EventLogError if it is cut off or too large."""
    register = reader.integer(4, "the register")
    event_type = reader.integer(4, "the event type")
    digest = Digest(HashAlgorithm.SHA1, reader.take(HashAlgorithm.SHA1.size, "a sha1 digest"))
    return LogEvent(register, event_type, {HashAlgorithm.SHA1: digest}, _read_event_data(reader))


def read_event(reader: Reader, algorithms: tuple[HashAlgorithm, ...]) -> LogEvent:
    """Read a TCG_PCR_EVENT2.

    Raises:
        EventLogError: cut off, too large, or not one digest for each of the algorithms.
    """
    start = reader.offset
    register = reader.integer(4, "the register")
    event_type = reader.integer(4, "the event type")
    count = reader.integer(4, "the number of digests")
    if count != len(algorithms):
        raise EventLogError(
            f"event at offset {start}: expected {len(algorithms)} digests, as in the Spec ID event, "
            f"got {count}"
        )
    digests: dict[HashAlgorithm, Digest] = {}
    for _ in range(count):
        algorithm = _algorithm(reader.integer(2, "a digest's algorithm"))
        if algorithm not in algorithms or algorithm in digests:
            raise EventLogError(
                f"event at offset {start}: expected one digest for each algorithm of the Spec ID event, "
                f"got {'a second' if algorithm in digests else 'also a'} {algorithm.value}"
            )
        digests[algorithm] = Digest(algorithm, reader.take(algorithm.size, f"a {algorithm.value} digest"))
    return LogEvent(register, event_type, digests, _read_event_data(reader))


def _read_event_data(reader: Reader) -> bytes:
    size = reader.integer(4, "the event size")
    if size > MAX_EVENT_BYTES:
        raise EventLogError(
            f"event log at offset {reader.offset}: expected at most {MAX_EVENT_BYTES} bytes of event data, "
            f"got {size}"
        )
    return reader.take(size, "the event data")


def _algorithm(tpm_id: int) -> HashAlgorithm:
    try:
        return HashAlgorithm.from_tpm_id(tpm_id)
    except FormatError as error:
        raise EventLogError(f"event log: {error.message}") from error


def parse_spec_id(event: LogEvent, *, register: int = 0) -> tuple[SpecId, tuple[HashAlgorithm, ...]]:
    """Parse the event that starts a crypto-agile log.

    Args:
        event: it, as a TCG_PCR_EVENT.
        register: the one it must name.

    Raises:
        EventLogError: anything that PFP 10.4.5.1 does not allow, or an algorithm that is not known here.
    """
    if event.register != register or any(event.digests[HashAlgorithm.SHA1].value):
        raise EventLogError(f"spec id event: expected register {register} and a zero digest")
    reader = Reader(event.data, "spec id event")
    reader.take(len(SPEC_ID_CRYPTO_AGILE), "the signature")
    platform_class = reader.integer(4, "the platform class")
    minor, major, errata, uintn_size = reader.take(4, "the version and the size of UINTN")
    algorithms: list[HashAlgorithm] = []
    for _ in range(reader.integer(4, "the number of algorithms")):
        algorithm = _algorithm(reader.integer(2, "an algorithm"))
        size = reader.integer(2, "a digest size")
        if size != algorithm.size or algorithm in algorithms:
            raise EventLogError(
                f"spec id event: expected {algorithm.value} once, with {algorithm.size} bytes, "
                f"got {size} bytes{' a second time' if algorithm in algorithms else ''}"
            )
        algorithms.append(algorithm)
    if not algorithms:
        raise EventLogError("spec id event: expected at least one algorithm, got none")
    vendor = reader.take(reader.integer(1, "the size of the vendor information"), "the vendor information")
    if not reader.at_end():
        raise EventLogError(f"spec id event: {len(event.data) - reader.offset} bytes are left over")
    return SpecId(platform_class, minor, major, errata, uintn_size, vendor), tuple(algorithms)


def spec_id_data(spec: SpecId, algorithms: tuple[HashAlgorithm, ...]) -> bytes:
    """Return TCG_EfiSpecIdEvent; EventLogError for a value that does not fit."""
    if not algorithms or len(set(algorithms)) != len(algorithms):
        raise EventLogError("spec id event: expected at least one algorithm, each of them once")
    try:
        version = bytes((spec.version_minor, spec.version_major, spec.errata, spec.uintn_size))
        head = struct.pack("<I4sI", spec.platform_class, version, len(algorithms))
        vendor = bytes((len(spec.vendor),)) + spec.vendor
    except (ValueError, struct.error) as error:
        raise EventLogError("spec id event: a value does not fit its field") from error
    sizes = b"".join(struct.pack("<HH", algorithm.tpm_id, algorithm.size) for algorithm in algorithms)
    return SPEC_ID_CRYPTO_AGILE + head + sizes + vendor


def spec_id_record(spec: SpecId, algorithms: tuple[HashAlgorithm, ...], *, register: int = 0) -> bytes:
    """Return the record that starts a crypto-agile log; EventLogError for a value that does not fit."""
    data = spec_id_data(spec, algorithms)
    return struct.pack("<II20sI", register, EventType.EV_NO_ACTION, b"", len(data)) + data


def event_record(event: LogEvent, *, crypto_agile: bool) -> bytes:
    """Return the record of one event, in the one format or the other."""
    if crypto_agile:
        digests = struct.pack("<I", len(event.digests)) + b"".join(
            struct.pack("<H", algorithm.tpm_id) + digest.value for algorithm, digest in event.digests.items()
        )
    else:
        digests = event.digests[HashAlgorithm.SHA1].value
    head = struct.pack("<II", event.register, event.event_type)
    return head + digests + struct.pack("<I", len(event.data)) + event.data


def check_event(
    index: int,
    event: LogEvent,
    algorithms: Collection[HashAlgorithm],
    *,
    registers: int,
    allow_spec_id: bool = False,
) -> None:
    """Check an event that is to be written.

    Args:
        index: its number, for messages.
        event: the event.
        algorithms: the banks of the log; the event must have a digest for each.
        registers: how many registers there are.
        allow_spec_id: the event may be a Spec ID event, as at the start of an old log.

    Raises:
        EventLogError: a value that no log can hold.
    """
    where = f"event {index}"
    if not 0 <= event.register < registers:
        raise EventLogError(f"{where}: expected a register up to {registers - 1}, got {event.register}")
    if not 0 <= event.event_type <= 0xFFFFFFFF or len(event.data) > MAX_EVENT_BYTES:
        raise EventLogError(f"{where}: the event type or the size of the event data is out of range")
    if set(event.digests) != set(algorithms) or any(
        digest.algorithm is not algorithm for algorithm, digest in event.digests.items()
    ):
        raise EventLogError(f"{where}: expected one digest for each algorithm of the log")
    if event.event_type == EventType.EV_NO_ACTION:
        _check_no_action(where, event, allow_spec_id=allow_spec_id)


def _check_no_action(where: str, event: LogEvent, *, allow_spec_id: bool) -> None:
    # PFP 10.4.5: the digests of an EV_NO_ACTION are zero; it is never extended.
    if any(any(digest.value) for digest in event.digests.values()):
        raise EventLogError(f"{where}: expected zero digests of an EV_NO_ACTION")
    if event.data.startswith(SPEC_ID_PREFIX) and not allow_spec_id:
        raise EventLogError(f"{where}: a Spec ID event that is not the first event")
