"""A witness: cosigns a log's checkpoint only if the log grew from what it cosigned before.

What it cosigned last is on disk before the answer goes out, under a lock, so that two requests at once, a
kill at any moment or a second process never make it cosign two histories.

Source: C2SP tlog-witness (c2sp.org/tlog-witness), "add-checkpoint", "Monitor Retrieval Mechanism".
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client.state import locked
from blindbuild.client.web import Answer
from blindbuild.errors import BlindbuildError, TlogError
from blindbuild.formats.checkpoint import (
    Checkpoint,
    UnverifiedCheckpoint,
    parse_checkpoint,
    parse_checkpoint_text,
    parse_hash,
    parse_size,
)
from blindbuild.formats.cosignature import cosign_checkpoint, judge_key
from blindbuild.formats.merkle import EMPTY_ROOT, MAX_PROOF, verify_consistency
from blindbuild.formats.note import (
    COSIGNATURE_ED25519,
    MAX_NOTE,
    SignatureState,
    UnverifiedNote,
    VerifierKey,
    make_vkey,
    parse_note,
    write_note,
)
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.publish.cosigners import CONFLICT, FORBIDDEN, NOT_FOUND, OK, SIZE_TYPE, UNPROCESSABLE
from blindbuild.publish.sign import SigningKey

BAD_REQUEST, SERVER_ERROR = 400, 500
MAX_REQUEST = MAX_NOTE + (1 << 13)  # bytes; 63 hashes in base64 are below 3 KiB
PLAIN, NOTE_TYPE = "text/plain", "text/plain; charset=utf-8"
_NOTHING_YET = b""


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """The witness's name and key."""

    key: VerifierKey
    signing_key: SigningKey

    @classmethod
    def of(cls, name: str, signing_key: SigningKey) -> WitnessKey:
        """Return the key under a name.

        Raises:
            TlogError: a name that no key may have.
        """
        return cls(make_vkey(name, COSIGNATURE_ED25519, signing_key.public.spki[-32:]), signing_key)


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A request: the log grew from `old` leaves, by this proof, to the checkpoint in this note."""

    old: int
    path: tuple[bytes, ...]
    note: bytes


class _RefusedError(Exception):
    """A request that is answered with this status and these words."""

    def __init__(self, status: int, text: str, content_type: str = PLAIN) -> None:
        super().__init__(text)
        self.answer = Answer(status, content_type, f"{text}\n".encode())


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse the body of an add-checkpoint request.

    Raises:
        TlogError: malformed.
    """
    if len(body) > MAX_REQUEST:
        raise TlogError(f"request: expected at most {MAX_REQUEST} bytes, got {len(body)}")
    head, found, note = body.partition(b"\n\n")
    try:
        first, *hashes = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise TlogError("request: expected ASCII text before the checkpoint") from error
    if not found or not first.startswith("old "):
        raise TlogError("request: expected `old SIZE`, hashes, an empty line and a checkpoint")
    if len(hashes) > MAX_PROOF:
        raise TlogError(f"request: expected at most {MAX_PROOF} hashes, got {len(hashes)}")
    old = parse_size(first.removeprefix("old "), what="old size")
    return AddCheckpoint(old, tuple(parse_hash(line) for line in hashes), note)


