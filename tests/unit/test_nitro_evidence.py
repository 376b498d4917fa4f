"""Nitro Enclaves' documents: an honest one is accepted, each lie is refused by its own step and reason.

Documents are made by tests/fakes/nitro_enclave.py, which shares no code with the parsers; a document of AWS's
is judged in tests/vectors/test_platform_samples.py.
"""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, VerificationError
from blindbuild.formats.cbor import decode_cbor, encode_cbor
from blindbuild.formats.nitro_document import MAX_DOCUMENT, parse_nitro_document
from blindbuild.manifest.platform_roots import PlatformRoots, parse_platform_roots
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.verify.evidence import EvidenceAppraisal, Expected, Reference
from blindbuild.verify.nitro import NitroEvidence
from blindbuild.verify.platform_evidence import appraise_evidence
from tests.fakes.authorities import MADE, YEARS, Rules, make_root
from tests.fakes.damage import assert_all_refused, bit_flips, truncations
from tests.fakes.nitro_enclave import ES384, REGISTERS, Raw, cbor, document, fields, hypervisor
from tests.fakes.published import NOW
from tests.fakes.snp_machine import roots_file

BOUND = bytes(range(32))
NONCE, KEY = b"n" * 32, b"a public key"


def reference(**values: bytes) -> Reference:
    stated = {f"PCR{number}": REGISTERS[number] for number in (0, 1, 2)} | values
    rules = {name: OneOf((Digest(HashAlgorithm.SHA384, value),), "") for name, value in stated.items()}
    return Reference("enclave", "nitro-enclave", rules)


def roots(*certificates: str, **settings) -> PlatformRoots:
    pinned = list(certificates) or [hypervisor().root.pem]
    return parse_platform_roots(roots_file(nitroEnclaves={"roots": pinned} | settings))


def judge(
    data: bytes | None = None,
    *,
    believed: PlatformRoots | None = None,
    references: tuple[Reference, ...] | None = None,
    bound: bytes = BOUND,
    now: int = NOW,
    **changes,
) -> EvidenceAppraisal:
    made = document(fields(NOW, BOUND, **changes)) if data is None else data
    expected = Expected(
        (reference(),) if references is None else references, bound, now, nonce=NONCE, public_key=KEY
    )
    return appraise_evidence(NitroEvidence(made), roots=believed or roots(), expected=expected)


def assert_refused(appraisal: EvidenceAppraisal, *reasons: str) -> None:
    assert appraisal.reasons == set(reasons)
    assert appraisal.verdict is None
    with pytest.raises(VerificationError):
        appraisal.accepted()


def test_an_honest_document_is_accepted() -> None:
    accepted = judge().accepted()
    assert (accepted.kind, accepted.platform) == ("nitro-enclave", "enclave")
    assert [value.name for value in accepted.values] == ["PCR0", "PCR1", "PCR2"]
    assert [step.id for step in judge().steps] == ["N1", "N2", "N3", "N4", "N5", "R1", "R2", "R3"]


def test_the_enclaves_own_fields_may_be_there_absent_or_null() -> None:
    for changes in ({"nonce": NONCE}, {"public_key": KEY}, {"nonce": NONCE, "public_key": KEY}):
        assert judge(**changes).accepted()
    absent = fields(NOW, BOUND)
    del absent["nonce"], absent["public_key"]
    assert judge(document(absent)).accepted()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"user_data": None}, "R3:binding-mismatch"),
        ({"user_data": b""}, "R3:binding-mismatch"),
        ({"user_data": bytes(32)}, "R3:binding-mismatch"),
        ({"user_data": BOUND + b"\0"}, "R3:binding-mismatch"),
        ({"nonce": b"m" * 32}, "R3:binding-mismatch"),
        ({"nonce": b""}, "R3:binding-mismatch"),
        ({"public_key": b"another key"}, "R3:binding-mismatch"),
        ({"timestamp": 1000 * (NOW - 301)}, "N4:document-too-old"),
        ({"timestamp": 1000 * (NOW + 61)}, "N4:document-from-future"),
        ({"pcrs": REGISTERS | {0: b"x" * 48}}, "R2:measurement-mismatch"),
        ({"pcrs": REGISTERS | {2: b"x" * 48}}, "R2:measurement-mismatch"),
    ],
)
def test_a_signed_document_about_something_else_is_refused(changes: dict, reason: str) -> None:
    assert_refused(judge(**changes), reason)


