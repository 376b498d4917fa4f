"""The client's decision: honesty is accepted, each lie is refused by its own step and reason."""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import VerificationError as PathError

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import VerificationError
from blindbuild.formats.tpm2 import ClockInfo
from blindbuild.manifest import parse_trust
from blindbuild.publish import add_signature, generate_key, sign_payload
from blindbuild.verify import (
    AcceptedSession,
    History,
    Outcome,
    Policy,
    StoredCertificate,
    bound_data,
    check_publication,
)
from tests.bad_inputs import accepted, numbered, record
from tests.fakes.published import (
    IMAGE,
    NOW,
    RELEASE_TYPE,
    STATEMENT_TYPE,
    Publisher,
    honest_boot,
    log_bytes,
    separator,
)
from tests.fakes.software_tpm import (
    AuthorityRules,
    Profile,
    QuoteShape,
    SoftwareTpm,
    TpmAuthority,
    sized,
)
from tests.fakes.world import (
    NONCE,
    SPKI,
    TEST_POLICY,
    authority,
    boot_of,
    judge,
    pinned_trust,
    publisher,
    real_trust,
    session,
    tpm,
    trust_for,
    with_endorsement,
    with_evidence,
)

STATEMENT = Digest.sha256(publisher().statement)
TPM = (b"\x00\x0b" + hashlib.sha256(tpm().ek_public[2:]).digest()).hex()  # the endorsement key's name


def shaped(**changes):
    return session(tpm().but(shape=QuoteShape(**changes)))


def with_serial(der: bytes, serial: bytes) -> bytes:
    """The certificate with other content octets of its serial number (X.690 8.1.3; RFC 5280 4.1)."""

    def encode(tag: int, content: bytes) -> bytes:
        size = len(content)
        if size < 0x80:
            return bytes((tag, size)) + content
        return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content

    body = der[4 + 4 :]  # both outer headers have two octets of length
    tbs, rest = body[: int.from_bytes(der[6:8], "big")], body[int.from_bytes(der[6:8], "big") :]
    assert tbs[:6] == bytes.fromhex("a003020102") + b"\x02"
    return encode(0x30, encode(0x30, tbs[:5] + encode(2, serial) + tbs[7 + tbs[6] :]) + rest)


def refused(appraisal, *expected: str) -> None:
    """Exactly these steps failed for these reasons, and nothing was accepted."""
    assert appraisal.reasons == set(expected)
    assert appraisal.verdict is None
    with pytest.raises(VerificationError) as caught:
        appraisal.accepted()
    assert caught.value.exit_code == 3
    step, _, reason = f"{appraisal.failed[0].id}:{appraisal.failed[0].reason}".partition(":")
    assert (caught.value.step, caught.value.reason) == (step, reason)
    for wanted in expected:
        assert wanted.replace(":", " ") in caught.value.message
        record(wanted)


# --- the honest session


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_an_honest_session_is_accepted(bank: str) -> None:
    appraisal = judge(session(bank=bank))
    accepted = appraisal.accepted()
    assert appraisal.failed == ()
    assert (accepted.product, accepted.version, accepted.sequence) == ("hello", "1.0.0", 42)
    assert accepted.statement == STATEMENT
    assert accepted.spki == SPKI
    assert accepted.attestation_key == tpm().ak_name
    assert accepted.platform == "qemu-q35-ovmf-2025.02"
    assert accepted.expires == NOW + 3600
    assert accepted.history == History(42, STATEMENT, NOW, {TPM: ClockInfo(3074, 2, 0, True)})
    assert any("operator-run TPM" in warning for warning in accepted.warnings)
    assert any("first use" in warning for warning in accepted.warnings)


def test_a_tpm_below_a_pinned_makers_root_is_accepted_by_the_strict_policy() -> None:
    accepted = judge.but(trust=real_trust(), policy=Policy())(session()).accepted()
    assert not any("operator-run" in warning for warning in accepted.warnings)


def test_a_pinned_attestation_key_is_accepted_without_a_credential() -> None:
    trust = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    accepted = judge.but(trust=trust, policy=Policy())(session(credential=False)).accepted()
    assert any("pinned" in warning for warning in accepted.warnings)


def test_an_accepted_session_cannot_be_made_by_hand() -> None:
    accepted = judge(session()).accepted()
    fields = {f.name: getattr(accepted, f.name) for f in dataclasses.fields(accepted)}
    with pytest.raises(TypeError, match="comes from appraise"):
        AcceptedSession(**fields, proof=object())


def test_the_bound_data_is_the_vector_of_decision_4() -> None:
    # SPEC.md decision 4: nonce 00..1f, key SHA-256("spki"), statement SHA-256("statement")
    bound = bound_data(nonce=bytes(range(32)), spki=b"spki", statement=Digest.sha256(b"statement"))
    assert bound.hex() == "e3887c8beb4d3097f68bec8be432f3243c5ad9c063a60e9f561e371c8fcc91d7"


def test_an_appraisal_is_plain_data_for_machines() -> None:
    import json

    plain = json.loads(json.dumps(judge(session()).to_json()))
    assert plain["accepted"] is True
    assert plain["expires"] == "2026-09-21T15:13:20Z"
    assert {"id", "title", "outcome", "detail", "reason"} == set(plain["steps"][0])
    assert len(plain["registers"]) == 24
    assert plain["differences"] == []


