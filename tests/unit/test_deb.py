import lzma
import tarfile
from collections.abc import Callable

import pytest

from blindbuild.errors import ArchiveError
from blindbuild.formats.deb import parse_control, read_deb
from blindbuild.formats.tar import EntryKind, TarEntry
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.deb import CONTROL, compress, make_ar, make_deb, make_tar, tar_file, tar_other

LONG = "usr/share/" + "long-name-" * 12 + "/file"
CONTENT = make_tar(
    [
        tar_other("./", tarfile.DIRTYPE),
        tar_other("./usr/", tarfile.DIRTYPE),
        tar_other("./usr/bin/", tarfile.DIRTYPE),
        tar_file("./usr/bin/hello", b"#!/bin/sh\n" * 100, 0o4755),
        tar_other("./usr/bin/again", tarfile.LNKTYPE, target="./usr/bin/hello"),
        tar_other("./usr/bin/link", tarfile.SYMTYPE, target="../../usr/bin/hello", mode=0o777),
        tar_other("./usr/absolute", tarfile.SYMTYPE, target="/etc/hello", mode=0o777),
        tar_file(f"./{LONG}", b""),
    ]
)
HELLO = b"#!/bin/sh\n" * 100


def read_all(data: bytes) -> list[TarEntry]:
    return list(read_deb(data).entries)


