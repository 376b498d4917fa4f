"""SEV-SNP reports: an honest one is accepted, each lie is refused by its own step and reason.

Reports and certificates are made by tests/fakes/snp_machine.py, which shares no code with the parsers;
reports of real processors are judged in tests/vectors/test_platform_samples.py.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, VerificationError
from blindbuild.formats.snp_report import TcbVersion, parse_snp_report, read_tcb
from blindbuild.manifest.platform_roots import PlatformRoots, parse_platform_roots
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.verify.checklist import Outcome
from blindbuild.verify.evidence import AcceptedEvidence, EvidenceAppraisal, Expected, Reference
from blindbuild.verify.platform_evidence import appraise_evidence
from blindbuild.verify.snp import SnpEvidence
from tests.fakes.authorities import MADE, YEARS, Rules, make_root
from tests.fakes.damage import assert_all_refused, bit_flips, truncations
from tests.fakes.published import NOW
from tests.fakes.snp_machine import (
    CHIP,
    MEASUREMENT,
    SIGNED,
    SIZE,
    SnpMachine,
    Versions,
    chip_key,
    endorsement_extensions,
    integer,
    maker,
    roots_file,
    sign_report,
    snp_product,
)

BOUND = bytes(range(32))
DATA = BOUND + bytes(32)
MACHINE = SnpMachine()
TURIN = SnpMachine(
    product="Turin",
    version=5,
    cpu=b"\x1a\x02\x01",
    versions=Versions(fmc=1),
    chip=b"\x1e\x55\x0a\x8e\xe5\xcf\x9f\x4d",
)
GENOA = SnpMachine(product="Genoa", cpu=b"\x19\x11\x02")


def reference(*values: bytes) -> Reference:
    digests = tuple(Digest(HashAlgorithm.SHA384, value) for value in values or (MEASUREMENT,))
    return Reference("snp-here", "sev-snp", {"LAUNCH_DIGEST": OneOf(digests, "")})


def roots(*products: str, **settings) -> PlatformRoots:
    listed = [snp_product(product) for product in products or ("Milan", "Genoa", "Turin")]
    return parse_platform_roots(roots_file(sevSnp={"products": listed} | settings))


def judge(
    report: bytes | None = None,
    certificate: bytes | None = None,
    *,
    machine: SnpMachine = MACHINE,
    believed: PlatformRoots | None = None,
    references: tuple[Reference, ...] | None = None,
    bound: bytes = BOUND,
    now: int = NOW,
) -> EvidenceAppraisal:
    evidence = SnpEvidence(
        machine.report(DATA) if report is None else report,
        machine.certificate() if certificate is None else certificate,
    )
    expected = Expected((reference(),) if references is None else references, bound, now)
    return appraise_evidence(evidence, roots=believed or roots(), expected=expected)


def assert_refused(appraisal: EvidenceAppraisal, *reasons: str) -> None:
    """Check that these steps failed, and no others."""
    assert appraisal.reasons == set(reasons)
    assert appraisal.verdict is None
    with pytest.raises(VerificationError) as caught:
        appraisal.accepted()
    assert f"{caught.value.step}:{caught.value.reason}" in reasons


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE,
        MACHINE.but(version=2),
        MACHINE.but(loaded=True),
        GENOA,
        GENOA.but(cpu=b"\x19\xa1\x02"),
        TURIN,
        TURIN.but(loaded=True),
    ],
    ids=["Milan", "version 2", "VLEK", "Genoa", "Bergamo", "Turin, version 5", "Turin with a VLEK"],
)
def test_an_honest_report_is_accepted(machine: SnpMachine) -> None:
    appraisal = judge(machine=machine)
    assert appraisal.reasons == set()
    accepted = appraisal.accepted()
    assert (accepted.kind, accepted.platform) == ("sev-snp", "snp-here")
    assert [(value.name, value.matches) for value in accepted.values] == [("LAUNCH_DIGEST", True)]
    assert any("never seen on our hardware" in warning for warning in accepted.warnings)


def test_each_step_is_run_once_and_in_order() -> None:
    steps = [step.id for step in judge().steps]
    assert steps == ["S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8", "R1", "R2", "R3"]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"policy": 0x20000 | 1 << 19}, "S7:debug-allowed"),
        ({"policy": 0x20000 | 1 << 18}, "S7:migration-allowed"),
        ({"policy": 0x20000 | 1 << 16}, "S7:smt-allowed"),
        ({"vmpl": 1}, "S8:vmpl-too-high"),
        ({"vmpl": 0xFFFFFFFF}, "S8:host-requested"),
        ({"measurement": bytes(48)}, "R2:measurement-mismatch"),
        ({"report_data": bytes(64)}, "R3:binding-mismatch"),
        ({"report_data": BOUND + bytes(31) + b"\1"}, "R3:binding-mismatch"),
        ({"report_data": bytes(32) + BOUND}, "R3:binding-mismatch"),
        ({"current_tcb": Versions(snp=23).packed()}, "S6:tcb-too-low"),
        ({"committed_tcb": Versions(microcode=218).packed()}, "S6:tcb-too-low"),
        ({"launch_tcb": Versions(bootloader=3).packed()}, "S6:tcb-too-low"),
        ({"launch_tcb": Versions(tee=0).packed()}, "S6:tcb-too-low"),
        ({"chip_id": bytes(64)}, "S5:chip-mismatch"),
        ({"chip_id": CHIP[:-1] + b"\0"}, "S5:chip-mismatch"),
        ({"reported_tcb": Versions(microcode=220).packed()}, "S5:tcb-mismatch"),
        ({"cpu": b"\x19\x11\x01"}, "S5:other-product"),
        ({"cpu": b"\x1a\x02\x01"}, "S5:other-product"),
        ({"cpu": b"\x19\x20\x01"}, "S5:other-product"),
        ({"key_info": 1 << 2}, "S4:other-key-kind"),
    ],
)
def test_a_signed_report_about_something_else_is_refused(fields: dict, reason: str) -> None:
    assert_refused(
        judge(MACHINE.report(DATA) if not fields else MACHINE.report(**{"report_data": DATA} | fields)),
        reason,
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 0}, "expected version 2, 3, 5, got 0"),
        ({"version": 1}, "expected version 2, 3, 5, got 1"),
        ({"version": 4}, "expected version 2, 3, 5, got 4"),
        ({"version": 6}, "expected version 2, 3, 5, got 6"),
        ({"signature_algorithm": 0}, "expected signature algorithm 1, got 0"),
        ({"signature_algorithm": 2}, "expected signature algorithm 1, got 2"),
        ({"policy": 0}, "expected bit 17 of the guest policy to be one"),
        ({"policy": 0x20000 | 1 << 26}, "expected a guest policy of 25 bits"),
        ({"policy": 0x20000 | 1 << 25}, "expected a guest policy of 25 bits"),
        ({"policy": 0x20000 | 1 << 63}, "expected a guest policy of 25 bits"),
        ({"platform_info": 1 << 6}, "expected platform information within 0x3f"),
        ({"platform_info": 1 << 7}, "expected platform information within 0x3f"),
        ({"platform_info": 1 << 63}, "expected platform information within 0x3f"),
        ({"vmpl": 4}, "expected VMPL 0 to 3, got 4"),
        ({"key_info": 1 << 5}, "expected five bits about the signing key"),
        ({"key_info": 2 << 2}, "expected a signature by VCEK or VLEK, got key 2"),
        ({"key_info": 7 << 2}, "expected a signature by VCEK or VLEK, got key 7"),
        ({"author_key_digest": b"\1" * 48}, "expected no author key where none is enabled"),
        ({"mitigations": b"\1" + bytes(15)}, "reserved bytes from 0x1f8"),
    ],
)
def test_a_report_with_reserved_values_is_refused_though_it_is_signed(fields: dict, message: str) -> None:
    report = MACHINE.report(DATA, **fields)
    with pytest.raises(FormatError, match=message):
        parse_snp_report(report)
    assert_refused(judge(report), "S1:malformed")


def test_what_version_5_adds_is_read_there_and_nowhere_else() -> None:
    fields = {"policy": 0x20000 | 1 << 25, "platform_info": 0xE0, "mitigations": b"\1" * 16}
    assert judge(TURIN.report(DATA, **fields), machine=TURIN).accepted()
    with pytest.raises(FormatError, match="guest policy of 26 bits"):
        parse_snp_report(TURIN.report(DATA, policy=0x20000 | 1 << 26))
    with pytest.raises(FormatError, match="within 0xff"):
        parse_snp_report(TURIN.report(DATA, platform_info=1 << 8))
    with pytest.raises(FormatError, match="within 0x1f"):
        parse_snp_report(MACHINE.but(version=2).report(DATA, platform_info=1 << 5))


RESERVED = {
    "after the key bits": (3, range(0x4C, 0x50), "0x4c"),
    "before the chip, version 2": (2, range(0x188, 0x1A0), "0x188"),
    "before the chip, version 3": (3, range(0x18B, 0x1A0), "0x18b"),
    "after the current version": (3, range(0x1EB, 0x1EC), "0x1eb"),
    "after the committed version": (3, range(0x1EF, 0x1F0), "0x1ef"),
    "before the signature, version 2": (2, range(0x1F8, 0x2A0), "0x1f8"),
    "before the signature, version 3": (3, range(0x1F8, 0x2A0), "0x1f8"),
    "before the signature, version 5": (5, range(0x208, 0x2A0), "0x208"),
    "after the signature": (3, range(0x330, SIZE), "0x330"),
}


@pytest.mark.parametrize("case", RESERVED)
def test_every_reserved_byte_must_be_zero(case: str) -> None:
    version, offsets, where = RESERVED[case]
    machine = TURIN if version == 5 else MACHINE.but(version=version)
    for offset in offsets:
        report = bytearray(machine.report(DATA))
        report[offset] ^= 0x80
        with pytest.raises(FormatError, match=rf"expected zeros in the reserved bytes from {where}$"):
            parse_snp_report(bytes(report))


def test_a_report_has_1184_bytes() -> None:
    for data in (MACHINE.report(DATA) + b"\0", MACHINE.report(DATA)[:-1]):
        with pytest.raises(FormatError, match="expected 1184 bytes"):
            parse_snp_report(data)


def test_the_numbers_of_the_signature_have_48_bytes() -> None:
    for offset in (SIGNED + 48, SIGNED + 71, SIGNED + 72 + 48, SIGNED + 143):
        report = bytearray(MACHINE.report(DATA))
        report[offset] = 1
        with pytest.raises(FormatError, match="expected numbers of 48 bytes"):
            parse_snp_report(bytes(report))


@pytest.mark.parametrize("number", [0, 1, (1 << 384) - 1])
def test_signatures_of_odd_numbers_are_refused(number: int) -> None:
    report = MACHINE.report(DATA)
    for at in (SIGNED, SIGNED + 72):
        odd = report[:at] + number.to_bytes(48, "little") + report[at + 48 :]
        assert_refused(judge(odd), "S4:signature-mismatch")


def test_another_chips_signature_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    certificate = maker().issuer.issue("SEV-VCEK", other, endorsement_extensions())
    assert_refused(judge(certificate=certificate), "S4:signature-mismatch")


def test_truncation_at_every_offset_and_trailing_bytes_are_refused() -> None:
    report = MACHINE.report(DATA)
    assert_all_refused(parse_snp_report, truncations(report), FormatError)
    assert_refused(judge(report + b"\0"), "S1:malformed")
    assert_refused(judge(report + report), "S1:malformed")
    assert_refused(judge(b""), "S1:malformed")


def test_no_flipped_bit_is_accepted() -> None:
    report, certificate, believed = MACHINE.report(DATA), MACHINE.certificate(), roots()
    for damaged in bit_flips(report):
        appraisal = judge(damaged, certificate, believed=believed)
        assert appraisal.verdict is None
        assert appraisal.reasons & {"S1:malformed", "S4:signature-mismatch", "S4:other-key-kind"}
        assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


@pytest.mark.full
def test_no_single_bit_of_a_report_can_be_flipped() -> None:
    report, certificate, believed = MACHINE.report(DATA), MACHINE.certificate(), roots()
    for bit in range(8 * SIZE):
        damaged = bytearray(report)
        damaged[bit // 8] ^= 1 << bit % 8
        assert judge(bytes(damaged), certificate, believed=believed).verdict is None


def test_no_damaged_certificate_is_accepted() -> None:
    report, certificate, believed = MACHINE.report(DATA), MACHINE.certificate(), roots()
    for damaged in (*truncations(certificate, step=7), *bit_flips(certificate), certificate + b"\0"):
        appraisal = judge(report, damaged, believed=believed)
        assert appraisal.verdict is None
        assert any(reason.startswith(("S2:", "S3:")) for reason in appraisal.reasons)
        assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


def test_two_certificates_are_refused() -> None:
    assert_refused(judge(certificate=MACHINE.certificate() * 2), "S2:certificate-malformed")


@pytest.mark.parametrize(
    ("extensions", "message"),
    [
        ([("1.3.6.1.4.1.3704.1.5", b"\x16\x01a")], "either a chip or a provider"),
        ([("1.3.6.1.4.1.3704.1.6", b"\x05\0")], "unknown extension 1.3.6.1.4.1.3704.1.6"),
    ],
)
def test_a_certificate_with_more_than_one_meaning_is_refused(extensions: list, message: str) -> None:
    key = chip_key().public_key()
    certificate = maker().issuer.issue("SEV-VCEK", key, endorsement_extensions() + extensions)
    appraisal = judge(certificate=certificate)
    assert_refused(appraisal, "S2:certificate-malformed")
    assert message in next(step.detail for step in appraisal.steps if step.id == "S2")


@pytest.mark.parametrize(
    ("arc", "value"),
    [
        ("3.1", None),
        ("3.2", None),
        ("3.3", None),
        ("3.8", None),
        ("1", None),
        ("2", None),
        ("4", None),
        ("4", CHIP[:63]),
        ("1", b"\x02\x01\1"),
        ("1", b"\x02\x01\2"),
        ("3.1", b"\x02\x02\0\x04"),
        ("3.1", b"\x02\x02\1\0"),
        ("3.1", b"\x02\x01\xff"),
        ("3.1", b"\x02\x01\4\0"),
        ("3.1", b"\x04\x01\4"),
        ("3.4", b"\x02\x01\1"),
        ("2", b"\x0c\x05Milan"),
        ("2", b"\x16\0"),
        ("2", b"\x16\x05Mil\xe1n"),
    ],
)
def test_a_certificate_whose_extensions_are_not_the_profile_is_refused(arc: str, value: bytes | None) -> None:
    oid = f"1.3.6.1.4.1.3704.1.{arc}"
    extensions = [(each, content) for each, content in endorsement_extensions() if each != oid]
    extensions += [] if value is None else [(oid, value)]
    certificate = maker().issuer.issue("SEV-VCEK", chip_key().public_key(), extensions)
    assert_refused(judge(certificate=certificate), "S2:certificate-malformed")


def test_a_certificate_over_a_key_of_another_kind_is_refused() -> None:
    for key in (ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)):
        certificate = maker().issuer.issue("SEV-VCEK", key.public_key(), endorsement_extensions())
        assert_refused(judge(certificate=certificate), "S2:certificate-malformed")


def test_a_certificate_for_another_firmware_or_chip_is_refused() -> None:
    certificate = MACHINE.certificate(versions=Versions(snp=25))
    assert_refused(judge(certificate=certificate), "S5:tcb-mismatch")
    certificate = MACHINE.certificate(versions=Versions(fmc=0))
    assert_refused(judge(certificate=certificate), "S5:tcb-mismatch")
    certificate = MACHINE.certificate(chip=CHIP[::-1])
    assert_refused(judge(certificate=certificate), "S5:chip-mismatch")


def test_a_vlek_is_not_taken_for_a_vcek() -> None:
    loaded = MACHINE.but(loaded=True).certificate()
    assert_refused(judge(certificate=loaded), "S4:other-key-kind")


def test_a_product_line_whose_root_is_not_pinned_is_refused() -> None:
    assert_refused(judge(believed=roots("Genoa")), "S3:other-product")
    nobody = PlatformRoots(None, None, None)
    assert_refused(judge(believed=nobody), "S3:other-product")


def test_a_kind_of_key_whose_issuer_is_not_pinned_is_refused() -> None:
    product = snp_product()
    del product["vlekIssuer"]
    believed = parse_platform_roots(roots_file(sevSnp={"products": [product]}))
    assert judge(believed=believed).accepted()
    assert_refused(judge(machine=MACHINE.but(loaded=True), believed=believed), "S3:other-key-kind")


def test_a_certificate_that_names_another_product_than_its_issuers_is_refused() -> None:
    # Milan's issuer, but a certificate that says it is a Genoa: its path does not lead to Genoa's root
    appraisal = judge(certificate=MACHINE.certificate(product="Genoa"))
    assert_refused(appraisal, "S3:certificate-issuer")


def test_authorities_of_the_same_names_but_other_keys_are_refused() -> None:
    root = make_root("ARK-Milan", rsa.generate_private_key(65537, 2048), hashes.SHA384())
    issuer = root.below("SEV-Milan")
    forged = issuer.issue("SEV-VCEK", chip_key().public_key(), endorsement_extensions())
    assert_refused(judge(certificate=forged), "S3:certificate-signature")
    other_root = snp_product(root=root.pem)
    believed = parse_platform_roots(roots_file(sevSnp={"products": [other_root]}))
    assert_refused(judge(believed=believed), "S3:certificate-signature")


def test_a_self_signed_certificate_is_refused() -> None:
    stray = make_root("SEV-Milan", chip_key(), hashes.SHA384())
    certificate = stray.issue("SEV-Milan", chip_key().public_key(), endorsement_extensions())
    assert_refused(judge(certificate=certificate), "S3:certificate-signature")


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        (Rules(is_authority=False), "S3:certificate-authority"),
        (Rules(key_cert_sign=False), "S3:certificate-authority"),
        (Rules(end=MADE + timedelta(days=1)), "S3:certificate-expired"),
        (Rules(begin=MADE + YEARS, end=MADE + 2 * YEARS), "S3:certificate-not-yet-valid"),
        (Rules(critical="2.5.29.30.1"), "S3:certificate-extension"),
    ],
)
def test_an_issuer_that_may_not_issue_is_refused(rules: Rules, reason: str) -> None:
    issuer = maker().root.below("SEV-Milan", rules=rules)
    certificate = issuer.issue("SEV-VCEK", chip_key().public_key(), endorsement_extensions())
    believed = parse_platform_roots(roots_file(sevSnp={"products": [snp_product(vcekIssuer=issuer.pem)]}))
    assert_refused(judge(certificate=certificate, believed=believed), reason)


def test_a_root_that_allows_no_issuer_below_it_is_refused() -> None:
    root = make_root(
        "ARK-Milan", rsa.generate_private_key(65537, 2048), hashes.SHA384(), Rules(path_length=0)
    )
    issuer = root.below("SEV-Milan")
    certificate = issuer.issue("SEV-VCEK", chip_key().public_key(), endorsement_extensions())
    pinned = snp_product(root=root.pem, vcekIssuer=issuer.pem)
    believed = parse_platform_roots(roots_file(sevSnp={"products": [pinned]}))
    assert_refused(judge(certificate=certificate, believed=believed), "S3:certificate-authority")


def test_an_authoritys_certificate_is_no_signing_keys() -> None:
    certificate = maker().issuer.issue(
        "SEV-VCEK", chip_key().public_key(), endorsement_extensions(), is_authority=True
    )
    assert_refused(judge(certificate=certificate), "S3:certificate-authority")


def test_a_signature_with_a_short_hash_on_a_certificate_is_refused() -> None:
    weak = dataclasses.replace(maker().issuer, hash_function=hashes.SHA224())
    certificate = weak.issue("SEV-VCEK", chip_key().public_key(), endorsement_extensions())
    assert_refused(judge(certificate=certificate), "S3:certificate-signature")


def test_the_time_is_the_callers() -> None:
    begin, end = int(MADE.timestamp()), int((MADE + YEARS).timestamp())
    certificate = MACHINE.certificate()
    assert judge(certificate=certificate, now=begin).accepted()
    assert judge(certificate=certificate, now=end).accepted()
    assert_refused(judge(certificate=certificate, now=begin - 1), "S3:certificate-not-yet-valid")
    assert_refused(judge(certificate=certificate, now=end + 1), "S3:certificate-expired")


@pytest.mark.parametrize("part", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_every_part_of_the_firmware_must_be_new_enough(part: str) -> None:
    lowest = {"bootloader": 4, "tee": 1, "snp": 24, "microcode": 219, "fmc": 1}
    product = snp_product("Turin", minimum=lowest | {part: lowest[part] + 1})
    believed = parse_platform_roots(roots_file(sevSnp={"products": [product]}))
    assert_refused(judge(machine=TURIN, believed=believed), "S6:tcb-too-low")


def test_reserved_bytes_of_a_tcb_must_be_zero() -> None:
    tcb = Versions().packed()
    assert read_tcb(tcb, with_fmc=False) == TcbVersion(4, 1, 24, 219)
    for offset in range(2, 6):
        odd = tcb[:offset] + b"\1" + tcb[offset + 1 :]
        assert_refused(judge(MACHINE.report(DATA, launch_tcb=odd)), "S6:malformed")
    for offset in range(4, 7):
        tcb = Versions(fmc=1).packed()
        with pytest.raises(FormatError, match="expected zeros"):
            read_tcb(tcb[:offset] + b"\1" + tcb[offset + 1 :], with_fmc=True)
    with pytest.raises(FormatError, match="expected 8 bytes"):
        read_tcb(tcb[:7], with_fmc=True)


def test_what_a_policy_allows_is_allowed_and_nothing_else() -> None:
    shared, moved = MACHINE.report(DATA, policy=0x30000), MACHINE.report(DATA, policy=0x60000)
    second = MACHINE.report(DATA, vmpl=2)
    assert judge(shared, believed=roots(allowSmt=True)).accepted()
    assert_refused(judge(moved, believed=roots(allowSmt=True)), "S7:migration-allowed")
    assert judge(moved, believed=roots(allowMigrationAgent=True)).accepted()
    assert judge(second, believed=roots(maximumVmpl=2)).accepted()
    assert_refused(judge(second, believed=roots(maximumVmpl=1)), "S8:vmpl-too-high")
    everything = roots(allowSmt=True, allowMigrationAgent=True, maximumVmpl=3)
    assert_refused(judge(MACHINE.report(DATA, policy=0xF0000), believed=everything), "S7:debug-allowed")
    assert_refused(judge(MACHINE.report(DATA, vmpl=0xFFFFFFFF), believed=everything), "S8:host-requested")


def test_a_report_that_shows_no_alias_check_is_accepted_with_a_warning() -> None:
    silent = judge(MACHINE.report(DATA, platform_info=1)).accepted()
    assert any("BadRAM" in warning for warning in silent.warnings)
    assert not any("BadRAM" in warning for warning in judge().accepted().warnings)


def test_reference_values_that_say_too_little_are_refused() -> None:
    assert_refused(judge(references=()), "R1:reference-missing")
    other = dataclasses.replace(reference(), kind="tdx")
    assert_refused(judge(references=(other,)), "R1:reference-missing")
    for values in (
        {},
        {"LAUNCH_DIGEST": Unconstrained("any")},
        reference().values | {"MORE": Unconstrained("x")},
    ):
        assert_refused(judge(references=(Reference("x", "sev-snp", values),)), "R1:reference-incomplete")


def test_the_reference_that_fits_is_found_among_several() -> None:
    others = [dataclasses.replace(reference(bytes(48)), identifier=f"a{n}") for n in range(3)]
    assert judge(references=(*others, reference())).accepted().platform == "snp-here"
    assert_refused(judge(references=tuple(others)), "R2:measurement-mismatch")
    assert judge(references=(reference(bytes(48), MEASUREMENT),)).accepted()


@pytest.mark.parametrize("bound", [b"", bytes(31), bytes(33), DATA])
def test_a_binding_of_another_length_binds_nothing(bound: bytes) -> None:
    report = MACHINE.report(bound[:64].ljust(64, b"\0"))
    assert_refused(judge(report, bound=bound), "R3:binding-malformed")


def test_all_lies_are_reported_not_only_the_first() -> None:
    report = MACHINE.report(bytes(64), policy=0xA0000, vmpl=1, measurement=bytes(48))
    assert_refused(
        judge(report),
        "S7:debug-allowed",
        "S8:vmpl-too-high",
        "R2:measurement-mismatch",
        "R3:binding-mismatch",
    )


def test_accepted_evidence_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"appraise_evidence\(\)"):
        AcceptedEvidence("sev-snp", "x", (), (), object())


def test_an_appraisal_without_a_verdict_and_without_a_failure_is_refused() -> None:
    with pytest.raises(VerificationError, match="not every step was reached") as caught:
        dataclasses.replace(judge(), verdict=None).accepted()
    assert (caught.value.step, caught.value.reason) == ("C7", "incomplete")


def test_what_was_not_reached_is_marked_and_refused() -> None:
    appraisal = judge(b"", b"")
    outcomes = {step.id: step.outcome for step in appraisal.steps}
    assert outcomes["S1"] is outcomes["S2"] is Outcome.FAILED
    assert outcomes["S4"] is outcomes["R2"] is outcomes["R3"] is Outcome.SKIPPED
    assert set(outcomes) == {step.id for step in judge().steps}


def test_a_report_signed_again_after_a_change_is_judged_as_changed() -> None:
    changed = bytearray(MACHINE.report(DATA))
    changed[0x90] ^= 1
    assert_refused(judge(sign_report(bytes(changed))), "R2:measurement-mismatch")
    assert integer(200) == b"\x02\x02\x00\xc8"
