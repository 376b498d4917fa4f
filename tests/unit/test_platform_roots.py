"""The roots file, the named values of a statement, and evidence that is judged by a signed statement."""

from __future__ import annotations

import copy
import json

import pytest
import rfc8785

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import ManifestError
from blindbuild.formats.snp_report import SigningKey, TcbVersion
from blindbuild.manifest import parse_statement, parse_trust, statement_bytes
from blindbuild.manifest.platform_roots import MAX_ROOTS, parse_platform_roots
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.verify import Policy, appraise, bound_data
from blindbuild.verify.evidence import EvidenceAppraisal
from blindbuild.verify.nitro import NitroEvidence
from blindbuild.verify.platform_evidence import appraise_published_evidence
from blindbuild.verify.policy import Basis
from blindbuild.verify.snp import SnpEvidence
from blindbuild.verify.tdx import TdxEvidence
from tests.fakes.nitro_enclave import REGISTERS, document, fields, hypervisor
from tests.fakes.published import NOW, Publisher, statement_value
from tests.fakes.snp_machine import MEASUREMENT, SnpMachine, roots_file, snp_product
from tests.fakes.tdx_platform import MEASUREMENTS, intel, quote, td_report
from tests.fakes.world import NONCE, SPKI, authority, judge, publisher, session

SNP = {
    "id": "a-snp",
    "kind": "sev-snp",
    "measurements": {"LAUNCH_DIGEST": {"rule": "oneOf", "values": [MEASUREMENT.hex()]}},
}
TDX = {
    "id": "b-tdx",
    "kind": "tdx",
    "measurements": {
        name: {"rule": "oneOf", "values": [value.hex()], "why": "so measured"}
        for name, value in MEASUREMENTS.items()
        if name != "RTMR0"
    }
    | {"RTMR0": {"rule": "unconstrained", "reason": "the host's tables"}},
}
NITRO = {
    "id": "c-nitro",
    "kind": "nitro-enclave",
    "measurements": {
        f"PCR{number}": {"rule": "oneOf", "values": [REGISTERS[number].hex()]} for number in (0, 1, 2)
    },
}


def everybody() -> dict:
    return {
        "sevSnp": {"products": [snp_product()], "allowSmt": True, "maximumVmpl": 2},
        "tdx": {"roots": [intel().root.pem], "requireCollateral": False},
        "nitroEnclaves": {"roots": [hypervisor().root.pem], "maximumAgeSeconds": 60},
    }


def test_a_roots_file_is_read() -> None:
    roots = parse_platform_roots(roots_file(**everybody()))
    assert roots.snp is not None
    assert roots.snp.products[0].minimum == TcbVersion(4, 1, 24, 219)
    assert roots.snp.products[0].issuers.keys() == {SigningKey.VCEK, SigningKey.VLEK}
    assert (roots.snp.allow_smt, roots.snp.allow_migration_agent, roots.snp.maximum_vmpl) == (True, False, 2)
    assert roots.tdx is not None
    assert (roots.tdx.require_collateral, roots.tdx.statuses) == (False, {"UpToDate"})
    assert roots.nitro is not None
    assert roots.nitro.max_age_s == 60


