"""OVMF images: the GUIDed table near their end, and what it tells a VMM about AMD SEV and Intel TDX.

The table is read backwards from 48 bytes before the end of the image. It names the places where the VMM
finds the lists of pages that it has to add, so these bytes decide what a launch measures. They come with
the firmware, which may be anyone's: nothing here is believed before it adds up.

Sources: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0, X64/OvmfSevMetadata and X64/IntelTdxMetadata; Intel
TDX Virtual Firmware Design Guide 1.01, 11; SEV-ES reset block: GHCB specification 2.03, 4.3.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import TypeVar
from uuid import UUID

from blindbuild.errors import FormatError

PAGE_BYTES = 4096
FOUR_GIB = 1 << 32  # OVMF images end here in the guest's address space
MAX_FIRMWARE_BYTES = 1 << 26  # real images have 1 to 16 MiB; bounds memory
MAX_SECTIONS = 64  # real images list 3 to 8; bounds the work of the checks
MAX_SECTION_BYTES = 1 << 28  # of all sections; real ones have a few MiB; bounds the work of a measurement

TABLE_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SEV_HASH_AREA = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_SECRET_AREA = UUID("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
SEV_ES_RESET = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SVSM_INFO = UUID("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")
TDX_METADATA_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
TDX_METADATA = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")

_BYTES_AFTER_TABLE = 32  # the reset vector and what stands before it
_ENTRY = struct.Struct("<H16s")  # follows its data; the size counts both
_DESCRIPTOR = struct.Struct("<4sIII")  # signature, size, version, number of sections
_SEV_SECTION = struct.Struct("<III")
_TDX_SECTION = struct.Struct("<IIQQII")
_METADATA_VERSION = 1
_ATTRIBUTE_MR_EXTEND = 1

_Kind = TypeVar("_Kind", bound=IntEnum)


class SevSectionType(IntEnum):
    """What a VMM does with a range of pages of an SEV-SNP guest (edk2 X64/OvmfSevMetadata)."""

    SNP_SEC_MEM = 1
    SNP_SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


# A secrets, CPUID or hashes page is one page by its definition; firmware and VMM know no second one.
_ONE_PAGE_TYPES = frozenset(
    {SevSectionType.SNP_SECRETS, SevSectionType.CPUID, SevSectionType.KERNEL_HASHES, SevSectionType.SVSM_CAA}
)


class TdxSectionType(IntEnum):
    """What a VMM does with a range of pages of a trust domain (TDVF Design Guide, table 11-3)."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3


@dataclass(frozen=True, slots=True)
class FooterEntry:
    """One entry of the GUIDed table."""

    guid: UUID
    data: bytes


@dataclass(frozen=True, slots=True)
class FooterTable:
    """The GUIDed table, its entries in the order of a reader: from the end of the image backwards."""

    entries: tuple[FooterEntry, ...]

    def find(self, guid: UUID) -> bytes | None:
        """Return the data of the entry with this GUID, None if there is none."""
        return next((entry.data for entry in self.entries if entry.guid == guid), None)


