"""The predicted event log, in the binary form that firmware writes and other people's tools read.

It holds the registers whose events are all known. PCR 0 and 1 are absent, and so is every other register that
a boot's inputs do not decide: a log that replays to a wrong value would be worse than none. Where the data
of an event is the machine's (EFI_IMAGE_LOAD_EVENT: where an image was loaded and from which device), the data
here has zero addresses and an empty device path. The digests are never affected: they do not cover it.

Source: PFP 10.2.2 (TCG_PCR_EVENT2), 10.4.5.1 (Spec ID event) and 10.2.4 (UEFI_IMAGE_LOAD_EVENT).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.tcglog import LogEvent, SpecId, UnverifiedLog
from blindbuild.measure.boot import MACHINE_REGISTERS
from blindbuild.measure.event import PredictedEvent

# UEFI_IMAGE_LOAD_EVENT: location, length, link-time address and length of the device path, all unknown
UNKNOWN_IMAGE = struct.pack("<QQQQ", 0, 0, 0, 0)


def predicted_log(
    events: Iterable[PredictedEvent],
    algorithms: Sequence[HashAlgorithm],
    *,
    leave_out: Collection[int] = MACHINE_REGISTERS,
) -> UnverifiedLog:
    """Return the events as a crypto-agile log; `formats.tcglog.write_event_log` makes its bytes.

    Args:
        events: as `boot.boot_events` gives them.
        algorithms: the banks of the log, each of them once.
        leave_out: the registers whose events are not all known (`UefiBoot.unpredictable`).

    Raises:
        MeasureError: no bank, or an event that was not predicted for one of them.
    """
    if not algorithms:
        raise MeasureError("expected at least one bank for the log, got none")
    return UnverifiedLog(
        algorithms=tuple(algorithms),
        events=tuple(_log_event(event, algorithms) for event in events if event.register not in leave_out),
        spec=SpecId(),
    )


def _log_event(event: PredictedEvent, algorithms: Sequence[HashAlgorithm]) -> LogEvent:
    missing = [algorithm.value for algorithm in algorithms if algorithm not in event.digests]
    if missing:
        raise MeasureError(f"register {event.register}: expected digests of {', '.join(missing)}, got none")
    return LogEvent(
        register=event.register,
        event_type=int(event.event_type),
        digests={algorithm: event.digests[algorithm] for algorithm in algorithms},
        data=UNKNOWN_IMAGE if event.data is None else event.data,
    )
