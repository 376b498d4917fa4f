"""Certificate authorities that sign whatever a test asks for, with the keys that processors' makers use."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

MADE = datetime(2026, 1, 1, tzinfo=UTC)
YEARS = timedelta(days=3650)


@dataclass(frozen=True)
class Rules:
    """What an authority's certificate says of itself; the defaults are an honest one's."""

    is_authority: bool = True
    path_length: int | None = None
    key_cert_sign: bool = True
    begin: datetime = MADE
    end: datetime = MADE + YEARS
    critical: str | None = None  # an extension that nobody understands


@dataclass(frozen=True)
class Authority:
    """A key and the certificate over it."""

    key: object
    certificate: x509.Certificate
    hash_function: hashes.HashAlgorithm

    @property
    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        if isinstance(self.key, rsa.RSAPrivateKey):
            pss = padding.PSS(padding.MGF1(self.hash_function), self.hash_function.digest_size)
            return builder.sign(self.key, self.hash_function, rsa_padding=pss)
        return builder.sign(self.key, self.hash_function)

    def below(self, name: str, key=None, rules: Rules = Rules(path_length=0)) -> Authority:
        """An authority that this one certifies."""
        own = key or _like(self.key)
        return Authority(
            own, self.sign(_authority(name, self.certificate.subject, own, rules)), self.hash_function
        )

    def issue(
        self,
        name: str,
        public_key,
        extensions: list[tuple[str, bytes]],
        *,
        begin: datetime = MADE,
        end: datetime = MADE + YEARS,
        is_authority: bool = False,
    ) -> bytes:
        """A certificate (DER) with these extensions, none of them critical."""
        builder = _begin(name, self.certificate.subject, public_key, begin, end)
        for oid, value in extensions:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
            )
        if is_authority:
            builder = builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        return self.sign(builder).public_bytes(Encoding.DER)


def make_root(name: str, key, hash_function: hashes.HashAlgorithm, rules: Rules = Rules()) -> Authority:
    """An authority that certifies itself."""
    builder = _authority(name, _name(name), key, rules)
    stub = Authority(key, None, hash_function)
    return Authority(key, stub.sign(builder), hash_function)


def pem_of(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def _like(key):
    if isinstance(key, rsa.RSAPrivateKey):
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(key.curve)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _begin(
    name: str, issuer: x509.Name, public_key, begin: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(end)
    )


def _authority(name: str, issuer: x509.Name, key, rules: Rules) -> x509.CertificateBuilder:
    length = rules.path_length if rules.is_authority else None
    usage = dict.fromkeys(
        (
            *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
            *("key_agreement", "encipher_only", "decipher_only"),
        ),
        False,
    )
    builder = (
        _begin(name, issuer, key.public_key(), rules.begin, rules.end)
        .add_extension(x509.BasicConstraints(rules.is_authority, length), critical=True)
        .add_extension(x509.KeyUsage(**usage, key_cert_sign=rules.key_cert_sign, crl_sign=True), True)
    )
    if rules.critical is None:
        return builder
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(rules.critical), b"\x05\0")
    return builder.add_extension(unknown, critical=True)