class Witness:
    """Answers add-checkpoint requests.

    Args:
        state: a directory that only this witness writes.
        key: its name and key.
        logs: keys of the logs it knows; several may have one origin.
        clock: gives seconds since 1970.
    """

    def __init__(
        self, state: Path, key: WitnessKey, logs: Sequence[VerifierKey], *, clock: Callable[[], int]
    ) -> None:
        self._state = state
        self._key = key
        self._logs: dict[str, list[VerifierKey]] = {}
        for log in logs:
            self._logs.setdefault(log.name, []).append(log)
        self._clock = clock

    def begin(self) -> tuple[str, ...]:
        """Prepare the state of every log; return the origins of those it remembers nothing about.

        While it runs, a log's missing file is an error and never a first use.

        Raises:
            BlindbuildError: state that cannot be read or understood.
        """
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = []
        for origin in self._logs:
            with locked(self._path(origin).with_suffix(".lock")):  # another process may begin, and cosign
                if not self._path(origin).exists():
                    write_atomically(self._path(origin), _NOTHING_YET, 0o600)
            if self._read(origin) is None:
                new.append(origin)
        return tuple(new)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Judge a request, remember the checkpoint, and answer with the cosignature."""
        try:
            request, signed = self._open(body)
            origin = signed.checkpoint.origin
            with locked(self._path(origin).with_suffix(".lock")):
                self._check(request, signed.checkpoint, self._read(origin))
                return self._cosign(signed)
        except _RefusedError as refused:
            return refused.answer
        except (BlindbuildError, OSError) as error:
            # nothing was cosigned, or it was and is remembered: asking again gives the same
            return Answer(SERVER_ERROR, PLAIN, f"{type(error).__name__}\n".encode())

    def latest(self, origin_hash: str) -> Answer:
        """Return the last checkpoint that was cosigned, by the SHA-256 of its origin in hex."""
        for origin in self._logs:
            if _hash_of(origin) == origin_hash:
                try:
                    data = self._data(origin)
                except BlindbuildError:
                    return Answer(SERVER_ERROR, PLAIN, b"state\n")
                if data:
                    return Answer(OK, NOTE_TYPE, data)
        return Answer(NOT_FOUND, PLAIN, b"no checkpoint\n")

    def _open(self, body: bytes) -> tuple[AddCheckpoint, UnverifiedCheckpoint]:
        try:
            request = parse_add_checkpoint(body)
        except TlogError as error:
            raise _RefusedError(BAD_REQUEST, error.message) from error
        try:
            note = parse_note(request.note)
        except TlogError as error:  # what is no note has no signature of a known log
            raise _RefusedError(FORBIDDEN, f"invalid signature: {error.message}") from error
        try:
            signed = UnverifiedCheckpoint(parse_checkpoint_text(note.text), note)
        except TlogError as error:
            raise _RefusedError(BAD_REQUEST, error.message) from error
        self._check_signature(signed)
        if request.old > signed.checkpoint.size:
            raise _RefusedError(BAD_REQUEST, "the old size is larger than the checkpoint's")
        return request, signed

    def _check_signature(self, signed: UnverifiedCheckpoint) -> None:
        keys = self._logs.get(signed.checkpoint.origin)
        if keys is None:
            raise _RefusedError(NOT_FOUND, "unknown log")
        verdicts = [judge_key(signed, key) for key in keys]
        good = any(verdict.state is SignatureState.GOOD for verdict in verdicts)
        if not good or any(verdict.state is SignatureState.BAD for verdict in verdicts):
            raise _RefusedError(FORBIDDEN, "invalid signature of the log")

    def _check(self, request: AddCheckpoint, new: Checkpoint, before: UnverifiedCheckpoint | None) -> None:
        size = 0 if before is None else before.checkpoint.size
        if request.old != size:
            raise _RefusedError(CONFLICT, str(size), SIZE_TYPE)
        root = EMPTY_ROOT if before is None else before.checkpoint.root
        try:  # a tree of size zero is compared with the empty one, so that it must have its root
            verify_consistency(size, root, new.size, new.root, request.path)
        except TlogError as error:
            raise _RefusedError(
                UNPROCESSABLE, f"consistency proof from {size} to {new.size} entries: {error.message}"
            ) from error

    def _cosign(self, signed: UnverifiedCheckpoint) -> Answer:
        checkpoint = signed.checkpoint
        own = cosign_checkpoint(checkpoint, self._key.key, self._key.signing_key.sign, time=self._clock())
        logs = self._logs[checkpoint.origin]
        named = {(key.name, key.key_id) for key in logs}
        kept = {(s.name, s.key_id): s for s in signed.note.signatures if (s.name, s.key_id) in named}
        note = UnverifiedNote(checkpoint.text, (*kept.values(), own))
        write_atomically(self._path(checkpoint.origin), write_note(note), 0o600)
        return Answer(OK, NOTE_TYPE, own.line.encode())

    def _read(self, origin: str) -> UnverifiedCheckpoint | None:
        data = self._data(origin)
        if data == _NOTHING_YET:
            return None
        try:
            signed = parse_checkpoint(data)
        except TlogError as error:
            raise BlindbuildError(f"{self._path(origin)}: {error.message}") from error
        # a file that this witness did not write is no memory of its own
        if (
            signed.checkpoint.origin != origin
            or judge_key(signed, self._key.key).state is not SignatureState.GOOD
        ):
            raise BlindbuildError(f"{self._path(origin)}: expected a checkpoint that this witness cosigned")
        return signed

    def _data(self, origin: str) -> bytes:
        return read_bytes(self._path(origin), limit_bytes=MAX_NOTE)

    def _path(self, origin: str) -> Path:
        return self._state / f"{_hash_of(origin)}.note"


def _hash_of(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()
