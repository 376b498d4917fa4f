"""The bad inputs 1 to 46, about envelopes, statements, releases and keys, before the judge a client uses."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import ManifestError
from blindbuild.formats.dsse import SignerKey, pre_authentication_encoding
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import PublicArea, RsaKey, Scheme
from blindbuild.manifest import parse_trust
from blindbuild.publish import SigningKey, generate_key
from blindbuild.verify.appraisal import Appraisal
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.quote import judge_signature
from tests.bad_inputs import accepted, numbered, record, refused, refusing
from tests.fakes.published import RELEASE_TYPE, STATEMENT_TYPE, release_value
from tests.fakes.software_tpm import TpmAuthority, sized
from tests.fakes.world import authority, judge, pinned_trust, publisher, session, tpm, trust_for

ALICE, BOB, EVE = publisher().key, generate_key(), generate_key()
STATEMENT = publisher().statement


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def signatures(
    *pairs: tuple[str, SigningKey], payload: bytes = STATEMENT, kind: str = STATEMENT_TYPE
) -> list:
    message = pre_authentication_encoding(kind, payload)
    return [{"keyid": key_id, "sig": b64(key.sign(message))} for key_id, key in pairs]


def envelope(said: bytes = STATEMENT, *, kind: str = STATEMENT_TYPE, **changes: object) -> bytes:
    """An envelope that Alice signed, with other fields afterwards."""
    signed = signatures((ALICE.public.key_id, ALICE), payload=said, kind=kind)
    return json.dumps({"payloadType": kind, "payload": b64(said), "signatures": signed} | changes).encode()


def judged(data: bytes, *, threshold: int = 1) -> Appraisal:
    """The appraisal of an honest server by this manifest, for a client who trusts Alice and Bob."""
    trust = dataclasses.replace(pinned_trust(), release_keys=(ALICE.public, BOB.public), threshold=threshold)
    # the release has as many signers as it takes: only the manifest is in question
    release = publisher().release
    if threshold == 2:
        payload = base64.b64decode(json.loads(release)["payload"])
        signed = signatures(("", ALICE), ("", BOB), payload=payload, kind=RELEASE_TYPE)
        release = json.dumps(json.loads(release) | {"signatures": signed}).encode()
    return judge.but(trust=trust, envelope=data, release=release)(session())


def test_the_honest_envelopes_are_accepted() -> None:
    accepted(judged(envelope()))
    accepted(judged(envelope(signatures=signatures(("", ALICE), ("", BOB))), threshold=2))


SIGNERS = {
    "1 no signatures": ([], 1, "signatures: expected a list of 1 to 16"),
    "1 none by a trusted key": ([("", EVE)], 1, "by 1 trusted keys, got 0"),
    "2 one below the threshold": ([("", ALICE)], 2, "by 2 trusted keys, got 1"),
    "2 a stranger as the second": ([("", ALICE), (BOB.public.key_id, EVE)], 2, "by 2 trusted keys, got 1"),
    "3 the same signature twice": ([("", ALICE)] * 2, 2, "by 2 trusted keys, got 1"),
    "4 one key under two key ids": ([("a", ALICE), ("b", ALICE)], 2, "by 2 trusted keys, got 1"),
    "4 one key under the other's id": (
        [(ALICE.public.key_id, ALICE), (BOB.public.key_id, ALICE)],
        2,
        "by 2 trusted keys, got 1",
    ),
    "5 key ids that differ in case": (
        [(ALICE.public.key_id, ALICE), (ALICE.public.key_id.upper(), ALICE)],
        2,
        "by 2 trusted keys, got 1",
    ),
    "7 a known key id, another key": ([(ALICE.public.key_id, EVE)], 1, "by 1 trusted keys, got 0"),
}


@pytest.mark.parametrize("name", numbered(SIGNERS))
def test_too_few_signers(name: str) -> None:
    pairs, threshold, saying = SIGNERS[name]
    appraisal = judged(envelope(signatures=signatures(*pairs)), threshold=threshold)
    refused(appraisal, "M4:envelope-refused", saying=saying)


@pytest.mark.bad_input(6)
@pytest.mark.parametrize("key_id", ["", "unknown", "0" * 64, EVE.public.key_id])
def test_a_trusted_signature_under_an_unknown_key_id(key_id: str) -> None:
    accepted(judged(envelope(signatures=signatures((key_id, ALICE)))))
    accepted(judged(envelope(signatures=signatures((key_id, EVE), ("", ALICE)))))


@pytest.mark.bad_input(8)
@pytest.mark.parametrize("message", [STATEMENT, b64(STATEMENT).encode(), STATEMENT_TYPE.encode() + STATEMENT])
def test_a_signature_over_something_else_than_the_encoding(message: bytes) -> None:
    signed = [{"keyid": ALICE.public.key_id, "sig": b64(ALICE.sign(message))}]
    refused(judged(envelope(signatures=signed)), "M4:envelope-refused", saying="by 1 trusted keys, got 0")


ENVELOPES = {
    "9 payloadType changed after signing": (
        envelope(payloadType=RELEASE_TYPE),
        "expected payload type application/vnd.in-toto+json",
    ),
    "9 signed as a release, called a statement": (
        envelope(kind=RELEASE_TYPE, payloadType=STATEMENT_TYPE),
        "by 1 trusted keys, got 0",
    ),
    "9 another case": (envelope(kind=STATEMENT_TYPE.upper()), "expected payload type"),
    "9 a parameter after it": (envelope(kind=STATEMENT_TYPE + ";v=1"), "expected payload type"),
    "10 a letter outside ASCII": (envelope(kind="appliçation/vnd.in-toto+json"), "expected payload type"),
    "10 a look-alike": (envelope(kind="\u0430pplication/vnd.in-toto+json"), "expected payload type"),
    "11 application/json": (envelope(kind="application/json"), "expected payload type"),
    "13 a newline": (
        envelope(payload=b64(STATEMENT)[:76] + "\n" + b64(STATEMENT)[76:]),
        "payload: expected base64",
    ),
    "13 a space": (envelope(payload=b64(STATEMENT) + " "), "payload: expected base64"),
    "15 no padding": (envelope(payload=b64(STATEMENT).rstrip("=")), "base64 with its padding"),
    "16 one byte above the limit": (envelope(bytes((1 << 20) + 1)), "expected at most 1048576 bytes"),
    "16 an envelope above the limit": (envelope() + b" " * (2 << 20), "expected at most 2097152 bytes"),
    "17 a second payload": (envelope()[:-1] + b', "payload": "AA=="}', "duplicate key 'payload'"),
    "17 a second type in front": (b'{"payloadType": "x", ' + envelope()[1:], "duplicate key 'payloadType'"),
    "24 a byte order mark": (b"\xef\xbb\xbf" + envelope(), "byte order mark"),
    "25 not UTF-8": (envelope().replace(b"vnd", b"v\xffd"), "not UTF-8"),
    "27 nested too deep": (b"[" * 100_000, "nested deeper than 32"),
    "28 bytes after it": (envelope() + b"{}", "Extra data"),
}


def without_padding_bits(text: str) -> str:
    """The same base64 with a padding bit set, which decoders that are not strict ignore."""
    assert text.endswith("=")
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    return body[:-1] + letters[letters.index(body[-1]) + 1] + text[len(body) :]


@pytest.mark.parametrize("name", numbered(ENVELOPES))
def test_an_envelope_of_another_form(name: str) -> None:
    data, saying = ENVELOPES[name]
    refused(judged(data), "M4:envelope-refused", saying=saying)


@pytest.mark.bad_input(12)
def test_the_url_safe_alphabet() -> None:
    signed = signatures(("", ALICE))
    signed[0]["sig"] = signed[0]["sig"].replace("+", "-").replace("/", "_")
    payload = b64(STATEMENT).replace("+", "-").replace("/", "_")
    accepted(judged(envelope(payload=payload, signatures=signed)))


@pytest.mark.bad_input(14)
def test_padding_bits_that_are_not_zero() -> None:
    changed = signatures(("", ALICE))
    changed[0]["sig"] = without_padding_bits(changed[0]["sig"])
    # a lax decoder gives the same bytes, and would accept
    assert base64.b64decode(changed[0]["sig"]) == base64.b64decode(signatures(("", ALICE))[0]["sig"])
    saying = "sig: expected base64 whose padding bits are zero"
    refused(judged(envelope(signatures=changed)), "M4:envelope-refused", saying=saying)


# --- what is signed, but is no statement


def signed_statement(payload: bytes) -> Appraisal:
    return judge.but(envelope=envelope(payload))(session(statement=payload))


def test_the_statement_that_is_changed_below_is_accepted_as_it_is() -> None:
    accepted(signed_statement(STATEMENT))


def swap(old: bytes, new: bytes) -> bytes:
    assert STATEMENT.count(old) >= 1
    return STATEMENT.replace(old, new, 1)


TEXTS = {
    "18 a key twice": (swap(b'"debug":false', b'"debug":true,"debug":false'), "duplicate key 'debug'"),
    "19 NaN": (swap(b'"sequence":42', b'"sequence":NaN'), "expected an integer, got NaN"),
    "19 Infinity": (swap(b'"sequence":42', b'"sequence":-Infinity'), "expected an integer, got -Infinity"),
    "19 1e400": (swap(b'"sequence":42', b'"sequence":1e400'), "expected an integer, got 1e400"),
    "20 42.0": (swap(b'"sequence":42', b'"sequence":42.0'), "expected an integer, got 42.0"),
    "20 4.2e1": (swap(b'"sequence":42', b'"sequence":4.2e1'), "expected an integer, got 4.2e1"),
    "21 2^53": (swap(b'"sequence":42', b'"sequence":9007199254740992'), "an integer below 2^53"),
    "21 10^4300": (swap(b'"sequence":42', b'"sequence":1' + b"0" * 4300), "an integer below 2^53"),
    "22 -1": (swap(b'"sequence":42', b'"sequence":-1'), "predicate.sequence: expected 0 to"),
    "22 -0": (swap(b'"sequence":42', b'"sequence":-0'), "an integer below 2^53"),
    "23 true": (swap(b'"sequence":42', b'"sequence":true'), "expected an integer, got a boolean"),
    "23 0 for false": (swap(b'"debug":false', b'"debug":0'), "expected true or false, got an integer"),
    "24 a byte order mark": (b"\xef\xbb\xbf" + STATEMENT, "byte order mark"),
    "25 invalid UTF-8": (swap(b"recorded", b"recorde\xff"), "not UTF-8"),
    "25 an overlong form": (swap(b"recorded", b"record\xc1\xa5d"), "not UTF-8"),
    "26 a lone surrogate": (swap(b"recorded", b"\\ud800"), "lone surrogate"),
    "27 100,000 lists": (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32"),
    "27 33 lists": (swap(b'"debug":false', b'"debug":' + b"[" * 33 + b"]" * 33), "nested deeper than 32"),
    "28 a newline after it": (STATEMENT + b"\n", "not in its RFC 8785 form"),
    "28 another value after it": (STATEMENT + b"{}", "Extra data"),
    "28 a NUL after it": (STATEMENT + b"\0", "Extra data"),
    "29 a space": (swap(b'"sequence":42', b'"sequence": 42'), "not in its RFC 8785 form"),
    "29 keys in another order": (json.dumps(publisher().value, separators=(",", ":")).encode(), "RFC 8785"),
    "29 an escape": (swap(b'"recorded"', b'"\\u0072ecorded"'), "not in its RFC 8785 form"),
    "38 a register twice": (
        swap(b'"10":{"rule":"initial"}', b'"10":{"rule":"initial"},"10":{"rule":"initial"}'),
        "duplicate key '10'",
    ),
}


@pytest.mark.parametrize("name", numbered(TEXTS))
def test_a_signed_text_that_is_not_strict(name: str) -> None:
    payload, saying = TEXTS[name]
    refused(signed_statement(payload), "M6:malformed", saying=saying)


def edited(change) -> bytes:
    value = copy.deepcopy(publisher().value)
    change(value, value["predicate"], value["predicate"]["platforms"][0]["banks"]["sha256"]["pcrs"])
    return rfc8785.dumps(value)


IMAGE_DIGEST = publisher().value["subject"][0]["digest"]["sha256"]
RULE = {"rule": "initial"}
VALUES = {
    "30 v0.1": (lambda v, _p, _r: v.update(_type="https://in-toto.io/Statement/v0.1"), "_type: expected"),
    "31 another predicate": (
        lambda v, _p, _r: v.update(predicateType="https://slsa.dev/provenance/v1"),
        "predicateType: expected",
    ),
    "31 major version 2": (
        lambda v, _p, _r: v.update(predicateType="urn:blindbuild:reference-measurements:v2"),
        "predicateType: expected",
    ),
    "32 at the top": (lambda v, _p, _r: v.update(more=1), "statement: unknown 'more'"),
    "33 in the predicate": (lambda _v, p, _r: p.update(more=1), "predicate: unknown 'more'"),
    "33 in a rule": (lambda _v, _p, r: r["8"].update(value="00" * 32), "unknown 'value'"),
    "34 no subject": (lambda v, _p, _r: v.update(subject=[]), "statement.subject: expected 1 to"),
    "35 upper case": (
        lambda v, _p, _r: v["subject"][0]["digest"].update(sha256=IMAGE_DIGEST.upper()),
        "expected 64 lower-case hex digits",
    ),
    "35 31 bytes": (
        lambda v, _p, _r: v["subject"][0]["digest"].update(sha256=IMAGE_DIGEST[2:]),
        "expected 64 lower-case hex digits",
    ),
    "35 only MD5": (lambda v, _p, _r: v["subject"][0].update(digest={"md5": "ab" * 16}), "missing sha256"),
    "36 register 24": (lambda _v, _p, r: r.update({"24": RULE}), "unknown '24'"),
    "36 register 04": (lambda _v, _p, r: r.update({"04": RULE}), "unknown '04'"),
    "36 register -1": (lambda _v, _p, r: r.update({"-1": RULE}), "unknown '-1'"),
    "36 register with a space": (lambda _v, _p, r: r.update({"4 ": RULE}), "unknown '4 '"),
    "36 in place of the register": (lambda _v, _p, r: r.update({"04": r.pop("4")}), "missing 4"),
    "37 a register left out": (lambda _v, _p, r: r.pop("12"), "missing 12"),
    "39 31 bytes": (lambda _v, _p, r: r["4"].update(value="ab" * 31), "expected 64 lower-case hex digits"),
    "39 33 bytes": (lambda _v, _p, r: r["4"].update(value="ab" * 33), "expected 64 lower-case hex digits"),
    "39 31 bytes of two": (lambda _v, _p, r: r["0"].update(values=["ab" * 31]), "expected 64 lower-case hex"),
    "40 beside another": (
        lambda _v, p, r: p["platforms"][0]["banks"].update(sha1={"pcrs": r}),
        "unknown 'sha1'",
    ),
    "40 alone": (
        lambda _v, p, r: p["platforms"][0].update(banks={"sha1": {"pcrs": r}}),
        "unknown 'sha1'",
    ),
    "41 nothing to match": (lambda _v, _p, r: r["0"].update(values=[]), "expected 1 to 64 entries"),
}


@pytest.mark.parametrize("name", numbered(VALUES))
def test_a_signed_statement_that_says_something_else(name: str) -> None:
    change, saying = VALUES[name]
    refused(signed_statement(edited(change)), "M6:malformed", saying=saying)


RELEASES = {
    "42 it ends before it begins": ({"validUntil": "2025-12-31T23:59:59Z"}, "a time after validFrom"),
    "42 it ends as it begins": ({"validUntil": "2026-01-01T00:00:00Z"}, "a time after validFrom"),
    "43 without Z": ({"validFrom": "2026-01-01T00:00:00"}, "expected a time such as"),
    "43 with an offset": ({"validFrom": "2026-01-01T00:00:00+00:00"}, "expected a time such as"),
    "43 in a leap second": ({"validFrom": "2016-12-31T23:59:60Z"}, "expected a time that exists"),
}


@pytest.mark.parametrize("name", numbered(RELEASES))
def test_a_signed_release_that_is_none(name: str) -> None:
    changes, saying = RELEASES[name]
    data = envelope(rfc8785.dumps(release_value(STATEMENT, publisher().value) | changes), kind=RELEASE_TYPE)
    refused(judge.but(release=data)(session()), "M9:release-malformed", saying=saying)


# --- keys


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # SEC 2, 2.4.2: n of P-256
ED25519_ORDER = 2**252 + 27742317777372353535851937790883648493  # RFC 8032, 5.1: L


def raw(r: int, s: int) -> bytes:
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def p256_cases() -> dict[str, tuple[bytes, bytes]]:
    """A P-256 release key's envelopes: what the key signed, and what became of the signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.sign(pre_authentication_encoding(STATEMENT_TYPE, STATEMENT), ec.ECDSA(hashes.SHA256()))
    r, s = decode_dss_signature(der)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    values = {
        "as it should be": raw(r, s),
        "44 DER": der,
        "44 DER and a byte": der + b"\0",
        "44 a byte after it": raw(r, s) + b"\0",
        "44 r is 0": raw(0, s),
        "44 s is 0": raw(r, 0),
        "44 r is n": raw(ORDER, s),
        "44 s above n": raw(r, s + ORDER) if s + ORDER < 1 << 256 else raw(r, (1 << 256) - 1),
        "44 r negative, modulo 2^256": raw((1 << 256) - r, s),
    }
    return {name: (spki, value) for name, value in values.items()}


