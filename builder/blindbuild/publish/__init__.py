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
    SigningKey,
    add_signature,
    generate_key,
    load_key,
    sign_payload,
    sign_probe,
    sign_release,
    sign_statement,
)
from blindbuild.publish.token_key import TokenKey, open_token_key
from blindbuild.publish.trust import TrustContent, make_trust

__all__ = [
    "SCHEME",
    "ImageSigner",
    "KeyUri",
    "RsaKeyFile",
    "SignerCertificates",
    "SigningKey",
    "TokenKey",
    "TrustContent",
    "add_signature",
    "generate_key",
    "load_certificates",
    "load_key",
    "load_rsa_key",
    "make_release",
    "make_trust",
    "open_token_key",
    "parse_key_uri",
    "sign_boot_image",
    "sign_payload",
    "sign_probe",
    "sign_release",
    "sign_statement",
]
