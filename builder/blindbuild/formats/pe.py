"""PE32+ images for x86-64: a strict reader, and sections appended to a finished image.

Offsets and names are those of "PE Format" (Microsoft), sections "MS-DOS Stub", "COFF File Header", "Optional
Header" and "Section Table". The reader wants what UEFI firmware and measurement rely on to be unambiguous:
sections inside the file and apart from each other, in the file as well as in memory.
"""

from __future__ import annotations

import array
import itertools
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.errors import PeError

MACHINE_AMD64 = 0x8664
PE32_PLUS = 0x020B
DIRECTORY_CERTIFICATES = 4  # index of the certificate table among the data directories
MAX_SECTIONS = 96  # limit of the Windows loader; bounds the work on a hostile file
MAX_IMAGE_SIZE = 1 << 30  # bytes, in the file and in memory; the images built here have less than 10 MB

CNT_INITIALIZED_DATA = 0x0000_0040
MEM_READ = 0x4000_0000
READ_ONLY_DATA = CNT_INITIALIZED_DATA | MEM_READ

PAGE = 4096

_COFF = struct.Struct("<HHIIIHH")  # machine, sections, time, symbol table and count, optional size, flags
_SECTION = struct.Struct("<8sIIIIIIHHI")
_OPTIONAL_FIXED = 112  # bytes of a PE32+ optional header before its data directories
_MAX_DIRECTORIES = 16
_MAX_ALIGNMENT = 0x1_0000

