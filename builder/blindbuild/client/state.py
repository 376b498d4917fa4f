"""What this client has accepted before, one JSON file a trust domain: nobody can take it back in time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, FormatError, VerificationError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.formats.tpm2 import ClockInfo
from blindbuild.manifest import format_time, parse_time
from blindbuild.manifest.words import MAX_SEQUENCE
from blindbuild.verify import History

MAX_STATE = 1 << 20  # bytes
MAX_KEYS = 4096  # attestation keys that are remembered; 4096 take about 800 KiB
_KEY_NAME = re.compile(r"(?:[0-9a-f]{2}){34}")  # a name with SHA-256
_MAX_U32 = 2**32 - 1


class StateStore:
    """Remembers the highest sequence of each trust domain, its statement, and the clocks of TPMs.

    Args:
        root: the folder; made when the first session is accepted.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        """The folder, whether it is there or not."""
        return self._root

    @classmethod
    def default(cls, environ: Mapping[str, str]) -> StateStore:
        """Return the user's store: below XDG_STATE_HOME, or ~/.local/state.

        Source: XDG Base Directory Specification 0.8; a relative path is ignored, as it demands.
        """
        base = environ.get("XDG_STATE_HOME", "")
        if not base.startswith("/"):
            home = environ.get("HOME", "")
            if not home.startswith("/"):
                raise BlindbuildError("expected HOME to be an absolute path", hint="set XDG_STATE_HOME")
            base = f"{home}/.local/state"
        return cls(Path(base) / "blindbuild" / "trust")

    def path(self, domain: Digest) -> Path:
        """Return the file of a trust domain, whether it is there or not."""
        return self._root / f"{domain.hex}.json"

    def read(self, domain: Digest) -> History | None:
        """Return what was accepted before, or None at first use.

        Raises:
            BlindbuildError: the file is there and cannot be read or understood; that is never first use.
        """
        memory = self._read(domain)
        return None if memory is None else memory.history

    def _read(self, domain: Digest) -> _Memory | None:
        path = self.path(domain)
        data = read_if_there(path, limit_bytes=MAX_STATE)
        if data is None:
            return None
        try:
            return _read_memory(data)
        except BlindbuildError as error:
            raise BlindbuildError(
                f"{path}: {error.message}",
                hint="the file remembers which releases were accepted; remove it only if you know why it is "
                "damaged",
            ) from error

    def record(self, domain: Digest, history: History) -> None:
        """Remember an accepted session; never less than what is remembered already.

        Only clocks are forgotten, those of the keys not seen for longest, when there are too many: a client
        of many machines goes on, and the release that it knows is never among what it forgets.

        Raises:
            VerificationError: meanwhile a later release, or another statement of the same sequence, was
                accepted.
            BlindbuildError: the folder cannot be written.
        """
        path = self.path(domain)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            with locked(path.with_suffix(".lock")):
                replace_file(path, _write_memory(_merge(self._read(domain), history)))
        except OSError as error:
            raise BlindbuildError(f"{path}: cannot be written: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class _Memory:
    """The content of a file: the history, and when each key's clock was last seen to advance."""

    history: History
    seen: Mapping[str, int]


def _merge(memory: _Memory | None, after: History) -> _Memory:
    if memory is None:
        return _forget_oldest(_Memory(after, dict.fromkeys(after.clocks, after.time)))
    before = memory.history
    _not_back(before, after)
    time = max(before.time, after.time)
    clocks, seen = dict(before.clocks), dict(memory.seen)
    for name, clock in after.clocks.items():
        if name not in clocks or _order(clock) > _order(clocks[name]):
            clocks[name], seen[name] = clock, time
    return _forget_oldest(_Memory(History(after.sequence, after.statement, time, clocks), seen))


def _forget_oldest(memory: _Memory) -> _Memory:
    if len(memory.seen) <= MAX_KEYS:
        return memory
    newest = sorted(memory.seen, key=lambda name: (memory.seen[name], name))[-MAX_KEYS:]
    clocks = {name: memory.history.clocks[name] for name in newest}
    return _Memory(replace(memory.history, clocks=clocks), {name: memory.seen[name] for name in newest})


def _not_back(before: History, after: History) -> None:
    # another client may have accepted something between this one's reading and recording
    if after.sequence < before.sequence:
        raise VerificationError(
            f"expected sequence {before.sequence} or later, got {after.sequence}",
            step="M10",
            reason="rollback",
        )
    if after.sequence == before.sequence and after.statement != before.statement:
        raise VerificationError(
            f"expected statement {before.statement}, got {after.statement}",
            step="M10",
            reason="equivocation",
        )


def _order(clock: ClockInfo) -> tuple[int, int, int]:
    return clock.reset_count, clock.restart_count, clock.clock


def _read_memory(data: bytes) -> _Memory:
    fields = Fields(
        parse_canonical(data, max_bytes=MAX_STATE),
        "state",
        required=("version", "sequence", "statement", "time", "clocks"),
    )
    fields.integer("version", minimum=1, maximum=1)
    clocks = fields.raw("clocks")
    if not isinstance(clocks, dict) or len(clocks) > MAX_KEYS:
        raise FormatError(f"clocks: expected an object of at most {MAX_KEYS}")
    read = {name: _read_clock(name, value) for name, value in clocks.items()}
    history = History(
        sequence=fields.integer("sequence", minimum=0, maximum=MAX_SEQUENCE),
        statement=fields.digest("statement", HashAlgorithm.SHA256),
        time=parse_time(fields.text("time")),
        clocks={name: clock for name, (clock, _seen) in read.items()},
    )
    return _Memory(history, {name: seen for name, (_clock, seen) in read.items()})


def _read_clock(name: str, value: JsonValue) -> tuple[ClockInfo, int]:
    if not _KEY_NAME.fullmatch(name):
        raise FormatError(f"clocks: expected the name of a key, got {name[:80]!r}")
    fields = Fields(value, f"clocks.{name}", required=("clock", "resetCount", "restartCount", "safe", "seen"))
    clock = ClockInfo(
        fields.integer("clock", minimum=0, maximum=MAX_SEQUENCE),
        fields.integer("resetCount", minimum=0, maximum=_MAX_U32),
        fields.integer("restartCount", minimum=0, maximum=_MAX_U32),
        fields.boolean("safe"),
    )
    return clock, fields.integer("seen", minimum=0, maximum=MAX_SEQUENCE)


def _write_memory(memory: _Memory) -> bytes:
    history = memory.history
    clocks: dict[str, JsonValue] = {
        name: {
            # milliseconds; a TPM that claims more than 2^53 is not believed to have run that long
            "clock": min(clock.clock, MAX_SEQUENCE),
            "resetCount": clock.reset_count,
            "restartCount": clock.restart_count,
            "safe": clock.safe,
            "seen": memory.seen[name],  # seconds since 1970
        }
        for name, clock in history.clocks.items()
    }
    return canonical_bytes(
        {
            "version": 1,
            "sequence": history.sequence,
            "statement": history.statement.hex,
            "time": format_time(history.time),
            "clocks": clocks,
        }
    )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, so that one process at a time reads and replaces."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def read_if_there(path: Path, *, limit_bytes: int) -> bytes | None:
    """Return what a file of the client's memory holds, and one byte more than the limit of one too large.

    Returns:
        None if there is no such file, which alone is first use.

    Raises:
        BlindbuildError: it is there and cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(limit_bytes + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BlindbuildError(f"{path}: cannot be read: {error.strerror}") from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file aside, flush it and rename it: a reader sees the old one or the new one."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem[:16]}.", dir=path.parent)
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
