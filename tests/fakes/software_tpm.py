"""A TPM in Python that makes quotes and opens credentials, written from the specification with `struct`.

It shares no code with `blindbuild.formats`, so that agreement means something; tests/integration holds it
against swtpm. It does whatever a test asks it to, also what no TPM would.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding

BANK_IDS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D}
EK_INDEX = 0x01C00002
EK_POLICY = bytes.fromhex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa")
AK_ATTRIBUTES = 0x00050072
EK_ATTRIBUTES = 0x000300B2
MAKING_TIME = datetime(2026, 1, 1, tzinfo=UTC)


def sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True)
class Profile:
    """What an endorsement certificate says; the defaults are what swtpm's says."""

    common_name: str | None = "unknown"
    attributes: tuple[str, ...] = ("id:00001014", "swtpm", "id:20191023")
    alternative_name_critical: bool = True
    is_authority: bool | None = False
    key_encipherment: bool = True
    key_agreement: bool = False
    extended_usage: str | None = "2.23.133.8.1"
    not_before: datetime = MAKING_TIME
    not_after: datetime = MAKING_TIME + timedelta(days=3650)


@dataclass(frozen=True)
class AuthorityRules:
    """What the issuer's certificate says."""

    is_authority: bool = True
    path_length: int | None = 0
    key_cert_sign: bool = True


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])


def _usage(**flags: bool) -> x509.KeyUsage:
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{name: flags.get(name, False) for name in names})


