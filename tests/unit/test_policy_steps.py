"""What a policy may ask beyond the defaults: machines, Secure Boot, memory, platforms, ages, a log."""

from __future__ import annotations

import dataclasses
import hashlib
import sys

import pytest

from blindbuild.manifest import parse_trust
from blindbuild.verify import Outcome, Policy, appraise, check_publication
from blindbuild.verify.policy import AllowedMachines
from tests.bad_inputs import refused
from tests.fakes import log_world
from tests.fakes.ak_authority import TCG_EK, AkAuthority, AkProfile
from tests.fakes.published import NOW, Event, Publisher, honest_boot, statement_value, variable
from tests.fakes.software_tpm import QuoteShape
from tests.fakes.world import (
    TEST_POLICY,
    boot_of,
    judge,
    pinned_trust,
    publisher,
    sealed_publisher,
    sealed_session,
    session,
    tpm,
    with_endorsement,
    with_evidence,
)
from tests.unit.test_ak_certificates import instance

AK_NAME = tpm().ak_name.hex()
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
YEAR_2026 = 1_767_225_600  # validFrom of the release


def ek_name() -> str:
    return "000b" + hashlib.sha256(tpm().ek_public[2:]).hexdigest()


def asking(**changes) -> Policy:
    return dataclasses.replace(TEST_POLICY, **changes)


def step(appraisal, identifier: str):
    return next(found for found in appraisal.steps if found.id == identifier)


# --- A10: the only machines


@pytest.mark.parametrize(
    "machines",
    [
        AllowedMachines(attestation_keys=frozenset({AK_NAME, "000b" + "00" * 32})),
        AllowedMachines(endorsement_keys=frozenset({ek_name()})),
        AllowedMachines(attestation_keys=frozenset({AK_NAME}), endorsement_keys=frozenset({ek_name()})),
    ],
)
def test_a_named_machine_is_accepted(machines: AllowedMachines) -> None:
    judge.but(policy=asking(machines=machines))(session()).accepted()


@pytest.mark.parametrize(
    "machines",
    [
        AllowedMachines(attestation_keys=frozenset({"000b" + "00" * 32})),
        AllowedMachines(endorsement_keys=frozenset({"000b" + "00" * 32})),
        AllowedMachines(attestation_keys=frozenset({ek_name()})),
        AllowedMachines(attestation_keys=frozenset({AK_NAME}), endorsement_keys=frozenset({AK_NAME})),
        AllowedMachines(),
    ],
)
def test_a_genuine_machine_that_nobody_named_is_refused(machines: AllowedMachines) -> None:
    refused(judge.but(policy=asking(machines=machines))(session()), "A10:machine-not-allowed")


def test_a_name_in_a_certificate_that_nobody_judged_is_not_looked_up() -> None:
    forged = AkAuthority().issue(tpm().ak.public_key(), AkProfile(extended=(TCG_EK,), instance=instance()))
    policy = asking(machines=AllowedMachines(instances=frozenset({"gce:7/p/z/m/9"})))
    made = with_endorsement(session(), ak_certificate=forged)
    refused(judge.but(policy=policy)(made), "A10:machine-not-shown")
    pinned = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    made = with_endorsement(session(credential=False), ak_certificate=forged)
    refused(judge.but(trust=pinned, policy=policy)(made), "A10:machine-not-shown")


def test_an_endorsement_key_is_not_looked_up_where_no_credential_shows_it() -> None:
    pinned = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    machines = AllowedMachines(endorsement_keys=frozenset({ek_name()}))
    appraisal = judge.but(trust=pinned, policy=Policy(machines=machines))(session(credential=False))
    refused(appraisal, "A10:machine-not-shown")
    without = judge.but(policy=asking(machines=machines))(with_evidence(session(), activated_secret=None))
    refused(without, "A8:credential-missing")
    assert step(without, "A10").detail == "not reached: needs A8"


def test_a_certified_machine_is_known_by_its_name() -> None:
    authority = AkAuthority()
    profile = AkProfile(extended=(TCG_EK,), instance=instance())
    made = with_endorsement(
        session(credential=False), ak_certificate=authority.issue(tpm().ak.public_key(), profile)
    )
    trust = parse_trust(publisher().trust(**authority.pems))
    named = Policy(machines=AllowedMachines(instances=frozenset({"gce:7/p/z/m/9"})))
    judge.but(trust=trust, policy=named)(made).accepted()
    other = Policy(machines=AllowedMachines(instances=frozenset({"gce:7/p/z/m/8"})))
    refused(judge.but(trust=trust, policy=other)(made), "A10:machine-not-allowed")
    nameless = with_endorsement(made, ak_certificate=authority.issue(tpm().ak.public_key()))
    refused(judge.but(trust=trust, policy=named)(nameless), "A10:machine-not-shown")


