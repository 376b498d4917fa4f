"""A small Enclave Image with every kind of section, always the same, and the key that signs it."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from blindbuild.assemble.eif import BuiltEif, EifMetadata, build_eif, load_signer
from tests.fakes.kernel_image import make_bzimage

COMMAND_LINE = "reboot=k panic=30 nomodules console=ttyS0"
RAMDISKS = (b"070701 first" * 50, b"070701 second" * 70, b"\0third" * 9)
METADATA = EifMetadata(name="sample", version="1.0.0")

# the test key of awslabs/aws-nitro-enclaves-cose, src/sign.rs, and a certificate of it made for these tests
_PRIVATE = 0x55C6AA815A31741BC37F0FFDDEA73AF2397BAD640816EF22BFB689EFC1B6CC682A73F7E5A657248E3ABAD500E46D5AFC
CERTIFICATE = b"""\
-----BEGIN CERTIFICATE-----
MIIBTTCB1qADAgECAgEBMAoGCCqGSM49BAMDMBMxETAPBgNVBAMMCEVJRiB0ZXN0
MB4XDTI2MDEwMTAwMDAwMFoXDTM2MDEwMTAwMDAwMFowEzERMA8GA1UEAwwIRUlG
IHRlc3QwdjAQBgcqhkjOPQIBBgUrgQQAIgNiAARagp9i8vTwlcDpInGShbS5gcZ3
kShwpBMTel1zGZFvqFhKYDaVHQb/6umcpzqxotzht24IyyDWr86nQj+LSeyEHd5v
IQphdHUL+BNqMVSUIk3xUxhFV6bCmh15lIBPYEwwCgYIKoZIzj0EAwMDZgAwYwIw
axTgf55xRGbLG/e7CDWlbukgE7cwLM5J6wU+zIj45U+yFvsskQQdLnQPsnEfR32R
Ai8pRZ06UEK1sFKu8mX6gJ7jp9wvHphzo1bsjeARSAdDpny1tWXrp0DF/ooOysHT
DQ==
-----END CERTIFICATE-----
"""


def signing_key() -> ec.EllipticCurvePrivateKey:
    """Return the key of the certificate."""
    return ec.derive_private_key(_PRIVATE, ec.SECP384R1())


def signing_key_pem() -> bytes:
    """Return the key as a person would have it."""
    return signing_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def make_enclave(*, signed: bool = True, ramdisks: tuple[bytes, ...] = RAMDISKS) -> BuiltEif:
    """Return the sample image."""
    return build_eif(
        kernel=make_bzimage(),
        command_line=COMMAND_LINE,
        ramdisks=ramdisks,
        metadata=METADATA,
        signer=load_signer(signing_key_pem(), CERTIFICATE) if signed else None,
    )


def image_bytes(built: BuiltEif) -> bytes:
    """Return the whole file."""
    return b"".join(built.chunks())
