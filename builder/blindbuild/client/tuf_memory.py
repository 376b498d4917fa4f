"""What this client has seen of TUF repositories: one folder a pinned root, used by one process at a time.

It has the verified metadata, by which older or other versions are recognised, and when the last refresh went
well. Missing is first use; damaged never is.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from blindbuild.client.state import StateStore, locked, read_if_there, replace_file
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, FormatError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_canonical, parse_json
from blindbuild.formats.fields import Fields
from blindbuild.manifest.rfc3339 import format_time, parse_time

HISTORY = "root_history"  # where tuf.ngclient keeps every root that it has verified
FILES = ("timestamp.json", "snapshot.json", "targets.json")
MAX_METADATA = 4 << 20  # bytes of any one file; nothing larger was ever accepted
MAX_CONFLICTS = 16  # files of evidence that are kept of one repository; two prove everything
_SEEN = "seen.json"
_MAX_SEEN = 256  # bytes
_HINT = "the folder remembers what a repository has shown; remove it only if you know why it is damaged"


class TufMemory:
    """Metadata by the SHA-256 of the pinned root.

    Args:
        root: the folder; made when a repository is refreshed for the first time.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> TufMemory:
        """Return the user's: beside what StateStore remembers."""
        return cls(StateStore.default(environ).root / "tuf")

    def path(self, pinned: Digest) -> Path:
        """Return the folder of a repository, whether it is there or not."""
        return self._root / pinned.hex

    @contextlib.contextmanager
    def opened(self, pinned: Digest) -> Iterator[TufFolder]:
        """Hold a repository's folder for one refresh.

        Raises:
            BlindbuildError: the folder cannot be made, or what is in it cannot be read or understood.
        """
        path = self.path(pinned)
        with contextlib.ExitStack() as stack:
            try:
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                stack.enter_context(locked(path.with_suffix(".lock")))
            except OSError as error:
                raise BlindbuildError(f"{path}: cannot be used: {error.strerror}") from error
            yield TufFolder(path)


class TufFolder:
    """A repository's folder, while its lock is held."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, bytes]:
        """Return all metadata by its path in the folder.

        Raises:
            BlindbuildError: a file cannot be read or is no JSON; that is never first use.
        """
        history = self._path / HISTORY
        roots = sorted(history.iterdir()) if history.is_dir() else []
        places = [f"{HISTORY}/{path.name}" for path in roots if path.name.endswith(".root.json")]
        found = {}
        for place in (*places, *FILES):
            data = read_if_there(self._path / place, limit_bytes=MAX_METADATA)
            if data is not None:
                found[place] = data
                self._check(place, data)
        return found

    def _check(self, place: str, data: bytes) -> None:
        role = place.removesuffix(".json").rpartition("/")[2].rpartition(".")[2]
        try:
            found = read_type(parse_json(data, max_bytes=MAX_METADATA))
        except FormatError as error:
            raise BlindbuildError(f"{self._path / place}: {error.message}", hint=_HINT) from error
        if found != role:
            raise BlindbuildError(f"{self._path / place}: expected metadata of role {role}", hint=_HINT)

    def seen(self) -> int | None:
        """Return when the last refresh went well, in seconds since 1970, or None at first use.

        Raises:
            BlindbuildError: the file is there and cannot be read or understood.
        """
        path = self._path / _SEEN
        data = read_if_there(path, limit_bytes=_MAX_SEEN)
        if data is None:
            return None
        try:
            value = parse_canonical(data, max_bytes=_MAX_SEEN)
            fields = Fields(value, "seen", required=("version", "time"))
            fields.integer("version", minimum=1, maximum=1)
            return parse_time(fields.text("time"))
        except BlindbuildError as error:
            raise BlindbuildError(f"{path}: {error.message}", hint=_HINT) from error

    def record(self, files: Mapping[str, bytes]) -> None:
        """Keep verified metadata; roots first, so that a kill never leaves what an old root allowed alone."""
        for place in sorted(files, key=lambda place: (place in FILES, place)):
            if read_if_there(self._path / place, limit_bytes=MAX_METADATA) != files[place]:
                self._write(place, files[place])

    def record_time(self, now: int) -> None:
        """Remember that a refresh went well at this time; never an earlier one than before."""
        latest = max(now, self.seen() or 0)
        self._write(_SEEN, canonical_bytes({"version": 1, "time": format_time(latest)}))

    def _write(self, place: str, data: bytes) -> None:
        path = self._path / place
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            replace_file(path, data)
        except OSError as error:
            raise BlindbuildError(f"{path}: cannot be written: {error.strerror}") from error

    def keep_conflict(self, name: str, versions: tuple[bytes, bytes]) -> tuple[Path, ...]:
        """Keep two files that contradict each other; return where they are."""
        kept = []
        for data in versions:
            path = self._path / f"conflict-{Digest.sha256(data).hex[:16]}.{name}"
            if not path.exists() and len(list(self._path.glob("conflict-*"))) < MAX_CONFLICTS:
                self._write(path.name, data)
            kept.append(path)
        return tuple(kept)


def read_type(value: JsonValue) -> JsonValue:
    """Return which role metadata says it is of, or None."""
    signed = value.get("signed") if isinstance(value, dict) else None
    return signed.get("_type") if isinstance(signed, dict) else None


@contextlib.contextmanager
def workplace(files: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a fresh directory with these files: a refresh works on a copy, kept only after all checks."""
    path = Path(tempfile.mkdtemp(prefix="blindbuild-tuf-"))
    try:
        (path / HISTORY).mkdir()
        for place, data in files.items():
            (path / place).write_bytes(data)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def read_workplace(path: Path) -> dict[str, bytes]:
    """Return the metadata that a refresh has left."""
    roots = [f"{HISTORY}/{root.name}" for root in sorted((path / HISTORY).iterdir())]
    return {place: (path / place).read_bytes() for place in (*roots, *FILES) if (path / place).exists()}
