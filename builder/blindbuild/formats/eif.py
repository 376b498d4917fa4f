"""The Enclave Image Format, version 2 to 4: what an AWS Nitro Enclave is started from.

A header of 548 bytes, then sections, each behind a header of its own. All integers are big-endian. The
checksum is CRC-32 (ISO-HDLC, as zlib's) over the whole file but the four bytes that hold it.

Source: aws-nitro-enclaves-image-format, README.md "Enclave Image File (EIF) Specification" of 2024-06-21 and
src/defs/mod.rs, commit 935dc626. Stricter here than there, because two readings of one file would be two
measurements: sections follow each other without a gap, and what is reserved or unused is zero.
"""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blindbuild.errors import EifError
from blindbuild.formats.source import Source, read_chunks

MAGIC = b".eif"
VERSION = 4  # the current one, of nitro-cli 1.2.0 (2022-03)
OLDEST_VERSION = 2  # 0 and 1 were never published and "will fail" to load
METADATA_SINCE = 4
SIGNATURE_SINCE = 3
MAX_SECTIONS = 32  # the header's tables have this many places
MAX_SIGNATURE_BYTES = 32768  # SIGNATURE_MAX_SIZE
MAX_METADATA_BYTES = 1 << 20  # with `docker image inspect` in it some 10 KiB; bounds memory
MAX_COMMAND_LINE_BYTES = 1 << 16  # x86 and arm64 kernels read 2048; bounds memory
DEFAULT_MEMORY_BYTES = 1 << 30  # what nitro-cli writes; the hypervisor reads neither of the two
DEFAULT_PROCESSORS = 2

_HEADER = struct.Struct(f">4sHHQQHH{MAX_SECTIONS}Q{MAX_SECTIONS}QII")
_SECTION_HEADER = struct.Struct(">HHQ")
HEADER_BYTES = _HEADER.size
SECTION_HEADER_BYTES = _SECTION_HEADER.size
_CRC_BYTES = 4  # the header's last field
_ARM64 = 1  # bit 0 of the header's flags; the others are reserved


class SectionType(enum.IntEnum):
    """What a section holds."""

    KERNEL = 1
    COMMAND_LINE = 2
    RAMDISK = 3
    SIGNATURE = 4
    METADATA = 5


