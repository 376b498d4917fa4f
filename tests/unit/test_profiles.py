"""Cloud profiles: every register is classified, and a firmware's quirks move events and not meanings."""

from __future__ import annotations

import dataclasses
from uuid import UUID

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.certificate import parse_pem_certificate
from blindbuild.formats.siglist import parse_signature_lists, write_signature_lists, x509_list
from blindbuild.manifest.registers import read_platform, write_platform
from blindbuild.measure.bank import extend_all
from blindbuild.measure.classification import Classification, Exact, Initial, OneOf, Unconstrained
from blindbuild.measure.event import Digests
from blindbuild.measure.pcr09 import load_options
from blindbuild.measure.profiles import (
    AZURE,
    GCP,
    GCP_TDX,
    NITRO_TPM,
    PROFILES,
    GceTechnology,
    Profile,
    UnknownKeys,
    find_profile,
    predict_gce_firmware,
    predict_profile,
)
from blindbuild.measure.secure_boot import SECURE_BOOT_OFF, SecureBootState
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.uki import MeasuredUki
from tests.fakes.enclave_image import CERTIFICATE

SHA256 = HashAlgorithm.SHA256
OWNER = UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b")
SEPARATOR_ONLY = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
EMPTY_POLICY = "65caf8dd1e0ea7a6"  # PCR 7 with SecureBoot 00 and no keys, as read after boots of OVMF 2022.11

# A boot of a UKI on a TDX guest of Google's: the SHA-256 digests of the log Dstack-TEE/dstack
# dstack/cc-eventlog/samples/tpm_eventlog.bin (commit 312dc605, Apache-2.0) and the values it replays to.
DSTACK_UKI = "9ab14a46f858662a89adc102d2a57a13f52f75c1769d65a4c34edbbfc8855f0f"
DSTACK_KERNEL = "ade943a0a7a3189a3201ba17d7df778eb380cbd33ce5e361176e974ccf7cdedb"
DSTACK_SECTIONS = {
    ".linux": "14dd02cd21890ae4df18e0084554f82b7d3dc6bc33c209eaa366a070212ef277",
    ".osrel": "3e5851448bae5b36f351becde037a8b13b77307279f484eda808f8177d9a4293",
    ".cmdline": "70f29045503ca305837eac03cd1084d7de13347f368dd32ca1ecdb64c3a5828b",
    ".initrd": "99b1aa53f14e22eb08d210e5f0e876fff6aa61bf518fb1734b3a5c0336a20e97",
    ".uname": "73c50d674c51c7937b0af6251bf0e1f03b27fb18348863c99be5f98903205867",
    ".sbat": "beb5aec6d459e3971ee9378d7af0ed45186dcb6c636941523cdeff6aaef1837c",
}
DSTACK_TABLE = bytes.fromhex(
    "4546492050415254000001005c000000ddd1a4ae000000000100000000000000ffb70c00000000002200000000000000"
    "deb70c0000000000025fdf0323d90e4f9a61e9774f09b45602000000000000008000000080000000bc90917902000000"
    "0000000028732ac11ff8d211ba4b00a0c93ec93b72dca3b7e7cecd47a69a61f9ce65f9310008000000000000ff070800"
    "0000000000000000000000004500460049002000530079007300740065006d0020005000610072007400690074006900"
    "6f006e000000000000000000000000000000000000000000000000000000000000000000af3dc60f838472478e793d69"
    "d8477de4ebdd80da2c20e742ae0cc4889242b7a30008080000000000ffaf0c0000000000000000000000000064007300"
    "7400610063006b002d0072006f006f007400660073000000000000000000000000000000000000000000000000000000"
    "0000000000000000000000000000000000000000"
)
DSTACK_REGISTERS = {
    0: "0cca9ec161b09288802e5a112255d21340ed5b797f5fe29cecccfd8f67b9f802",
    2: "1f74355f18d9aab3a26faa060d2058726554207d040c63d25d501d97f5a41e0f",
    3: SEPARATOR_ONLY,
    4: "7a94ffe8a7729a566d3d3c577fcb4b6b1e671f31540375f80eae6382ab785e35",
    5: "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0",
    6: SEPARATOR_ONLY,
    11: "16c654f49c03f385bc4d286302ff60213a3ab8aea0e38ffc2fc573ca15e26eb0",
}


def sha256(text: str) -> Digests:
    return {SHA256: Digest.from_hex(SHA256, text)}


def uki(version: int = 255, *, secure_boot: bool = False) -> MeasuredUki:
    """Return the UKI of the log; its command line and initrd are made up, as the log has digests only."""
    rules = stub_rules(version)
    return MeasuredUki(
        rules=rules,
        authenticode=sha256(DSTACK_UKI),
        kernel_authenticode=sha256(DSTACK_KERNEL),
        sections={name: sha256(text) for name, text in DSTACK_SECTIONS.items()},
        load_options=load_options(b"quiet", rules),
        initrd={SHA256: Digest.sha256(b"initrd")},
        secure_boot=secure_boot,
    )


