"""DSSE envelopes: what is signed, by how many different keys."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.errors import EnvelopeError, FormatError, ManifestError
from blindbuild.formats.dsse import (
    _SMALL_ORDER,
    SignerKey,
    parse_envelope,
    pre_authentication_encoding,
    verify_envelope,
)
from blindbuild.publish import add_signature, generate_key, sign_payload
from tests.fakes.published import RELEASE_TYPE, Publisher

TYPE = "application/vnd.in-toto+json"
ALICE, BOB, EVE = generate_key(), generate_key(), generate_key()
PAYLOAD = b'{"a":1}'
STATEMENT = Publisher().statement


def verify(data: bytes, *, keys=(ALICE, BOB), threshold: int = 1):
    trusted = [key.public for key in keys]
    return verify_envelope(parse_envelope(data), keys=trusted, threshold=threshold, payload_type=TYPE)


def changed(data: bytes, **changes) -> bytes:
    return json.dumps(json.loads(data) | changes).encode()


def signatures(*pairs) -> list[dict]:
    message = pre_authentication_encoding(TYPE, PAYLOAD)
    return [
        ({} if key_id is None else {"keyid": key_id}) | {"sig": base64.b64encode(key.sign(message)).decode()}
        for key_id, key in pairs
    ]


def envelope(*pairs) -> bytes:
    return changed(sign_payload(ALICE, TYPE, PAYLOAD), signatures=signatures(*pairs))


def test_a_signed_payload_comes_back_with_its_signer() -> None:
    verified = verify(sign_payload(ALICE, TYPE, PAYLOAD))
    assert verified.payload == PAYLOAD
    assert verified.signers == (ALICE.public.key_id,)


def test_two_keys_reach_a_threshold_of_two() -> None:
    both = add_signature(BOB, sign_payload(ALICE, TYPE, STATEMENT), TYPE)
    assert len(verify(both, threshold=2).signers) == 2


def test_a_key_does_not_sign_an_envelope_twice() -> None:
    with pytest.raises(EnvelopeError, match="has signed"):
        add_signature(ALICE, sign_payload(ALICE, TYPE, STATEMENT), TYPE)


@pytest.mark.parametrize(
    ("claimed", "meant"),
    [("application/vnd.anything", "application/vnd.anything"), (RELEASE_TYPE, TYPE), (TYPE, RELEASE_TYPE)],
)
def test_a_second_signer_signs_only_what_was_meant(claimed: str, meant: str) -> None:
    with pytest.raises(EnvelopeError, match="expected a payload of type"):
        add_signature(BOB, sign_payload(ALICE, claimed, STATEMENT), meant)


@pytest.mark.parametrize("payload_type", [TYPE, RELEASE_TYPE])
def test_a_second_signer_signs_nothing_that_no_client_would_accept(payload_type: str) -> None:
    with pytest.raises(ManifestError):
        add_signature(BOB, sign_payload(ALICE, payload_type, PAYLOAD), payload_type)


@pytest.mark.parametrize("key_id", [None, "", "unknown", "0" * 64])
def test_a_valid_signature_counts_whatever_key_id_it_claims(key_id: str | None) -> None:
    verify(envelope((key_id, ALICE)))  # 6: unknown keyid, trusted key


TOO_FEW = {
    "1 no trusted signature": ([("", EVE)], 1),
    "2 one below the threshold": ([("", ALICE)], 2),
    "3 the same signature twice": ([("", ALICE), ("", ALICE)], 2),
    "4 one key under two key ids": ([("a", ALICE), ("b", ALICE)], 2),
    "5 one key, key ids that differ in case": (
        [(ALICE.public.key_id, ALICE), (ALICE.public.key_id.upper(), ALICE)],
        2,
    ),
    "7 a known key id, another key": ([(ALICE.public.key_id, EVE)], 1),
}


@pytest.mark.parametrize("name", TOO_FEW)
def test_too_few_different_keys_are_refused(name: str) -> None:
    pairs, threshold = TOO_FEW[name]
    with pytest.raises(EnvelopeError, match=f"signatures by {threshold} trusted keys, got"):
        verify(envelope(*pairs), threshold=threshold)


def test_one_key_trusted_twice_still_counts_once() -> None:
    with pytest.raises(EnvelopeError, match="by 2 trusted keys, got 1"):
        verify(envelope(("", ALICE)), keys=(ALICE, ALICE), threshold=2)


def test_a_signature_over_the_bare_payload_is_refused() -> None:
    bare = [{"sig": base64.b64encode(ALICE.sign(PAYLOAD)).decode()}]  # 8: no PAE
    with pytest.raises(EnvelopeError, match="trusted keys, got 0"):
        verify(changed(sign_payload(ALICE, TYPE, PAYLOAD), signatures=bare))


@pytest.mark.parametrize("other", ["application/json", TYPE + " ", TYPE.upper(), "appliçation/x"])
def test_another_payload_type_is_refused(other: str) -> None:  # 9, 10, 11
    with pytest.raises(EnvelopeError, match="expected payload type"):
        verify(changed(sign_payload(ALICE, TYPE, PAYLOAD), payloadType=other))
    with pytest.raises(EnvelopeError, match="expected payload type"):
        verify(sign_payload(ALICE, other, PAYLOAD))


def test_lengths_in_the_signed_text_count_bytes() -> None:
    assert pre_authentication_encoding("é", "ü".encode()) == b"DSSEv1 2 \xc3\xa9 2 \xc3\xbc"


def test_the_url_safe_alphabet_is_accepted() -> None:  # 12
    payload = b"\xfb\xff\xfe"
    data = sign_payload(ALICE, TYPE, payload)
    url_safe = base64.urlsafe_b64encode(payload).decode()
    assert "_" in url_safe
    assert "-" in url_safe
    assert verify(changed(data, payload=url_safe)).payload == payload


BAD_BASE64 = {
    "13 newline": "eyJhIjox\nfQ==",
    "13 space": "eyJhIjox fQ==",
    "14 padding bits": "eyJhIjoxfR==",
    "15 missing padding": "eyJhIjoxfQ",
    "too much padding": "eyJhIjoxfQ===",
    "two alphabets": "+_==",
    "not ASCII": "éyJhIjoxfQ==",
}


@pytest.mark.parametrize("name", BAD_BASE64)
def test_base64_that_is_not_exact_is_refused(name: str) -> None:
    with pytest.raises(EnvelopeError, match="payload: expected base64"):
        verify(changed(sign_payload(ALICE, TYPE, PAYLOAD), payload=BAD_BASE64[name]))


MALFORMED = {
    "no signatures": {"signatures": []},  # 1
    "17 signatures": {"signatures": [{"sig": ""}] * 17},
    "signatures missing": {"signatures": None},
    "signature not an object": {"signatures": ["x"]},
    "signature without sig": {"signatures": [{"keyid": ""}]},
    "key id null": {"signatures": [{"keyid": None, "sig": ""}]},
    "payload null": {"payload": None},
    "type missing": {"payloadType": None},
    "type empty": {"payloadType": ""},
    "type too long": {"payloadType": "x" * 256},
    "16 payload over 1 MiB": {"payload": base64.b64encode(bytes((1 << 20) + 1)).decode()},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_envelope_is_refused(name: str) -> None:
    with pytest.raises(EnvelopeError):
        parse_envelope(changed(sign_payload(ALICE, TYPE, PAYLOAD), **MALFORMED[name]))


def test_a_duplicate_key_in_the_envelope_is_refused() -> None:  # 17
    data = sign_payload(ALICE, TYPE, PAYLOAD)
    with pytest.raises(EnvelopeError, match="duplicate key 'payload'"):
        parse_envelope(data[:-1] + b',"payload":"AA=="}')


def test_unrecognised_fields_are_ignored_as_the_specification_demands() -> None:
    verify(changed(sign_payload(ALICE, TYPE, PAYLOAD), more=[1]))


def test_a_threshold_of_zero_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="threshold of at least 1"):
        verify(sign_payload(ALICE, TYPE, PAYLOAD), threshold=0)


def test_a_truncated_envelope_gives_our_error_at_every_length() -> None:
    data = sign_payload(ALICE, TYPE, PAYLOAD)
    for length in range(len(data)):
        with pytest.raises(EnvelopeError):
            parse_envelope(data[:length])


def test_a_flipped_bit_anywhere_is_refused_or_says_the_same() -> None:
    data = sign_payload(ALICE, TYPE, PAYLOAD)
    key_id = data.index(ALICE.public.key_id.encode())
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 1
        try:
            verified = verify(bytes(flipped))
        except EnvelopeError:
            continue
        # only the hint, which nobody relies on, may change, or the name of its field
        assert verified.payload == PAYLOAD
        assert key_id - 9 <= position < key_id + 64


def _spki(key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


BAD_KEYS = {
    "46 RSA": lambda: _spki(rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()),
    "P-384": lambda: _spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "secp256k1": lambda: _spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "trailing byte": lambda: ALICE.public.spki + b"\0",
    "truncated": lambda: ALICE.public.spki[:-1],
    "empty": lambda: b"",
    "PEM": lambda: b"-----BEGIN PUBLIC KEY-----",
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_of_another_kind_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        SignerKey.from_spki(BAD_KEYS[name]())


def test_every_encoding_of_a_small_order_point_is_refused() -> None:  # 45
    for encoded in _SMALL_ORDER:
        for sign in (0, 0x80):
            raw = encoded[:31] + bytes((encoded[31] | sign,))
            with pytest.raises(FormatError):
                SignerKey.from_spki(_spki(Ed25519PublicKey.from_public_bytes(raw)))


def test_the_list_of_small_order_points_is_what_the_curve_equation_gives() -> None:
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p

    def square_root(value: int) -> int | None:
        root = pow(value, (p + 3) // 8, p)
        if root * root % p != value % p:
            root = root * pow(2, (p - 1) // 4, p) % p
        return root if root * root % p == value % p else None

    # order 1: y = 1; order 2: y = -1; order 4: y = 0; order 8: doubling gives y = 0, so d*y^4 + 2*y^2 - 1 = 0
    found = {0, 1, p - 1}
    inner = square_root(1 + d)
    assert inner is not None
    for sign in (inner, p - inner):
        y = square_root((sign - 1) * pow(d, -1, p) % p)
        if y is not None:
            found |= {y, p - y}
    assert len(found) == 5
    encodings = {y.to_bytes(32, "little") for y in found}
    # y below 19 has a second encoding: y + p
    encodings |= {(y + p).to_bytes(32, "little") for y in found if y + p < 2**255}
    assert encodings == set(_SMALL_ORDER)
