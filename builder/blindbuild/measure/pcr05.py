"""PCR 5: partition tables and the end of boot services.

Source: PFP 3.3.4.6; edk2 DxeTpm2MeasureBootLib.c, Tcg2MeasureGptTable, and Tcg2Dxe.c, OnExitBootServices and
OnExitBootServicesFailed.
"""

from __future__ import annotations

from collections.abc import Iterable

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.separator import predict_separator

EXIT_INVOCATION = b"Exit Boot Services Invocation"  # PFP 10.4.4, no NUL
EXIT_SUCCESS = b"Exit Boot Services Returned with Success"
EXIT_FAILURE = b"Exit Boot Services Returned with Failure"


def predict_pcr05(
    algorithms: Iterable[HashAlgorithm],
    *,
    failed_exit: tuple[bytes, ...] = (),
    partition_table: bytes | None = None,
) -> tuple[PredictedEvent, ...]:
    """Return the events of a boot.

    Args:
        algorithms: the banks.
        failed_exit: the actions that this firmware logs when a first ExitBootServices call fails because
            the memory map has changed (Linux then tries once more); none when the first call succeeds.
        partition_table: UEFI_GPT_DATA of the disk that the image was read from
            (`formats.gpt.PartitionTable.event_data`); None for a disk without a partition table.
    """
    algorithms = tuple(algorithms)
    tables = () if partition_table is None else (predict_partition_table(partition_table, algorithms),)
    return (
        predict_separator(5, algorithms),
        *tables,
        *predict_exit(algorithms, failed_exit=failed_exit),
    )


def predict_partition_table(event_data: bytes, algorithms: Iterable[HashAlgorithm]) -> PredictedEvent:
    """Return the event of the GPT of the disk that holds the first image; measured once a boot."""
    return measured_event(5, EventType.EV_EFI_GPT_EVENT, event_data, "partition table", algorithms=algorithms)


def predict_exit(
    algorithms: Iterable[HashAlgorithm], *, failed_exit: tuple[bytes, ...] = ()
) -> tuple[PredictedEvent, ...]:
    """Return the events of leaving boot services, after a first call that failed or at once."""
    return tuple(
        measured_event(5, EventType.EV_EFI_ACTION, action, action.decode("ascii"), algorithms=algorithms)
        for action in (*failed_exit, EXIT_INVOCATION, EXIT_SUCCESS)
    )
