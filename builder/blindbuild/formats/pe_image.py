"""PE32+ images: a strict reader that loads the headers, and the rest of the file where it is asked for.

Offsets and names are those of "PE Format" (Microsoft), sections "MS-DOS Stub", "COFF File Header", "Optional
Header" and "Section Table". The reader wants what UEFI firmware and measurement rely on to be unambiguous:
sections inside the file and apart from each other, in the file as well as in memory.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Collection
from dataclasses import dataclass

from blindbuild.errors import PeError
from blindbuild.formats.source import BytesSource, Source, as_source

MACHINE_AMD64 = 0x8664
MACHINE_ARM64 = 0xAA64
BOOT_MACHINES = (MACHINE_AMD64, MACHINE_ARM64)
PE32_PLUS = 0x020B
DIRECTORY_CERTIFICATES = 4  # index of the certificate table among the data directories
MAX_SECTIONS = 96  # limit of the Windows loader; bounds the work on a hostile file
MAX_UKI_SECTIONS = 1024  # profiles multiply sections: since version 258 stubs leave room for 120
MAX_IMAGE_SIZE = 1 << 30  # bytes of a file that is in memory, and of its image; those built here have < 10 MB
MAX_FILE_SIZE = (1 << 32) - 1  # bytes of a file that is not in memory: what 32-bit offsets reach
MAX_SECTION_DATA = 1 << 30  # bytes that `section_data` makes, which VirtualSize alone could ask for

PAGE = 4096

COFF = struct.Struct("<HHIIIHH")  # machine, sections, time, symbol table and count, optional size, flags
SECTION = struct.Struct("<8sIIIIIIHHI")
OPTIONAL_FIXED = 112  # bytes of a PE32+ optional header before its data directories
_MAX_DIRECTORIES = 16
_MAX_ALIGNMENT = 0x1_0000

# Offsets inside the optional header of PE32+.
INITIALIZED_DATA = 8
_SECTION_ALIGNMENT = 32
_FILE_ALIGNMENT = 36
SIZE_OF_IMAGE = 56
_SIZE_OF_HEADERS = 60
_CHECKSUM = 64
_DIRECTORY_COUNT = 108


@dataclass(frozen=True, slots=True)
class PeSection:
    """One line of the section table; sizes and offsets in bytes."""

    name: str
    virtual_size: int
    virtual_address: int
    raw_size: int
    raw_offset: int
    characteristics: int


@dataclass(frozen=True, slots=True)
class PeImage:
    """A checked image; `optional_header` and the other offsets are file offsets in bytes."""

    source: Source
    sections: tuple[PeSection, ...]
    section_alignment: int
    file_alignment: int
    size_of_image: int
    size_of_headers: int
    checksum: int
    pe_offset: int
    optional_header: int
    section_table: int
    directory_count: int
    certificate_table: tuple[int, int]
    symbol_table: int

    @property
    def data(self) -> bytes:
        """The whole file."""
        return self.source.read(0, self.source.size)

    @property
    def checksum_offset(self) -> int:
        """Where the four bytes of CheckSum are."""
        return self.optional_header + _CHECKSUM

    @property
    def certificate_directory(self) -> int | None:
        """Where the eight bytes of the certificate table's directory entry are, if there is one."""
        if self.directory_count <= DIRECTORY_CERTIFICATES:
            return None
        return self.optional_header + OPTIONAL_FIXED + 8 * DIRECTORY_CERTIFICATES

    @property
    def sections_end(self) -> int:
        """The file offset after the last byte of headers and sections."""
        ends = (section.raw_offset + section.raw_size for section in self.sections if section.raw_size)
        return max(ends, default=self.size_of_headers)

    def has_section(self, name: str) -> bool:
        """Say whether there is a section of this name."""
        return any(section.name == name for section in self.sections)

    def section_data(self, name: str) -> bytes:
        """Return VirtualSize bytes as the firmware loads them: cut, or filled with zero bytes.

        Raises:
            PeError: there is no section of this name, or more than one, or it is too long.
        """
        found = [section for section in self.sections if section.name == name]
        if len(found) != 1:
            raise PeError(f"pe: expected one section {name}, got {len(found)}")
        return self.data_of(found[0])

    def data_of(self, section: PeSection) -> bytes:
        """Return VirtualSize bytes of one section as the firmware loads them.

        Raises:
            PeError: more than `MAX_SECTION_DATA`.
        """
        if section.virtual_size > MAX_SECTION_DATA:
            raise PeError(
                f"pe: {section.name}: expected at most {MAX_SECTION_DATA} bytes, got {section.virtual_size}"
            )
        size = min(section.raw_size, section.virtual_size)
        return self.source.read(section.raw_offset, size).ljust(section.virtual_size, b"\0")


