"""A sigstore bundle with a managed key: one signature on the statement, and which key made it.

Source: sigstore protobuf-specs, sigstore_bundle.proto and sigstore_common.proto; how clients write JSON of it
(protobuf JSON mapping), name a managed key (base64 of SHA-256 over its SubjectPublicKeyInfo) and encode ECDSA
signatures (ASN.1 DER) was read in sigstore-go and cosign on 2026-11-23.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from blindbuild.digest import Digest
from blindbuild.formats.canonical import canonical_bytes
from blindbuild.formats.fields import encode_base64
from blindbuild.manifest import STATEMENT_PAYLOAD_TYPE
from blindbuild.publish.exporters import CountedSignature, Exported, ExportRequest

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def export(request: ExportRequest) -> Exported:
    """Return a bundle with the signature of the first key, by its id: the format has room for one."""
    release = request.release
    chosen = release.signatures[0]
    data = canonical_bytes(
        {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": encode_base64(Digest.sha256(chosen.key.spki).value)},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": encode_base64(release.payload),
                "payloadType": STATEMENT_PAYLOAD_TYPE,
                "signatures": [{"sig": encode_base64(sigstore_signature(chosen))}],
            },
        }
    )
    notes = ["no entry of a Rekor log is in it: readers must be told not to ask for one"]
    if release.threshold > 1:
        notes.append(f"the format has one signature, where the trust file wants {release.threshold}")
    return Exported(f"{release.statement.name}.sigstore.json", data, tuple(notes))


def sigstore_signature(counted: CountedSignature) -> bytes:
    """Return a signature as sigstore's clients read it."""
    if not counted.key.is_p256:
        return counted.value
    # DSSE's own vector has r and s, 32 bytes each; sigstore's clients read DER
    half = len(counted.value) // 2
    r, s = counted.value[:half], counted.value[half:]
    return encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
