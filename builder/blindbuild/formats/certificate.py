"""Endorsement key certificates as a TPM stores them, and the certificate authorities behind them.

Sources: RFC 5280; TCG EK Credential Profile 2.5, 3.2 (attributes and extensions).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.errors import FormatError
from blindbuild.formats.tpm2 import MAX_CERTIFICATE

TCG_KP_AIK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.3")  # TCG AIK Certificate Profile
TCG_KP_EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")  # EK Credential Profile 3.2.16
MAX_SERIAL_BITS = 160  # RFC 5280 4.1.2.2: 20 octets
_MANUFACTURER = x509.ObjectIdentifier("2.23.133.2.1")  # EK Credential Profile 3.1.2
_MODEL = x509.ObjectIdentifier("2.23.133.2.2")
_VERSION = x509.ObjectIdentifier("2.23.133.2.3")
_DER_SEQUENCE = 0x30
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class TpmAttributes:
    """What the certificate's authority says about the TPM, in the authority's own spelling."""

    manufacturer: str
    model: str
    version: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate whose encoding was read to its end; nothing about it is verified."""

    der: bytes
    parsed: x509.Certificate


@dataclass(frozen=True, slots=True)
class EndorsementProfile:
    """The parts of an endorsement certificate that the profile has rules about."""

    subject_is_empty: bool
    attributes: TpmAttributes | None
    alternative_name_is_critical: bool
    is_authority: bool | None
    usages: frozenset[str]
    extended_usages: frozenset[str]


def trim_padding(stored: bytes) -> bytes:
    """Return the certificate at the start of an NV index; what follows must be zeros.

    Raises:
        FormatError: not one DER SEQUENCE with a definite length, or something follows it.
    """
    if len(stored) > MAX_CERTIFICATE:
        raise FormatError(f"expected a certificate of at most {MAX_CERTIFICATE} bytes, got {len(stored)}")
    size = _sequence_size(stored)
    if len(stored) < size:
        raise FormatError(f"expected a certificate of {size} bytes, got {len(stored)}")
    if any(stored[size:]):
        raise FormatError(f"expected only zeros after the certificate's {size} bytes")
    return stored[:size]


def parse_certificate(der: bytes) -> Certificate:
    """Parse one DER certificate.

    Raises:
        FormatError: malformed, an unknown version, or extensions that cannot be read.
    """
    try:
        with _quiet():
            parsed = x509.load_der_x509_certificate(der)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise FormatError("not a DER certificate") from error
    if _readable(lambda: parsed.public_bytes(Encoding.DER)) != der:
        raise FormatError("the certificate has more than one reading")
    # RFC 5280 4.1.1.3: what is last is not signed, and its BIT STRING could say that last bits are unused
    if not der.endswith(b"\0" + parsed.signature):
        raise FormatError("expected a signature of whole bytes in the certificate")
    _readable(lambda: parsed.extensions)
    return Certificate(der, parsed)


def parse_pem_certificate(text: str) -> Certificate:
    """Parse exactly one PEM certificate, with white space around it allowed.

    Raises:
        FormatError: not one certificate, or a malformed one.
    """
    stripped = text.strip()
    if stripped.count("-----BEGIN") != 1 or not stripped.startswith("-----BEGIN CERTIFICATE-----"):
        raise FormatError("expected one PEM certificate")
    if not stripped.endswith("-----END CERTIFICATE-----") or not stripped.isascii():
        raise FormatError("expected one PEM certificate")
    try:
        with _quiet():
            der = x509.load_pem_x509_certificate(stripped.encode("ascii")).public_bytes(Encoding.DER)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise FormatError("not a PEM certificate") from error
    return parse_certificate(der)


def subject_name(certificate: Certificate) -> str:
    """Return the subject for people, with nothing in it that could steer a terminal."""
    name = _readable(lambda: _subject(certificate)).rfc4514_string()
    return name if name.isprintable() else ascii(name)


def valid_through(certificate: Certificate) -> int:
    """Return notAfter, the last second that counts, in seconds since 1970.

    Raises:
        FormatError: there is no such time.

    Source: RFC 5280, 4.1.2.5.
    """
    with _quiet():
        return int(_readable(lambda: certificate.parsed.not_valid_after_utc).timestamp())


def serial_number(certificate: Certificate) -> int:
    """Return the serial number.

    Raises:
        FormatError: not positive, or longer than 20 octets.

    Source: RFC 5280, 4.1.2.2.
    """
    with _quiet():
        serial = _readable(lambda: certificate.parsed.serial_number)
    if not 1 <= serial < 1 << MAX_SERIAL_BITS:
        raise FormatError(f"expected a positive serial number of at most {MAX_SERIAL_BITS} bits")
    return serial


