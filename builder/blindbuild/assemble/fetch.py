"""Fills the store with what a lock names: from a directory, or from the mirrors; everything is hashed."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from blindbuild.assemble.archives import Archives, archives_at, machine_archives
from blindbuild.assemble.lock import Lock, LockedPackage, LockedWheel
from blindbuild.assemble.lock_pypi import download_wheels
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, FetchError, LockError, StoreError
from blindbuild.host.files import hash_file, temporary_directory, write_atomically
from blindbuild.host.network import NotThereError, Patience, download
from blindbuild.host.store import Store

MAX_PARALLEL = 3  # a mirror is a shared good; more hardly helps
SHOWN_NAMES = 8


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of one transfer.

    Attributes:
        name: of the package.
        received_bytes: so far, of this package.
        size_bytes: of this package.
        done: how many of all packages are complete.
        total: how many there are to fetch.
    """

    name: str
    received_bytes: int
    size_bytes: int
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Sources:
    """Where inputs may come from.

    Attributes:
        environ: the user's environment, for pip's configuration.
        mirror: instead of the machine's own.
        vendor: a directory that `export_inputs` filled, tried first.
        offline: nothing but the store and `vendor`.
        patience: when a download is given up.
    """

    environ: Mapping[str, str]
    mirror: str | None = None
    vendor: Path | None = None
    offline: bool = False
    patience: Patience | None = None


def missing_inputs(lock: Lock, store: Store) -> tuple[LockedPackage | LockedWheel, ...]:
    """Return what the lock names and the store lacks; each blob once, packages first."""
    return tuple(item for item in _inputs(lock) if not store.has(item.digest))


