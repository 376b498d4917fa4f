"""Secure Boot keys made for one test run: an RSA key with its own certificate, or one an authority issued."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from blindbuild.formats.siglist import write_signature_lists, x509_list

OWNER = UUID("5f6e2c1d-8c0b-4a57-9f5e-2f1b6a3d4c90")
FROM, UNTIL = datetime(2020, 1, 1, tzinfo=UTC), datetime(2049, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class SecureBootKey:
    """A key pair whose certificate is its own issuer's, or another's."""

    private: rsa.RSAPrivateKey
    certificate: x509.Certificate

    @property
    def pem(self) -> bytes:
        """The private key, as a file holds it."""
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, as a file holds it."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def der(self) -> bytes:
        """The certificate, as an image and a signature list hold it."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def esl(self) -> bytes:
        """A signature list with this certificate."""
        return write_signature_lists([x509_list(self.der, OWNER)])


@cache
def make_key(name: str, *, issuer: str | None = None, bits: int = 2048) -> SecureBootKey:
    """Return the key of this name; the same one whenever it is asked for."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    above = None if issuer is None else make_key(issuer)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if above is None else above.certificate.subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(FROM)
        .not_valid_after(UNTIL)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .sign(private if above is None else above.private, SHA256())
    )
    return SecureBootKey(private, certificate)
