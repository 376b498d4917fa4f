"""Inputs that only one check stands against: found by taking each check out (tests/mutation)."""

from __future__ import annotations

import copy
import dataclasses
import json
import sys

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import EnvelopeError, FormatError
from blindbuild.formats.crl import parse_crl
from blindbuild.formats.dsse import SignerKey, parse_envelope
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import EccKey, PublicArea, RsaKey, Scheme, parse_sized_public
from blindbuild.publish import generate_key
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from blindbuild.verify.checklist import Checklist, found
from blindbuild.verify.quote import judge_signature
from tests.bad_inputs import refused, refusing
from tests.fakes.ak_authority import make_crl
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.published import NOW, Publisher, honest_boot, separator, statement_value
from tests.fakes.software_tpm import Profile, QuoteShape, sized
from tests.fakes.world import (
    TEST_POLICY,
    authority,
    boot_of,
    judge,
    publisher,
    session,
    tpm,
    with_endorsement,
    with_evidence,
)

# --- verify/quote.py: the scheme is the key's own, and the key is one for it

MESSAGE = tpm().attest("sha256", bytes(32))
RSA = RsaKey(2048, 65537, b"\xc1" + bytes(254) + b"\x01")
ECC = parse_sized_public(tpm().ak_public).key


def area(key: RsaKey | EccKey, algorithm: Algorithm, hash_id: int = 0x000B) -> PublicArea:
    return PublicArea(0x000B, 0x00050072, b"", None, Scheme(algorithm, hash_id), key)


def failures(public: PublicArea, signature: bytes) -> list[str]:
    steps = Checklist()
    judge_signature(steps, public=public, raw_quote=MESSAGE, raw_signature=signature, needs=())
    return [f"{step.id}:{step.reason}" for step in steps.failed()]


SHA1 = HashAlgorithm.SHA1.tpm_id
SIGNED = {
    "SHA-1, as the key says": (area(ECC, Algorithm.ECDSA, SHA1), b"\0\x18\0\4", "Q3:signature-scheme"),
    "RSA of 255 bytes": (
        area(RSA, Algorithm.RSASSA),
        b"\0\x14\0\x0b" + sized(bytes(255)),
        "Q4:signature-malformed",
    ),
    "RSA of 257 bytes": (
        area(RSA, Algorithm.RSASSA),
        b"\0\x14\0\x0b" + sized(bytes(257)),
        "Q4:signature-malformed",
    ),
    "ECDSA of an RSA key": (
        area(RSA, Algorithm.ECDSA),
        b"\0\x18\0\x0b" + sized(b"\1" * 32) * 2,
        "Q4:signature-scheme",
    ),
    "ECDSA on a curve that is not listed": (
        area(dataclasses.replace(ECC, curve=0x0010), Algorithm.ECDSA),
        b"\0\x18\0\x0b" + sized(b"\1" * 32) * 2,
        "Q4:signature-scheme",
    ),
    "RSA of an ECC key": (
        area(ECC, Algorithm.RSASSA),
        b"\0\x14\0\x0b" + sized(bytes(256)),
        "Q4:signature-scheme",
    ),
}


@pytest.mark.parametrize("name", SIGNED)
def test_a_signature_that_the_key_cannot_make_is_refused_by_its_form(name: str) -> None:
    public, signature, reason = SIGNED[name]
    assert failures(public, signature) == [reason]


@pytest.mark.parametrize("size", [1, 16, 31, 33])
def test_a_random_nonce_of_another_length_is_none(size: int) -> None:
    appraisal = judge(dataclasses.replace(session(), nonce=b"\x5a" * size))
    refused(appraisal, "Q1:nonce-size", "Q7:bound-data-mismatch", "C3:other-tls-key")


def test_a_refused_selection_is_shown_in_ranges() -> None:
    shape = QuoteShape(selections=((11, b"\xff\x01\x80"),))
    appraisal = judge(session(tpm().but(shape=shape)))
    refused(appraisal, "Q8:selection-registers", saying="expected registers 0-23, got 0-8,23")


