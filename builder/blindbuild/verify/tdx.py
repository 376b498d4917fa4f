"""Steps T: is this the quote of an Intel processor that we believe, about a trust domain nobody looks into?

Never seen on our hardware. Source: docs/spec/platform-evidence.md; Intel TDX DCAP Quoting Library API, A.3
and A.4 (what signs what); Intel TDX Module ABI, ATTRIBUTES.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.certificate import Certificate
from blindbuild.formats.certificate_chain import public_key
from blindbuild.formats.intel_certificate import PlatformTcb, read_platform_tcb
from blindbuild.formats.tdx_quote import DEBUG_BITS, INTEL_QE_VENDOR, TdReport, TdxQuote, parse_tdx_quote
from blindbuild.manifest.platform_roots import TdxTrust
from blindbuild.measure.launch_kinds import KIND_TDX
from blindbuild.verify.chain import check_chain
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.ecdsa import verify_p256
from blindbuild.verify.evidence import Expected, ValueResult, judge_report_data, judge_values
from blindbuild.verify.tdx_collateral import TdxCollateral, judge_collateral

TITLES = {
    "T1": "the quote is well formed to its last byte",
    "T2": "the platform's certificate leads to a pinned root",
    "T3": "the platform's certificate says what it is for",
    "T4": "the platform's key signed the quoting enclave's report",
    "T5": "the quoting enclave is Intel's and made the attestation key",
    "T6": "the attestation key signed the quote",
    "T7": "Intel's statements about the platform are signed and current",
    "T8": "the quoting enclave is one that Intel stands by",
    "T9": "the platform and its TDX module are ones that Intel stands by",
    "T10": "the trust domain can be neither debugged nor moved",
    "T11": "nobody else configured or services the trust domain",
}
NEEDS_COLLATERAL = frozenset({"T7", "T8", "T9"})
NO_COLLATERAL = "no collateral was checked: Intel may have withdrawn this platform's firmware"
NO_REVOCATION = "Intel's lists of revoked certificates are not read"
# who signs Intel's quoting enclave for TDX, and which of his enclaves it is: what every answer of Intel's
# service says ("Get TDX QE Identity"). Without this any enclave with a provisioning attribute could quote.
TD_QE_SIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")
TD_QE_PRODUCT = 2
_ENCLAVE_DEBUG = 0x02  # SDM vol. 3D, ATTRIBUTES.DEBUG
_MIGRATABLE = 1 << 29
# LASS, SEPT_VE_DISABLE, PKS, KL, PERFMON; all other bits are reserved, debugging's or not judged here
_HARMLESS = 1 << 27 | 1 << 28 | 1 << 30 | 1 << 31 | 1 << 63


@dataclass(frozen=True, slots=True)
class TdxEvidence:
    """What the trust domain hands out, and what Intel says about its platform, or None."""

    quote: bytes
    collateral: TdxCollateral | None = None


def judge_tdx(
    steps: Checklist, evidence: TdxEvidence, trust: TdxTrust, expected: Expected
) -> tuple[str, tuple[ValueResult, ...]]:
    """Run steps T1 to T11 and R1 to R3; return the platform that fits best and how each value compares."""
    quote = steps.run("T1", lambda: _parse(evidence.quote))
    steps.run("T2", lambda: _check_path(found(quote), trust, expected.now), needs=("T1",))
    platform = steps.run("T3", lambda: _read_platform(found(quote)), needs=("T1",))
    steps.run("T4", lambda: _check_enclave_signature(found(quote)), needs=("T1",))
    steps.run("T5", lambda: _check_enclave(found(quote)), needs=("T1",))
    steps.run("T6", lambda: _check_signature(found(quote)), needs=("T1",))
    _judge_collateral(steps, evidence, trust, (quote, platform), expected.now)
    steps.run("T10", lambda: _check_attributes(found(quote).report, trust), needs=("T1",))
    steps.run("T11", lambda: _check_owner(found(quote).report), needs=("T1",))
    report = None if quote is None else quote.report
    best = judge_values(steps, KIND_TDX, expected, None if report is None else _values(report), needs=("T1",))
    judge_report_data(steps, expected, None if report is None else report.report_data, needs=("T1",))
    return best


def _judge_collateral(
    steps: Checklist,
    evidence: TdxEvidence,
    trust: TdxTrust,
    read: tuple[TdxQuote | None, PlatformTcb | None],
    now: int,
) -> None:
    quote, platform = read
    if evidence.collateral is None and not trust.require_collateral:
        for step in ("T7", "T8", "T9"):
            steps.skip(step, "no collateral at hand, and none asked for")
        steps.warn(NO_COLLATERAL)
        return
    steps.warn(NO_REVOCATION)
    judge_collateral(steps, evidence.collateral, quote, platform, trust=trust, now=now)


def _values(report: TdReport) -> dict[str, Digest]:
    values = {f"RTMR{number}": value for number, value in enumerate(report.rtmrs)}
    return {
        name: Digest(HashAlgorithm.SHA384, value) for name, value in {"MRTD": report.mr_td, **values}.items()
    }


def _parse(data: bytes) -> tuple[TdxQuote, str]:
    quote = parse_tdx_quote(data)
    kind = "1.0" if quote.report.service is None else "1.5"
    return quote, f"version {quote.version}, TD report {kind}, attributes 0x{quote.report.attributes:x}"


def _check_path(quote: TdxQuote, trust: TdxTrust, now: int) -> tuple[None, str]:
    # the quote brings its own root; it counts only if it is, byte by byte, one that is pinned
    if quote.chain[-1].der not in {root.der for root in trust.roots} or len(quote.chain) < 2:
        raise refuse("T2", "certificate-root", "expected a chain to a pinned root, got another root")
    return None, check_chain(quote.chain, now=now, step="T2")


def _read_platform(quote: TdxQuote) -> tuple[PlatformTcb, str]:
    try:
        platform = read_platform_tcb(quote.chain[0])
    except FormatError as error:
        raise refuse("T3", "certificate-profile", error.message) from error
    return platform, f"FMSPC {platform.fmspc.hex()}, PCE SVN {platform.pce_svn}"


def _check_enclave_signature(quote: TdxQuote) -> tuple[None, str]:
    key = _certified_key(quote.chain[0])
    if not verify_p256(key, quote.qe_signature, quote.quoting_enclave.raw):
        raise refuse("T4", "signature-mismatch", "expected the platform's signature on the enclave's report")
    return None, "signed by the certified key"


def _certified_key(certificate: Certificate) -> EllipticCurvePublicKey:
    key = public_key(certificate)
    if not isinstance(key, EllipticCurvePublicKey) or not isinstance(key.curve, SECP256R1):
        raise refuse("T4", "key-type", "expected a key on P-256")
    return key


def _check_enclave(quote: TdxQuote) -> tuple[None, str]:
    enclave = quote.quoting_enclave
    if quote.vendor != INTEL_QE_VENDOR or (enclave.mr_signer, enclave.product) != (
        TD_QE_SIGNER,
        TD_QE_PRODUCT,
    ):
        raise refuse(
            "T5",
            "other-quoting-enclave",
            f"expected Intel's quoting enclave, got product {enclave.product} of {enclave.mr_signer.hex()}",
        )
    if enclave.attributes[0] & _ENCLAVE_DEBUG:
        raise refuse("T5", "debug-enclave", "expected a quoting enclave that cannot be debugged")
    bound = hashlib.sha256(quote.attestation_key + quote.authentication).digest() + bytes(32)
    if not hmac.compare_digest(enclave.report_data, bound):
        raise refuse("T5", "key-not-bound", "expected the enclave's report to be about this attestation key")
    return None, f"version {enclave.svn}"


def _check_signature(quote: TdxQuote) -> tuple[None, str]:
    try:
        key = EllipticCurvePublicKey.from_encoded_point(SECP256R1(), b"\x04" + quote.attestation_key)
    except ValueError as error:
        raise refuse("T6", "key-off-curve", "expected a point on P-256") from error
    if not verify_p256(key, quote.signature, quote.signed):
        raise refuse("T6", "signature-mismatch", "expected the attestation key's signature on the quote")
    return None, "ECDSA P-256 with SHA-256"


def _check_attributes(report: TdReport, trust: TdxTrust) -> tuple[None, str]:
    if report.attributes & DEBUG_BITS:
        raise refuse("T10", "debug-allowed", "expected a trust domain that cannot be debugged or profiled")
    if report.attributes & _MIGRATABLE and not trust.allow_migration:
        raise refuse("T10", "migration-allowed", "expected a trust domain that stays on its machine")
    unknown = report.attributes & ~(_HARMLESS | _MIGRATABLE)
    if unknown:
        raise refuse("T10", "attributes-unknown", f"expected no other attributes, got 0x{unknown:x}")
    return None, f"attributes 0x{report.attributes:x}"


def _check_owner(report: TdReport) -> tuple[None, str]:
    fields = {
        "MRCONFIGID": report.mr_config_id,
        "MROWNER": report.mr_owner,
        "MROWNERCONFIG": report.mr_owner_config,
        "MRSERVICETD": report.service or b"",
    }
    used = [name for name, value in fields.items() if any(value)]
    if used:
        raise refuse("T11", "configuration-present", f"expected zeros in {', '.join(used)}")
    return None, "zeros"
