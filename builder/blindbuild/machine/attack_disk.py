"""Disks and programs that an operator makes: altered boot images, files beside them, an EFI program of his.

Source: UEFI specification 2.10, 2.1.1 and 4.1 (images and their entry point); "PE Format"; systemd-stub(7).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from blindbuild.assemble.disk import BOOT_PATH
from blindbuild.audit.files import render_listing
from blindbuild.audit.image import unpack_image
from blindbuild.errors import MachineError
from blindbuild.formats.cpio import CpioEntry, write_newc
from blindbuild.formats.fat import SECTOR
from blindbuild.formats.pe import NewSection, PeImage, PeSection, append_sections, read_pe
from blindbuild.host.process import Tool, run

UKI_DIRECTORY = f"{BOOT_PATH}.extra.d"  # systemd src/boot/util.c, get_extra_dir
LISTING = b".blindbuild.tree"  # docs/spec/guest-abi.md
NOT_FOUND = 0x8000_0000_0000_000E  # EFI_NOT_FOUND: the firmware goes on with the next boot option

_FREE_BYTES = 4 << 20  # besides the files, for the file system itself
_MFORMAT, _MMD, _MCOPY = (Tool(name=name, package="mtools") for name in ("mformat", "mmd", "mcopy"))
_SECTORS_PER_TRACK, _HEADS = 32, 64  # of no meaning to anybody who reads it
_SECTION_HEADER = struct.Struct("<8sIIII12xI")
_SECTION_BYTES = 40  # PE Format, "Section Table"
_VIRTUAL_SIZE = 8
_TIMESTAMP = 8  # from the PE signature on: COFF header, TimeDateStamp
_SECTION_COUNT = 6
_SIZE_OF_IMAGE = 24 + 56
_INITRD_ALIGNMENT = 4  # systemd src/boot/initrd.c, combine_initrds
_PE_OFFSET = 0x3C
_CODE, _RELOCATIONS = 0x6000_0020, 0x4200_0040


def lengthen_section(uki: bytes, name: str) -> bytes:
    """Return the image with a section up to four zero bytes longer: padding behind it now counts.

    Nothing else of the file changes, and an initramfs may end in zeros, so that the machine boots. The stub
    fills an initramfs up to a multiple of four bytes by itself; the new size is the first one beyond.
    """
    image = read_pe(uki)
    index, section = _find_section(image, name)
    size = _round_up(section.virtual_size, _INITRD_ALIGNMENT) + 1
    if size > _round_up(section.virtual_size, image.section_alignment):
        raise MachineError(f"{name}: expected a section with padding behind it")
    position = image.section_table + index * _SECTION_BYTES + _VIRTUAL_SIZE
    return _patch(uki, position, struct.pack("<I", size))


def flip_byte(uki: bytes, name: str) -> bytes:
    """Return the image with the middle byte of a section inverted."""
    _, section = _find_section(read_pe(uki), name)
    position = section.raw_offset + min(section.virtual_size, section.raw_size) // 2
    return _patch(uki, position, bytes([uki[position] ^ 0xFF]))


def restamp_stub(uki: bytes) -> bytes:
    """Return the image with the time stamp of another build of its stub: it runs as before."""
    return _restamp(uki, 0)


def restamp_kernel(uki: bytes) -> bytes:
    """Return the image with the time stamp of another build of its kernel: it runs as before."""
    _, section = _find_section(read_pe(uki), ".linux")
    return _restamp(uki, section.raw_offset)


def add_file(uki: bytes, path: bytes, data: bytes) -> bytes:
    """Return the image with one more file in its initramfs, listed as the assembler would: another build.

    Raises:
        FormatError: the image is none of ours.
    """
    entries = [entry for entry in unpack_image(uki).entries if entry.path != LISTING]
    entries = sorted([*entries, CpioEntry(path, 0o100444, data)], key=lambda entry: entry.path)
    listing = CpioEntry(LISTING, 0o100400, render_listing(tuple(entries)))
    return _replace_section(uki, ".initrd", write_newc(sorted([*entries, listing], key=lambda e: e.path)))


def write_disk(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an unpartitioned FAT file system with files of long names, which our own writer has not.

    Raises:
        ToolError: mtools is missing or failed.
    """
    size = _FREE_BYTES + sum(len(data) for data in files.values())
    sectors = size // SECTOR // (_SECTORS_PER_TRACK * _HEADS) + 1
    geometry = ["-h", str(_HEADS), "-s", str(_SECTORS_PER_TRACK), "-t", str(sectors)]
    run(_MFORMAT, ["-C", "-i", str(path), *geometry, "::"])
    folders = sorted({str(parent) for name in files for parent in PurePosixPath(name).parents} - {"."})
    run(_MMD, ["-i", str(path), *(f"::{folder}" for folder in folders)])
    for name, data in files.items():
        run(_MCOPY, ["-i", str(path), "-", f"::{name}"], stdin=data)