P256 = p256_cases()


@pytest.mark.parametrize("name", numbered(P256))
def test_a_p_256_signature_whose_numbers_are_none(name: str) -> None:
    spki, value = P256[name]
    trust = dataclasses.replace(
        pinned_trust(), release_keys=(SignerKey.from_spki(spki), ALICE.public), threshold=1
    )
    data = envelope(signatures=[{"sig": b64(value)}])
    appraisal = judge.but(trust=trust, envelope=data)(session())
    if name == "as it should be":
        accepted(appraisal)
    else:
        refused(appraisal, "M4:envelope-refused", saying="by 1 trusted keys, got 0")


@pytest.mark.bad_input(45)
@pytest.mark.parametrize("times", [1, 2])
def test_an_ed25519_signature_with_s_above_the_order(times: int) -> None:
    (signed,) = signatures(("", ALICE))
    good = base64.b64decode(signed["sig"])
    s = int.from_bytes(good[32:], "little") + times * ED25519_ORDER
    value = good[:32] + s.to_bytes(32, "little")
    appraisal = judged(envelope(signatures=[{"sig": b64(value)}]))
    refused(appraisal, "M4:envelope-refused", saying="by 1 trusted keys, got 0")


def trust_with(spki: bytes) -> bytes:
    """A trust file whose only release key is this one."""
    value = json.loads(publisher().trust(test_tpm_roots=[authority().root_pem]))
    return json.dumps(value | {"releaseKeys": [{"public": b64(spki)}]}).encode()


