"""A transparency log's files, from a directory or from an address."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from blindbuild.errors import BlindbuildError, TlogError
from blindbuild.formats.checkpoint import Checkpoint, UnverifiedCheckpoint, parse_checkpoint
from blindbuild.formats.merkle import prove_consistency, read_root
from blindbuild.formats.note import MAX_NOTE
from blindbuild.formats.tlog_tiles import CHECKPOINT_PATH, ReadFile, TileReader

MAX_COMPARISON_S = (
    300.0  # for all tiles of one proof, at most some dozens; else each could take its whole time
)


def open_log(place: str) -> ReadFile:
    """Return a reader of the files below a directory, or below an https:// or http:// address."""
    if place.startswith(("http://", "https://")):
        from blindbuild.client.web import fetch  # whoever has no log to ask need not load urllib

        prefix = place.rstrip("/")
        return lambda path, limit_bytes: fetch(f"{prefix}/{path}", limit_bytes=limit_bytes)
    root = Path(place.removeprefix("file://"))
    return lambda path, limit_bytes: read_log_file(root, path, limit_bytes)


def read_log_file(root: Path, path: str, limit_bytes: int) -> bytes | None:
    """Return a file of a log that is a directory, or None when it is not there.

    Raises:
        BlindbuildError: it is there and cannot be read, is no regular file, or is too large.
    """
    place = root / path
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise BlindbuildError(f"{place}: expected a regular file")
            data = stream.read(limit_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BlindbuildError(f"{place}: cannot read: {(error.strerror or str(error)).lower()}") from error
    if len(data) > limit_bytes:
        raise BlindbuildError(f"{place}: expected at most {limit_bytes} bytes, got more")
    return data


def read_checkpoint(read: ReadFile) -> UnverifiedCheckpoint:
    """Return the log's latest checkpoint.

    Raises:
        TlogError: it is not there or malformed.
    """
    data = read(CHECKPOINT_PATH, MAX_NOTE)
    if data is None:
        raise TlogError(
            "the log has no checkpoint", hint="name the directory or address that has `checkpoint`"
        )
    return parse_checkpoint(data)


def read_consistency(read: ReadFile, one: Checkpoint, other: Checkpoint) -> tuple[bytes, ...]:
    """Return the consistency proof between two checkpoints that are both believed, from the log's tiles.

    The tiles must lead to the root of the larger tree, so that a proof which then fails is a fork, and not a
    file that was damaged on its way.

    Raises:
        TlogError: tiles are missing, malformed, or of another tree.
    """
    old, new = sorted((one, other), key=lambda checkpoint: checkpoint.size)
    tiles = TileReader(_within(read, MAX_COMPARISON_S), new.size)
    if read_root(tiles.subtree, new.size) != new.root:
        raise TlogError(
            f"log {new.origin}: its files do not lead to its signed checkpoint of {new.size} entries",
            hint="they are damaged, incomplete, or another log's: get them again, from elsewhere if need be",
        )
    return prove_consistency(tiles.subtree, old.size, new.size)


def _within(read: ReadFile, seconds: float) -> ReadFile:
    deadline_s = time.monotonic() + seconds

    def bounded(path: str, limit_bytes: int) -> bytes | None:
        if time.monotonic() > deadline_s:
            raise TlogError(f"expected the log's files to be read within {seconds:.0f} s")
        return read(path, limit_bytes)

    return bounded
