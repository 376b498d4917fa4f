"""Keys on a PKCS#11 token, which signs without handing them out; the one door to `pkcs11`.

RSA keys sign for Secure Boot; P-256 and Ed25519 keys sign releases, and `keygen --token` makes one there.

The library is the optional extra `pkcs11`. The token's own module runs in this process, with this process's
environment: that is where modules find their configuration.

Source: PKCS #11 3.1, "Signing and MACing functions", CKM_SHA256_RSA_PKCS, CKM_ECDSA and CKM_EDDSA;
RFC 5480, 2.1.1.1 and 2.2 (EC_PARAMS, EC_POINT of P-256); RFC 8410, 3 (id-Ed25519).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.errors import FormatError, ToolError, UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.publish.key_uri import KeyUri

_P256_PARAMETERS = bytes.fromhex("06082a8648ce3d030107")  # OBJECT IDENTIFIER prime256v1
# OBJECT IDENTIFIER id-Ed25519, and the PrintableString that PKCS #11 3.0 has instead
_ED25519_PARAMETERS = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
_OCTET_STRING = 0x04
_P256_POINT, _ED25519_POINT = 65, 32  # bytes
MAX_LABEL = 64  # characters of a new key's label


@dataclass(frozen=True, slots=True)
class TokenKey:
    """An RSA private key in an open session; use it before the session ends."""

    _key: Any  # the extra may be missing where types are checked
    _library: Any

    def sign(self, message: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature with SHA-256 over a message.

        Raises:
            ToolError: the token refused.
        """
        try:
            signature = self._key.sign(message, mechanism=self._library.Mechanism.SHA256_RSA_PKCS)
        except self._library.PKCS11Error as error:
            raise ToolError(f"pkcs11: the token did not sign: {_reason(error)}") from error
        return bytes(signature)


@dataclass(frozen=True, slots=True)
class TokenSigner:
    """A P-256 or Ed25519 key in an open session; use it before the session ends."""

    public: SignerKey
    _key: Any
    _library: Any

    def sign(self, message: bytes) -> bytes:
        """Return the signature over a message, as DSSE has it.

        Raises:
            ToolError: the token refused.
        """
        kinds = self._library.Mechanism
        try:
            if self.public.is_p256:  # CKM_ECDSA takes a digest; tokens without the hashing kinds have it too
                signed = self._key.sign(hashlib.sha256(message).digest(), mechanism=kinds.ECDSA)
            else:
                signed = self._key.sign(message, mechanism=kinds.EDDSA)
        except self._library.PKCS11Error as error:
            raise ToolError(f"pkcs11: the token did not sign: {_reason(error)}") from error
        return bytes(signed)


@contextlib.contextmanager
def open_token_key(uri: KeyUri, *, pin: str | None) -> Iterator[TokenKey]:
    """Log in to the token that `uri` means, and give its one RSA key that fits.

    Args:
        uri: the key; its own `pin` and `pin_file` are the caller's to read.
        pin: the user's PIN, None for a token that wants none.

    Raises:
        ToolError: the library or the module is missing, or the token refused.
        UsageError: not exactly one token, or not exactly one key fits.
    """
    library = _load_library()

    def find(session: Any) -> Any:
        return _find_key(library, session, uri, (library.KeyType.RSA,), "RSA")

    with _opened(library, uri, pin, find) as key:
        yield TokenKey(key, library)


@contextlib.contextmanager
def open_token_signer(
    uri: KeyUri, *, pin: str | None, public: SignerKey | None = None
) -> Iterator[TokenSigner]:
    """Log in to the token that `uri` means, and give its one P-256 or Ed25519 key that fits.

    Args:
        uri: the key; its own `pin` and `pin_file` are the caller's to read.
        pin: the user's PIN, None for a token that wants none.
        public: what the key must be; None to take the public key that the token has beside it.

    Raises:
        ToolError: the library or the module is missing, or the token refused.
        UsageError: not exactly one token, or not exactly one key fits, or no public key is beside it.
    """
    library = _load_library()
    kinds = (library.KeyType.EC, library.KeyType.EC_EDWARDS)

    def find(session: Any) -> tuple[Any, SignerKey]:
        key = _find_key(library, session, uri, kinds, "P-256 or Ed25519")
        return key, _find_public(library, session, uri) if public is None else public

    with _opened(library, uri, pin, find) as (key, found):
        yield TokenSigner(found, key, library)