# --- formats/dsse.py

TYPE = "application/vnd.in-toto+json"


def p256_spki(*, compressed: bool = False) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    if not compressed:
        return key, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    # RFC 5480, 2: id-ecPublicKey on secp256r1, the point in a BIT STRING
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    bits = b"\x03" + bytes((len(point) + 1,)) + b"\0" + point
    return key, b"\x30" + bytes((len(algorithm) + len(bits),)) + algorithm + bits


def test_a_p_256_key_counts_by_its_two_numbers_of_32_bytes() -> None:
    private, spki = p256_spki()
    key = SignerKey.from_spki(spki)
    r, s = decode_dss_signature(private.sign(b"m", ec.ECDSA(hashes.SHA256())))
    numbers = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    assert key.accepts(numbers, b"m") is True
    for signature, message in ((numbers, b"n"), (numbers + b"\0", b"m"), (numbers[:63], b"m"), (b"", b"m")):
        assert key.accepts(signature, message) is False


def test_an_ed25519_key_refuses_what_it_did_not_sign() -> None:
    signer = generate_key()
    assert signer.public.accepts(signer.sign(b"m"), b"m") is True
    assert signer.public.accepts(signer.sign(b"m"), b"n") is False


def test_a_key_has_one_encoding() -> None:
    _, spki = p256_spki(compressed=True)
    with pytest.raises(FormatError, match="the canonical encoding of the key"):
        SignerKey.from_spki(spki)


@pytest.mark.parametrize("document", [b"[]", b"1", b'"x"', b"null"])
def test_an_envelope_is_an_object(document: bytes) -> None:
    with pytest.raises(EnvelopeError, match="envelope: expected an object"):
        parse_envelope(document)


@pytest.mark.parametrize("text", ["+_==", "A+-A", "AA==AA==", "AAA\\n", " AAA", "AAAA\u00e9"])
def test_base64_of_two_alphabets_is_none(text: str) -> None:
    value = {"payloadType": TYPE, "payload": text.replace("\\n", "\n"), "signatures": [{"sig": ""}]}
    with pytest.raises(EnvelopeError, match="base64 in one alphabet, without white space"):
        parse_envelope(json.dumps(value).encode())


# --- verify/endorse.py: the attestation key


def test_a_statement_may_ask_for_attributes_that_the_key_lacks() -> None:
    rule = publisher().value["predicate"]["attestationKey"] | {"requiredAttributes": "0x00050472"}
    asking = publisher().but(attestationKey=rule)
    appraisal = judge.but(published=asking)(session(statement=asking.statement))
    refused(appraisal, "A2:key-attributes", saying="expected attributes 0x00050472 all set")


def ak_area(*, x: bytes | None = None, kdf: bytes = b"\x00\x10") -> bytes:
    """The attestation key's TPM2B_PUBLIC with another x, or another key derivation."""
    honest = tpm().ak_area
    head, rest = honest[:-70], honest[-68:]
    assert honest[-70:-68] == b"\x00\x10"
    return sized(head + kdf + (rest if x is None else sized(x) + rest[34:]))


X = tpm().ak_area[-66:-34]


@pytest.mark.parametrize(
    ("area_bytes", "saying"),
    [
        (ak_area(x=b"\0" + X), "coordinates of 32 bytes"),
        (ak_area(x=X[1:]), "coordinates of 32 bytes"),
        (ak_area(x=b""), "coordinates of 32 bytes"),
        (ak_area(kdf=b"\x00\x22\x00\x0b"), "a P-256 key without a key derivation"),
    ],
    ids=("x of 33 bytes", "x of 31 bytes", "x of no bytes", "a key derivation"),
)
def test_an_attestation_key_of_another_form_is_refused(area_bytes: bytes, saying: str) -> None:
    appraisal = judge(with_endorsement(session(), ak_public=area_bytes))
    assert "A3:key-type" in appraisal.reasons
    assert saying in next(step.detail for step in appraisal.failed if step.id == "A3")


