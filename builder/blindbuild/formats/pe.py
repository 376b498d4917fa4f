"""PE32+ images for x86-64: sections appended to a finished image; `pe_image` has the reader.

Source: PE Format (Microsoft), "Optional Header" and "Section Table".
"""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.errors import PeError
from blindbuild.formats.pe_image import (
    DIRECTORY_CERTIFICATES,
    INITIALIZED_DATA,
    MACHINE_AMD64,
    MAX_IMAGE_SIZE,
    MAX_SECTIONS,
    PAGE,
    PE32_PLUS,
    SECTION,
    SIZE_OF_IMAGE,
    PeImage,
    PeSection,
    read_pe,
)

__all__ = [
    "CNT_INITIALIZED_DATA",
    "DIRECTORY_CERTIFICATES",
    "MACHINE_AMD64",
    "MAX_IMAGE_SIZE",
    "MAX_SECTIONS",
    "MEM_READ",
    "PAGE",
    "PE32_PLUS",
    "READ_ONLY_DATA",
    "NewSection",
    "PeImage",
    "PeSection",
    "append_sections",
    "compute_checksum",
    "read_pe",
]

CNT_INITIALIZED_DATA = 0x0000_0040
MEM_READ = 0x4000_0000
READ_ONLY_DATA = CNT_INITIALIZED_DATA | MEM_READ


@dataclass(frozen=True, slots=True)
class NewSection:
    """A section to append: its name of 1 to 8 bytes, and its content."""

    name: str
    data: bytes


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
    initialized = _u32(image.data, image.optional_header + INITIALIZED_DATA)
    if initialized + sum(len(section.data) for section in sections) > MAX_IMAGE_SIZE:
        raise PeError(f"pe: expected at most {MAX_IMAGE_SIZE} bytes of initialized data, got more")
    end = image.section_table + len(names) * SECTION.size
    if end > image.size_of_headers:
        raise PeError(
            f"pe: {len(sections)} more sections need headers of {end} bytes, got {image.size_of_headers}",
            hint="use a stub that was linked with more room in its headers",
        )


def _update_headers(output: bytearray, image: PeImage, new: Sequence[PeSection]) -> None:
    """Write the new lines of the section table and every header field that depends on them."""
    for index, section in enumerate(new, start=len(image.sections)):
        SECTION.pack_into(
            output,
            image.section_table + index * SECTION.size,
            section.name.encode(),
            *(section.virtual_size, section.virtual_address, section.raw_size, section.raw_offset),
            *(0, 0, 0, 0, section.characteristics),
        )
    struct.pack_into("<H", output, image.pe_offset + 6, len(image.sections) + len(new))
    struct.pack_into("<II", output, image.pe_offset + 12, 0, 0)  # symbol table and its length
    optional = image.optional_header
    initialized = _u32(image.data, optional + INITIALIZED_DATA) + sum(section.raw_size for section in new)
    struct.pack_into("<I", output, optional + INITIALIZED_DATA, initialized)
    end = max((s.virtual_address + s.virtual_size for s in new), default=image.size_of_image)
    struct.pack_into("<I", output, optional + SIZE_OF_IMAGE, _align(end, max(PAGE, image.section_alignment)))
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
