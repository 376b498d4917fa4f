"""The directory of a TUF repository: what is served, and what waits for signatures.

`metadata/` and `targets/` are served as they are; `staged/` has the next root.json and targets.json until
enough people have signed them. Each file is written aside, flushed and renamed. Files that are there already
never change, but for timestamp.json, which comes last and says which of them count.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from blindbuild.client.state import locked
from blindbuild.client.tuf_refresh import MAX_TARGETS
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, BuildError, UsageError
from blindbuild.host.files import MAX_FILE_BYTES, read_bytes, write_atomically
from blindbuild.manifest.tuf import METADATA, TARGETS, hashed_path
from blindbuild.publish.tuf_metadata import Signed, read_metadata, to_bytes
from blindbuild.publish.tuf_review import check_chain, check_served

STAGED = "staged"
_LOCK = ".lock"
_ROOT = re.compile(r"([1-9][0-9]{0,9})\.root\.json")
_HINT = "begin one with `blindbuild publish init`"


@dataclass(frozen=True, slots=True)
class State:
    """What is served now."""

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]


class RepositoryFiles:
    """One repository's directory.

    Args:
        path: the directory.
        pinned: what its first root must be, or None to take the one that is there.
    """

    def __init__(self, path: Path, *, pinned: bytes | None = None) -> None:
        self.path = path
        self._pinned = pinned

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Let one process at a time change the directory.

        Raises:
            UsageError: there is no repository.
        """
        if not (self.path / METADATA).is_dir() and not (self.path / STAGED).is_dir():
            raise UsageError(f"{self.path}: no TUF repository there", hint=_HINT)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(self.path / _LOCK))
            except OSError as error:
                raise UsageError(f"{self.path / _LOCK}: cannot be locked: {error.strerror}") from error
            yield

    def create(self) -> None:
        """Make the directories.

        Raises:
            UsageError: there is something already.
        """
        if self.path.exists() and any(self.path.iterdir()):
            raise UsageError(f"{self.path}: expected an empty directory for a new repository")
        for name in (METADATA, TARGETS, STAGED):
            (self.path / name).mkdir(parents=True)

    def state(self) -> State | None:
        """Return what is served, or None before anything is.

        Raises:
            BuildError: timestamp.json names what is not there, it is malformed, or not signed.
        """
        latest = self.roots()[:2]
        data = self._read(f"{METADATA}/timestamp.json")
        if not latest or data is None:
            return None
        timestamp = read_metadata(Timestamp, data)
        snapshot = self._versioned(Snapshot, timestamp.signed.snapshot_meta.version)
        listed = snapshot.signed.meta.get("targets.json")
        if listed is None:
            raise BuildError(f"{self.path}: the snapshot lists no targets.json")
        targets = self._versioned(Targets, listed.version)
        for role in (timestamp, snapshot, targets):
            # a rotation that was killed half-way has the new root beside what the old keys signed
            check_served(role, [root.signed for root in latest])
        return State(latest[0], timestamp, snapshot, targets)

    def root(self) -> Metadata[Root] | None:
        """Return the latest root that is served.

        Raises:
            BuildError: one is missing, malformed, or not signed by the keys of the one before.
        """
        return next(iter(self.roots()), None)

    def roots(self) -> tuple[Metadata[Root], ...]:
        """Return every root that is served, the latest one first.

        Raises:
            BuildError: as `root`, or the first one is not the pinned one.
        """
        names = [path.name for path in (self.path / METADATA).glob("*.root.json")]
        versions = [int(match[1]) for match in map(_ROOT.fullmatch, names) if match]
        if not versions and self._pinned is None:
            return ()
        first = self._read(f"{METADATA}/1.root.json")
        if self._pinned is not None and first != self._pinned:
            raise BuildError(
                f"{self.path}: begins with another root than yours",
                hint="do not sign: it is not your repository",
            )
        roots: list[Metadata[Root]] = []
        for version in range(1, max(versions) + 1):
            roots.append(self._versioned(Root, version))
            check_chain(roots[-1], roots[-2] if version > 1 else None)
        return tuple(reversed(roots))

    def staged(self, kind: type[Signed]) -> Metadata[Signed] | None:
        """Return what waits for signatures, if anything does."""
        data = self._read(f"{STAGED}/{kind.type}.json")
        return None if data is None else read_metadata(kind, data)

    def stage(self, metadata: Metadata[Root] | Metadata[Targets]) -> None:
        """Put metadata where it waits for signatures."""
        write_atomically(self.path / STAGED / f"{metadata.signed.type}.json", to_bytes(metadata))

    def unstage(self, kind: type[Root] | type[Targets]) -> None:
        """Remove what no longer waits."""
        (self.path / STAGED / f"{kind.type}.json").unlink(missing_ok=True)

    def write(self, metadata: Metadata[Root] | Metadata[Snapshot] | Metadata[Targets]) -> None:
        """Serve metadata under its version."""
        write_atomically(self._place(metadata.signed.type, metadata.signed.version), to_bytes(metadata))

    def write_timestamp(self, timestamp: Metadata[Timestamp]) -> None:
        """Serve a timestamp: from now on clients see what it names."""
        write_atomically(self.path / METADATA / "timestamp.json", to_bytes(timestamp))

    def write_target(self, name: str, data: bytes) -> None:
        """Serve a target's bytes under their digest; nobody sees them before targets.json lists them."""
        place = self.path / TARGETS / hashed_path(name, Digest.sha256(data).hex)
        if not self._has(place, data):
            write_atomically(place, data)

    def read_target(self, name: str, sha256: str) -> bytes:
        """Return a target's bytes.

        Raises:
            BuildError: they are not there, or others.
        """
        path = self.path / TARGETS / hashed_path(name, sha256)
        data = read_bytes(path, error=BuildError, limit_bytes=MAX_FILE_BYTES)
        if Digest.sha256(data).hex != sha256:
            raise BuildError(f"{path}: expected the bytes that targets.json lists, got others")
        return data

    @staticmethod
    def _has(place: Path, data: bytes) -> bool:
        # not by its name alone: somebody may have put other bytes there
        return place.exists() and read_bytes(place, error=BuildError, limit_bytes=MAX_FILE_BYTES) == data

    def _versioned(self, kind: type[Signed], version: int) -> Metadata[Signed]:
        path = self._place(kind.type, version)
        data = read_bytes(path, error=BuildError, limit_bytes=MAX_TARGETS)
        metadata = read_metadata(kind, data)
        if metadata.signed.version != version:
            raise BuildError(f"{path}: expected version {version}, got {metadata.signed.version}")
        if to_bytes(metadata) != data:  # its hash is, or will be, signed
            raise BuildError(f"{path}: expected it as blindbuild wrote it, got another layout")
        return metadata

    def _place(self, role: str, version: int) -> Path:
        return self.path / METADATA / f"{version}.{role}.json"

    def _read(self, place: str) -> bytes | None:
        path = self.path / place
        if not path.exists():
            return None
        return read_bytes(path, error=BlindbuildError, limit_bytes=MAX_TARGETS)
