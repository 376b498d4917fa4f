"""Checkpoints: what a transparency log says its tree is, as the text of a signed note.

Source: C2SP tlog-checkpoint (c2sp.org/tlog-checkpoint), "Note text".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import FormatError, TlogError
from blindbuild.formats.fields import decode_base64, encode_base64
from blindbuild.formats.note import UnverifiedNote, parse_note

HASH_SIZE = 32  # bytes of SHA-256
MAX_SIZE = 2**63 - 1  # leaves; what every implementation can count
MAX_ORIGIN = 255  # bytes; an ML-DSA-44 cosignature has one byte for the length
MAX_LINES = 64  # text lines; a checkpoint has three, and extension lines are not recommended
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The tree head: `size` leaves have the root hash `root`.

    Attributes:
        origin: which log it is.
        extensions: further lines, which say nothing that can be checked.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> bytes:
        """The note text."""
        lines = (self.origin, str(self.size), encode_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True, slots=True)
class UnverifiedCheckpoint:
    """A checkpoint in a note whose signatures nobody has looked at."""

    checkpoint: Checkpoint
    note: UnverifiedNote


def parse_checkpoint(data: bytes) -> UnverifiedCheckpoint:
    """Parse a signed checkpoint.

    Raises:
        TlogError: not a note, or its text is not a checkpoint's.
    """
    note = parse_note(data)
    return UnverifiedCheckpoint(parse_checkpoint_text(note.text), note)


def parse_checkpoint_text(text: bytes) -> Checkpoint:
    """Parse the text of a checkpoint, newline included.

    Raises:
        TlogError: fewer than three lines, an empty one, a size or a root that is not exact.
    """
    try:
        *lines, rest = text.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise TlogError(f"checkpoint: expected UTF-8, got another byte at {error.start}") from error
    if rest or not 3 <= len(lines) <= MAX_LINES:
        raise TlogError(f"checkpoint: expected 3 to {MAX_LINES} lines, each with its end, got {len(lines)}")
    if not all(lines):
        raise TlogError("checkpoint: expected lines that are not empty")
    origin = lines[0]
    if len(origin.encode()) > MAX_ORIGIN or not origin.isprintable():
        raise TlogError(f"checkpoint: expected a printable origin of at most {MAX_ORIGIN} bytes")
    checkpoint = Checkpoint(origin, parse_size(lines[1]), parse_hash(lines[2]), tuple(lines[3:]))
    if checkpoint.text != text:
        raise TlogError("checkpoint: says more than was understood")
    return checkpoint


def parse_size(text: str, *, what: str = "size") -> int:
    """Read a decimal number without leading zeros.

    Raises:
        TlogError: any other spelling, or 2^63 and more.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise TlogError(f"{what}: expected a decimal number below 2^63, got {text[:40]!r}")
    return int(text)


def parse_hash(text: str) -> bytes:
    """Read a SHA-256 in base64.

    Raises:
        TlogError: not base64, or not 32 bytes.
    """
    try:
        value = decode_base64(text)
    except FormatError as error:
        raise TlogError(f"hash: {error.message}") from error
    if len(value) != HASH_SIZE:
        raise TlogError(f"hash: expected {HASH_SIZE} bytes, got {len(value)}")
    return value
