"""QEMU's -kernel, -initrd and -append through OVMF: what of them the firmware gets, and then measures.

QEMU writes the fields of a boot loader into the kernel's setup header before the firmware sees the file, so
that the Authenticode digest depends on the size of memory and initrd; newer pairs of QEMU and edk2 pass the
file on as it is. A UKI has no setup header and is never changed.

Sources: QEMU hw/i386/x86-common.c, x86_load_linux (at 04ddbb137d); Linux Documentation/arch/x86/boot.rst for
the fields; edk2 OvmfPkg/Library/GenericQemuLoadImageLib for the command line.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.source import Source, as_source, read_chunks
from blindbuild.measure.event import hash_in_banks
from blindbuild.measure.kernel import MeasuredKernel

MAX_COMMAND_LINE = 4096  # characters; COMMAND_LINE_SIZE of Linux on x86 is 2048

_INITRD_OPTION = "initrd=initrd"
_PREFIX_SINCE = 202508  # a2ac0fea49: the option goes before the command line
_UNPATCHED_EDK2 = 202502  # prefers the file etc/boot/kernel of fw_cfg
_UNPATCHED_QEMU = (10, 0)  # offers that file
_CONFIDENTIAL_QEMU = (10, 2)  # a7542a38f399: no changes for any confidential guest

# Offsets in the setup header (boot.rst, "The Real-Mode Kernel Header").
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT = 0x206
_LOADER_AT = 0x210
_FLAGS_AT = 0x211
_RAMDISK_AT = 0x218
_HEAP_END_AT = 0x224
_COMMAND_LINE_AT = 0x228
_INITRD_MAX_AT = 0x22C
_XLOADFLAGS_AT = 0x236
_HEADER_END = 0x268

_OLDEST_PROTOCOL = 0x20C  # Linux 3.8, the first one with xloadflags
_LOADED_HIGH = 0x01
_CAN_USE_HEAP = 0x80
_ABOVE_4G = 0x02
_QEMU_LOADER = 0xB0
_REAL_MODE = 0x10000  # where QEMU puts the setup code and, behind it, the command line
_COMMAND_LINE = 0x20000
_ACPI_BYTES = 0x28000  # QEMU pc.c, acpi_data_size: kept free below the end of low memory
_LOW_MEMORY = 0x80000000  # q35 with 2.75 GiB or more has so much below 4 GiB
_SPLIT_FROM = 0xB0000000
_PAGE = 4096


class Confidential(Enum):
    """What protects the guest's memory; QEMU treats their kernels differently."""

    NONE = "none"
    SEV = "sev"
    TDX = "tdx"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectMachine:
    """A q35 machine that is given a kernel.

    Attributes:
        qemu: major and minor version, such as (10, 0).
        edk2: year and month of the firmware's release, such as 202502.
        memory_bytes: the size of its memory.
        confidential: SEV covers SEV-ES and SEV-SNP.
    """

    qemu: tuple[int, int]
    edk2: int
    memory_bytes: int
    confidential: Confidential = Confidential.NONE

    @property
    def patches_kernel(self) -> bool:
        """The firmware gets a kernel whose setup header QEMU has changed."""
        if self.confidential is Confidential.SEV:
            return False
        if self.confidential is Confidential.TDX and self.qemu >= _CONFIDENTIAL_QEMU:
            return False
        return self.qemu < _UNPATCHED_QEMU or self.edk2 < _UNPATCHED_EDK2


def measure_direct_kernel(
    kernel: bytes,
    *,
    command_line: str,
    initrd: bytes | Source | None,
    machine: DirectMachine,
    algorithms: Iterable[HashAlgorithm],
) -> MeasuredKernel:
    """Return what is measured of a bzImage that QEMU hands to the firmware.

    Args:
        kernel: the file given to -kernel.
        command_line: the text given to -append.
        initrd: the file given to -initrd, or None.
        machine: what boots it.
        algorithms: the banks.

    Raises:
        PeError: the kernel is no PE image.
        MeasureError: a kernel without a setup header, or inputs that QEMU treats in a way that is not known.
    """
    algorithms = tuple(algorithms)
    source = None if initrd is None else as_source(initrd)
    size = 0 if source is None else source.size
    if machine.patches_kernel:
        if "vga=" in command_line:
            raise MeasureError("direct boot: expected a command line without vga=, which QEMU interprets")
        kernel = patch_kernel(kernel, memory_bytes=machine.memory_bytes, initrd_bytes=size)
    text = direct_load_options(command_line, has_initrd=bool(size), edk2=machine.edk2)
    return MeasuredKernel(
        authenticode=authenticode_digests(kernel, algorithms),
        load_options=(text + "\0").encode("utf-16-le") if text else b"",
        initrd=hash_in_banks(read_chunks(source, 0, size), algorithms) if source and size else None,
        changed=machine.patches_kernel,
    )


