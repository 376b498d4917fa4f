"""Public areas of TPM keys, and the names a TPM knows them by.

Source: TPM 2.0 Library, Part 2, 8.3 and 12.2 (public areas), Part 1, 16 (names); revision 1.59.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, TpmStructureError
from blindbuild.formats.tpm2 import Algorithm, StructureReader, read_sized, write_sized

TPM_RH_ENDORSEMENT = 0x4000000B  # Part 2, 7.4
_TPM_RSA_DEFAULT_EXPONENT = 65537  # Part 2, 12.2.3.5: an exponent of 0 means this


class Attribute(IntFlag):
    """TPMA_OBJECT (Part 2, 8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18


_SCHEMES_WITHOUT_HASH = frozenset({Algorithm.NULL, 0x0015})  # TPM_ALG_NULL, TPM_ALG_RSAES
_SCHEMES_WITH_HASH = frozenset({0x0014, 0x0016, 0x0017, 0x0018, 0x0019, 0x001B, 0x001C})
_KDF_WITH_HASH = frozenset({0x0007, 0x0020, 0x0021, 0x0022})  # MGF1, KDF1_SP800_56A, KDF2, KDF1_SP800_108


@dataclass(frozen=True, slots=True)
class Symmetric:
    """TPMT_SYM_DEF_OBJECT that is not NULL (Part 2, 11.1.7)."""

    algorithm: int
    key_bits: int
    mode: int


@dataclass(frozen=True, slots=True)
class Scheme:
    """A signing or key derivation scheme; `hash_id` is None where the scheme has none."""

    algorithm: int
    hash_id: int | None


@dataclass(frozen=True, slots=True)
class RsaKey:
    """Parameters and unique field of an RSA key; `exponent` as stored, 0 means 65537."""

    key_bits: int
    exponent: int
    modulus: bytes

    @property
    def public_exponent(self) -> int:
        """The exponent to calculate with."""
        return self.exponent or _TPM_RSA_DEFAULT_EXPONENT


@dataclass(frozen=True, slots=True)
class EccKey:
    """Parameters and unique field of an ECC key; `curve` is a TPM_ECC_CURVE."""

    curve: int
    kdf: Scheme
    x: bytes
    y: bytes


@dataclass(frozen=True, slots=True)
class PublicArea:
    """TPMT_PUBLIC of an asymmetric key (Part 2, 12.2.4)."""

    name_algorithm: int
    attributes: int
    auth_policy: bytes
    symmetric: Symmetric | None
    scheme: Scheme
    key: RsaKey | EccKey

    def to_bytes(self) -> bytes:
        """Return the TPMT_PUBLIC."""
        kind = Algorithm.RSA if isinstance(self.key, RsaKey) else Algorithm.ECC
        head = struct.pack(">HHI", kind, self.name_algorithm, self.attributes) + write_sized(self.auth_policy)
        symmetric = (
            struct.pack(">H", Algorithm.NULL)
            if self.symmetric is None
            else struct.pack(">HHH", self.symmetric.algorithm, self.symmetric.key_bits, self.symmetric.mode)
        )
        return head + symmetric + _write_scheme(self.scheme) + _write_key(self.key)

    def name(self) -> bytes:
        """Return the object's name: nameAlg ‖ H(TPMT_PUBLIC) (Part 1, 16).

        Raises:
            TpmStructureError: the name algorithm is not a hash we know.
        """
        return _hashed(self.name_algorithm, self.to_bytes())

    def qualified_name(self, parent: bytes | None = None) -> bytes:
        """Return nameAlg ‖ H(QN(parent) ‖ name) (Part 1, 16); without a parent, of a primary endorsement key.

        Args:
            parent: the parent's qualified name, or None for a primary in the endorsement hierarchy.
        """
        above = struct.pack(">I", TPM_RH_ENDORSEMENT) if parent is None else parent
        return _hashed(self.name_algorithm, above + self.name())


def parse_public(data: bytes) -> PublicArea:
    """Parse a TPMT_PUBLIC of an RSA or ECC key.

    Raises:
        TpmStructureError: another type, an unknown scheme, a size that does not fit, or bytes left over.
    """
    reader = StructureReader(data, "public area")
    kind = reader.integer(2, "type")
    if kind not in (Algorithm.RSA, Algorithm.ECC):
        raise reader.fail(f"expected an RSA or ECC key, got type 0x{kind:04x}")
    name_algorithm, attributes = reader.integer(2, "nameAlg"), reader.integer(4, "objectAttributes")
    auth_policy = reader.sized("authPolicy")
    symmetric, scheme = _symmetric(reader), _scheme(reader)
    key = _rsa_key(reader) if kind == Algorithm.RSA else _ecc_key(reader)
    reader.finish()
    return PublicArea(name_algorithm, attributes, auth_policy, symmetric, scheme, key)


def parse_sized_public(data: bytes) -> PublicArea:
    """Parse a TPM2B_PUBLIC: the same with its size in front."""
    return parse_public(read_sized(data, "public area"))


def _symmetric(reader: StructureReader) -> Symmetric | None:
    algorithm = reader.integer(2, "symmetric algorithm")
    if algorithm == Algorithm.NULL:
        return None
    if algorithm != Algorithm.AES:
        raise reader.fail(f"symmetric: expected AES or none, got 0x{algorithm:04x}")
    return Symmetric(algorithm, reader.integer(2, "keyBits"), reader.integer(2, "mode"))


def _scheme(reader: StructureReader) -> Scheme:
    algorithm = reader.integer(2, "scheme")
    if algorithm in _SCHEMES_WITHOUT_HASH:
        return Scheme(algorithm, None)
    if algorithm not in _SCHEMES_WITH_HASH:
        raise reader.fail(f"unknown scheme 0x{algorithm:04x}")
    return Scheme(algorithm, reader.integer(2, "hash of the scheme"))


def _rsa_key(reader: StructureReader) -> RsaKey:
    return RsaKey(reader.integer(2, "keyBits"), reader.integer(4, "exponent"), reader.sized("modulus"))


def _ecc_key(reader: StructureReader) -> EccKey:
    curve, kdf = reader.integer(2, "curveID"), reader.integer(2, "kdf")
    if kdf != Algorithm.NULL and kdf not in _KDF_WITH_HASH:
        raise reader.fail(f"unknown kdf 0x{kdf:04x}")
    hash_id = None if kdf == Algorithm.NULL else reader.integer(2, "hash of the kdf")
    return EccKey(curve, Scheme(kdf, hash_id), reader.sized("x"), reader.sized("y"))


def _write_scheme(scheme: Scheme) -> bytes:
    tail = b"" if scheme.hash_id is None else struct.pack(">H", scheme.hash_id)
    return struct.pack(">H", scheme.algorithm) + tail


def _write_key(key: RsaKey | EccKey) -> bytes:
    if isinstance(key, RsaKey):
        return struct.pack(">HI", key.key_bits, key.exponent) + write_sized(key.modulus)
    return struct.pack(">H", key.curve) + _write_scheme(key.kdf) + write_sized(key.x) + write_sized(key.y)


def _hashed(name_algorithm: int, data: bytes) -> bytes:
    try:
        algorithm = HashAlgorithm.from_tpm_id(name_algorithm)
    except FormatError as error:
        raise TpmStructureError(f"nameAlg: {error.message}") from error
    return struct.pack(">H", name_algorithm) + Digest.of(algorithm, data).value
