"""What a release engineer signs and hands out."""

from __future__ import annotations

from blindbuild.publish.key_uri import SCHEME, KeyUri, parse_key_uri
from blindbuild.publish.release import make_release
from blindbuild.publish.secureboot import (
    ImageSigner,
    RsaKeyFile,
    SignerCertificates,
    load_certificates,
    load_rsa_key,
    sign_boot_image,
)
from blindbuild.publish.sign import (
    ReleaseSigner,
    SigningKey,
    add_signature,
    generate_key,
    has_signed,
    load_key,
    sign_payload,
    sign_probe,
    sign_rebuild,
    sign_release,
    sign_statement,
)
from blindbuild.publish.signers import (
    AskPin,
    KeyFile,
    KeyKind,
    check_signer,
    generate_release_key,
    load_public_key,
    load_release_key,
    open_signer,
    parse_key_file,
    scheme_of,
    token_pin,
    write_key_file,
)
from blindbuild.publish.token_key import TokenKey, generate_token_key, open_token_key
from blindbuild.publish.trust import TrustContent, make_trust

__all__ = [
    "SCHEME",
    "AskPin",
    "ImageSigner",
    "KeyFile",
    "KeyKind",
    "KeyUri",
    "ReleaseSigner",
    "RsaKeyFile",
    "SignerCertificates",
    "SigningKey",
    "TokenKey",
    "TrustContent",
    "add_signature",
    "check_signer",
    "generate_key",
    "generate_release_key",
    "generate_token_key",
    "has_signed",
    "load_certificates",
    "load_key",
    "load_public_key",
    "load_release_key",
    "load_rsa_key",
    "make_release",
    "make_trust",
    "open_signer",
    "open_token_key",
    "parse_key_file",
    "parse_key_uri",
    "scheme_of",
    "sign_boot_image",
    "sign_payload",
    "sign_probe",
    "sign_rebuild",
    "sign_release",
    "sign_statement",
    "token_pin",
    "write_key_file",
]
