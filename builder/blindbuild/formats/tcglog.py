"""TCG event logs: strict parser, writer, and replay into register values.

A log is a claim. `parse_event_log` gives an `UnverifiedLog`; `replay` computes the register values that it
stands for; only the comparison with quoted values makes its digests evidence, and even then an event's
data is evidence only where its digest covers it (`data_mismatches`).

Sources: TCG PC Client Platform Firmware Profile 1.06 (PFP), 10.2 structures and 10.4.5 EV_NO_ACTION; TCG EFI
Platform Specification 1.22, 7.2 for the SHA-1 format.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType, event_type_name, measured_bytes
from blindbuild.formats.tcgrecord import (
    MAX_EVENT_BYTES,
    SPEC_ID_CRYPTO_AGILE,
    LogEvent,
    Reader,
    SpecId,
    check_event,
    event_record,
    parse_spec_id,
    read_event,
    read_sha1_event,
    spec_id_record,
)

__all__ = [
    "MAX_EVENT_BYTES",
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
REGISTER_COUNT = 24  # TCG PC Client Platform TPM Profile 1.05, 3.6

_STARTUP_LOCALITY = b"StartupLocality\0"
_STARTUP_LOCALITIES = frozenset({0, 3, 4})  # PFP 10.4.5.3: _TPM_Init, TPM2_Startup from 3, H-CRTM from 4
_RESET_TO_ONES = range(17, 23)  # PC Client TPM Profile 1.05, 3.6: dynamic-launch registers


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
    reader = Reader(data, "event log")
    first = read_sha1_event(reader)
    if first.event_type == EventType.EV_NO_ACTION and first.data.startswith(SPEC_ID_CRYPTO_AGILE):
        spec, algorithms = parse_spec_id(first)
        log = UnverifiedLog(algorithms, _read_events(reader, algorithms), spec)
    else:
        log = UnverifiedLog((HashAlgorithm.SHA1,), (first, *_read_events(reader, None)), None)
    if write_event_log(log) != data:
        raise EventLogError("event log: what was parsed does not write back to the same bytes")
    return log


def _read_events(reader: Reader, algorithms: tuple[HashAlgorithm, ...] | None) -> tuple[LogEvent, ...]:
    events: list[LogEvent] = []
    while not reader.at_end():
        if len(events) == MAX_EVENTS:
            raise EventLogError(f"event log: expected at most {MAX_EVENTS} events")
        events.append(read_sha1_event(reader) if algorithms is None else read_event(reader, algorithms))
    return tuple(events)


def write_event_log(log: UnverifiedLog) -> bytes:
    """Return the log's bytes; the inverse of `parse_event_log`.

    Raises:
        EventLogError: a value that no log can hold, so that what is written can always be parsed.
    """
    if not log.events or len(log.events) > MAX_EVENTS:
        raise EventLogError(f"event log: expected 1 to {MAX_EVENTS} events, got {len(log.events)}")
    parts = [] if log.spec is None else [spec_id_record(log.spec, log.algorithms)]
    for index, event in enumerate(log.events):
        check_event(
            index,
            event,
            log.algorithms,
            registers=REGISTER_COUNT,
            allow_spec_id=log.spec is None and index == 0,
        )
        parts.append(event_record(event, crypto_agile=log.spec is not None))
    data = b"".join(parts)
    if len(data) > MAX_LOG_BYTES:
        raise EventLogError(f"event log: expected at most {MAX_LOG_BYTES} bytes, got {len(data)}")
    return data


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
