"""Signers of releases by reference: what `--key` names, whatever holds the private key.

A reference is the path of a PEM file, a `pkcs11:` URI, or a URI of securesystemslib such as `awskms:`. A path
may also be that of a key file in JSON, which has a URI and the public key that belongs to it: so a service
that answers with another key than the one meant is noticed before anything is published.

Every signature is verified with the public key before it is handed on. ECDSA signatures leave here as r and s
of 32 bytes each, the one form that the verifier takes, whichever form the token or service gave.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from blindbuild.errors import FormatError, ToolError, UsageError
from blindbuild.formats.canonical import canonical_bytes, parse_json
from blindbuild.formats.dsse import SignerKey
from blindbuild.formats.fields import Fields, encode_base64
from blindbuild.host.files import read_bytes
from blindbuild.publish.key_uri import SCHEME, KeyUri, parse_key_uri
from blindbuild.publish.sign import ReleaseSigner, SigningKey, generate_key, pem_of, public_of

MAX_KEY_FILE = 1 << 16  # bytes; a key in PEM has 250, a URI at most 4096
MAX_PIN = 1 << 10  # bytes of a PIN file
_COORDINATE = 32  # bytes of r, and of s
_URI = re.compile(r"([a-z][a-z0-9+.-]*):")
_PEM_BEGIN = b"-----BEGIN PUBLIC KEY-----"
_PRIVATE = b"PRIVATE KEY-----"
# what securesystemslib.signer knows, without GnuPG; docs/keys.md says which of them were seen to work
SERVICES = ("awskms", "azurekms", "file2", "gcpkms", "hsm", "hv", "tkey")
CHECK = (
    b"blindbuild: does this key sign?"  # no DSSE message begins so: a signature over it vouches for nothing
)

AskPin = Callable[[str], str]
"""Gives a PIN, told what it is for."""


class KeyKind(Enum):
    """The algorithms whose signatures count."""

    ED25519 = "ed25519"
    P256 = "p256"


@dataclass(frozen=True, slots=True)
class P256Key:
    """An ECDSA P-256 key from a file."""

    _key: EllipticCurvePrivateKey

    @property
    def public(self) -> SignerKey:
        """What goes into the trust file."""
        return public_of(self._key)

    def to_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS#8 PEM; write it with mode 0600."""
        return pem_of(self._key)

    def sign(self, message: bytes) -> bytes:
        """Return r and s over the SHA-256 of a message."""
        return fixed_size(self._key.sign(message, ECDSA(SHA256())))


@dataclass(frozen=True, slots=True)
class KeyFile:
    """Which key of a token or service is meant, and what it must be."""

    uri: str
    public: SignerKey


def fixed_size(signature: bytes) -> bytes:
    """Return r and s of 32 bytes each from a DER-encoded P-256 signature (RFC 3279, 2.2.3).

    Raises:
        ToolError: not DER, or numbers that P-256 does not have.
    """
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(_COORDINATE, "big") + s.to_bytes(_COORDINATE, "big")
    except (ValueError, OverflowError) as error:
        raise ToolError("expected an ECDSA P-256 signature in DER, got something else") from error


def generate_release_key(kind: KeyKind) -> SigningKey | P256Key:
    """Make a release key from the system's randomness."""
    return generate_key() if kind is KeyKind.ED25519 else P256Key(generate_private_key(SECP256R1()))