@dataclass(frozen=True, slots=True)
class GuestArea:
    """A range of guest physical addresses, in bytes."""

    address: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the range."""
        return self.address + self.size


@dataclass(frozen=True, slots=True)
class SevSection:
    """A range of pages that the VMM adds to an SEV-SNP guest."""

    kind: SevSectionType
    area: GuestArea


@dataclass(frozen=True, slots=True)
class TdxSection:
    """A range of pages that the VMM adds to a trust domain.

    Attributes:
        kind: what the pages are for.
        area: where they go.
        data: where their content is in the image, as a slice; None for pages of zeros.
        extends_mrtd: whether the content is measured into MRTD, not only the addresses.
    """

    kind: TdxSectionType
    area: GuestArea
    data: slice | None
    extends_mrtd: bool


def read_footer_table(firmware: bytes) -> FooterTable:
    """Parse the GUIDed table of an OVMF image.

    Args:
        firmware: the image, or at least the end of it that has the table.

    Raises:
        FormatError: no table, one that does not add up, or a GUID that is there twice.
    """
    if len(firmware) > MAX_FIRMWARE_BYTES:
        raise FormatError(f"firmware: expected at most {MAX_FIRMWARE_BYTES} bytes, got {len(firmware)}")
    end = len(firmware) - _BYTES_AFTER_TABLE
    guid, data, start = _read_entry(firmware, 0, end)
    if guid != TABLE_FOOTER:
        raise FormatError(f"firmware: expected the GUIDed table {TABLE_FOOTER} at its end, got {guid}")
    entries: list[FooterEntry] = []
    position = end - _ENTRY.size
    while position > start:
        guid, data, position = _read_entry(firmware, start, position)
        entries.append(FooterEntry(guid, data))
    _check_unique(entries)
    return FooterTable(tuple(entries))


def write_footer_table(table: FooterTable) -> bytes:
    """Return the table with its footer, as it stands before the last 32 bytes of an image."""
    body = b"".join(
        entry.data + _ENTRY.pack(len(entry.data) + _ENTRY.size, entry.guid.bytes_le)
        for entry in reversed(table.entries)
    )
    return body + _ENTRY.pack(len(body) + _ENTRY.size, TABLE_FOOTER.bytes_le)


def sev_es_reset_address(table: FooterTable) -> int | None:
    """Return where all processors but the first start under SEV-ES and SEV-SNP; None if not given.

    Raises:
        FormatError: the entry does not have the 4 bytes of an address.
    """
    return _address(table, SEV_ES_RESET)


def svsm_entry_offset(table: FooterTable) -> int | None:
    """Return where an SVSM starts, counted from the beginning of its image; None if it is no SVSM.

    Raises:
        FormatError: the entry does not have 4 bytes.
    """
    return _address(table, SVSM_INFO)


def sev_hash_area(table: FooterTable) -> GuestArea | None:
    """Return where the VMM writes the hashes of kernel, initrd and command line; None if not supported.

    A build that cannot check the hashes has the entry all the same, with zeros.

    Raises:
        FormatError: the entry does not have the 8 bytes of an address and a size, or crosses a page.
    """
    data = table.find(SEV_HASH_AREA)
    if data is None:
        return None
    if len(data) != 8:
        raise FormatError(f"firmware: expected 8 bytes for the SEV hash table's place, got {len(data)}")
    area = GuestArea(*struct.unpack("<II", data))
    if not area.address or not area.size:
        return None
    if area.address % PAGE_BYTES + area.size > PAGE_BYTES:
        raise FormatError(f"firmware: expected the SEV hash table in one page, got {_show(area)}")
    return area


def read_sev_metadata(firmware: bytes, table: FooterTable) -> tuple[SevSection, ...]:
    """Return the ranges of pages that the VMM adds to an SEV-SNP guest, in its order.

    Raises:
        FormatError: there is no such list, or it is not well formed.

    Source: edk2 OvmfPkg/ResetVector/X64/OvmfSevMetadata.
    """
    start = _metadata_start(firmware, table, SEV_METADATA, "SEV metadata")
    count = _read_descriptor(firmware, start, b"ASEV", _SEV_SECTION)
    sections: list[SevSection] = []
    for index in range(count):
        address, size, number = _SEV_SECTION.unpack_from(
            firmware, start + _DESCRIPTOR.size + index * _SEV_SECTION.size
        )
        kind = _section_type(SevSectionType, number, f"SEV metadata section {index}")
        area = _page_area(address, size, f"SEV metadata section {index}")
        if kind in _ONE_PAGE_TYPES and size != PAGE_BYTES:
            raise FormatError(f"SEV metadata section {index}: expected one page for {kind.name}, got {size}")
        sections.append(SevSection(kind, area))
    _check_disjoint((section.area for section in sections), "SEV metadata")
    return tuple(sections)


def read_tdx_metadata(firmware: bytes, table: FooterTable) -> tuple[TdxSection, ...]:
    """Return the ranges of pages that the VMM adds to a trust domain, in its order.

    Args:
        firmware: the whole image, code and variables: the list names places in it.
        table: its GUIDed table.

    Raises:
        FormatError: there is no such list, it is not well formed, or it names content outside the image.

    Source: TDVF Design Guide, 11.2; edk2 OvmfPkg/ResetVector/X64/IntelTdxMetadata.
    """
    start = _metadata_start(firmware, table, TDX_METADATA_OFFSET, "TDX metadata")
    guid = firmware[max(start - 16, 0) : start]
    if guid != TDX_METADATA.bytes_le:
        raise FormatError(f"TDX metadata: expected {TDX_METADATA} before it, got {guid.hex()}")
    count = _read_descriptor(firmware, start, b"TDVF", _TDX_SECTION)
    sections = tuple(
        _tdx_section(firmware, start + _DESCRIPTOR.size + index * _TDX_SECTION.size, index)
        for index in range(count)
    )
    _check_disjoint((section.area for section in sections), "TDX metadata")
    _check_tdx_kinds([section.kind for section in sections])
    return sections


def _read_entry(firmware: bytes, start: int, end: int) -> tuple[UUID, bytes, int]:
    """Return GUID, data and start of the entry that ends at `end` and may not begin before `start`."""
    if end - start < _ENTRY.size:
        raise FormatError(f"firmware: expected an entry of the GUIDed table, got {max(end - start, 0)} bytes")
    size, guid = _ENTRY.unpack_from(firmware, end - _ENTRY.size)
    if not _ENTRY.size <= size <= end - start:
        raise FormatError(
            f"firmware: expected an entry of {_ENTRY.size} to {end - start} bytes in its table, got {size}"
        )
    return UUID(bytes_le=guid), firmware[end - size : end - _ENTRY.size], end - size


def _check_unique(entries: Sequence[FooterEntry]) -> None:
    for guid, count in Counter(entry.guid for entry in entries).items():
        if count > 1:
            raise FormatError(f"firmware: expected {guid} once in the GUIDed table, got it {count} times")


def _address(table: FooterTable, guid: UUID) -> int | None:
    data = table.find(guid)
    if data is None:
        return None
    if len(data) != 4:
        raise FormatError(f"firmware: expected 4 bytes for {guid} in the GUIDed table, got {len(data)}")
    return int.from_bytes(data, "little")


def _metadata_start(firmware: bytes, table: FooterTable, guid: UUID, what: str) -> int:
    distance = _address(table, guid)
    if distance is None:
        raise FormatError(
            f"{what}: expected {guid} in the GUIDed table, got none",
            hint="use firmware that was built for this kind of guest",
        )
    if not _DESCRIPTOR.size <= distance <= len(firmware):
        raise FormatError(
            f"{what}: expected it {_DESCRIPTOR.size} to {len(firmware)} bytes before the end, got {distance}"
        )
    return len(firmware) - distance


def _read_descriptor(firmware: bytes, start: int, signature: bytes, section: struct.Struct) -> int:
    """Return the number of sections after checking that they are all there."""
    what = signature.decode("ascii")
    got, size, version, count = _DESCRIPTOR.unpack_from(firmware, start)
    if got != signature or version != _METADATA_VERSION:
        raise FormatError(
            f"{what}: expected version {_METADATA_VERSION} of {signature!r}, got {version} of {got!r}"
        )
    if not 0 < count <= MAX_SECTIONS:
        raise FormatError(f"{what}: expected 1 to {MAX_SECTIONS} sections, got {count}")
    expected = _DESCRIPTOR.size + count * section.size
    if size != expected or start + size > len(firmware):
        raise FormatError(f"{what}: expected {expected} bytes before the end of the image, got {size}")
    return int(count)


def _tdx_section(firmware: bytes, offset: int, index: int) -> TdxSection:
    what = f"TDX metadata section {index}"
    data_offset, data_size, address, size, number, attributes = _TDX_SECTION.unpack_from(firmware, offset)
    kind = _section_type(TdxSectionType, number, what)
    if attributes & ~_ATTRIBUTE_MR_EXTEND:
        raise FormatError(f"{what}: expected attributes 0 or {_ATTRIBUTE_MR_EXTEND}, got {attributes:#x}")
    area = _page_area(address, size, what)
    extends = bool(attributes & _ATTRIBUTE_MR_EXTEND)
    if kind in (TdxSectionType.TD_HOB, TdxSectionType.TEMP_MEM):
        if data_offset or data_size:
            raise FormatError(f"{what}: expected no content for {kind.name}, got {data_size} bytes")
        return TdxSection(kind, area, None, extends)
    if data_size != size or data_offset + data_size > len(firmware):
        raise FormatError(
            f"{what}: expected {size} bytes of content inside an image of {len(firmware)} bytes, "
            f"got {data_size} at {data_offset:#x}",
            hint="give the whole image, code and variables in one file",
        )
    return TdxSection(kind, area, slice(data_offset, data_offset + data_size), extends)


def _check_tdx_kinds(kinds: Sequence[TdxSectionType]) -> None:
    # A second TD HOB or variable store would be measured by no one's rules.
    for kind in (TdxSectionType.TD_HOB, TdxSectionType.CFV):
        if kinds.count(kind) > 1:
            raise FormatError(f"TDX metadata: expected at most one {kind.name}, got {kinds.count(kind)}")
    if TdxSectionType.BFV not in kinds or TdxSectionType.TD_HOB not in kinds:
        raise FormatError(
            f"TDX metadata: expected a BFV and a TD_HOB, got {', '.join(kind.name for kind in kinds)}"
        )


def _section_type(kinds: type[_Kind], number: int, what: str) -> _Kind:
    try:
        return kinds(number)
    except ValueError as error:
        raise FormatError(f"{what}: expected a known type, got {number:#x}") from error


def _page_area(address: int, size: int, what: str) -> GuestArea:
    area = GuestArea(address, size)
    if address % PAGE_BYTES or size % PAGE_BYTES or not 0 < size <= MAX_SECTION_BYTES or area.end > FOUR_GIB:
        raise FormatError(f"{what}: expected whole pages below 4 GiB, got {_show(area)}")
    return area


def _check_disjoint(areas: Iterable[GuestArea], what: str) -> None:
    ordered = sorted(areas, key=lambda area: area.address)
    total = sum(area.size for area in ordered)
    if total > MAX_SECTION_BYTES:
        raise FormatError(f"{what}: expected at most {MAX_SECTION_BYTES:#x} bytes in all, got {total:#x}")
    for before, after in pairwise(ordered):
        if before.end > after.address:
            raise FormatError(f"{what}: expected ranges apart, got {_show(before)} and {_show(after)}")


def _show(area: GuestArea) -> str:
    return f"{area.size:#x} bytes at {area.address:#x}"
