"""GUID partition tables: what is read and measured, what is refused, and the disk that is written."""

from __future__ import annotations

import struct
import zlib
from uuid import UUID

import pytest

from blindbuild.assemble.disk import build_disk, build_gpt_disk
from blindbuild.errors import FormatError
from blindbuild.formats.gpt import EFI_SYSTEM_PARTITION, has_gpt, parse_gpt, write_gpt_disk
from blindbuild.formats.source import BytesSource
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.pe_image import make_pe

ESP = bytes.fromhex("28732ac11ff8d211ba4b00a0c93ec93b")
DISK_ID = UUID("11111111-2222-3333-4444-555555555555")
PART_ID = UUID("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee")


def entry(first: int, last: int, *, size: int = 128, kind: bytes = ESP) -> bytes:
    """Write a partition entry by hand (UEFI 2.10, table 5.6)."""
    name = "ESP".encode("utf-16-le").ljust(72, b"\0")
    return (kind + PART_ID.bytes_le + struct.pack("<QQQ", first, last, 0) + name).ljust(size, b"\0")


def header(entries: bytes, **changes: int) -> bytes:
    """Write a header by hand (UEFI 2.10, table 5.5), with a right checksum whatever is changed."""
    fields = {
        "signature": int.from_bytes(b"EFI PART", "little"),
        "revision": 0x10000,
        "header_size": 92,
        "at": 1,
        "other": 4095,
        "first": 34,
        "last": 4062,
        "entries_at": 2,
        "count": 128,
        "entry_size": 128,
        "crc": zlib.crc32(entries),
        **changes,
    }
    front = struct.pack("<QII", fields["signature"], fields["revision"], fields["header_size"])
    rest = bytes(4) + struct.pack(
        "<QQQQ16sQIII",
        *(fields[name] for name in ("at", "other", "first", "last")),
        DISK_ID.bytes_le,
        *(fields[name] for name in ("entries_at", "count", "entry_size", "crc")),
    )
    return front + struct.pack("<I", zlib.crc32(front + bytes(4) + rest)) + rest


def disk(*entries: bytes, **changes: int) -> bytes:
    """Write the first 34 sectors of a disk."""
    table = b"".join(entries).ljust(128 * 128, b"\0")
    return bytes(512) + header(table, **changes).ljust(512, b"\0") + table


ONE = disk(entry(2048, 3000))


def test_the_measured_bytes_are_header_count_and_used_entries() -> None:
    empty = bytes(128)
    second = entry(3001, 3001)
    data = disk(empty, entry(2048, 3000), empty, second)
    table = parse_gpt(data)
    assert table.event_data == data[512:604] + struct.pack("<Q", 2) + entry(2048, 3000) + second
    assert [(p.kind, p.first_sector, p.last_sector, p.name) for p in table.partitions] == [
        (EFI_SYSTEM_PARTITION, 2048, 3000, "ESP"),
        (EFI_SYSTEM_PARTITION, 3001, 3001, "ESP"),
    ]


def test_a_table_without_partitions_is_measured_too() -> None:
    assert parse_gpt(disk()).event_data == disk()[512:604] + bytes(8)


def test_larger_entries_are_measured_whole() -> None:
    raw = entry(2048, 3000, size=256)
    data = bytes(512) + header(raw.ljust(16384, b"\0"), count=64, entry_size=256).ljust(512, b"\0")
    table = parse_gpt(data + raw.ljust(16384, b"\0"))
    assert table.event_data[100:] == raw


def test_a_source_is_read_as_far_as_the_entries_only() -> None:
    class Front(BytesSource):
        def read(self, offset: int, size: int) -> bytes:
            assert offset + size <= 34 * 512
            return super().read(offset, size)

    assert parse_gpt(Front(ONE + bytes(4096))) == parse_gpt(ONE)


def test_sectors_of_4096_bytes_move_header_and_entries() -> None:
    table = entry(2048, 3000).ljust(128 * 128, b"\0")
    large = bytes(4096) + header(table, first=6).ljust(4096, b"\0") + table
    assert len(parse_gpt(large, sector_size=4096).partitions) == 1
    with pytest.raises(FormatError, match="expected signature"):
        parse_gpt(large)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bytes(34 * 512), "expected signature b'EFI PART'"),
        (disk(revision=0x10001), "expected revision 1.0"),
        (disk(header_size=512), "a header of 92 bytes, got 0x00010000 and 512"),
        (disk(at=4095), "expected the primary header at sector 1, got 4095"),
        (disk(count=0), "expected 1 to 1024 entries, got 0"),
        (disk(count=0xFFFFFFFF), "expected 1 to 1024 entries, got 4294967295"),
        (disk(entry_size=64), "expected entries of 128 bytes"),
        (disk(entry_size=192), "expected entries of 128 bytes"),
        (disk(entry_size=8192), "expected entries of 128 bytes"),
        (disk(entries_at=1), "expected entries before the usable sectors"),
        (disk(entries_at=40), "expected entries before the usable sectors"),
        (disk(last=33), "expected entries before the usable sectors"),
        (disk(entries_at=1 << 63, first=(1 << 63) + 1, last=(1 << 63) + 1), "cut off: entries end at"),
        (disk(crc=1), "expected crc 0x00000001 of the entries"),
        (disk(entry(33, 40)), "expected a partition in sectors 34 to 4062, got 33 to 40"),
        (disk(entry(50, 40)), "expected a partition in sectors 34 to 4062, got 50 to 40"),
        (disk(entry(4000, 4063)), "expected a partition in sectors 34 to 4062, got 4000 to 4063"),
        (disk(entry(100, 200), entry(200, 300)), "two partitions hold sector 200"),
        (ONE[:600], "cut off: expected a header"),
        (ONE[:-1], "cut off: entries end at 17408, got 17407"),
        (ONE[:530] + b"\x01" + ONE[531:], "expected crc"),
    ],
)
def test_a_table_that_firmware_may_read_differently_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_gpt(data)


