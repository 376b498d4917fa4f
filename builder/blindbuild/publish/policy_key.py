"""The key that signs TPM policies for systemd: RSA, which is all that systemd checks such signatures with.

Source: systemd 257, src/shared/tpm2-util.c (tpm2_build_sealing_policy: TPM2_ALG_RSASSA with SHA-256) and
src/shared/openssl-util.c (pubkey_fingerprint).
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from blindbuild.digest import Digest
from blindbuild.errors import UsageError

KEY_BITS = (2048, 3072, 4096)  # PC Client profile 1.05: a TPM has 2048; larger ones are optional
EXPONENT = 65537  # TPM 2.0 part 2, 12.2.3.5: the one that every TPM takes
MAX_KEY = 1 << 14  # bytes of PEM; a key of 4096 bits has 3.2 KiB


@dataclass(frozen=True, slots=True)
class PolicyKey:
    """An RSA key."""

    _key: RSAPrivateKey

    @property
    def fingerprint(self) -> Digest:
        """SHA-256 of the key as PKCS#1 has it: of its two numbers, without the name of an algorithm."""
        return Digest.sha256(self._key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1))

    def sign(self, message: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature over the SHA-256 of a message; the same every time."""
        return self._key.sign(message, PKCS1v15(), SHA256())


def load_policy_key(pem: bytes) -> PolicyKey:
    """Read an RSA key from PEM.

    Raises:
        UsageError: not PEM, encrypted, not RSA, or of a size or exponent that TPMs do not load.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "expected an unencrypted RSA key in PEM",
            hint="make one with `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048`",
        ) from error
    if not isinstance(key, RSAPrivateKey):
        raise UsageError(
            f"expected an RSA key, which is all that systemd checks policies with, got {type(key).__name__}"
        )
    exponent = key.public_key().public_numbers().e
    if key.key_size not in KEY_BITS or exponent != EXPONENT:
        sizes = ", ".join(map(str, KEY_BITS))
        raise UsageError(
            f"expected an RSA key of {sizes} bits and exponent {EXPONENT}, got {key.key_size} and {exponent}"
        )
    return PolicyKey(key)
