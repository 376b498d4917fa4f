import struct

import pytest

from blindbuild.errors import ArchiveError
from blindbuild.formats.fat import read_fat, write_fat
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, truncations

FILES = {"EFI/BOOT/BOOTX64.EFI": bytes(range(256)) * 5, "EMPTY": b"", "README.TXT": b"hello"}
IMAGE = write_fat(FILES, volume_id=0x1234_5678, label="TEST-1")
FAT_SECTORS = struct.unpack_from("<H", IMAGE, 22)[0]
TABLE = 512
ROOT = 512 + 2 * FAT_SECTORS * 512
DATA = ROOT + 512 * 32


def patched(*changes: tuple[int, bytes]) -> bytes:
    image = bytearray(IMAGE)
    for offset, text in changes:
        image[offset : offset + len(text)] = text
    return bytes(image)


def with_table(cluster: int, value: int) -> bytes:
    """Return the image with an entry of both tables changed."""
    raw = value.to_bytes(2, "little")
    return patched((TABLE + 2 * cluster, raw), (TABLE + FAT_SECTORS * 512 + 2 * cluster, raw))


def test_files_read_back() -> None:
    assert read_fat(IMAGE) == FILES


def test_equal_files_give_equal_bytes_whatever_their_order() -> None:
    again = write_fat(dict(reversed(FILES.items())), volume_id=0x1234_5678, label="TEST-1")
    assert again == IMAGE


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 2 << 20, 8 << 20, 33 << 20])
def test_the_cluster_count_is_one_of_fat16_and_the_size_a_multiple_of_a_mebibyte(size: int) -> None:
    image = write_fat({"A": bytes(size)}, volume_id=0, label="X")
    per_cluster, reserved, fats, root, small, _, table, *_ = struct.unpack_from("<BHBHHBH", image, 13)
    sectors = small or struct.unpack_from("<I", image, 32)[0]
    clusters = (sectors - reserved - fats * table - root // 16) // per_cluster
    assert 4085 <= clusters < 65525
    assert len(image) == sectors * 512
    assert len(image) % (1 << 20) == 0
    assert len(image) <= max(size * 1.02 + (1 << 20), 3 << 20)


def test_every_truncation_is_refused() -> None:
    assert_all_refused(read_fat, truncations(IMAGE, step=997), ArchiveError)
    assert_all_refused(read_fat, truncations(IMAGE[:600]), ArchiveError)


def test_flipped_bits_in_headers_tables_and_directories_raise_nothing_else() -> None:
    used = [*range(64), *range(TABLE, TABLE + 16), *range(ROOT, ROOT + 160), *range(DATA, DATA + 128)]
    flips = (patched((offset, bytes([IMAGE[offset] ^ 1 << bit]))) for offset in used for bit in (0, 3, 7))
    assert assert_nothing_else_raised(read_fat, flips, ArchiveError) > 300


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (patched((510, b"\0\0")), "its signature"),
        (patched((11, b"\0\4")), "sectors of 512"),
        (IMAGE + bytes(512), "sectors of 512"),
        (patched((13, b"\3")), "3 sectors a cluster"),
        (patched((13, b"\0")), "0 sectors a cluster"),
        (patched((14, b"\0\0")), "0 reserved"),
        (patched((16, b"\1")), "1 tables"),
        (patched((21, b"\xf0")), "media 0xf0"),
        (patched((17, b"\0\0")), "0 root entries"),
        (patched((22, b"\xff\xff")), "do not fit"),
        (patched((13, b"\x40")), "not FAT16"),
        (patched((22, b"\1\0")), "not FAT16"),
        (patched((TABLE + 4, b"\0\0")), "copies of the allocation table differ"),
        (with_table(0, 0), "media and end mark"),
        (with_table(2, 2), "another owner"),
        (with_table(2, 0), "outside the volume"),
        (with_table(2, 1), "outside the volume"),
        (with_table(2, 0xFFF7), "outside the volume"),
        (with_table(4, 3), "another owner"),
        (with_table(4, 0xFFFF), "do not fit a chain"),
        (with_table(1000, 0xFFFF), "belongs to nothing"),
        (patched((ROOT + 32, b"\xe5")), "plain 8.3 name"),
        (patched((ROOT + 32, b"efi")), "plain 8.3 name"),
        (patched((ROOT + 32, b"E I")), "plain 8.3 name"),
        (patched((ROOT + 32 + 11, b"\x0f")), "attributes 0x0f"),
        (patched((ROOT + 32 + 11, b"\x20")), "do not fit a chain"),
        (patched((ROOT + 32 + 12, b"\x18")), "reserved bits"),
        (patched((ROOT + 64, b"EFI        ")), "duplicate"),
        (patched((ROOT + 64, b"\0")), "after the last directory entry"),
        (patched((ROOT + 32 + 28, b"\1")), "attributes 0x10"),
        (patched((DATA, b"X")), "entry b'.  "),
        (patched((DATA + 32 + 26, b"\2")), "for cluster 0"),
    ],
)
def test_a_malformed_image_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_fat(data)


def test_directories_that_nest_too_deep_are_refused_before_the_recursion_ends() -> None:
    # Each directory's only entry is the next cluster's directory.
    image = bytearray(write_fat({"A/B": b""}, volume_id=0, label="X"))
    tables = struct.unpack_from("<H", image, 22)[0]
    data = 512 + 2 * tables * 512 + 512 * 32
    entry = bytes(image[data - 512 * 32 + 32 : data - 512 * 32 + 64])
    dots = bytes(image[data : data + 64])
    for cluster in range(2, 2000):
        for table in (512, 512 + tables * 512):
            image[table + 2 * cluster : table + 2 * cluster + 2] = b"\xff\xff"
        own, parent, child = (
            struct.pack("<H", n) for n in (cluster, max(cluster - 1, 0) if cluster > 2 else 0, cluster + 1)
        )
        start = data + (cluster - 2) * 512
        image[start : start + 96] = (
            dots[:26] + own + dots[28:58] + parent + dots[60:] + entry[:26] + child + entry[28:]
        )
    with pytest.raises(ArchiveError, match="16 directories below each other"):
        read_fat(bytes(image))


@pytest.mark.parametrize(
    "path", ["a", "TOOLONGNAME", "A.TEXT", "A.B.C", ".A", "A.", "A B", "/A", "A//B", "", "É", "A/.."]
)
def test_a_name_that_is_not_plain_8_3_is_not_written(path: str) -> None:
    with pytest.raises(ArchiveError, match=r"plain 8\.3 name"):
        write_fat({path: b""}, volume_id=0, label="X")


def test_a_path_that_is_file_and_directory_is_not_written() -> None:
    with pytest.raises(ArchiveError, match="as a file and as a directory"):
        write_fat({"A": b"", "A/B": b""}, volume_id=0, label="X")


@pytest.mark.parametrize(
    ("volume_id", "label"), [(-1, "X"), (1 << 32, "X"), (0, ""), (0, "x"), (0, "TWELVE-CHARS")]
)
def test_a_label_or_id_that_does_not_fit_is_not_written(volume_id: int, label: str) -> None:
    with pytest.raises(ArchiveError, match="plain label"):
        write_fat({"A": b""}, volume_id=volume_id, label=label)


def test_no_files_and_too_deep_paths_are_not_written() -> None:
    with pytest.raises(ArchiveError, match="1 to 64 files"):
        write_fat({}, volume_id=0, label="X")
    with pytest.raises(ArchiveError, match="16 directories"):
        write_fat({"A/" * 17 + "A": b""}, volume_id=0, label="X")
