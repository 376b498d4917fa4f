"""The unified kernel image: systemd's stub, kernel, initramfs and command line as one PE file.

Source: UAPI Group, "Unified Kernel Image (UKI)"; systemd-stub(7); Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import re

from blindbuild.errors import BuildError, FormatError, PeError
from blindbuild.formats.pe import NewSection, append_sections, read_pe

MAX_COMMAND_LINE = 2047  # bytes; COMMAND_LINE_SIZE of x86 is 2048 with the NUL
MIN_BOOT_PROTOCOL = 0x020C  # the first with xloadflags, which say that there is a 64-bit entry point

_COMMAND_LINE = re.compile(r"[!-~]+(?: [!-~]+)*")
_RELEASE = re.compile(r"[0-9][0-9A-Za-z.+~_-]*")
_OS_RELEASE_LINE = re.compile(r"[A-Z][A-Z0-9_]*=(?:[A-Za-z0-9._-]*|\"[^\"\\$`\n]*\")")
_STUB_MAGIC = re.compile(rb"#### LoaderInfo: systemd-stub ([!-~]+) ####\0?")

# Offsets in a bzImage, Documentation/arch/x86/boot.rst "The Real-Mode Kernel Header".
_BOOT_FLAG = 0x1FE
_HEADER = 0x202
_PROTOCOL = 0x206
_KERNEL_VERSION = 0x20E
_XLOADFLAGS = 0x236
_XLF_KERNEL_64 = 1 << 0
_HEADER_END = 0x268


def build_uki(
    *,
    stub: bytes,
    kernel: bytes,
    initrd: bytes,
    command_line: str,
    built_in_command_line: str | None,
    os_release: str,
    uname: str,
) -> bytes:
    """Return the image that firmware starts: the stub with .osrel, .cmdline, .uname, .initrd and .linux.

    `.linux` is last, as the kernel needs more memory behind it than the file has.

    Args:
        stub: systemd's linuxx64.efi.stub.
        kernel: a bzImage with EFI stub.
        initrd: what `pack_initramfs` gave.
        command_line: printable ASCII, words divided by single spaces.
        built_in_command_line: CONFIG_CMDLINE of the kernel; both have to be equal, so that neither a firmware
            that drops the one nor a kernel that ignores the other changes what runs. None for a kernel that
            somebody else built, which takes whatever line it is given.
        os_release: lines of os-release(5).
        uname: the kernel's release, which has to be what the bzImage says.

    Raises:
        BuildError: an input that is not what it should be, or command lines or releases that differ.
        PeError: a stub that cannot take the sections.
    """
    _check_command_line(command_line, built_in_command_line)
    _check_os_release(os_release)
    if not initrd:
        raise BuildError("uki: expected an initramfs, got nothing")
    release = read_kernel_release(kernel)
    if uname != release:
        raise BuildError(f"uki: expected kernel release {uname}, got a bzImage of {release}")
    read_stub_version(stub)
    return append_sections(
        stub,
        (
            NewSection(".osrel", os_release.encode("utf-8")),
            NewSection(".cmdline", command_line.encode("ascii")),
            NewSection(".uname", uname.encode("ascii")),
            NewSection(".initrd", initrd),
            NewSection(".linux", kernel),
        ),
    )


def read_stub_version(image: bytes) -> str:
    """Return the version of systemd's stub in a stub or UKI, such as `257.13-1~deb13u1`.

    Raises:
        PeError: the image is malformed, or has no `.sdmagic` of a stub.

    Source: systemd src/boot/stub.c, SD_MAGIC.
    """
    magic = read_pe(image).section_data(".sdmagic")
    match = _STUB_MAGIC.fullmatch(magic)
    if not match:
        raise PeError(
            f"uki: .sdmagic: expected `#### LoaderInfo: systemd-stub VERSION ####`, got {magic[:80]!r}"
        )
    return match[1].decode("ascii")


def read_kernel_release(kernel: bytes) -> str:
    """Return the release (`uname -r`) of a 64-bit bzImage that is also an EFI program.

    Raises:
        BuildError: not a bzImage, no 64-bit entry point, no EFI stub, or no version in its header.

    Source: Linux Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header".
    """
    if (
        len(kernel) < _HEADER_END
        or kernel[_HEADER : _HEADER + 4] != b"HdrS"
        or _u16(kernel, _BOOT_FLAG) != 0xAA55
    ):
        raise BuildError("uki: expected a bzImage as kernel, got no setup header", hint="vmlinux will not do")
    if _u16(kernel, _PROTOCOL) < MIN_BOOT_PROTOCOL or not _u16(kernel, _XLOADFLAGS) & _XLF_KERNEL_64:
        raise BuildError(f"uki: expected a 64-bit kernel, got boot protocol {_u16(kernel, _PROTOCOL):#06x}")
    try:
        read_pe(kernel)
    except FormatError as error:
        raise BuildError(
            f"uki: expected a kernel with EFI stub, got {error}", hint="set CONFIG_EFI_STUB=y"
        ) from error
    pointer = _u16(kernel, _KERNEL_VERSION)
    text = kernel[pointer + 0x200 :][:256].partition(b"\0")[0].decode("ascii", "replace")
    release = text.partition(" ")[0]
    if not pointer or not _RELEASE.fullmatch(release):
        raise BuildError(f"uki: expected a kernel release in the setup header, got {text[:80]!r}")
    return release


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _check_command_line(command_line: str, built_in: str | None) -> None:
    """Check the form that no stub version changes before it measures it, and that both lines are equal."""
    if not _COMMAND_LINE.fullmatch(command_line) or len(command_line) > MAX_COMMAND_LINE:
        raise BuildError(
            f"uki: command line: expected up to {MAX_COMMAND_LINE} characters of printable ASCII,"
            f" words divided by one space, got {command_line!r}"
        )
    if built_in is not None and command_line != built_in:
        raise BuildError(
            f"uki: command line: expected the kernel's built-in one {built_in!r}, got {command_line!r}"
        )


def _check_os_release(text: str) -> None:
    """Check that every line is one of os-release(5), that ID is there, and that no name occurs twice."""
    lines = text.split("\n")
    if lines.pop() or not lines:
        raise BuildError("uki: os-release: expected lines, the last of them ended by a newline")
    names = [line.partition("=")[0] for line in lines]
    for line in lines:
        if not _OS_RELEASE_LINE.fullmatch(line) or not line.isascii():
            raise BuildError(f"uki: os-release: expected NAME=value in ASCII, got {line!r}")
    if "ID" not in names or len(set(names)) != len(names):
        raise BuildError(f"uki: os-release: expected ID and no name twice, got {names}")