def load_release_key(pem: bytes) -> SigningKey | P256Key:
    """Read a release key from PKCS#8 PEM.

    Raises:
        UsageError: not PEM, encrypted, or neither an Ed25519 nor a P-256 key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            "expected an unencrypted private key in PEM", hint="make one with `blindbuild keygen`"
        ) from error
    if isinstance(key, Ed25519PrivateKey):
        return SigningKey(key)
    if isinstance(key, EllipticCurvePrivateKey) and isinstance(key.curve, SECP256R1):
        return P256Key(key)
    raise UsageError(f"expected an Ed25519 or P-256 key, got {type(key).__name__}")


def load_public_key(data: bytes) -> SignerKey:
    """Read a public key: PEM as token and service tools export it, or DER as `keygen` writes it.

    Raises:
        UsageError: neither, a private key, or a key whose signatures would not count.
    """
    if _PRIVATE in data:
        raise UsageError("expected a public key, got a private one", hint="its .pub file is meant")
    try:
        if _PEM_BEGIN in data:
            key = load_pem_public_key(data)
            data = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return SignerKey.from_spki(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UsageError("expected a public key in PEM or DER") from error
    except FormatError as error:
        raise UsageError(f"public key: {error.message}") from error


def write_key_file(key: KeyFile) -> bytes:
    """Return a key file; it holds no secret.

    Raises:
        UsageError: a URI that is not understood, or that has a PIN in it.
    """
    require_uri(key.uri)
    return canonical_bytes({"version": 1, "uri": key.uri, "public": encode_base64(key.public.spki)}) + b"\n"


def parse_key_file(data: bytes) -> KeyFile:
    """Read a key file.

    Raises:
        UsageError: not strict JSON, an unknown or missing field, or one that is no URI or no key.
    """
    try:
        value = parse_json(data, max_bytes=MAX_KEY_FILE)
        fields = Fields(value, "key file", required=("version", "uri", "public"))
        fields.integer("version", minimum=1, maximum=1)
        key = KeyFile(fields.text("uri"), SignerKey.from_spki(fields.base64("public", max_bytes=1024)))
    except FormatError as error:
        raise UsageError(f"key file: {error.message}") from error
    require_uri(key.uri)
    return key


def require_uri(uri: str) -> None:
    """Refuse a reference that is no URI of a token or service.

    Raises:
        UsageError: a path, a URI of another scheme, or one with a PIN in it.
    """
    # a path in a key file would be that of whoever hands it on
    if scheme_of(uri) is None:
        raise UsageError(
            f"{uri[:80]}: expected a URI, got a path",
            hint="a key in a file needs no key file",
        )


def scheme_of(reference: str) -> str | None:
    """Return the scheme of a URI that is understood, or None for a path.

    Raises:
        UsageError: a URI of another scheme, or with a PIN in it.
    """
    found = _URI.match(reference.strip().lower())
    if found is None:
        return None
    if f"{found[1]}:" == SCHEME:
        _refuse_pin(parse_key_uri(reference))
        return found[1]
    if found[1] not in SERVICES or not reference.startswith(found[0]):
        raise UsageError(
            f"expected a path or a URI of {SCHEME}, {':, '.join(SERVICES)}:, got {found[1][:20]!r}",
            hint="a path with a colon in it begins with ./",
        )
    return found[1]


@contextlib.contextmanager
def open_signer(
    reference: str, *, ask_pin: AskPin, public: SignerKey | None = None
) -> Iterator[ReleaseSigner]:
    """Give the signer that a reference means; use it before the context ends.

    Args:
        reference: a path, or a URI.
        ask_pin: asked for the PIN of a token that has no `pin-source`.
        public: what the key of a URI must be; a key file says so itself.

    Raises:
        UsageError: no such key, or it is not what the key file says.
        ToolError: the token or service is missing or refused.
    """
    uri = reference
    if scheme_of(reference) is None:
        data = read_bytes(Path(reference), error=UsageError, limit_bytes=MAX_KEY_FILE)
        if not data.lstrip().startswith(b"{"):
            yield load_release_key(data)
            return
        key = parse_key_file(data)
        uri, public = key.uri, key.public
    with _open_uri(uri, public, ask_pin) as signer:
        yield _Checked(signer)


def read_public(reference: str, *, ask_pin: AskPin) -> SignerKey:
    """Return the public key of a reference, or of a file that holds one; nothing is signed.

    Raises:
        UsageError: no such key.
        ToolError: a token is missing or refused.
    """
    if scheme_of(reference) is None:
        data = read_bytes(Path(reference), error=UsageError, limit_bytes=MAX_KEY_FILE)
        if data.lstrip().startswith(b"{"):
            return parse_key_file(data).public
        return load_release_key(data).public if _PRIVATE in data else load_public_key(data)
    with open_signer(reference, ask_pin=ask_pin) as signer:
        return signer.public


def check_signer(signer: ReleaseSigner) -> None:
    """Have a message signed that vouches for nothing, to learn whether key and public key belong together.

    Raises:
        ToolError: they do not, or it refused.
    """
    signer.sign(CHECK)


@dataclass(frozen=True, slots=True)
class _Checked:
    """A signer whose signatures are verified before anybody gets them."""

    _signer: ReleaseSigner

    @property
    def public(self) -> SignerKey:
        return self._signer.public

    def sign(self, message: bytes) -> bytes:
        signature = self._signer.sign(message)
        if not self.public.accepts(signature, message):
            raise ToolError(
                f"expected a signature by key {self.public.key_id}, got one that this key did not make",
                hint="the key file has another public key than its URI: make it anew, `blindbuild key pin`",
            )
        return signature


@contextlib.contextmanager
def _open_uri(uri: str, public: SignerKey | None, ask_pin: AskPin) -> Iterator[ReleaseSigner]:
    if uri.strip().lower().startswith(SCHEME):
        from blindbuild.publish.token_key import open_token_signer

        parsed = parse_key_uri(uri)
        with open_token_signer(parsed, pin=token_pin(parsed, ask_pin), public=public) as signer:
            yield signer
        return
    if public is None:
        raise UsageError(
            f"{uri.partition(':')[0]}: expected the public key beside the URI",
            hint="blindbuild key pin URI --public KEY.pem -o FILE, then --key FILE",
        )
    from blindbuild.publish.signers_service import ServiceSigner

    yield ServiceSigner.open(uri, public, ask_pin)


def token_pin(uri: KeyUri, ask_pin: AskPin) -> str:
    """Return the PIN from the file that a URI names, or ask for it.

    Raises:
        UsageError: the URI has the PIN in it, or the file is no text.
    """
    _refuse_pin(uri)
    if uri.pin_file is None:
        return ask_pin(f"PIN of the token {uri.token or ''}".rstrip())
    data = read_bytes(Path(uri.pin_file), error=UsageError, limit_bytes=MAX_PIN)
    try:
        return data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"{uri.pin_file}: expected a PIN in UTF-8") from error


def _refuse_pin(uri: KeyUri) -> None:
    if uri.pin is not None:
        raise UsageError(
            "pkcs11: expected no pin-value: everybody on this machine can read a command line",
            hint="pin-source=file:PATH, or BLINDBUILD_PIN, or wait to be asked",
        )