def read_pe(data: bytes) -> PeImage:
    """Return the x86-64 image in `data`; see `read_pe_source`.

    Raises:
        PeError: see `read_pe_source`.
    """
    return read_pe_source(BytesSource(data), max_size=MAX_IMAGE_SIZE)


def read_boot_image(image: bytes | Source) -> PeImage:
    """Return an image that UEFI starts, for x86-64 or arm64, with as many sections as profiles need.

    Raises:
        PeError: see `read_pe_source`.
    """
    return read_pe_source(as_source(image), machines=BOOT_MACHINES, max_sections=MAX_UKI_SECTIONS)


def read_pe_source(
    source: Source,
    *,
    machines: Collection[int] = (MACHINE_AMD64,),
    max_sections: int = MAX_SECTIONS,
    max_size: int = MAX_FILE_SIZE,
) -> PeImage:
    """Return the image in `source` after checking every offset and size in its headers.

    Args:
        source: only its headers are read.
        machines: the values of Machine to accept.
        max_sections: how many sections to accept.
        max_size: how many bytes to accept, in the file and in memory.

    Raises:
        PeError: not a PE32+ image for these machines, anything outside the file or inside something else, or
            a certificate table that does not end the file.

    Source: PE Format, "COFF File Header", "Optional Header", "Section Table", "The Attribute Certificate
        Table".
    """
    pe_offset = _read_dos_header(source, max_size)
    coff = COFF.unpack(source.read(pe_offset + 4, COFF.size))
    machine, count, _, symbols, _, optional_size, _ = coff
    if machine not in machines:
        expected = " or ".join(f"0x{known:04x}" for known in machines)
        raise PeError(f"pe: expected machine {expected}, got 0x{machine:04x}")
    if not 1 <= count <= max_sections:
        raise PeError(f"pe: expected 1 to {max_sections} sections, got {count}")
    optional = pe_offset + 4 + COFF.size
    directories = _read_optional_size(source, optional, optional_size)
    header = source.read(optional, optional_size)
    table = optional + optional_size
    image = PeImage(
        source=source,
        sections=_read_section_table(source, table, count),
        section_alignment=_u32(header, _SECTION_ALIGNMENT),
        file_alignment=_u32(header, _FILE_ALIGNMENT),
        size_of_image=_u32(header, SIZE_OF_IMAGE),
        size_of_headers=_u32(header, _SIZE_OF_HEADERS),
        checksum=_u32(header, _CHECKSUM),
        pe_offset=pe_offset,
        optional_header=optional,
        section_table=table,
        directory_count=directories,
        certificate_table=_read_certificate_directory(header, directories),
        symbol_table=symbols,
    )
    _check_headers(image, max_size)
    _check_sections(image)
    _check_certificates(image)
    return image


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _read_dos_header(source: Source, max_size: int) -> int:
    """Return the offset of the PE signature; the COFF header after it is inside the file."""
    header = source.read(0, min(64, source.size))
    if header[:2] != b"MZ":
        raise PeError(f"pe: expected magic 'MZ', got {header[:2]!r}")
    if len(header) < 64:
        raise PeError(f"pe: cut off: expected a 64-byte DOS header, got {len(header)} bytes")
    if source.size > max_size:
        raise PeError(f"pe: expected at most {max_size} bytes, got {source.size}")
    offset = _u32(header, 60)
    last = source.size - 4 - COFF.size
    if not 64 <= offset <= last or offset % 2:
        raise PeError(f"pe: expected an even header offset from 64 to {last}, got {offset}")
    signature = source.read(offset, 4)
    if signature != b"PE\0\0":
        raise PeError(f"pe: expected signature 'PE' at {offset}, got {signature!r}")
    return offset