def test_a_recorded_session_says_that_it_proves_nothing_about_now() -> None:
    appraisal = judge(dataclasses.replace(session(), live=False))
    assert any("nothing about now" in warning for warning in appraisal.warnings)
    assert not appraisal.live
    assert not appraisal.accepted().live
    assert judge(session()).accepted().live


# --- M: who says so


def test_a_stranger_as_signer_is_refused_and_nothing_is_compared_with_the_statement() -> None:
    stranger = Publisher()
    appraisal = judge.but(envelope=stranger.envelope)(session())
    refused(appraisal, "M4:envelope-refused")
    skipped = {step.id for step in appraisal.steps if step.outcome is Outcome.SKIPPED}
    assert {"M6", "M8", "M9", "P1", "C1", "E2", "E1"} <= skipped
    assert appraisal.registers == ()
    assert appraisal.product is None


def test_other_payload_types_are_not_mixed_up() -> None:
    appraisal = judge.but(envelope=publisher().release)(session())
    refused(appraisal, "M4:envelope-refused")
    appraisal = judge.but(release=publisher().envelope)(session())
    refused(appraisal, "M9:release-refused")


def test_a_signed_statement_that_is_malformed_is_refused() -> None:
    envelope = sign_payload(publisher().key, STATEMENT_TYPE, publisher().statement + b"\n")
    refused(judge.but(envelope=envelope)(session()), "M6:malformed")


@pytest.mark.bad_input(2)
def test_a_threshold_of_two_needs_two_keys() -> None:
    second = generate_key()
    content = {
        "release_keys": [publisher().key.public, second.public],
        "threshold": 2,
        "test_tpm_roots": [authority().root_pem],
        "test_tpm_intermediates": [authority().issuer_pem],
    }
    trust = parse_trust(publisher().trust(**content))
    refused(judge.but(trust=trust)(session()), "M4:envelope-refused")
    both = {
        "envelope": add_signature(second, publisher().envelope, STATEMENT_TYPE),
        "release": add_signature(second, publisher().release, RELEASE_TYPE),
    }
    judge.but(trust=trust, **both)(session()).accepted()


def test_a_key_listed_twice_in_hand_made_trust_is_refused() -> None:
    trust = dataclasses.replace(pinned_trust(), release_keys=pinned_trust().release_keys * 2, threshold=2)
    assert "M2:keys-not-unique" in judge.but(trust=trust)(session()).reasons


def test_another_image_than_the_one_at_hand_is_refused() -> None:
    right = dataclasses.replace(TEST_POLICY, image=Digest.sha256(IMAGE))
    judge.but(policy=right)(session()).accepted()
    wrong = dataclasses.replace(TEST_POLICY, image=Digest.sha256(b"another"))
    refused(judge.but(policy=wrong)(session()), "M7:other-image")


def test_another_product_of_the_same_signer_is_refused() -> None:
    other = publisher().but(name="other")
    refused(judge.but(published=other)(session(statement=other.statement)), "M8:other-product")


RELEASES = {
    "none": ({"no_release": True}, "M9:release-missing"),
    "not signed by us": ({"release": Publisher().release}, "M9:release-refused"),
    "expired": ({"now": 1_798_761_600}, "M9:release-expired"),
    "not yet valid": ({"now": 1_767_225_600 - 61}, "M9:release-not-yet-valid"),
}


@pytest.mark.parametrize("name", RELEASES)
def test_a_statement_that_nobody_says_is_current_is_refused(name: str) -> None:
    changes, reason = RELEASES[name]
    now = changes.get("now", NOW)
    appraisal = judge.but(**changes)(session())
    assert reason in appraisal.reasons
    assert appraisal.reasons <= {reason, "A4:certificate-path"}, now


@pytest.mark.parametrize("now", [1_767_225_600 + 1, 1_798_761_600 - 1])
def test_a_release_is_valid_from_its_first_second_to_its_last(now: int) -> None:
    accepted = judge.but(now=now)(session()).accepted()
    assert accepted.expires <= 1_798_761_600


RELEASE_CONTENT = {
    "another statement": ({"statement": {"sha256": "ab" * 32}}, "M9:release-of-other-statement"),
    "another product": ({"product": "other"}, "M9:release-disagrees"),
    "another version": ({"version": "1.0.1"}, "M9:release-disagrees"),
    "another sequence": ({"sequence": 43}, "M9:release-disagrees"),
    "ends before it begins": ({"validUntil": "2025-01-01T00:00:00Z"}, "M9:release-malformed"),
    "an unknown field": ({"line": "x"}, "M9:release-malformed"),
}


@pytest.mark.parametrize("name", RELEASE_CONTENT)
def test_a_release_that_is_not_about_this_statement_is_refused(name: str) -> None:
    changes, reason = RELEASE_CONTENT[name]
    refused(judge.but(release=publisher().but(release=changes).release)(session()), reason)


