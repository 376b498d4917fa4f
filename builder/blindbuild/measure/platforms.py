"""The platforms whose registers can be predicted, and in what their firmware builds differ."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.errors import MeasureError
from blindbuild.measure.classification import KIND_UEFI_TPM
from blindbuild.measure.pcr05 import EXIT_FAILURE, EXIT_INVOCATION


@dataclass(frozen=True, slots=True)
class Platform:
    """QEMU q35 with OVMF and a TPM, without option ROMs.

    Attributes:
        identifier: names the instance in statements.
        secure_boot_data: the data of the variable SecureBoot. OVMF built without Secure Boot does not have
            the variable (Debian's OVMF_CODE_4M.fd of 2025.02); with it and no keys the variable is 0
            (2022.11); where Secure Boot is on it is 1.
        failed_exit: what is logged into PCR 5 for an ExitBootServices call that fails. Since edk2 commit
            96b90e150c (first in edk2-stable202411) the invocation is logged before the failure.
        edk2: year and month of the edk2 release that the build is from, such as 202502.
        secure_boot: the platform is one with Secure Boot on; its keys are part of a boot's inputs.
    """

    identifier: str
    secure_boot_data: bytes
    failed_exit: tuple[bytes, ...]
    edk2: int
    secure_boot: bool = False
    kind: str = KIND_UEFI_TPM


_EXIT_202211 = (EXIT_FAILURE,)
_EXIT_202411 = (EXIT_INVOCATION, EXIT_FAILURE)

# Secure Boot platforms are instances of their own: another build of the firmware, another machine (SMM) and
# other registers. So an identifier says which of the two a statement is about.
PLATFORMS = (
    Platform(
        identifier="qemu-q35-ovmf-2022.11-secboot",  # Debian 12, OVMF_CODE_4M.secboot.fd
        secure_boot_data=b"\x01",
        failed_exit=_EXIT_202211,
        edk2=202211,
        secure_boot=True,
    ),
    Platform(
        identifier="qemu-q35-ovmf-2025.02-secboot",  # Debian 13, OVMF_CODE_4M.secboot.fd
        secure_boot_data=b"\x01",
        failed_exit=_EXIT_202411,
        edk2=202502,
        secure_boot=True,
    ),
    Platform(
        identifier="qemu-q35-ovmf-2022.11",  # Debian 12, OVMF_CODE_4M.fd
        secure_boot_data=b"\0",
        failed_exit=_EXIT_202211,
        edk2=202211,
    ),
    Platform(
        identifier="qemu-q35-ovmf-2025.02",  # Debian 13, OVMF_CODE_4M.fd
        secure_boot_data=b"",
        failed_exit=_EXIT_202411,
        edk2=202502,
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
