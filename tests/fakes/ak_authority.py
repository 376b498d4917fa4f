"""Authorities that certify attestation keys and revoke certificates, and say whatever a test asks them to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from tests.fakes.published import NOW

MADE = datetime(2026, 1, 1, tzinfo=UTC)
TCG_AK, TCG_EK, SERVER_AUTH = "2.23.133.8.3", "2.23.133.8.1", "1.3.6.1.5.5.7.3.1"
INSTANCE_INFO = "1.3.6.1.4.1.11129.2.1.21"
_FLAGS = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
    *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


def usage(*flags: str) -> x509.KeyUsage:
    return x509.KeyUsage(**{name: name in flags for name in _FLAGS})


def name_of(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)] if text else [])


@dataclass(frozen=True)
class AkProfile:
    """What the certificate of an attestation key says; the defaults are the TCG's."""

    subject: str = "attestation key"
    usages: tuple[str, ...] = ("digital_signature",)
    extended: tuple[str, ...] = (TCG_AK,)
    is_authority: bool | None = False
    instance: bytes | None = None
    begin: datetime = MADE
    end: datetime = MADE + timedelta(days=3650)


@dataclass(frozen=True)
class IssuerRules:
    """What an authority's certificate says; the defaults are an honest one's."""

    is_authority: bool = True
    path_length: int | None = 0
    usages: tuple[str, ...] = ("key_cert_sign", "crl_sign")
    end: datetime = MADE + timedelta(days=7300)


class AkAuthority:
    """A root and an issuer below it."""

    def __init__(
        self, name: str = "ak", rules: IssuerRules = IssuerRules(), root_path: int | None = 1
    ) -> None:
        self.root_key, self.issuer_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        self.root_name, self.issuer_name = name_of(f"{name} root"), name_of(f"{name} issuer")
        self.root = self._authority(self.root_name, self.root_key, IssuerRules(path_length=root_path), 1)
        self.issuer = self._authority(self.issuer_name, self.issuer_key, rules, 2)

    @property
    def pems(self) -> dict[str, list[str]]:
        """The lists that a trust file has of it."""
        pems = [each.public_bytes(Encoding.PEM).decode() for each in (self.root, self.issuer)]
        return {"ak_roots": pems[:1], "ak_intermediates": pems[1:]}

    def certificate_of(self, name: x509.Name, key, *, serial: int) -> str:
        """Another certificate (PEM) of an authority below the root."""
        made = self._authority(name, key, IssuerRules(), serial)
        return made.public_bytes(Encoding.PEM).decode()

    def issue(self, key, profile: AkProfile = AkProfile(), *, serial: int = 77) -> bytes:
        """The certificate (DER) of an attestation key."""
        builder = self._begin(
            name_of(profile.subject), self.issuer_name, key, serial, profile.begin, profile.end
        )
        builder = builder.add_extension(usage(*profile.usages), critical=True)
        if profile.is_authority is not None:
            builder = builder.add_extension(x509.BasicConstraints(profile.is_authority, None), critical=True)
        if profile.extended:
            oids = [x509.ObjectIdentifier(oid) for oid in profile.extended]
            builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
        if profile.instance is not None:
            info = x509.UnrecognizedExtension(x509.ObjectIdentifier(INSTANCE_INFO), profile.instance)
            builder = builder.add_extension(info, critical=False)
        return builder.sign(self.issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)

    def self_signed(self, key, profile: AkProfile = AkProfile()) -> bytes:
        """A certificate that the attestation key itself signed, in the issuer's name."""
        name = name_of(profile.subject)
        builder = self._begin(name, name, key.public_key(), 5, profile.begin, profile.end)
        builder = builder.add_extension(usage(*profile.usages), critical=True)
        oids = [x509.ObjectIdentifier(oid) for oid in profile.extended]
        builder = builder.add_extension(x509.ExtendedKeyUsage(oids), critical=False)
        return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)

    def _authority(self, name, key, rules: IssuerRules, serial: int) -> x509.Certificate:
        builder = self._begin(name, self.root_name, key.public_key(), serial, MADE, rules.end)
        length = rules.path_length if rules.is_authority else None
        return (
            builder.add_extension(x509.BasicConstraints(rules.is_authority, length), critical=True)
            .add_extension(usage(*rules.usages), critical=True)
            .sign(self.root_key, hashes.SHA256())
        )

    @staticmethod
    def _begin(subject, issuer, key, serial: int, begin: datetime, end: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(serial)
            .not_valid_before(begin)
            .not_valid_after(end)
        )


@dataclass(frozen=True)
class CrlShape:
    """What a revocation list says; the defaults are a current one that lists nothing."""

    revoked: tuple[int, ...] = ()
    begin: int = NOW - 86400
    end: int = NOW + 86400
    extension: x509.ExtensionType | None = None
    critical: bool = True
    hash_function: type[hashes.HashAlgorithm] = hashes.SHA256


def make_crl(
    issuer: x509.Name, key, shape: CrlShape = CrlShape(), encoding: Encoding = Encoding.DER
) -> bytes:
    """A list in this name, signed with this key."""
    at = datetime.fromtimestamp(shape.begin, tz=UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(at)
        .next_update(datetime.fromtimestamp(shape.end, tz=UTC))
    )
    for serial in shape.revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(at).build()
        builder = builder.add_revoked_certificate(entry)
    if shape.extension is not None:
        builder = builder.add_extension(shape.extension, critical=shape.critical)
    return builder.sign(key, shape.hash_function()).public_bytes(encoding)
