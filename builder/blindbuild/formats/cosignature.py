"""Signatures on checkpoints: the log's own, and the cosignatures of witnesses with their time.

Source: C2SP tlog-cosignature (c2sp.org/tlog-cosignature), "Format", "Ed25519 signed message", "ML-DSA-44
signed message"; FIPS 204. ML-DSA-44 is verified and never made here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import MAX_SIZE, Checkpoint, UnverifiedCheckpoint
from blindbuild.formats.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ED25519,
    NoteSignature,
    SignatureState,
    VerifierKey,
    accepts_ed25519,
)

MAX_TIME = MAX_SIZE  # seconds since 1970; "MUST NOT exceed 2^63 - 1"
_TIME_SIZE = 8  # bytes
_SIZES = {COSIGNATURE_ED25519: _TIME_SIZE + 64, COSIGNATURE_ML_DSA_44: _TIME_SIZE + 2420}
_ML_DSA_LABEL = b"subtree/v1\n\0"

Signer = Callable[[bytes], bytes]  # message -> Ed25519 signature


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """What one key has said of a checkpoint; `time` is the latest it gave, None for a log's own signature."""

    state: SignatureState
    time: int | None = None
    problem: str = ""


def judge_key(signed: UnverifiedCheckpoint, key: VerifierKey) -> KeyVerdict:
    """Return what a key has said of a checkpoint; one bad signature in its name spoils the good ones.

    Source: signed-note, "Signatures": "If a signature from a known key fails to verify, clients SHOULD
    reject the whole note".
    """
    values = signed.note.of(key)
    if not values:
        return KeyVerdict(SignatureState.ABSENT)
    if key.kind == ED25519:
        good = all(accepts_ed25519(key, value, signed.note.text) for value in values)
        return _verdict(good, None, key)
    times: list[int] = []
    for value in values:
        try:
            times.append(_open_cosignature(signed.checkpoint, key, value))
        except TlogError as error:
            return KeyVerdict(SignatureState.BAD, None, error.message)
    return KeyVerdict(SignatureState.GOOD, max(times))


def sign_checkpoint(checkpoint: Checkpoint, key: VerifierKey, sign: Signer) -> NoteSignature:
    """Return the log's own signature, of type 0x01."""
    if key.kind != ED25519:
        raise TlogError(f"expected a log key of type 0x01, got 0x{key.kind:02x}")
    return NoteSignature(key.name, key.key_id, sign(checkpoint.text))


def cosign_checkpoint(checkpoint: Checkpoint, key: VerifierKey, sign: Signer, *, time: int) -> NoteSignature:
    """Return a witness's cosignature, of type 0x04, made at a time in seconds since 1970.

    Raises:
        TlogError: a key of another type, or a time that no cosignature may have.
    """
    if key.kind != COSIGNATURE_ED25519:
        raise TlogError(f"expected a witness key of type 0x04, got 0x{key.kind:02x}")
    if not 1 <= time <= MAX_TIME:
        raise TlogError(f"expected a time from 1 to 2^63 - 1, got {time}")
    signature = sign(cosigned_message(checkpoint, key, time))
    return NoteSignature(key.name, key.key_id, struct.pack(">Q", time) + signature)


def cosigned_message(checkpoint: Checkpoint, key: VerifierKey, time: int) -> bytes:
    """Return the bytes that a cosigner of this key's type signs."""
    if key.kind == COSIGNATURE_ED25519:
        return b"cosignature/v1\ntime %d\n" % time + checkpoint.text
    name, origin = key.name.encode(), checkpoint.origin.encode()
    return b"".join(
        (
            _ML_DSA_LABEL,
            struct.pack(">B", len(name)) + name,
            struct.pack(">Q", time),
            struct.pack(">B", len(origin)) + origin,
            struct.pack(">QQ", 0, checkpoint.size),  # the whole tree
            checkpoint.root,
        )
    )


def _open_cosignature(checkpoint: Checkpoint, key: VerifierKey, value: bytes) -> int:
    if len(value) != _SIZES[key.kind]:
        raise TlogError(f"cosignature of {key.name}: expected {_SIZES[key.kind]} bytes, got {len(value)}")
    (time,) = struct.unpack(">Q", value[:_TIME_SIZE])
    # tlog-witness, "add-checkpoint": the timestamp must not be left out
    if not 1 <= time <= MAX_TIME:
        raise TlogError(f"cosignature of {key.name}: expected a time from 1 to 2^63 - 1, got {time}")
    message = cosigned_message(checkpoint, key, time)
    accepts = accepts_ed25519 if key.kind == COSIGNATURE_ED25519 else _accepts_ml_dsa
    if not accepts(key, value[_TIME_SIZE:], message):
        raise TlogError(f"cosignature of {key.name}: expected its signature, got another")
    return int(time)


def _accepts_ml_dsa(key: VerifierKey, signature: bytes, message: bytes) -> bool:
    try:
        from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

        MLDSA44PublicKey.from_public_bytes(key.public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    except (ImportError, UnsupportedAlgorithm) as error:
        raise TlogError(
            f"cosignature of {key.name}: this installation of cryptography has no ML-DSA-44",
            hint="install a later cryptography, or name a witness's Ed25519 key in the policy",
        ) from error
    return True


def _verdict(good: bool, time: int | None, key: VerifierKey) -> KeyVerdict:
    if good:
        return KeyVerdict(SignatureState.GOOD, time)
    return KeyVerdict(
        SignatureState.BAD, None, f"signature of {key.name}: expected its signature, got another"
    )