def test_an_enclave_in_debug_mode_is_refused_even_if_zeros_are_stated() -> None:
    zeros = REGISTERS | {number: bytes(48) for number in (0, 1, 2)}
    stated = reference(PCR0=bytes(48), PCR1=bytes(48), PCR2=bytes(48))
    assert_refused(judge(references=(stated,), pcrs=zeros), "N5:debug-mode")
    for number in (0, 1, 2):
        one = judge(
            references=(reference(**{f"PCR{number}": bytes(48)}),), pcrs=REGISTERS | {number: bytes(48)}
        )
        assert_refused(one, "N5:debug-mode")


def test_a_register_that_is_stated_and_not_reported_is_refused() -> None:
    stated = reference(PCR8=bytes(48))
    assert judge(references=(stated,)).accepted()
    fewer = {number: value for number, value in REGISTERS.items() if number != 8}
    assert_refused(judge(references=(stated,), pcrs=fewer), "R2:measurement-mismatch")


def test_reference_values_that_say_too_little_are_refused() -> None:
    for values in (
        {},
        {"PCR0": reference().values["PCR0"]},
        reference().values | {"PCR2": Unconstrained("any")},
    ):
        assert_refused(
            judge(references=(Reference("x", "nitro-enclave", values),)), "R1:reference-incomplete"
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"digest": "SHA512"}, "digest: expected SHA384"),
        ({"digest": b"SHA384"}, "digest: expected SHA384"),
        ({"extra": 1}, "fields: expected"),
        ({"module_id": ""}, "module_id"),
        ({"module_id": "\x1b[2J"}, "module_id"),
        ({"module_id": "x" * 129}, "module_id"),
        ({"timestamp": 0}, "timestamp"),
        ({"timestamp": -1}, "timestamp"),
        ({"timestamp": 1 << 63}, "timestamp"),
        ({"timestamp": b"1"}, "timestamp"),
        ({"timestamp": None}, "timestamp"),
        ({"pcrs": {}}, "pcrs: expected 1 to 32 registers"),
        ({"pcrs": None}, "pcrs"),
        ({"pcrs": {32: bytes(48)}}, "pcrs: expected bytes by numbers"),
        ({"pcrs": {-1: bytes(48)}}, "pcrs: expected bytes by numbers"),
        ({"pcrs": {"0": bytes(48)}}, "pcrs: expected bytes by numbers"),
        ({"pcrs": {0: bytes(32)}}, "a sha384 digest has 48 bytes, got 32"),
        ({"pcrs": {0: None}}, "pcrs: expected bytes by numbers"),
        ({"certificate": None}, "certificate: expected 1 to 1024 bytes"),
        ({"certificate": bytes(1025)}, "certificate: expected 1 to 1024 bytes"),
        ({"certificate": b"\x30\x03\x02\x01\x01"}, "not a DER certificate"),
        ({"cabundle": []}, "cabundle: expected 1 to 8"),
        ({"cabundle": [b"\x30"] * 9}, "cabundle: expected 1 to 8"),
        ({"cabundle": b""}, "cabundle: expected 1 to 8"),
        ({"nonce": "text"}, "nonce: expected at most 1024 bytes"),
        ({"nonce": bytes(1025)}, "nonce: expected at most 1024 bytes"),
        ({"user_data": 7}, "user_data: expected at most 1024 bytes"),
    ],
)
def test_a_malformed_document_is_refused_though_it_is_signed(changes: dict, message: str) -> None:
    data = document(fields(NOW, BOUND, **changes))
    with pytest.raises(FormatError, match=message):
        parse_nitro_document(data)
    assert_refused(judge(data), "N1:malformed")


@pytest.mark.parametrize("name", ["module_id", "digest", "timestamp", "pcrs", "certificate", "cabundle"])
def test_no_field_may_be_missing(name: str) -> None:
    values = fields(NOW, BOUND)
    del values[name]
    assert_refused(judge(document(values)), "N1:malformed")


def test_another_form_of_the_same_document_is_refused() -> None:
    payload = cbor(fields(NOW, BOUND))
    good = document(payload)
    assert judge(good).accepted()
    twice = payload.replace(b"\xa9", b"\xaa", 1) + cbor("nonce") + cbor(None)
    long_head = Raw(b"\xb8\x09" + payload[1:])
    for odd in (
        good + b"\0",
        b"\xd2" + good,  # tagged as COSE_Sign1
        b"\x9f" + good[1:] + b"\xff",  # of indefinite length
        document(twice),
        document(bytes(long_head)),
        document(payload + b"\0"),
        document(payload, unprotected={4: b"key"}),
        document(cbor([1, 2])),
        document(cbor(None)),
        bytes(MAX_DOCUMENT + 1),
    ):
        assert_refused(judge(odd), "N1:malformed")


