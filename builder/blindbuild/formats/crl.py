"""Certificate revocation lists: what each says, and whether an authority signed it.

Source: RFC 5280, 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate, _quiet, _readable, key_usages
from blindbuild.formats.tpm2 import MAX_CRL

_HASHES = ("sha256", "sha384", "sha512")
_PARTIAL = (x509.DeltaCRLIndicator, x509.IssuingDistributionPoint)
_KEYS = (
    dsa.DSAPublicKey,
    ec.EllipticCurvePublicKey,
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    rsa.RSAPublicKey,
)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A whole list of one authority's own certificates; nothing about it is verified.

    Attributes:
        this_update: seconds since 1970.
        next_update: likewise, or None if the list names no end.
    """

    parsed: x509.CertificateRevocationList
    this_update: int
    next_update: int | None

    @property
    def issuer_name(self) -> str:
        """Who says so, for people, with nothing in it that could steer a terminal."""
        with _quiet():
            name = _readable(lambda: self.parsed.issuer.rfc4514_string())
        return name if name.isprintable() else ascii(name)

    def lists(self, serial: int) -> bool:
        """Return whether the certificate with this serial number is revoked."""
        return _readable(lambda: self.parsed.get_revoked_certificate_by_serial_number(serial)) is not None

    def is_signed_by(self, authority: Certificate) -> bool:
        """Return whether the authority's key signed the list, with SHA-256 or better."""
        try:
            used = self.parsed.signature_hash_algorithm
            key = authority.parsed.public_key()
            if used is None or used.name not in _HASHES or not isinstance(key, _KEYS):
                return False
            return self.parsed.is_signature_valid(key)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            return False


def parse_crl(data: bytes) -> RevocationList:
    """Parse one list, DER or PEM.

    Raises:
        FormatError: malformed, too long, or a list of changes, of some reasons or of other authorities'
            certificates: those have critical extensions (RFC 5280, 5.2.4 and 5.2.5).
    """
    if len(data) > MAX_CRL:
        raise FormatError(f"expected a revocation list of at most {MAX_CRL} bytes, got {len(data)}")
    pem = data.lstrip().startswith(b"-----BEGIN")
    try:
        with _quiet():
            parsed = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
    except (ValueError, TypeError, x509.InvalidVersion) as error:
        raise FormatError("not a certificate revocation list") from error
    for extension in _readable(lambda: parsed.extensions):
        if extension.critical or isinstance(extension.value, _PARTIAL):
            raise FormatError(
                f"expected a whole list of one authority, got extension {extension.oid.dotted_string}"
            )
    begin = _readable(lambda: parsed.last_update_utc)
    end = _readable(lambda: parsed.next_update_utc)
    return RevocationList(parsed, int(begin.timestamp()), None if end is None else int(end.timestamp()))


def is_list_of(parsed: RevocationList, authority: Certificate) -> bool:
    """Return whether the list names this authority as its issuer, byte by byte."""
    with _quiet():
        return _readable(lambda: parsed.parsed.issuer.public_bytes()) == _readable(
            lambda: authority.parsed.subject.public_bytes()
        )


def may_sign_lists(authority: Certificate) -> bool:
    """Return whether the authority's certificate has cRLSign (RFC 5280, 4.2.1.3)."""
    return "cRLSign" in key_usages(authority)