def test_an_unknown_sector_size_is_refused() -> None:
    with pytest.raises(FormatError, match="expected sectors of 512 or 4096 bytes, got 1024"):
        parse_gpt(ONE, sector_size=1024)


def test_every_truncation_is_refused_and_every_flipped_bit_that_counts() -> None:
    assert_all_refused(parse_gpt, truncations(ONE, step=97), FormatError)
    flipped = assert_nothing_else_raised(parse_gpt, bit_flips(ONE[512:604] + ONE[1024:1152]), FormatError)
    assert flipped == 92 + 128  # alone, neither is a disk

    def on_disk(part: bytes) -> object:
        return parse_gpt(ONE[:512] + part[:92] + ONE[604:1024] + part[92:] + ONE[1152:])

    assert_all_refused(on_disk, bit_flips(ONE[512:604] + ONE[1024:1152]), FormatError)


CONTENT = bytes(range(256)) * 64


def written() -> bytes:
    return write_gpt_disk(CONTENT, disk_id=DISK_ID, partition_id=PART_ID, name="EFI")


def test_a_written_disk_reads_back_and_holds_the_content_at_one_mebibyte() -> None:
    image = written()
    (partition,) = parse_gpt(image).partitions
    assert (partition.kind, partition.name, partition.first_sector) == (EFI_SYSTEM_PARTITION, "EFI", 2048)
    assert image[1 << 20 : (1 << 20) + len(CONTENT)] == CONTENT
    assert (partition.last_sector + 1 - 2048) * 512 == len(CONTENT)
    assert len(image) % (1 << 20) == 0


def test_the_backup_is_the_mirror_of_the_primary_table() -> None:
    image = written()
    last = len(image) // 512 - 1
    backup = image[-512:-420]
    at, other, _, _, _, entries_at = struct.unpack_from("<QQQQ16sQ", backup, 24)
    assert (at, other, entries_at) == (last, 1, last - 32)
    assert image[entries_at * 512 : last * 512] == image[1024 : 34 * 512]
    assert zlib.crc32(backup[:16] + bytes(4) + backup[20:]) == int.from_bytes(backup[16:20], "little")


def test_the_protective_mbr_covers_the_whole_disk() -> None:
    image = written()
    assert image[:446] == bytes(446)
    assert image[446:462] == b"\0\0\x02\0\xee\xff\xff\xff" + struct.pack("<II", 1, len(image) // 512 - 1)
    assert image[462:512] == bytes(48) + b"\x55\xaa"


def test_the_same_inputs_give_the_same_disk() -> None:
    assert written() == written()


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "EFI", "expected a multiple of 512 bytes, got 0"),
        (b"x", "EFI", "expected a multiple of 512 bytes, got 1"),
        (bytes(512), "x" * 37, "expected a name of up to 36 characters"),
        (bytes(512), "a\0b", "expected a name of up to 36 characters"),
    ],
)
def test_what_does_not_fit_is_not_written(content: bytes, name: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        write_gpt_disk(content, disk_id=DISK_ID, partition_id=PART_ID, name=name)


def test_the_disk_of_an_image_holds_the_unpartitioned_disk_as_its_partition() -> None:
    uki = make_pe()
    image, plain = build_gpt_disk(uki), build_disk(uki)
    assert image == build_gpt_disk(uki)
    assert image[1 << 20 : (1 << 20) + len(plain)] == plain
    other = parse_gpt(build_gpt_disk(make_pe(tail=b"another"))).event_data
    assert other == parse_gpt(image).event_data


def test_firmware_sees_a_table_where_there_is_a_protective_mbr_and_a_header() -> None:
    assert has_gpt(written())
    assert not has_gpt(bytes(1 << 16))
    assert not has_gpt(b"")


def test_a_header_or_a_protective_mbr_alone_is_refused() -> None:
    whole = written()
    for data, reason in (
        (bytes(512) + whole[512:], "got a header without an MBR"),
        (whole[:446] + b"\x80" + whole[447:], "got a header without an MBR"),  # active: edk2 refuses it
        (whole[:512] + bytes(512) + whole[1024:], "got an MBR without a header"),
    ):
        with pytest.raises(FormatError, match=reason):
            has_gpt(data)
    # a disk with sectors of 4096 bytes is not one without a table
    with pytest.raises(FormatError, match="512 bytes on, a header; got an MBR without a header"):
        has_gpt(whole[:512] + bytes(3584) + whole[512:])
