"""HPKE in base mode, for one message and the one answer to it.

Receiving is the gate's affair; `Recipient` is for an operator who puts a key of his own in its place.
DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and AES-GCM, one message a context. `cryptography` has HPKE too, but
no way to the secret that an answer is sealed with; a test holds the two against each other.

Source: RFC 9180, whose sections are named below; RFC 9458 section 4.4 for the answer.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from blindbuild.errors import FormatError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_SIZE = 32  # bytes of a key, as it is and encapsulated; 7.1: Npk, Nsk, Nenc
_VERSION = b"HPKE-v1"
_KEM = b"KEM\x00\x20"  # 4.1: DHKEM(X25519, HKDF-SHA256)
_SUITE = b"HPKE\x00\x20\x00\x01"  # 5.1: that KEM, HKDF-SHA256; the AEAD's identifier comes behind it
_BASE = b"\x00"  # 5: mode_base
_HASH_SIZE = 32  # bytes; 7.2: Nh
_NONCE_SIZE = 12  # bytes; 7.3: Nn
_SPKI = bytes.fromhex("302a300506032b656e032100")  # RFC 8410 section 4: X25519 has one encoding


@dataclass(frozen=True, slots=True)
class Aead:
    """An AEAD of section 7.3: AES-GCM with keys of `key_size` bytes."""

    identifier: int
    key_size: int


AES_256_GCM = Aead(0x0002, 32)


@dataclass(frozen=True, slots=True)
class Sender:
    """Seals one message to a key, and opens the one answer; `set_up_sender` is the way to it.

    Attributes:
        encapsulated: goes with the message: what its recipient needs to open it.
    """

    encapsulated: bytes
    _aead: Aead
    _suite: bytes
    _key: bytes = field(repr=False)
    _nonce: bytes = field(repr=False)
    _exporter: bytes = field(repr=False)

    def seal(self, additional: bytes, message: bytes) -> bytes:
        """Return the sealed message; `additional` is not in it and must be the same when it is opened.

        A context seals once: a second message would have the same nonce.
        """
        return _aes_gcm(self._key).encrypt(self._nonce, message, additional)

    def export(self, use: bytes, size: int) -> bytes:
        """Return a secret that the recipient can derive too (section 5.3)."""
        return _expand_labelled(self._suite, self._exporter, b"sec", use, size)

    def open_answer(self, use: bytes, sealed: bytes) -> bytes:
        """Open the answer: it starts with a salt as long as the key.

        Raises:
            FormatError: nobody who could open this message has sealed that.

        Source: RFC 9458 section 4.4.
        """
        salt, ciphertext = sealed[: self._aead.key_size], sealed[self._aead.key_size :]
        key, nonce = self._answer_key(use, salt)
        try:
            return _aes_gcm(key).decrypt(nonce, ciphertext, b"")
        except InvalidTag as error:
            raise FormatError("expected an answer that was sealed for this request") from error

    def _answer_key(self, use: bytes, salt: bytes) -> tuple[bytes, bytes]:
        size = self._aead.key_size  # max(Nn, Nk)
        base = _extract(self.encapsulated + salt, self.export(use, size))
        return _expand(base, b"key", size), _expand(base, b"nonce", _NONCE_SIZE)


@dataclass(frozen=True, slots=True)
class Recipient:
    """Opens one message, and seals the one answer; `set_up_recipient` is the way to it."""

    _context: Sender

    def open(self, additional: bytes, sealed: bytes) -> bytes:
        """Return the message.

        Raises:
            FormatError: it was not sealed to this key, with this `additional` and the `info` of the set-up.
        """
        try:
            return _aes_gcm(self._context._key).decrypt(self._context._nonce, sealed, additional)
        except InvalidTag as error:
            raise FormatError("expected a message that was sealed to this key") from error

    def seal_answer(self, use: bytes, answer: bytes, *, salt: bytes) -> bytes:
        """Return what `Sender.open_answer` opens; `salt` is random and as long as the AEAD's key."""
        key, nonce = self._context._answer_key(use, salt)
        return salt + _aes_gcm(key).encrypt(nonce, answer, b"")


