"""Hash algorithms by their TCG numbers, and the digest as a value."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum

from blindbuild.errors import FormatError

_HEX_DIGITS = frozenset("0123456789abcdef")


class HashAlgorithm(Enum):
    """A hash algorithm; the value is the name used in statements and by `hashlib`."""

    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Digest length in bytes."""
        return _SIZES[self]

    @property
    def tpm_id(self) -> int:
        """TPM_ALG_ID (TCG Algorithm Registry)."""
        return _TPM_IDS[self]

    @classmethod
    def from_tpm_id(cls, tpm_id: int) -> HashAlgorithm:
        """Return the algorithm with this TPM_ALG_ID; FormatError if it is none of ours."""
        for algorithm, value in _TPM_IDS.items():
            if value == tpm_id:
                return algorithm
        raise FormatError(f"unknown hash algorithm 0x{tpm_id:04x}")

    @classmethod
    def from_name(cls, name: str) -> HashAlgorithm:
        """Return the algorithm of this exact name; FormatError otherwise."""
        try:
            return cls(name)
        except ValueError as error:
            raise FormatError(f"unknown hash algorithm {name!r}") from error


_SIZES = {
    HashAlgorithm.SHA1: 20,
    HashAlgorithm.SHA256: 32,
    HashAlgorithm.SHA384: 48,
    HashAlgorithm.SHA512: 64,
}
_TPM_IDS = {
    HashAlgorithm.SHA1: 0x0004,
    HashAlgorithm.SHA256: 0x000B,
    HashAlgorithm.SHA384: 0x000C,
    HashAlgorithm.SHA512: 0x000D,
}


@dataclass(frozen=True, slots=True)
class Digest:
    """The value of a hash: algorithm and bytes, whose length always fits."""

    algorithm: HashAlgorithm
    value: bytes

    def __post_init__(self) -> None:
        if len(self.value) != self.algorithm.size:
            raise FormatError(
                f"a {self.algorithm.value} digest has {self.algorithm.size} bytes, got {len(self.value)}"
            )

    @property
    def hex(self) -> str:
        """Lower-case hexadecimal digits."""
        return self.value.hex()

    def __str__(self) -> str:
        return f"{self.algorithm.value}:{self.hex}"

    @classmethod
    def of(cls, algorithm: HashAlgorithm, data: bytes | bytearray | memoryview) -> Digest:
        """Hash `data`."""
        return cls(algorithm, hashlib.new(algorithm.value, data).digest())

    @classmethod
    def sha256(cls, data: bytes | bytearray | memoryview) -> Digest:
        """Hash `data` with SHA-256."""
        return cls.of(HashAlgorithm.SHA256, data)

    @classmethod
    def zero(cls, algorithm: HashAlgorithm) -> Digest:
        """All bits zero: what registers 0-16 and 23 start from."""
        return cls(algorithm, bytes(algorithm.size))

    @classmethod
    def ones(cls, algorithm: HashAlgorithm) -> Digest:
        """All bits one: what registers 17-22 start from."""
        return cls(algorithm, b"\xff" * algorithm.size)

    @classmethod
    def from_hex(cls, algorithm: HashAlgorithm, text: str) -> Digest:
        """Parse exactly `2 * size` lower-case hex digits; FormatError otherwise."""
        if len(text) != 2 * algorithm.size or not _HEX_DIGITS.issuperset(text):
            raise FormatError(f"expected {2 * algorithm.size} lower-case hex digits, got {text[:140]!r}")
        return cls(algorithm, bytes.fromhex(text))

    def extend(self, digest: Digest) -> Digest:
        """Return H(self ‖ digest), as TPM2_PCR_Extend does (TPM 2.0 Part 3, 22.2)."""
        if digest.algorithm is not self.algorithm:
            raise FormatError(
                f"cannot extend a {self.algorithm.value} register with {digest.algorithm.value}"
            )
        return Digest.of(self.algorithm, self.value + digest.value)

    def equals(self, other: Digest) -> bool:
        """Compare in constant time."""
        return self.algorithm is other.algorithm and hmac.compare_digest(self.value, other.value)
