"""The attestation key's own certificate as the one way to believe a TPM: honest ones and impostors."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blindbuild.formats.certificate import parse_certificate
from blindbuild.formats.der import INTEGER, write_element, write_integer, write_sequence
from blindbuild.formats.gce import instance_name
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.verify import Policy, parse_session, session_bytes
from tests.bad_inputs import refused
from tests.fakes.ak_authority import (
    MADE,
    SERVER_AUTH,
    TCG_AK,
    TCG_EK,
    AkAuthority,
    AkProfile,
    IssuerRules,
)
from tests.fakes.software_tpm import Profile
from tests.fakes.world import judge, publisher, real_trust, session, tpm, with_endorsement

AUTHORITY = AkAuthority()
KEY = tpm().ak.public_key()
DAY = timedelta(days=1)


def trust_in(authority: AkAuthority) -> TrustRoots:
    return parse_trust(publisher().trust(**authority.pems))


STRICT = judge.but(trust=trust_in(AUTHORITY), policy=Policy())


def offered(certificate: bytes | None, **changes):
    """A session without a credential, whose server has this certificate of its attestation key."""
    return with_endorsement(session(credential=False), ak_certificate=certificate, **changes)


def certified(**profile):
    return offered(AUTHORITY.issue(KEY, AkProfile(**profile)))


def text(value: str) -> bytes:
    return write_element(0x0C, value.encode())


def instance(zone="z", project=7, name="p", identity=9, machine="m") -> bytes:
    return write_sequence(
        text(zone), write_integer(project), text(name), write_integer(identity), text(machine)
    )


# --- honest ones


def test_a_certified_attestation_key_is_accepted_by_the_strict_policy() -> None:
    accepted = STRICT(certified()).accepted()
    assert accepted.attestation_key == tpm().ak_name
    assert not any("operator" in warning or "pinned" in warning for warning in accepted.warnings)


def test_zeros_after_the_certificate_are_padding() -> None:
    STRICT(offered(AUTHORITY.issue(KEY) + bytes(40))).accepted()


@pytest.mark.parametrize("extended", [(), (TCG_EK,)])
def test_a_cloud_that_names_the_machine_certifies_in_its_own_way(extended: tuple[str, ...]) -> None:
    STRICT(certified(extended=extended, instance=instance())).accepted()


def test_an_empty_subject_is_a_critical_san_or_nothing() -> None:
    refused(STRICT(certified(subject="")), "A9:certificate-profile", saying="critical SAN")


def test_a_session_with_such_a_certificate_is_recorded_whole() -> None:
    made = certified()
    read = parse_session(session_bytes(made))
    assert read.endorsement == made.endorsement
    assert session_bytes(read) == session_bytes(made)


# --- never two ways, never another one


def test_a_server_with_only_an_endorsement_certificate_is_refused() -> None:
    refused(STRICT(session(credential=False)), "A6:certificate-missing", saying="attestation key")


def test_a_credential_does_not_stand_in_for_the_certificate() -> None:
    with_secret = session()
    assert STRICT(with_secret).reasons >= {"A1:trust-ambiguous"}
    assert STRICT(with_secret).verdict is None


def test_a_certified_attestation_key_does_not_stand_in_for_an_endorsement_certificate() -> None:
    made = with_endorsement(session(), ek_certificates=(), ak_certificate=AUTHORITY.issue(KEY))
    appraisal = judge.but(trust=real_trust(), policy=Policy())(made)
    assert "A6:certificate-missing" in appraisal.reasons
    assert appraisal.verdict is None


def test_a_certified_attestation_key_does_not_stand_in_for_a_pinned_one() -> None:
    other = tpm().but(ak=ec.generate_private_key(ec.SECP256R1()))
    pinned = parse_trust(publisher().trust(attestation_keys=[other.ak_public]))
    refused(judge.but(trust=pinned, policy=Policy())(certified()), "A5:key-not-pinned")


def test_a_pinned_key_in_the_endorsement_does_not_help_a_bad_certificate() -> None:
    both = dataclasses.replace(trust_in(AUTHORITY), attestation_keys=real_trust().attestation_keys)
    refused(judge.but(trust=both, policy=Policy())(offered(AkAuthority().issue(KEY))), "A4:certificate-path")


def test_hand_made_trust_with_two_ways_is_refused() -> None:
    trust = trust_in(AUTHORITY)
    both = dataclasses.replace(trust, tpm_roots=trust.ak_roots)
    appraisal = judge.but(trust=both, policy=Policy())(certified())
    assert "A1:trust-ambiguous" in appraisal.reasons
    assert appraisal.verdict is None


# --- impostors

BAD_PROFILES = {
    "for web servers": {"extended": (SERVER_AUTH,)},
    "for web servers too": {"extended": (TCG_AK, SERVER_AUTH)},
    "for nothing that is said": {"extended": ()},
    "of an endorsement key, by its purpose": {"extended": (TCG_EK,)},
    "an authority": {"is_authority": True},
    "for encryption": {"usages": ("key_encipherment",)},
    "for encryption too": {"usages": ("digital_signature", "key_encipherment")},
    "for certificates": {"usages": ("digital_signature", "key_cert_sign")},
    "a cloud's for encryption": {
        "usages": ("key_encipherment",),
        "extended": (TCG_EK,),
        "instance": instance(),
    },
    "a cloud's for web servers": {"extended": (SERVER_AUTH,), "instance": instance()},
}


@pytest.mark.bad_input(113)
@pytest.mark.parametrize("name", BAD_PROFILES)
def test_a_certificate_of_another_kind_is_refused(name: str) -> None:
    refused(STRICT(certified(**BAD_PROFILES[name])), "A9:certificate-profile")


@pytest.mark.bad_input(117)
def test_a_genuine_endorsement_certificate_is_no_attestation_key_certificate() -> None:
    from tests.fakes.world import authority

    ek = authority().issue(tpm().ek.public_key(), Profile())
    pems = {"ak_roots": [authority().root_pem], "ak_intermediates": [authority().issuer_pem]}
    trust = parse_trust(publisher().trust(**pems))
    appraisal = judge.but(trust=trust, policy=Policy())(offered(ek))
    refused(appraisal, "A9:certificate-profile", "A5:certificate-of-other-key")


@pytest.mark.bad_input(113)
@pytest.mark.parametrize(
    "times", [{"begin": MADE + 300 * DAY}, {"end": MADE + DAY}], ids=["not yet valid", "expired"]
)
def test_a_certificate_outside_of_its_time_is_refused(times: dict) -> None:
    refused(STRICT(certified(**times)), "A4:certificate-path")


@pytest.mark.bad_input(113)
def test_a_certificate_that_the_key_signed_itself_is_refused() -> None:
    refused(STRICT(offered(AUTHORITY.self_signed(tpm().ak))), "A4:certificate-path")


@pytest.mark.bad_input(113)
def test_a_stranger_of_the_same_name_is_refused() -> None:
    refused(STRICT(offered(AkAuthority().issue(KEY))), "A4:certificate-path")


ISSUERS = {
    "no authority": (IssuerRules(is_authority=False), 1),
    "may not sign certificates": (IssuerRules(usages=("crl_sign",)), 1),
    "expired": (IssuerRules(end=MADE + DAY), 1),
    "below a root that allows none": (IssuerRules(), 0),
}


@pytest.mark.bad_input(114)
@pytest.mark.parametrize("name", ISSUERS)
def test_an_issuer_that_may_not_issue_is_refused(name: str) -> None:
    rules, root_path = ISSUERS[name]
    other = AkAuthority(rules=rules, root_path=root_path)
    appraisal = judge.but(trust=trust_in(other), policy=Policy())(offered(other.issue(KEY)))
    assert appraisal.reasons in ({"A4:certificate-path"}, {"A4:certificate-authority"})
    refused(appraisal, *appraisal.reasons)


def test_an_issuer_that_the_attester_would_bring_is_not_asked_for() -> None:
    without = {"ak_roots": AUTHORITY.pems["ak_roots"], "ak_intermediates": []}
    appraisal = judge.but(trust=parse_trust(publisher().trust(**without)), policy=Policy())(certified())
    refused(appraisal, "A4:certificate-path")


@pytest.mark.bad_input(115)
@pytest.mark.parametrize("key", [ec.SECP256R1(), ec.SECP384R1()], ids=["P-256", "P-384"])
def test_a_certificate_of_another_key_is_refused(key: ec.EllipticCurve) -> None:
    other = ec.generate_private_key(key).public_key()
    refused(STRICT(offered(AUTHORITY.issue(other))), "A5:certificate-of-other-key")


@pytest.mark.bad_input(116)
@pytest.mark.parametrize("after", [b"\0\0\1", b"\0" * 40 + b"x"])
def test_something_after_the_certificate_is_refused(after: bytes) -> None:
    refused(STRICT(offered(AUTHORITY.issue(KEY) + after)), "A6:certificate-malformed", saying="only zeros")


def test_a_certificate_that_is_cut_off_or_none_is_refused() -> None:
    whole = AUTHORITY.issue(KEY)
    for stored in (b"", b"\0" * 100, whole[:-1], whole[:40]):
        refused(STRICT(offered(stored)), "A6:certificate-malformed")


# --- the name of a machine

BAD_INSTANCES = {
    "not a sequence": b"\x04\x00",
    "cut off": instance()[:-1],
    "too few members": write_sequence(text("z"), write_integer(1)),
    "a slash in a name": instance(machine="m/9"),
    "an empty name": instance(machine=""),
    "a line feed in a name": instance(zone="z\n"),
    "a space in a name": instance(zone="a b"),
    "a number as a name": write_sequence(*(write_integer(1) for _ in range(5))),
    "a number that is too long": write_sequence(
        text("z"), write_element(INTEGER, b"\x01" * 10), text("p"), write_integer(1), text("m")
    ),
}


@pytest.mark.parametrize("name", BAD_INSTANCES)
def test_a_machines_name_that_is_malformed_is_not_compared(name: str) -> None:
    from blindbuild.verify.policy import AllowedMachines

    policy = Policy(machines=AllowedMachines(instances=frozenset({"gce:7/p/z/m/9"})))
    made = certified(instance=BAD_INSTANCES[name])
    refused(STRICT.but(policy=policy)(made), "A10:machine-not-shown")


def test_a_machines_name_has_all_five_parts() -> None:
    der = AUTHORITY.issue(KEY, AkProfile(instance=instance()))
    assert instance_name(parse_certificate(der)) == "gce:7/p/z/m/9"
    assert instance_name(parse_certificate(AUTHORITY.issue(KEY))) is None
