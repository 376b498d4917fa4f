"""Trust files: one file that tells a client whom to believe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.formats.dsse import SignerKey
from blindbuild.formats.fields import encode_base64
from blindbuild.manifest import parse_trust


@dataclass(frozen=True, slots=True)
class TrustContent:
    """What goes into a trust file: PEM certificates, keys as TPM2B_PUBLIC."""

    product: str
    release_keys: Sequence[SignerKey]
    threshold: int = 1
    tpm_roots: Sequence[str] = ()
    tpm_intermediates: Sequence[str] = ()
    test_tpm_roots: Sequence[str] = ()
    test_tpm_intermediates: Sequence[str] = ()
    attestation_keys: Sequence[bytes] = ()
    ak_roots: Sequence[str] = ()
    ak_intermediates: Sequence[str] = ()


def make_trust(content: TrustContent) -> bytes:
    """Return the bytes of a trust file, laid out for people.

    Raises:
        ManifestError: no client would accept it.
    """
    lists = {
        "tpmRoots": list(content.tpm_roots),
        "tpmIntermediates": list(content.tpm_intermediates),
        "testTpmRoots": list(content.test_tpm_roots),
        "testTpmIntermediates": list(content.test_tpm_intermediates),
        "akRoots": list(content.ak_roots),
        "akIntermediates": list(content.ak_intermediates),
        "attestationKeys": [encode_base64(key) for key in content.attestation_keys],
    }
    value = {
        "version": 1,
        "product": content.product,
        "releaseKeys": [{"public": encode_base64(key.spki)} for key in content.release_keys],
        "threshold": content.threshold,
        **{name: values for name, values in lists.items() if values},
    }
    data = json.dumps(value, indent=1).encode("ascii") + b"\n"
    parse_trust(data)
    return data