def test_what_is_left_out_is_the_strict_choice() -> None:
    roots = parse_platform_roots(
        roots_file(
            sevSnp={"products": [snp_product()]},
            tdx={"roots": [intel().root.pem]},
            nitroEnclaves={"roots": [hypervisor().root.pem]},
        )
    )
    assert roots.snp is not None
    assert (roots.snp.allow_smt, roots.snp.allow_migration_agent, roots.snp.maximum_vmpl) == (False, False, 0)
    assert roots.tdx is not None
    assert (roots.tdx.require_collateral, roots.tdx.allow_migration) == (True, False)
    assert roots.nitro is not None
    assert roots.nitro.max_age_s == 300


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "expected sevSnp, tdx or nitroEnclaves, got none"),
        ({"version": 2, "tdx": {"roots": []}}, "version"),
        ({"sgx": {}}, "unknown 'sgx'"),
        ({"tdx": None}, "expected an object, got null"),
        ({"tdx": {}}, "missing roots"),
        ({"tdx": {"roots": []}}, "expected 1 to 8 entries"),
        ({"tdx": {"roots": ["x"]}}, "expected one PEM certificate"),
        ({"tdx": {"roots": ["ROOT", "ROOT"]}}, "expected each certificate once"),
        ({"tdx": {"roots": ["ROOT"], "acceptedTcbStatus": ["Revoked"]}}, "expected some of"),
        ({"tdx": {"roots": ["ROOT"], "acceptedTcbStatus": []}}, "expected 1 to 6 entries"),
        ({"tdx": {"roots": ["ROOT"], "requireCollateral": 0}}, "expected true or false"),
        ({"nitroEnclaves": {"roots": ["ROOT"], "maximumAgeSeconds": 0}}, "expected 1 to 86400"),
        ({"nitroEnclaves": {"roots": ["ROOT"], "maximumAgeSeconds": 90000}}, "expected 1 to 86400"),
        ({"sevSnp": {"products": []}}, "expected 1 to 3 entries"),
        ({"sevSnp": {"products": ["MILAN", "MILAN"]}}, "expected each product once"),
        ({"sevSnp": {"products": ["MILAN"], "maximumVmpl": 4}}, "expected 0 to 3, got 4"),
        ({"sevSnp": {"products": ["MILAN"], "allowSmt": "yes"}}, "expected true or false"),
        ({"sevSnp": {"products": ["MILAN"], "allowDebug": True}}, "unknown 'allowDebug'"),
        ({"sevSnp": {"products": [{"name": "Rome"}]}}, "missing minimumTcb, root"),
    ],
)
def test_a_roots_file_that_is_not_one_is_refused(parts: dict, message: str) -> None:
    text = json.dumps({"version": 1} | parts)
    text = text.replace('"ROOT"', json.dumps(intel().root.pem)).replace('"MILAN"', json.dumps(snp_product()))
    with pytest.raises(ManifestError, match=message):
        parse_platform_roots(text.encode())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Rome"}, "expected Genoa or Milan or Turin"),
        ({"root": ""}, "expected one PEM certificate"),
        ({"vcekIssuer": "x"}, "expected one PEM certificate"),
        ({"minimumTcb": {}}, "missing bootloader"),
        ({"minimumTcb": {"bootloader": 0, "tee": 0, "snp": 0, "microcode": 0, "fmc": 0}}, "unknown 'fmc'"),
        ({"name": "Turin"}, "missing fmc"),
        ({"minimumTcb": {"bootloader": 256, "tee": 0, "snp": 0, "microcode": 0}}, "expected 0 to 255"),
        ({"more": 1}, "unknown 'more'"),
    ],
)
def test_a_product_that_is_not_one_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_platform_roots(roots_file(sevSnp={"products": [snp_product() | changes]}))


def test_a_product_without_issuers_or_a_file_that_is_not_json_is_refused() -> None:
    product = snp_product()
    del product["vcekIssuer"], product["vlekIssuer"]
    with pytest.raises(ManifestError, match="expected an issuer of VCEKs or of VLEKs, got none"):
        parse_platform_roots(roots_file(sevSnp={"products": [product]}))
    for data in (b"", b"[]", b'{"version":1,"version":1}', bytes(MAX_ROOTS + 1)):
        with pytest.raises(ManifestError, match="roots file"):
            parse_platform_roots(data)


def published(*platforms: dict) -> Publisher:
    uefi = statement_value()["predicate"]["platforms"]
    return publisher().but(platforms=sorted([*platforms, *uefi], key=lambda each: each["id"]))


def test_a_statement_with_named_values_is_read_and_written_back() -> None:
    data = published(SNP, TDX, NITRO).statement
    statement = parse_statement(data)
    assert statement_bytes(statement) == data
    found = {platform.identifier: platform for platform in statement.platforms}
    assert found["a-snp"].banks == {}
    rule = found["a-snp"].measurements["LAUNCH_DIGEST"]
    assert isinstance(rule, OneOf)
    assert (rule.values[0].algorithm, rule.values[0].value) == (HashAlgorithm.SHA384, MEASUREMENT)
    assert found["b-tdx"].measurements["RTMR0"] == Unconstrained("the host's tables")
    assert found["qemu-q35-ovmf-2025.02"].measurements == {}


