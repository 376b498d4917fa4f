"""TDX quotes: an honest one is accepted, each lie is refused by its own step and reason.

Quotes and Intel's answers are made by tests/fakes/tdx_platform.py, which shares no code with the parsers;
quotes of real processors are judged in tests/vectors/test_platform_samples.py.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, VerificationError
from blindbuild.formats.tdx_collateral import MAX_COLLATERAL, split_signed
from blindbuild.formats.tdx_quote import MAX_QUOTE, parse_tdx_quote, trim_quote
from blindbuild.manifest.platform_roots import PlatformRoots, parse_platform_roots
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.verify.checklist import Outcome
from blindbuild.verify.ecdsa import verify_p256
from blindbuild.verify.evidence import EvidenceAppraisal, Expected, Reference
from blindbuild.verify.platform_evidence import appraise_evidence
from blindbuild.verify.tdx import TdxEvidence
from blindbuild.verify.tdx_collateral import TdxCollateral
from tests.fakes.authorities import MADE, YEARS, Rules, make_root, pem_of
from tests.fakes.damage import assert_all_refused, bit_flips, truncations
from tests.fakes.snp_machine import roots_file
from tests.fakes.tdx_platform import (
    MEASUREMENTS,
    SGX_SVNS,
    TDX_SVNS,
    answer,
    intel,
    level,
    module,
    pair,
    point,
    qe_identity,
    quote,
    sgx_extension,
    svn_level,
    tcb_info,
    td_report,
    tlv,
)

BOUND = bytes(range(32))
DATA = BOUND + bytes(32)
OTHER_KEYS = (
    ec.generate_private_key(ec.SECP384R1()).public_key(),
    ed25519.Ed25519PrivateKey.generate().public_key(),
)
NOW = int(datetime(2026, 9, 20, tzinfo=UTC).timestamp())
DROP = object()


def reference(**values: bytes) -> Reference:
    rules = {
        name: OneOf((Digest(HashAlgorithm.SHA384, value),), "")
        for name, value in (MEASUREMENTS | values).items()
    }
    return Reference("tdx-here", "tdx", rules)


def roots(*certificates: str, **settings) -> PlatformRoots:
    pinned = list(certificates) or [intel().root.pem]
    return parse_platform_roots(roots_file(tdx={"roots": pinned} | settings))


def collateral(
    info: dict | None = None, identity: dict | None = None, *, chain: bytes | None = None, key=None
) -> TdxCollateral:
    return TdxCollateral(
        answer("tcbInfo", info or tcb_info(), key),
        answer("enclaveIdentity", identity or qe_identity(), key),
        intel().service_chain() if chain is None else chain,
    )


def judge(
    data: bytes | None = None,
    said: TdxCollateral | object | None = DROP,
    *,
    believed: PlatformRoots | None = None,
    references: tuple[Reference, ...] | None = None,
    bound: bytes = BOUND,
    now: int = NOW,
) -> EvidenceAppraisal:
    about = collateral() if said is DROP else said
    assert about is None or isinstance(about, TdxCollateral)
    evidence = TdxEvidence(quote(td_report(DATA)) if data is None else data, about)
    expected = Expected((reference(),) if references is None else references, bound, now)
    return appraise_evidence(evidence, roots=believed or roots(), expected=expected)


def assert_refused(appraisal: EvidenceAppraisal, *reasons: str) -> None:
    assert appraisal.reasons == set(reasons)
    assert appraisal.verdict is None
    with pytest.raises(VerificationError):
        appraisal.accepted()


@pytest.mark.parametrize(("version", "later"), [(4, False), (5, False), (5, True)])
def test_an_honest_quote_is_accepted(version: int, later: bool) -> None:
    accepted = judge(quote(td_report(DATA, later=later), version=version)).accepted()
    assert (accepted.kind, accepted.platform) == ("tdx", "tdx-here")
    assert {value.name for value in accepted.values} == MEASUREMENTS.keys()
    assert any("revoked" in warning for warning in accepted.warnings)


def test_each_step_is_run_once() -> None:
    steps = [step.id for step in judge().steps]
    assert steps == [*(f"T{n}" for n in range(1, 12)), "R1", "R2", "R3"]


def test_without_collateral_nothing_is_accepted_unless_the_policy_says_so() -> None:
    assert_refused(judge(said=None), "T7:collateral-missing")
    lax = roots(requireCollateral=False)
    appraisal = judge(said=None, believed=lax)
    assert any("no collateral was checked" in warning for warning in appraisal.accepted().warnings)
    outcomes = {step.id: step.outcome for step in appraisal.steps}
    assert outcomes["T7"] is outcomes["T8"] is outcomes["T9"] is Outcome.SKIPPED
    # collateral that is there is judged all the same
    assert_refused(judge(said=collateral(tcb_info(fmspc="00" * 6)), believed=lax), "T9:other-platform")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        *[({"attributes": 1 << 28 | 1 << bit}, "T10:debug-allowed") for bit in range(8)],
        ({"attributes": 1 << 29}, "T10:migration-allowed"),
        ({"attributes": 1 << 8}, "T10:attributes-unknown"),
        ({"attributes": 1 << 62}, "T10:attributes-unknown"),
        ({"owners": b"\1" + bytes(143)}, "T11:configuration-present"),
        ({"owners": bytes(48) + b"\1" + bytes(95)}, "T11:configuration-present"),
        ({"owners": bytes(143) + b"\1"}, "T11:configuration-present"),
        *[({name: bytes(48)}, "R2:measurement-mismatch") for name in MEASUREMENTS],
        ({"signer_seam": b"\1" + bytes(47)}, "T9:other-module"),
        ({"seam_attributes": bytes(7) + b"\1"}, "T9:other-module"),
        ({"svns": (4, *TDX_SVNS[1:])}, "T9:tcb-status"),
        ({"svns": (1, *TDX_SVNS[1:])}, "T9:tcb-unknown"),
        ({"svns": (5, 1, 1, *TDX_SVNS[3:])}, "T9:tcb-status"),
        ({"svns": (5, 2, *TDX_SVNS[2:])}, "T9:module-unknown"),
    ],
)
def test_a_signed_quote_about_something_else_is_refused(changes: dict, reason: str) -> None:
    assert_refused(judge(quote(td_report(DATA, **changes))), reason)


def test_a_service_domain_is_refused() -> None:
    report = td_report(DATA, later=True, service=b"\1" * 48)
    assert_refused(judge(quote(report, version=5)), "T11:configuration-present")


@pytest.mark.parametrize("data", [bytes(64), BOUND + bytes(31) + b"\1", bytes(32) + BOUND])
def test_a_quote_for_another_nonce_is_refused(data: bytes) -> None:
    assert_refused(judge(quote(td_report(data))), "R3:binding-mismatch")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "expected version 4 or 5, got 3"),
        ({"version": 6}, "expected version 4 or 5, got 6"),
        ({"key_type": 3}, r"expected an ECDSA key on P-256 \(2\), got type 3"),
        ({"tee": 0}, "expected TEE type 0x81, got 0x0"),
        ({"reserved": 1}, "reserved bytes of the header"),
        ({"version": 5, "kind": 1}, "expected a TD report of 1.0 or 1.5, got type 1"),
        ({"version": 5, "kind": 3}, "expected a TD report of 1.0 or 1.5, got type 3"),
        ({"certification": (5, 5)}, "expected certification data of type 6, got 5"),
        ({"certification": (6, 1)}, "expected certification data of type 5, got 1"),
        ({"chain": b""}, "expected 1 to 8 PEM certificates"),
        ({"chain": b"\xff"}, "expected certificates in PEM"),
        (
            {"chain": b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"},
            "not a PEM certificate",
        ),
    ],
)
def test_a_malformed_quote_is_refused_though_it_is_signed(changes: dict, message: str) -> None:
    data = quote(td_report(DATA), **changes)
    with pytest.raises(FormatError, match=message):
        parse_tdx_quote(data)
    assert_refused(judge(data), "T1:malformed")


def test_text_between_certificates_is_refused() -> None:
    for text in ("x" + intel().chain(), intel().chain() + "\0\0", intel().chain() * 3):
        assert_refused(judge(quote(td_report(DATA), chain=text.encode())), "T1:malformed")


def test_reserved_bytes_of_the_enclaves_report_must_be_zero() -> None:
    good = quote(td_report(DATA))
    start = 48 + 584 + 4 + 64 + 64 + 6
    for offset in (20, 47, 96, 127, 160, 255, 260, 319):
        damaged = bytearray(good)
        damaged[start + offset] ^= 1
        with pytest.raises(FormatError, match="reserved bytes of the quoting enclave's report"):
            parse_tdx_quote(bytes(damaged))


def test_truncation_at_every_offset_and_trailing_bytes_are_refused() -> None:
    for data in (quote(td_report(DATA)), quote(td_report(DATA, later=True), version=5)):
        assert_all_refused(parse_tdx_quote, truncations(data), FormatError)
        assert_refused(judge(data + b"\0"), "T1:malformed")
        assert_refused(judge(data + data), "T1:malformed")
    assert_refused(judge(bytes(MAX_QUOTE + 1)), "T1:malformed")


def test_lengths_inside_a_quote_leave_nothing_over() -> None:
    good = quote(td_report(DATA))
    start, end = 48 + 584, 48 + 584 + 4
    outer = good[end:]
    longer = good[:start] + (len(outer) + 1).to_bytes(4, "little") + outer + b"\0"
    with pytest.raises(FormatError, match="of signature data"):
        parse_tdx_quote(longer)
    at = end + 64 + 64 + 2
    size = int.from_bytes(good[at : at + 4], "little") + 1
    with pytest.raises(FormatError, match="of certification data"):
        parse_tdx_quote(longer[:at] + size.to_bytes(4, "little") + longer[at + 4 :])
    with pytest.raises(FormatError, match="of the quote"):
        parse_tdx_quote(good + b"\0")


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_QUOTE} bytes"):
        parse_tdx_quote(quote(td_report(DATA)).ljust(MAX_QUOTE + 1, b"\0"))
    with pytest.raises(FormatError, match=f"expected at most {MAX_COLLATERAL} bytes"):
        split_signed(answer("tcbInfo", tcb_info()).ljust(MAX_COLLATERAL + 1), "tcbInfo")


def test_zeros_after_a_quote_are_cut_off_and_nothing_else_is() -> None:
    for data in (quote(td_report(DATA)), quote(td_report(DATA, later=True), version=5)):
        assert trim_quote(data) == trim_quote(data + bytes(3000)) == data
        with pytest.raises(FormatError, match="expected only zeros after"):
            trim_quote(data + bytes(10) + b"\1")
        assert_all_refused(trim_quote, truncations(data), FormatError)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])
def test_no_flipped_bit_is_accepted(step: int) -> None:
    good, said, believed = quote(td_report(DATA)), collateral(), roots()
    for damaged in bit_flips(good, step=step):
        appraisal = judge(damaged, said, believed=believed)
        assert appraisal.verdict is None or _says_the_same(damaged, good)
        assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


def _says_the_same(damaged: bytes, good: bytes) -> bool:
    # certificates in PEM can be written in more than one way: white space is not signed
    return parse_tdx_quote(damaged) == parse_tdx_quote(good)


def test_another_quoting_enclave_is_refused() -> None:
    report = td_report(DATA)
    for enclave in ({"signer": bytes(32)}, {"product": 1}):
        assert_refused(
            judge(quote(report, enclave=enclave)), "T5:other-quoting-enclave", "T8:other-quoting-enclave"
        )
    assert_refused(judge(quote(report, vendor=bytes(16))), "T5:other-quoting-enclave")
    debug = {"attributes": b"\x17" + bytes(15)}
    assert_refused(judge(quote(report, enclave=debug)), "T5:debug-enclave", "T8:other-quoting-enclave")
    assert_refused(judge(quote(report, enclave={"misc": 1})), "T8:other-quoting-enclave")
    assert_refused(judge(quote(report, enclave={"svn": 5})), "T8:tcb-status")
    assert_refused(judge(quote(report, enclave={"svn": 3})), "T8:tcb-unknown")


def test_an_attestation_key_that_the_enclave_does_not_vouch_for_is_refused() -> None:
    assert_refused(judge(quote(td_report(DATA), bound=bytes(64))), "T5:key-not-bound")
    tail = hashlib.sha256(point(intel().attestation_key) + bytes(range(32))).digest() + bytes(31) + b"\1"
    assert_refused(judge(quote(td_report(DATA), bound=tail)), "T5:key-not-bound")
    other = point(ec.generate_private_key(ec.SECP256R1()))
    assert_refused(judge(quote(td_report(DATA), attestation_key=other)), "T6:signature-mismatch")
    assert_refused(judge(quote(td_report(DATA), attestation_key=bytes(64))), "T6:key-off-curve")


def test_an_enclaves_report_that_the_platform_did_not_sign_is_refused() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    leaf = intel().platform_authority.issue("Intel SGX PCK Certificate", stranger, [sgx_extension()])
    data = quote(td_report(DATA), chain=intel().chain(leaf).encode())
    assert_refused(judge(data), "T4:signature-mismatch")
    for key in OTHER_KEYS:
        leaf = intel().platform_authority.issue("Intel SGX PCK Certificate", key, [sgx_extension()])
        assert_refused(judge(quote(td_report(DATA), chain=intel().chain(leaf).encode())), "T4:key-type")


def test_a_root_that_is_not_pinned_is_refused() -> None:
    stranger = make_root("Intel SGX Root CA", ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    believed = roots(stranger.pem)
    assert_refused(judge(believed=believed), "T2:certificate-root", "T7:certificate-root")
    assert_refused(
        judge(believed=PlatformRoots(None, None, None)), "T2:certificate-root", "T7:certificate-root"
    )
    authority = stranger.below("Intel SGX PCK Platform CA")
    leaf = authority.issue("Intel SGX PCK Certificate", intel().platform_key.public_key(), [sgx_extension()])
    chain = (pem_of(leaf) + authority.pem + intel().root.pem).encode()
    assert_refused(judge(quote(td_report(DATA), chain=chain)), "T2:certificate-signature")
    only_root = intel().root.pem.encode()
    appraisal = judge(quote(td_report(DATA), chain=only_root))
    assert "T2:certificate-root" in appraisal.reasons


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (MADE, MADE + timedelta(days=1), "T2:certificate-expired"),
        (MADE + YEARS, MADE + 2 * YEARS, "T2:certificate-not-yet-valid"),
    ],
)
def test_a_platforms_certificate_outside_its_time_is_refused(begin, end, reason: str) -> None:
    leaf = intel().platform_certificate(begin=begin, end=end)
    assert_refused(judge(quote(td_report(DATA), chain=intel().chain(leaf).encode())), reason)


@pytest.mark.parametrize(
    "extension",
    [
        ("1.2.3.4", b"\x05\0"),
        *[sgx_extension(left_out=arc) for arc in (".2", ".3", ".4", ".2.1", ".2.16", ".2.17", ".2.18")],
        sgx_extension(fmspc=bytes(5)),
        sgx_extension(pce_id=bytes(3)),
        sgx_extension(pce_svn=1 << 16),
        sgx_extension(more=pair(".4", tlv(4, bytes(6)))),
        sgx_extension(more=tlv(0x30, b"")),
    ],
)
def test_a_platforms_certificate_that_is_not_the_profile_is_refused(extension: tuple[str, bytes]) -> None:
    leaf = intel().platform_certificate(extension)
    data = quote(td_report(DATA), chain=intel().chain(leaf).encode())
    assert_refused(judge(data), "T3:certificate-profile")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"svns": (2, *SGX_SVNS[1:])}, "T9:tcb-unknown"),
        ({"pce_svn": 10}, "T9:tcb-status"),
        ({"pce_svn": 4}, "T9:tcb-unknown"),
        ({"fmspc": bytes(6)}, "T9:other-platform"),
        ({"pce_id": b"\1\0"}, "T9:other-platform"),
    ],
)
def test_a_platform_that_intel_does_not_stand_by_is_refused(changes: dict, reason: str) -> None:
    leaf = intel().platform_certificate(sgx_extension(**changes))
    assert_refused(judge(quote(td_report(DATA), chain=intel().chain(leaf).encode())), reason)


@pytest.mark.parametrize("status", ["OutOfDate", "SWHardeningNeeded", "ConfigurationNeeded", "Revoked"])
def test_the_status_must_be_an_accepted_one(status: str) -> None:
    stated = collateral(tcb_info(tcbLevels=[level(status)]))
    assert_refused(judge(said=stated), "T9:tcb-status")
    enclave = collateral(identity=qe_identity(tcbLevels=[svn_level(6, status)]))
    assert_refused(judge(said=enclave), "T8:tcb-status")
    newer = module(id="TDX_01", tcbLevels=[svn_level(5, status)])
    assert_refused(judge(said=collateral(tcb_info(tdxModuleIdentities=[newer]))), "T9:tcb-status")
    if status != "Revoked":
        believed = roots(acceptedTcbStatus=["UpToDate", status])
        assert judge(said=stated, believed=believed).accepted()


def test_a_module_without_an_identity_of_its_own_is_judged_by_the_platforms_levels() -> None:
    old = (5, 0, *TDX_SVNS[2:])
    info = tcb_info(tcbLevels=[level(tdx=old)])
    del info["tdxModuleIdentities"]
    assert judge(quote(td_report(DATA, svns=old)), collateral(info)).accepted()
    older = (4, 0, *TDX_SVNS[2:])
    assert_refused(judge(quote(td_report(DATA, svns=older)), collateral(info)), "T9:tcb-unknown")
    assert_refused(judge(said=collateral(info)), "T9:module-unknown")
    assert_refused(judge(said=collateral(tcb_info(tdxModule=module(mrsigner="11" * 48)))), "T9:other-module")
    signed_by_other = module(id="TDX_01", mrsigner="11" * 48, tcbLevels=[svn_level(1)])
    assert_refused(judge(said=collateral(tcb_info(tdxModuleIdentities=[signed_by_other]))), "T9:other-module")


def test_collateral_counts_only_in_its_time() -> None:
    begin, end = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp()) for month in (9, 10))
    assert judge(now=begin).accepted()
    assert judge(now=end - 1).accepted()
    assert_refused(judge(now=begin - 1), "T7:collateral-not-yet-valid")
    assert_refused(judge(now=end), "T7:collateral-expired")
    stale = qe_identity(nextUpdate="2026-09-02T00:00:00Z")
    assert_refused(judge(said=collateral(identity=stale)), "T7:collateral-expired")
    early = qe_identity(issueDate="2026-09-30T00:00:00Z")
    assert_refused(judge(said=collateral(identity=early)), "T7:collateral-not-yet-valid")


def test_collateral_that_intel_did_not_sign_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    assert_refused(judge(said=collateral(key=other)), "T7:signature-mismatch")
    good = collateral()
    changed = good.tcb_info.replace(b'"tcbType":0', b'"tcbType": 0')
    assert_refused(
        judge(said=TdxCollateral(changed, good.qe_identity, good.issuer_chain)), "T7:signature-mismatch"
    )
    # a platform's own key leads to the same root, and must not speak for Intel
    platform = TdxCollateral(
        answer("tcbInfo", tcb_info(), intel().platform_key),
        answer("enclaveIdentity", qe_identity(), intel().platform_key),
        intel().chain().encode(),
    )
    assert_refused(judge(said=platform), "T7:other-signer")
    disguised = intel().service_chain("Intel SGX TCB Signing", sgx_extension())
    assert_refused(judge(said=collateral(chain=disguised)), "T7:other-signer")
    assert_refused(judge(said=collateral(chain=intel().service_chain("somebody"))), "T7:other-signer")


def test_a_signers_chain_that_is_not_one_is_refused() -> None:
    for chain in (b"", b"\xff", intel().service_chain() + b"x"):
        assert_refused(judge(said=collateral(chain=chain)), "T7:certificate-malformed")
    assert_refused(judge(said=collateral(chain=intel().root.pem.encode())), "T7:certificate-root")
    late = intel().service_chain(end=MADE + timedelta(days=1))
    assert_refused(judge(said=collateral(chain=late)), "T7:certificate-expired")
    for key in OTHER_KEYS:
        leaf = pem_of(intel().root.issue("Intel SGX TCB Signing", key, []))
        assert_refused(judge(said=collateral(chain=(leaf + intel().root.pem).encode())), "T7:key-type")
    weak = intel().root.below("Intel SGX TCB Signing", intel().service_key, Rules(is_authority=True))
    chain = (weak.pem + intel().root.pem).encode()
    assert_refused(judge(said=collateral(chain=chain)), "T7:certificate-authority")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "SGX"},
        {"version": 2},
        {"tcbType": 1},
        {"fmspc": "00"},
        {"more": 1},
        {"issueDate": "2026-09-01"},
        {"nextUpdate": "2026-10-01T00:00:00+00:00"},
        {"tcbLevels": []},
        {"tcbLevels": [level() | {"tcbStatus": "Fine"}]},
        {"tcbLevels": [level() | {"advisoryIDs": [1]}]},
        {"tcbLevels": [level() | {"advisoryIDs": ["INTEL-SA-0"] * 65}]},
        {"tcbLevels": [level(tdx=TDX_SVNS[1:])]},
        {"tcbLevels": [level(sgx=(256, *SGX_SVNS[1:]))]},
        {"tdxModule": module(attributes="00")},
        {"tdxModule": {}},
        {"tdxModuleIdentities": [module(id="TDX_1", tcbLevels=[svn_level(5)])]},
        {"tdxModuleIdentities": [module(id="TDX_01", tcbLevels=[svn_level(5)])] * 2},
    ],
)
def test_a_malformed_statement_of_intels_is_refused_though_it_is_signed(changes: dict) -> None:
    assert_refused(judge(said=collateral(tcb_info(**changes))), "T7:collateral-malformed")


@pytest.mark.parametrize(
    "changes",
    [{"id": "QE"}, {"version": 1}, {"mrsigner": "00"}, {"isvprodid": -1}, {"tcbLevels": []}, {"x": 1}],
)
def test_a_malformed_identity_is_refused_though_it_is_signed(changes: dict) -> None:
    assert_refused(judge(said=collateral(identity=qe_identity(**changes))), "T7:collateral-malformed")


def test_one_answer_is_not_taken_for_the_other_and_has_nothing_around_it() -> None:
    good = collateral()
    pairs = [
        (good.qe_identity, good.qe_identity),
        (b" " + good.tcb_info, good.qe_identity),
        (good.tcb_info[:-1], good.qe_identity),
        (good.tcb_info + b"x", good.qe_identity),
        (good.tcb_info.replace(b'","', b'" ,"'), good.qe_identity),
        (good.tcb_info[:-2] + b'","a":"b"}', good.qe_identity),
        (b"", good.qe_identity),
    ]
    for info, identity in pairs:
        reasons = judge(said=TdxCollateral(info, identity, good.issuer_chain)).reasons
        assert reasons in ({"T7:collateral-malformed"}, {"T7:signature-mismatch"})


def test_reference_values_that_say_too_little_are_refused() -> None:
    for name in ("MRTD", "RTMR1", "RTMR2"):
        loose = reference().values | {name: Unconstrained("any")}
        assert_refused(judge(references=(Reference("x", "tdx", loose),)), "R1:reference-incomplete")
    without = {name: rule for name, rule in reference().values.items() if name != "RTMR3"}
    assert_refused(judge(references=(Reference("x", "tdx", without),)), "R1:reference-incomplete")
    open_ends = reference().values | dict.fromkeys(("RTMR0", "RTMR3"), Unconstrained("the host's"))
    assert judge(references=(Reference("x", "tdx", open_ends),)).accepted()


def test_migration_is_the_policys() -> None:
    report = td_report(DATA, attributes=1 << 29)
    assert judge(quote(report), believed=roots(allowMigration=True)).accepted()


@pytest.mark.parametrize("signature", [b"", bytes(64), b"\xff" * 64, bytes(63), b"\1" * 65])
def test_odd_signatures_are_nobodys(signature: bytes) -> None:
    assert not verify_p256(intel().service_key.public_key(), signature, b"data")
