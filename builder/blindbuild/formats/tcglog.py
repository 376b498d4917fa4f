"""TCG event logs: strict parser, writer, and replay into register values.

A log is a claim. `parse_event_log` gives an `UnverifiedLog`; `replay` computes the register values that it
stands for; only the comparison with quoted values makes its digests evidence, and even then an event's
data is evidence only where its digest covers it (`data_mismatches`).

Sources: TCG PC Client Platform Firmware Profile 1.06 (PFP), 10.2 structures and 10.4.5 EV_NO_ACTION; TCG EFI
Platform Specification 1.22, 7.2 for the SHA-1 format.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError, FormatError
from blindbuild.formats.tcgevent import EventType, event_type_name, measured_bytes

__all__ = [
    "DataMismatch",
    "EventType",
    "LogEvent",
    "ReplayedLog",
    "SpecId",
    "UnverifiedLog",
    "data_mismatches",
    "parse_event_log",
    "replay",
    "write_event_log",
]

MAX_LOG_BYTES = 1 << 20  # the largest real log seen has 49 KiB; firmware reserves 64 KiB by default
MAX_EVENTS = 4096  # real logs have fewer than 200; bounds the work of a replay
MAX_EVENT_BYTES = 1 << 18  # a dbx is tens of KiB, a GPT 16 KiB; bounds one copy
REGISTER_COUNT = 24  # TCG PC Client Platform TPM Profile 1.05, 3.6

_SPEC_ID_PREFIX = b"Spec ID Event"
_SPEC_ID_CRYPTO_AGILE = b"Spec ID Event03\0"
_STARTUP_LOCALITY = b"StartupLocality\0"
_STARTUP_LOCALITIES = frozenset({0, 3, 4})  # PFP 10.4.5.3: _TPM_Init, TPM2_Startup from 3, H-CRTM from 4
_RESET_TO_ONES = range(17, 23)  # PC Client TPM Profile 1.05, 3.6: dynamic-launch registers


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


@dataclass(frozen=True, slots=True)
class UnverifiedLog:
    """A well-formed log; nothing in it is known to be true.

    Attributes:
        algorithms: the banks that every event has a digest for.
        events: in log order, without the leading Spec ID event of the crypto-agile format.
        spec: that event; None for a log in the SHA-1 format of TPM 1.2.
    """

    algorithms: tuple[HashAlgorithm, ...]
    events: tuple[LogEvent, ...]
    spec: SpecId | None


@dataclass(frozen=True, slots=True)
class ReplayedLog:
    """What a log amounts to in one bank; nothing of it is known to be true before a quote says so.

    Attributes:
        values: the 24 register values, by number.
        touched: the registers that at least one event extended.
        startup_locality: 0, 3 or 4; where PCR 0 started from.
        events: the events that were extended, in order.
    """

    algorithm: HashAlgorithm
    values: tuple[Digest, ...]
    touched: frozenset[int]
    startup_locality: int
    events: tuple[LogEvent, ...]

    def events_of(self, register: int) -> tuple[LogEvent, ...]:
        """Return the events that extended this register, in order."""
        return tuple(event for event in self.events if event.register == register)


@dataclass(frozen=True, slots=True)
class DataMismatch:
    """An event whose data should be what was hashed, and is not; `index` counts `UnverifiedLog.events`."""

    index: int
    event: LogEvent
    reason: str


class _Reader:
    """Little-endian reads that never run past the end."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self.offset = 0

    def take(self, size: int, field: str) -> bytes:
        left = len(self._data) - self.offset
        if size > left:
            raise EventLogError(
                f"{self._what} at offset {self.offset}: expected {size} bytes for {field}, got {left}"
            )
        start, self.offset = self.offset, self.offset + size
        return self._data[start : self.offset]

    def integer(self, size: int, field: str) -> int:
        return int.from_bytes(self.take(size, field), "little")

    def at_end(self) -> bool:
        return self.offset == len(self._data)