def test_a_name_is_not_looked_up_in_a_certificate_that_leads_nowhere() -> None:
    stranger = AkAuthority()
    made = with_endorsement(
        session(credential=False),
        ak_certificate=stranger.issue(tpm().ak.public_key(), AkProfile(instance=instance())),
    )
    trust = parse_trust(publisher().trust(**AkAuthority().pems))
    policy = Policy(machines=AllowedMachines(instances=frozenset({"gce:7/p/z/m/9"})))
    appraisal = judge.but(trust=trust, policy=policy)(made)
    refused(appraisal, "A4:certificate-path")
    assert step(appraisal, "A10").outcome is Outcome.SKIPPED


# --- E11: Secure Boot


def booted(*events: Event, one_of: bool = False):
    """Judge a machine whose register 7 has these events first, by a statement that accepts exactly that."""
    boot = [
        *events,
        *(event for event in honest_boot() if event.register != 7 or event.kind == "EV_SEPARATOR"),
    ]
    value = statement_value(boot)
    if one_of:
        for rules in value["predicate"]["platforms"][0]["banks"].values():
            rules["pcrs"]["7"] = {"rule": "oneOf", "values": [rules["pcrs"]["7"]["value"]]}
    published = Publisher(publisher().key, value)
    machine, log = boot_of(boot)
    made = session(machine, log, statement=published.statement)
    return judge.but(published=published, policy=asking(require_secure_boot=True))(made)


def secure_boot(
    data: bytes, kind: str = "EV_EFI_VARIABLE_DRIVER_CONFIG", logged: bytes | None = None
) -> Event:
    return Event(7, kind, variable(GLOBAL, "SecureBoot", data), "SecureBoot", logged)


ON, OFF = secure_boot(b"\1"), secure_boot(b"\0")


@pytest.mark.parametrize("one_of", [False, True])
def test_secure_boot_that_is_on_is_accepted(one_of: bool) -> None:
    booted(ON, one_of=one_of).accepted()


def test_a_policy_that_does_not_ask_skips_the_step() -> None:
    assert step(judge(session()), "E11").outcome is Outcome.SKIPPED


@pytest.mark.parametrize("one_of", [False, True])
@pytest.mark.parametrize("state", [OFF, secure_boot(b""), secure_boot(b"\1\0"), secure_boot(b"\2")])
def test_secure_boot_that_is_not_on_is_refused(state: Event, one_of: bool) -> None:
    refused(booted(state, one_of=one_of), "E11:secure-boot-off")


MASQUERADES = {
    "on is extended later": ((OFF, ON), "E11:secure-boot-off"),
    "off hides as an action": (
        (secure_boot(b"\0", "EV_EFI_ACTION"), ON),
        "E11:secure-boot-unknown",
    ),
    "another variable comes first": (
        (Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(GLOBAL, "PK", b""), "PK"), ON),
        "E11:secure-boot-unknown",
    ),
    "another owner's variable of that name": (
        (Event(7, "EV_EFI_VARIABLE_DRIVER_CONFIG", variable(bytes(16), "SecureBoot", b"\1"), "other"),),
        "E11:secure-boot-unknown",
    ),
    "no variable at all": ((), "E11:secure-boot-unknown"),
}


@pytest.mark.parametrize("name", MASQUERADES)
def test_secure_boot_that_is_not_said_first_is_refused(name: str) -> None:
    events, reason = MASQUERADES[name]
    refused(booted(*events), reason)


def test_a_log_that_says_on_where_off_was_measured_is_refused() -> None:
    lie = secure_boot(b"\0", logged=variable(GLOBAL, "SecureBoot", b"\1"))
    refused(booted(lie), "E7:event-data", "E11:secure-boot-unknown")
    # registers with recorded values have no stated events, so that only this step sees it
    refused(booted(lie, one_of=True), "E11:secure-boot-unknown")


# --- P4, E2: memory and platforms


def test_memory_that_is_not_as_confidential_as_asked_is_refused() -> None:
    policy = asking(memory_confidentiality=frozenset({"sev-snp", "tdx"}))
    refused(judge.but(policy=policy)(session()), "P4:memory-not-confidential", saying="sev-snp or tdx")


def test_memory_of_a_kind_that_was_asked_for_is_accepted() -> None:
    by = publisher().but(memoryConfidentiality="tdx")
    policy = asking(memory_confidentiality=frozenset({"sev-snp", "tdx"}))
    judge.but(published=by, policy=policy)(session(statement=by.statement)).accepted()
    other = asking(memory_confidentiality=frozenset({"sev-snp"}))
    refused(
        judge.but(published=by, policy=other)(session(statement=by.statement)), "P4:memory-not-confidential"
    )


def test_a_policy_may_name_platforms() -> None:
    both = asking(platforms=frozenset({"azure", "qemu-q35-ovmf-2025.02"}))
    assert judge.but(policy=both)(session()).accepted().platform == "qemu-q35-ovmf-2025.02"
    refused(judge.but(policy=asking(platforms=frozenset({"azure"})))(session()), "E2:platform-unknown")


