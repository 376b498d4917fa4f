"""The door to single files: written whole or not at all, read within a limit."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, BuildError

MAX_FILE_BYTES = 1 << 32  # nothing blindbuild reads whole comes near 4 GiB; bounds memory


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a file beside its place, flush it to disk, then rename it: a reader sees the old or the new.

    Args:
        path: where; missing parent directories are made.
        data: all of its bytes.
        mode: permission bits, whatever the umask is.

    Raises:
        BlindbuildError: the system refused; nothing is left behind.
    """
    write_chunks_atomically(path, (data,), mode)


def write_chunks_atomically(path: Path, chunks: Iterable[bytes], mode: int = 0o644) -> None:
    """Do what `write_atomically` does with bytes that come in pieces, so that they need not all be in memory.

    Raises:
        BlindbuildError: the system refused, or making a piece failed; nothing is left behind.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:64]}.", suffix=".aside", dir=path.parent)
        aside = Path(name)
        with os.fdopen(descriptor, "wb") as stream:
            for chunk in chunks:
                stream.write(chunk)
            stream.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        aside.replace(path)
        aside = None
        sync_directory(path.parent)
    except OSError as error:
        raise BlindbuildError(f"{path}: cannot write: {_reason(error)}") from error
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


def read_bytes(
    path: Path,
    *,
    error: Callable[..., BlindbuildError] = BlindbuildError,
    hint: str | None = None,
    limit_bytes: int = MAX_FILE_BYTES,
) -> bytes:
    """Return what a regular file holds.

    Args:
        path: the file; symbolic links are followed.
        error: the class to raise, so that a missing lock is a LockError and so on.
        hint: what would help if the file is not there.
        limit_bytes: more than this is refused.

    Raises:
        BlindbuildError: of the class given: not there, not a regular file, not readable, or too large.
    """
    try:
        # Without O_NONBLOCK a FIFO where a file should be would be an endless wait, not an error.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise error(f"{path}: expected a regular file", hint=hint)
            data = stream.read(limit_bytes + 1)
    except OSError as failure:
        raise error(f"{path}: cannot read: {_reason(failure)}", hint=hint) from failure
    if len(data) > limit_bytes:
        raise error(f"{path}: expected at most {limit_bytes} bytes, got more", hint=hint)
    return data


def read_untrusted(root: Path, place: str, *, limit_bytes: int) -> bytes:
    """Return a file's bytes from a directory that foreign code filled; no link in it is followed.

    Args:
        root: the directory, itself ours.
        place: the file's path below it, with `/`.
        limit_bytes: more than this is refused.

    Raises:
        BuildError: not there, not readable, not a regular file, below a link, or too large.
    """
    path = root / place
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    *directories, name = place.split("/")
    try:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in directories:
                inner = os.open(part, flags | os.O_DIRECTORY, dir_fd=descriptor)
                os.close(descriptor)
                descriptor = inner
            stream = os.fdopen(os.open(name, flags, dir_fd=descriptor), "rb")
        finally:
            os.close(descriptor)
        with stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise BuildError(f"{path}: expected a regular file")
            data = stream.read(limit_bytes + 1)
    except OSError as error:
        raise BuildError(f"{path}: expected a regular file, below no link: {_reason(error)}") from error
    if len(data) > limit_bytes:
        raise BuildError(f"{path}: expected at most {limit_bytes} bytes, got more")
    return data


def hash_file(path: Path) -> tuple[int, Digest]:
    """Return a file's size in bytes and its SHA-256, without holding it in memory.

    Raises:
        BlindbuildError: it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").digest()
            return stream.tell(), Digest(HashAlgorithm.SHA256, digest)
    except OSError as error:
        raise BlindbuildError(f"{path}: cannot read: {_reason(error)}") from error


@contextlib.contextmanager
def temporary_directory(*, prefix: str = "blindbuild-", parent: Path | None = None) -> Iterator[Path]:
    """Give a fresh directory (mode 0700) and remove it with all it holds, whatever happens."""
    path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        yield path
    finally:
        remove_tree(path)


def remove_tree(path: Path) -> None:
    """Remove a directory and all in it, also where a directory in it is read-only; absent is fine."""
    if not path.exists():
        return
    try:
        shutil.rmtree(path)
    except PermissionError:
        path.chmod(0o700)
        for directory, names, _ in os.walk(path):
            for child in (Path(directory, name) for name in names):
                if not child.is_symlink():
                    child.chmod(0o700)
        shutil.rmtree(path)


def sync_directory(path: Path) -> None:
    """Flush a directory, so that a rename in it survives a power loss."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
