"""ECDSA signatures that come as two numbers of fixed length, as Intel writes them."""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

_NUMBER_SIZE = 32  # bytes of r and of s on P-256


def verify_p256(key: EllipticCurvePublicKey, signature: bytes, data: bytes) -> bool:
    """Return whether r and s, big-endian, are the key's signature with SHA-256 over `data`."""
    if len(signature) != 2 * _NUMBER_SIZE:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:_NUMBER_SIZE], signature[_NUMBER_SIZE:]))
    try:
        key.verify(encode_dss_signature(r, s), data, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True