def package_with(*entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> bytes:
    return make_deb(make_tar(entries), suffix="")


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_files_directories_and_links_come_in_package_order(suffix: str) -> None:
    assert read_all(make_deb(CONTENT, suffix=suffix)) == [
        TarEntry(EntryKind.DIRECTORY, b"usr", 0o755),
        TarEntry(EntryKind.DIRECTORY, b"usr/bin", 0o755),
        TarEntry(EntryKind.FILE, b"usr/bin/hello", 0o4755, data=HELLO),
        TarEntry(EntryKind.HARDLINK, b"usr/bin/again", 0o755, target=b"usr/bin/hello"),
        TarEntry(EntryKind.SYMLINK, b"usr/bin/link", 0o777, target=b"../../usr/bin/hello"),
        TarEntry(EntryKind.SYMLINK, b"usr/absolute", 0o777, target=b"/etc/hello"),
        TarEntry(EntryKind.FILE, LONG.encode(), 0o644),
    ]


def test_the_control_file_names_the_package() -> None:
    package = read_deb(make_deb(CONTENT))
    assert (package.package, package.version, package.architecture) == ("hello", "1:2.10-3", "amd64")
    assert package.control["Description"] == "example\n with a second line"


def test_entries_can_be_iterated_over_again() -> None:
    package = read_deb(make_deb(CONTENT))
    assert list(package.entries) == list(package.entries)


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_every_truncation_is_refused(suffix: str) -> None:
    small = make_deb(make_tar([tar_file("./a", b"abc")])[:2048], suffix=suffix)
    assert read_all(small)
    assert_all_refused(read_all, truncations(small, step=1 if suffix else 7), ArchiveError)


@pytest.mark.parametrize(("suffix", "step"), [("", 7), (".gz", 1), (".xz", 1)])
def test_flipped_bits_raise_nothing_else(suffix: str, step: int) -> None:
    small = make_deb(make_tar([tar_file("./a", b"abc")])[:2048], suffix=suffix)
    assert assert_nothing_else_raised(read_all, bit_flips(small, step=step), ArchiveError) > 50


def test_a_flipped_bit_in_compressed_data_is_refused() -> None:
    data = bytearray(make_deb(CONTENT))
    data[-60] ^= 1
    with pytest.raises(ArchiveError):
        read_all(bytes(data))


def test_zstd_is_refused_with_a_way_out() -> None:
    data = make_ar({"debian-binary": b"2.0\n", "control.tar.zst": b"", "data.tar.zst": b""})
    with pytest.raises(ArchiveError, match="zstd are not supported") as caught:
        read_deb(data)
    assert caught.value.hint is not None
    assert "xz" in caught.value.hint


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"debian-binary": b"2.1\n", "control.tar": b"", "data.tar": b""}, "format 2.0"),
        ({"debian-binary": b"2.0\n", "control.tar": b""}, "format 2.0"),
        ({"debian-binary": b"2.0\n", "data.tar": b"", "control.tar": b""}, "expected member control.tar"),
        ({"debian-binary": b"2.0\n", "control.tar": b"", "data.tarball": b""}, "expected member data.tar"),
        ({"debian-binary": b"2.0\n", "control.tar": b"", "data.tar.bz2": b""}, "no compression, .gz or .xz"),
        ({"debian-binary": b"2.0\n", "control.tar": make_tar([]), "data.tar": b""}, "a file control"),
    ],
)
def test_another_set_of_members_is_refused(members: dict[str, bytes], reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_deb(make_ar(members))


@pytest.mark.parametrize(
    ("control", "reason"),
    [
        (b"", "expected `Field: value`"),
        (b"\xff: x\n", "UTF-8"),
        (b" continued\n", "line 1"),
        (b"Package: a\n\nPackage: b\n", "line 2"),
        (b"Package: a1\nPackage: a2\n", "given twice"),
        (b"no colon\n", "line 1"),
    ],
)
def test_a_malformed_control_file_is_refused(control: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        parse_control(control)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Package: hello\n", b"", "valid Package, got None"),
        (b"Package: hello", b"Package: ../hello", "valid Package"),
        (b"Version: 1:2.10-3", b"Version: 1/2", "valid Version"),
        (b"Architecture: amd64", b"Architecture: x 86", "valid Architecture"),
    ],
)
def test_a_control_file_without_its_identity_is_refused(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_deb(make_deb(CONTENT, control=CONTROL.replace(old, new)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (package_with(tar_file("../evil", b"x")), "relative path"),
        (package_with(tar_file("./usr/../../evil", b"x")), "relative path"),
        (package_with(tar_file("./usr//evil", b"x")), "relative path"),
        (package_with(tar_file("/etc/passwd", b"x")), "relative path"),
        (package_with(tar_other("./dev/sda", tarfile.BLKTYPE)), "a block device"),
        (package_with(tar_other("./dev/null", tarfile.CHRTYPE)), "a character device"),
        (package_with(tar_other("./pipe", tarfile.FIFOTYPE)), "a FIFO"),
        (package_with(tar_other("./what", b"Z")), "type b'Z'"),
        (package_with(tar_other("./a/up", tarfile.SYMTYPE, target="../../etc")), "leaves the root"),
        (package_with(tar_other("./a", tarfile.SYMTYPE, target="b/../../c")), "leaves the root"),
        (package_with(tar_other("./a", tarfile.SYMTYPE)), "needs a target"),
        (package_with(tar_other("./a", tarfile.DIRTYPE, target="b")), "nothing else has one"),
        (
            package_with(tar_other("./a", tarfile.LNKTYPE, target="./later"), tar_file("./later", b"")),
            "earlier file",
        ),
        (package_with(tar_other("./a", tarfile.LNKTYPE, target="/etc/passwd")), "relative path"),
        (package_with(tar_file("./a", b"1"), tar_file("./a", b"2")), "occurs twice"),
        (
            package_with(tar_other("./a", tarfile.SYMTYPE, target="/"), tar_file("./a/b", b"")),
            "not a directory",
        ),
        (package_with(tar_file("./a", b""), tar_file("./a/b", b"")), "not a directory"),
        (package_with(tar_file("./a/b", b""), tar_other("./a", tarfile.SYMTYPE, target="c")), "occurs twice"),
        (package_with(tar_file("./", b"")), "root to be a directory"),
        (make_deb(make_tar([tar_file("./" + "é" * 60, b"")], pax=True), suffix=""), "a pax header"),
    ],
)
def test_an_unsafe_or_unknown_entry_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_all(data)


def change_header(offset: int, text: bytes) -> bytes:
    """Return a package whose first header was changed, its checksum made right again."""
    block = bytearray(make_tar([tar_file("./a", b"abc")]))
    block[offset : offset + len(text)] = text
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return make_deb(bytes(block), suffix="")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (change_header(257, b"ustar\x0001"), "ustar header"),
        (change_header(124, b"\x80" + bytes(11)), "size: expected octal"),
        (change_header(124, b"00000000009\0"), "size: expected octal"),
        (change_header(124, b"77777777777\0"), "at most"),
        (change_header(100, b"0100644\0"), "mode of 12 bits"),
        (change_header(100, b"       \0"), "mode: expected octal"),
        (change_header(0, b"./a\0hidden"), "only NUL after"),
        (change_header(156, b"5"), "expected no content, got 3"),
        (make_deb(make_tar([tar_file("./a", b"abc")])[:1024], suffix=""), "cut off"),
        (make_deb(make_tar([tar_file("./a", b"abc")])[:1536], suffix=""), "cut off"),
        (make_deb(make_tar([tar_file("./a", b"abc")])[:1536] + b"x" * 512, suffix=""), "two zero blocks"),
        (make_deb(make_tar([tar_file("./a", b"abc")]) + b"x" * 512, suffix=""), "only zero blocks"),
        (make_deb(make_tar([tar_file("./a", b"abc")]) + b"\0", suffix=""), "only zero blocks"),
        (
            make_deb(make_tar([tar_file("./a", b"abc")]).replace(b"abc\0", b"abcd"), suffix=""),
            "zero bytes as padding",
        ),
    ],
)
def test_a_malformed_tar_archive_is_refused_with_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(ArchiveError, match=reason):
        read_all(data)


@pytest.mark.parametrize("repack", [lambda data: data + b"\0\0\0\0", lambda data: data + data])
@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_bytes_after_the_compressed_stream_are_refused(suffix: str, repack: Callable[[bytes], bytes]) -> None:
    control = compress(make_tar([tar_file("./control", CONTROL)]), suffix)
    data = make_ar(
        {
            "debian-binary": b"2.0\n",
            f"control.tar{suffix}": control,
            f"data.tar{suffix}": repack(compress(CONTENT, suffix)),
        }
    )
    with pytest.raises(ArchiveError, match="left over"):
        read_all(data)


def test_a_stream_that_needs_too_much_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    packed = lzma.compress(CONTENT, filters=filters)
    control = compress(make_tar([tar_file("./control", CONTROL)]), "")
    data = make_ar({"debian-binary": b"2.0\n", "control.tar": control, "data.tar.xz": packed})
    with pytest.raises(ArchiveError, match=r"[Mm]emory"):
        read_all(data)
