"""GUID partition tables: a strict reader, and a writer of disks that hold one EFI system partition.

Source: UEFI 2.10, 5.2.3 (protective MBR), 5.3.2 (header) and 5.3.3 (partition entries); what firmware
measures of a table: PFP 10.2.3 (UEFI_GPT_DATA).
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass
from uuid import UUID

from blindbuild.errors import FormatError
from blindbuild.formats.source import Source, as_source

SECTOR = 512  # the block size of every disk that is written here, and of virtual disks unless told
EFI_SYSTEM_PARTITION = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
MAX_ENTRIES = 1024  # tools write 128; with the largest entry, an event of 4 MiB that no log could hold
MAX_ENTRY_SIZE = 4096  # 128 is usual, and what every tool writes
ALIGNMENT = 2048  # sectors; 1 MiB, where partitioning tools put a first partition

_SIGNATURE = b"EFI PART"
_REVISION = 0x00010000
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
HEADER_SIZE = _HEADER.size  # 92: what a header is, and what is measured of it
_ENTRY = struct.Struct("<16s16sQQQ72s")
_MIN_ENTRY_SIZE = _ENTRY.size  # 128
_WRITTEN_ENTRIES = 128  # UEFI 2.10, 5.3.1: at least 16,384 bytes are reserved for the entries
_ENTRY_SECTORS = _WRITTEN_ENTRIES * _ENTRY.size // SECTOR
_PROTECTIVE = struct.Struct("<B3sB3sII")
_MBR_SIGNATURE = b"\x55\xaa"
_MAX_MBR_SECTORS = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Partition:
    """One used entry: its bytes, and what of them the measurement does not care about."""

    kind: UUID
    first_sector: int
    last_sector: int
    name: str
    encoded: bytes


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """A primary table that was checked.

    Attributes:
        header: its 92 bytes as they are on the disk.
        partitions: the used entries, in the order of the table.
    """

    header: bytes
    partitions: tuple[Partition, ...]

    @property
    def event_data(self) -> bytes:
        """UEFI_GPT_DATA: header, number of used entries, used entries; what is hashed into PCR 5."""
        entries = b"".join(partition.encoded for partition in self.partitions)
        return self.header + struct.pack("<Q", len(self.partitions)) + entries


def has_gpt(disk: bytes | Source, *, sector_size: int = SECTOR) -> bool:
    """Say whether firmware would see a partition table: a protective MBR, and a signature where it belongs.

    Raises:
        FormatError: only one of the two is there. With the MBR alone, firmware looks for a backup table and
            may restore the primary one from it; with the signature alone, it sees no table.

    Source: UEFI 2.10, 5.2.3; edk2 PartitionDxe, PartitionInstallGptChildHandles.
    """
    source = as_source(disk)
    end = sector_size + len(_SIGNATURE)
    if source.size < end:
        return False
    signed = source.read(sector_size, len(_SIGNATURE)) == _SIGNATURE
    if signed is not _has_protective_mbr(source.read(0, SECTOR)):
        found = "a header without an MBR" if signed else "an MBR without a header"
        raise FormatError(
            f"partition table: expected a protective MBR and, {sector_size} bytes on, a header; got {found}"
        )
    return signed


def parse_gpt(disk: bytes | Source, *, sector_size: int = SECTOR) -> PartitionTable:
    """Return the primary partition table of a disk, or of its first sectors.

    Args:
        disk: at least up to the end of the partition entries; 34 sectors as tools write it.
        sector_size: of the disk, in bytes.

    Raises:
        FormatError: there is none, a checksum is wrong, or a field is out of its bounds.
    """
    source = as_source(disk)
    if sector_size not in (512, 4096):
        raise FormatError(f"partition table: expected sectors of 512 or 4096 bytes, got {sector_size}")
    if source.size < sector_size + HEADER_SIZE:
        raise FormatError(f"partition table: cut off: expected a header, got {source.size} bytes")
    header = source.read(sector_size, HEADER_SIZE)
    _check_header(header)
    _, _, _, _, _, _, _, first, last, _, entries_at, count, size, entries_crc = _HEADER.unpack(header)
    offset = entries_at * sector_size
    if offset + count * size > source.size:
        raise FormatError(
            f"partition table: cut off: entries end at {offset + count * size}, got {source.size} bytes"
        )
    raw = source.read(offset, count * size)
    if zlib.crc32(raw) != entries_crc:
        raise FormatError(
            f"partition table: expected crc 0x{entries_crc:08x} of the entries, got 0x{zlib.crc32(raw):08x}"
        )
    entries = (raw[at : at + size] for at in range(0, len(raw), size))
    partitions = tuple(_read_entry(entry, first, last) for entry in entries if any(entry[:16]))
    _check_apart(partitions)
    return PartitionTable(header, partitions)


def write_gpt_disk(content: bytes, *, disk_id: UUID, partition_id: UUID, name: str) -> bytes:
    """Return a disk image with one EFI system partition that holds `content`.

    Protective MBR, primary table, the partition at 1 MiB, backup table; padded to a multiple of 1 MiB.

    Args:
        content: the partition's content, a multiple of 512 bytes.
        disk_id, partition_id: the two GUIDs of the table.
        name: of the partition, up to 36 characters.

    Raises:
        FormatError: content or name do not fit.
    """
    if not content or len(content) % SECTOR:
        raise FormatError(f"partition table: expected a multiple of {SECTOR} bytes, got {len(content)}")
    used = ALIGNMENT + len(content) // SECTOR
    sectors = -(-(used + _ENTRY_SECTORS + 1) // ALIGNMENT) * ALIGNMENT
    if sectors > _MAX_MBR_SECTORS:
        raise FormatError(f"partition table: expected at most {_MAX_MBR_SECTORS} sectors, got {sectors}")
    entries = _write_entry(partition_id, ALIGNMENT, used - 1, name).ljust(_ENTRY_SECTORS * SECTOR, b"\0")
    primary = _write_header(1, sectors - 1, 2, sectors=sectors, disk_id=disk_id, entries=entries)
    backup_entries = sectors - 1 - _ENTRY_SECTORS
    backup = _write_header(sectors - 1, 1, backup_entries, sectors=sectors, disk_id=disk_id, entries=entries)
    front = (_protective_mbr(sectors) + primary + entries).ljust(ALIGNMENT * SECTOR, b"\0")
    body = (front + content).ljust(backup_entries * SECTOR, b"\0")
    return body + entries + backup


def _check_header(header: bytes) -> None:
    signature, revision, size, crc, _, at, _, first, last, _, entries_at, count, entry_size, _ = (
        _HEADER.unpack(header)
    )
    if signature != _SIGNATURE:
        raise FormatError(f"partition table: expected signature {_SIGNATURE!r}, got {signature!r}")
    # A longer header would be allowed, but firmware measures 92 bytes and nobody writes another one.
    if revision != _REVISION or size != HEADER_SIZE:
        raise FormatError(
            f"partition table: expected revision 1.0 and a header of {HEADER_SIZE} bytes, "
            f"got 0x{revision:08x} and {size}"
        )
    actual = zlib.crc32(header[:16] + bytes(4) + header[20:])
    if actual != crc:
        raise FormatError(f"partition table: expected crc 0x{crc:08x} of the header, got 0x{actual:08x}")
    if at != 1:
        raise FormatError(f"partition table: expected the primary header at sector 1, got {at}")
    if not 1 <= count <= MAX_ENTRIES:
        raise FormatError(f"partition table: expected 1 to {MAX_ENTRIES} entries, got {count}")
    if not _MIN_ENTRY_SIZE <= entry_size <= MAX_ENTRY_SIZE or entry_size & (entry_size - 1):
        raise FormatError(
            f"partition table: expected entries of {_MIN_ENTRY_SIZE} bytes times a power of two to "
            f"{MAX_ENTRY_SIZE}, got {entry_size}"
        )
    if not 2 <= entries_at < first <= last:
        raise FormatError(
            f"partition table: expected entries before the usable sectors, got them at {entries_at}, "
            f"sectors {first} to {last}"
        )


def _read_entry(entry: bytes, first_usable: int, last_usable: int) -> Partition:
    kind, _, first, last, _, name = _ENTRY.unpack_from(entry)
    if not first_usable <= first <= last <= last_usable:
        raise FormatError(
            f"partition table: expected a partition in sectors {first_usable} to {last_usable}, "
            f"got {first} to {last}"
        )
    text = name.decode("utf-16-le", "replace").partition("\0")[0]
    return Partition(UUID(bytes_le=kind), first, last, text, entry)


def _check_apart(partitions: tuple[Partition, ...]) -> None:
    ordered = sorted(partitions, key=lambda partition: partition.first_sector)
    for before, after in itertools.pairwise(ordered):
        if after.first_sector <= before.last_sector:
            raise FormatError(f"partition table: two partitions hold sector {after.first_sector}")


def _write_header(
    at: int, other: int, entries_at: int, *, sectors: int, disk_id: UUID, entries: bytes
) -> bytes:
    first_usable = 2 + _ENTRY_SECTORS
    last_usable = sectors - 2 - _ENTRY_SECTORS
    crc = 0
    for _ in range(2):  # the field is zero while its own checksum is computed
        header = _HEADER.pack(
            *(_SIGNATURE, _REVISION, HEADER_SIZE, crc, 0, at, other, first_usable, last_usable),
            *(disk_id.bytes_le, entries_at, _WRITTEN_ENTRIES, _ENTRY.size, zlib.crc32(entries)),
        )
        crc = crc or zlib.crc32(header)
    return header.ljust(SECTOR, b"\0")


def _write_entry(partition_id: UUID, first: int, last: int, name: str) -> bytes:
    encoded = name.encode("utf-16-le")
    if len(encoded) > 72 or "\0" in name:
        raise FormatError(f"partition table: expected a name of up to 36 characters, got {name!r}")
    return _ENTRY.pack(EFI_SYSTEM_PARTITION.bytes_le, partition_id.bytes_le, first, last, 0, encoded)


def _has_protective_mbr(sector: bytes) -> bool:
    records = (_PROTECTIVE.unpack_from(sector, 446 + 16 * index) for index in range(4))
    return any((active, kind, start) == (0, 0xEE, 1) for active, _, kind, _, start, _ in records)


def _protective_mbr(sectors: int) -> bytes:
    # UEFI 2.10, table 5.4: starts at sector 1, type 0xEE, CHS fields 0x000200 and 0xFFFFFF
    entry = _PROTECTIVE.pack(0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, sectors - 1)
    return bytes(446) + entry + bytes(48) + _MBR_SIGNATURE