def test_a_policy_may_do_without_a_release_and_says_so() -> None:
    policy = dataclasses.replace(TEST_POLICY, require_release=False)
    accepted = judge.but(no_release=True, policy=policy)(session()).accepted()
    assert any("no release was checked" in warning for warning in accepted.warnings)


HISTORIES = {
    "an older sequence": (History(43, STATEMENT, NOW), "M10:rollback"),
    "another statement of the same sequence": (History(42, Digest.sha256(b"x"), NOW), "M10:equivocation"),
    "a clock set back": (History(42, STATEMENT, NOW + 61), "M9:clock-went-back"),
    "106 fewer resets of the TPM": (
        History(42, STATEMENT, NOW, {TPM: ClockInfo(1, 3, 0, True)}),
        "Q12:clock-went-back",
    ),
    "an earlier clock of the TPM": (
        History(42, STATEMENT, NOW, {TPM: ClockInfo(3075, 2, 0, True)}),
        "Q12:clock-went-back",
    ),
}


def test_a_tpm_that_was_given_another_attestation_key_has_the_same_clock() -> None:
    """Whoever fills the TPM's memory has it make any number of them from templates of his own."""
    ahead = History(42, STATEMENT, NOW, {TPM: ClockInfo(99999, 9, 0, True)})
    another = session(tpm().but(ak=ec.generate_private_key(ec.SECP256R1())))
    for made in (another, with_endorsement(another, ak_certificate=b"\x30\x00")):
        judge(made).accepted()
        refused(judge.but(history=ahead)(made), "Q12:clock-went-back")


@pytest.mark.parametrize("name", numbered(HISTORIES))
def test_what_is_older_than_what_was_accepted_is_refused(name: str) -> None:
    history, reason = HISTORIES[name]
    refused(judge.but(history=history)(session()), reason)


@pytest.mark.parametrize(
    "history",
    [
        History(42, STATEMENT, NOW, {TPM: ClockInfo(3074, 2, 0, True)}),
        History(41, Digest.sha256(b"before"), NOW - 10, {TPM: ClockInfo(99999, 1, 9, True)}),
        History(0, Digest.sha256(b"before"), 0, {"00" * 34: ClockInfo(0, 9, 9, True)}),
    ],
)
def test_what_is_as_new_or_newer_is_accepted_and_remembered(history: History) -> None:
    accepted = judge.but(history=history)(session()).accepted()
    assert accepted.history.sequence == 42
    assert set(history.clocks) <= set(accepted.history.clocks)
    assert not any("first use" in warning for warning in accepted.warnings)


def test_a_debug_image_is_refused_unless_policy_allows_it() -> None:
    debug = publisher().but(debug=True)
    made = session(statement=debug.statement)
    refused(judge.but(published=debug)(made), "P1:debug-image")
    policy = dataclasses.replace(TEST_POLICY, allow_debug=True)
    accepted = judge.but(published=debug, policy=policy)(made).accepted()
    assert any("debug image" in warning for warning in accepted.warnings)


def test_what_was_published_can_be_judged_alone_and_is_never_accepted() -> None:
    published = check_publication(
        publisher().envelope, release=publisher().release, trust=pinned_trust(), now=NOW, policy=TEST_POLICY
    )
    assert published.failed == ()
    with pytest.raises(VerificationError, match="not every step was reached"):
        published.accepted()


# --- A: whose key


@pytest.mark.bad_input(119)
def test_a_test_tpm_is_refused_without_the_policy_for_it() -> None:
    refused(judge.but(policy=Policy())(session()), "A11:test-tpm")


@pytest.mark.parametrize(
    ("attributes", "name"),
    [
        pytest.param(0x00040072, "unrestricted", marks=pytest.mark.bad_input(109)),
        pytest.param(0x00070072, "decrypt too", marks=pytest.mark.bad_input(110)),
        pytest.param(0x00050070, "not fixedTPM", marks=pytest.mark.bad_input(111)),
        (0x00050062, "not fixedParent"),
        (0x00050052, "not made in the TPM"),
        (0x00010072, "cannot sign"),
        (0x00050472, "no dictionary attack protection"),
        (0x00050032, "without userWithAuth"),
    ],
)
def test_a_key_that_is_not_an_attestation_key_is_refused(attributes: int, name: str) -> None:
    appraisal = judge(session(tpm().but(ak_attributes=attributes)))
    refused(appraisal, "A2:key-attributes")
    assert not any(step.id == "Q2" and step.outcome is Outcome.OK for step in appraisal.steps)


def test_a_statement_may_ask_for_more_of_the_key() -> None:
    rule = publisher().value["predicate"]["attestationKey"] | {"forbiddenAttributes": "0x00020040"}
    asking = publisher().but(attestationKey=rule)
    appraisal = judge.but(published=asking)(session(statement=asking.statement))
    assert appraisal.reasons == {"A2:key-attributes"}


def other_area(**changes: int) -> bytes:
    """The attestation key's area with one u16 changed, by its offset."""
    area = bytearray(tpm().ak_area)
    for key, value in changes.items():
        offset = int(key[1:])
        area[offset : offset + 2] = value.to_bytes(2, "big")
    return sized(bytes(area))


