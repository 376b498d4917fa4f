"""The content-addressed store: inputs by their hash, stage results by the key of what went in.

Layout below the root:

    blobs/sha256/ab/ab12…           an input, named by its hash
    stages/NAME/KEY/listing         type, mode, size and hash of everything in result/
    stages/NAME/KEY/result/         what the stage made
    aside/                          unfinished work; what a killed process left is removed by the next one
    locks/                          one lock file a stage key, so that two builds do not do the same work

Nothing appears in blobs/ or stages/ before it is complete, checked and flushed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import StoreError, UsageError
from blindbuild.host.files import remove_tree, sync_directory
from blindbuild.host.listing import flush_tree, list_tree, name_difference

COPY_BYTES = 1 << 20
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")


class Store:
    """A content-addressed directory, safe for several processes at once.

    Args:
        root: where; made on first use, for its owner alone. Where others could write, they could put a
            compiler of theirs into an unverified stage: every method raises StoreError for such a root.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._swept = False
        self._root_checked = False

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> Store:
        """Return the user's store: $BLINDBUILD_STORE, else blindbuild below the user's cache directory.

        Raises:
            UsageError: neither BLINDBUILD_STORE, XDG_CACHE_HOME nor HOME says where.

        Source: XDG Base Directory Specification 0.8 (a relative XDG_CACHE_HOME is ignored).
        """
        if chosen := environ.get("BLINDBUILD_STORE"):
            return cls(Path(chosen))
        cache = environ.get("XDG_CACHE_HOME", "")
        if cache.startswith("/"):
            return cls(Path(cache) / "blindbuild")
        if home := environ.get("HOME"):
            return cls(Path(home) / ".cache" / "blindbuild")
        raise UsageError("no place for the store", hint="set BLINDBUILD_STORE to a directory")

    def has(self, digest: Digest) -> bool:
        """Say whether a blob of this name is there; its content is checked when it is read."""
        return self._blob(digest).is_file()

    def read(self, digest: Digest) -> bytes:
        """Return a blob's bytes, hashed anew.

        Raises:
            StoreError: it is not there; or it is damaged, and then it has been removed.
        """
        path = self._blob(digest)
        with self._open_blob(path, digest) as stream:
            data = stream.read()
        if not Digest.sha256(data).equals(digest):
            raise self._damaged_blob(path, digest)
        return data

    def path(self, digest: Digest) -> Path:
        """Return where a blob is, after hashing it anew; for inputs too big to hold in memory.

        Raises:
            StoreError: as for `read`.
        """
        path = self._blob(digest)
        with self._open_blob(path, digest) as stream:
            actual = hashlib.file_digest(stream, "sha256").digest()
        if actual != digest.value:
            raise self._damaged_blob(path, digest)
        return path

    def add(self, data: bytes) -> Digest:
        """Put bytes into the store and return their name."""
        digest = Digest.sha256(data)
        place = self._blob(digest)
        if not place.is_file():
            with self._blob_aside() as (stream, aside):
                stream.write(data)
                _settle(stream, aside, place)
        return digest

    def add_file(self, source: Path, *, expected: Digest) -> Path:
        """Copy a file into the store and return its place there.

        Raises:
            StoreError: the file is not what was expected, or cannot be read; nothing is added.
        """
        place = self._blob(expected)
        if place.is_file():
            return place
        hasher = hashlib.sha256()
        with self._blob_aside() as (stream, aside):
            try:
                with source.open("rb") as reader:
                    while chunk := reader.read(COPY_BYTES):
                        hasher.update(chunk)
                        stream.write(chunk)
            except OSError as error:
                raise StoreError(f"{source}: cannot copy: {_reason(error)}") from error
            if hasher.digest() != expected.value:
                raise StoreError(f"{source}: expected {expected}, got sha256:{hasher.hexdigest()}")
            _settle(stream, aside, place)
        return place

    @contextlib.contextmanager
    def partial(self, digest: Digest) -> Iterator[Path]:
        """Give the path of an unfinished download of this blob, held against other processes.

        The file may hold the beginning from an earlier, interrupted run. It stays where it is unless
        the caller removes it.
        """
        path = self._directory("partial") / digest.hex
        with self._locked(f"partial-{digest.hex}"):
            yield path

    @contextlib.contextmanager
    def workspace(self, name: str) -> Iterator[Path]:
        """Give a directory that keeps its content between runs, held against other processes meanwhile."""
        path = self._directory(f"workspaces/{name}")
        with self._locked(f"workspace-{name}"):
            yield path

    def find_stage(self, stage: str, key: Digest, *, verify: bool = True) -> Path | None:
        """Return the directory of a finished stage result, or None.

        Waits while another process is making this very result.

        Args:
            stage: the stage's name.
            key: the digest of everything that influences the result.
            verify: hash every file and compare with the listing; False for results too big for that.

        Raises:
            StoreError: the result is damaged; it has been removed, and the next run makes it again.
        """
        place = self._stage(stage, key)
        if not place.is_dir():
            if not self._lock_path(f"{stage}-{key.hex}").exists():
                return None
            with self._locked(f"{stage}-{key.hex}"):
                if not place.is_dir():
                    return None
        self._check_stage(place, stage, verify=verify)
        return place / "result"

    @contextlib.contextmanager
    def make_stage(self, stage: str, key: Digest) -> Iterator[Path]:
        """Give an empty directory to fill; on success it becomes the stage's result, on error it is gone.

        If the result exists already, what the caller made is dropped and the existing one stays. The
        result's place is what `find_stage` then returns; `ensure_stage` does all of this in one call.
        """
        place = self._stage(stage, key)
        with self._locked(f"{stage}-{key.hex}"):
            aside = self._directory("aside") / f"{stage}-{key.hex}"
            remove_tree(aside)  # holding the lock, whatever is there was left by a killed process
            (aside / "result").mkdir(parents=True)
            try:
                yield aside / "result"
                if not place.is_dir():
                    with self._writing():
                        _finish_stage(aside, place)
            finally:
                remove_tree(aside)

    def ensure_stage(
        self, stage: str, key: Digest, make: Callable[[Path], None], *, verify: bool = True
    ) -> Path:
        """Return the stage's result, calling `make` with an empty directory only if there is none yet."""
        found = self.find_stage(stage, key, verify=verify)
        if found is None:
            with self.make_stage(stage, key) as directory:
                # Another process may have finished between the look and the lock.
                if not self._stage(stage, key).is_dir():
                    make(directory)
        return self._stage(stage, key) / "result"

    def _blob(self, digest: Digest) -> Path:
        if digest.algorithm is not HashAlgorithm.SHA256:
            raise StoreError(f"the store names blobs by sha256, got {digest.algorithm.value}")
        self._check_root()
        return self.root / "blobs" / "sha256" / digest.hex[:2] / digest.hex

    def _stage(self, stage: str, key: Digest) -> Path:
        if not stage or not _NAME_LETTERS.issuperset(stage):
            raise StoreError(f"expected a stage name of a-z, 0-9 and -, got {stage!r}")
        self._check_root()
        return self.root / "stages" / stage / key.hex

    def _lock_path(self, name: str) -> Path:
        return self.root / "locks" / name

    def _directory(self, name: str) -> Path:
        path = self.root / name
        with self._writing():
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._check_root()
            path.mkdir(parents=True, exist_ok=True)
        return path

    def _check_root(self) -> None:
        """Once it is there: refuse a root that anybody else can change or exchange."""
        if self._root_checked:
            return
        try:
            link, status = self.root.lstat(), self.root.stat()
        except OSError:  # not there yet, or not to be reached: whoever uses it says so
            return
        if {link.st_uid, status.st_uid} != {os.geteuid()}:
            raise StoreError(
                f"{self.root}: expected a directory of user {os.geteuid()}, got one (or a link) of another",
                hint="set BLINDBUILD_STORE to a directory of your own",
            )
        if status.st_mode & 0o022:
            raise StoreError(
                f"{self.root}: expected a directory that only its owner can write to, "
                f"got mode {status.st_mode & 0o7777:04o}",
                hint=f"if nobody else has written to it: chmod go-w {self.root}",
            )
        self._root_checked = True

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{self.root}: cannot write: {_reason(error)}",
                hint="make room, or set BLINDBUILD_STORE to a directory you can write to",
            ) from error

    def _open_blob(self, path: Path, digest: Digest) -> BufferedReader:
        try:
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
        except FileNotFoundError:
            raise StoreError(
                f"blob {digest} is not in the store", hint="run `blindbuild fetch` for the recipe"
            ) from None
        except OSError as error:
            if path.is_symlink():  # the store makes none
                raise self._damaged_blob(path, digest) from error
            raise StoreError(f"{path}: cannot read: {_reason(error)}") from error

    def _damaged_blob(self, path: Path, digest: Digest) -> StoreError:
        path.unlink(missing_ok=True)
        return StoreError(
            f"blob {digest} is damaged: its bytes no longer have this hash; it has been removed",
            hint="run the command again, it will be fetched anew; if this repeats, check disk and memory",
        )

    def _check_stage(self, place: Path, stage: str, *, verify: bool) -> None:
        try:
            listing = (place / "listing").read_bytes()
            difference = name_difference(listing, list_tree(place / "result")) if verify else None
        except OSError as error:
            difference = _reason(error)
        if difference is not None:
            with self._locked(f"{stage}-{place.name}"):
                aside = self._directory("aside") / f"{stage}-{place.name}"
                remove_tree(aside)
                place.rename(aside)  # gone at once, even if the removal is interrupted
                remove_tree(aside)
            raise StoreError(
                f"stage {stage} {place.name[:12]} is damaged: {difference}; it has been removed",
                hint="run the command again, it will be made anew; if this repeats, check disk and memory",
            )

    @contextlib.contextmanager
    def _blob_aside(self) -> Iterator[tuple[BinaryIO, Path]]:
        directory = self._directory("aside")
        self._sweep()
        with self._writing():
            descriptor, name = tempfile.mkstemp(prefix="blob-", dir=directory)
        aside = Path(name)
        try:
            with self._writing(), os.fdopen(descriptor, "wb") as stream:
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # tells another process's sweep that this one lives
                if not aside.exists():  # that sweep came between the file's making and its lock
                    raise StoreError(f"{aside}: removed by another process", hint="run the command again")
                yield stream, aside
        finally:
            aside.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._directory("locks")
        self._sweep()
        descriptor = os.open(self._lock_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _sweep(self) -> None:
        """Once a process: remove what killed processes left aside, and nothing that a live one holds."""
        if self._swept:
            return
        self._swept = True
        for path in sorted(self._directory("aside").iterdir()):
            held = path if path.name.startswith("blob-") else self._lock_path(path.name)
            with contextlib.suppress(OSError):
                descriptor = os.open(held, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    remove_tree(path) if path.is_dir() else path.unlink()
                finally:
                    os.close(descriptor)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def _settle(stream: BinaryIO, aside: Path, place: Path) -> None:
    stream.flush()
    os.fchmod(stream.fileno(), 0o444)
    os.fsync(stream.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(place)
    sync_directory(place.parent)


def _finish_stage(aside: Path, place: Path) -> None:
    listing = list_tree(aside / "result")
    flush_tree(aside / "result", listing)
    with (aside / "listing").open("wb") as stream:
        stream.write(listing)
        stream.flush()
        os.fsync(stream.fileno())
    place.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(place)
    sync_directory(place.parent)
