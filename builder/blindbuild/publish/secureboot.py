"""Sign a boot image for UEFI Secure Boot. Bytes in, bytes out: files and tokens are the caller's.

The result depends on image, key and certificate alone. Authenticode leaves a signature out, so what the
firmware measures of the image is what it was before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BuildError, UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.image_signature import (
    MAX_CERTIFICATES,
    attach_signature,
    attributes_to_sign,
    read_signatures,
    remove_signatures,
    signed_content,
    write_signed_data,
)
from blindbuild.formats.pe import read_pe

MIN_KEY_BITS = 2048  # UEFI 2.10, 32.4.1 names no shorter RSA key
MAX_KEY_BITS = 4096  # larger ones are slow in firmware, and rarely tried

_PEM_BEGIN = b"-----BEGIN CERTIFICATE-----"


class ImageSigner(Protocol):
    """Who can make signatures: a key file, or a token that never hands its key out."""

    def sign(self, message: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature with SHA-256 over a message."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True)
class RsaKeyFile:
    """An RSA private key from a file."""

    _key: RSAPrivateKey

    def sign(self, message: bytes) -> bytes:
        """Return the RSASSA-PKCS1-v1_5 signature with SHA-256 over a message."""
        return self._key.sign(message, PKCS1v15(), SHA256())


@dataclass(frozen=True, slots=True)
class SignerCertificates:
    """The signer's certificate and those above it, DER; the first one's key makes the signature."""

    chain: tuple[bytes, ...]
    public_key: RSAPublicKey


def load_rsa_key(pem: bytes) -> RsaKeyFile:
    """Read an RSA private key.

    Raises:
        UsageError: not PEM, encrypted, or not an RSA key.
    """
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError("expected an unencrypted private key in PEM") from error
    if not isinstance(key, RSAPrivateKey):
        raise UsageError(
            f"expected an RSA key, got {type(key).__name__}",
            hint="Secure Boot keys are apart from release keys: openssl req -x509 -newkey rsa:2048",
        )
    return RsaKeyFile(key)


def load_certificates(data: bytes) -> SignerCertificates:
    """Read the signer's certificate, PEM or DER; a PEM file may go on with the certificates above it.

    Raises:
        UsageError: no certificate, one that cannot be read, or the signer's key is none that firmware takes.
    """
    try:
        if _PEM_BEGIN in data:
            parsed = x509.load_pem_x509_certificates(data)
        else:
            parsed = [x509.load_der_x509_certificate(data)]
        chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in parsed)
        key = parsed[0].public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise UsageError("expected a certificate in PEM or DER") from error
    if len(chain) > MAX_CERTIFICATES:
        raise UsageError(f"expected at most {MAX_CERTIFICATES} certificates, got {len(chain)}")
    if not isinstance(key, RSAPublicKey) or not MIN_KEY_BITS <= key.key_size <= MAX_KEY_BITS:
        kind = f"{key.key_size} bits" if isinstance(key, RSAPublicKey) else type(key).__name__
        raise UsageError(
            f"expected a certificate of an RSA key with {MIN_KEY_BITS} to {MAX_KEY_BITS} bits, got {kind}"
        )
    return SignerCertificates(chain, key)


def sign_boot_image(
    image: bytes, signer: ImageSigner, certificates: SignerCertificates, *, replace: bool = False
) -> bytes:
    """Return the image with one Authenticode signature.

    Args:
        image: a UKI, or any PE image that UEFI starts.
        signer: who signs.
        certificates: the signer's; they go into the image, and the firmware looks for one it trusts.
        replace: whether signatures that are there shall go.

    Raises:
        UsageError: the image is signed and `replace` was not asked for, or key and certificate are no pair.
        PeError: the image is malformed, or cannot be signed without changing what is measured.
        BuildError: what was written does not read back as what was meant.
    """
    if read_pe(image).certificate_table != (0, 0) and not replace:
        raise UsageError(
            "expected an unsigned image, got a signed one", hint="--replace drops the signatures it has"
        )
    unsigned = remove_signatures(image)
    digest = _authenticode(unsigned)
    content = signed_content(digest)
    message = attributes_to_sign(content)
    value = signer.sign(message)
    try:
        certificates.public_key.verify(value, message, PKCS1v15(), SHA256())
    except InvalidSignature as error:
        raise UsageError("expected the certificate of the key, got another one's") from error
    signed = attach_signature(unsigned, write_signed_data(content, certificates.chain, value))
    found = read_signatures(signed)
    if not _authenticode(signed).equals(digest) or [one.digest for one in found] != [digest]:
        raise BuildError("the signed image does not read back as it was meant: another Authenticode digest")
    return signed


def _authenticode(image: bytes) -> Digest:
    return authenticode_digests(image, (HashAlgorithm.SHA256,))[HashAlgorithm.SHA256]