def test_an_rsa_key_that_says_ecdsa_is_refused() -> None:
    # TPMT_PUBLIC of an RSA key whose scheme is ECDSA: no TPM makes one, and the parser takes it
    head = bytes.fromhex("0001000b00050072") + sized(b"") + bytes.fromhex("00100018000b")
    area_bytes = sized(head + bytes.fromhex("080000000000") + sized(b"\xc1" * 256))
    appraisal = judge(with_endorsement(session(), ak_public=area_bytes))
    assert "A3:key-type" in appraisal.reasons


# --- formats/crl.py


@pytest.mark.parametrize("version", [b"\x02", b"\x41", b"\xff"])
def test_a_revocation_list_of_an_unknown_version_is_our_error(version: bytes) -> None:
    data = make_crl(authority().issuer.subject, ec.generate_private_key(ec.SECP256R1()))
    assert data.count(b"\x02\x01\x01\x30") == 1  # the version, and the algorithm behind it
    with pytest.raises(FormatError, match="not a certificate revocation list"):
        parse_crl(data.replace(b"\x02\x01\x01\x30", b"\x02\x01" + version + b"\x30"))


# --- verify/replay.py and registers.py


@pytest.mark.parametrize("register", [0, 1, 5])
def test_a_separator_whose_digest_is_of_something_else_is_refused(register: int) -> None:
    # the data says four zeros, and an error was measured
    events = [
        dataclasses.replace(e, measured=b"\1\0\0\0", data=bytes(4)) if e == separator(register) else e
        for e in honest_boot()
    ]
    signer = Publisher(publisher().key, statement_value(events))
    machine, log = boot_of(events)
    appraisal = judge.but(published=signer)(session(machine, log, statement=signer.statement))
    refused(appraisal, "E8:separator", saying="expected a separator of four zero bytes")


def test_rules_that_say_nothing_exact_are_refused() -> None:
    platforms = copy.deepcopy(publisher().value["predicate"]["platforms"])
    for bank in platforms[0]["banks"].values():
        for number, rule in bank["pcrs"].items():
            if rule["rule"] == "exact":
                bank["pcrs"][number] = {"rule": "oneOf", "values": [rule["value"]]}
    lax = publisher().but(platforms=platforms)
    refused(judge.but(published=lax)(session(statement=lax.statement)), "E2:rules-empty")


# --- verify/appraise.py and checklist.py