AREAS = {
    "name algorithm SHA-1": (other_area(_2=0x0004), "A2:key-template"),
    "ECDSA with SHA-1": (other_area(_14=0x0004), "A2:key-template"),
    "another scheme": (other_area(_12=0x001C), "A2:key-template"),
    "P-384": (other_area(_16=0x0004), "A3:key-type"),
    "120 a point off the curve": (sized(tpm().ak_area[:-1] + b"\0"), "A3:key-off-curve"),
    "120 the point at infinity": (sized(tpm().ak_area[:-68] + sized(bytes(32)) * 2), "A3:key-off-curve"),
    "a short coordinate": (sized(tpm().ak_area[:-34] + sized(bytes(31))), "A3:key-type"),
    "an endorsement key": (tpm().ek_public, "A2:key-attributes"),
    "nonsense": (b"x" * 40, "A2:malformed"),
    "empty": (b"", "A2:malformed"),
}


@pytest.mark.parametrize("name", numbered(AREAS))
def test_a_public_area_of_another_kind_is_refused(name: str) -> None:
    area, reason = AREAS[name]
    appraisal = judge(with_endorsement(session(), ak_public=area))
    assert reason in appraisal.reasons
    record(reason)
    # without a key that could have signed, nothing of the quote is looked at
    assert not any(reason.startswith(("Q2", "Q5", "E1")) for reason in appraisal.reasons)


PROFILES = {
    "a web server's usage": (Profile(extended_usage="1.3.6.1.5.5.7.3.1"), "A9:certificate-profile"),
    "117 an attestation key's usage": (Profile(extended_usage="2.23.133.8.3"), "A9:certificate-profile"),
    "no extended usage": (Profile(extended_usage=None), "A9:certificate-profile"),
    "113 a CA as leaf": (Profile(is_authority=True), "A9:certificate-profile"),
    "no basic constraints": (Profile(is_authority=None), "A9:certificate-profile"),
    "no TPM attributes": (Profile(attributes=()), "A9:certificate-profile"),
    "two of three attributes": (Profile(attributes=("id:00001014", "swtpm")), "A9:certificate-profile"),
    "empty subject, SAN not critical": (
        Profile(common_name=None, alternative_name_critical=False),
        "A9:certificate-profile",
    ),
    "key agreement": (Profile(key_encipherment=False, key_agreement=True), "A9:certificate-profile"),
    "113 expired": (
        Profile(not_after=datetime.fromtimestamp(NOW, UTC) - timedelta(days=1)),
        "A4:certificate-path",
    ),
    "113 not yet valid": (
        Profile(not_before=datetime.fromtimestamp(NOW, UTC) + timedelta(days=1)),
        "A4:certificate-path",
    ),
}


@pytest.mark.parametrize("name", numbered(PROFILES))
def test_an_endorsement_certificate_of_another_kind_is_refused(name: str) -> None:
    profile, reason = PROFILES[name]
    appraisal = judge(session(tpm().but(profile=profile)))
    assert reason in appraisal.reasons
    assert appraisal.reasons <= {reason, "A4:certificate-path"}
    assert appraisal.verdict is None
    record(reason)


@pytest.mark.parametrize("common_name", [None, "unknown"])
@pytest.mark.parametrize("days", [1, 3650])
def test_certificates_of_the_profile_are_accepted(common_name: str | None, days: int) -> None:
    profile = Profile(common_name, not_after=datetime.fromtimestamp(NOW, UTC) + timedelta(days=days))
    judge(session(tpm().but(profile=profile))).accepted()


@pytest.mark.bad_input(114)
@pytest.mark.parametrize(
    "rules",
    [
        AuthorityRules(is_authority=False),
        AuthorityRules(key_cert_sign=False),
    ],
)
def test_an_issuer_that_may_not_issue_is_refused(rules: AuthorityRules) -> None:
    weak = TpmAuthority("weak", rules)
    appraisal = judge.but(trust=trust_for(weak))(session(SoftwareTpm(weak, tpm().registers)))
    assert {reason.partition(":")[0] for reason in appraisal.reasons} == {"A4"}
    refused(appraisal, *appraisal.reasons)


@pytest.mark.bad_input(114)
def test_an_issuer_below_a_root_that_allows_none_is_refused() -> None:
    short = TpmAuthority("short", root_path_length=0)
    appraisal = judge.but(trust=trust_for(short))(session(SoftwareTpm(short, tpm().registers)))
    assert {reason.partition(":")[0] for reason in appraisal.reasons} == {"A4"}
    refused(appraisal, *appraisal.reasons)


@pytest.mark.bad_input(113)
def test_a_certificate_that_signed_itself_is_refused() -> None:
    made = session()
    stored = (StoredCertificate(0x01C00002, authority().root.public_bytes(Encoding.DER)),)
    appraisal = judge(with_endorsement(made, ek_certificates=stored))
    assert appraisal.reasons >= {
        "A9:certificate-profile",
        "A4:certificate-path",
        "A5:certificate-of-other-key",
    }
    refused(appraisal, *appraisal.reasons)


def test_another_authority_of_the_same_name_is_refused() -> None:
    impostor = TpmAuthority()
    appraisal = judge(session(SoftwareTpm(impostor, tpm().registers)))
    refused(appraisal, "A4:certificate-path")


