"""The keys of TUF metadata as what they are: public key bytes, whatever key id they are listed under."""

from __future__ import annotations

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import Key
from tuf.api.metadata import Root

from blindbuild.errors import FormatError, VerificationError
from blindbuild.formats.dsse import SignerKey

MIN_RSA_BITS = 2048
_CURVES = (SECP256R1, SECP384R1, SECP521R1)


def public_bytes(key: Key) -> bytes:
    """Return the DER SubjectPublicKeyInfo of a key.

    Raises:
        FormatError: a key that cannot be read, of another type, or too weak.
    """
    try:
        text = key.keyval["public"]
        loaded: PublicKeyTypes
        if key.keytype == "ed25519":
            loaded = Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
        else:
            loaded = load_pem_public_key(text.encode("ascii"))
        spki = loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (KeyError, AttributeError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(f"key {key.keyid[:16]!r}: expected a public key that can be read") from error
    if isinstance(loaded, Ed25519PublicKey):
        SignerKey.from_spki(spki)  # refuses small orders
    elif isinstance(loaded, EllipticCurvePublicKey):
        if not isinstance(loaded.curve, _CURVES):
            raise FormatError(f"key {key.keyid[:16]!r}: expected a NIST curve, got {loaded.curve.name}")
    elif (
        not isinstance(loaded, RSAPublicKey)
        or loaded.key_size < MIN_RSA_BITS
        or loaded.public_numbers().e < 3
    ):
        raise FormatError(f"key {key.keyid[:16]!r}: expected Ed25519, ECDSA or RSA of {MIN_RSA_BITS} bits")
    return spki


def keys_of_role(root: Root, role: str) -> dict[bytes, Key]:
    """Return the keys of a role by their public bytes.

    Raises:
        VerificationError: M2, a key that cannot be read, or the same one under two key ids.
    """
    found: dict[bytes, Key] = {}
    for keyid in root.roles[role].keyids:
        try:
            key = root.get_key(keyid)
            spki = public_bytes(key)
        except (FormatError, ValueError) as error:
            raise VerificationError(
                f"root {root.version}, {role}: {error}", step="M2", reason="key-unusable"
            ) from error
        if spki in found:
            raise VerificationError(
                f"root {root.version}, {role}: expected different keys, got one as "
                f"{found[spki].keyid[:16]} and as {keyid[:16]}",
                step="M2",
                reason="keys-not-unique",
            )
        found[spki] = key
    return found


def check_unique_keys(root: Root) -> None:
    """Check that no role counts one key twice; python-tuf counts key ids.

    Raises:
        VerificationError: M2, as `keys_of_role`, or a threshold that cannot be met.
    """
    for role in sorted(root.roles):
        keys = keys_of_role(root, role)
        threshold = root.roles[role].threshold
        if not 1 <= threshold <= len(keys):
            raise VerificationError(
                f"root {root.version}, {role}: expected a threshold of 1 to {len(keys)}, got {threshold}",
                step="M2",
                reason="keys-not-unique",
            )


def release_keys(root: Root) -> tuple[tuple[SignerKey, ...], int]:
    """Return the keys of the targets role and its threshold: whose signatures on manifests count.

    Raises:
        VerificationError: M2, also for a key that cannot sign manifests.
    """
    try:
        keys = tuple(SignerKey.from_spki(spki) for spki in keys_of_role(root, "targets"))
    except FormatError as error:
        raise VerificationError(
            f"root {root.version}, targets: {error.message}", step="M2", reason="key-unusable"
        ) from error
    return keys, root.roles["targets"].threshold
