"""Event logs of confidential guests: the CC event log that the ACPI table CCEL points to.

The records are those of a crypto-agile TPM log; the register numbers are another count (0 is MRTD, 1 to 4
are RTMR0 to RTMR3), and the log sits at the start of a memory area whose rest is padding.

Sources: UEFI 2.10, 38.4.1 (EFI_CC_EVENT, TDX register mapping) and 38.2; ACPI 6.5, table CCEL (LAML, LASA);
edk2 OvmfPkg/Library/SecTpmMeasurementLib and td-shim, whose areas were seen filled with ff and with 00.
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import MAX_EVENTS, ReplayedLog, UnverifiedLog
from blindbuild.formats.tcgrecord import (
    SPEC_ID_CRYPTO_AGILE,
    LogEvent,
    Reader,
    check_event,
    event_record,
    parse_spec_id,
    read_event,
    read_sha1_event,
    spec_id_record,
)

MAX_AREA_BYTES = 1 << 20  # bytes; areas of 64 KiB, 256 KiB and 1 MiB were seen
CC_REGISTERS = ("MRTD", "RTMR0", "RTMR1", "RTMR2", "RTMR3")  # UEFI 2.10, 38.4.1, table 38.4
# edk2 logs the Spec ID event as one of RTMR0, td-shim as one of MRTD
_SPEC_ID_REGISTERS = (0, 1)
_FILLS = (0xFF, 0x00)
_PROBE = 12  # bytes; a record of ff names no register, one of 00 has no digest


@dataclass(frozen=True, slots=True)
class CcEventLog:
    """A well-formed log of a confidential guest; nothing in it is known to be true.

    Attributes:
        log: the events; `LogEvent.register` counts `CC_REGISTERS`.
        spec_register: the register that the Spec ID event names, 0 or 1.
        fill: the byte that the rest of the area is filled with.
        padding_bytes: how many of them follow the last event.
    """

    log: UnverifiedLog
    spec_register: int = 1
    fill: int = 0xFF
    padding_bytes: int = 0


def parse_cc_event_log(data: bytes) -> CcEventLog:
    """Parse the log area, such as the content of Linux' `/sys/firmware/acpi/tables/data/CCEL`.

    Args:
        data: the whole area (LAML bytes), or only its used part.

    Raises:
        EventLogError: not a crypto-agile log of at most five registers, anything but one repeated byte after
            the last event, or more than the limits.
    """
    if len(data) > MAX_AREA_BYTES:
        raise EventLogError(f"cc event log: expected at most {MAX_AREA_BYTES} bytes, got {len(data)}")
    reader = Reader(data, "cc event log")
    first = read_sha1_event(reader)
    if first.event_type != EventType.EV_NO_ACTION or not first.data.startswith(SPEC_ID_CRYPTO_AGILE):
        raise EventLogError("cc event log: expected a Spec ID event first")
    if first.register not in _SPEC_ID_REGISTERS:
        raise EventLogError(f"cc event log: expected its Spec ID event in 0 or 1, got {first.register}")
    spec, algorithms = parse_spec_id(first, register=first.register)
    events: list[LogEvent] = []
    while not _is_padding(data, reader.offset):
        if len(events) == MAX_EVENTS:
            raise EventLogError(f"cc event log: expected at most {MAX_EVENTS} events")
        events.append(read_event(reader, algorithms))
    padding = len(data) - reader.offset
    fill = data[-1] if padding else _FILLS[0]
    log = CcEventLog(UnverifiedLog(algorithms, tuple(events), spec), first.register, fill, padding)
    if write_cc_event_log(log) != data:
        raise EventLogError("cc event log: what was parsed does not write back to the same bytes")
    return log


def _is_padding(data: bytes, offset: int) -> bool:
    """Return whether the area's rest is empty or one fill byte; a record cannot start with either."""
    probe = data[offset : offset + _PROBE]
    for fill in _FILLS:
        if not probe.strip(bytes((fill,))):
            if data[offset:].strip(bytes((fill,))):
                raise EventLogError(
                    f"cc event log: expected {fill:02x} up to the end after offset {offset}, got other bytes"
                )
            return True
    return False


def write_cc_event_log(log: CcEventLog) -> bytes:
    """Return the area's bytes; the inverse of `parse_cc_event_log`.

    Raises:
        EventLogError: a value that no log can hold.
    """
    events, spec, algorithms = log.log.events, log.log.spec, log.log.algorithms
    if spec is None or log.spec_register not in _SPEC_ID_REGISTERS:
        raise EventLogError("cc event log: expected a Spec ID event in 0 or 1")
    if len(events) > MAX_EVENTS:
        raise EventLogError(f"cc event log: expected at most {MAX_EVENTS} events, got {len(events)}")
    if log.fill not in _FILLS or log.padding_bytes < 0:
        raise EventLogError(f"cc event log: expected padding of ff or 00, got {log.fill:02x}")
    parts = [spec_id_record(spec, algorithms, register=log.spec_register)]
    for index, event in enumerate(events):
        check_event(index, event, algorithms, registers=len(CC_REGISTERS))
        if event.register == 0 and event.event_type != EventType.EV_NO_ACTION:
            raise EventLogError(f"event {index}: MRTD is final before the first event, it cannot be extended")
        parts.append(event_record(event, crypto_agile=True))
    data = b"".join(parts)
    if len(data) + log.padding_bytes > MAX_AREA_BYTES:
        raise EventLogError(f"cc event log: expected at most {MAX_AREA_BYTES} bytes")
    return data + bytes((log.fill,)) * log.padding_bytes


def replay_cc(log: CcEventLog, algorithm: HashAlgorithm = HashAlgorithm.SHA384) -> ReplayedLog:
    """Extend every event's digest; `values` counts `CC_REGISTERS`, and that of MRTD means nothing.

    Raises:
        EventLogError: the log has no digests of this algorithm (a TDX module extends SHA-384).

    Source: Intel TDX Module 1.5 ABI, TDG.MR.RTMR.EXTEND; all RTMRs start from zero.
    """
    if algorithm not in log.log.algorithms:
        known = ", ".join(a.value for a in log.log.algorithms)
        raise EventLogError(f"expected a log of {algorithm.value}, got {known}")
    values = [Digest.zero(algorithm) for _ in CC_REGISTERS]
    extended = tuple(event for event in log.log.events if event.event_type != EventType.EV_NO_ACTION)
    for event in extended:
        values[event.register] = values[event.register].extend(event.digests[algorithm])
    touched = frozenset(event.register for event in extended)
    return ReplayedLog(algorithm, tuple(values), touched, 0, extended)