def test_the_issuer_must_be_pinned_too() -> None:
    trust = parse_trust(publisher().trust(test_tpm_roots=[authority().root_pem]))
    refused(judge.but(trust=trust)(session()), "A4:certificate-path")


@pytest.mark.bad_input(116)
def test_padding_of_the_nv_index_is_accepted_only_as_zeros() -> None:
    accepted(judge(session(tpm().but(padding=bytes(700)))))
    refused(judge(session(tpm().but(padding=b"\0\1"))), "A6:certificate-malformed")


@pytest.mark.parametrize("index", [0x01C00016, 0])
def test_a_certificate_from_another_index_is_not_looked_at(index: int) -> None:
    made = session()
    stored = tuple(dataclasses.replace(c, nv_index=index) for c in made.endorsement.ek_certificates)
    assert judge(with_endorsement(made, ek_certificates=stored)).reasons == {"A6:certificate-missing"}


def test_a_second_certificate_in_the_same_index_is_refused() -> None:
    made = session()
    twice = made.endorsement.ek_certificates * 2
    assert judge(with_endorsement(made, ek_certificates=twice)).reasons == {"A6:certificate-missing"}


@pytest.mark.bad_input(115)
def test_a_certificate_of_another_endorsement_key_is_refused() -> None:
    other = SoftwareTpm(authority(), tpm().registers)
    made = with_endorsement(session(), ek_public=other.ek_public)
    refused(judge(made), "A5:certificate-of-other-key")


def test_an_endorsement_key_of_another_template_is_refused() -> None:
    area = bytearray(tpm().ek_public)
    area[9] ^= 0x40
    assert judge(with_endorsement(session(), ek_public=bytes(area))).reasons == {"A5:endorsement-template"}


@pytest.mark.bad_input(112)
@pytest.mark.bad_input(118)
@pytest.mark.parametrize(
    ("secret", "reason"),
    [(b"x" * 32, "A8:credential-mismatch"), (None, "A8:credential-missing")],
)
def test_a_tpm_that_cannot_activate_the_credential_is_refused(secret: bytes | None, reason: str) -> None:
    refused(judge(with_evidence(session(), activated_secret=secret)), reason)


def test_a_session_without_a_credential_is_refused_when_the_key_is_not_pinned() -> None:
    refused(judge(session(credential=False)), "A8:credential-missing")


def test_another_key_than_the_pinned_one_is_refused() -> None:
    other = SoftwareTpm(authority(), tpm().registers)
    trust = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    refused(judge.but(trust=trust)(session(other, credential=False)), "A5:key-not-pinned")


def test_a_credential_with_a_pinned_key_is_refused() -> None:
    trust = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    assert "A1:trust-ambiguous" in judge.but(trust=trust)(session()).reasons


def test_hand_made_trust_with_two_ways_is_refused() -> None:
    keys = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public])).attestation_keys
    trust = dataclasses.replace(pinned_trust(), attestation_keys=keys)
    assert "A1:trust-ambiguous" in judge.but(trust=trust)(session()).reasons


# --- Q: what was signed


SHAPES = {
    "89 magic 0": ({"magic": 0}, {"Q5:not-made-by-a-tpm"}),
    "89 magic of a signed text": ({"magic": 0x48656C6C}, {"Q5:not-made-by-a-tpm"}),
    "90 certify": ({"attest_type": 0x8017}, {"Q6:not-a-quote"}),
    "90 creation": ({"attest_type": 0x801A}, {"Q6:not-a-quote"}),
    "90 time": ({"attest_type": 0x8019}, {"Q6:not-a-quote"}),
    "90 NV": ({"attest_type": 0x8014}, {"Q6:not-a-quote"}),
    "92 empty selection": ({"selections": ()}, {"Q8:selection-banks"}),
    "92 no register selected": ({"selections": ((11, bytes(3)),)}, {"Q8:selection-registers"}),
    "93 sha1 bank": ({"selections": ((4, b"\xff\xff\xff"),)}, {"Q8:selection-bank"}),
    "sha384 for sha256": ({"selections": ((12, b"\xff\xff\xff"),)}, {"Q8:selection-bank"}),
    "94 subset": ({"selections": ((11, b"\xff\xff\x00"),)}, {"Q8:selection-registers"}),
    "95 superset": ({"selections": ((11, b"\xff\xff\xff\xff"),)}, {"Q8:selection-registers"}),
    "96 two banks": (
        {"selections": ((11, b"\xff\xff\xff"), (12, b"\xff\xff\xff"))},
        {"Q8:selection-banks"},
    ),
    "96 the same bank twice": (
        {"selections": ((11, b"\xff\xff\xff"), (11, b"\xff\xff\xff"))},
        {"Q8:selection-banks"},
    ),
    "97 relabelled": ({"selections": ((11, b"\xff\xf7\xff"),)}, {"Q8:selection-registers"}),
    "98 sizeofSelect 2": ({"selections": ((11, b"\xff\xff"),)}, {"Q8:selection-registers"}),
    "98 sizeofSelect 255": ({"selections": ((11, b"\xff" * 255),)}, {"Q10:malformed"}),
    "98 16 selections": ({"selections": ((11, b"\xff\xff\xff"),) * 16}, {"Q8:selection-banks"}),
    "99 digest by another hash": ({"digest_hash": "sha384"}, {"Q9:values-mismatch"}),
    "102 trailing byte": ({"trailing": b"\0"}, {"Q10:malformed"}),
    "104 RSASSA": ({"signature_scheme": 0x0014}, {"Q3:signature-scheme"}),
    "104 HMAC": ({"signature_scheme": 0x0005}, {"Q3:signature-scheme"}),
    "104 NULL": ({"signature_scheme": 0x0010}, {"Q3:signature-scheme"}),
    "104 SHA-1": ({"signature_hash": 0x0004}, {"Q3:signature-scheme"}),
    "104 SHA-384": ({"signature_hash": 0x000C}, {"Q3:signature-scheme"}),
    "107 safe is 0": ({"safe": 0}, {"Q12:clock-unsafe"}),
    "safe is 2": ({"safe": 2}, {"Q10:malformed"}),
    "another hierarchy": ({"signer": b"\0\x0b" + bytes(32)}, {"Q11:signer-elsewhere"}),
}


