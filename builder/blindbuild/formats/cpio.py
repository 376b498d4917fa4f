"""The `newc` cpio archive: a deterministic writer and a strict reader.

Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst; cpio(5) "New ASCII Format". The
kernel's init/initramfs.c skips what it cannot make sense of without a word, so that strictness has to be
here.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

from blindbuild.errors import ArchiveError

MAGIC = b"070701"
TRAILER = b"TRAILER!!!"
HEADER_SIZE = 110
MAX_NAME = 4096  # PATH_MAX of Linux, with the NUL; init/initramfs.c skips longer names
MAX_ENTRIES = 500_000  # bounds the work on a hostile file
MAX_FIELD = 0xFFFF_FFFF  # every header field is eight hexadecimal digits
_BLOCK = 512  # other writers fill their last block with NULs

_FIELDS = (
    *("ino", "mode", "uid", "gid", "nlink", "mtime", "filesize"),
    *("devmajor", "devminor", "rdevmajor", "rdevminor", "namesize", "check"),
)
_HEX_DIGITS = frozenset(b"0123456789abcdefABCDEF")
_TYPES = frozenset(
    {stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK}
)


@dataclass(frozen=True, slots=True)
class CpioEntry:
    """One entry; `mode` has the file type, `data` is a file's content or a symbolic link's target."""

    path: bytes
    mode: int
    data: bytes = b""
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    rdev: tuple[int, int] = (0, 0)


def write_newc(entries: Iterable[CpioEntry]) -> bytes:
    """Return the archive of these entries, sorted by the bytes of their paths.

    Inode numbers count from 1 in that order, a directory has two links and everything else one, device
    numbers of the file system are 0, and nothing follows the trailer but the padding to four bytes.

    Raises:
        ArchiveError: a path that occurs twice, is empty or absolute, or has empty, `.` or `..` parts;
        content where
            none can be; a field that does not fit into 32 bits.
    """
    parts: list[bytes] = []
    previous: bytes | None = None
    ino = 0
    for ino, entry in enumerate(sorted(entries, key=lambda entry: entry.path), start=1):
        if entry.path == previous:
            raise ArchiveError(f"cpio: {_show(entry.path)} occurs twice")
        previous = entry.path
        _check_entry(entry)
        links = 2 if stat.S_ISDIR(entry.mode) else 1
        numbers = (
            ino,
            entry.mode,
            entry.uid,
            entry.gid,
            links,
            entry.mtime,
            len(entry.data),
            0,
            0,
            *entry.rdev,
        )
        parts += (_render(numbers, entry.path), entry.data, bytes(-len(entry.data) % 4))
    parts.append(_render((0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0), TRAILER))
    return b"".join(parts)


def read_newc(data: bytes) -> tuple[CpioEntry, ...]:
    """Return the entries of exactly one archive, in file order.

    What other writers do differently is accepted as long as it means the same: order, inode and device
    numbers, digits in either case, NULs up to a full block of 512 bytes after the trailer. `write_newc` of
    the result therefore gives the same bytes only for an archive that `write_newc` wrote.

    Raises:
        ArchiveError: anything malformed, cut off or left over, hard links, unknown file types, or two
        entries of
            one path.
    """
    entries: dict[bytes, CpioEntry] = {}
    offset = 0
    while True:
        fields, path, offset = _read_header(data, offset)
        if path == TRAILER:
            _check_trailer(data, fields, offset)
            return tuple(entries.values())
        content, offset = _read_content(data, offset, fields["filesize"], path)
        entry = _make_entry(fields, path, content)
        if path in entries or len(entries) == MAX_ENTRIES:
            raise ArchiveError(f"cpio: {_show(path)} occurs twice or exceeds {MAX_ENTRIES} entries")
        entries[path] = entry


def _render(numbers: tuple[int, ...], name: bytes) -> bytes:
    """Return a header with its name and padding; the check field is 0 in this format."""
    for field, number in zip(_FIELDS, numbers, strict=False):
        if not 0 <= number <= MAX_FIELD:
            raise ArchiveError(f"cpio: {_show(name)}: {field}: expected 0 to {MAX_FIELD}, got {number}")
    header = MAGIC + b"".join(b"%08X" % number for number in (*numbers, len(name) + 1, 0)) + name + b"\0"
    return header + bytes(-len(header) % 4)


def _check_entry(entry: CpioEntry) -> None:
    """Refuse what the kernel would skip or read differently."""
    where = f"cpio: {_show(entry.path)}"
    kind = stat.S_IFMT(entry.mode)
    if entry.mode > 0o177777 or kind not in _TYPES:
        raise ArchiveError(f"{where}: expected a mode with a known file type, got {entry.mode:o}")
    if entry.data and kind not in (stat.S_IFREG, stat.S_IFLNK):
        raise ArchiveError(
            f"{where}: expected no content for mode {entry.mode:o}, got {len(entry.data)} bytes"
        )
    if kind == stat.S_IFLNK and not 0 < len(entry.data) < MAX_NAME:
        raise ArchiveError(
            f"{where}: expected a link target of 1 to {MAX_NAME - 1} bytes, got {len(entry.data)}"
        )
    if entry.rdev != (0, 0) and kind not in (stat.S_IFCHR, stat.S_IFBLK):
        raise ArchiveError(f"{where}: expected no device number for mode {entry.mode:o}, got {entry.rdev}")
    if entry.path == TRAILER or b"\0" in entry.path or len(entry.path) >= MAX_NAME:
        raise ArchiveError(f"{where}: expected a name of less than {MAX_NAME} bytes without NUL")
    if any(part in (b"", b".", b"..") for part in entry.path.split(b"/")):
        raise ArchiveError(f"{where}: expected a relative path without empty, '.' or '..' parts")


def _read_header(data: bytes, offset: int) -> tuple[dict[str, int], bytes, int]:
    """Return the header's fields, the name, and the offset of the content."""
    header = data[offset : offset + HEADER_SIZE]
    if len(header) != HEADER_SIZE:
        raise ArchiveError(f"cpio: cut off at offset {offset}: expected a header or the trailer")
    if header[:6] != MAGIC:
        raise ArchiveError(f"cpio: expected magic {MAGIC!r} at offset {offset}, got {header[:6]!r}")
    if not _HEX_DIGITS.issuperset(header[6:]):
        raise ArchiveError(f"cpio: expected hexadecimal digits in the header at offset {offset}")
    fields = {name: int(header[6 + 8 * i : 14 + 8 * i], 16) for i, name in enumerate(_FIELDS)}
    if not 2 <= fields["namesize"] <= MAX_NAME:
        raise ArchiveError(
            f"cpio: name size at offset {offset}: expected 2 to {MAX_NAME}, got {fields['namesize']}"
        )
    start = offset + HEADER_SIZE
    end = start + fields["namesize"]
    name = data[start : end + -end % 4]
    path, nul, padding = name[: end - start - 1], name[end - start - 1 : end - start], name[end - start :]
    if nul != b"\0" or b"\0" in path or padding != bytes(-end % 4):
        raise ArchiveError(f"cpio: expected a name with one NUL and zero padding at offset {start}")
    return fields, path, end + -end % 4


