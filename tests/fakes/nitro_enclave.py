"""A Nitro hypervisor in Python that signs attestation documents, written from AWS's description and RFC 8949.

It shares no code with `blindbuild.formats`; it signs whatever a test asks for.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.fakes.authorities import Authority, Rules, make_root

REGISTERS = {number: bytes(48) for number in range(16)} | {
    number: hashlib.sha384(b"register %d" % number).digest() for number in (0, 1, 2, 4)
}
ES384 = b"\xa1\x01\x38\x22"  # {1: -35}, RFC 9053 table 1


class Raw(bytes):
    """CBOR that is written as it is."""


def cbor(value) -> bytes:
    """The shortest encoding of a value (RFC 8949, 4.2.1), map keys in their order here."""
    match value:
        case Raw():
            return bytes(value)
        case None:
            return b"\xf6"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case bytes():
            return head(2, len(value)) + value
        case str():
            return head(3, len(value.encode())) + value.encode()
        case list():
            return head(4, len(value)) + b"".join(cbor(each) for each in value)
        case dict():
            return head(5, len(value)) + b"".join(cbor(key) + cbor(each) for key, each in value.items())
    raise TypeError(value)


def head(major: int, number: int) -> bytes:
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 24:
            return bytes((major << 5 | number,))
        if number < 1 << 8 * size:
            return bytes((major << 5 | code,)) + number.to_bytes(size, "big")
    raise ValueError(number)


@dataclass(frozen=True)
class Hypervisor:
    """A root, two issuers below it, and the key of one enclave."""

    root: Authority
    region: Authority
    instance: Authority
    key: ec.EllipticCurvePrivateKey

    @property
    def bundle(self) -> list[bytes]:
        return [self.root.der, self.region.der, self.instance.der]

    def certificate(self, key=None, **changes) -> bytes:
        return self.instance.issue("an enclave", (key or self.key).public_key(), [], **changes)


@functools.cache
def hypervisor() -> Hypervisor:
    root = make_root("test.nitro-enclaves", ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    region = root.below("region.test.nitro-enclaves", rules=Rules(path_length=1))
    return Hypervisor(root, region, region.below("i-0"), ec.generate_private_key(ec.SECP384R1()))


def fields(now: int, bound: bytes, **changes) -> dict:
    """The fields of an honest document, in the order in which AWS writes them."""
    values = {
        "module_id": "i-0123456789abcdef0-enc0123456789abcdef",
        "digest": "SHA384",
        "timestamp": 1000 * now,
        "pcrs": REGISTERS,
        "certificate": hypervisor().certificate(),
        "cabundle": hypervisor().bundle,
        "public_key": None,
        "user_data": bound,
        "nonce": None,
    }
    return values | changes


def document(values, *, key=None, protected: bytes = ES384, unprotected=None) -> bytes:
    """A COSE_Sign1 structure over these fields, or over bytes that are given as they are."""
    payload = values if isinstance(values, bytes) else cbor(values)
    signed = (key or hypervisor().key).sign(
        cbor(["Signature1", protected, b"", payload]), ec.ECDSA(hashes.SHA384())
    )
    r, s = decode_dss_signature(signed)
    numbers = r.to_bytes(48, "big") + s.to_bytes(48, "big")
    return cbor([protected, unprotected or {}, payload, numbers])