@pytest.mark.bad_input(45)
@pytest.mark.parametrize(
    "point",
    [
        "00" * 32,
        "01" + "00" * 31,
        "01" + "00" * 30 + "80",
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ],
)
def test_a_release_key_of_small_order(point: str) -> None:
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(point))
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with refusing("the Ed25519 key is of small order", ManifestError):
        parse_trust(trust_with(spki))


def rsa_area(modulus: int, exponent: int) -> PublicArea:
    size = (modulus.bit_length() + 7) // 8
    key = RsaKey(size * 8, exponent, modulus.to_bytes(size, "big"))
    scheme = Scheme(Algorithm.RSASSA, HashAlgorithm.SHA256.tpm_id)
    return PublicArea(HashAlgorithm.SHA256.tpm_id, 0x00050072, b"", None, scheme, key)


@pytest.mark.bad_input(46)
def test_an_rsa_release_key() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=1024).public_key()  # noqa: S505
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with refusing("expected an Ed25519 or P-256 key", ManifestError):
        parse_trust(trust_with(spki))


@pytest.mark.bad_input(46)
@pytest.mark.parametrize(("bits", "exponent"), [(1024, 65537), (2048, 1)])
def test_an_rsa_attestation_key_that_anybody_can_sign_for(bits: int, exponent: int) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    numbers = key.public_key().public_numbers()
    message = tpm().attest("sha256", bytes(32))
    if exponent == 1:  # then the padded digest is its own signature
        from hashlib import sha256

        info = bytes.fromhex("3031300d060960864801650304020105000420") + sha256(message).digest()
        value = b"\x00\x01" + b"\xff" * (bits // 8 - 3 - len(info)) + b"\x00" + info
    else:
        from cryptography.hazmat.primitives.asymmetric import padding

        value = key.sign(message, padding.PKCS1v15(), hashes.SHA256())
    steps = Checklist()
    judge_signature(
        steps,
        public=rsa_area(numbers.n, exponent),
        raw_quote=message,
        raw_signature=b"\x00\x14\x00\x0b" + sized(value),
        needs=(),
    )
    assert [f"{step.id}:{step.reason}" for step in steps.failed()] == ["Q2:signature-invalid"]
    record("Q2:signature-invalid")


@pytest.mark.bad_input(46)
@pytest.mark.parametrize("bits", [1024, 2048])
def test_an_authority_with_an_rsa_key_of_1024_bits(bits: int) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    weak = TpmAuthority("weak", issuer_key=key)
    appraisal = judge.but(trust=trust_for(weak))(session(tpm().but(authority=weak)))
    if bits == 1024:
        refused(appraisal, "A4:certificate-path")
    else:
        accepted(appraisal)