def _read_content(data: bytes, offset: int, size: int, path: bytes) -> tuple[bytes, int]:
    """Return the content and the offset of the next header."""
    content = data[offset : offset + size]
    padding = data[offset + size : offset + size + -size % 4]
    if len(content) != size:
        raise ArchiveError(f"cpio: {_show(path)}: expected {size} bytes, got {len(content)}")
    if padding != bytes(-size % 4):
        raise ArchiveError(f"cpio: {_show(path)}: expected zero padding to four bytes after the content")
    return content, offset + size + len(padding)


def _make_entry(fields: dict[str, int], path: bytes, content: bytes) -> CpioEntry:
    """Return the entry for a header's fields, checked like one that is written."""
    entry = CpioEntry(
        path=path,
        mode=fields["mode"],
        data=content,
        uid=fields["uid"],
        gid=fields["gid"],
        mtime=fields["mtime"],
        rdev=(fields["rdevmajor"], fields["rdevminor"]),
    )
    _check_entry(entry)
    if fields["check"]:
        raise ArchiveError(f"cpio: {_show(path)}: expected check 0, got {fields['check']:08X}")
    if fields["nlink"] != 1 and not stat.S_ISDIR(entry.mode):
        raise ArchiveError(f"cpio: {_show(path)}: expected one link, got {fields['nlink']}")
    return entry


def _check_trailer(data: bytes, fields: dict[str, int], offset: int) -> None:
    """Check that the trailer says nothing, and that only NULs up to a full block of 512 bytes follow it."""
    stated = {name: value for name, value in fields.items() if name not in ("nlink", "namesize")}
    if any(stated.values()) or fields["nlink"] != 1:
        raise ArchiveError(f"cpio: expected an empty trailer, got {fields}")
    rest = data[offset:]
    if rest.strip(b"\0") or len(rest) >= _BLOCK or (rest and len(data) % _BLOCK):
        raise ArchiveError(f"cpio: {len(rest)} bytes are left over after the trailer")


def _show(path: bytes) -> str:
    """Return a path as printable text for an error message."""
    return repr(path[:200])[1:]
