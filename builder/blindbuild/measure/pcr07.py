"""PCR 7: the Secure Boot policy, as the five variables that hold it.

Source: PFP 3.3.4.8; edk2 Tcg2Dxe.c, MeasureAllSecureVariables. A variable that does not exist is measured
with empty data.
"""

from __future__ import annotations

from collections.abc import Iterable

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import (
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    EventType,
    VariableData,
    write_variable_data,
)
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.separator import predict_separator


def predict_pcr07(
    algorithms: Iterable[HashAlgorithm], *, secure_boot_data: bytes
) -> tuple[PredictedEvent, ...]:
    """Return the events of a machine with Secure Boot off and no keys enrolled.

    Args:
        algorithms: the banks.
        secure_boot_data: the data of the variable SecureBoot: `00`, or empty where the firmware was built
            without Secure Boot and the variable does not exist.
    """
    algorithms = tuple(algorithms)
    variables = (
        VariableData(EFI_GLOBAL_VARIABLE, "SecureBoot", secure_boot_data),
        VariableData(EFI_GLOBAL_VARIABLE, "PK", b""),
        VariableData(EFI_GLOBAL_VARIABLE, "KEK", b""),
        VariableData(EFI_IMAGE_SECURITY_DATABASE, "db", b""),
        VariableData(EFI_IMAGE_SECURITY_DATABASE, "dbx", b""),
    )
    return (
        *(
            measured_event(
                7,
                EventType.EV_EFI_VARIABLE_DRIVER_CONFIG,
                write_variable_data(variable),
                f"variable {variable.name}: {variable.data.hex() or 'empty'}",
                algorithms=algorithms,
            )
            for variable in variables
        ),
        predict_separator(7, algorithms),
    )