@pytest.mark.parametrize("part", ["judge_machine", "judge_binding", "judge_log", "judge_values"])
def test_a_session_of_which_a_part_was_never_judged_is_not_accepted(
    part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules["blindbuild.verify.appraise"]  # the package has a function of that name
    monkeypatch.setattr(module, part, lambda *_arguments: None)
    appraisal = judge(session())
    assert appraisal.reasons == frozenset()
    with refusing("C7:incomplete"):
        appraisal.accepted()


def test_an_answer_of_another_profile_than_was_asked_for_is_refused() -> None:
    made = with_evidence(session(), profile="hpke-quote-v1")
    assert "C1:other-profile" in judge(made).reasons
    asked = dataclasses.replace(made, profile="hpke-quote-v1")
    assert "C1:other-profile" in judge(asked).reasons


def test_a_step_is_run_once_and_needs_what_it_builds_upon() -> None:
    steps = Checklist()
    steps.run("M2", lambda: (None, ""))
    with pytest.raises(AssertionError, match="run twice"):
        steps.run("M2", lambda: (None, ""))
    with pytest.raises(AssertionError, match="without the step it needs"):
        found(None)
    assert found(0) == 0


def test_a_platform_that_the_statement_lacks_is_said_by_its_name() -> None:
    policy = dataclasses.replace(TEST_POLICY, platforms=frozenset({"azure"}))
    appraisal = judge.but(policy=policy)(session())
    refused(appraisal, "E2:platform-unknown", saying="got a statement about qemu-q35-ovmf-2025.02")


# --- verify/publication.py and channels.py


def test_a_release_that_is_shown_is_judged_although_none_was_required() -> None:
    policy = dataclasses.replace(TEST_POLICY, require_release=False)
    stranger = Publisher()
    refused(judge.but(policy=policy, release=stranger.release)(session()), "M9:release-refused")
    ended = publisher().but(release={"validUntil": "2026-01-02T00:00:00Z"}).release
    refused(judge.but(policy=policy, release=ended)(session()), "M9:release-expired")


def test_a_ledger_is_summed_up_without_states_that_no_row_has() -> None:
    value = closed_ledger()
    value["channels"] = [row for row in value["channels"] if row["state"] != "narrowed"]
    published = publisher_of(data := ledger_bytes(value))
    appraisal = judge.but(published=published, ledger=data)(session(statement=published.statement))
    detail = next(step.detail for step in appraisal.steps if step.id == "P2")
    assert "open: " in detail
    assert "narrowed" not in detail


# --- verify/endorse_certificate.py and certificate_path.py


def test_a_secret_that_nobody_asked_for_is_no_answer() -> None:
    made = with_evidence(session(credential=False), activated_secret=b"x" * 32)
    refused(judge(made), "A8:credential-missing", saying="expected a credential to have been sent")


EK_HEAD = tpm().ek_public[2:44]  # type, nameAlg, attributes, policy
POINT = sized(b"\1" * 32) * 2


@pytest.mark.parametrize(
    "rest",
    [
        bytes.fromhex("00060080004300100c0000000000") + sized(tpm().ek_public[-256:]),
        bytes.fromhex("000600800043001000030010") + POINT,
    ],
    ids=("RSA of 3072 bits, it says", "P-256"),
)
def test_an_endorsement_key_of_another_size_or_type_is_refused(rest: bytes) -> None:
    head = EK_HEAD if len(rest) > 200 else b"\x00\x23" + EK_HEAD[2:]
    made = with_endorsement(session(), ek_public=sized(head + rest))
    refused(judge(made), "A5:endorsement-template")


@pytest.mark.parametrize(
    ("usage", "saying"), [(None, "got none"), ("1.3.6.1.5.5.7.3.1", "got 1.3.6.1.5.5.7.3.1")]
)
def test_what_a_certificate_is_for_is_said(usage: str | None, saying: str) -> None:
    appraisal = judge(session(tpm().but(profile=Profile(extended_usage=usage))))
    refused(appraisal, "A9:certificate-profile", saying=saying)


def test_a_time_that_no_calendar_has_is_no_time_of_a_certificate() -> None:
    appraisal = judge.but(now=253_402_300_800)(session())  # the first second of the year 10000
    assert "A4:certificate-path" in appraisal.reasons
    assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


# --- verify/bundle.py


@pytest.mark.parametrize(
    "changes",
    [
        {"crls": ["!"]},
        {"crls": ["YR=="]},
        {"rebuilds": ["A"]},
        {"tuf": ["AA=="]},
        {"tuf": "AA=="},
        {"tuf": {"1.root.json": "!"}},
        {"tuf": {"1.root.json": 1}},
        {"tuf": {"../root.json": "AA=="}},
    ],
    ids=str,
)
def test_a_bundle_with_a_part_of_another_form_is_malformed(changes: dict) -> None:
    bundle = Bundle(session(), publisher().envelope, NOW, tuf={"1.root.json": b"{}"}, crls=(b"x",))
    value = json.loads(bundle_bytes(bundle))
    with refusing("Q10:malformed"):
        parse_bundle(rfc8785.dumps(value | changes))
    assert parse_bundle(rfc8785.dumps(value)).crls == (b"x",)


def test_the_age_of_a_release_that_nobody_showed_ends_nothing() -> None:
    policy = dataclasses.replace(TEST_POLICY, require_release=False, release_age_s=60)
    accepted = judge.but(policy=policy, no_release=True)(session()).accepted()
    assert accepted.expires == NOW + policy.session_s
