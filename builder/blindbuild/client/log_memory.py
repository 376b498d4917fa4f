"""The last checkpoint that was accepted of each log: nobody can show this client a shorter or another one.

A log is not of one product: whatever was accepted of it, for whichever product, is held against it for all.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping
from pathlib import Path

from blindbuild.client.state import StateStore, locked, read_if_there, replace_file
from blindbuild.errors import BlindbuildError, TlogError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.note import MAX_NOTE

MAX_CONFLICTS = 16  # files of evidence that are kept of one log; two prove everything
_HINT = "the file remembers what a log has shown; remove it only if you know why it is damaged"


class LogMemory:
    """Signed checkpoints by origin, one file each.

    Args:
        root: the folder; made when the first checkpoint is accepted.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._compared: dict[str, bytes | None] = {}  # what was read last, and is held against what is shown

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> LogMemory:
        """Return the user's: beside what StateStore remembers."""
        return cls(StateStore.default(environ).root / "logs")

    def path(self, origin: str) -> Path:
        """Return the file of a log, whether it is there or not."""
        return self._root / f"{hashlib.sha256(origin.encode()).hexdigest()}.note"

    def read(self, origin: str) -> bytes | None:
        """Return the signed checkpoint that was accepted last, or None at first use.

        Raises:
            BlindbuildError: the file is there and cannot be read or understood; that is never first use.
        """
        self._compared[origin] = self._load(origin)
        return self._compared[origin]

    def _load(self, origin: str) -> bytes | None:
        path = self.path(origin)
        data = read_if_there(path, limit_bytes=MAX_NOTE)
        if data is None:
            return None
        try:
            found = parse_checkpoint(data).checkpoint.origin
        except TlogError as error:
            raise BlindbuildError(f"{path}: {error.message}", hint=_HINT) from error
        if found != origin:
            raise BlindbuildError(f"{path}: expected log {origin}, got {found}", hint=_HINT)
        return data

    def record(self, note: bytes) -> None:
        """Remember a signed checkpoint that was found consistent; a smaller one changes nothing.

        Nor does one that was compared with less than is remembered now: another run may have been shown a
        fork meanwhile, and what it saw is kept until it is compared.

        Raises:
            BlindbuildError: the folder cannot be written, or another tree of this size was accepted.
        """
        new = parse_checkpoint(note).checkpoint
        path = self.path(new.origin)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                data = self._load(new.origin)
                before = None if data is None else parse_checkpoint(data).checkpoint
                if before is not None and before.size == new.size and before.root != new.root:
                    raise BlindbuildError(
                        f"log {new.origin}: another tree of {new.size} entries was accepted"
                    )
                compared = self._compared.get(new.origin, data) == data
                if compared and (before is None or before.size < new.size):
                    replace_file(path, note)
        except OSError as error:
            raise BlindbuildError(f"{path}: cannot be written: {error.strerror}") from error

    def keep_conflict(self, origin: str, note: bytes) -> tuple[Path, Path]:
        """Keep a checkpoint that contradicts the remembered one; return the files that prove it together."""
        path = self.path(origin)
        kept = path.with_suffix(f".conflict-{hashlib.sha256(note).hexdigest()[:16]}.note")
        with contextlib.suppress(OSError):
            others = len(list(self._root.glob(f"{path.stem}.conflict-*.note")))
            if not kept.exists() and others < MAX_CONFLICTS:
                replace_file(kept, note)
        return path, kept
