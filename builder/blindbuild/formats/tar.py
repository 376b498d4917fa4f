"""The tar archives inside Debian packages: a strict, streaming reader.

Only what `dpkg-deb` writes is understood: GNU or POSIX ustar headers, regular files, directories, symbolic
and hard links, and GNU long names. Everything else (devices, sparse files, pax headers, base-256 numbers)
is refused.

Source: POSIX.1-1988 ustar; GNU tar manual, "Basic Tar Format" and "GNU Extensions to the Archive Format".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from blindbuild.errors import ArchiveError

BLOCK = 512
MAX_ENTRIES = 500_000  # the largest package in use here has 15,000; bounds the work on a hostile file
MAX_NAME = 4096  # PATH_MAX of Linux
MAX_FILE_SIZE = 2 << 30  # bytes; linux-source holds one file of 150 MB

_MAGICS = (b"ustar  \0", b"ustar\00000")
_OCTAL_DIGITS = frozenset(b"01234567")
_ZERO_BLOCK = bytes(BLOCK)


class EntryKind(Enum):
    """What an entry is; the value is the letter used in tree listings (`h` never gets there)."""

    FILE = "f"
    DIRECTORY = "d"
    SYMLINK = "l"
    HARDLINK = "h"


@dataclass(frozen=True, slots=True)
class TarEntry:
    """One entry of an archive; owner and time are dropped on purpose.

    `path` has no leading `./` and no trailing slash. `mode` holds the 12 permission bits. `target` is the
    text of a symbolic link, or the path of the file that a hard link repeats. Only regular files have
    `data`.
    """

    kind: EntryKind
    path: bytes
    mode: int
    target: bytes = b""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class _Header:
    """The fields of one header block that matter."""

    type_flag: bytes
    name: bytes
    link_name: bytes
    mode: int
    size: int


_KINDS = {
    b"0": EntryKind.FILE,
    b"\0": EntryKind.FILE,
    b"1": EntryKind.HARDLINK,
    b"2": EntryKind.SYMLINK,
    b"5": EntryKind.DIRECTORY,
}
_REFUSED = {
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"7": "a contiguous file",
    b"S": "a sparse file",
    b"g": "a pax header",
    b"x": "a pax header",
}


def read_tar(read: Callable[[int], bytes], *, where: str) -> Iterator[TarEntry]:
    """Yield the entries of a tar archive in file order, the root directory `./` left out.

    Args:
        read: gives exactly the next n bytes, or fewer only at the end of the stream.
        where: what the archive is called in errors.

    Returns:
        An iterator that holds one entry's content at a time. What it yields is safe to unpack in this order
        into an empty directory: no path leaves it or passes through a symbolic link of this archive, hard
        links repeat an earlier file, and nothing but a directory occurs twice. An absolute symbolic link is
        kept as it is: it means the root of the tree it lands in.

    Raises:
        ArchiveError: while iterating, for anything malformed, cut off, unsafe or left over.
    """
    seen: dict[bytes, EntryKind] = {}
    for entry in _read_entries(read, where):
        _check_placement(entry, seen, where)
        seen[entry.path] = entry.kind
        if len(seen) > MAX_ENTRIES:
            raise ArchiveError(f"{where}: expected at most {MAX_ENTRIES} entries")
        if entry.path:
            yield entry


def _read_entries(read: Callable[[int], bytes], where: str) -> Iterator[TarEntry]:
    """Yield entries, GNU long names resolved, up to the end-of-archive marker and check what follows it."""
    long_name = long_link = b""
    while True:
        block = _read_exactly(read, BLOCK, where)
        if block == _ZERO_BLOCK:
            break
        header = _parse_header(block, where)
        if header.type_flag == b"L":
            long_name = _read_long_name(read, header.size, where)
        elif header.type_flag == b"K":
            long_link = _read_long_name(read, header.size, where)
        else:
            yield _make_entry(read, header, long_name or header.name, long_link or header.link_name, where)
            long_name = long_link = b""
    if long_name or long_link:
        raise ArchiveError(f"{where}: a long name is followed by no entry")
    _check_end(read, where)


def _make_entry(
    read: Callable[[int], bytes], header: _Header, name: bytes, link_name: bytes, where: str
) -> TarEntry:
    """Return the entry for a header, reading its content."""
    kind = _KINDS.get(header.type_flag)
    if kind is None:
        what = _REFUSED.get(header.type_flag, f"type {header.type_flag!r}")
        raise ArchiveError(f"{where}: {_show(name)}: expected a file, directory or link, got {what}")
    path = _normalise(name, where)
    if kind is not EntryKind.FILE and header.size != 0:
        raise ArchiveError(f"{where}: {_show(name)}: expected no content, got {header.size} bytes")
    if bool(link_name) != (kind in (EntryKind.SYMLINK, EntryKind.HARDLINK)):
        raise ArchiveError(f"{where}: {_show(name)}: a link needs a target, and nothing else has one")
    if kind is EntryKind.HARDLINK:
        link_name = _normalise(link_name, where)
    if kind is EntryKind.SYMLINK:
        _check_symlink(path, link_name, where)
    data = _read_content(read, header.size, where) if header.size else b""
    return TarEntry(kind=kind, path=path, mode=header.mode, target=link_name, data=data)


def _parse_header(block: bytes, where: str) -> _Header:
    """Return the fields of a header block whose checksum holds."""
    if block[257:265] not in _MAGICS:
        raise ArchiveError(f"{where}: expected a ustar header, got magic {block[257:265]!r}")
    expected = _parse_octal(block[148:156], "checksum", where)
    actual = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    if expected != actual:
        raise ArchiveError(f"{where}: header checksum: expected {expected}, got {actual}")
    name = _cut(block[0:100], where)
    if block[257:265] == _MAGICS[1]:
        prefix = _cut(block[345:500], where)
        name = prefix + b"/" + name if prefix else name
    mode = _parse_octal(block[100:108], "mode", where)
    size = _parse_octal(block[124:136], "size", where)
    if mode > 0o7777:
        raise ArchiveError(f"{where}: {_show(name)}: expected a mode of 12 bits, got {mode:o}")
    if size > MAX_FILE_SIZE:
        raise ArchiveError(f"{where}: {_show(name)}: expected at most {MAX_FILE_SIZE} bytes, got {size}")
    return _Header(block[156:157], name, _cut(block[157:257], where), mode, size)


def _parse_octal(field: bytes, name: str, where: str) -> int:
    """Return the number in a field: octal digits, ended by NUL or space and filled with them."""
    digits = field.rstrip(b"\0 ").lstrip(b" ")
    if not digits or not _OCTAL_DIGITS.issuperset(digits):
        raise ArchiveError(f"{where}: {name}: expected octal digits, got {field!r}")
    return int(digits, 8)


def _cut(field: bytes, where: str) -> bytes:
    """Return a text field up to its NUL; after it only NULs may follow."""
    text, _, rest = field.partition(b"\0")
    if rest.strip(b"\0"):
        raise ArchiveError(f"{where}: expected only NUL after {_show(text)}, got {rest!r}")
    return text


def _read_long_name(read: Callable[[int], bytes], size: int, where: str) -> bytes:
    """Return the content of a GNU `L` or `K` entry without its NUL."""
    if not 1 < size <= MAX_NAME:
        raise ArchiveError(f"{where}: long name: expected 2 to {MAX_NAME} bytes, got {size}")
    text = _read_content(read, size, where)
    if text[-1:] != b"\0" or b"\0" in text[:-1]:
        raise ArchiveError(f"{where}: long name: expected one NUL, at its end")
    return text[:-1]


def _read_content(read: Callable[[int], bytes], size: int, where: str) -> bytes:
    """Return `size` bytes and skip their padding to a full block, which must be zero."""
    data = _read_exactly(read, size, where)
    padding = _read_exactly(read, -size % BLOCK, where)
    if padding.strip(b"\0"):
        raise ArchiveError(f"{where}: expected zero bytes as padding after {size} bytes of content")
    return data


def _read_exactly(read: Callable[[int], bytes], size: int, where: str) -> bytes:
    data = read(size)
    if len(data) != size:
        raise ArchiveError(f"{where}: cut off: expected {size} bytes, got {len(data)}")
    return data


def _check_end(read: Callable[[int], bytes], where: str) -> None:
    """Check that the marker has its second zero block, and that only zero bytes in full blocks follow."""
    if _read_exactly(read, BLOCK, where) != _ZERO_BLOCK:
        raise ArchiveError(f"{where}: expected two zero blocks at the end, got one")
    while block := read(BLOCK):
        if block != _ZERO_BLOCK:
            raise ArchiveError(f"{where}: expected only zero blocks after the end")


def _normalise(name: bytes, where: str) -> bytes:
    """Return a path relative to the root, without `./` and trailing slash, if it cannot leave the root."""
    if name in (b".", b"./"):
        return b""
    path = name.removeprefix(b"./").removesuffix(b"/")
    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise ArchiveError(
            f"{where}: {_show(name)}: expected a relative path without empty, '.' or '..' parts"
        )
    return path


def _check_symlink(path: bytes, target: bytes, where: str) -> None:
    """Refuse a relative link that climbs above the root of the tree."""
    if target.startswith(b"/"):
        return
    depth = path.count(b"/")
    for part in target.split(b"/"):
        depth += {b"..": -1, b".": 0, b"": 0}.get(part, 1)
        if depth < 0:
            raise ArchiveError(f"{where}: {_show(path)}: the link {_show(target)} leaves the root")


def _check_placement(entry: TarEntry, seen: dict[bytes, EntryKind], where: str) -> None:
    """Refuse duplicates, children of anything but a directory, hard links to anything but an earlier file."""
    earlier = seen.get(entry.path)
    if earlier is not None and not earlier is entry.kind is EntryKind.DIRECTORY:
        raise ArchiveError(f"{where}: {_show(entry.path)}: occurs twice")
    if not entry.path and entry.kind is not EntryKind.DIRECTORY:
        raise ArchiveError(f"{where}: expected the root to be a directory, got {entry.kind.name.lower()}")
    parts = entry.path.split(b"/")[:-1]
    for count in range(1, len(parts) + 1):
        parent = b"/".join(parts[:count])
        if seen.setdefault(parent, EntryKind.DIRECTORY) is not EntryKind.DIRECTORY:
            raise ArchiveError(f"{where}: {_show(entry.path)}: {_show(parent)} is not a directory")
    if entry.kind is EntryKind.HARDLINK and seen.get(entry.target) is not EntryKind.FILE:
        raise ArchiveError(
            f"{where}: {_show(entry.path)}: expected a link to an earlier file, got {_show(entry.target)}"
        )


def _show(text: bytes) -> str:
    """Return bytes as printable text for an error message."""
    return repr(text[:200])[1:]