def generate_token_key(uri: KeyUri, *, pin: str) -> SignerKey:
    """Make a P-256 key in a token, which never hands it out; return its public key.

    Args:
        uri: where it goes: `object` is its label, `id` its identifier, which may be left out.
        pin: the user's PIN.

    Raises:
        ToolError: the library or the module is missing, or the token refused.
        UsageError: not exactly one token, no label, or a key of that name is there already.
    """
    if uri.label is None or not 0 < len(uri.label) <= MAX_LABEL:
        raise UsageError(f"pkcs11: expected object=LABEL of 1 to {MAX_LABEL} characters for the new key")
    library = _load_library()

    def make(session: Any) -> SignerKey:
        if _matching(library, session, uri, library.ObjectClass.PRIVATE_KEY):
            raise UsageError(
                f"pkcs11: a key {uri.label!r} is there already",
                hint="choose another name; a key is never overwritten",
            )
        kinds, attributes = library.KeyType, library.Attribute
        curve = session.create_domain_parameters(
            kinds.EC, {attributes.EC_PARAMS: _P256_PARAMETERS}, local=True
        )
        made, _private = curve.generate_keypair(
            store=True,
            label=uri.label,
            **({} if uri.identifier is None else {"id": uri.identifier}),
            private_template={
                attributes.SENSITIVE: True,
                attributes.EXTRACTABLE: False,
                attributes.PRIVATE: True,
                attributes.SIGN: True,
                attributes.DERIVE: False,
            },
        )
        return _public_of(library, made)

    with _opened(library, uri, pin, make, writable=True) as made:
        public: SignerKey = made
    return public


@contextlib.contextmanager
def _opened(
    library: Any, uri: KeyUri, pin: str | None, use: Callable[[Any], Any], *, writable: bool = False
) -> Iterator[Any]:
    """Give what `use` finds in a session with the token, which ends with the context."""
    with contextlib.ExitStack() as stack:
        try:
            token = _find_token(library, uri)
            found = use(stack.enter_context(token.open(user_pin=pin, rw=writable)))
        except UnicodeError as error:
            # No text of the error: it could quote a part of the PIN.
            raise UsageError("pkcs11: expected names and a PIN of text") from error
        except (library.PKCS11Error, RuntimeError, OSError) as error:
            raise ToolError(
                f"pkcs11: {uri.module}: {_reason(error)}", hint="check module-path, token and PIN"
            ) from error
        yield found


def _load_library() -> ModuleType:
    try:
        return importlib.import_module("pkcs11")
    except ImportError as error:
        raise ToolError(
            "keys on tokens need the Python package python-pkcs11",
            hint="pip install 'blindbuild[pkcs11]'",
        ) from error


def _find_token(library: Any, uri: KeyUri) -> Any:
    wanted = {
        "label": uri.token,
        "serial": None if uri.serial is None else uri.serial.encode(),
        "manufacturer_id": uri.manufacturer,
        "model": uri.model,
    }
    found = [
        token
        for token in library.lib(uri.module).get_tokens()
        if all(value is None or getattr(token, name) == value for name, value in wanted.items())
    ]
    if len(found) != 1:
        raise UsageError(
            f"pkcs11: expected one token that fits, got {len(found)}", hint="name it: token=LABEL"
        )
    return found[0]


def _find_key(library: Any, session: Any, uri: KeyUri, kinds: Sequence[Any], named: str) -> Any:
    found = [
        key
        for key in _matching(library, session, uri, library.ObjectClass.PRIVATE_KEY)
        if key.key_type in kinds
    ]
    if len(found) != 1:
        raise UsageError(
            f"pkcs11: expected one {named} private key that fits, got {len(found)}",
            hint="name it by object=LABEL or id=%01",
        )
    return found[0]


def _find_public(library: Any, session: Any, uri: KeyUri) -> SignerKey:
    found = _matching(library, session, uri, library.ObjectClass.PUBLIC_KEY)
    if len(found) != 1:
        raise UsageError(
            f"pkcs11: expected one public key beside the private one, got {len(found)}",
            hint="blindbuild key pin URI --public KEY.pem -o FILE, then --key FILE",
        )
    return _public_of(library, found[0])


def _matching(library: Any, session: Any, uri: KeyUri, kind: Any) -> list[Any]:
    attributes = {library.Attribute.CLASS: kind}
    if uri.label is not None:
        attributes[library.Attribute.LABEL] = uri.label
    if uri.identifier is not None:
        attributes[library.Attribute.ID] = uri.identifier
    return list(session.get_objects(attributes))


def _public_of(library: Any, key: Any) -> SignerKey:
    """Return a public key object as a key whose signatures count."""
    parameters = bytes(key[library.Attribute.EC_PARAMS])
    point = bytes(key[library.Attribute.EC_POINT])
    for size in (_P256_POINT, _ED25519_POINT):
        if point[:2] == bytes((_OCTET_STRING, size)) and len(point) == size + 2:
            point = point[2:]  # most tokens wrap the point as PKCS #11 says, some do not
    try:
        if parameters == _P256_PARAMETERS:
            curve = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), point)
            return SignerKey.from_spki(curve.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        if parameters in _ED25519_PARAMETERS:
            edwards = Ed25519PublicKey.from_public_bytes(point)
            return SignerKey.from_spki(edwards.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    except (ValueError, FormatError) as error:
        raise UsageError("pkcs11: the token's public key is malformed") from error
    raise UsageError(f"pkcs11: expected a P-256 or Ed25519 key, got one with parameters {parameters.hex()}")


def _reason(error: Exception) -> str:
    """Return what a token said; the library's errors often have a name only."""
    return str(error) or type(error).__name__
