"""Certificates as links of a chain: what each says of itself, and whether one signed the other.

Source: RFC 5280, 4.1.2.5 (validity), 4.2 (critical extensions), 6.1.3; RFC 7468 (text encoding).
"""

from __future__ import annotations

import re

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate, _readable, parse_pem_certificate

MAX_CHAIN = 8  # certificates; real chains of platforms have at most five
_PEM = re.compile(r"-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----")
_UNDERSTOOD = (x509.BasicConstraints, x509.KeyUsage)  # what a chain is checked for here
_HASHES = ("sha256", "sha384", "sha512")


def parse_pem_chain(text: str) -> tuple[Certificate, ...]:
    """Parse 1 to `MAX_CHAIN` PEM certificates, with nothing but white space between them.

    Raises:
        FormatError: other text, too many, or a malformed certificate.
    """
    found = _PEM.findall(text)
    if not 1 <= len(found) <= MAX_CHAIN or _PEM.sub("", text).strip():
        raise FormatError(f"expected 1 to {MAX_CHAIN} PEM certificates and nothing else")
    return tuple(parse_pem_certificate(certificate) for certificate in found)


def public_key(certificate: Certificate) -> CertificatePublicKeyTypes:
    """Return the certified key; FormatError if it cannot be read."""
    return _readable(certificate.parsed.public_key)


def unknown_extensions(certificate: Certificate) -> dict[str, bytes]:
    """Return the values of the extensions that RFC 5280 does not define, by their dotted identifiers."""
    extensions = _readable(lambda: certificate.parsed.extensions)
    return {
        extension.oid.dotted_string: extension.value.value
        for extension in extensions
        if isinstance(extension.value, x509.UnrecognizedExtension)
    }


def unchecked_critical(certificate: Certificate) -> tuple[str, ...]:
    """Return the critical extensions that a reader of chains here does not check, by identifier."""
    extensions = _readable(lambda: certificate.parsed.extensions)
    return tuple(
        extension.oid.dotted_string
        for extension in extensions
        if extension.critical and not isinstance(extension.value, _UNDERSTOOD)
    )


def claims_authority(certificate: Certificate) -> bool:
    """Return whether the certificate says of itself that it may issue others."""
    extensions = _readable(lambda: certificate.parsed.extensions)
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def validity(certificate: Certificate) -> tuple[int, int]:
    """Return the first and the last second of validity, since 1970."""
    begin = _readable(lambda: certificate.parsed.not_valid_before_utc)
    end = _readable(lambda: certificate.parsed.not_valid_after_utc)
    return int(begin.timestamp()), int(end.timestamp())


def names_issuer(certificate: Certificate, issuer: Certificate) -> bool:
    """Return whether the certificate names this issuer, byte by byte."""
    return _readable(lambda: certificate.parsed.issuer.public_bytes()) == _readable(
        lambda: issuer.parsed.subject.public_bytes()
    )


def is_signed_by(certificate: Certificate, issuer: Certificate) -> bool:
    """Return whether the issuer's key signed the certificate, with SHA-256 or better."""
    try:
        used = certificate.parsed.signature_hash_algorithm
        if used is None or used.name not in _HASHES:
            return False
        certificate.parsed.verify_directly_issued_by(issuer.parsed)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
