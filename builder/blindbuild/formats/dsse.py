"""DSSE envelopes: signatures over the bytes that are then parsed, counted by unique key.

Source: secure-systems-lab/dsse protocol.md and envelope.md, version 1.0.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, FormatError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json

MAX_PAYLOAD = 1 << 20  # bytes; a statement of three banks is below 64 KiB
MAX_SIGNATURES = 16  # more release keys than any product has; bounds the work before a verdict
MAX_ENVELOPE = 2 << 20  # bytes; the payload in base64 and 16 signatures fit
MAX_PAYLOAD_TYPE = 255  # characters; media types are far shorter
_P256_SIGNATURE = 64  # bytes: r and s, 32 each
_BASE64 = re.compile(r"(?:[A-Za-z0-9+/]*|[A-Za-z0-9_-]*)={0,2}")
# y coordinates of the eight points of small order on edwards25519, and their encodings above p: with such a
# key one signature fits many messages. Sign bit cleared. (RFC 8032 5.1; the test derives them.)
_SMALL_ORDER = frozenset(
    bytes.fromhex(text)
    for text in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    )
)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature; `key_id` is a hint by whoever wrote the envelope, or empty."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True)
class UnverifiedEnvelope:
    """A well-formed envelope that nobody has vouched for yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class VerifiedPayload:
    """The signed bytes, and the key ids (computed, not claimed) of those who signed."""

    payload: bytes
    signers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SignerKey:
    """A public key whose signatures count: Ed25519, or ECDSA P-256 with SHA-256.

    Attributes:
        spki: the DER SubjectPublicKeyInfo, in the one encoding this key has.
    """

    spki: bytes
    _key: Ed25519PublicKey | EllipticCurvePublicKey

    @classmethod
    def from_spki(cls, spki: bytes) -> SignerKey:
        """Read a key from its DER SubjectPublicKeyInfo.

        Raises:
            FormatError: malformed, not the canonical encoding, another algorithm, or of small order.
        """
        try:
            key = load_der_public_key(spki)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError("expected a DER SubjectPublicKeyInfo of a supported key") from error
        if not isinstance(key, Ed25519PublicKey | EllipticCurvePublicKey):
            raise FormatError(f"expected an Ed25519 or P-256 key, got {type(key).__name__}")
        if isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1):
            raise FormatError(f"expected curve P-256, got {key.curve.name}")
        if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
            raise FormatError("expected the canonical encoding of the key")
        if isinstance(key, Ed25519PublicKey) and _is_small_order(key):
            raise FormatError("the Ed25519 key is of small order: it would fit many messages")
        return cls(spki, key)

    @property
    def key_id(self) -> str:
        """SHA-256 of the SubjectPublicKeyInfo, in hex."""
        return Digest.sha256(self.spki).hex

    @property
    def is_p256(self) -> bool:
        """Whether it is an ECDSA key, and no Ed25519 key."""
        return isinstance(self._key, EllipticCurvePublicKey)

    def accepts(self, signature: bytes, message: bytes) -> bool:
        """Return whether this key made the signature over the message."""
        try:
            if isinstance(self._key, Ed25519PublicKey):
                self._key.verify(signature, message)
                return True
            return self._accepts_p256(self._key, signature, message)
        except InvalidSignature:
            return False

    @staticmethod
    def _accepts_p256(key: EllipticCurvePublicKey, signature: bytes, message: bytes) -> bool:
        # fixed-length r and s, as the DSSE protocol's test vector has them
        if len(signature) != _P256_SIGNATURE:
            return False
        half = _P256_SIGNATURE // 2
        r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
        key.verify(encode_dss_signature(r, s), message, ECDSA(SHA256()))
        return True


def _is_small_order(key: Ed25519PublicKey) -> bool:
    raw = bytearray(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    raw[31] &= 0x7F
    return bytes(raw) in _SMALL_ORDER


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """Return PAE: what is signed. Lengths count bytes, not characters (protocol.md, "PAE")."""
    encoded = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(encoded), encoded, len(payload), payload)


