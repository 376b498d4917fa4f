"""The initramfs: a tree as a newc archive, compressed or as it is."""

from __future__ import annotations

from collections.abc import Callable

from blindbuild.assemble.tree import Tree
from blindbuild.errors import BuildError
from blindbuild.formats.cpio import CpioEntry, read_newc, write_newc

ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1


def leave_uncompressed(archive: bytes) -> bytes:
    """Return the archive as it is: a `compress` for `pack_initramfs`."""
    return archive


def pack_initramfs(
    tree: Tree,
    compress: Callable[[bytes], bytes],
    *,
    decompress: Callable[[bytes], bytes] | None = None,
) -> bytes:
    """Return the initramfs of a tree: everything owned by 0:0 with time 0, sorted by the bytes of the path.

    Args:
        tree: what the kernel is to unpack.
        compress: the locked zstd, or `leave_uncompressed`; the kernel knows no other form (CONFIG_RD_ZSTD
        alone). decompress: if given, undoes `compress`, and the result is compared.

    Raises:
        BuildError: the archive does not read back as the tree, or `compress` gave neither zstd nor its
        input, or
            something that `decompress` does not undo.

    Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst; docs/spec/guest-abi.md.
    """
    entries = tuple(
        CpioEntry(path=path, mode=entry.full_mode, data=entry.data, rdev=entry.device)
        for path, entry in tree.items()
    )
    if not entries:
        raise BuildError("initramfs: expected at least one entry, got an empty tree")
    archive = write_newc(entries)
    if read_newc(archive) != entries:
        raise BuildError("initramfs: the archive that was written does not read back as the tree")
    packed = compress(archive)
    if packed != archive and not packed.startswith(ZSTD_MAGIC):
        raise BuildError(f"initramfs: expected zstd from the compressor, got magic {packed[:4].hex()}")
    if decompress is not None and decompress(packed) != archive:
        raise BuildError("initramfs: the compressed archive does not unpack to what was packed")
    return packed