def direct_load_options(command_line: str, *, has_initrd: bool, edk2: int, via_shim: bool = False) -> str:
    """Return the LoadOptions that the firmware makes of -append; empty for none at all.

    For a UKI they are what its stub gets as the load options of the boot option.

    Args:
        command_line: the text given to -append.
        has_initrd: an initrd that is not empty was given.
        edk2: year and month of the firmware's release.
        via_shim: the image that gets them is the file given to -shim; it takes the first word as the name
            of its second stage and passes on the rest.

    Raises:
        MeasureError: a command line that is not printable ASCII, or too long.
    """
    if len(command_line) > MAX_COMMAND_LINE or not (command_line.isascii() and command_line.isprintable()):
        raise MeasureError(f"direct boot: expected printable ASCII, got {command_line[:80]!r}")
    prefix = "kernel " if via_shim else ""
    if not has_initrd:
        return prefix + command_line
    if edk2 >= _PREFIX_SINCE:
        return f"{prefix}{_INITRD_OPTION} {command_line}"
    return f"{prefix}{command_line} {_INITRD_OPTION}"


def patch_kernel(kernel: bytes, *, memory_bytes: int, initrd_bytes: int) -> bytes:
    """Return a bzImage as QEMU's boot loader leaves it on a q35 machine.

    Raises:
        MeasureError: not a bzImage of a protocol that is known, or an initrd that does not fit.
    """
    _check_header(kernel)
    output = bytearray(kernel)
    output[_LOADER_AT] = _QEMU_LOADER
    output[_FLAGS_AT] |= _CAN_USE_HEAP
    struct.pack_into("<H", output, _HEAP_END_AT, _COMMAND_LINE - _REAL_MODE - 0x200)
    struct.pack_into("<I", output, _COMMAND_LINE_AT, _COMMAND_LINE)
    if initrd_bytes:
        highest = _highest_initrd(kernel, memory_bytes)
        if initrd_bytes >= highest:
            raise MeasureError(
                f"direct boot: expected an initrd below {highest} bytes, got {initrd_bytes}",
                hint="QEMU refuses it; give the machine more memory",
            )
        address = (highest - initrd_bytes) & ~(_PAGE - 1)
        struct.pack_into("<II", output, _RAMDISK_AT, address, initrd_bytes)
    return bytes(output)


def _check_header(kernel: bytes) -> None:
    if len(kernel) < _HEADER_END or kernel[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise MeasureError(
            "direct boot: expected a bzImage with a setup header, got none",
            hint="measure a UKI with the load options of `direct_load_options`",
        )
    protocol = struct.unpack_from("<H", kernel, _VERSION_AT)[0]
    if protocol < _OLDEST_PROTOCOL or not kernel[_FLAGS_AT] & _LOADED_HIGH:
        raise MeasureError(
            f"direct boot: expected a kernel of boot protocol 0x{_OLDEST_PROTOCOL:04x} that is loaded high, "
            f"got 0x{protocol:04x}"
        )


def _highest_initrd(kernel: bytes, memory_bytes: int) -> int:
    """Return the address below which QEMU puts the initrd."""
    flags, limit = struct.unpack_from("<H", kernel, _XLOADFLAGS_AT)[0], 0xFFFFFFFF
    if not flags & _ABOVE_4G:
        limit = struct.unpack_from("<I", kernel, _INITRD_MAX_AT)[0]
    low = _LOW_MEMORY if memory_bytes >= _SPLIT_FROM else memory_bytes
    if low <= _ACPI_BYTES:
        raise MeasureError(f"direct boot: expected more memory, got {memory_bytes} bytes")
    return min(limit, low - _ACPI_BYTES - 1) if limit >= low - _ACPI_BYTES else limit
