"""Step A7: revocation lists that the relying party brings, honest ones and every other kind."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.errors import VerificationError
from blindbuild.formats.certificate import parse_certificate, parse_pem_certificate
from blindbuild.formats.der import BIT_STRING, read_members, read_only, write_element, write_sequence
from blindbuild.manifest import parse_trust
from blindbuild.verify import Outcome, Policy
from blindbuild.verify.revocation import RevocationCheck, check_revocation
from tests.bad_inputs import refused
from tests.fakes.ak_authority import AkAuthority, AkProfile, CrlShape, IssuerRules, make_crl
from tests.fakes.damage import bit_flips, truncations
from tests.fakes.published import NOW
from tests.fakes.world import judge, publisher, session, tpm, with_endorsement

AUTHORITY = AkAuthority()
LEAF, ISSUER, ROOT = 77, 2, 1  # serial numbers
SESSION = with_endorsement(
    session(credential=False), ak_certificate=AUTHORITY.issue(tpm().ak.public_key(), serial=LEAF)
)
STRICT = judge.but(trust=parse_trust(publisher().trust(**AUTHORITY.pems)), policy=Policy())


def of_issuer(**shape) -> bytes:
    return make_crl(AUTHORITY.issuer_name, AUTHORITY.issuer_key, CrlShape(**shape))


def of_root(**shape) -> bytes:
    return make_crl(AUTHORITY.root_name, AUTHORITY.root_key, CrlShape(**shape))


def judged(*crls: bytes, required: bool = False):
    return STRICT.but(crls=crls, policy=Policy(require_crls=required))(SESSION)


def step(appraisal, identifier: str = "A7"):
    return next(found for found in appraisal.steps if found.id == identifier)


def test_without_lists_the_step_is_skipped_and_says_so() -> None:
    appraisal = judged()
    appraisal.accepted()
    assert step(appraisal).outcome is Outcome.SKIPPED


def test_a_verdict_ends_with_the_first_list() -> None:
    crls = (of_issuer(end=NOW + 90), of_root(end=NOW + 60))
    assert judged(*crls).accepted().expires == NOW + 60
    assert judged().accepted().expires == NOW + 3600


def test_a_verdict_ends_with_the_certificate() -> None:
    profile = AkProfile(end=datetime.fromtimestamp(NOW + 60, tz=UTC))
    made = with_endorsement(SESSION, ak_certificate=AUTHORITY.issue(tpm().ak.public_key(), profile))
    assert STRICT(made).accepted().expires == NOW + 61  # RFC 5280, 4.1.2.5: notAfter still counts
    STRICT.but(now=NOW + 60)(made).accepted()
    refused(STRICT.but(now=NOW + 61)(made), "A4:certificate-path")


def test_current_lists_that_name_nobody_are_accepted() -> None:
    appraisal = judged(of_issuer(), of_root(), required=True)
    appraisal.accepted()
    assert step(appraisal).detail == "2 of 2 certificates looked up"


def test_a_list_may_be_pem() -> None:
    pem = make_crl(AUTHORITY.issuer_name, AUTHORITY.issuer_key, encoding=Encoding.PEM)
    assert step(judged(pem)).detail == "1 of 2 certificates looked up"


def test_lists_of_others_revocations_are_accepted() -> None:
    judged(of_issuer(revoked=(LEAF + 1, ISSUER)), of_root(revoked=(LEAF,)), required=True).accepted()


@pytest.mark.parametrize("required", [False, True])
def test_a_revoked_certificate_is_refused(required: bool) -> None:
    appraisal = judged(of_issuer(revoked=(3, LEAF)), of_root(), required=required)
    refused(appraisal, "A7:certificate-revoked", saying="0x4d")


def test_a_revoked_issuer_is_refused() -> None:
    refused(judged(of_root(revoked=(ISSUER,))), "A7:certificate-revoked")


def test_one_of_two_lists_of_an_authority_is_enough_to_revoke() -> None:
    refused(judged(of_issuer(), of_issuer(revoked=(LEAF,))), "A7:certificate-revoked")


@pytest.mark.parametrize("given", [(), (of_issuer(),), (of_root(),)], ids=["none", "issuer", "root"])
def test_a_list_that_is_required_and_not_there_is_refused(given: tuple[bytes, ...]) -> None:
    refused(judged(*given, required=True), "A7:crl-missing")


CASES = {
    "expired": ({"end": NOW}, "A7:crl-expired"),
    "expired and naming the key": ({"end": NOW, "revoked": (LEAF,)}, "A7:crl-expired"),
    "from tomorrow": ({"begin": NOW + 1, "end": NOW + 9}, "A7:crl-not-yet-valid"),
    "of changes": ({"extension": x509.DeltaCRLIndicator(1)}, "A7:crl-malformed"),
    "of some certificates": (
        {
            "extension": x509.IssuingDistributionPoint(None, None, False, True, None, False, False),
        },
        "A7:crl-malformed",
    ),
    "of some certificates, not critical": (
        {
            "critical": False,
            "extension": x509.IssuingDistributionPoint(None, None, False, True, None, False, False),
        },
        "A7:crl-malformed",
    ),
    "signed with SHA-224": ({"hash_function": hashes.SHA224}, "A7:crl-signature"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_list_that_says_too_little_is_refused(name: str) -> None:
    shape, reason = CASES[name]
    refused(judged(of_issuer(**shape)), reason)


def test_a_list_is_current_to_its_last_second() -> None:
    judged(of_issuer(begin=NOW, end=NOW + 1)).accepted()


def test_a_strangers_list_is_refused() -> None:
    other = AkAuthority("other")
    refused(judged(make_crl(other.issuer_name, other.issuer_key)), "A7:crl-issuer")


def test_a_list_in_the_authoritys_name_by_another_key_is_refused() -> None:
    forged = make_crl(AUTHORITY.issuer_name, ec.generate_private_key(ec.SECP256R1()))
    refused(judged(forged), "A7:crl-signature")
    refused(judged(make_crl(AUTHORITY.issuer_name, AUTHORITY.root_key)), "A7:crl-signature")


def test_a_list_by_an_authority_that_may_sign_none_is_refused() -> None:
    other = AkAuthority(rules=IssuerRules(usages=("key_cert_sign",)))
    made = with_endorsement(SESSION, ak_certificate=other.issue(tpm().ak.public_key()))
    crl = make_crl(other.issuer_name, other.issuer_key)
    trust = parse_trust(publisher().trust(**other.pems))
    refused(judge.but(trust=trust, policy=Policy(), crls=(crl,))(made), "A7:crl-signature")


def test_a_list_that_is_not_one_is_refused() -> None:
    for data in (b"", b"x", b"-----BEGIN X509 CRL-----", AUTHORITY.pems["ak_roots"][0].encode()):
        refused(judged(data), "A7:crl-malformed")
    refused(judged(bytes(4 << 20) + b"x"), "A7:crl-malformed", saying="at most")


def test_too_many_lists_are_refused() -> None:
    refused(judged(*[of_issuer()] * 65), "A7:crl-malformed", saying="at most 64 lists")


def test_a_test_root_needs_lists_too() -> None:
    both = Policy(require_crls=True, allow_test_tpm=True)
    refused(judge.but(policy=both)(session()), "A7:crl-missing")


@pytest.mark.parametrize("lists", [(), (of_issuer(), of_root()), (b"x",)], ids=["none", "honest", "broken"])
@pytest.mark.parametrize("required", [False, True])
def test_revocation_of_a_pinned_key_is_never_said_to_be_checked(
    required: bool, lists: tuple[bytes, ...]
) -> None:
    pinned = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    asked = judge.but(trust=pinned, policy=Policy(require_crls=required), crls=lists)
    appraisal = asked(session(credential=False))
    if required or lists:
        refused(appraisal, "A7:key-pinned", saying="has no certificate")
        assert any("out of the trust file" in hint for hint in appraisal.hints)
    else:
        appraisal.accepted()
        assert step(appraisal).outcome is Outcome.SKIPPED


def test_a_list_counts_for_every_certificate_of_its_authority() -> None:
    leaf = parse_certificate(SESSION.endorsement.ak_certificate)
    issuer, root = (parse_pem_certificate(pem[0]) for pem in reversed(AUTHORITY.pems.values()))
    renewed = parse_pem_certificate(
        AUTHORITY.certificate_of(AUTHORITY.issuer_name, AUTHORITY.issuer_key, serial=3)
    )
    crls = (of_issuer(revoked=(LEAF,)),)
    for used in (issuer, renewed):
        check = RevocationCheck(crls, False, (issuer, renewed, root), NOW)
        with pytest.raises(VerificationError) as caught:
            check_revocation((leaf, used, root), check)
        assert (caught.value.step, caught.value.reason) == ("A7", "certificate-revoked")


def test_a_damaged_list_never_helps() -> None:
    honest, listed = of_issuer(), of_issuer(revoked=(LEAF,))
    for data in (*truncations(honest, step=7), *bit_flips(listed, step=5)):
        appraisal = judged(data)
        assert appraisal.verdict is None
        assert {reason.split(":")[0] for reason in appraisal.reasons} == {"A7"}


def test_a_path_that_is_not_there_is_not_looked_up() -> None:
    stranger = AkAuthority()
    made = dataclasses.replace(
        SESSION,
        endorsement=dataclasses.replace(
            SESSION.endorsement, ak_certificate=stranger.issue(tpm().ak.public_key())
        ),
    )
    appraisal = STRICT.but(crls=(of_issuer(),))(made)
    refused(appraisal, "A4:certificate-path")
    assert step(appraisal).detail == "not reached: needs A4"


def test_a_list_that_names_no_end_is_refused() -> None:
    # the library writes none, so its nextUpdate is taken out and the rest signed again (RFC 5280, 5.1)
    tbs, algorithm, _signature = read_members(read_only(of_issuer()))
    version, signed_by, name, this_update, _next_update, *more = read_members(tbs)
    kept = (version, signed_by, name, this_update, *more)
    endless = write_sequence(*(element.encoded for element in kept))
    signature = AUTHORITY.issuer_key.sign(endless, ec.ECDSA(hashes.SHA256()))
    crl = write_sequence(endless, algorithm.encoded, write_element(BIT_STRING, b"\0" + signature))
    refused(judged(crl), "A7:crl-expired", saying="without an end")
