"""Certificates of the keys that sign SEV-SNP reports: VCEK and VLEK.

Source: AMD, Versioned Chip Endorsement Key (VCEK) Certificate and KDS Interface Specification (57230), 3
(extensions below 1.3.6.1.4.1.3704.1); the eight-byte hardware identifier and the FMC's extension are those
of certificates for Turin.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import public_key, unknown_extensions
from blindbuild.formats.der import INTEGER, read_only, require
from blindbuild.formats.snp_report import SigningKey, TcbVersion

_ARC = "1.3.6.1.4.1.3704.1"
_VERSION, _PRODUCT, _HARDWARE, _PROVIDER = (f"{_ARC}.{n}" for n in (1, 2, 4, 5))
_BOOTLOADER, _TEE, _SNP, _MICROCODE, _FMC = (f"{_ARC}.3.{n}" for n in (1, 2, 3, 8, 9))
_RESERVED = tuple(f"{_ARC}.3.{n}" for n in (4, 5, 6, 7))
_KNOWN = {_VERSION, _PRODUCT, _HARDWARE, _PROVIDER, _BOOTLOADER, _TEE, _SNP, _MICROCODE, _FMC, *_RESERVED}
_IA5_STRING = 0x16
_HARDWARE_SIZES = (8, 64)  # bytes: Turin, and before it
_MAX_PRODUCT = 32  # characters; "Milan-B0"


@dataclass(frozen=True, slots=True)
class EndorsedKey:
    """What AMD certifies about a signing key; nothing is verified.

    Attributes:
        kind: VCEK if it names a chip, VLEK if it names a provider.
        product: such as `Milan`, without the stepping.
        tcb: the versions that the key was derived for.
        hardware: the chip's identifier, or None for a VLEK.
    """

    kind: SigningKey
    product: str
    tcb: TcbVersion
    hardware: bytes | None
    public: EllipticCurvePublicKey


def read_endorsed_key(certificate: Certificate) -> EndorsedKey:
    """Read the extensions of a VCEK's or VLEK's certificate.

    Raises:
        FormatError: a missing, unknown or malformed extension, both a chip and a provider, or a key that is
            not on P-384.
    """
    extensions = unknown_extensions(certificate)
    unknown = sorted(oid for oid in extensions if oid.startswith(f"{_ARC}.") and oid not in _KNOWN)
    if unknown:
        raise FormatError(f"AMD certificate: unknown extension {unknown[0]}")
    if (_HARDWARE in extensions) == (_PROVIDER in extensions):
        raise FormatError("AMD certificate: expected either a chip or a provider")
    with_fmc = _FMC in extensions
    if _integer(extensions, _VERSION) != with_fmc:  # the structure's version: 1 came with the FMC
        raise FormatError("AMD certificate: expected version 1 with the FMC's part, and 0 without it")
    for oid in _RESERVED:
        if oid in extensions and _integer(extensions, oid):
            raise FormatError(f"AMD certificate: expected 0 in the reserved extension {oid}")
    key = public_key(certificate)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise FormatError("AMD certificate: expected a key on P-384")
    hardware = _read_hardware(extensions[_HARDWARE]) if _HARDWARE in extensions else None
    return EndorsedKey(
        kind=SigningKey.VLEK if hardware is None else SigningKey.VCEK,
        product=_read_product(extensions),
        tcb=TcbVersion(
            _integer(extensions, _BOOTLOADER),
            _integer(extensions, _TEE),
            _integer(extensions, _SNP),
            _integer(extensions, _MICROCODE),
            fmc=_integer(extensions, _FMC) if with_fmc else None,
        ),
        hardware=hardware,
        public=key,
    )


def _read_product(extensions: dict[str, bytes]) -> str:
    element = require(read_only(_value(extensions, _PRODUCT)), _IA5_STRING, "a product's name")
    name = element.content.decode("latin-1")
    if not 0 < len(name) <= _MAX_PRODUCT or not name.replace("-", "").isalnum() or not name.isascii():
        raise FormatError(f"AMD certificate: expected a product's name, got {name[:_MAX_PRODUCT]!r}")
    return name.partition("-")[0]


def _read_hardware(value: bytes) -> bytes:
    # the identifier is the extension's value as it is, without a DER type
    if len(value) not in _HARDWARE_SIZES:
        raise FormatError(f"AMD certificate: expected a chip's identifier of 8 or 64 bytes, got {len(value)}")
    return value


def _integer(extensions: dict[str, bytes], oid: str) -> int:
    content = require(read_only(_value(extensions, oid)), INTEGER, "an integer").content
    value = int.from_bytes(content, "big")
    if not 0 <= value <= 255 or content != value.to_bytes(value.bit_length() // 8 + 1, "big"):
        raise FormatError(f"AMD certificate: expected 0 to 255 in {oid}")
    return value


def _value(extensions: dict[str, bytes], oid: str) -> bytes:
    if oid not in extensions:
        raise FormatError(f"AMD certificate: missing extension {oid}")
    return extensions[oid]
