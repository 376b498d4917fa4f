import pytest

from blindbuild.assemble.initramfs import leave_uncompressed, pack_initramfs
from blindbuild.assemble.tree import Tree, device_entry, file_entry, from_files, symlink_entry
from blindbuild.errors import BuildError
from blindbuild.formats.cpio import CpioEntry, read_newc

ZSTD = b"\x28\xb5\x2f\xfd"
TREE = Tree(
    {b"a/f": file_entry(b"abc", 0o500), b"l": symlink_entry(b"a"), b"null": device_entry(1, 3, 0o666)}
)


def test_the_archive_holds_the_tree_owned_by_root_at_time_zero() -> None:
    assert read_newc(pack_initramfs(TREE, leave_uncompressed)) == (
        CpioEntry(b"a", 0o40555),
        CpioEntry(b"a/f", 0o100500, b"abc"),
        CpioEntry(b"l", 0o120777, b"a"),
        CpioEntry(b"null", 0o20666, rdev=(1, 3)),
    )


def test_a_compressed_archive_is_what_the_compressor_gave() -> None:
    assert pack_initramfs(TREE, lambda data: ZSTD + data, decompress=lambda data: data[4:])[:4] == ZSTD


@pytest.mark.parametrize("magic", [b"\x1f\x8b", b"\xfd7zXZ\0", b"", b"\x02\x21"])
def test_a_form_that_the_kernel_cannot_unpack_is_refused(magic: bytes) -> None:
    with pytest.raises(BuildError, match="expected zstd"):
        pack_initramfs(TREE, lambda data: magic + data[6:])


def test_a_compressor_that_loses_bytes_is_found_out() -> None:
    with pytest.raises(BuildError, match="does not unpack"):
        pack_initramfs(TREE, lambda data: ZSTD + data[1:], decompress=lambda data: data[4:])


def test_an_empty_tree_is_refused() -> None:
    with pytest.raises(BuildError, match="an empty tree"):
        pack_initramfs(from_files({}), leave_uncompressed)
