"""PCR 5: partition tables and the end of boot services.

Source: PFP 3.3.4.6; edk2 Tcg2Dxe.c, OnExitBootServices and OnExitBootServicesFailed.
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
    algorithms: Iterable[HashAlgorithm], *, failed_exit: tuple[bytes, ...] = ()
) -> tuple[PredictedEvent, ...]:
    """Return the events of a boot from a disk without a partition table.

    Args:
        algorithms: the banks.
        failed_exit: the actions that this firmware logs when a first ExitBootServices call fails because
            the memory map has changed (Linux then tries once more); none when the first call succeeds.
    """
    algorithms = tuple(algorithms)
    actions = (*failed_exit, EXIT_INVOCATION, EXIT_SUCCESS)
    return (
        predict_separator(5, algorithms),
        *(
            measured_event(5, EventType.EV_EFI_ACTION, action, action.decode("ascii"), algorithms=algorithms)
            for action in actions
        ),
    )