def parse_envelope(data: bytes) -> UnverifiedEnvelope:
    """Parse an envelope; unrecognised fields are ignored, as envelope.md ("Parsing rules") demands.

    Raises:
        EnvelopeError: not strict JSON, a missing field, base64 that is not exact, or over a limit.
    """
    try:
        value = parse_json(data, max_bytes=MAX_ENVELOPE)
    except FormatError as error:
        raise EnvelopeError(f"envelope: {error.message}") from error
    if not isinstance(value, dict):
        raise EnvelopeError("envelope: expected an object")
    payload_type = _text(value, "payloadType")
    if not 0 < len(payload_type) <= MAX_PAYLOAD_TYPE:
        raise EnvelopeError(f"payloadType: expected 1 to {MAX_PAYLOAD_TYPE} characters")
    payload = _bytes(value, "payload")
    if len(payload) > MAX_PAYLOAD:
        raise EnvelopeError(f"payload: expected at most {MAX_PAYLOAD} bytes, got {len(payload)}")
    entries = value.get("signatures")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_SIGNATURES:
        raise EnvelopeError(f"signatures: expected a list of 1 to {MAX_SIGNATURES}")
    return UnverifiedEnvelope(payload_type, payload, tuple(_signature(entry) for entry in entries))


def write_envelope(envelope: UnverifiedEnvelope) -> bytes:
    """Return the envelope as RFC 8785 JSON."""
    signatures: list[JsonValue] = [
        {"keyid": signature.key_id, "sig": base64.b64encode(signature.value).decode("ascii")}
        for signature in envelope.signatures
    ]
    return canonical_bytes(
        {
            "payloadType": envelope.payload_type,
            "payload": base64.b64encode(envelope.payload).decode("ascii"),
            "signatures": signatures,
        }
    )


def verify_envelope(
    envelope: UnverifiedEnvelope, *, keys: Sequence[SignerKey], threshold: int, payload_type: str
) -> VerifiedPayload:
    """Return the payload if enough different keys signed it.

    Args:
        envelope: as parsed.
        keys: the keys that count.
        threshold: how many of them must have signed, at least 1.
        payload_type: the only type that is accepted.

    Raises:
        EnvelopeError: another payload type, or fewer than `threshold` unique public keys signed.

    Source: protocol.md, "Protocol": "unique trusted public keys".
    """
    if threshold < 1:
        raise EnvelopeError(f"expected a threshold of at least 1, got {threshold}")
    if envelope.payload_type != payload_type:
        raise EnvelopeError(f"expected payload type {payload_type}, got {envelope.payload_type[:80]!r}")
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    # Counted by public key bytes: one key under two key ids is still one signer. The claimed key ids are
    # only hints (protocol.md, "KEYID is optional and unauthenticated"); trying every key needs none.
    trusted = {key.spki: key for key in keys}
    signers = {
        key.key_id
        for key in trusted.values()
        if any(key.accepts(signature.value, message) for signature in envelope.signatures)
    }
    if len(signers) < threshold:
        raise EnvelopeError(f"expected signatures by {threshold} trusted keys, got {len(signers)}")
    return VerifiedPayload(envelope.payload, tuple(sorted(signers)))


def _signature(entry: JsonValue) -> Signature:
    if not isinstance(entry, dict):
        raise EnvelopeError("signatures: expected objects")
    # envelope.md: an unset keyid is the same as an empty one
    key_id = _text(entry, "keyid") if "keyid" in entry else ""
    return Signature(key_id, _bytes(entry, "sig"))


def _text(value: dict[str, JsonValue], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise EnvelopeError(f"{key}: expected a string")
    return text


def _bytes(value: dict[str, JsonValue], key: str) -> bytes:
    # envelope.md: "Either standard or URL-safe encoding is allowed"; RFC 4648 3.2: padding is required
    text = _text(value, key)
    if not _BASE64.fullmatch(text):
        raise EnvelopeError(f"{key}: expected base64 in one alphabet, without white space")
    standard = text.replace("-", "+").replace("_", "/")
    try:
        data = base64.b64decode(standard, validate=True)
    except (binascii.Error, ValueError) as error:
        raise EnvelopeError(f"{key}: expected base64 with its padding") from error
    if base64.b64encode(data).decode("ascii") != standard:
        raise EnvelopeError(f"{key}: expected base64 whose padding bits are zero")
    return data