def fetch_inputs(
    lock: Lock,
    store: Store,
    sources: Sources,
    *,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Bring everything that the lock names into the store.

    Args:
        lock: what.
        store: into this; what it has already costs nothing.
        sources: from where.
        on_progress: called from several threads, but never at the same time.

    Returns:
        The number of inputs that were missing.

    Raises:
        LockError: the mirror no longer has a version.
        FetchError: an input cannot be had, or is not the locked one; or `offline`, and something is missing.
    """
    wanted = missing_inputs(lock, store)
    if sources.vendor is not None:
        _import(wanted, store, sources.vendor)
    missing = missing_inputs(lock, store)
    if missing and sources.offline:
        raise FetchError(
            f"offline, and the store lacks {_list([item.name for item in missing])}",
            hint="run `blindbuild fetch` while online, or name a directory with --vendor",
        )
    packages = [item for item in missing if isinstance(item, LockedPackage)]
    if packages:
        archives = archives_at(sources.mirror) if sources.mirror else machine_archives()
        _Fetcher(store, archives, sources.patience, len(missing), on_progress).fetch(packages)
    _fetch_wheels([item for item in missing if isinstance(item, LockedWheel)], lock, store, sources)
    return len(wanted)


def export_inputs(lock: Lock, store: Store, directory: Path) -> int:
    """Copy all inputs of a lock from the store to a directory, under their own names; return how many.

    Raises:
        StoreError: the store lacks one, or it is damaged.
        FetchError: the directory cannot be written.
    """
    every = _inputs(lock)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for item in every:
            target = directory / _file_name(item)
            if target.is_file() and hash_file(target)[1] == item.digest:
                continue
            _write(target, store.read(item.digest))
    except OSError as error:
        raise FetchError(f"{directory}: cannot write: {error.strerror or error}") from error
    return len(every)


def _write(target: Path, data: bytes) -> None:
    try:
        write_atomically(target, data)
    except BlindbuildError as error:
        raise FetchError(error.message) from error


def _inputs(lock: Lock) -> tuple[LockedPackage | LockedWheel, ...]:
    packages: dict[Digest, LockedPackage | LockedWheel] = {
        item.digest: item for group in lock.groups.values() for item in group
    }
    return tuple((packages | {item.digest: item for item in lock.wheels}).values())


class _Fetcher:
    """Downloads packages in parallel; the first error stops the others."""

    def __init__(
        self,
        store: Store,
        archives: Archives,
        patience: Patience | None,
        total: int,
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._store = store
        self._archives = archives
        self._patience = patience
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def fetch(self, packages: Sequence[LockedPackage]) -> None:
        gone: list[LockedPackage] = []
        with ThreadPoolExecutor(MAX_PARALLEL, thread_name_prefix="fetch") as pool:
            futures = [pool.submit(self._fetch_one, package, gone) for package in packages]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
        _raise_first(futures)
        if gone:
            raise _gone(sorted(gone, key=lambda package: package.name))

    def _fetch_one(self, package: LockedPackage, gone: list[LockedPackage]) -> None:
        url = self._archives.url(package.archive, package.path)
        with self._store.partial(package.digest) as partial:
            if not self._store.has(package.digest):  # another process may have brought it meanwhile
                try:
                    download(
                        url,
                        partial,
                        size=package.size,
                        proxies=self._archives.proxies(),
                        patience=self._patience,
                        on_bytes=lambda received: self._report(package, received),
                    )
                except NotThereError:
                    gone.append(package)
                    return
                self._admit(package, partial, url)
        with self._lock:
            self._done += 1
        self._report(package, package.size)

    def _admit(self, package: LockedPackage, partial: Path, url: str) -> None:
        try:
            self._store.add_file(partial, expected=package.digest)
        except StoreError as error:
            actual = hash_file(partial)[1]
            if actual == package.digest:
                raise
            raise FetchError(
                f"{package.name} {package.version}: expected {package.digest}, got {actual} from {url}",
                hint="the file was altered on the way or on the mirror: name another mirror with --mirror",
            ) from error
        finally:
            partial.unlink(missing_ok=True)  # wrong bytes must not be resumed

    def _report(self, package: LockedPackage, received: int) -> None:
        if self._stop.is_set():
            raise _StoppedError
        with self._lock:
            self._on_progress(Progress(package.name, received, package.size, self._done, self._total))


class _StoppedError(BlindbuildError):
    """Another transfer failed, so this one is given up."""

    def __init__(self) -> None:
        super().__init__("given up, because another transfer failed")


def _raise_first(futures: Sequence[Future[None]]) -> None:
    errors = [future.exception() for future in futures if future.done() and not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, _StoppedError):
            raise error


def _gone(packages: Sequence[LockedPackage]) -> LockError:
    names = [f"{package.name} {package.version}" for package in packages]
    return LockError(
        f"the mirror no longer has {_list(names)}",
        hint=f"run `blindbuild lock --upgrade {' '.join(package.name for package in packages)}`, "
        "and look at the difference",
    )


def _import(wanted: Sequence[LockedPackage | LockedWheel], store: Store, vendor: Path) -> None:
    for item in wanted:
        path = vendor / _file_name(item)
        if not path.is_file():
            continue
        actual = hash_file(path)[1]
        if actual != item.digest:
            raise FetchError(
                f"{path}: expected {item.digest}, got {actual}", hint="remove the file, or export it again"
            )
        store.add_file(path, expected=item.digest)


def _fetch_wheels(wheels: Sequence[LockedWheel], lock: Lock, store: Store, sources: Sources) -> None:
    if not wheels:
        return
    with temporary_directory() as directory:
        download_wheels(wheels, lock.suite, directory, sources.environ)
        for wheel in wheels:
            path = directory / wheel.filename
            if not path.is_file():
                raise FetchError(
                    f"{wheel.name} {wheel.version}: expected {wheel.filename}, pip brought another"
                )
            _add_wheel(store, path, wheel.digest)


def _add_wheel(store: Store, path: Path, digest: Digest) -> None:
    try:
        store.add_file(path, expected=digest)
    except StoreError as error:
        raise FetchError(error.message, hint=error.hint) from error


def _file_name(item: LockedPackage | LockedWheel) -> str:
    return item.filename if isinstance(item, LockedWheel) else posixpath.basename(item.path)


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    return ", ".join(names[:SHOWN_NAMES]) + more