def parse_event_log(data: bytes) -> UnverifiedLog:
    """Parse a crypto-agile log, or one in the SHA-1 format of TPM 1.2.

    Args:
        data: the whole log, such as the content of Linux' `binary_bios_measurements`.

    Raises:
        EventLogError: anything that the specification does not allow, or more than the limits.

    Source: PFP 10.2.1 (TCG_PCR_EVENT), 10.2.2 (TCG_PCR_EVENT2), 10.4.5.1 (Spec ID event).
    """
    if len(data) > MAX_LOG_BYTES:
        raise EventLogError(f"event log: expected at most {MAX_LOG_BYTES} bytes, got {len(data)}")
    reader = _Reader(data, "event log")
    first = _read_sha1_event(reader)
    if first.event_type == EventType.EV_NO_ACTION and first.data.startswith(_SPEC_ID_CRYPTO_AGILE):
        spec, algorithms = _parse_spec_id(first)
        log = UnverifiedLog(algorithms, _read_events(reader, algorithms), spec)
    else:
        log = UnverifiedLog((HashAlgorithm.SHA1,), (first, *_read_events(reader, None)), None)
    if write_event_log(log) != data:
        raise EventLogError("event log: what was parsed does not write back to the same bytes")
    return log


def _read_events(reader: _Reader, algorithms: tuple[HashAlgorithm, ...] | None) -> tuple[LogEvent, ...]:
    events: list[LogEvent] = []
    while not reader.at_end():
        if len(events) == MAX_EVENTS:
            raise EventLogError(f"event log: expected at most {MAX_EVENTS} events")
        events.append(_read_sha1_event(reader) if algorithms is None else _read_event(reader, algorithms))
    return tuple(events)


def _read_sha1_event(reader: _Reader) -> LogEvent:
    register = reader.integer(4, "the register")
    event_type = reader.integer(4, "the event type")
    digest = Digest(HashAlgorithm.SHA1, reader.take(HashAlgorithm.SHA1.size, "a sha1 digest"))
    return LogEvent(register, event_type, {HashAlgorithm.SHA1: digest}, _read_event_data(reader))


def _read_event(reader: _Reader, algorithms: tuple[HashAlgorithm, ...]) -> LogEvent:
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


def _read_event_data(reader: _Reader) -> bytes:
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


def _parse_spec_id(event: LogEvent) -> tuple[SpecId, tuple[HashAlgorithm, ...]]:
    if event.register != 0 or any(event.digests[HashAlgorithm.SHA1].value):
        raise EventLogError("spec id event: expected register 0 and a zero digest")
    reader = _Reader(event.data, "spec id event")
    reader.take(len(_SPEC_ID_CRYPTO_AGILE), "the signature")
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


def write_event_log(log: UnverifiedLog) -> bytes:
    """Return the log's bytes; the inverse of `parse_event_log`.

    Raises:
        EventLogError: a value that no log can hold, so that what is written can always be parsed.
    """
    if not log.events or len(log.events) > MAX_EVENTS:
        raise EventLogError(f"event log: expected 1 to {MAX_EVENTS} events, got {len(log.events)}")
    parts = [] if log.spec is None else [_spec_id_record(log.spec, log.algorithms)]
    for index, event in enumerate(log.events):
        _check_event(index, event, log)
        parts.append(_record(event, crypto_agile=log.spec is not None))
    data = b"".join(parts)
    if len(data) > MAX_LOG_BYTES:
        raise EventLogError(f"event log: expected at most {MAX_LOG_BYTES} bytes, got {len(data)}")
    return data


def _spec_id_record(spec: SpecId, algorithms: tuple[HashAlgorithm, ...]) -> bytes:
    if not algorithms or len(set(algorithms)) != len(algorithms):
        raise EventLogError("spec id event: expected at least one algorithm, each of them once")
    try:
        version = bytes((spec.version_minor, spec.version_major, spec.errata, spec.uintn_size))
        head = struct.pack("<I4sI", spec.platform_class, version, len(algorithms))
        vendor = bytes((len(spec.vendor),)) + spec.vendor
    except (ValueError, struct.error) as error:
        raise EventLogError("spec id event: a value does not fit its field") from error
    sizes = b"".join(struct.pack("<HH", algorithm.tpm_id, algorithm.size) for algorithm in algorithms)
    data = _SPEC_ID_CRYPTO_AGILE + head + sizes + vendor
    return struct.pack("<II20sI", 0, EventType.EV_NO_ACTION, b"", len(data)) + data


def _record(event: LogEvent, *, crypto_agile: bool) -> bytes:
    if crypto_agile:
        digests = struct.pack("<I", len(event.digests)) + b"".join(
            struct.pack("<H", algorithm.tpm_id) + digest.value for algorithm, digest in event.digests.items()
        )
    else:
        digests = event.digests[HashAlgorithm.SHA1].value
    head = struct.pack("<II", event.register, event.event_type)
    return head + digests + struct.pack("<I", len(event.data)) + event.data


