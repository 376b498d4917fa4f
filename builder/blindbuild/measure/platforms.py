"""The platforms whose registers can be predicted, and in what their firmware builds differ."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.measure.pcr05 import EXIT_FAILURE, EXIT_INVOCATION

KIND_UEFI_TPM = "uefi-tpm"


@dataclass(frozen=True, slots=True)
class Platform:
    """QEMU q35 with OVMF and a TPM, Secure Boot off, a disk without partition table, no option ROMs.

    Attributes:
        identifier: names the instance in statements.
        secure_boot_data: the data of the variable SecureBoot. OVMF built without Secure Boot does not have
            the variable (Debian's OVMF_CODE_4M.fd of 2025.02); with it and no keys the variable is 0
            (2022.11).
        failed_exit: what is logged into PCR 5 for an ExitBootServices call that fails. Since edk2 commit
            96b90e150c (first in edk2-stable202411) the invocation is logged before the failure.
    """

    identifier: str
    secure_boot_data: bytes
    failed_exit: tuple[bytes, ...]
    kind: str = KIND_UEFI_TPM


PLATFORMS = (
    Platform(
        identifier="qemu-q35-ovmf-2022.11",  # Debian 12
        secure_boot_data=b"\0",
        failed_exit=(EXIT_FAILURE,),
    ),
    Platform(
        identifier="qemu-q35-ovmf-2025.02",  # Debian 13
        secure_boot_data=b"",
        failed_exit=(EXIT_INVOCATION, EXIT_FAILURE),
    ),
)


def find_platform(identifier: str) -> Platform:
    """Return the platform of this name.

    Raises:
        MeasureError: there is none.
    """
    for platform in PLATFORMS:
        if platform.identifier == identifier:
            return platform
    known = ", ".join(platform.identifier for platform in PLATFORMS)
    raise MeasureError(f"unknown platform {identifier!r}", hint=f"known platforms: {known}")