def certified_key(certificate: Certificate) -> tuple[str, int, int] | None:
    """Return the certified key as its kind and two numbers, or None for a kind that signs no quotes.

    Returns:
        `rsa`, modulus and exponent; or the curve's name, x and y.
    """
    key = _readable(certificate.parsed.public_key)
    if isinstance(key, RSAPublicKey):
        return "rsa", key.public_numbers().n, key.public_numbers().e
    if isinstance(key, EllipticCurvePublicKey):
        return key.curve.name, key.public_numbers().x, key.public_numbers().y
    return None


def key_usages(certificate: Certificate) -> frozenset[str]:
    """Return what the certified key may be used for, in RFC 5280's words; empty if it is not said."""
    usage = _find(_readable(lambda: certificate.parsed.extensions), x509.KeyUsage)
    return _usages(usage.value) if usage else frozenset()


def is_signing_authority(certificate: Certificate, *, below: int) -> bool:
    """Return whether this may have issued certificates, with `below` authorities between it and the leaf.

    Source: RFC 5280, 4.2.1.3 (keyCertSign) and 4.2.1.9 (cA, pathLenConstraint).
    """
    extensions = _readable(lambda: certificate.parsed.extensions)
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return False
    within = constraints.path_length is None or constraints.path_length >= below
    return constraints.ca and usage.key_cert_sign and within


def read_endorsement_profile(certificate: Certificate) -> EndorsementProfile:
    """Return what the endorsement certificate profile has rules about.

    Raises:
        FormatError: an extension that cannot be read.
    """
    extensions = _readable(lambda: certificate.parsed.extensions)
    names = _find(extensions, x509.SubjectAlternativeName)
    constraints = _find(extensions, x509.BasicConstraints)
    usage = _find(extensions, x509.KeyUsage)
    extended = _find(extensions, x509.ExtendedKeyUsage)
    return EndorsementProfile(
        subject_is_empty=not list(_readable(lambda: _subject(certificate))),
        attributes=_attributes(names.value) if names else None,
        alternative_name_is_critical=bool(names and names.critical),
        is_authority=constraints.value.ca if constraints else None,
        usages=_usages(usage.value) if usage else frozenset(),
        extended_usages=frozenset(oid.dotted_string for oid in extended.value) if extended else frozenset(),
    )


def _subject(certificate: Certificate) -> x509.Name:
    with _quiet():
        return certificate.parsed.subject


_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> x509.Extension[_Extension] | None:
    try:
        return extensions.get_extension_for_class(kind)
    except x509.ExtensionNotFound:
        return None


def _usages(usage: x509.KeyUsage) -> frozenset[str]:
    flags = {
        "digitalSignature": usage.digital_signature,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }
    return frozenset(name for name, present in flags.items() if present)


def _attributes(names: x509.SubjectAlternativeName) -> TpmAttributes | None:
    directories = [name.value for name in names if isinstance(name, x509.DirectoryName)]
    if len(directories) != 1:
        return None
    values = []
    for oid in (_MANUFACTURER, _MODEL, _VERSION):
        found = directories[0].get_attributes_for_oid(oid)
        if len(found) != 1 or not isinstance(found[0].value, str):
            return None
        values.append(found[0].value)
    return TpmAttributes(*values)


def _sequence_size(data: bytes) -> int:
    # X.690 8.1.3: short form, or long form; DER wants the shortest, and a certificate needs at most 2 octets
    if len(data) < 4 or data[0] != _DER_SEQUENCE:
        raise FormatError("expected a DER SEQUENCE")
    if data[1] < 0x80:
        return 2 + data[1]
    octets = data[1] & 0x7F
    if octets not in (1, 2):
        raise FormatError("expected a DER length of one or two octets")
    length = int.from_bytes(data[2 : 2 + octets], "big")
    if length < (0x80 if octets == 1 else 0x100):
        raise FormatError("expected the shortest DER length")
    return 2 + octets + length


@contextmanager
def _quiet() -> Iterator[None]:
    # the library warns on stderr of names longer than X.520 allows, which real authorities have, and of
    # serial numbers that are refused here anyhow
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _readable(read: Callable[[], _T]) -> _T:
    # the library reads keys and extensions only when asked, and says ValueError for most that is wrong
    try:
        return read()
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise FormatError("the certificate has a part that cannot be read") from error