def changed(platform: dict, **measurements: object) -> dict:
    value = copy.deepcopy(platform)
    value["measurements"] |= measurements
    value["measurements"] = {name: rule for name, rule in value["measurements"].items() if rule is not None}
    return value


ONE = {"rule": "oneOf", "values": ["00" * 48]}


@pytest.mark.parametrize(
    ("platform", "message"),
    [
        (changed(SNP, LAUNCH_DIGEST=None), "missing LAUNCH_DIGEST"),
        (changed(SNP, MORE=ONE), "unknown 'MORE'"),
        (changed(SNP, LAUNCH_DIGEST={"rule": "unconstrained", "reason": "any"}), "another image could run"),
        (changed(SNP, LAUNCH_DIGEST={"rule": "initial"}), "expected rule oneOf or unconstrained"),
        (changed(SNP, LAUNCH_DIGEST={"rule": "oneOf", "values": []}), "expected 1 to 64 entries"),
        (changed(SNP, LAUNCH_DIGEST={"rule": "oneOf", "values": ["00" * 32]}), "expected 96 lower-case hex"),
        (changed(SNP, LAUNCH_DIGEST={"rule": "oneOf", "values": ["00" * 48] * 2}), "sorted and unique"),
        (SNP | {"banks": {}}, "unknown 'banks'"),
        (SNP | {"firmwareDigest": {"sha256": "00" * 32}}, "unknown 'firmwareDigest'"),
        (SNP | {"measurements": {}}, "missing LAUNCH_DIGEST"),
        ({"id": "a-snp", "kind": "sev-snp"}, "missing measurements"),
        (SNP | {"kind": "uefi-tpm"}, "missing banks"),
        *[(changed(TDX, **{name: None}), f"missing {name}") for name in MEASUREMENTS],
        *[
            (changed(TDX, **{name: {"rule": "unconstrained", "reason": "any"}}), "another image could run")
            for name in ("MRTD", "RTMR1", "RTMR2")
        ],
        (changed(NITRO, PCR2=None), "missing PCR2"),
        (changed(NITRO, PCR5=ONE), "unknown 'PCR5'"),
    ],
)
def test_named_values_that_say_too_little_or_too_much_are_refused(platform: dict, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_statement(published(platform).statement)


def judge_published(
    evidence: SnpEvidence | TdxEvidence | NitroEvidence,
    by: Publisher,
    *,
    nonce: bytes = NONCE,
    spki: bytes = SPKI,
    **policy: object,
) -> EvidenceAppraisal:
    basis = Basis(
        envelope=by.envelope,
        release=by.release,
        trust=parse_trust(by.trust(tpm_roots=[authority().root_pem])),
        now=NOW,
        policy=Policy(**policy),
        history=None,
    )
    roots = parse_platform_roots(roots_file(**everybody()))
    return appraise_published_evidence(evidence, roots=roots, basis=basis, nonce=nonce, spki=spki)


def bound_to(by: Publisher) -> bytes:

    return bound_data(nonce=NONCE, spki=SPKI, statement=Digest.sha256(by.statement))


def evidence_for(by: Publisher) -> list[SnpEvidence | TdxEvidence | NitroEvidence]:
    bound = bound_to(by)
    machine = SnpMachine()
    return [
        SnpEvidence(machine.report(bound + bytes(32)), machine.certificate()),
        TdxEvidence(quote(td_report(bound + bytes(32)))),
        NitroEvidence(document(fields(NOW, bound, nonce=NONCE, public_key=SPKI))),
    ]


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["SEV-SNP", "TDX", "Nitro"])
def test_evidence_is_judged_by_a_signed_statement(kind: int) -> None:
    by = published(SNP, TDX, NITRO)
    accepted = judge_published(evidence_for(by)[kind], by).accepted()
    assert accepted.platform == ("a-snp", "b-tdx", "c-nitro")[kind]
    assert not any("given by hand" in warning for warning in accepted.warnings)
    # the same evidence, and another statement: it is bound to the first
    other = published(SNP, TDX, NITRO).but(sequence=43)
    assert judge_published(evidence_for(by)[kind], other).reasons == {"R3:binding-mismatch"}


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["SEV-SNP", "TDX", "Nitro"])
def test_a_statement_that_is_not_believed_gives_no_reference(kind: int) -> None:
    by = published(SNP, TDX, NITRO)
    stranger = Publisher(value=by.value)
    forged = judge_published(evidence_for(by)[kind], by)
    assert forged.verdict is not None
    trust = parse_trust(by.trust(tpm_roots=[authority().root_pem]))
    basis = Basis(stranger.envelope, stranger.release, trust, NOW, Policy(), None)
    appraisal = appraise_published_evidence(
        evidence_for(by)[kind],
        roots=parse_platform_roots(roots_file(**everybody())),
        basis=basis,
        nonce=NONCE,
        spki=SPKI,
    )
    assert appraisal.verdict is None
    assert appraisal.reasons >= {"M4:envelope-refused", "R1:reference-missing"}


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["SEV-SNP", "TDX", "Nitro"])
@pytest.mark.parametrize(
    ("nonce", "spki"),
    [(b"", SPKI), (NONCE[:-1], SPKI), (bytes(32), SPKI), (NONCE, b"")],
    ids=["no nonce", "a short one", "zeros", "no key"],
)
def test_what_was_never_chosen_binds_nothing(kind: int, nonce: bytes, spki: bytes) -> None:
    # the evidence is bound to just that: whoever made it knew it beforehand
    by = published(SNP, TDX, NITRO)
    bound = bound_data(nonce=nonce, spki=spki, statement=Digest.sha256(by.statement))
    machine = SnpMachine()
    evidence = (
        SnpEvidence(machine.report(bound + bytes(32)), machine.certificate()),
        TdxEvidence(quote(td_report(bound + bytes(32)))),
        NitroEvidence(document(fields(NOW, bound))),
    )[kind]
    assert judge_published(evidence, by, nonce=nonce, spki=spki).reasons == {"R3:binding-malformed"}