# Offsets inside the optional header of PE32+.
_INITIALIZED_DATA = 8
_SECTION_ALIGNMENT = 32
_FILE_ALIGNMENT = 36
_SIZE_OF_IMAGE = 56
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
class NewSection:
    """A section to append: its name of 1 to 8 bytes, and its content."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class PeImage:
    """A checked image; `optional_header` and the other offsets are file offsets in bytes."""

    data: bytes
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
    def checksum_offset(self) -> int:
        """Where the four bytes of CheckSum are."""
        return self.optional_header + _CHECKSUM

    @property
    def certificate_directory(self) -> int | None:
        """Where the eight bytes of the certificate table's directory entry are, if there is one."""
        if self.directory_count <= DIRECTORY_CERTIFICATES:
            return None
        return self.optional_header + _OPTIONAL_FIXED + 8 * DIRECTORY_CERTIFICATES

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
            PeError: there is no section of this name, or more than one.
        """
        found = [section for section in self.sections if section.name == name]
        if len(found) != 1:
            raise PeError(f"pe: expected one section {name}, got {len(found)}")
        section = found[0]
        size = min(section.raw_size, section.virtual_size)
        return self.data[section.raw_offset : section.raw_offset + size].ljust(section.virtual_size, b"\0")


def read_pe(data: bytes) -> PeImage:
    """Return the image in `data` after checking every offset and size in its headers.

    Raises:
        PeError: not a PE32+ image for x86-64, anything outside the file or inside something else, or a
        certificate
            table that does not end the file.

    Source: PE Format, "COFF File Header", "Optional Header", "Section Table", "The Attribute Certificate
        Table".
    """
    pe_offset = _read_dos_header(data)
    machine, count, _, symbols, _, optional_size, _ = _COFF.unpack_from(data, pe_offset + 4)
    if machine != MACHINE_AMD64:
        raise PeError(f"pe: expected machine 0x{MACHINE_AMD64:04x} (x86-64), got 0x{machine:04x}")
    if not 1 <= count <= MAX_SECTIONS:
        raise PeError(f"pe: expected 1 to {MAX_SECTIONS} sections, got {count}")
    optional = pe_offset + 4 + _COFF.size
    directories = _read_optional_size(data, optional, optional_size)
    table = optional + optional_size
    table_end = table + count * _SECTION.size
    if table_end > len(data):
        raise PeError(f"pe: cut off: the section table ends at {table_end}, got {len(data)} bytes")
    image = PeImage(
        data=data,
        sections=tuple(_read_section(data, table + i * _SECTION.size) for i in range(count)),
        section_alignment=_u32(data, optional + _SECTION_ALIGNMENT),
        file_alignment=_u32(data, optional + _FILE_ALIGNMENT),
        size_of_image=_u32(data, optional + _SIZE_OF_IMAGE),
        size_of_headers=_u32(data, optional + _SIZE_OF_HEADERS),
        checksum=_u32(data, optional + _CHECKSUM),
        pe_offset=pe_offset,
        optional_header=optional,
        section_table=table,
        directory_count=directories,
        certificate_table=_read_certificate_directory(data, optional, directories),
        symbol_table=symbols,
    )
    _check_headers(image)
    _check_sections(image)
    _check_certificates(image)
    return image


def append_sections(stub: bytes, sections: Sequence[NewSection]) -> bytes:
    """Return `stub` with read-only data sections after its own, in the given order.

    Each new section starts on a fresh 4 KiB page of memory after the last one. A COFF symbol table behind
    the stub's sections (debugging information that no loader reads) is dropped, so that headers and
    sections are the whole file. CheckSum is computed anew: firmware ignores it and Authenticode leaves it
    out, but tools that check it should find it right. The result is read back and every section compared
    before it is returned.

    Args:
        stub: an unsigned image.
        sections: names that the stub does not have.

    Raises:
        PeError: a stub that is malformed, signed or has bytes after its sections; a name that is taken or
        does not
            fit; or no room for the table in the stub's headers.
    """
    image = read_pe(stub)
    _check_appendable(image, sections)
    output = bytearray(stub[: image.sections_end])
    new: list[PeSection] = []
    address = max(old.virtual_address + max(old.virtual_size, old.raw_size) for old in image.sections)
    for section in sections:
        output += bytes(-len(output) % image.file_alignment)
        address = _align(address, max(PAGE, image.section_alignment))
        raw_size = _align(len(section.data), image.file_alignment)
        new.append(PeSection(section.name, len(section.data), address, raw_size, len(output), READ_ONLY_DATA))
        output += section.data + bytes(raw_size - len(section.data))
        address += len(section.data)
    _update_headers(output, image, new)
    result = bytes(output)
    _compare(read_pe(result), image, sections)
    return result


def compute_checksum(data: bytes, checksum_offset: int) -> int:
    """Return the PE checksum: 16-bit ones' complement sum without the field itself, plus the length.

    Source: the algorithm of ImageHlp's CheckSumMappedFile, which PE Format names for CheckSum.
    """
    padded = array.array("H", data + b"\0" * (len(data) % 2))
    if sys.byteorder == "big":
        padded.byteswap()
    if checksum_offset % 2:
        raise PeError(f"pe: expected CheckSum at an even offset, got {checksum_offset}")
    field = data[checksum_offset : checksum_offset + 4].ljust(4, b"\0")
    low, high = struct.unpack("<HH", field)
    total: int = sum(padded) - low - high
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total + len(data)


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")


def _align(value: int, alignment: int) -> int:
    return value + -value % alignment


def _read_dos_header(data: bytes) -> int:
    """Return the offset of the PE signature; the COFF header after it is inside the file."""
    if data[:2] != b"MZ":
        raise PeError(f"pe: expected magic 'MZ', got {data[:2]!r}")
    if len(data) < 64:
        raise PeError(f"pe: cut off: expected a 64-byte DOS header, got {len(data)} bytes")
    if len(data) > MAX_IMAGE_SIZE:
        raise PeError(f"pe: expected at most {MAX_IMAGE_SIZE} bytes, got {len(data)}")
    offset = _u32(data, 60)
    last = len(data) - 4 - _COFF.size
    if not 64 <= offset <= last or offset % 2:
        raise PeError(f"pe: expected an even header offset from 64 to {last}, got {offset}")
    if data[offset : offset + 4] != b"PE\0\0":
        raise PeError(f"pe: expected signature 'PE' at {offset}, got {data[offset : offset + 4]!r}")
    return offset


def _read_optional_size(data: bytes, optional: int, size: int) -> int:
    """Return the number of data directories, which the size of the optional header has to agree with."""
    if size < _OPTIONAL_FIXED or optional + size > len(data):
        raise PeError(f"pe: expected a PE32+ optional header in the file, got {size} bytes at {optional}")
    magic = int.from_bytes(data[optional : optional + 2], "little")
    if magic != PE32_PLUS:
        raise PeError(f"pe: expected optional header magic 0x{PE32_PLUS:04x} (PE32+), got 0x{magic:04x}")
    count = _u32(data, optional + _DIRECTORY_COUNT)
    if count > _MAX_DIRECTORIES or size != _OPTIONAL_FIXED + 8 * count:
        raise PeError(f"pe: {count} data directories do not fit an optional header of {size} bytes")
    return count


def _read_certificate_directory(data: bytes, optional: int, directories: int) -> tuple[int, int]:
    """Return file offset and size of the certificate table, zeros if there is none."""
    if directories <= DIRECTORY_CERTIFICATES:
        return (0, 0)
    entry = optional + _OPTIONAL_FIXED + 8 * DIRECTORY_CERTIFICATES
    return (_u32(data, entry), _u32(data, entry + 4))


def _read_section(data: bytes, offset: int) -> PeSection:
    """Return one line of the section table."""
    name, virtual_size, address, raw_size, raw_offset, _, _, _, _, flags = _SECTION.unpack_from(data, offset)
    text = name.rstrip(b"\0")
    if not text or any(not 0x21 <= byte <= 0x7E for byte in text):
        raise PeError(f"pe: expected a printable section name at {offset}, got {name!r}")
    return PeSection(text.decode("ascii"), virtual_size, address, raw_size, raw_offset, flags)


def _check_headers(image: PeImage) -> None:
    """Check alignments, and that the section table is inside the headers, and those inside the file."""
    for name, value in (("section", image.section_alignment), ("file", image.file_alignment)):
        if not 1 <= value <= _MAX_ALIGNMENT or value & (value - 1):
            raise PeError(f"pe: {name} alignment: expected a power of two to {_MAX_ALIGNMENT}, got {value}")
    if image.section_alignment < image.file_alignment:
        raise PeError(
            f"pe: section alignment: expected {image.file_alignment} or more, got {image.section_alignment}"
        )
    if image.size_of_image > MAX_IMAGE_SIZE:
        raise PeError(f"pe: SizeOfImage: expected at most {MAX_IMAGE_SIZE}, got {image.size_of_image}")
    end = image.section_table + len(image.sections) * _SECTION.size
    if not end <= image.size_of_headers <= len(image.data):
        raise PeError(f"pe: SizeOfHeaders: expected {end} to {len(image.data)}, got {image.size_of_headers}")


def _check_sections(image: PeImage) -> None:
    """Check that sections neither leave the file or the image, nor overlap headers or each other."""
    in_file = [(image.size_of_headers, 0, "headers")]
    in_memory = [(image.size_of_headers, 0, "headers")]
    for section in image.sections:
        if section.raw_size:
            in_file.append((section.raw_offset + section.raw_size, section.raw_offset, section.name))
        end = section.virtual_address + section.virtual_size
        in_memory.append((end, section.virtual_address, section.name))
    _check_apart(in_file, len(image.data), "the file")
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
    if not size or offset < image.sections_end or offset + size != len(image.data):
        raise PeError(
            f"pe: expected a certificate table from {image.sections_end} or later to the end of the file at"
            f" {len(image.data)}, got {size} bytes at {offset}"
        )


def _check_appendable(image: PeImage, sections: Sequence[NewSection]) -> None:
    """Check the stub, the new names, and that the headers have room for the new lines of the table."""
    if image.certificate_table != (0, 0):
        raise PeError("pe: expected an unsigned image to append to, got one with a certificate table")
    if image.sections_end != len(image.data) and image.symbol_table != image.sections_end:
        raise PeError(
            f"pe: {len(image.data) - image.sections_end} bytes after the sections are not a symbol table"
        )
    names = {section.name for section in image.sections}
    for section in sections:
        if section.name in names or not 1 <= len(section.name.encode()) <= 8 or not section.data:
            raise PeError(f"pe: {section.name!r}: expected a new name of 1 to 8 bytes, and content")
        names.add(section.name)
    initialized = _u32(image.data, image.optional_header + _INITIALIZED_DATA)
    if initialized + sum(len(section.data) for section in sections) > MAX_IMAGE_SIZE:
        raise PeError(f"pe: expected at most {MAX_IMAGE_SIZE} bytes of initialized data, got more")
    end = image.section_table + len(names) * _SECTION.size
    if end > image.size_of_headers:
        raise PeError(
            f"pe: {len(sections)} more sections need headers of {end} bytes, got {image.size_of_headers}",
            hint="use a stub that was linked with more room in its headers",
        )


def _update_headers(output: bytearray, image: PeImage, new: Sequence[PeSection]) -> None:
    """Write the new lines of the section table and every header field that depends on them."""
    for index, section in enumerate(new, start=len(image.sections)):
        _SECTION.pack_into(
            output,
            image.section_table + index * _SECTION.size,
            section.name.encode(),
            *(section.virtual_size, section.virtual_address, section.raw_size, section.raw_offset),
            *(0, 0, 0, 0, section.characteristics),
        )
    struct.pack_into("<H", output, image.pe_offset + 6, len(image.sections) + len(new))
    struct.pack_into("<II", output, image.pe_offset + 12, 0, 0)  # symbol table and its length
    optional = image.optional_header
    initialized = _u32(image.data, optional + _INITIALIZED_DATA) + sum(section.raw_size for section in new)
    struct.pack_into("<I", output, optional + _INITIALIZED_DATA, initialized)
    end = max((s.virtual_address + s.virtual_size for s in new), default=image.size_of_image)
    struct.pack_into("<I", output, optional + _SIZE_OF_IMAGE, _align(end, max(PAGE, image.section_alignment)))
    checksum = compute_checksum(bytes(output), image.checksum_offset)
    struct.pack_into("<I", output, image.checksum_offset, checksum)


def _compare(result: PeImage, stub: PeImage, sections: Sequence[NewSection]) -> None:
    """Check what was written against what was asked for: all sections, their order and content."""
    expected = [(section.name, stub.section_data(section.name)) for section in stub.sections]
    expected += [(section.name, section.data) for section in sections]
    actual = [(section.name, result.section_data(section.name)) for section in result.sections]
    if actual != expected:
        names = [name for name, _ in actual]
        raise PeError(f"pe: the image that was written does not read back as it was meant: {names}")