def _check_event(index: int, event: LogEvent, log: UnverifiedLog) -> None:
    where = f"event {index}"
    if not 0 <= event.register < REGISTER_COUNT:
        raise EventLogError(f"{where}: expected a register up to {REGISTER_COUNT - 1}, got {event.register}")
    if not 0 <= event.event_type <= 0xFFFFFFFF or len(event.data) > MAX_EVENT_BYTES:
        raise EventLogError(f"{where}: the event type or the size of the event data is out of range")
    if set(event.digests) != set(log.algorithms) or any(
        digest.algorithm is not algorithm for algorithm, digest in event.digests.items()
    ):
        raise EventLogError(f"{where}: expected one digest for each algorithm of the log")
    if event.event_type == EventType.EV_NO_ACTION:
        _check_no_action(where, event, allow_spec_id=log.spec is None and index == 0)


def _check_no_action(where: str, event: LogEvent, *, allow_spec_id: bool) -> None:
    # PFP 10.4.5: the digests of an EV_NO_ACTION are zero; it is never extended.
    if any(any(digest.value) for digest in event.digests.values()):
        raise EventLogError(f"{where}: expected zero digests of an EV_NO_ACTION")
    if event.data.startswith(_SPEC_ID_PREFIX) and not allow_spec_id:
        raise EventLogError(f"{where}: a Spec ID event that is not the first event")


def replay(log: UnverifiedLog, algorithm: HashAlgorithm) -> ReplayedLog:
    """Extend every event's digest of one bank, as the TPM did if the log is true.

    Raises:
        EventLogError: the log has no such bank, or a StartupLocality event that must not be there.

    Source: PFP 10.4.5 (EV_NO_ACTION is not extended) and 10.4.5.3 (StartupLocality).
    """
    if algorithm not in log.algorithms:
        raise EventLogError(
            f"expected a log of the {algorithm.value} bank, got {', '.join(a.value for a in log.algorithms)}"
        )
    locality = _startup_locality(log)
    values = [
        Digest.ones(algorithm) if register in _RESET_TO_ONES else Digest.zero(algorithm)
        for register in range(REGISTER_COUNT)
    ]
    values[0] = Digest(algorithm, bytes((locality,)).rjust(algorithm.size, b"\0"))
    extended = tuple(event for event in log.events if event.event_type != EventType.EV_NO_ACTION)
    for event in extended:
        values[event.register] = values[event.register].extend(event.digests[algorithm])
    touched = frozenset(event.register for event in extended)
    return ReplayedLog(algorithm, tuple(values), touched, locality, extended)


def _startup_locality(log: UnverifiedLog) -> int:
    found: int | None = None
    extended = False
    for index, event in enumerate(log.events):
        if event.event_type != EventType.EV_NO_ACTION:
            extended = extended or event.register == 0
        elif event.data.startswith(_STARTUP_LOCALITY):
            if found is not None or extended or event.register != 0:
                raise EventLogError(
                    f"event {index}: expected StartupLocality at most once and before PCR 0 is extended"
                )
            found = _locality_of(index, event)
    return found or 0


def _locality_of(index: int, event: LogEvent) -> int:
    value = event.data[len(_STARTUP_LOCALITY) :]
    if len(value) != 1 or value[0] not in _STARTUP_LOCALITIES:
        raise EventLogError(
            f"event {index}: expected a startup locality of 0, 3 or 4 in one byte, got {value.hex()!r}"
        )
    return value[0]


def data_mismatches(log: UnverifiedLog, algorithm: HashAlgorithm) -> tuple[DataMismatch, ...]:
    """Return the events whose type says that their data was hashed, but whose digest says otherwise.

    Real firmware logs such events now and then (a file name beside the hash of the file); they are
    harmless only in registers whose type and data nobody relies on.
    """
    found = []
    for index, event in enumerate(log.events):
        try:
            measured = measured_bytes(event.event_type, event.data)
        except EventLogError as error:
            found.append(DataMismatch(index, event, error.message))
            continue
        if measured and event.digests[algorithm] not in [Digest.of(algorithm, data) for data in measured]:
            reason = f"the digest of {event_type_name(event.event_type)} is not that of its data"
            found.append(DataMismatch(index, event, reason))
    return tuple(found)