def technology(profile: Profile) -> GceTechnology | None:
    return min(profile.technologies, default=None)


def classify(
    profile: Profile, *, partition_table: bytes | None = None, state: SecureBootState = SECURE_BOOT_OFF
) -> tuple[Classification, ...]:
    reference = predict_profile(
        uki(secure_boot=state.enabled),
        profile,
        secure_boot=state,
        partition_table=partition_table,
        technology=technology(profile),
    )
    return reference.banks[SHA256]


def values(rule: Classification) -> tuple[str, ...]:
    match rule:
        case Exact(value=value):
            return (value.hex,)
        case OneOf(values=several):
            return tuple(value.hex for value in several)
    return ()


def of_kind(rules: tuple[Classification, ...], kind: type[Classification]) -> set[int]:
    return {register for register, rule in enumerate(rules) if isinstance(rule, kind)}


def test_a_boot_on_googles_tdx_is_predicted_from_its_digests() -> None:
    rules = classify(GCP_TDX, partition_table=DSTACK_TABLE)
    for register, value in DSTACK_REGISTERS.items():
        assert value in values(rules[register]), register


def test_with_the_usual_profile_that_boot_would_be_refused_in_registers_2_4_and_5() -> None:
    rules = predict_profile(
        uki(),
        dataclasses.replace(GCP, technologies=GCP_TDX.technologies),
        secure_boot=SECURE_BOOT_OFF,
        partition_table=DSTACK_TABLE,
        technology=GceTechnology.TDX,
    ).banks[SHA256]
    refused = {i for i, value in DSTACK_REGISTERS.items() if value not in values(rules[i])}
    assert refused == {2, 4, 5}


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.identifier)
def test_every_register_is_classified_and_what_is_open_has_a_reason(profile: Profile) -> None:
    rules = classify(profile, partition_table=DSTACK_TABLE)
    assert len(rules) == 24
    assert all(rule.reason for rule in rules if isinstance(rule, Unconstrained))
    assert of_kind(rules, Initial) == {8, 10, 12, 13, 14, 15, *range(17, 23)}
    assert {4, 9, 11} <= of_kind(rules, Exact)
    assert {1, 16, 23} <= of_kind(rules, Unconstrained) | ({1} if profile is AZURE else set())


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.identifier)
def test_a_statement_can_say_what_a_profile_predicts(profile: Profile) -> None:
    reference = predict_profile(
        uki(),
        profile,
        secure_boot=SECURE_BOOT_OFF,
        partition_table=DSTACK_TABLE,
        technology=technology(profile),
    )
    assert reference.firmware is None
    assert read_platform(write_platform(reference), "platform") == reference


def test_what_each_cloud_leaves_open() -> None:
    opened = {
        profile.identifier: of_kind(classify(profile, partition_table=DSTACK_TABLE), Unconstrained)
        for profile in PROFILES
    }
    assert opened == {
        "gcp": {1, 16, 23},
        "gcp-tdx": {1, 16, 23},
        "nitro-tpm": {0, 1, 2, 3, 5, 6, 16, 23},
        "azure": {0, 5, 6, 7, 16, 23},
    }


def test_without_the_partition_table_register_5_is_open() -> None:
    assert isinstance(classify(GCP)[5], Unconstrained)
    assert values(classify(GCP, partition_table=DSTACK_TABLE)[5])


def test_where_only_that_register_binds_the_image_the_partition_table_is_needed() -> None:
    with pytest.raises(MeasureError, match="gcp-tdx: expected the disk's partition table, got none"):
        classify(GCP_TDX)


def test_another_image_or_another_partition_table_is_another_value_of_register_2_on_tdx() -> None:
    first = values(classify(GCP_TDX, partition_table=DSTACK_TABLE)[2])
    assert values(classify(GCP_TDX, partition_table=DSTACK_TABLE[:-1] + b"\x01")[2]) != first
    other = dataclasses.replace(uki(), authenticode=sha256("00" * 32))
    reference = predict_profile(
        other,
        GCP_TDX,
        secure_boot=SECURE_BOOT_OFF,
        partition_table=DSTACK_TABLE,
        technology=GceTechnology.TDX,
    )
    assert values(reference.banks[SHA256][2]) != first


def test_the_inner_kernel_follows_the_stub_wherever_images_are_measured() -> None:
    old, new = (
        predict_profile(
            uki(version),
            GCP_TDX,
            secure_boot=SECURE_BOOT_OFF,
            partition_table=DSTACK_TABLE,
            technology=GceTechnology.TDX,
        ).banks[SHA256]
        for version in (257, 258)
    )
    assert values(old[2]) != values(new[2])
    assert values(old[4]) == values(new[4])


