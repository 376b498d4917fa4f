"""A proof that an entry is in a log, as one text file that is judged without the network.

Source: C2SP tlog-proof (c2sp.org/tlog-proof), "Format".
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.errors import FormatError, TlogError
from blindbuild.formats.checkpoint import UnverifiedCheckpoint, parse_checkpoint, parse_hash, parse_size
from blindbuild.formats.fields import decode_base64, encode_base64
from blindbuild.formats.merkle import MAX_PROOF
from blindbuild.formats.note import MAX_NOTE, write_note

MAX_EXTRA = 1 << 12  # bytes; ours have none, and it proves nothing
MAX_TLOG_PROOF = MAX_NOTE + (1 << 14)  # bytes; 63 hashes and the extra data in base64 are below 9 KiB
_FIRST_LINE = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class UnverifiedProof:
    """Where an entry shall be, and the checkpoint of the tree it shall be in.

    Attributes:
        path: from the leaf's sibling up.
        extra: data that nobody signed.
    """

    index: int
    path: tuple[bytes, ...]
    signed: UnverifiedCheckpoint
    extra: bytes | None = None


def parse_tlog_proof(data: bytes) -> UnverifiedProof:
    """Parse a proof.

    Raises:
        TlogError: malformed at any place, or over a limit.
    """
    if len(data) > MAX_TLOG_PROOF:
        raise TlogError(f"log proof: expected at most {MAX_TLOG_PROOF} bytes, got {len(data)}")
    head, found, note = data.partition(b"\n\n")
    if not found:
        raise TlogError("log proof: expected an empty line before the checkpoint")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise TlogError(f"log proof: expected ASCII text, got another byte at {error.start}") from error
    proof = _read_head(lines, parse_checkpoint(note))
    if write_tlog_proof(proof) != data:
        raise TlogError("log proof: says more than was understood")
    return proof


def write_tlog_proof(proof: UnverifiedProof) -> bytes:
    """Return the proof as its bytes."""
    lines = [_FIRST_LINE]
    if proof.extra is not None:
        lines.append(f"extra {encode_base64(proof.extra)}")
    lines += [f"index {proof.index}", *(encode_base64(value) for value in proof.path), "", ""]
    return "\n".join(lines).encode("ascii") + write_note(proof.signed.note)


def _read_head(lines: list[str], signed: UnverifiedCheckpoint) -> UnverifiedProof:
    if lines[0] != _FIRST_LINE:
        raise TlogError(f"log proof: expected a first line {_FIRST_LINE}, got {lines[0][:80]!r}")
    extra, lines = _take_extra(lines[1:])
    if not lines or not lines[0].startswith("index "):
        raise TlogError("log proof: expected a line `index NUMBER`")
    if len(lines) - 1 > MAX_PROOF:
        raise TlogError(f"log proof: expected at most {MAX_PROOF} hashes, got {len(lines) - 1}")
    index = parse_size(lines[0].removeprefix("index "), what="index")
    return UnverifiedProof(index, tuple(parse_hash(line) for line in lines[1:]), signed, extra)


def _take_extra(lines: list[str]) -> tuple[bytes | None, list[str]]:
    if not lines or not lines[0].startswith("extra "):
        return None, lines
    try:
        extra = decode_base64(lines[0].removeprefix("extra "))
    except FormatError as error:
        raise TlogError(f"log proof: extra: {error.message}") from error
    if len(extra) > MAX_EXTRA:
        raise TlogError(f"log proof: extra: expected at most {MAX_EXTRA} bytes, got {len(extra)}")
    return extra, lines[1:]
