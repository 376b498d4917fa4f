import pytest

from blindbuild.errors import ArchiveError
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations

TRAILER = (
    b"070701" + b"0" * 32 + b"00000001" + b"0" * 48 + b"0000000B" + b"00000000" + b"TRAILER!!!\0" + b"\0" * 3
)
# Written by hand from cpio(5): inode 1, directory a of mode 755; inode 2, file a/b with "hi\n".
DIRECTORY_HEADER = "070701 00000001 000041ED 0 0 00000002 0 00000000 0 0 0 0 00000002 0"
FILE_HEADER = "070701 00000002 000081A4 0 0 00000001 0 00000003 0 0 0 0 00000004 0"


def spell_out(header: str) -> bytes:
    return "".join("00000000" if field == "0" else field for field in header.split()).encode()


BY_HAND = spell_out(DIRECTORY_HEADER) + b"a\0" + spell_out(FILE_HEADER) + b"a/b\0\0\0" + b"hi\n\0" + TRAILER
ENTRIES = (CpioEntry(b"a", 0o40755), CpioEntry(b"a/b", 0o100644, b"hi\n"))
SIZE, NLINK, CHECK, MODE, NAMESIZE, RDEV = 54, 38, 102, 14, 94, 78  # offsets in a header
SECOND = 112  # offset of the second header in BY_HAND


def patched(offset: int, text: bytes) -> bytes:
    return BY_HAND[:offset] + text + BY_HAND[offset + len(text) :]


def test_the_writer_gives_what_was_written_by_hand() -> None:
    assert write_newc(ENTRIES) == BY_HAND


def test_the_reader_takes_what_was_written_by_hand() -> None:
    assert read_newc(BY_HAND) == ENTRIES


def test_entries_are_sorted_by_the_bytes_of_their_paths() -> None:
    paths = [b"~end", b"a/b", b"a-b", b"a", b"\xc3\xa9", b".first", b"Z"]
    archive = write_newc(CpioEntry(path, 0o40555) for path in paths)
    assert [entry.path for entry in read_newc(archive)] == [
        b".first",
        b"Z",
        b"a",
        b"a-b",
        b"a/b",
        b"~end",
        b"\xc3\xa9",
    ]


def test_the_order_of_the_input_does_not_matter() -> None:
    assert write_newc(reversed(ENTRIES)) == write_newc(ENTRIES)


def test_a_device_keeps_its_numbers_and_a_link_its_target() -> None:
    entries = (CpioEntry(b"l", 0o120777, b"../x"), CpioEntry(b"null", 0o20666, rdev=(1, 3)))
    assert read_newc(write_newc(entries)) == entries


def test_an_empty_archive_is_its_trailer() -> None:
    assert write_newc(()) == TRAILER
    assert read_newc(TRAILER) == ()


def test_nuls_up_to_a_full_block_may_follow_the_trailer() -> None:
    assert read_newc(BY_HAND + bytes(-len(BY_HAND) % 512)) == ENTRIES


def test_a_name_of_three_dots_is_a_name() -> None:
    assert read_newc(patched(SECOND + 110, b"..."))[1].path == b"..."


def test_every_truncation_is_refused() -> None:
    assert_all_refused(read_newc, truncations(BY_HAND), ArchiveError)


def test_flipped_bits_raise_nothing_else() -> None:
    assert assert_nothing_else_raised(read_newc, bit_flips(BY_HAND), ArchiveError) > 100


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (patched(0, b"070702"), "magic"),
        (patched(0, b"070707"), "magic"),
        (patched(MODE, b"0000_1ED"), "hexadecimal"),
        (patched(MODE, b" 00041ED"), "hexadecimal"),
        (patched(MODE, b"+00041ED"), "hexadecimal"),
        (patched(MODE, b"000001ED"), "known file type"),
        (patched(MODE, b"100041ED"), "known file type"),
        (patched(CHECK, b"00000001"), "check 0"),
        (patched(RDEV, b"00000001"), "no device number"),
        (patched(NAMESIZE, b"00000001"), "name size"),
        (patched(NAMESIZE, b"00001001"), "name size"),
        (patched(NAMESIZE, b"00000003"), "one NUL"),
        (patched(110, b"\0"), "one NUL"),
        (patched(110, b"/"), "relative path"),
        (patched(110, b"."), "relative path"),
        (patched(SECOND + 110, b"../"), "relative path"),
        (patched(SECOND + NLINK, b"00000002"), "one link, got 2"),
        (patched(SECOND + SIZE, b"7FFFFFFF"), "expected 2147483647 bytes"),
        (patched(SECOND + SIZE, b"00000002"), "zero padding"),
        (patched(SECOND + MODE, b"000041A4"), "no content"),
        (patched(SECOND + 114, b"x"), "zero padding"),
        (BY_HAND[:SECOND] * 2 + TRAILER, "occurs twice"),
        (BY_HAND + b"\0", "left over"),
        (BY_HAND + b"x" * (-len(BY_HAND) % 512), "left over"),
        (BY_HAND + bytes(512 - len(BY_HAND) % 512 + 512), "left over"),
        (BY_HAND + BY_HAND, "left over"),
        (TRAILER.replace(b"00000001", b"00000002"), "empty trailer"),
        (TRAILER[:6] + b"00000001" + TRAILER[14:], "empty trailer"),
        (b"", "cut off"),
    ],
)
def test_a_malformed_archive_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_newc(data)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (CpioEntry(b"", 0o100644), "relative path"),
        (CpioEntry(b"/a", 0o100644), "relative path"),
        (CpioEntry(b"a/", 0o100644), "relative path"),
        (CpioEntry(b"a/../b", 0o100644), "relative path"),
        (CpioEntry(b"a\0b", 0o100644), "without NUL"),
        (CpioEntry(b"a" * 4096, 0o100644), "without NUL"),
        (CpioEntry(b"TRAILER!!!", 0o100644), "without NUL"),
        (CpioEntry(b"a", 0o644), "known file type"),
        (CpioEntry(b"a", 0o1100644), "known file type"),
        (CpioEntry(b"a", 0o40755, b"x"), "no content"),
        (CpioEntry(b"a", 0o120777), "link target"),
        (CpioEntry(b"a", 0o120777, b"x" * 4096), "link target"),
        (CpioEntry(b"a", 0o100644, rdev=(1, 3)), "no device number"),
        (CpioEntry(b"a", 0o100644, mtime=-1), "mtime"),
        (CpioEntry(b"a", 0o100644, uid=1 << 32), "uid"),
    ],
)
def test_an_entry_that_the_kernel_would_misread_is_not_written(entry: CpioEntry, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        write_newc([entry])


def test_two_entries_of_one_path_are_not_written() -> None:
    with pytest.raises(ArchiveError, match="occurs twice"):
        write_newc([CpioEntry(b"a", 0o100644), CpioEntry(b"a", 0o100644)])
