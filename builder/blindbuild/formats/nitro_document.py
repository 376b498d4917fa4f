"""The attestation document of AWS Nitro Enclaves: a map in CBOR inside a COSE_Sign1 structure.

Source: aws-nitro-enclaves-nsm-api, docs/attestation_process.md, 2.2 (fields and their sizes) and 3.2.2.2
(syntactical validation), read at commit 8785071d.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.cbor import CborKey, CborValue, decode_cbor
from blindbuild.formats.certificate import Certificate, parse_certificate
from blindbuild.formats.cose import UnverifiedSign1, parse_sign1

MAX_DOCUMENT = 16 * 1024  # bytes; what the enclave's device returns at most
MAX_CERTIFICATE = 1024  # bytes; 2.2 says the same of each
MAX_BUNDLE = 8  # certificates; real bundles have four
MAX_FIELD = 1024  # bytes of nonce, user data or public key
REGISTERS = range(32)
_REQUIRED = {"module_id", "timestamp", "digest", "pcrs", "certificate", "cabundle"}
_OPTIONAL = {"public_key", "user_data", "nonce"}
_MAX_MODULE = 128  # characters; i-…-enc… has 39
_MAX_TIME_MS = 253402300799999  # 9999-12-31T23:59:59.999Z


@dataclass(frozen=True, slots=True)
class NitroDocument:
    """A document whose every byte was read; its signature is not verified.

    Attributes:
        signed: the COSE structure that it came in.
        timestamp_ms: when it was made, in milliseconds since 1970.
        registers: by number.
        certificate: of the key that signed.
        bundle: the issuers, the root first.
        public_key, user_data, nonce: what the enclave put in; None where it put nothing in.
    """

    signed: UnverifiedSign1
    module: str
    timestamp_ms: int
    registers: Mapping[int, Digest]
    certificate: Certificate
    bundle: tuple[Certificate, ...]
    public_key: bytes | None
    user_data: bytes | None
    nonce: bytes | None


def parse_nitro_document(data: bytes) -> NitroDocument:
    """Parse a document.

    Raises:
        FormatError: malformed, too large, an unknown or missing field, a register that is not SHA-384, or
            bytes left over.
    """
    if len(data) > MAX_DOCUMENT:
        raise FormatError(f"Nitro document: expected at most {MAX_DOCUMENT} bytes, got {len(data)}")
    signed = parse_sign1(data)
    if signed.unprotected:
        raise FormatError("Nitro document: expected no header that is not signed")
    fields = decode_cbor(signed.payload, nulls=True)
    if not isinstance(fields, dict):
        _fail("document", "a map")
    if not fields.keys() >= _REQUIRED or not fields.keys() <= _REQUIRED | _OPTIONAL:
        _fail("fields", f"{', '.join(sorted(_REQUIRED))} and perhaps {', '.join(sorted(_OPTIONAL))}")
    if fields["digest"] != "SHA384":
        _fail("digest", "SHA384")
    return NitroDocument(
        signed=signed,
        module=_read_module(fields["module_id"]),
        timestamp_ms=_read_time(fields["timestamp"]),
        registers=_read_registers(fields["pcrs"]),
        certificate=_read_certificate(fields["certificate"]),
        bundle=_read_bundle(fields["cabundle"]),
        public_key=_read_field(fields, "public_key"),
        user_data=_read_field(fields, "user_data"),
        nonce=_read_field(fields, "nonce"),
    )


def _read_module(value: CborValue) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_MODULE or not value.isprintable():
        _fail("module_id", f"1 to {_MAX_MODULE} printable characters")
    return value


def _read_time(value: CborValue) -> int:
    if not isinstance(value, int) or not 0 < value <= _MAX_TIME_MS:
        _fail("timestamp", "milliseconds since 1970")
    return value


def _read_registers(value: CborValue) -> Mapping[int, Digest]:
    if not isinstance(value, dict) or not 1 <= len(value) <= len(REGISTERS):
        _fail("pcrs", "1 to 32 registers")
    registers: dict[int, Digest] = {}
    for number, content in value.items():
        if not isinstance(number, int) or number not in REGISTERS or not isinstance(content, bytes):
            _fail("pcrs", "bytes by numbers from 0 to 31")
        registers[number] = Digest(HashAlgorithm.SHA384, content)
    return registers


def _read_bundle(value: CborValue) -> tuple[Certificate, ...]:
    if not isinstance(value, tuple) or not 1 <= len(value) <= MAX_BUNDLE:
        _fail("cabundle", f"1 to {MAX_BUNDLE} certificates")
    return tuple(_read_certificate(each) for each in value)


def _read_certificate(value: CborValue) -> Certificate:
    if not isinstance(value, bytes) or not 0 < len(value) <= MAX_CERTIFICATE:
        _fail("certificate", f"1 to {MAX_CERTIFICATE} bytes")
    return parse_certificate(value)


def _read_field(fields: dict[CborKey, CborValue], name: str) -> bytes | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, bytes) or len(value) > MAX_FIELD:
        _fail(name, f"at most {MAX_FIELD} bytes")
    return value


def _fail(name: str, expected: str) -> NoReturn:
    raise FormatError(f"Nitro document: {name}: expected {expected}")