# --- C1: the profile of the channel

TLS, HPKE = "tls-spki-quote-v1", "hpke-quote-v1"
WORLDS = {TLS: (None, session), HPKE: (sealed_publisher(), sealed_session)}


@pytest.mark.parametrize(
    "profiles", [{TLS}, {HPKE}, {TLS, HPKE}, set()], ids=lambda each: "+".join(sorted(each))
)
@pytest.mark.parametrize("stated", WORLDS)
def test_a_channel_of_a_profile_that_was_not_asked_for_is_refused(stated: str, profiles: set[str]) -> None:
    by, made = WORLDS[stated]
    appraisal = judge.but(published=by, policy=asking(channel_profiles=frozenset(profiles)))(made())
    if not profiles or stated in profiles:
        appraisal.accepted()
    else:
        refused(appraisal, "C1:profile-not-allowed", saying=f"expected {min(profiles)}, got a statement that")


def test_a_server_of_a_profile_that_was_not_asked_for_is_not_asked() -> None:
    by = sealed_publisher()
    for profile, reasons in ((TLS, {"C1:profile-not-allowed"}), (HPKE, set())):
        appraisal = check_publication(
            by.envelope,
            release=by.release,
            trust=pinned_trust(),
            now=NOW,
            policy=asking(channel_profiles=frozenset({profile})),
        )
        assert appraisal.reasons == reasons
        assert appraisal.verdict is None


def test_a_profile_that_nobody_has_is_never_met() -> None:
    refused(
        judge.but(policy=asking(channel_profiles=frozenset({"tls"})))(session()), "C1:profile-not-allowed"
    )


# --- M9, C6: ages


def test_a_release_that_is_older_than_asked_is_refused() -> None:
    age = NOW - YEAR_2026
    judge.but(policy=asking(release_age_s=age))(session()).accepted()
    refused(judge.but(policy=asking(release_age_s=age - 1))(session()), "M9:release-too-old")


def test_a_verdict_lasts_as_long_as_the_policy_says() -> None:
    assert judge.but(policy=asking(session_s=60))(session()).accepted().expires == NOW + 60


def test_a_verdict_does_not_outlast_the_age_that_the_policy_takes() -> None:
    age = NOW - YEAR_2026
    policy = asking(release_age_s=age + 30)
    expires = judge.but(policy=policy)(session()).accepted().expires
    assert expires == NOW + 31
    judge.but(policy=policy, now=expires - 1)(session()).accepted()
    refused(judge.but(policy=policy, now=expires)(session()), "M9:release-too-old")


# --- M12: the log that the policy asks for


def published_by(policy: Policy, log=None):
    return check_publication(
        publisher().envelope,
        release=publisher().release,
        trust=pinned_trust(),
        now=NOW,
        policy=policy,
        log=log,
    )


def test_a_policy_that_asks_for_a_log_is_not_met_without_one() -> None:
    policy = asking(required_log=log_world.policy())
    assert published_by(policy).reasons == {"M12:log-policy-mismatch"}
    appraisal = appraise(
        session(),
        envelope=publisher().envelope,
        release=publisher().release,
        trust=pinned_trust(),
        now=NOW,
        policy=policy,
    )
    refused(appraisal, "M12:log-policy-mismatch")


def test_a_policy_that_asks_for_a_log_is_not_met_by_another_one() -> None:
    from blindbuild.verify.tlog import RequiredLog

    proof = log_world.Shown().proof
    honest = RequiredLog(log_world.policy(), proof)
    assert published_by(asking(required_log=log_world.policy()), honest).failed == ()
    weaker = RequiredLog(log_world.policy("quorum none\n"), proof)
    assert published_by(TEST_POLICY, weaker).failed == ()
    assert published_by(asking(required_log=log_world.policy()), weaker).reasons == {
        "M12:log-policy-mismatch"
    }


# --- Q13: counters that mean nothing are not read


def test_counters_of_a_key_in_another_hierarchy_are_not_interpreted() -> None:
    policy = asking(minimum_tpm_firmware=1 << 63)
    made = session(tpm().but(shape=QuoteShape(signer=b"\x00\x0b" + bytes(32), safe=0)))
    appraisal = judge.but(policy=policy)(made)
    refused(appraisal, "Q11:signer-elsewhere")
    assert {step(appraisal, name).detail for name in ("Q12", "Q14")} == {"not reached: needs Q11"}


# --- C7: whatever breaks, it is a refusal


def test_a_verifier_that_breaks_between_its_steps_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object, **_more: object) -> None:
        raise MemoryError("with a secret in its text")

    monkeypatch.setattr(sys.modules["blindbuild.verify.appraise"], "_appraisal", broken)
    assert published_by(TEST_POLICY).reasons == {"C7:internal-error"}
    appraisal = judge(session())
    refused(appraisal, "C7:internal-error", saying="MemoryError")
    assert "secret" not in str(appraisal.to_json())
    assert appraisal.live
