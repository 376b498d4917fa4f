"""COSE_Sign1: what AWS signs an enclave image's measurement with, and what we sign for others to read.

Source: RFC 9052, 4.2 (COSE_Sign1) and 4.4 (the bytes that are signed); RFC 9053, 2.1 (ECDSA: r and s, each as
long as the curve's order) and table 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from blindbuild.errors import FormatError
from blindbuild.formats.cbor import CborKey, CborTag, CborValue, decode_cbor, encode_cbor

_ALGORITHM = 1  # the header parameter `alg`, RFC 9052 table 3
_CONTEXT = "Signature1"
_SIGN1_TAG = 18  # RFC 9052 table 1


@dataclass(frozen=True, slots=True)
class _Algorithm:
    name: str
    number: int
    curve: str
    hash_function: hashes.HashAlgorithm
    half_bytes: int


# RFC 9053 leaves curve and hash free to combine; AWS uses each curve with the hash of its strength.
_ALGORITHMS = (
    _Algorithm("ES256", -7, "secp256r1", hashes.SHA256(), 32),
    _Algorithm("ES384", -35, "secp384r1", hashes.SHA384(), 48),
    _Algorithm("ES512", -36, "secp521r1", hashes.SHA512(), 66),
)


@dataclass(frozen=True, slots=True)
class UnverifiedSign1:
    """A COSE_Sign1 structure of which nothing is verified.

    Attributes:
        protected: the encoded protected header, which says nothing but the algorithm.
        unprotected: the other header, which no signature covers.
        payload: what is signed.
        signature: r and s.
    """

    protected: bytes
    unprotected: Mapping[CborKey, CborValue]
    payload: bytes
    signature: bytes

    def verify(self, key: EllipticCurvePublicKey) -> bytes:
        """Return the payload, if the signature over it is the key's.

        Raises:
            FormatError: the signature is not this key's, or another algorithm than the key's is named.
        """
        algorithm = _algorithm_of(key)
        if self.protected != _protected(algorithm):
            raise FormatError(f"COSE: expected a signature by {algorithm.name}, as the key's curve wants")
        if len(self.signature) != 2 * algorithm.half_bytes:
            raise FormatError(
                f"COSE: expected a signature of {2 * algorithm.half_bytes} bytes, got {len(self.signature)}"
            )
        r, s = (
            int.from_bytes(half, "big")
            for half in (self.signature[: algorithm.half_bytes], self.signature[algorithm.half_bytes :])
        )
        try:
            key.verify(
                encode_dss_signature(r, s),
                _to_be_signed(self.protected, self.payload),
                ECDSA(algorithm.hash_function),
            )
        except InvalidSignature as error:
            raise FormatError("COSE: the signature is not this key's over this payload") from error
        return self.payload


def parse_sign1(data: bytes) -> UnverifiedSign1:
    """Parse an untagged COSE_Sign1 structure.

    Raises:
        FormatError: not one, not in its shortest encoding, or with a detached payload.
    """
    value = decode_cbor(data)
    if not isinstance(value, tuple) or len(value) != 4:
        raise FormatError("COSE: expected the four parts of a COSE_Sign1 structure")
    protected, unprotected, payload, signature = value
    if not (
        isinstance(protected, bytes)
        and isinstance(unprotected, dict)
        and isinstance(payload, bytes)
        and isinstance(signature, bytes)
    ):
        raise FormatError("COSE: expected bytes, a map, bytes and bytes")
    return UnverifiedSign1(protected, unprotected, payload, signature)


def sign_sign1(payload: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """Return an untagged COSE_Sign1 structure over a payload; the same every time (RFC 6979).

    Raises:
        FormatError: a key on a curve that COSE has no algorithm for here.
    """
    algorithm = _algorithm_of(key)
    protected = _protected(algorithm)
    signed = key.sign(
        _to_be_signed(protected, payload), ECDSA(algorithm.hash_function, deterministic_signing=True)
    )
    halves = b"".join(half.to_bytes(algorithm.half_bytes, "big") for half in decode_dss_signature(signed))
    return encode_cbor((protected, cast("dict[CborKey, CborValue]", {}), payload, halves))


def write_sign1(
    payload: bytes, protected: Mapping[CborKey, CborValue], sign: Callable[[bytes], bytes]
) -> bytes:
    """Return a tagged COSE_Sign1 structure.

    Args:
        payload: what is signed.
        protected: the header that is signed with it; it names the algorithm.
        sign: returns the signature over a message, in the form that the algorithm has.
    """
    header = encode_cbor(dict(protected))
    signature = sign(_to_be_signed(header, payload))
    return encode_cbor(CborTag(_SIGN1_TAG, (header, {}, payload, signature)))


def _algorithm_of(key: EllipticCurvePublicKey | EllipticCurvePrivateKey) -> _Algorithm:
    for algorithm in _ALGORITHMS:
        if algorithm.curve == key.curve.name:
            return algorithm
    curves = ", ".join(algorithm.curve for algorithm in _ALGORITHMS)
    raise FormatError(f"COSE: expected a key on {curves}, got {key.curve.name}")


def _protected(algorithm: _Algorithm) -> bytes:
    return encode_cbor({_ALGORITHM: algorithm.number})


def _to_be_signed(protected: bytes, payload: bytes) -> bytes:
    return encode_cbor((_CONTEXT, protected, b"", payload))
