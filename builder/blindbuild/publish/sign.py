"""Release keys, and the envelopes they sign. Bytes in, bytes out: files are the caller's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, UsageError
from blindbuild.formats.dsse import (
    Signature,
    SignerKey,
    UnverifiedEnvelope,
    parse_envelope,
    pre_authentication_encoding,
    write_envelope,
)
from blindbuild.manifest import (
    RELEASE_PAYLOAD_TYPE,
    STATEMENT_PAYLOAD_TYPE,
    Release,
    parse_release,
    parse_statement,
    release_bytes,
)
from blindbuild.manifest.probe import parse_probe
from blindbuild.manifest.rebuild import REBUILD_PAYLOAD_TYPE, rebuild_bytes

_PARSERS: Mapping[str, Callable[[bytes], object]] = {
    STATEMENT_PAYLOAD_TYPE: parse_statement,
    RELEASE_PAYLOAD_TYPE: parse_release,
}


class ReleaseSigner(Protocol):
    """Who can sign for a release key: the key itself, or a token or service that never hands it out."""

    @property
    def public(self) -> SignerKey:
        """What goes into the trust file."""
        ...  # pragma: no cover

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message, as DSSE has it: of P-256, r and s of 32 bytes each."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key."""

    _key: Ed25519PrivateKey

    @property
    def public(self) -> SignerKey:
        """What goes into the trust file."""
        return public_of(self._key)

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM; write it with mode 0600."""
        return pem_of(self._key)

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message."""
        return self._key.sign(message)


def public_of(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> SignerKey:
    """Return what goes into the trust file for a private key."""
    return SignerKey.from_spki(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def pem_of(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> bytes:
    """Return a private key as unencrypted PKCS#8 PEM; write it with mode 0600."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def generate_key() -> SigningKey:
    """Make an Ed25519 key from the system's randomness."""
    return SigningKey(Ed25519PrivateKey.generate())


def load_key(pem: bytes) -> SigningKey:
    """Read an Ed25519 key from PKCS#8 PEM, such as that of a log or a witness.

    Raises:
        UsageError: not PEM, encrypted, or not an Ed25519 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "expected an unencrypted private key in PEM", hint="make one with `blindbuild keygen`"
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"expected an Ed25519 key, got {type(key).__name__}")
    return SigningKey(key)


def sign_payload(key: ReleaseSigner, payload_type: str, payload: bytes) -> bytes:
    """Return a DSSE envelope with one signature over exactly these bytes."""
    signature = Signature(key.public.key_id, key.sign(pre_authentication_encoding(payload_type, payload)))
    return write_envelope(UnverifiedEnvelope(payload_type, payload, (signature,)))


def sign_statement(key: ReleaseSigner, statement: bytes) -> bytes:
    """Return the envelope over a statement's bytes.

    Raises:
        ManifestError: no client would accept the statement.
    """
    parse_statement(statement)
    return sign_payload(key, STATEMENT_PAYLOAD_TYPE, statement)


def sign_rebuild(key: ReleaseSigner, statement: bytes) -> bytes:
    """Return the envelope over the record that somebody built the same statement himself.

    Args:
        key: the rebuilder's own, which signs no releases.
        statement: the bytes that his build gave.

    Raises:
        ManifestError: no client would accept the statement.
    """
    parse_statement(statement)
    return sign_payload(key, REBUILD_PAYLOAD_TYPE, rebuild_bytes(Digest.sha256(statement)))


def sign_probe(key: ReleaseSigner, probe: bytes) -> bytes:
    """Return the envelope over a probe's bytes.

    Raises:
        ManifestError: no reader would accept the probe.
    """
    parse_probe(probe)
    return sign_payload(key, STATEMENT_PAYLOAD_TYPE, probe)


def sign_release(key: ReleaseSigner, release: Release) -> bytes:
    """Return the envelope over a release.

    Raises:
        ManifestError: no client would accept the release.
    """
    return sign_payload(key, RELEASE_PAYLOAD_TYPE, release_bytes(release))


def add_signature(key: ReleaseSigner, envelope: bytes, payload_type: str) -> bytes:
    """Return the envelope with one more signature over the same bytes, for a threshold above one.

    Args:
        key: the second signer's.
        envelope: by the first.
        payload_type: what the signer means to sign: a statement or a release.

    Raises:
        EnvelopeError: the envelope is malformed or holds something else, or this key has signed it.
        ManifestError: no client would accept the payload.
    """
    parsed = parse_envelope(envelope)
    parse = _PARSERS.get(payload_type)
    if parse is None or parsed.payload_type != payload_type:
        raise EnvelopeError(
            f"expected a payload of type {' or '.join(_PARSERS) if parse is None else payload_type}, "
            f"got {(payload_type if parse is None else parsed.payload_type)[:80]!r}"
        )
    parse(parsed.payload)
    return _append_signature(key, parsed)


def cosign_probe(key: ReleaseSigner, envelope: bytes) -> bytes:
    """Return the envelope over a probe with one more signature, for a threshold above one.

    Raises:
        EnvelopeError: the envelope is malformed or holds something else, or this key has signed it.
        ManifestError: no reader would accept the payload as a probe.
    """
    parsed = parse_envelope(envelope)
    if parsed.payload_type != STATEMENT_PAYLOAD_TYPE:
        raise EnvelopeError(f"expected an envelope over a probe, got {parsed.payload_type[:80]!r}")
    parse_probe(parsed.payload)
    return _append_signature(key, parsed)


def _append_signature(key: ReleaseSigner, parsed: UnverifiedEnvelope) -> bytes:
    if has_signed(key.public, parsed):
        raise EnvelopeError(f"key {key.public.key_id} has signed this envelope")
    message = pre_authentication_encoding(parsed.payload_type, parsed.payload)
    added = Signature(key.public.key_id, key.sign(message))
    signatures = (*parsed.signatures, added)
    envelope = write_envelope(UnverifiedEnvelope(parsed.payload_type, parsed.payload, signatures))
    parse_envelope(envelope)  # one signature too many is no envelope to anybody
    return envelope


def has_signed(key: SignerKey, envelope: UnverifiedEnvelope) -> bool:
    """Return whether one of the signatures is this key's."""
    message = pre_authentication_encoding(envelope.payload_type, envelope.payload)
    return any(key.accepts(signature.value, message) for signature in envelope.signatures)