def set_up_sender(recipient: bytes, *, info: bytes, ephemeral: bytes, aead: Aead = AES_256_GCM) -> Sender:
    """Return what seals one message (SetupBaseS, section 5.1.1).

    Args:
        recipient: the X25519 key to seal to.
        info: what both sides must agree on.
        ephemeral: 32 random bytes that were never used before: the sender's own key.

    Raises:
        FormatError: a recipient's key for which everybody knows the secret, or of another size.
    """
    own = X25519PrivateKey.from_private_bytes(ephemeral)
    encapsulated = own.public_key().public_bytes_raw()
    shared = _agree(own, recipient, encapsulated + recipient)
    return _schedule(shared, encapsulated, info=info, aead=aead)


def set_up_recipient(
    own: X25519PrivateKey, encapsulated: bytes, *, info: bytes, aead: Aead = AES_256_GCM
) -> Recipient:
    """Return what opens one message (SetupBaseR, section 5.1.1).

    Args:
        own: the key it was sealed to.
        encapsulated: what came with it.

    Raises:
        FormatError: that is no key, or one for which everybody knows the secret.
    """
    shared = _agree(own, encapsulated, encapsulated + own.public_key().public_bytes_raw())
    return Recipient(_schedule(shared, encapsulated, info=info, aead=aead))


def _agree(own: X25519PrivateKey, other: bytes, both: bytes) -> bytes:
    """Return the shared secret of DHKEM (section 4.1); `both` is the encapsulated and the recipient's key."""
    try:
        secret = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:  # 7.1.4: all zero
        raise FormatError("expected an X25519 key that gives a secret") from error
    eae = _extract_labelled(_KEM, b"", b"eae_prk", secret)
    return _expand_labelled(_KEM, eae, b"shared_secret", both, KEY_SIZE)


def _schedule(shared: bytes, encapsulated: bytes, *, info: bytes, aead: Aead) -> Sender:
    """Return the context of a shared secret (KeySchedule, section 5.1)."""
    suite = _SUITE + aead.identifier.to_bytes(2, "big")
    schedule = (
        _BASE
        + _extract_labelled(suite, b"", b"psk_id_hash", b"")
        + _extract_labelled(suite, b"", b"info_hash", info)
    )
    base = _extract_labelled(suite, shared, b"secret", b"")
    return Sender(
        encapsulated,
        aead,
        suite,
        _key=_expand_labelled(suite, base, b"key", schedule, aead.key_size),
        _nonce=_expand_labelled(suite, base, b"base_nonce", schedule, _NONCE_SIZE),
        _exporter=_expand_labelled(suite, base, b"exp", schedule, _HASH_SIZE),
    )


def read_key(spki: bytes) -> bytes:
    """Return the X25519 key in a DER SubjectPublicKeyInfo.

    Raises:
        FormatError: another kind of key, or another encoding.
    """
    if len(spki) != len(_SPKI) + KEY_SIZE or not spki.startswith(_SPKI):
        raise FormatError(f"expected an X25519 SubjectPublicKeyInfo, got {len(spki)} other bytes")
    return spki[len(_SPKI) :]


def _aes_gcm(key: bytes) -> AESGCM:
    # ciphers take milliseconds to load, which those who only judge evidence need not wait for
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _extract_labelled(suite: bytes, salt: bytes, label: bytes, material: bytes) -> bytes:
    return _extract(salt, _VERSION + suite + label + material)


def _expand_labelled(suite: bytes, secret: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return _expand(secret, size.to_bytes(2, "big") + _VERSION + suite + label + info, size)


def _extract(salt: bytes, material: bytes) -> bytes:
    # RFC 5869 2.2; HMAC makes the zeros that stand for a missing salt by itself
    return hmac.digest(salt, material, "sha256")


def _expand(secret: bytes, info: bytes, size: int) -> bytes:
    if not 0 < size <= _HASH_SIZE:
        raise AssertionError("one block of HKDF is all that is needed here")
    return hmac.digest(secret, info + b"\x01", "sha256")[:size]  # RFC 5869 2.3: T(1)
