"""Evidence of real processors: what other projects publish, judged by the back-ends.

The files are beside the repository, in `vectors/platforms`, or where BLINDBUILD_PLATFORM_VECTORS says. Where
they are from (all but one under the Apache License 2.0):

snp/: google/go-sev-guest at af1c107a (go-sev-guest.*, ask_ark_*.pem), confidential-containers/trustee at
78962cd4 (trustee*), virtee/sev at 9cf2adbf (virtee*); microsoft/TEE-Attestation-Verification at 220ffb3b, MIT
License (microsoft*).
tdx/: google/go-tdx-guest at 91f9a52f (go-tdx-guest*, intel-root.pem, Intel's answers and their signer's
chain; the first quote without the text that its tests put behind it), trustee (trustee*).
nitro/: evervault/attestation-doc-validation at 084ba280.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.amd_certificate import read_endorsed_key
from blindbuild.formats.certificate import parse_certificate
from blindbuild.formats.certificate_chain import parse_pem_chain
from blindbuild.formats.nitro_document import parse_nitro_document
from blindbuild.formats.snp_report import SigningKey, TcbVersion, parse_snp_report
from blindbuild.formats.tdx_quote import parse_tdx_quote, trim_quote
from blindbuild.manifest.platform_roots import NitroTrust, PlatformRoots, SnpProduct, SnpTrust, TdxTrust
from blindbuild.measure.classification import OneOf
from blindbuild.verify.chain import check_chain
from blindbuild.verify.evidence import EvidenceAppraisal, Expected, Reference
from blindbuild.verify.nitro import NitroEvidence
from blindbuild.verify.platform_evidence import appraise_evidence
from blindbuild.verify.snp import SnpEvidence
from blindbuild.verify.tdx import TdxEvidence
from blindbuild.verify.tdx_collateral import TdxCollateral
from tests.fakes.damage import assert_all_refused, bit_flips, truncations

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "platforms"
VECTORS = Path(os.environ.get("BLINDBUILD_PLATFORM_VECTORS", BESIDE))
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs the vectors beside the repository")
# the makers publish these fingerprints (docs/spec/platform-evidence.md)
FINGERPRINTS = {
    "snp/ask_ark_milan.pem": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "snp/ask_ark_genoa.pem": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "snp/ask_ark_turin_vcek.pem": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "tdx/intel-root.pem": "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
    "nitro/aws-root.pem": "641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b",
}


def read(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


def at(year: int, month: int, day: int) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp())


def one_of(value: bytes) -> OneOf:
    return OneOf((Digest(HashAlgorithm.SHA384, value),), "")


def product(name: str, chip: str, loaded: str, minimum: TcbVersion) -> SnpProduct:
    issuer, root = parse_pem_chain(read(chip).decode())
    second, same = parse_pem_chain(read(loaded).decode())
    assert root.der == same.der
    return SnpProduct(name, root, {SigningKey.VCEK: issuer, SigningKey.VLEK: second}, minimum)


def amd() -> SnpTrust:
    lowest = TcbVersion(0, 0, 0, 0)
    return SnpTrust(
        (
            product("Milan", "snp/ask_ark_milan.pem", "snp/ask_ark_milan_vlek.pem", lowest),
            product("Genoa", "snp/ask_ark_genoa.pem", "snp/ask_ark_genoa_vlek.pem", lowest),
            product(
                "Turin",
                "snp/ask_ark_turin_vcek.pem",
                "snp/ask_ark_turin_vlek.pem",
                TcbVersion(0, 0, 0, 0, fmc=0),
            ),
        ),
        allow_smt=True,
        maximum_vmpl=1,
    )


def judge_snp(
    report: bytes, certificate: bytes, trust: SnpTrust | None = None, now: int = at(2025, 6, 1)
) -> EvidenceAppraisal:
    try:
        measured, bound = parse_snp_report(report).measurement, parse_snp_report(report).report_data[:32]
    except FormatError:
        measured, bound = bytes(48), bytes(32)
    reference = Reference("sample", "sev-snp", {"LAUNCH_DIGEST": one_of(measured)})
    return appraise_evidence(
        SnpEvidence(report, certificate),
        roots=PlatformRoots(trust or amd(), None, None),
        expected=Expected((reference,), bound, now),
    )


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_the_roots_are_the_makers(name: str) -> None:
    assert Digest.sha256(parse_pem_chain(read(name).decode())[-1].der).hex == FINGERPRINTS[name]


@dataclass(frozen=True)
class Report:
    name: str
    certificate: str
    version: int
    now: int = at(2025, 6, 1)
    # report data that fills all 64 bytes is none of ours; debugging is allowed in one sample
    refused: frozenset[str] = frozenset()


REPORTS = (
    Report("go-sev-guest.report.bin", "go-sev-guest.vcek.der", 2, refused=frozenset({"S7:debug-allowed"})),
    Report("trustee.report.bin", "trustee.vcek.der", 2),
    Report("trustee-vlek.report.bin", "trustee-vlek.vlek.der", 3, refused=frozenset({"R3:binding-mismatch"})),
    Report("microsoft-milan.report.bin", "microsoft-milan.vcek.der", 3, at(2026, 3, 1)),
    Report("microsoft-genoa.report.bin", "microsoft-genoa.vcek.der", 3, at(2026, 3, 1)),
    Report("microsoft-turin.report.bin", "microsoft-turin.vcek.der", 5, at(2026, 3, 1)),
    Report("trustee-azure.report.bin", "trustee-azure.vcek.der", 2),
    Report("trustee-genoa.report.bin", "trustee-genoa.vcek.der", 3),
    Report("virtee.report.bin", "virtee.vcek.der", 2, refused=frozenset({"R3:binding-mismatch"})),
)


@pytest.mark.parametrize("sample", REPORTS, ids=lambda sample: sample.name)
def test_reports_of_amds_processors_are_genuine(sample: Report) -> None:
    report, certificate = read(f"snp/{sample.name}"), read(f"snp/{sample.certificate}")
    assert parse_snp_report(report).version == sample.version
    appraisal = judge_snp(report, certificate, now=sample.now)
    assert appraisal.reasons == sample.refused
    assert (appraisal.verdict is not None) == (not sample.refused)


@pytest.mark.parametrize("sample", REPORTS, ids=lambda sample: sample.name)
def test_no_damaged_report_of_amds_is_accepted(sample: Report) -> None:
    report, certificate, trust = read(f"snp/{sample.name}"), read(f"snp/{sample.certificate}"), amd()
    assert_all_refused(parse_snp_report, truncations(report), FormatError)
    for damaged in bit_flips(report, step=3):
        appraisal = judge_snp(damaged, certificate, trust, sample.now)
        assert appraisal.verdict is None
        assert appraisal.reasons & {"S1:malformed", "S4:signature-mismatch", "S4:other-key-kind"}
        assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


def test_a_report_with_another_processors_certificate_is_refused() -> None:
    appraisal = judge_snp(read("snp/trustee.report.bin"), read("snp/virtee.vcek.der"))
    assert appraisal.reasons == {"S4:signature-mismatch", "S5:chip-mismatch"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("virtee-turin.vcek.der", ("Turin", TcbVersion(0, 0, 0, 9, fmc=0), 8)),
        ("trustee-genoa.vcek.der", ("Genoa", TcbVersion(10, 0, 23, 84), 64)),
        ("go-sev-guest.vcek.der", ("Milan", TcbVersion(2, 0, 5, 68), 64)),
    ],
)
def test_certificates_of_every_product_line_lead_to_its_root(name: str, expected: tuple) -> None:
    certificate = parse_certificate(read(f"snp/{name}"))
    endorsed = read_endorsed_key(certificate)
    assert endorsed.hardware is not None
    assert (endorsed.product, endorsed.tcb, len(endorsed.hardware)) == expected
    line = next(each for each in amd().products if each.name == endorsed.product)
    chain = (certificate, line.issuers[endorsed.kind], line.root)
    assert "ARK-" in check_chain(chain, now=at(2025, 6, 1), step="S3")


def judge_tdx(
    quote: bytes, now: int, collateral: TdxCollateral | None = None, **policy: object
) -> EvidenceAppraisal:
    try:
        report = parse_tdx_quote(quote).report
        values = {"MRTD": one_of(report.mr_td)}
        values |= {f"RTMR{number}": one_of(value) for number, value in enumerate(report.rtmrs)}
        bound = report.report_data[:32]
    except FormatError:
        values, bound = {}, bytes(32)
    trust = TdxTrust(
        parse_pem_chain(read("tdx/intel-root.pem").decode()),
        require_collateral=collateral is not None,
        **policy,
    )
    return appraise_evidence(
        TdxEvidence(quote, collateral),
        roots=PlatformRoots(None, trust, None),
        expected=Expected((Reference("sample", "tdx", values),), bound, now),
    )


QUOTES = {
    "go-tdx-guest-v4.quote.bin": {"R3:binding-mismatch"},
    "go-tdx-guest-v5.quote.bin": {"R3:binding-mismatch"},
    "go-tdx-guest-cos.quote.padded.bin": set(),
    "trustee-debug.quote.bin": {"R3:binding-mismatch", "T10:debug-allowed"},
    "trustee-v4.quote.padded.bin": None,
    "trustee-v5.quote.bin": {"R3:binding-mismatch", "T11:configuration-present"},
    "trustee-azure.quote.padded.bin": None,
}


@pytest.mark.parametrize("name", QUOTES)
def test_quotes_of_intels_processors_are_genuine(name: str) -> None:
    quote = trim_quote(read(f"tdx/{name}"))
    appraisal = judge_tdx(quote, at(2026, 2, 3))
    assert not any(step.outcome.value == "failed" for step in appraisal.steps if step.id in _SIGNED)
    if QUOTES[name] is not None:
        assert appraisal.reasons == QUOTES[name]
    assert (appraisal.verdict is not None) == (not appraisal.reasons)


_SIGNED = {"T1", "T2", "T3", "T4", "T5", "T6"}


@pytest.mark.parametrize("name", [name for name in QUOTES if "padded" in name])
def test_quotes_with_zeros_behind_them_must_be_trimmed(name: str) -> None:
    data = read(f"tdx/{name}")
    assert judge_tdx(data, at(2026, 2, 3)).reasons >= {"T1:malformed"}
    with pytest.raises(FormatError, match="expected only zeros"):
        trim_quote(data[:-1] + b"\1")


@pytest.mark.parametrize("name", ["go-tdx-guest-v4.quote.bin", "go-tdx-guest-v5.quote.bin"])
def test_no_damaged_quote_of_intels_is_accepted(name: str) -> None:
    quote = read(f"tdx/{name}")
    assert_all_refused(parse_tdx_quote, truncations(quote), FormatError)
    signed = len(parse_tdx_quote(quote).signed)
    for damaged in bit_flips(quote[:signed], step=3):
        reasons = judge_tdx(damaged + quote[signed:], at(2026, 2, 3)).reasons
        assert reasons & {"T1:malformed", "T6:signature-mismatch"}
        assert not any(reason.endswith("internal-error") for reason in reasons)
    for damaged in bit_flips(quote[signed:], step=11):
        reasons = judge_tdx(quote[:signed] + damaged, at(2026, 2, 3)).reasons
        assert not any(reason.endswith("internal-error") for reason in reasons)


@pytest.mark.parametrize(
    ("name", "info", "now", "reasons"),
    [
        (
            "go-tdx-guest-v4.quote.bin",
            "tcb-info-50806f.json",
            at(2023, 7, 1),
            # go-tdx-guest says the same of this quote: no matching TCB level
            {"R3:binding-mismatch", "T9:tcb-unknown"},
        ),
        (
            "trustee-debug.quote.bin",
            "tcb-info-50806f.json",
            at(2023, 7, 1),
            {"R3:binding-mismatch", "T10:debug-allowed"},
        ),
        (
            "go-tdx-guest-v4.quote.bin",
            "tcb-info-50806f.json",
            at(2023, 9, 1),
            {"R3:binding-mismatch", "T7:collateral-expired"},
        ),
        (
            "go-tdx-guest-v4.quote.bin",
            "tcb-info-90c06f.json",
            at(2023, 7, 1),
            {"R3:binding-mismatch", "T7:collateral-not-yet-valid"},
        ),
    ],
)
def test_intels_own_answers_are_read(name: str, info: str, now: int, reasons: set[str]) -> None:
    collateral = TdxCollateral(
        read(f"tdx/{info}"), read("tdx/qe-identity.json"), read("tdx/issuer-chain.pem")
    )
    appraisal = judge_tdx(read(f"tdx/{name}"), now, collateral)
    assert appraisal.reasons == reasons


def judge_nitro(data: bytes) -> EvidenceAppraisal:
    document = parse_nitro_document(data)
    values = {f"PCR{number}": one_of(document.registers[number].value) for number in (0, 1, 2)}
    return appraise_evidence(
        NitroEvidence(data),
        roots=PlatformRoots(None, None, NitroTrust(parse_pem_chain(read("nitro/aws-root.pem").decode()))),
        expected=Expected(
            (Reference("sample", "nitro-enclave", values),),
            document.user_data or b"",
            document.timestamp_ms // 1000 + 2,
            nonce=document.nonce,
            public_key=document.public_key,
        ),
    )


DOCUMENTS = {
    "evervault.document.bin": {"R3:binding-mismatch"},  # it has no user data
    "evervault-debug.document.bin": {"N5:debug-mode"},
    "evervault-debug-2.document.bin": {"N5:debug-mode"},
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_of_awss_hypervisor_are_genuine(name: str) -> None:
    assert judge_nitro(read(f"nitro/{name}")).reasons == DOCUMENTS[name]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_damaged_document_of_awss_is_accepted(name: str) -> None:
    document = read(f"nitro/{name}")
    assert_all_refused(parse_nitro_document, truncations(document), FormatError)
    for damaged in bit_flips(document, step=11):
        try:
            reasons = judge_nitro(damaged).reasons
        except (FormatError, KeyError):
            continue
        assert any(reason.startswith(("N2:", "N3:")) for reason in reasons)
        assert not any(reason.endswith("internal-error") for reason in reasons)