@pytest.mark.parametrize("name", numbered(SHAPES))
def test_a_quote_of_another_shape_is_refused(name: str) -> None:
    changes, reasons = SHAPES[name]
    refused(judge(shaped(**changes)), *reasons)


def test_what_could_not_be_believed_is_not_built_upon() -> None:
    appraisal = judge(shaped(magic=0))
    outcomes = {step.id: step.outcome for step in appraisal.steps}
    assert all(outcomes[step] is Outcome.SKIPPED for step in ("Q6", "Q10", "Q8", "Q9", "Q7", "E2", "E1"))
    assert appraisal.registers == ()


def test_an_unsafe_clock_is_accepted_when_policy_allows_it() -> None:
    policy = dataclasses.replace(TEST_POLICY, allow_unsafe_clock=True)
    judge.but(policy=policy)(shaped(safe=0)).accepted()


@pytest.mark.bad_input(108)
def test_old_tpm_firmware_is_refused() -> None:
    policy = dataclasses.replace(TEST_POLICY, minimum_tpm_firmware=0x2019102300163636)
    judge.but(policy=policy)(session()).accepted()
    refused(judge.but(policy=policy)(shaped(firmware=0x2019102300163635)), "Q14:tpm-firmware")


@pytest.mark.bad_input(100)
def test_values_swapped_between_two_registers_are_refused() -> None:
    made = session()
    values = list(made.evidence.registers)
    values[4], values[9] = values[9], values[4]
    refused(judge(with_evidence(made, registers=tuple(values))), "Q9:values-mismatch")


def test_a_signature_by_another_key_is_refused() -> None:
    other = SoftwareTpm(authority(), tpm().registers)
    made = session()
    refused(judge(with_evidence(made, signature=other.sign(made.evidence.quote))), "Q2:signature-invalid")


def signature(r: bytes, s: bytes) -> bytes:
    return b"\x00\x18\x00\x0b" + sized(r) + sized(s)


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SIGNATURES = {
    "empty": (b"", "Q3:malformed"),
    "44 r = 0": (signature(bytes(32), b"\1" * 32), "Q4:signature-malformed"),
    "44 s empty": (signature(b"\1" * 32, b""), "Q4:signature-malformed"),
    "44 s = n": (signature(b"\1" * 32, ORDER.to_bytes(32, "big")), "Q2:signature-invalid"),
    "44 s > n": (signature(b"\1" * 32, b"\xff" * 32), "Q2:signature-invalid"),
    "105 r of 33 bytes": (signature(b"\0" + b"\1" * 32, b"\1" * 32), "Q4:signature-malformed"),
    "trailing byte": (signature(b"\1" * 32, b"\1" * 32) + b"\0", "Q4:signature-malformed"),
    "arbitrary": (signature(b"\1" * 32, b"\1" * 32), "Q2:signature-invalid"),
}


@pytest.mark.parametrize("name", numbered(SIGNATURES))
def test_a_malformed_signature_is_refused(name: str) -> None:
    raw, reason = SIGNATURES[name]
    refused(judge(with_evidence(session(), signature=raw)), reason)