def _read_optional_size(source: Source, optional: int, size: int) -> int:
    """Return the number of data directories, which the size of the optional header has to agree with."""
    if size < OPTIONAL_FIXED or optional + size > source.size:
        raise PeError(f"pe: expected a PE32+ optional header in the file, got {size} bytes at {optional}")
    header = source.read(optional, OPTIONAL_FIXED)
    magic = int.from_bytes(header[:2], "little")
    if magic != PE32_PLUS:
        raise PeError(f"pe: expected optional header magic 0x{PE32_PLUS:04x} (PE32+), got 0x{magic:04x}")
    count = _u32(header, _DIRECTORY_COUNT)
    if count > _MAX_DIRECTORIES or size != OPTIONAL_FIXED + 8 * count:
        raise PeError(f"pe: {count} data directories do not fit an optional header of {size} bytes")
    return count


def _read_certificate_directory(header: bytes, directories: int) -> tuple[int, int]:
    """Return file offset and size of the certificate table, zeros if there is none."""
    if directories <= DIRECTORY_CERTIFICATES:
        return (0, 0)
    entry = OPTIONAL_FIXED + 8 * DIRECTORY_CERTIFICATES
    return (_u32(header, entry), _u32(header, entry + 4))


def _read_section_table(source: Source, table: int, count: int) -> tuple[PeSection, ...]:
    """Return the lines of the section table."""
    table_end = table + count * SECTION.size
    if table_end > source.size:
        raise PeError(f"pe: cut off: the section table ends at {table_end}, got {source.size} bytes")
    lines = source.read(table, count * SECTION.size)
    return tuple(
        _read_section(line, table + index * SECTION.size)
        for index, line in enumerate(SECTION.iter_unpack(lines))
    )


def _read_section(line: tuple[bytes, int, int, int, int, int, int, int, int, int], offset: int) -> PeSection:
    name, virtual_size, address, raw_size, raw_offset, _, _, _, _, flags = line
    text = name.rstrip(b"\0")
    if not text or any(not 0x21 <= byte <= 0x7E for byte in text):
        raise PeError(f"pe: expected a printable section name at {offset}, got {name!r}")
    return PeSection(text.decode("ascii"), virtual_size, address, raw_size, raw_offset, flags)


def _check_headers(image: PeImage, max_size: int) -> None:
    """Check alignments, and that the section table is inside the headers, and those inside the file."""
    for name, value in (("section", image.section_alignment), ("file", image.file_alignment)):
        if not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            raise PeError(f"pe: {name} alignment: expected a power of two to {_MAX_ALIGNMENT}, got {value}")
    if image.section_alignment < image.file_alignment:
        raise PeError(
            f"pe: section alignment: expected {image.file_alignment} or more, got {image.section_alignment}"
        )
    if image.size_of_image > max_size:
        raise PeError(f"pe: SizeOfImage: expected at most {max_size}, got {image.size_of_image}")
    end = image.section_table + len(image.sections) * SECTION.size
    if not end <= image.size_of_headers <= image.source.size:
        raise PeError(
            f"pe: SizeOfHeaders: expected {end} to {image.source.size}, got {image.size_of_headers}"
        )


def _check_sections(image: PeImage) -> None:
    """Check that sections neither leave the file or the image, nor overlap headers or each other."""
    in_file = [(image.size_of_headers, 0, "headers")]
    in_memory = [(image.size_of_headers, 0, "headers")]
    for section in image.sections:
        if section.raw_size:
            in_file.append((section.raw_offset + section.raw_size, section.raw_offset, section.name))
        end = section.virtual_address + section.virtual_size
        in_memory.append((end, section.virtual_address, section.name))
    _check_apart(in_file, image.source.size, "the file")
    _check_apart(in_memory, image.size_of_image, "the image")


def _check_apart(ranges: list[tuple[int, int, str]], limit: int, where: str) -> None:
    """Check that (end, start, name) ranges are inside `limit` and do not overlap."""
    ordered = sorted(ranges, key=lambda item: (item[1], item[0]))
    for end, start, name in ordered:
        if end > limit:
            raise PeError(f"pe: {name}: expected to end in {where} of {limit} bytes, got {start} to {end}")
    for (end, _, name), (_, start, other) in itertools.pairwise(ordered):
        if start < end:
            raise PeError(f"pe: {other} at {start} overlaps {name}, which ends at {end} of {where}")


def _check_certificates(image: PeImage) -> None:
    """Check that a certificate table is after the sections and ends the file."""
    offset, size = image.certificate_table
    if (offset, size) == (0, 0):
        return
    if not size or offset < image.sections_end or offset + size != image.source.size:
        raise PeError(
            f"pe: expected a certificate table from {image.sections_end} or later to the end of the file at"
            f" {image.source.size}, got {size} bytes at {offset}"
        )