def make_addon(command_line: bytes) -> bytes:
    """Return a systemd addon that brings a piece of command line (systemd-stub(7), "Addons")."""
    return _write_image(((b".cmdline", command_line, 0x4000_0040),), entry_point=0)


def returning_program() -> bytes:
    """Return an EFI program that does nothing and returns EFI_NOT_FOUND: `mov rax, NOT_FOUND; ret`."""
    code = b"\x48\xb8" + struct.pack("<Q", NOT_FOUND) + b"\xc3"
    no_relocations = struct.pack("<II", 4096, 8)  # one empty block: the loader wants a table
    return _write_image(
        ((b".text", code, _CODE), (b".reloc", no_relocations, _RELOCATIONS)), entry_point=4096
    )


def _write_image(sections: Sequence[tuple[bytes, bytes, int]], *, entry_point: int) -> bytes:
    """Return a PE32+ EFI application of these (name, content, characteristics)."""
    table = body = b""
    directories = [(0, 0)] * 16
    address, offset = 4096, 1024
    for name, data, characteristics in sections:
        raw = data + bytes(-len(data) % 512)
        table += _SECTION_HEADER.pack(name, len(data), address, len(raw), offset, characteristics)
        if name == b".reloc":
            directories[5] = (address, len(data))  # PE Format, "Optional Header Data Directories"
        body += raw
        offset += len(raw)
        address += _round_up(len(data), 4096)
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, 0, 0, 112 + 8 * 16, 0x22)
    optional = struct.pack("<HBBIIIII", 0x20B, 1, 2, 512, 512, 0, entry_point, 4096)
    optional += struct.pack("<QII6HIIIIHH", 0, 4096, 512, *[0] * 6, 0, address, 1024, 0, 10, 0)
    optional += struct.pack("<4QII", 0, 0, 0, 0, 0, 16)
    optional += b"".join(struct.pack("<II", *directory) for directory in directories)
    head = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64) + b"PE\0\0" + coff + optional + table
    return head.ljust(1024, b"\0") + body


def _restamp(data: bytes, start: int) -> bytes:
    """Invert a bit of TimeDateStamp in the PE image that begins at `start`."""
    (offset,) = struct.unpack_from("<I", data, start + _PE_OFFSET)
    position = start + offset + _TIMESTAMP
    if data[start + offset : start + offset + 4] != b"PE\0\0":
        raise MachineError("expected a PE image, got none")
    return _patch(data, position, bytes([data[position] ^ 1]))


def _replace_section(uki: bytes, name: str, data: bytes) -> bytes:
    """Return the image with another content of one of the sections that were appended to its stub."""
    image = read_pe(uki)
    first, _ = _find_section(image, ".osrel")
    appended = image.sections[first:]
    kept = [NewSection(s.name, data if s.name == name else image.section_data(s.name)) for s in appended]
    return append_sections(_without_sections(uki, image, first), kept)


def _without_sections(uki: bytes, image: PeImage, first: int) -> bytes:
    """Return the stub alone: the image up to the section of this number."""
    start = image.section_table + first * _SECTION_BYTES
    end = image.section_table + len(image.sections) * _SECTION_BYTES
    (offset,) = struct.unpack_from("<I", uki, _PE_OFFSET)
    stub = _patch(uki[: image.sections[first].raw_offset], start, bytes(end - start))
    stub = _patch(stub, offset + _SECTION_COUNT, struct.pack("<H", first))
    return _patch(stub, offset + _SIZE_OF_IMAGE, struct.pack("<I", image.sections[first].virtual_address))


def _find_section(image: PeImage, name: str) -> tuple[int, PeSection]:
    for index, section in enumerate(image.sections):
        if section.name == name and section.raw_size:
            return index, section
    raise MachineError(f"{name}: expected a section with content")


def _patch(data: bytes, position: int, new: bytes) -> bytes:
    return data[:position] + new + data[position + len(new) :]


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
