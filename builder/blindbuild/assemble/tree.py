"""The root file system as an immutable value.

A tree is what an image holds, so nothing in it is writable: the constructors from packages and files drop
write bits, and `assemble_rootfs` refuses a tree that has any.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from blindbuild.errors import BuildError, PolicyError
from blindbuild.formats.deb import DebPackage
from blindbuild.formats.tar import EntryKind, TarEntry

MAX_PATH = 1024  # bytes; far below PATH_MAX, so that a prefix can still be put before it
DIRECTORY_MODE = 0o555
_PATH_BYTES = frozenset(range(0x21, 0x7F))  # docs/spec/guest-abi.md: one line a path, no spaces
_WRITE_BITS = 0o222
_MAX_LINKS = 40  # MAXSYMLINKS of Linux
# Debian's merged /usr: packages hold usr/lib, and programs name /lib (base-files makes the links elsewhere).
_MERGED = (b"bin", b"lib", b"lib64", b"sbin")


class Kind(Enum):
    """What an entry is; the value is its letter in the tree listing."""

    FILE = "f"
    DIRECTORY = "d"
    DEVICE = "c"
    SYMLINK = "l"


_TYPE_BITS = {
    Kind.FILE: stat.S_IFREG,
    Kind.DIRECTORY: stat.S_IFDIR,
    Kind.DEVICE: stat.S_IFCHR,
    Kind.SYMLINK: stat.S_IFLNK,
}


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """One entry: `mode` holds the 12 permission bits, `data` a file's content or a symbolic link's target."""

    kind: Kind
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if not 0 <= self.mode <= 0o7777:
            raise BuildError(f"tree: expected a mode of 12 bits, got {self.mode:o}")
        if self.data and self.kind not in (Kind.FILE, Kind.SYMLINK):
            raise BuildError(f"tree: a {self.kind.name.lower()} has no content, got {len(self.data)} bytes")
        if self.kind is Kind.SYMLINK and (not self.data or b"\0" in self.data or self.mode != 0o777):
            raise BuildError(f"tree: expected a link target and mode 777, got {self.data!r}, {self.mode:o}")
        if (self.device != (0, 0)) != (self.kind is Kind.DEVICE):
            raise BuildError(f"tree: only a device has a device number, got {self.device}")

    @property
    def full_mode(self) -> int:
        """Mode with the file type, as `stat` and cpio have it."""
        return _TYPE_BITS[self.kind] | self.mode


def file_entry(data: bytes, mode: int = 0o444) -> TreeEntry:
    """Return a regular file."""
    return TreeEntry(Kind.FILE, mode, data)


def directory_entry(mode: int = DIRECTORY_MODE) -> TreeEntry:
    """Return a directory."""
    return TreeEntry(Kind.DIRECTORY, mode)


def symlink_entry(target: bytes) -> TreeEntry:
    """Return a symbolic link."""
    return TreeEntry(Kind.SYMLINK, 0o777, target)


def device_entry(major: int, minor: int, mode: int) -> TreeEntry:
    """Return a character device."""
    return TreeEntry(Kind.DEVICE, mode, device=(major, minor))


class Tree(Mapping[bytes, TreeEntry]):
    """Entries by path, sorted by the bytes of the path; every parent is there and is a directory.

    Args:
        entries: paths without a leading slash; parents that are missing become directories of mode 0555.

    Raises:
        PolicyError: a path with bytes outside 0x21-0x7e, or empty, `.` or `..` parts.
        BuildError: a parent that is not a directory.
    """

    __slots__ = ("_entries",)

    def __init__(self, entries: Mapping[bytes, TreeEntry]) -> None:
        complete = dict(entries)
        for path in entries:
            _check_path(path)
            for parent in _parents(path):
                if complete.setdefault(parent, directory_entry()).kind is not Kind.DIRECTORY:
                    raise BuildError(
                        f"tree: {parent.decode()} is no directory, and has {path.decode()} below it"
                    )
        self._entries = {path: complete[path] for path in sorted(complete)}

    def __getitem__(self, path: bytes) -> TreeEntry:
        return self._entries[path]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Tree({len(self)} entries)"

    def merge(self, other: Tree) -> Tree:
        """Return both trees in one.

        Raises:
            BuildError: a path that the two give different entries, or that is no directory in one and a
            parent in
                the other; every such path is named.
        """
        conflicts = [path for path in self if path in other and self[path] != other[path]]
        if conflicts:
            raise BuildError(f"tree: two sources give different entries: {_list_paths(conflicts)}")
        return Tree({**self, **other})

    def resolve(self, path: bytes) -> bytes | None:
        """Return the path of what a program finds whose root directory this tree is, or None.

        Symbolic links are followed as the kernel does: an absolute one starts at the tree's root, `..` stays
        there, and after 40 links the search ends.

        Source: path_resolution(7).
        """
        pending = path.split(b"/")[::-1]
        found: list[bytes] = []
        links = 0
        while pending:
            part = pending.pop()
            if part == b"..":
                found = found[:-1]
            if part in (b"", b".", b".."):
                continue
            entry = self.get(b"/".join([*found, part]))
            if entry is None or links > _MAX_LINKS:
                return None
            if entry.kind is Kind.SYMLINK:
                links += 1
                found = [] if entry.data.startswith(b"/") else found
                pending += entry.data.split(b"/")[::-1]
            else:
                found = [*found, part]
        return b"/".join(found)

    def below(self, prefix: bytes) -> Tree:
        """Return this tree moved into a directory."""
        return Tree({prefix + b"/" + path: entry for path, entry in self.items()})


def from_files(files: Mapping[bytes, bytes], *, executables: Collection[bytes] = ()) -> Tree:
    """Return a tree of regular files, mode 0555 for `executables` and 0444 for the rest.

    Raises:
        BuildError: an executable that is not among the files, or what `Tree` raises.
    """
    missing = sorted(set(executables) - set(files))
    if missing:
        raise BuildError(f"tree: executables that are no files: {_list_paths(missing)}")
    modes = {path: 0o555 if path in executables else 0o444 for path in files}
    return Tree({path: file_entry(data, modes[path]) for path, data in files.items()})


def from_deb_packages(
    packages: Iterable[DebPackage], *, keep: Callable[[bytes], bool] = lambda path: True
) -> Tree:
    """Return the files of Debian packages; no maintainer script is run or looked at.

    Write bits are dropped, hard links become files of their own, and the links of Debian's merged /usr
    (`lib` to `usr/lib` and so on) are made where packages need them.

    Args:
        packages: in any order; the result does not depend on it.
        keep: says by path which entries to take.

    Raises:
        BuildError: two packages that give one path different entries.
        PolicyError: a path that an image cannot hold.
        ArchiveError: a malformed package.
    """
    entries: dict[bytes, TreeEntry] = {}
    for package in packages:
        where = f"{package.package} {package.version}"
        for path, entry in _package_entries(package):
            if keep(path) and entries.setdefault(path, entry) != entry:
                shown = path.decode(errors="replace")
                raise BuildError(f"tree: {where}: {shown} is not the same as in another package")
    tree = Tree(entries)
    links = {name: symlink_entry(b"usr/" + name) for name in _MERGED if b"usr/" + name in tree}
    return Tree({**links, **tree})


def _package_entries(package: DebPackage) -> Iterator[tuple[bytes, TreeEntry]]:
    """Yield path and entry for all of a package."""
    files: dict[bytes, TreeEntry] = {}
    for entry in package.entries:
        if entry.kind is EntryKind.HARDLINK:
            yield entry.path, files[entry.target]
            continue
        converted = _convert(entry)
        if entry.kind is EntryKind.FILE:
            files[entry.path] = converted
        yield entry.path, converted


def _convert(entry: TarEntry) -> TreeEntry:
    if entry.kind is EntryKind.SYMLINK:
        return symlink_entry(entry.target)
    kind = Kind.DIRECTORY if entry.kind is EntryKind.DIRECTORY else Kind.FILE
    return TreeEntry(kind, entry.mode & ~_WRITE_BITS, entry.data)


def _parents(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path, the nearest last."""
    parts = path.split(b"/")
    for count in range(1, len(parts)):
        yield b"/".join(parts[:count])


def _check_path(path: bytes) -> None:
    shown = repr(path[:200])[1:]
    if not 1 <= len(path) <= MAX_PATH or not _PATH_BYTES.issuperset(path):
        raise PolicyError(f"tree: {shown}: expected 1 to {MAX_PATH} bytes of printable ASCII without spaces")
    if any(part in (b"", b".", b"..") for part in path.split(b"/")):
        raise PolicyError(f"tree: {shown}: expected a relative path without empty, '.' or '..' parts")


def _list_paths(paths: Collection[bytes]) -> str:
    return ", ".join(path.decode(errors="replace") for path in paths)
