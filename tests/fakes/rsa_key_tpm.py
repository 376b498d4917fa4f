"""A TPM whose attestation key is RSA, as clouds have them, and a key that says whatever a test wants.

Layout: TPM 2.0 Library Part 2, 12.2.3.5 (TPMS_RSA_PARMS), 11.3.1 (TPMS_SIGNATURE_RSASSA).
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.fakes.software_tpm import SoftwareTpm, sized

RSASSA, RSAPSS, SHA1, SHA256, SHA384 = 0x0014, 0x0016, 0x0004, 0x000B, 0x000C
AZURE_ATTRIBUTES = 0x00050472


@functools.cache
def rsa_key(bits: int = 2048, *, exponent: int = 65537, number: int = 0) -> rsa.RSAPrivateKey:
    """The key of this number; made once, for it takes a while."""
    del number
    return rsa.generate_private_key(public_exponent=exponent, key_size=bits)


@dataclass
class RsaKeyTpm(SoftwareTpm):
    """The same TPM with another kind of attestation key; the fields below are what the public area says."""

    signer: rsa.RSAPrivateKey = field(default_factory=rsa_key)
    scheme: tuple[int, ...] = (RSASSA, SHA256)
    bits: int = 2048
    exponent: int = 0
    modulus: bytes | None = None
    policy: bytes = b""

    @property
    def ak_area(self) -> bytes:
        numbers = self.signer.public_key().public_numbers()
        modulus = numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8, "big")
        area = struct.pack(">HHI", 0x0001, 0x000B, self.ak_attributes) + sized(self.policy)
        area += struct.pack(f">H{len(self.scheme)}H", 0x0010, *self.scheme)
        return area + struct.pack(">HI", self.bits, self.exponent) + sized(self.modulus or modulus)

    def sign(self, message: bytes) -> bytes:
        value = self.signer.sign(message, padding.PKCS1v15(), hashes.SHA256())
        return struct.pack(">HH", RSASSA, SHA256) + sized(value)