def test_azure_leaves_a_separator_alone_in_registers_1_to_3() -> None:
    rules = classify(AZURE)
    assert {values(rules[register]) for register in (1, 2, 3)} == {(SEPARATOR_ONLY,)}


def test_nitro_tpm_has_the_standard_policy_of_a_machine_without_keys() -> None:
    assert values(classify(NITRO_TPM)[7])[0].startswith(EMPTY_POLICY)


def test_nitro_tpm_has_secure_boot_on_exactly_with_a_platform_key() -> None:
    keys = some_keys()
    with pytest.raises(MeasureError, match="expected Secure Boot to be on exactly with a platform key"):
        classify(NITRO_TPM, state=dataclasses.replace(keys, enabled=False))
    on = predict_profile(uki(secure_boot=True), NITRO_TPM, secure_boot=keys)
    assert on.identifier == "nitro-tpm-secboot"
    assert values(on.banks[SHA256][7]) != values(classify(NITRO_TPM)[7])


def some_keys() -> SecureBootState:
    """Return a state with one certificate everywhere, which also validates the image."""
    der = parse_pem_certificate(CERTIFICATE.decode()).der
    lists = write_signature_lists([x509_list(der, OWNER)])
    entry = parse_signature_lists(lists)[0].entries[0].encoded
    return SecureBootState(enabled=True, pk=lists, kek=lists, db=lists, authority=entry)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.identifier)
def test_keys_that_are_not_known_leave_register_7_open_and_nothing_else(
    profile: Profile, enabled: bool
) -> None:
    keys = some_keys() if enabled else SECURE_BOOT_OFF
    known, unknown = (
        predict_profile(
            uki(secure_boot=enabled),
            profile,
            secure_boot=state,
            partition_table=DSTACK_TABLE,
            technology=technology(profile),
        )
        for state in (keys, UnknownKeys(enabled))
    )
    assert known.identifier == unknown.identifier
    open_now = of_kind(unknown.banks[SHA256], Unconstrained)
    assert open_now == of_kind(known.banks[SHA256], Unconstrained) | {7}
    for register in set(range(24)) - {7}:
        assert known.banks[SHA256][register] == unknown.banks[SHA256][register]


def test_register_0_of_compute_engine_names_the_firmware_and_the_kind_of_machine() -> None:
    seen = set()
    for kind in GceTechnology:
        for version in (1, 2):
            events = predict_gce_firmware((SHA256,), version=version, technology=kind)
            seen.add(extend_all(0, events, SHA256).hex)
    assert len(seen) == 10
    assert set(values(classify(GCP)[0])) < seen


@pytest.mark.parametrize(
    ("profile", "given", "reason"),
    [
        (GCP, None, "expected a memory protection of NONE, SEV, SEV_ES, SEV_SNP, got none"),
        (GCP, GceTechnology.TDX, "expected a memory protection of NONE, SEV, SEV_ES, SEV_SNP, got TDX"),
        (GCP_TDX, GceTechnology.NONE, "expected a memory protection of TDX, got NONE"),
        (AZURE, GceTechnology.NONE, "azure: expected no memory protection of Compute Engine"),
    ],
)
def test_the_memory_protection_belongs_to_the_profile(
    profile: Profile, given: GceTechnology | None, reason: str
) -> None:
    with pytest.raises(MeasureError, match=reason):
        predict_profile(uki(), profile, secure_boot=SECURE_BOOT_OFF, technology=given)


def test_a_firmware_version_below_1_does_not_exist() -> None:
    with pytest.raises(MeasureError, match="expected a version from 1 on, got 0"):
        predict_gce_firmware((SHA256,), version=0, technology=GceTechnology.NONE)


def test_no_firmware_version_at_all_matches_nothing_and_is_refused() -> None:
    with pytest.raises(MeasureError, match="expected at least one value"):
        predict_profile(
            uki(),
            GCP,
            secure_boot=SECURE_BOOT_OFF,
            technology=GceTechnology.NONE,
            firmware_versions=(),
        )


def test_an_image_measured_for_the_other_secure_boot_state_is_refused() -> None:
    with pytest.raises(MeasureError, match="measured with Secure Boot off"):
        predict_profile(
            uki(secure_boot=True), GCP, secure_boot=SECURE_BOOT_OFF, technology=GceTechnology.NONE
        )


def test_profiles_are_found_by_name() -> None:
    assert [find_profile(profile.identifier) for profile in PROFILES] == list(PROFILES)
    with pytest.raises(MeasureError, match="unknown platform 'heroku'"):
        find_profile("heroku")
