"""A wheel as a tree: unzipped where Debian's Python looks, nothing run, no scripts, no byte code."""

from __future__ import annotations

import io
import lzma
import posixpath
import struct
import zipfile
import zlib

from blindbuild.assemble.tree import Tree, from_files
from blindbuild.errors import ArchiveError

PLACE = "usr/lib/python3/dist-packages"  # Debian Python Policy, 2.5
MAX_UNPACKED_BYTES = 4 << 30  # the largest wheels on PyPI unpack to about 2 GB; bounds memory against a bomb
_LIBRARY_SCHEMES = ("purelib", "platlib")
# What zipfile lets through besides its own error: unknown compression, cut or encrypted members, bad streams
# (of bz2, OSError), empty names, fields that end early.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    EOFError,
    IndexError,
    OSError,
    ValueError,
    RuntimeError,
    struct.error,
)


def from_wheel(data: bytes, *, name: str) -> Tree:
    """Return the library files of a wheel.

    Args:
        data: the wheel file.
        name: for messages.

    Raises:
        ArchiveError: not a zip archive, damaged, an unsafe path, or larger than MAX_UNPACKED_BYTES.

    Source: PyPA "Binary distribution format" 1.0, "What's the deal with purelib vs. platlib".
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if sum(member.file_size for member in members) > MAX_UNPACKED_BYTES:
                raise ArchiveError(f"{name}: unpacks to more than {MAX_UNPACKED_BYTES} bytes")
            placed = {_place(member.filename, name): member for member in members}
            files = {
                path.encode(): archive.read(member)
                for path, member in placed.items()
                if path is not None and not path.endswith(".pyc")
            }
    except _DAMAGED as error:
        raise ArchiveError(f"{name}: not a sound wheel: {error}") from error
    return from_files(files, executables=[path for path in files if b".so" in posixpath.basename(path)])


def _place(filename: str, wheel: str) -> str | None:
    parts = filename.split("/")
    if filename.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ArchiveError(f"{wheel}: unsafe path {filename!r}")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in _LIBRARY_SCHEMES:
            return None  # scripts, headers and data of the installing machine: nothing in an image uses them
        parts = parts[2:]
    return posixpath.join(PLACE, *parts)
