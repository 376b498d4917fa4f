"""Steps S: is this the report of an AMD processor that we believe, about a guest that nobody looks into?

Never seen on our hardware. Source: docs/spec/platform-evidence.md; the clauses are those of
`formats.snp_report` and `formats.amd_certificate`.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.amd_certificate import EndorsedKey, read_endorsed_key
from blindbuild.formats.certificate import Certificate, parse_certificate
from blindbuild.formats.snp_report import (
    HOST_REQUESTED,
    PLATFORM_ALIAS_CHECK,
    POLICY_DEBUG,
    POLICY_MIGRATION_AGENT,
    POLICY_SMT,
    SnpReport,
    parse_snp_report,
    read_tcb,
)
from blindbuild.manifest.platform_roots import PRODUCTS_WITH_FMC, SnpProduct, SnpTrust
from blindbuild.measure.launch_kinds import KIND_SEV_SNP
from blindbuild.verify.chain import check_chain
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.evidence import Expected, ValueResult, judge_report_data, judge_values

TITLES = {
    "S1": "the report is well formed to its last byte",
    "S2": "the signing key's certificate is one of the processor's maker",
    "S3": "the certificate leads to the pinned root of its product line",
    "S4": "the certified key signed the report",
    "S5": "the certificate is for this product line, chip and firmware",
    "S6": "the processor's firmware is new enough",
    "S7": "the guest can be neither debugged nor moved nor made to share cores",
    "S8": "the most privileged level of the guest asked for the report",
}
NO_ALIAS_CHECK = "the report does not say that the processor checked its memory for aliases (BadRAM)"
# family and models (CPUID 1) of each product line; Genoa's keys serve Bergamo and Siena as well
_MODELS = {
    "Milan": (0x19, (range(0x10),)),
    "Genoa": (0x19, (range(0x10, 0x20), range(0xA0, 0xB0))),
    "Turin": (0x1A, (range(0x12),)),
}
_CHIP_ID_SIZE = 64  # bytes


@dataclass(frozen=True, slots=True)
class SnpEvidence:
    """What the guest hands out: the report, and the certificate (DER) of the VCEK or VLEK that signed it."""

    report: bytes
    certificate: bytes


def judge_snp(
    steps: Checklist, evidence: SnpEvidence, trust: SnpTrust, expected: Expected
) -> tuple[str, tuple[ValueResult, ...]]:
    """Run steps S1 to S8 and R1 to R3; return the platform that fits best and how each value compares."""
    report = steps.run("S1", lambda: _parse(evidence.report))
    endorsed = steps.run("S2", lambda: _read_certificate(evidence.certificate))
    product = steps.run(
        "S3", lambda: _check_path(*found(endorsed), trust=trust, now=expected.now), needs=("S2",)
    )
    steps.run("S4", lambda: _check_signature(found(report), found(endorsed)[1]), needs=("S1", "S2"))
    steps.run(
        "S5",
        lambda: _check_endorsed(found(report), found(endorsed)[1], found(product)),
        needs=("S1", "S2", "S3"),
    )
    steps.run("S6", lambda: _check_firmware(found(report), found(product)), needs=("S1", "S3"))
    steps.run("S7", lambda: _check_policy(found(report), trust), needs=("S1",))
    steps.run("S8", lambda: _check_level(found(report), trust), needs=("S1",))
    measured = None if report is None else {"LAUNCH_DIGEST": Digest(HashAlgorithm.SHA384, report.measurement)}
    best = judge_values(steps, KIND_SEV_SNP, expected, measured, needs=("S1",))
    judge_report_data(steps, expected, None if report is None else report.report_data, needs=("S1",))
    if report is not None and not report.platform_info & PLATFORM_ALIAS_CHECK:
        steps.warn(NO_ALIAS_CHECK)
    return best


def _parse(data: bytes) -> tuple[SnpReport, str]:
    report = parse_snp_report(data)
    return report, f"version {report.version}, policy 0x{report.policy:x}, {report.signing_key.name}"


def _read_certificate(data: bytes) -> tuple[tuple[Certificate, EndorsedKey], str]:
    try:
        certificate = parse_certificate(data)
        endorsed = read_endorsed_key(certificate)
    except FormatError as error:
        raise refuse("S2", "certificate-malformed", error.message) from error
    return (certificate, endorsed), f"{endorsed.kind.name} of {endorsed.product}, {endorsed.tcb}"


def _check_path(
    certificate: Certificate, endorsed: EndorsedKey, *, trust: SnpTrust, now: int
) -> tuple[SnpProduct, str]:
    named = [product for product in trust.products if product.name == endorsed.product]
    if not named:
        known = ", ".join(product.name for product in trust.products) or "no product line"
        raise refuse("S3", "other-product", f"expected a processor of {known}, got one of {endorsed.product}")
    product = named[0]
    issuer = product.issuers.get(endorsed.kind)
    if issuer is None:
        raise refuse(
            "S3", "other-key-kind", f"expected a pinned issuer of {endorsed.kind.name} keys, got none"
        )
    return product, check_chain((certificate, issuer, product.root), now=now, step="S3")


def _check_signature(report: SnpReport, endorsed: EndorsedKey) -> tuple[None, str]:
    if report.signing_key is not endorsed.kind:
        raise refuse(
            "S4",
            "other-key-kind",
            f"expected a certificate of the {report.signing_key.name}, got one of the {endorsed.kind.name}",
        )
    try:
        endorsed.public.verify(encode_dss_signature(report.r, report.s), report.signed, ECDSA(SHA384()))
    except InvalidSignature as error:
        raise refuse("S4", "signature-mismatch", "expected the certified key's signature") from error
    return None, f"signed by the {endorsed.kind.name}, ECDSA P-384 with SHA-384"


def _check_endorsed(report: SnpReport, endorsed: EndorsedKey, product: SnpProduct) -> tuple[None, str]:
    if report.cpu is not None:
        family, model, _stepping = report.cpu
        expected_family, models = _MODELS[product.name]
        if family != expected_family or not any(model in each for each in models):
            raise refuse(
                "S5",
                "other-product",
                f"expected a processor of {product.name}, got family 0x{family:x} model 0x{model:x}",
            )
    reported = read_tcb(report.tcbs["reported"], with_fmc=product.name in PRODUCTS_WITH_FMC)
    if reported != endorsed.tcb:
        raise refuse(
            "S5", "tcb-mismatch", f"expected a certificate for {reported}, got one for {endorsed.tcb}"
        )
    if endorsed.hardware is None:
        return None, "a VLEK names no chip"
    if not hmac.compare_digest(report.chip_id, endorsed.hardware.ljust(_CHIP_ID_SIZE, b"\0")):
        raise refuse(
            "S5", "chip-mismatch", "expected the certified chip, got a report of another or masked one"
        )
    return None, f"chip {report.chip_id[:8].hex()}…"


def _check_firmware(report: SnpReport, product: SnpProduct) -> tuple[None, str]:
    with_fmc = product.name in PRODUCTS_WITH_FMC
    # the reported one is what the key was derived for; the guest may have been launched under an older one,
    # and the host may go back to the committed one at any time
    for name, data in report.tcbs.items():
        tcb = read_tcb(data, with_fmc=with_fmc)
        if not tcb.reaches(product.minimum):
            raise refuse("S6", "tcb-too-low", f"expected at least {product.minimum}, got {name} TCB {tcb}")
    return None, f"at least {product.minimum}"


def _check_policy(report: SnpReport, trust: SnpTrust) -> tuple[None, str]:
    if report.policy & POLICY_DEBUG:
        raise refuse("S7", "debug-allowed", "expected a guest that cannot be debugged, got one that can be")
    if report.policy & POLICY_MIGRATION_AGENT and not trust.allow_migration_agent:
        raise refuse("S7", "migration-allowed", "expected a guest without migration agent, got one with it")
    if report.policy & POLICY_SMT and not trust.allow_smt:
        raise refuse(
            "S7",
            "smt-allowed",
            "expected a guest that shares no core with the host's programs, got one that may",
            hint='add "allowSmt":true to the roots file if the provider launches guests no other way',
        )
    return None, f"policy 0x{report.policy:x}"


def _check_level(report: SnpReport, trust: SnpTrust) -> tuple[None, str]:
    if report.vmpl == HOST_REQUESTED:
        raise refuse("S8", "host-requested", "expected a report that the guest asked for, got the host's")
    if report.vmpl > trust.maximum_vmpl:
        raise refuse("S8", "vmpl-too-high", f"expected at most VMPL {trust.maximum_vmpl}, got {report.vmpl}")
    return None, f"VMPL {report.vmpl}"
