"""Attestation keys that a cloud made: RSA-2048 and with noDA, weak ones, and their signatures."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from blindbuild.manifest import parse_trust
from blindbuild.verify import Policy
from tests.bad_inputs import accepted, record, refused
from tests.fakes.ak_authority import SERVER_AUTH, TCG_AK, AkAuthority, AkProfile
from tests.fakes.rsa_key_tpm import (
    AZURE_ATTRIBUTES,
    RSAPSS,
    RSASSA,
    SHA1,
    SHA256,
    SHA384,
    RsaKeyTpm,
    rsa_key,
)
from tests.fakes.software_tpm import SoftwareTpm, sized
from tests.fakes.world import (
    Judge,
    judge,
    publisher,
    real_trust,
    session,
    tpm,
    with_endorsement,
    with_evidence,
)

AUTHORITY = AkAuthority()
RULE = publisher().value["predicate"]["attestationKey"]
BOTH = publisher().but(attestationKey=RULE | {"schemes": ["ecdsa-p256-sha256", "rsassa-2048-sha256"]})
STRICT = Judge(published=BOTH, trust=parse_trust(publisher().trust(**AUTHORITY.pems)), policy=Policy())
DOCUMENT_SIGNING = "1.3.6.1.4.1.311.10.3.12"


def machine(**changes) -> RsaKeyTpm:
    shared = {field.name: getattr(tpm(), field.name) for field in dataclasses.fields(SoftwareTpm)}
    return RsaKeyTpm(**shared | changes)


def certificate_of(used: SoftwareTpm, **profile) -> bytes:
    key = used.signer if isinstance(used, RsaKeyTpm) else used.ak
    return AUTHORITY.issue(key.public_key(), AkProfile(**profile))


def certified(used: SoftwareTpm, certificate: bytes | None = None):
    made = session(used, statement=BOTH.statement, credential=False)
    return with_endorsement(made, ak_certificate=certificate or certificate_of(used))


def pinned(used: SoftwareTpm) -> Judge:
    return STRICT.but(trust=parse_trust(publisher().trust(attestation_keys=[used.ak_public])))


CLOUDS = {
    "Google's": machine(),
    "Google's, the exponent written out": machine(exponent=65537),
    "Azure's": machine(ak_attributes=AZURE_ATTRIBUTES),
    "ECC with noDA": tpm().but(ak_attributes=AZURE_ATTRIBUTES),
}


# --- honest ones


@pytest.mark.parametrize("name", CLOUDS)
def test_a_clouds_key_that_is_certified_is_accepted(name: str) -> None:
    verdict = STRICT(certified(CLOUDS[name])).accepted()
    assert verdict.attestation_key == CLOUDS[name].ak_name


@pytest.mark.parametrize("name", CLOUDS)
def test_a_clouds_key_that_is_pinned_is_accepted(name: str) -> None:
    made = session(CLOUDS[name], statement=BOTH.statement, credential=False)
    assert pinned(CLOUDS[name])(made).accepted().attestation_key == CLOUDS[name].ak_name


def test_azures_certificate_says_one_purpose_more() -> None:
    used = CLOUDS["Azure's"]
    azure = {"extended": (DOCUMENT_SIGNING, TCG_AK), "is_authority": None}
    made = certified(used, certificate_of(used, **azure))
    accepted(STRICT(made))
    assert "as Azure certifies it" in next(s.detail for s in STRICT(made).steps if s.id == "A9")


@pytest.mark.bad_input(113)
@pytest.mark.parametrize(
    "extended",
    [(DOCUMENT_SIGNING,), (DOCUMENT_SIGNING, TCG_AK, SERVER_AUTH), (DOCUMENT_SIGNING, SERVER_AUTH)],
)
def test_documents_alone_are_no_attestations(extended: tuple[str, ...]) -> None:
    used = CLOUDS["Azure's"]
    refused(STRICT(certified(used, certificate_of(used, extended=extended))), "A9:certificate-profile")


# --- a credential proves our own key alone


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Google's", "A2:key-template"),
        ("Azure's", "A2:key-attributes"),
        ("ECC with noDA", "A2:key-attributes"),
    ],
)
def test_a_clouds_key_beside_an_endorsement_certificate_is_refused(name: str, reason: str) -> None:
    made = session(CLOUDS[name], statement=BOTH.statement)
    appraisal = judge.but(published=BOTH, trust=real_trust())(made)
    refused(appraisal, reason)
    assert any("trust --ak-root" in hint for hint in appraisal.hints)


def test_a_trust_file_with_two_ways_lets_no_other_key_in() -> None:
    both = dataclasses.replace(STRICT.trust, tpm_roots=STRICT.trust.ak_roots)
    appraisal = STRICT.but(trust=both)(certified(CLOUDS["Google's"]))
    assert appraisal.reasons >= {"A1:trust-ambiguous", "A2:key-template"}
    assert appraisal.verdict is None


@pytest.mark.parametrize(
    ("scheme", "used"), [("ecdsa-p256-sha256", CLOUDS["Google's"]), ("rsassa-2048-sha256", tpm())]
)
def test_a_statement_that_does_not_name_the_scheme_refuses_the_key(scheme: str, used: SoftwareTpm) -> None:
    asking = publisher().but(attestationKey=RULE | {"schemes": [scheme]})
    made = session(used, statement=asking.statement, credential=False)
    made = with_endorsement(made, ak_certificate=certificate_of(used))
    refused(
        STRICT.but(published=asking)(made), "A2:key-scheme", saying=f"expected {scheme}, as the statement"
    )


# --- keys that may do more, or are weak; certified and pinned all the same

ATTRIBUTES = {
    "unrestricted": pytest.param(0x00040072, marks=pytest.mark.bad_input(109)),
    "unrestricted, noDA": pytest.param(0x00040472, marks=pytest.mark.bad_input(109)),
    "decrypts too": pytest.param(0x00070072, marks=pytest.mark.bad_input(110)),
    "not fixedTPM": pytest.param(0x00050070, marks=pytest.mark.bad_input(111)),
    "not fixedParent": 0x00050062,
    "not made in the TPM": 0x00050052,
    "signs nothing": 0x00010072,
    "by a policy": 0x000500B2,
    "both": 0x000500F2,
    "duplicable, encrypted": 0x00050872,
    "signs certificates": 0x000D0072,
    "forgotten at each start": 0x00050076,
    "of a reserved bit": 0x00050073,
}


@pytest.mark.parametrize("attributes", ATTRIBUTES.values(), ids=ATTRIBUTES)
def test_a_key_that_may_do_more_is_refused_whoever_certified_it(attributes: int) -> None:
    used = machine(ak_attributes=attributes)
    appraisal = STRICT(certified(used))
    refused(appraisal, "A2:key-attributes")
    assert not appraisal.hints
    refused(pinned(used)(session(used, statement=BOTH.statement, credential=False)), "A2:key-attributes")


TEMPLATES = {
    "RSAPSS": {"scheme": (RSAPSS, SHA256)},
    "SHA-1": {"scheme": (RSASSA, SHA1)},
    "SHA-384": {"scheme": (RSASSA, SHA384)},
    "no scheme": {"scheme": (0x0010,)},
    "encryption": {"scheme": (0x0015,)},
    "ECDAA": {"scheme": (0x001A, SHA256)},
    "a policy": {"policy": bytes(32)},
}


@pytest.mark.bad_input(104)
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_key_of_another_scheme_is_refused(name: str) -> None:
    reason = "A2:malformed" if name == "ECDAA" else "A2:key-template"
    appraisal = STRICT(certified(machine(**TEMPLATES[name])))
    assert reason in appraisal.reasons
    assert not appraisal.hints
    assert appraisal.verdict is None
    assert not any(failed.startswith("Q2") for failed in appraisal.reasons)
    record(reason)


MODULUS = rsa_key().public_key().public_numbers().n
WEAK = {
    "RSA-1024": ({"signer": rsa_key(1024), "bits": 1024}, "A3:key-size"),
    "RSA-1024 that says 2048": ({"signer": rsa_key(1024)}, "A3:key-size"),
    "RSA-2048 that says 1024": ({"bits": 1024}, "A3:key-size"),
    "RSA-3072": ({"signer": rsa_key(3072), "bits": 3072}, "A3:key-size"),
    "2047 bits": ({"modulus": (MODULUS >> 1 | 1).to_bytes(256, "big")}, "A3:key-size"),
    "a zero before the modulus": ({"modulus": b"\0" + MODULUS.to_bytes(256, "big")}, "A3:key-size"),
    "a cut modulus": ({"modulus": MODULUS.to_bytes(256, "big")[:-1]}, "A3:key-size"),
    "an even modulus": ({"modulus": (MODULUS - 1).to_bytes(256, "big")}, "A3:key-size"),
    "exponent 3": ({"signer": rsa_key(exponent=3), "exponent": 3}, "A3:key-exponent"),
    "exponent 1": ({"exponent": 1}, "A3:key-exponent"),
    "exponent 65539": ({"exponent": 65539}, "A3:key-exponent"),
    "exponent 2^32-1": ({"exponent": 0xFFFFFFFF}, "A3:key-exponent"),
}


@pytest.mark.parametrize("name", WEAK)
def test_a_weak_key_is_refused_whoever_certified_it(name: str) -> None:
    changes, reason = WEAK[name]
    used = machine(**changes)
    for appraisal in (
        STRICT(certified(used)),
        pinned(used)(session(used, statement=BOTH.statement, credential=False)),
    ):
        assert reason in appraisal.reasons
        assert appraisal.reasons <= {reason, "A5:certificate-of-other-key"}
        assert appraisal.verdict is None


def test_a_key_of_one_kind_with_the_scheme_of_the_other_is_refused() -> None:
    appraisal = STRICT(certified(machine(scheme=(0x0018, SHA256))))
    assert appraisal.reasons == {"A3:key-type"}
    area = bytearray(tpm().ak_area)
    area[12:14] = RSASSA.to_bytes(2, "big")
    made = with_endorsement(certified(tpm()), ak_public=sized(bytes(area)))
    assert STRICT(made).reasons == {"A3:key-type"}


# --- the certificate's key


@pytest.mark.bad_input(115)
@pytest.mark.parametrize(
    "other",
    [rsa_key(number=1), rsa_key(3072), ec.generate_private_key(ec.SECP256R1())],
    ids=["another modulus", "a longer one", "a curve"],
)
def test_a_certificate_of_another_key_is_refused(other) -> None:
    made = certified(machine(), AUTHORITY.issue(other.public_key()))
    refused(STRICT(made), "A5:certificate-of-other-key")


@pytest.mark.bad_input(115)
def test_a_certificate_of_the_same_modulus_with_another_exponent_is_refused() -> None:
    other = rsa.RSAPublicNumbers(3, MODULUS).public_key()
    refused(STRICT(certified(machine(), AUTHORITY.issue(other))), "A5:certificate-of-other-key")


# --- signatures

QUOTE = certified(machine()).evidence.quote


def signature(value: bytes, *, scheme: int = RSASSA, algorithm: int = SHA256) -> bytes:
    return struct.pack(">HH", scheme, algorithm) + sized(value)


SHA1_HASH = hashes.SHA1()  # noqa: S303 - what must be refused


def signed(pad: padding.AsymmetricPadding, algorithm: hashes.HashAlgorithm, key=None) -> bytes:
    return (key or rsa_key()).sign(QUOTE, pad, algorithm)


HONEST = signed(padding.PKCS1v15(), hashes.SHA256())
PSS = signed(padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
SIGNATURES = {
    "RSAPSS by its name": (signature(PSS, scheme=RSAPSS), "Q3:signature-scheme"),
    "RSASSA by another name": (signature(HONEST, scheme=RSAPSS), "Q3:signature-scheme"),
    "SHA-1": (
        signature(signed(padding.PKCS1v15(), SHA1_HASH), algorithm=SHA1),
        "Q3:signature-scheme",
    ),
    "SHA-384": (
        signature(signed(padding.PKCS1v15(), hashes.SHA384()), algorithm=SHA384),
        "Q3:signature-scheme",
    ),
    "ECDSA": (struct.pack(">HH", 0x0018, SHA256) + sized(bytes(32)) * 2, "Q3:signature-scheme"),
    "HMAC": (signature(bytes(32), scheme=0x0005), "Q3:signature-scheme"),
    "RSAPSS under RSASSA's name": (signature(PSS), "Q2:signature-invalid"),
    "SHA-1 under SHA-256's name": (
        signature(signed(padding.PKCS1v15(), SHA1_HASH)),
        "Q2:signature-invalid",
    ),
    "by another key": (
        signature(signed(padding.PKCS1v15(), hashes.SHA256(), rsa_key(number=1))),
        "Q2:signature-invalid",
    ),
    "the modulus itself": (signature(MODULUS.to_bytes(256, "big")), "Q2:signature-invalid"),
    "larger than the modulus": (signature(b"\xff" * 256), "Q2:signature-invalid"),
    "nothing but zeros": (signature(bytes(256)), "Q2:signature-invalid"),
    "one": (signature(bytes(255) + b"\1"), "Q2:signature-invalid"),
    "a zero in front": (signature(b"\0" + HONEST), "Q4:signature-malformed"),
    "cut by a byte": (signature(HONEST[:-1]), "Q4:signature-malformed"),
    "without its first byte": (signature(HONEST[1:]), "Q4:signature-malformed"),
    "empty": (signature(b""), "Q4:signature-malformed"),
    "of 3072 bits": (
        signature(signed(padding.PKCS1v15(), hashes.SHA256(), rsa_key(3072))),
        "Q4:signature-malformed",
    ),
    "a byte after it": (signature(HONEST) + b"\0", "Q4:signature-malformed"),
    "a size that is too large": (struct.pack(">HHH", RSASSA, SHA256, 257) + HONEST, "Q4:signature-malformed"),
}


@pytest.mark.bad_input(104)
@pytest.mark.parametrize("name", SIGNATURES)
def test_another_signature_is_refused(name: str) -> None:
    made = certified(machine())
    assert made.evidence.quote == QUOTE
    accepted(STRICT(with_evidence(made, signature=signature(HONEST))))
    value, reason = SIGNATURES[name]
    refused(STRICT(with_evidence(made, signature=value)), reason)


def test_every_flipped_bit_of_a_signature_is_refused() -> None:
    made = certified(machine())
    for at in range(6, 262, 5):
        flipped = bytearray(made.evidence.signature)
        flipped[at] ^= 0x10
        refused(STRICT(with_evidence(made, signature=bytes(flipped))), "Q2:signature-invalid")


def test_a_key_in_another_hierarchy_is_refused() -> None:
    owner = struct.pack(">I", 0x40000001)
    used = machine()
    name = b"\0\x0b" + hashlib.sha256(owner + used.ak_name).digest()
    made = certified(used.but(shape=dataclasses.replace(used.shape, signer=name)))
    refused(STRICT(made), "Q11:signer-elsewhere")
