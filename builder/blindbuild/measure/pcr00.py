"""PCR 0: the part of it that a firmware file decides.

The event of the PEI phase's volume is missing: it is measured as it is in memory, after its modules have
written to it. So the register's value is recorded (`recorded.py`), and these events only tell which firmware
a log is from.

Source: PFP 3.3.4.1; edk2 SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c, MeasureCRTMVersion and MeasureFvImage.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.firmware_volume import find_dxe_volume
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.event import PredictedEvent, hash_in_banks, measured_event

DXE_VOLUME_ADDRESS = 0x900000  # edk2 OvmfPkg/OvmfPkgX64.fdf: where the volume is unpacked to


def predict_firmware(
    flash: bytes, algorithms: Iterable[HashAlgorithm], *, version: str
) -> tuple[PredictedEvent, PredictedEvent]:
    """Return the events of the firmware's version and of its DXE volume; one between them is missing.

    Args:
        flash: the code flash file of an OVMF build, such as OVMF_CODE_4M.fd.
        algorithms: the banks.
        version: PcdFirmwareVersionString of the build, empty for builds that do not set it.

    Raises:
        FormatError: the file is no such build.
        MeasureError: a version that cannot be a firmware's.
    """
    algorithms = tuple(algorithms)
    if "\0" in version or not version.isascii():
        raise MeasureError(f"firmware version: expected ASCII without NUL, got {version[:80]!r}")
    return (
        measured_event(
            0,
            EventType.EV_S_CRTM_VERSION,
            (version + "\0").encode("utf-16-le"),
            f"firmware version {version or '(empty)'}",
            algorithms=algorithms,
        ),
        predict_dxe_volume(flash, algorithms),
    )


def predict_dxe_volume(flash: bytes, algorithms: Iterable[HashAlgorithm]) -> PredictedEvent:
    """Return the event of the DXE phase's volume, which the file alone decides.

    Raises:
        FormatError: the file is no OVMF build.
    """
    volume = find_dxe_volume(flash)
    return PredictedEvent(
        0,
        EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB,
        hash_in_banks((volume,), algorithms),
        struct.pack("<QQ", DXE_VOLUME_ADDRESS, len(volume)),
        "volume of the DXE phase",
    )
