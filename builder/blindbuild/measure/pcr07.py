"""PCR 7: the Secure Boot policy, as the variables that hold it, and what of it was used.

Source: PFP 3.3.4.8; edk2 Tcg2Dxe.c, MeasureAllSecureVariables, and DxeImageVerificationLib/Measurement.c. A
variable that does not exist is measured with empty data, except dbt and dbr.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcgevent import (
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    EventType,
    VariableData,
    write_variable_data,
)
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.secure_boot import SECURE_BOOT_OFF, SecureBootState
from blindbuild.measure.separator import predict_separator

_SHOWN_BYTES = 8  # longer data is told by its size


def predict_pcr07(
    algorithms: Iterable[HashAlgorithm],
    *,
    secure_boot_data: bytes,
    state: SecureBootState = SECURE_BOOT_OFF,
) -> tuple[PredictedEvent, ...]:
    """Return the events of the policy, up to the separator.

    Args:
        algorithms: the banks.
        secure_boot_data: the data of the variable SecureBoot: `01` or `00`, or empty where the firmware was
            built without Secure Boot and the variable does not exist.
        state: the keys that are enrolled.
    """
    algorithms = tuple(algorithms)
    variables = [
        VariableData(EFI_GLOBAL_VARIABLE, "SecureBoot", secure_boot_data),
        VariableData(EFI_GLOBAL_VARIABLE, "PK", state.pk),
        VariableData(EFI_GLOBAL_VARIABLE, "KEK", state.kek),
        VariableData(EFI_IMAGE_SECURITY_DATABASE, "db", state.db),
        VariableData(EFI_IMAGE_SECURITY_DATABASE, "dbx", state.dbx),
    ]
    for name, data in (("dbt", state.dbt), ("dbr", state.dbr)):
        if data is not None:
            variables.append(VariableData(EFI_IMAGE_SECURITY_DATABASE, name, data))
    policy = (
        _variable_event(EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, item, f"variable {item.name}", algorithms)
        for item in variables
    )
    return (*policy, predict_separator(7, algorithms))


def predict_authority(
    entry: bytes,
    algorithms: Iterable[HashAlgorithm],
    *,
    name: str = "db",
    vendor: UUID = EFI_IMAGE_SECURITY_DATABASE,
) -> PredictedEvent:
    """Return the event of the entry that validated an image; measured before the image itself.

    Args:
        entry: owner and certificate as they stand in the list (EFI_SIGNATURE_DATA).
        algorithms: the banks.
        name: of the variable that holds the entry.
        vendor: its namespace.
    """
    variable = VariableData(vendor, name, entry)
    return _variable_event(EventType.EV_EFI_VARIABLE_AUTHORITY, variable, f"authority {name}", algorithms)


def _variable_event(
    kind: EventType, variable: VariableData, what: str, algorithms: Iterable[HashAlgorithm]
) -> PredictedEvent:
    data = variable.data
    shown = data.hex() or "empty" if len(data) <= _SHOWN_BYTES else f"{len(data)} bytes"
    return measured_event(7, kind, write_variable_data(variable), f"{what}: {shown}", algorithms=algorithms)
