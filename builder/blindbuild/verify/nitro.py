"""Steps N: is this the document of a Nitro Enclave, made now, that nobody looks into?

Never seen on our hardware. Source: docs/spec/platform-evidence.md; aws-nitro-enclaves-nsm-api,
docs/attestation_process.md, 3.2 (validation of certificates, syntax and signature).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey

from blindbuild.errors import FormatError
from blindbuild.formats.certificate_chain import public_key
from blindbuild.formats.nitro_document import NitroDocument, parse_nitro_document
from blindbuild.manifest import format_time
from blindbuild.manifest.platform_roots import NitroTrust
from blindbuild.measure.launch_kinds import KIND_NITRO
from blindbuild.verify.chain import check_chain
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.evidence import Expected, ValueResult, check_bound, judge_values

TITLES = {
    "N1": "the document is well formed to its last byte",
    "N2": "the signing key's certificate leads to a pinned root",
    "N3": "the certified key signed the document",
    "N4": "the document was made just now",
    "N5": "the enclave is not in debug mode",
}
CLOCK_SKEW_S = 60  # how far the hypervisor's clock may be ahead of ours, as in Policy.clock_skew_s
_CODE_REGISTERS = (0, 1, 2)  # zero in debug mode: Nitro Enclaves user guide, "Cryptographic attestation"


@dataclass(frozen=True, slots=True)
class NitroEvidence:
    """What the enclave hands out: its document, as the Nitro Secure Module returned it."""

    document: bytes


def judge_nitro(
    steps: Checklist, evidence: NitroEvidence, trust: NitroTrust, expected: Expected
) -> tuple[str, tuple[ValueResult, ...]]:
    """Run steps N1 to N5 and R1 to R3; return the platform that fits best and how each value compares."""
    document = steps.run("N1", lambda: _parse(evidence.document))
    steps.run("N2", lambda: _check_path(found(document), trust, expected.now), needs=("N1",))
    steps.run("N3", lambda: _check_signature(found(document)), needs=("N1",))
    steps.run("N4", lambda: _check_time(found(document), trust, expected.now), needs=("N1",))
    steps.run("N5", lambda: _check_debug(found(document)), needs=("N1",))
    values = None
    if document is not None:
        values = {f"PCR{number}": digest for number, digest in document.registers.items()}
    best = judge_values(steps, KIND_NITRO, expected, values, needs=("N1",))
    steps.run("R3", lambda: _check_binding(found(document), expected), needs=("N1",))
    return best


def _parse(data: bytes) -> tuple[NitroDocument, str]:
    document = parse_nitro_document(data)
    return document, f"{document.module}, {format_time(document.timestamp_ms // 1000)}"


def _check_path(document: NitroDocument, trust: NitroTrust, now: int) -> tuple[None, str]:
    # the bundle begins with the root; it counts only if it is, byte by byte, one that is pinned
    pinned = [root for root in trust.roots if root.der == document.bundle[0].der]
    if not pinned:
        raise refuse("N2", "certificate-root", "expected a bundle with a pinned root first, got another")
    chain = (document.certificate, *reversed(document.bundle[1:]), pinned[0])
    return None, check_chain(chain, now=now, step="N2")


def _check_signature(document: NitroDocument) -> tuple[None, str]:
    key = public_key(document.certificate)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP384R1):
        raise refuse("N3", "key-type", "expected a key on P-384")
    try:
        document.signed.verify(key)
    except FormatError as error:
        raise refuse("N3", "signature-mismatch", error.message) from error
    return None, "ES384"


def _check_time(document: NitroDocument, trust: NitroTrust, now: int) -> tuple[None, str]:
    made = document.timestamp_ms // 1000
    if made > now + CLOCK_SKEW_S:
        raise refuse(
            "N4",
            "document-from-future",
            f"expected one made before {format_time(now)}, got {format_time(made)}",
        )
    if now - made > trust.max_age_s:
        raise refuse(
            "N4",
            "document-too-old",
            f"expected at most {trust.max_age_s} s of age at {format_time(now)}, got {format_time(made)}",
        )
    return None, f"{max(now - made, 0)} s old"


def _check_debug(document: NitroDocument) -> tuple[None, str]:
    values = [document.registers.get(number) for number in _CODE_REGISTERS]
    if any(value is None or not any(value.value) for value in values):
        raise refuse(
            "N5", "debug-mode", "expected values in PCR0 to PCR2, got zeros: its console can be read"
        )
    return None, "PCR0 to PCR2 are not zero"


def _check_binding(document: NitroDocument, expected: Expected) -> tuple[None, str]:
    """Compare the fields that the enclave filled: user data is the binding, the others are not another's."""
    check_bound(expected.bound)
    user_data = b"" if document.user_data is None else document.user_data
    if not hmac.compare_digest(user_data, expected.bound):
        raise refuse(
            "R3",
            "binding-mismatch",
            f"expected user data {expected.bound.hex()}, got {user_data.hex()[:256] or 'none'}",
        )
    for name, said, wanted in (
        ("nonce", document.nonce, expected.nonce),
        ("public key", document.public_key, expected.public_key),
    ):
        if said is not None and (wanted is None or not hmac.compare_digest(said, wanted)):
            raise refuse("R3", "binding-mismatch", f"expected no other {name} than this client's, got one")
    return None, f"user data {expected.bound.hex()}"
