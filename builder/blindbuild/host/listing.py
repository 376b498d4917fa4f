"""What is in a directory, as lines of text: how the store sees that a stage result is still what was made."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from blindbuild.errors import StoreError

MAX_SYNCED_FILES = 64  # above this one flush of the whole machine is cheaper than one for each file

SET_ID_BITS = stat.S_ISUID | stat.S_ISGID


def list_tree(root: Path) -> bytes:
    """Return one line for each entry below `root`, sorted by the bytes of the path.

    A line is `type mode size sha256 path`: type is `f`, `d`, `l` or `?` (anything else); the hash is over
    the content, for `l` over the target, `-` otherwise; unusual bytes of the path are escaped.

    Raises:
        OSError: something cannot be read.
    """
    return b"".join(_line(path, root) for path in sorted(_walk(root), key=os.fsencode))


def name_difference(expected: bytes, actual: bytes) -> str | None:
    """Say which entry differs between two listings, or None if they are equal."""
    if expected == actual:
        return None
    old, new = set(expected.splitlines()), set(actual.splitlines())
    paths = sorted({line.split(b" ", 4)[-1].decode("ascii", "replace") for line in old ^ new})
    if not paths:
        return "its listing has lines twice or out of order"
    more = f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
    return f"{paths[0]} is not as listed{more}"


def flush_tree(root: Path, listing: bytes) -> None:
    """Flush all files below `root` to disk, and refuse what a result must not hold.

    Raises:
        StoreError: there is something that is neither file, directory nor symbolic link; or a file that gives
            whoever runs it the rights of its owner or group.
    """
    for line in listing.splitlines():
        kind, mode, _, _, name = line.decode("ascii").split(" ", 4)
        if kind == "f" and int(mode, 8) & SET_ID_BITS:  # a directory may have inherited its bit
            raise StoreError(f"a stage made {name} with mode {mode}, expected no set-id bits")
        if kind == "?":
            raise StoreError(f"a stage made {name}, expected only files, directories and symbolic links")
    files = [path for path in _walk(root) if path.is_file() and not path.is_symlink()]
    if len(files) > MAX_SYNCED_FILES:
        os.sync()
        return
    for path in files:
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def _walk(root: Path) -> list[Path]:
    found: list[Path] = []
    for directory, directories, files in os.walk(root, onerror=_fail):
        found += [Path(directory, name) for name in directories + files]
    return found


def _line(path: Path, root: Path) -> bytes:
    status = path.lstat()
    kind, size, digest = "?", 0, "-"
    if stat.S_ISREG(status.st_mode):
        with path.open("rb") as stream:
            kind, size, digest = "f", status.st_size, hashlib.file_digest(stream, "sha256").hexdigest()
    elif stat.S_ISLNK(status.st_mode):
        target = os.fsencode(path.readlink())
        kind, size, digest = "l", len(target), hashlib.sha256(target).hexdigest()
    elif stat.S_ISDIR(status.st_mode):
        kind = "d"
    name = os.fsencode(path.relative_to(root)).decode("latin-1").encode("unicode_escape")
    return f"{kind} {status.st_mode & 0o7777:04o} {size} {digest} ".encode() + name + b"\n"


def _fail(error: OSError) -> None:
    raise error
