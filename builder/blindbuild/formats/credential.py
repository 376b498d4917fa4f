"""TPM2_MakeCredential without a TPM: a secret for whoever holds two keys in one TPM.

Source: TPM 2.0 Library, Part 1: 24 (credential protection), 11.4.10 (KDFa), B.10 (secret sharing with RSA).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import ECB

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError, TpmStructureError
from blindbuild.formats.tpm2 import Algorithm, write_sized
from blindbuild.formats.tpmkey import PublicArea, RsaKey

MAX_SECRET = 32  # bytes; Part 1, 24.4: no more than the digest of the protecting key's nameAlg
_IDENTITY = b"IDENTITY\0"  # Part 1, B.10.4: the label with its NUL is the OAEP parameter
_STORAGE = b"STORAGE\0"  # Part 1, 24.4
_INTEGRITY = b"INTEGRITY\0"  # Part 1, 24.5
_AES_BLOCK = 16
_AES_KEY_BITS = (128, 192, 256)


@dataclass(frozen=True, slots=True)
class Credential:
    """What TPM2_ActivateCredential takes.

    Attributes:
        blob: TPM2B_ID_OBJECT.
        encrypted_secret: TPM2B_ENCRYPTED_SECRET.
    """

    blob: bytes
    encrypted_secret: bytes


def make_credential(
    endorsement_key: PublicArea, name: bytes, *, secret: bytes, seed: bytes, oaep_seed: bytes
) -> Credential:
    """Encrypt `secret` so that only a TPM holding both keys gives it back.

    Args:
        endorsement_key: an RSA key with AES-128-CFB.
        name: the name of the key that must be loaded beside it.
        secret: 1 to 32 bytes.
        seed: random, as long as a digest of the endorsement key's nameAlg.
        oaep_seed: random, of the same length.

    Returns:
        The two structures, sizes in front.

    Raises:
        TpmStructureError: the endorsement key is of another kind, or a length is wrong.
    """
    algorithm = _name_algorithm(endorsement_key)
    if not isinstance(endorsement_key.key, RsaKey) or endorsement_key.symmetric is None:
        raise TpmStructureError("expected an RSA endorsement key with a symmetric algorithm")
    symmetric = endorsement_key.symmetric
    kind = (symmetric.algorithm, symmetric.mode)
    if kind != (Algorithm.AES, Algorithm.CFB) or symmetric.key_bits not in _AES_KEY_BITS:
        raise TpmStructureError("expected an endorsement key that protects with AES-CFB")
    if len(seed) != algorithm.size or len(oaep_seed) != algorithm.size:
        raise TpmStructureError(f"expected seeds of {algorithm.size} bytes")
    if not 1 <= len(secret) <= MAX_SECRET:
        raise TpmStructureError(f"expected a secret of 1 to {MAX_SECRET} bytes, got {len(secret)}")
    storage_key = derive_key(algorithm, seed, _STORAGE, name, symmetric.key_bits // 8)
    integrity_key = derive_key(algorithm, seed, _INTEGRITY, b"", algorithm.size)
    identity = _aes_cfb(storage_key, write_sized(secret))
    outer = hmac.new(integrity_key, identity + name, algorithm.value).digest()
    sealed = _rsa_oaep(endorsement_key.key, algorithm, message=seed, oaep_seed=oaep_seed)
    return Credential(write_sized(write_sized(outer) + identity), write_sized(sealed))


def derive_key(algorithm: HashAlgorithm, key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """Return `size` bytes of KDFa with an empty second context; `label` ends with its NUL.

    HMAC(key, counter ‖ label ‖ context ‖ bits), concatenated until there is enough (Part 1, 11.4.10.2).
    """
    output = b""
    counter = 1
    while len(output) < size:
        message = struct.pack(">I", counter) + label + context + struct.pack(">I", 8 * size)
        output += hmac.new(key, message, algorithm.value).digest()
        counter += 1
    return output[:size]


def _aes_cfb(key: bytes, data: bytes) -> bytes:
    # CFB with a zero IV, out of single-block encryptions: the library has moved its CFB mode around
    encryptor = Cipher(AES(key), ECB()).encryptor()  # noqa: S305
    output, feedback = b"", bytes(_AES_BLOCK)
    for start in range(0, len(data), _AES_BLOCK):
        block = data[start : start + _AES_BLOCK]
        feedback = bytes(a ^ b for a, b in zip(encryptor.update(feedback), block, strict=False))
        output += feedback
    return output


def _rsa_oaep(key: RsaKey, algorithm: HashAlgorithm, *, message: bytes, oaep_seed: bytes) -> bytes:
    """Return RSAES-OAEP by hand (RFC 8017, 7.1.1): the library would draw the seed itself."""
    modulus = int.from_bytes(key.modulus, "big")
    size = len(key.modulus)
    padding = size - len(message) - 2 * algorithm.size - 2
    if padding < 0 or 8 * size != key.key_bits or modulus.bit_length() != key.key_bits:
        raise TpmStructureError(f"expected a modulus of {key.key_bits} bits that holds the seed")
    label = hashlib.new(algorithm.value, _IDENTITY).digest()
    block = label + bytes(padding) + b"\x01" + message
    masked = _xor(block, _mgf1(algorithm, oaep_seed, len(block)))
    masked_seed = _xor(oaep_seed, _mgf1(algorithm, masked, algorithm.size))
    encoded = int.from_bytes(masked_seed + masked, "big")
    return pow(encoded, key.public_exponent, modulus).to_bytes(size, "big")


def _mgf1(algorithm: HashAlgorithm, seed: bytes, size: int) -> bytes:
    """Return MGF1 (RFC 8017, B.2.1)."""
    blocks = -(-size // algorithm.size)
    mask = b"".join(hashlib.new(algorithm.value, seed + struct.pack(">I", i)).digest() for i in range(blocks))
    return mask[:size]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _name_algorithm(public: PublicArea) -> HashAlgorithm:
    try:
        return HashAlgorithm.from_tpm_id(public.name_algorithm)
    except FormatError as error:
        raise TpmStructureError(f"nameAlg of the endorsement key: {error.message}") from error