class TpmAuthority:
    """A root and an issuer below it that sign endorsement certificates."""

    def __init__(
        self,
        name: str = "test",
        rules: AuthorityRules = AuthorityRules(),
        root_path_length: int = 1,
        issuer_key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | None = None,
    ) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._issuer_key = issuer_key or ec.generate_private_key(ec.SECP256R1())
        self._root_name, self._issuer_name = _name(f"{name} root"), _name(f"{name} issuer")
        root_rules = AuthorityRules(path_length=root_path_length)
        self.root = self._authority(self._root_name, self._root_key, root_rules)
        self.issuer = self._authority(self._issuer_name, self._issuer_key, rules)

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(Encoding.PEM).decode()

    @property
    def issuer_pem(self) -> str:
        return self.issuer.public_bytes(Encoding.PEM).decode()

    def _authority(self, name, key, rules: AuthorityRules) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._root_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(MAKING_TIME)
            .not_valid_after(MAKING_TIME + timedelta(days=7300))
            .add_extension(
                x509.BasicConstraints(rules.is_authority, rules.path_length if rules.is_authority else None),
                critical=True,
            )
            .add_extension(_usage(key_cert_sign=rules.key_cert_sign, crl_sign=True), critical=True)
        )
        return builder.sign(self._root_key, hashes.SHA256())

    def issue(self, key, profile: Profile = Profile()) -> bytes:
        subject = x509.Name([]) if profile.common_name is None else _name(profile.common_name)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._issuer_name)
            .public_key(key)
            .serial_number(9)
            .not_valid_before(profile.not_before)
            .not_valid_after(profile.not_after)
            .add_extension(
                _usage(key_encipherment=profile.key_encipherment, key_agreement=profile.key_agreement), True
            )
        )
        if profile.is_authority is not None:
            builder = builder.add_extension(x509.BasicConstraints(profile.is_authority, None), True)
        if profile.extended_usage is not None:
            usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier(profile.extended_usage)])
            builder = builder.add_extension(usage, False)
        if profile.attributes:
            names = [
                x509.NameAttribute(x509.ObjectIdentifier(f"2.23.133.2.{i + 1}"), value)
                for i, value in enumerate(profile.attributes)
            ]
            builder = builder.add_extension(
                x509.SubjectAlternativeName([x509.DirectoryName(x509.Name(names))]),
                profile.alternative_name_critical,
            )
        return builder.sign(self._issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class QuoteShape:
    """What a quote says beside its registers; the defaults are what an honest TPM says."""

    magic: int = 0xFF544347
    attest_type: int = 0x8018
    selections: tuple[tuple[int, bytes], ...] | None = None
    digest_hash: str = "sha256"
    signer: bytes | None = None
    clock: int = 3074
    resets: int = 2
    restarts: int = 0
    safe: int = 1
    firmware: int = 0x2019102300163636
    trailing: bytes = b""
    signature_hash: int = 0x000B
    signature_scheme: int = 0x0018


@dataclass
class SoftwareTpm:
    """One TPM: an endorsement key with its certificate, and an attestation key."""

    authority: TpmAuthority
    registers: dict[str, list[bytes]]
    profile: Profile = Profile()
    ak_attributes: int = AK_ATTRIBUTES
    shape: QuoteShape = QuoteShape()
    padding: bytes = b""
    ek: rsa.RSAPrivateKey = field(
        default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048)
    )
    ak: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.ek_certificate = self.authority.issue(self.ek.public_key(), self.profile) + self.padding

    def but(self, **changes) -> SoftwareTpm:
        """The same keys, with something else about it."""
        return replace(self, **changes)

    @property
    def ek_public(self) -> bytes:
        modulus = self.ek.public_key().public_numbers().n.to_bytes(256, "big")
        area = struct.pack(">HHI", 0x0001, 0x000B, EK_ATTRIBUTES) + sized(EK_POLICY)
        area += struct.pack(">HHHHHI", 0x0006, 128, 0x0043, 0x0010, 2048, 0) + sized(modulus)
        return sized(area)

    @property
    def ak_area(self) -> bytes:
        point = self.ak.public_key().public_numbers()
        area = struct.pack(">HHI", 0x0023, 0x000B, self.ak_attributes) + sized(b"")
        area += struct.pack(">HHHHH", 0x0010, 0x0018, 0x000B, 0x0003, 0x0010)
        return area + sized(point.x.to_bytes(32, "big")) + sized(point.y.to_bytes(32, "big"))

    @property
    def ak_public(self) -> bytes:
        return sized(self.ak_area)

    @property
    def ak_name(self) -> bytes:
        return b"\x00\x0b" + hashlib.sha256(self.ak_area).digest()

    def endorsement(self) -> list[tuple[int, bytes]]:
        return [(EK_INDEX, self.ek_certificate)]

    def read_registers(self, bank: str) -> list[bytes]:
        return list(self.registers[bank])

    def attest(self, bank: str, extra_data: bytes) -> bytes:
        shape = self.shape
        values = b"".join(self.registers[bank])
        selections = ((BANK_IDS[bank], b"\xff\xff\xff"),) if shape.selections is None else shape.selections
        parent = struct.pack(">I", 0x4000000B)
        signer = shape.signer or b"\x00\x0b" + hashlib.sha256(parent + self.ak_name).digest()
        return b"".join(
            (
                struct.pack(">IH", shape.magic, shape.attest_type),
                sized(signer),
                sized(extra_data),
                struct.pack(">QIIBQ", shape.clock, shape.resets, shape.restarts, shape.safe, shape.firmware),
                struct.pack(">I", len(selections)),
                *(struct.pack(">HB", bank_id, len(bits)) + bits for bank_id, bits in selections),
                sized(hashlib.new(shape.digest_hash, values).digest()),
                shape.trailing,
            )
        )

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self.ak.sign(message, ec.ECDSA(hashes.SHA256())))
        head = struct.pack(">HH", self.shape.signature_scheme, self.shape.signature_hash)
        return head + sized(r.to_bytes(32, "big")) + sized(s.to_bytes(32, "big"))

    def quote(self, bank: str, extra_data: bytes) -> tuple[bytes, bytes]:
        attest = self.attest(bank, extra_data)
        return attest, self.sign(attest)

    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential; ValueError where a TPM would say TPM_RC_INTEGRITY."""
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
        seed = self.ek.decrypt(encrypted_secret[2:], oaep)
        outer_size = struct.unpack(">H", blob[2:4])[0]
        outer, identity = blob[4 : 4 + outer_size], blob[4 + outer_size :]
        integrity_key = self._kdfa(seed, b"INTEGRITY", b"", 256)
        if not hmac.compare_digest(
            hmac.new(integrity_key, identity + self.ak_name, hashlib.sha256).digest(), outer
        ):
            raise ValueError("integrity")
        key = self._kdfa(seed, b"STORAGE", self.ak_name, 128)
        plain = self._cfb_decrypt(key, identity)
        return plain[2 : 2 + struct.unpack(">H", plain[:2])[0]]

    @staticmethod
    def _kdfa(seed: bytes, label: bytes, context: bytes, bits: int) -> bytes:
        message = struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", bits)
        return hmac.new(seed, message, hashlib.sha256).digest()[: bits // 8]

    @staticmethod
    def _cfb_decrypt(key: bytes, data: bytes) -> bytes:
        from cryptography.hazmat.decrepit.ciphers.modes import CFB

        decryptor = Cipher(algorithms.AES(key), CFB(bytes(16))).decryptor()
        return decryptor.update(data) + decryptor.finalize()
