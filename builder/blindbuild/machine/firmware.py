"""The firmware a machine boots with: code that it can only read, variables that are its own copy.

Source: edk2 OvmfPkg/README; MdePkg/Include/Pi/PiFirmwareVolume.h.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from blindbuild.errors import MachineError
from blindbuild.formats.efivars import read_variables

CODE_MEMBER = "usr/share/OVMF/OVMF_CODE_4M.fd"  # where Debian's package ovmf keeps the build without SMM
SECURE_CODE_MEMBER = "usr/share/OVMF/OVMF_CODE_4M.secboot.fd"  # the build with SMM, which checks signatures
VARIABLES_MEMBER = "usr/share/OVMF/OVMF_VARS_4M.fd"
MAX_FLASH_BYTES = 8 << 20  # QEMU: hw/i386/pc_sysfw.c, max-fw-size

_VOLUME_SIGNATURE = b"_FVH"
_SIGNATURE_AT = 40
_FLASH_BLOCK = 4096  # QEMU refuses a flash image that is no multiple of it


@dataclass(frozen=True, slots=True)
class Firmware:
    """The two flash images of an OVMF build: `code` is what PCR 0 depends on, `variables` its template."""

    code: bytes
    variables: bytes


@dataclass(frozen=True, slots=True)
class PlacedFirmware:
    """Where the flash images of one machine are."""

    code: Path
    variables: Path


def place_firmware(firmware: Firmware, directory: Path) -> PlacedFirmware:
    """Check both images and write them for one machine; an older copy of the variables is replaced.

    Raises:
        MachineError: an image cannot be flash of a q35 machine.
        FormatError: the variables are no store that OVMF could use.
    """
    _check_flash("firmware code", firmware.code)
    _check_flash("firmware variables", firmware.variables)
    read_variables(firmware.variables)
    if len(firmware.code) + len(firmware.variables) > MAX_FLASH_BYTES:
        raise MachineError(f"firmware: expected at most {MAX_FLASH_BYTES} bytes of flash")
    placed = PlacedFirmware(directory / "firmware-code.fd", directory / "firmware-variables.fd")
    for path, data, mode in (
        (placed.code, firmware.code, 0o400),
        (placed.variables, firmware.variables, 0o600),
    ):
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(mode)
    return placed


def _check_flash(what: str, image: bytes) -> None:
    if image[_SIGNATURE_AT : _SIGNATURE_AT + 4] != _VOLUME_SIGNATURE:
        raise MachineError(f"{what}: expected a firmware volume, got {image[:8].hex() or 'nothing'}")
    if len(image) % _FLASH_BLOCK:
        raise MachineError(f"{what}: expected a multiple of {_FLASH_BLOCK} bytes, got {len(image)}")
