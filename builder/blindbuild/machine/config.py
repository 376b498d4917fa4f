"""What a virtual machine is made of, as a value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.machine.accelerator import Preference
from blindbuild.machine.swtpm import DEFAULT_BANKS

HOST_ADDRESS = "127.0.0.1"
DEFAULT_GUEST_ADDRESS = IPv4Interface("10.0.2.15/24")
DEFAULT_ROUTER = IPv4Address("10.0.2.2")
GUEST_MAC = "52:54:00:b1:1d:01"
MIN_MEMORY_MIB = 128  # below this OVMF does not start
MAX_MEMORY_MIB = 1 << 20
MAX_CPUS = 64
MAX_SMBIOS_STRINGS = 32
MAX_COMMAND_LINE = 2047  # bytes; COMMAND_LINE_SIZE of x86 Linux less its NUL


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectBoot:
    """What QEMU itself hands to the firmware to start, before any disk: `-kernel`, `-initrd`, `-append`."""

    kernel: Path
    initrd: Path | None = None
    command_line: str = ""

    def __post_init__(self) -> None:
        """Refuse a command line that no kernel would get whole."""
        if "\0" in self.command_line or len(self.command_line.encode()) > MAX_COMMAND_LINE:
            raise UsageError(f"expected a command line of at most {MAX_COMMAND_LINE} bytes, without a NUL")


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    r"""A q35 machine with OVMF, a disk or a kernel to start, one network card, a TPM and four serial ports.

    Attributes:
        disk: a raw image with `\EFI\BOOT\BOOTX64.EFI`, or none if `direct` says what to start; never written.
        firmware_code: OVMF's code flash image.
        firmware_vars: OVMF's variable flash image, a template: the machine writes to its own copy.
        memory_mib: RAM in MiB. Under emulation 512 MiB more take two to three seconds longer to boot. PCR 0
            can depend on it; with OVMF 2025.02 it was the same from 256 MiB to 1 GiB.
        cpus: number of processors.
        host_port: port of 127.0.0.1 that leads to the guest; 0 takes a free one.
        guest_port: port that the guest listens on.
        guest_address: address and prefix length that the guest gives itself, or gets by DHCP.
        router: the address of the host as the guest sees it.
        accelerator: `auto`, `kvm` or `tcg`.
        smbios: strings of SMBIOS type 11 (OEM strings).
        tpm_banks: the PCR banks the TPM has.
        tpm_authority: directory of the authority that endorses the TPM; its own one if None.
        tpm_transcript: whether to write down every TPM command and response.
        disk_first: QEMU tells the firmware to start the disk; the firmware then starts nothing else, the
            network card's drivers included. Without it the firmware's own variables decide.
        direct: a kernel that QEMU hands to the firmware.
        secure_flash: the variables can be changed by the firmware's system management mode only, which is
            what an OVMF built for Secure Boot expects and one built without cannot use.
        link_socket: where a program at the same Ethernet link listens (AF_UNIX datagrams, one frame each); it
            sees every frame and may send any. QEMU's own end is `MachineFiles.link_socket`.
        more_devices: further arguments of QEMU, for bait and for attacks.
        clock: the date and time that the machine's clock shows at power-on, UTC; the true one if None.
        tpm_between: given the control socket of the TPM, returns the one that QEMU is to use instead: a
            program of the operator's between the two.
        state_dir: where logs, capture, TPM and flash stay; a temporary place that goes away if None.
    """

    disk: Path | None
    firmware_code: bytes
    firmware_vars: bytes
    memory_mib: int = 512
    cpus: int = 1
    host_port: int = 0
    guest_port: int = 443
    guest_address: IPv4Interface = DEFAULT_GUEST_ADDRESS
    router: IPv4Address = DEFAULT_ROUTER
    accelerator: Preference = "auto"
    smbios: tuple[str, ...] = ()
    tpm_banks: tuple[HashAlgorithm, ...] = DEFAULT_BANKS
    tpm_authority: Path | None = None
    tpm_transcript: bool = False
    disk_first: bool = True
    direct: DirectBoot | None = None
    secure_flash: bool = False
    link_socket: Path | None = None
    more_devices: tuple[str, ...] = ()
    clock: datetime | None = None
    tpm_between: Callable[[Path], Path] | None = None
    state_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse what QEMU would refuse later, or silently change."""
        _require_range("memory in MiB", self.memory_mib, MIN_MEMORY_MIB, MAX_MEMORY_MIB)
        _require_range("processors", self.cpus, 1, MAX_CPUS)
        _require_range("host port", self.host_port, 0, 0xFFFF)
        _require_range("guest port", self.guest_port, 1, 0xFFFF)
        if self.disk is None and self.direct is None:
            raise UsageError("expected a disk or a kernel to start, got neither")
        if self.router not in self.guest_address.network or self.router == self.guest_address.ip:
            raise UsageError(f"router {self.router} is no neighbour of {self.guest_address}")
        if len(self.smbios) > MAX_SMBIOS_STRINGS or any("\0" in text or not text for text in self.smbios):
            raise UsageError(
                f"expected at most {MAX_SMBIOS_STRINGS} SMBIOS strings, none empty or with a NUL"
            )


def _require_range(what: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UsageError(f"{what}: expected {low} to {high}, got {value}")
