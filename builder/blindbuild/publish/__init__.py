"""What a release engineer signs and hands out."""

from __future__ import annotations

from blindbuild.publish.release import make_release
from blindbuild.publish.sign import (
    SigningKey,
    add_signature,
    generate_key,
    load_key,
    sign_payload,
    sign_release,
    sign_statement,
)
from blindbuild.publish.trust import TrustContent, make_trust

__all__ = [
    "SigningKey",
    "TrustContent",
    "add_signature",
    "generate_key",
    "load_key",
    "make_release",
    "make_trust",
    "sign_payload",
    "sign_release",
    "sign_statement",
]