def test_a_debug_image_and_a_statement_without_values_are_refused() -> None:
    by = published(SNP).but(debug=True)
    assert judge_published(evidence_for(by)[0], by).reasons == {"P1:debug-image"}
    assert judge_published(evidence_for(by)[0], by, allow_debug=True).accepted()
    plain = publisher()
    assert judge_published(evidence_for(plain)[0], plain).reasons == {"R1:reference-missing"}


def test_the_policy_may_name_the_platform() -> None:
    by = published(SNP, SNP | {"id": "other-snp"})
    assert (
        judge_published(evidence_for(by)[0], by, platforms=frozenset({"other-snp"})).accepted().platform
        == "other-snp"
    )
    assert judge_published(evidence_for(by)[0], by, platforms=frozenset({"x"})).reasons == {
        "R1:reference-missing"
    }


def test_a_closed_channel_that_is_required_is_required_here_too() -> None:
    by = published(SNP)
    reasons = judge_published(evidence_for(by)[0], by, required_closed=frozenset({"disk"})).reasons
    assert any(reason.startswith(("P2:", "P3:")) for reason in reasons)


def test_a_tpms_quote_is_never_judged_by_named_values() -> None:
    by = publisher().but(platforms=[NITRO])
    exchange = session(statement=by.statement)
    appraisal = appraise(
        exchange,
        envelope=by.envelope,
        release=by.release,
        trust=judge.trust or parse_trust(by.trust(test_tpm_roots=[authority().root_pem])),
        now=NOW,
        policy=Policy(allow_test_tpm=True),
    )
    assert "E2:platform-unknown" in appraisal.reasons
    assert appraisal.verdict is None
    assert rfc8785.dumps(by.value) == by.statement