@pytest.mark.bad_input(105)
def test_numbers_of_a_signature_may_lack_leading_zeros() -> None:  # minimal-size tolerant
    made = session()
    while True:
        r, s = decode_dss_signature(tpm().ak.sign(made.evidence.quote, ec.ECDSA(hashes.SHA256())))
        if r < 1 << 248 or s < 1 << 248:
            break
    minimal = [number.to_bytes((number.bit_length() + 7) // 8, "big") for number in (r, s)]
    accepted(judge(with_evidence(made, signature=signature(*minimal))))


@pytest.mark.parametrize("field", ["quote", "signature"])
def test_any_flipped_bit_of_quote_or_signature_is_refused(field: str) -> None:
    made = session()
    original = getattr(made.evidence, field)
    for position in range(len(original)):
        flipped = bytearray(original)
        flipped[position] ^= 1
        appraisal = judge(with_evidence(made, **{field: bytes(flipped)}))
        assert appraisal.verdict is None
        assert appraisal.failed


# --- C: for whom, and on which connection


@pytest.mark.bad_input(91)
def test_a_quote_for_another_nonce_is_refused() -> None:
    replayed = dataclasses.replace(session(), nonce=bytes(31) + b"\1")
    # its credential was the old session's as well
    replayed = with_evidence(replayed, activated_secret=b"o" * 32)
    refused(judge(replayed), "A8:credential-mismatch", "Q7:bound-data-mismatch")


@pytest.mark.bad_input(125)
def test_a_quote_for_another_tls_key_is_the_work_of_somebody_in_the_middle() -> None:
    refused(
        judge(dataclasses.replace(session(), spki=b"another key")),
        "Q7:bound-data-mismatch",
        "C3:other-tls-key",
    )


def test_a_session_about_another_statement_is_refused() -> None:
    other = publisher().but(version="2.0.0")
    refused(judge(session(statement=other.statement)), "C1:other-statement")


@pytest.mark.bad_input(91)
@pytest.mark.parametrize("extra", [b"", NONCE, NONCE[:16], b"\0" * 32, bytes(64)])
def test_extra_data_of_another_form_is_refused(extra: bytes) -> None:
    quote, sig = tpm().quote("sha256", extra)
    made = with_evidence(session(), quote=quote, signature=sig)
    refused(judge(made), "Q7:bound-data-mismatch", "C3:other-tls-key")


@pytest.mark.bad_input(91)
def test_right_extra_data_with_zeros_after_it_is_refused() -> None:
    right = bound_data(nonce=NONCE, spki=SPKI, statement=STATEMENT)
    quote, sig = tpm().quote("sha256", right + b"\0")
    made = with_evidence(session(), quote=quote, signature=sig)
    refused(judge(made), "Q7:bound-data-mismatch", "C3:other-tls-key")


@pytest.mark.bad_input(125)
def test_a_reflected_role_is_refused() -> None:
    from tests.fakes.attester import bound_data as fake

    extra = fake(NONCE, SPKI, STATEMENT.value, role=b"client")
    quote, sig = tpm().quote("sha256", extra)
    made = with_evidence(session(), quote=quote, signature=sig)
    refused(judge(made), "Q7:bound-data-mismatch", "C3:other-tls-key")


@pytest.mark.bad_input(91)
@pytest.mark.parametrize("nonce", [b"", bytes(16), bytes(32)])
def test_a_nonce_that_is_none_is_refused(nonce: bytes) -> None:
    appraisal = judge(dataclasses.replace(session(), nonce=nonce))
    refused(appraisal, "Q1:nonce-size", "Q7:bound-data-mismatch", "C3:other-tls-key")


def test_an_answer_for_another_bank_is_refused() -> None:
    made = session(bank="sha384")
    asked = dataclasses.replace(made, bank=HashAlgorithm.SHA256)
    assert judge(asked).reasons >= {"C1:other-profile", "Q8:selection-bank"}


# --- E: registers and log


def test_the_firmware_must_be_pinned_unless_the_tpm_is_below_a_test_root() -> None:
    said = publisher().value["predicate"]["platforms"]
    import copy

    platforms = copy.deepcopy(said)
    for bank in platforms[0]["banks"].values():
        bank["pcrs"]["0"] = {"rule": "unconstrained", "reason": "not recorded"}
    lax = publisher().but(platforms=platforms)
    made = session(statement=lax.statement)
    judge.but(published=lax)(made).accepted()
    for policy in (Policy(), TEST_POLICY):  # what a policy would allow is not what was found
        refused(judge.but(published=lax, trust=real_trust(), policy=policy)(made), "E2:firmware-not-pinned")
    pinned = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    alone = session(statement=lax.statement, credential=False)
    refused(judge.but(published=lax, trust=pinned)(alone), "E2:firmware-not-pinned")


@pytest.mark.parametrize(
    "serial", [b"\x00", b"\xff", b"\x80" + bytes(19), b"\x01" + bytes(20), b"\x01" + b"\xff" * 2000]
)
def test_a_serial_number_that_no_authority_gives_is_refused(serial: bytes) -> None:
    made = with_endorsement(
        session(), ek_certificates=(StoredCertificate(0x01C00002, with_serial(tpm().ek_certificate, serial)),)
    )
    appraisal = judge(made)
    assert "A6:certificate-malformed" in appraisal.reasons
    assert appraisal.verdict is None


def test_a_serial_number_of_20_octets_is_shown_in_hex() -> None:
    stored = StoredCertificate(0x01C00002, with_serial(tpm().ek_certificate, b"\0" + b"\xff" * 20))
    steps = {step.id: step for step in judge(with_endorsement(session(), ek_certificates=(stored,))).steps}
    assert (steps["A6"].outcome, steps["A6"].detail) == (Outcome.OK, "serial 0x" + "ff" * 20)


def test_a_check_that_breaks_fails_its_step_and_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> None:
        raise RuntimeError("\x1b[2J")

    monkeypatch.setattr("blindbuild.verify.endorse_certificate.check_ek_profile", broken)
    appraisal = judge(session())
    refused(appraisal, "A9:internal-error")
    assert "RuntimeError" in appraisal.failed[0].detail
    assert appraisal.failed[0].detail.isprintable()


def test_a_name_in_a_certificate_cannot_steer_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def quote_the_subject(*_arguments: object) -> None:
        raise PathError("no path for <Certificate(subject=<Name(CN=\x1b[2J\nok)>)>")

    monkeypatch.setattr("blindbuild.verify.certificate_path.verify_path", quote_the_subject)
    appraisal = judge(session())
    assert "A4:certificate-path" in appraisal.reasons
    assert all(step.detail.isprintable() for step in appraisal.steps if step.detail)


def test_an_unknown_platform_is_refused() -> None:
    refused(
        judge.but(policy=dataclasses.replace(TEST_POLICY, platforms=frozenset({"azure"})))(session()),
        "E2:platform-unknown",
    )


def test_a_bank_that_the_statement_does_not_know_is_refused() -> None:
    machine = tpm().but(registers={"sha512": [bytes(64)] * 24})
    refused(judge(session(machine, bank="sha512")), "E2:platform-unknown", "E5:log-not-replayable")


@pytest.mark.bad_input(124)
def test_a_register_extended_behind_the_logs_back_is_refused() -> None:
    machine, _ = boot_of(honest_boot())
    values = dict(machine.registers)
    values["sha256"] = [*values["sha256"]]
    values["sha256"][14] = b"\x01" * 32
    refused(judge(session(machine.but(registers=values))), "E1:register-mismatch", "E3:log-incomplete")


def test_registers_that_say_nothing_may_have_values_without_events() -> None:
    values = dict(tpm().registers)
    values["sha256"] = [*values["sha256"]]
    values["sha256"][16] = values["sha256"][23] = b"\x01" * 32
    judge(session(tpm().but(registers=values))).accepted()


@pytest.mark.parametrize("register", [17, 22])
def test_a_dynamic_launch_register_must_still_be_all_ones(register: int) -> None:
    values = dict(tpm().registers)
    values["sha256"] = [*values["sha256"]]
    values["sha256"][register] = bytes(32)
    appraisal = judge(session(tpm().but(registers=values)))
    assert "E1:register-mismatch" in appraisal.reasons


LOGS = {
    "124 cut in the middle": (lambda log: log[:-3], "E4:log-malformed"),
    "empty": (lambda _log: b"", "E4:log-malformed"),
    "a byte too many": (lambda log: log + b"\0", "E4:log-malformed"),
    "not a log": (lambda _log: b"x" * 100, "E4:log-malformed"),
}


@pytest.mark.parametrize("name", numbered(LOGS))
def test_a_malformed_log_is_refused_even_when_all_registers_match(name: str) -> None:
    change, reason = LOGS[name]
    refused(judge(session(log=change(log_bytes(honest_boot())))), reason)


def test_a_log_that_leaves_an_event_out_is_refused() -> None:
    events = honest_boot()
    refused(judge(session(log=log_bytes(events[:-1]))), "E3:log-incomplete")


def test_a_log_of_another_bank_is_refused() -> None:
    refused(judge(session(log=log_bytes(honest_boot(), ("sha384",)))), "E5:log-not-replayable")


@pytest.mark.bad_input(121)
def test_an_event_under_another_type_is_refused() -> None:
    events = [
        dataclasses.replace(event, kind="EV_EVENT_TAG") if event.what == "content of .linux" else event
        for event in honest_boot()
    ]
    refused(judge(session(log=log_bytes(events))), "E6:event-type")


def test_a_description_that_is_not_what_was_measured_is_refused() -> None:  # E7
    events = [
        dataclasses.replace(event, data=b"Calling something else")
        if event.what.startswith("Calling")
        else event
        for event in honest_boot()
    ]
    refused(judge(session(log=log_bytes(events))), "E7:event-data")


@pytest.mark.bad_input(122)
def test_a_separator_of_an_error_is_refused() -> None:
    events = [
        dataclasses.replace(event, data=b"\1\0\0\0") if event == separator(1) else event
        for event in honest_boot()
    ]
    refused(judge(session(log=log_bytes(events))), "E8:separator")


def changed_boot(change) -> tuple:
    machine, log = boot_of(change(honest_boot()))
    return session(machine, log)


@pytest.mark.bad_input(122)
def test_a_second_separator_is_refused() -> None:
    # in a register whose value says nothing about the image, so that only the separators speak
    made = changed_boot(lambda events: [*events, separator(1)])
    refused(judge(made), "E8:separator")


@pytest.mark.bad_input(122)
def test_a_missing_separator_is_refused() -> None:
    made = changed_boot(lambda events: [event for event in events if event != separator(1)])
    refused(judge(made), "E8:separator")


@pytest.mark.parametrize("seconds", [0, 1, 3599])
def test_the_verdict_lasts_no_longer_than_policy_says(seconds: int) -> None:
    policy = dataclasses.replace(TEST_POLICY, session_s=seconds)
    assert judge.but(policy=policy)(session()).accepted().expires == NOW + seconds