class EifArchitecture(enum.Enum):
    """The processor that the enclave must have; the value is the kernel's name for it."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"


@dataclass(frozen=True, slots=True)
class EifSection:
    """One section: its data is `size` bytes from `offset` on, in bytes from the start of the file."""

    section_type: SectionType
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class EifImage:
    """An EIF whose layout and checksum are right; nothing about its contents is judged."""

    version: int
    architecture: EifArchitecture
    default_memory: int
    default_processors: int
    sections: tuple[EifSection, ...]
    crc32: int

    def only(self, section_type: SectionType) -> EifSection | None:
        """Return the section of a type that occurs at most once."""
        return next((item for item in self.sections if item.section_type is section_type), None)


@dataclass(frozen=True, slots=True)
class EifPart:
    """A section to be written."""

    section_type: SectionType
    source: Source


def read_eif(source: Source) -> EifImage:
    """Read the layout of an EIF and check its checksum, holding no section in memory.

    Raises:
        EifError: cut off, a wrong checksum, sections that overlap, leave gaps, are of an unknown type or
            not in the number that the version wants, or a reserved field that is not zero.
        FormatError: the source cannot be read.
    """
    if source.size < HEADER_BYTES:
        raise EifError(f"EIF: cut off: expected a header of {HEADER_BYTES} bytes, got {source.size}")
    header = source.read(0, HEADER_BYTES)
    magic, version, flags, memory, processors, _, count, *rest, _, crc = _HEADER.unpack(header)
    if magic != MAGIC:
        raise EifError(f"EIF: expected {MAGIC!r} at the start, got {magic!r}")
    if not OLDEST_VERSION <= version <= VERSION:
        raise EifError(f"EIF: expected version {OLDEST_VERSION} to {VERSION}, got {version}")
    if flags & ~_ARM64:
        raise EifError(f"EIF: expected only flag bit 0, got 0x{flags:04x}")
    if not 0 < count <= MAX_SECTIONS:
        raise EifError(f"EIF: expected 1 to {MAX_SECTIONS} sections, got {count}")
    offsets, sizes = rest[:MAX_SECTIONS], rest[MAX_SECTIONS:]
    sections = tuple(_read_sections(source, offsets[:count], sizes[:count]))
    _check_contents(sections, version)
    image = EifImage(
        version=version,
        architecture=EifArchitecture.AARCH64 if flags & _ARM64 else EifArchitecture.X86_64,
        default_memory=memory,
        default_processors=processors,
        sections=sections,
        crc32=crc,
    )
    if _header(image) != header:
        raise EifError("EIF: expected zeros in reserved fields and unused places of the header")
    _check_crc(source, header)
    return image


def lay_out(parts: Sequence[EifPart], architecture: EifArchitecture) -> EifImage:
    """Return the image that has these sections in this order, with its checksum still zero.

    Raises:
        EifError: sections that no reader would accept.
    """
    sections, position = [], HEADER_BYTES
    for part in parts:
        position += SECTION_HEADER_BYTES
        sections.append(EifSection(part.section_type, position, part.source.size))
        position += part.source.size
    if len(sections) > MAX_SECTIONS:
        raise EifError(f"EIF: expected at most {MAX_SECTIONS} sections, got {len(sections)}")
    _check_contents(sections, VERSION)
    return EifImage(VERSION, architecture, DEFAULT_MEMORY_BYTES, DEFAULT_PROCESSORS, tuple(sections), 0)


def write_eif(parts: Sequence[EifPart], architecture: EifArchitecture) -> Iterator[bytes]:
    """Yield the bytes of an EIF in pieces that do not fill the memory; every source is read twice.

    Args:
        parts: the sections in the order in which they are to stand.
        architecture: what the kernel among them is for.

    Raises:
        EifError: sections that no reader would accept, or a source that changed between the two readings.
    """
    image = lay_out(parts, architecture)
    header = _header(image)[:-_CRC_BYTES]
    crc = zlib.crc32(header)
    for piece in _pieces(parts):
        crc = zlib.crc32(piece, crc)
    yield header + crc.to_bytes(_CRC_BYTES, "big")
    written = zlib.crc32(header)
    for piece in _pieces(parts):
        written = zlib.crc32(piece, written)
        yield piece
    if written != crc:
        raise EifError("EIF: a part changed while it was read")


def _pieces(parts: Sequence[EifPart]) -> Iterator[bytes]:
    for part in parts:
        yield _SECTION_HEADER.pack(part.section_type, 0, part.source.size)
        yield from read_chunks(part.source, 0, part.source.size)


def _header(image: EifImage) -> bytes:
    unused = (0,) * (MAX_SECTIONS - len(image.sections))
    return _HEADER.pack(
        MAGIC,
        image.version,
        _ARM64 if image.architecture is EifArchitecture.AARCH64 else 0,
        image.default_memory,
        image.default_processors,
        0,
        len(image.sections),
        # the table's offsets are those of the sections' headers
        *(section.offset - SECTION_HEADER_BYTES for section in image.sections),
        *unused,
        *(section.size for section in image.sections),
        *unused,
        0,
        image.crc32,
    )


def _read_sections(source: Source, offsets: Sequence[int], sizes: Sequence[int]) -> Iterator[EifSection]:
    position = HEADER_BYTES
    for number, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
        if offset != position:
            raise EifError(f"EIF: expected section {number} at {position}, got {offset}")
        if position + SECTION_HEADER_BYTES + size > source.size:
            raise EifError(
                f"EIF: cut off: section {number} of {size} bytes at {position} in {source.size} bytes"
            )
        kind, flags, own_size = _SECTION_HEADER.unpack(source.read(position, SECTION_HEADER_BYTES))
        if own_size != size:
            raise EifError(f"EIF: section {number}: expected {size} bytes as in the header, got {own_size}")
        if flags:
            raise EifError(f"EIF: section {number}: expected no flags, got 0x{flags:04x}")
        if kind not in list(SectionType):
            raise EifError(f"EIF: section {number}: unknown type {kind}")
        position += SECTION_HEADER_BYTES
        yield EifSection(SectionType(kind), position, size)
        position += size
    if position != source.size:
        raise EifError(f"EIF: expected an end at {position}, got {source.size} bytes")


def _check_contents(sections: Sequence[EifSection], version: int) -> None:
    found = [section.section_type for section in sections]
    _check_count(found, SectionType.KERNEL, 1, 1)
    _check_count(found, SectionType.COMMAND_LINE, 1, 1)
    _check_count(found, SectionType.RAMDISK, 1, MAX_SECTIONS)
    _check_count(found, SectionType.METADATA, *((1, 1) if version >= METADATA_SINCE else (0, 0)))
    _check_count(found, SectionType.SIGNATURE, 0, 1 if version >= SIGNATURE_SINCE else 0)
    if found.index(SectionType.RAMDISK) < found.index(SectionType.KERNEL):
        raise EifError("EIF: expected the kernel before the ramdisks")
    limits = {
        SectionType.SIGNATURE: MAX_SIGNATURE_BYTES,
        SectionType.METADATA: MAX_METADATA_BYTES,
        SectionType.COMMAND_LINE: MAX_COMMAND_LINE_BYTES,
    }
    for section in sections:
        limit = limits.get(section.section_type)
        if limit is not None and section.size > limit:
            raise EifError(f"EIF: {_name(section.section_type)}: expected at most {limit} bytes")


def _check_count(found: Sequence[SectionType], wanted: SectionType, minimum: int, maximum: int) -> None:
    count = found.count(wanted)
    if not minimum <= count <= maximum:
        expected = str(minimum) if minimum == maximum else f"{minimum} to {maximum}"
        raise EifError(f"EIF: expected {expected} sections of type {_name(wanted)}, got {count}")


def _name(section_type: SectionType) -> str:
    return section_type.name.lower().replace("_", " ")


def _check_crc(source: Source, header: bytes) -> None:
    crc = zlib.crc32(header[:-_CRC_BYTES])
    for chunk in read_chunks(source, HEADER_BYTES, source.size - HEADER_BYTES):
        crc = zlib.crc32(chunk, crc)
    stated = int.from_bytes(header[-_CRC_BYTES:], "big")
    if crc != stated:
        raise EifError(f"EIF: expected checksum {stated:08x} as in the header, got {crc:08x}")
