"""A transparency log, its witnesses and its proofs, written from the specifications and from nothing else.

Hashes are the recursive definitions of RFC 6962, 2.1, over the entries themselves; notes, cosignatures and
proofs are put together from strings. Nothing here imports the code under test.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

LOG, WITNESS = 1, 4


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def mth(entries: Sequence[bytes]) -> bytes:
    """MTH(D[n])."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = cut(len(entries))
    return hashlib.sha256(b"\1" + mth(entries[:k]) + mth(entries[k:])).digest()


def cut(n: int) -> int:
    k = 1
    while k * 2 < n:
        k *= 2
    return k


def path(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    n = len(entries)
    if n == 1:
        return []
    k = cut(n)
    if m < k:
        return [*path(m, entries[:k]), mth(entries[k:])]
    return [*path(m - k, entries[k:]), mth(entries[:k])]


def proof(m: int, entries: Sequence[bytes]) -> list[bytes]:
    """PROOF(m, D[n])."""
    return subproof(m, entries, True)


def subproof(m: int, entries: Sequence[bytes], b: bool) -> list[bytes]:
    n = len(entries)
    if m == n:
        return [] if b else [mth(entries)]
    k = cut(n)
    if m <= k:
        return [*subproof(m, entries[:k], b), mth(entries[k:])]
    return [*subproof(m - k, entries[k:], False), mth(entries[:k])]


@dataclass(frozen=True)
class Key:
    """An Ed25519 key under a name."""

    name: str
    kind: int
    private: Ed25519PrivateKey

    @classmethod
    def make(cls, name: str, kind: int, seed: int = 0) -> Key:
        secret = hashlib.sha256(f"{name}{seed}".encode()).digest()
        return cls(name, kind, Ed25519PrivateKey.from_private_bytes(secret))

    @property
    def public(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.kind]) + self.public)}"

    def line(self, blob: bytes, *, name: str | None = None, key_id: bytes | None = None) -> str:
        return f"— {name or self.name} {b64((key_id or self.key_id) + blob)}\n"

    def sign(self, text: str) -> str:
        return self.line(self.private.sign(text.encode()))

    def cosign(self, text: str, time: int) -> str:
        message = f"cosignature/v1\ntime {time}\n{text}".encode()
        return self.line(struct.pack(">Q", time) + self.private.sign(message))


def checkpoint_text(origin: str, entries: Sequence[bytes], *, root: bytes | None = None) -> str:
    return f"{origin}\n{len(entries)}\n{b64(mth(entries) if root is None else root)}\n"


def note(text: str, *lines: str) -> bytes:
    return (text + "\n" + "".join(lines)).encode()


def proof_file(index: int, hashes: Sequence[bytes], checkpoint: bytes) -> bytes:
    lines = ["c2sp.org/tlog-proof@v1", f"index {index}", *map(b64, hashes), "", ""]
    return "\n".join(lines).encode() + checkpoint


def entry(envelope: bytes, statement: bytes, **changes) -> bytes:
    """The leaf of a manifest, from a dictionary."""
    value = {
        "v": 1,
        "type": "blindbuild/reference-measurements",
        "product": "hello",
        "channel": "stable",
        "sequence": 42,
        "statementSha256": hashlib.sha256(statement).hexdigest(),
        "envelopeSha256": hashlib.sha256(envelope).hexdigest(),
    }
    return rfc8785.dumps(value | changes)


def tiles(entries: Sequence[bytes]) -> dict[str, bytes]:
    """Every file that a log of these entries serves below its prefix, but the checkpoint."""
    files = {}
    for n in range((len(entries) + 255) // 256):
        part = entries[n * 256 : (n + 1) * 256]
        data = b"".join(struct.pack(">H", len(one)) + one for one in part)
        files[f"tile/entries/{place(n)}{partial(len(part))}"] = data
    level = 0
    while len(entries) >> (8 * level):
        span = 256**level
        hashes = [mth(entries[i * span : (i + 1) * span]) for i in range(len(entries) // span)]
        for n in range((len(hashes) + 255) // 256):
            part = hashes[n * 256 : (n + 1) * 256]
            files[f"tile/{level}/{place(n)}{partial(len(part))}"] = b"".join(part)
        level += 1
    return files


def place(n: int) -> str:
    digits = f"{n:03d}"
    digits = digits.zfill((len(digits) + 2) // 3 * 3)
    groups = [digits[i : i + 3] for i in range(0, len(digits), 3)]
    return "/".join([*(f"x{group}" for group in groups[:-1]), groups[-1]])


def partial(width: int) -> str:
    return "" if width == 256 else f".p/{width}"