def test_what_is_too_large_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match=f"expected at most {MAX_DOCUMENT} bytes"):
        parse_nitro_document(document(fields(NOW, BOUND)).ljust(MAX_DOCUMENT + 1, b"\0"))


def test_truncation_at_every_offset_is_refused() -> None:
    assert_all_refused(parse_nitro_document, truncations(document(fields(NOW, BOUND))), FormatError)


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])
def test_no_flipped_bit_is_accepted(step: int) -> None:
    good, believed = document(fields(NOW, BOUND)), roots()
    for damaged in bit_flips(good, step=step):
        appraisal = judge(damaged, believed=believed)
        assert appraisal.verdict is None
        assert any(reason.startswith(("N1:", "N2:", "N3:")) for reason in appraisal.reasons)
        assert not any(reason.endswith("internal-error") for reason in appraisal.reasons)


def test_another_key_or_algorithm_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1())
    assert_refused(judge(document(fields(NOW, BOUND), key=other)), "N3:signature-mismatch")
    es256 = document(fields(NOW, BOUND), protected=b"\xa1\x01\x26")
    assert_refused(judge(es256), "N3:signature-mismatch")
    for key in (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()):
        assert_refused(judge(certificate=hypervisor().certificate(key)), "N3:key-type")
    assert ES384 != b"\xa1\x01\x26"


def test_a_root_that_is_not_pinned_is_refused() -> None:
    stranger = make_root("test.nitro-enclaves", ec.generate_private_key(ec.SECP384R1()), hashes.SHA384())
    assert_refused(judge(believed=roots(stranger.pem)), "N2:certificate-root")
    assert_refused(judge(believed=PlatformRoots(None, None, None)), "N2:certificate-root")
    # the pinned root in front does not help a chain that does not lead to it
    region = stranger.below("region.test.nitro-enclaves", rules=Rules(path_length=1))
    instance = region.below("i-0")
    forged = instance.issue("an enclave", hypervisor().key.public_key(), [])
    bundle = [hypervisor().root.der, region.der, instance.der]
    assert_refused(judge(certificate=forged, cabundle=bundle), "N2:certificate-signature")


def test_a_bundle_out_of_order_or_with_gaps_is_refused() -> None:
    root, region, instance = hypervisor().bundle
    assert_refused(judge(cabundle=[root, instance, region]), "N2:certificate-issuer")
    assert_refused(judge(cabundle=[root, region]), "N2:certificate-issuer")
    assert_refused(judge(cabundle=[root]), "N2:certificate-issuer")
    assert_refused(judge(cabundle=[region, instance]), "N2:certificate-root")
    assert_refused(
        judge(certificate=instance, cabundle=[root, region]),
        "N2:certificate-authority",
        "N3:signature-mismatch",
    )


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (MADE, MADE + timedelta(hours=3), "N2:certificate-expired"),
        (MADE + YEARS, MADE + 2 * YEARS, "N2:certificate-not-yet-valid"),
    ],
)
def test_a_certificate_outside_its_time_is_refused(begin, end, reason: str) -> None:
    assert_refused(judge(certificate=hypervisor().certificate(begin=begin, end=end)), reason)


def test_the_age_is_the_policys() -> None:
    day = 24 * 3600
    assert judge(believed=roots(maximumAgeSeconds=day), now=NOW + day).accepted()
    assert_refused(judge(believed=roots(maximumAgeSeconds=day), now=NOW + day + 1), "N4:document-too-old")
    assert judge(now=NOW + 300).accepted()
    assert judge(now=NOW - 60).accepted()


def test_an_empty_binding_binds_nothing() -> None:
    assert_refused(judge(bound=b"", user_data=b""), "R3:binding-malformed")
    assert_refused(judge(bound=b"", user_data=None), "R3:binding-malformed")


def test_null_is_read_only_where_it_is_expected() -> None:
    assert decode_cbor(b"\x82\xf6\x01", nulls=True) == (None, 1)
    assert encode_cbor((None, 1)) == b"\x82\xf6\x01"
    assert decode_cbor(b"\xf6", nulls=True) is None
    for data in (b"\xf6", b"\x82\xf6\x01"):
        with pytest.raises(FormatError, match="major type 7 is not read here"):
            decode_cbor(data)
    for data in (b"\xf4", b"\xf7", b"\xf8\x16", b"\xa1\xf6\x01"):
        with pytest.raises(FormatError):
            decode_cbor(data, nulls=True)
