"""Signatures against Wycheproof and the DSSE protocol's own vector.

Provenance: shared vectors, trust/C2SP+wycheproof and trust/secure-systems-lab+dsse (Apache-2.0).
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import EnvelopeError, FormatError, TlogError
from blindbuild.formats.dsse import (
    SignerKey,
    parse_envelope,
    pre_authentication_encoding,
    verify_envelope,
)
from blindbuild.formats.note import ED25519, accepts_ed25519, make_vkey
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import EccKey, PublicArea, RsaKey, Scheme
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.ecdsa import verify_p256
from blindbuild.verify.quote import judge_signature
from tests.fakes.software_tpm import sized

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "trust"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no vectors in {VECTORS}")


def groups(name: str) -> list[dict]:
    return json.loads((VECTORS / "C2SP+wycheproof" / name).read_text())["testGroups"]


def test_ed25519_agrees_with_wycheproof() -> None:
    judged = 0
    for group in groups("ed25519_test.json"):
        raw = bytes.fromhex(group["publicKey"]["pk"])
        spki = Ed25519PublicKey.from_public_bytes(raw).public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        for case in group["tests"]:
            try:
                accepted = SignerKey.from_spki(spki).accepts(
                    bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"])
                )
            except FormatError:
                accepted = False
            assert accepted == (case["result"] == "valid"), case
            judged += 1
    assert judged >= 100


def test_ecdsa_agrees_with_wycheproof_as_a_tpm_would_carry_it() -> None:
    # Wycheproof's signatures are DER; a TPM carries r and s. What is not DER has no r and s to carry.
    judged = 0
    for group in groups("ecdsa_secp256r1_sha256_test.json"):
        key = group["publicKey"]
        x, y = int(key["wx"], 16).to_bytes(32, "big"), int(key["wy"], 16).to_bytes(32, "big")
        area = PublicArea(
            0x000B,
            0x00050072,
            b"",
            None,
            Scheme(Algorithm.ECDSA, HashAlgorithm.SHA256.tpm_id),
            EccKey(3, Scheme(Algorithm.NULL, None), x, y),
        )
        for case in group["tests"]:
            der = bytes.fromhex(case["sig"])
            try:
                r, s = decode_dss_signature(der)
                minimal = encode_dss_signature(r, s) == der and r >= 0 and s >= 0
            except (ValueError, OverflowError):
                minimal = False
            if not minimal:
                assert case["result"] == "invalid"
                continue
            numbers = [sized(number.to_bytes((number.bit_length() + 7) // 8, "big")) for number in (r, s)]
            steps = Checklist()
            judge_signature(
                steps,
                public=area,
                raw_quote=bytes.fromhex(case["msg"]),
                raw_signature=b"\x00\x18\x00\x0b" + b"".join(numbers),
                needs=(),
            )
            assert steps.passed("Q2") == (case["result"] == "valid"), case
            judged += 1
    assert judged >= 200


def numbers_of(der: bytes) -> tuple[int, int] | None:
    """r and s of a signature in minimal DER that 32 bytes each can hold, or None."""
    try:
        r, s = decode_dss_signature(der)
        minimal = encode_dss_signature(r, s) == der
    except (ValueError, OverflowError):
        return None
    return (r, s) if minimal and 0 <= r < 1 << 256 and 0 <= s < 1 << 256 else None


def test_ecdsa_agrees_with_wycheproof_as_two_numbers_of_32_bytes() -> None:
    # as a release key's signature in an envelope, and as Intel writes them
    judged = 0
    for group in groups("ecdsa_secp256r1_sha256_test.json"):
        spki = bytes.fromhex(group["publicKeyDer"])
        key, parsed = SignerKey.from_spki(spki), load_der_public_key(spki)
        for case in group["tests"]:
            numbers = numbers_of(bytes.fromhex(case["sig"]))
            if numbers is None:
                assert case["result"] == "invalid"
                continue
            signature = b"".join(number.to_bytes(32, "big") for number in numbers)
            message, valid = bytes.fromhex(case["msg"]), case["result"] == "valid"
            assert key.accepts(signature, message) == valid, case
            assert verify_p256(parsed, signature, message) == valid, case
            judged += 1
    assert judged >= 200


def test_der_signatures_of_wycheproof_are_none_of_an_envelopes() -> None:
    for group in groups("ecdsa_secp256r1_sha256_test.json"):
        key = SignerKey.from_spki(bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            der = bytes.fromhex(case["sig"])
            assert not key.accepts(der, bytes.fromhex(case["msg"])) or len(der) == 64


def test_rsa_agrees_with_wycheproof_as_a_tpm_would_carry_it() -> None:
    judged = 0
    for group in groups("rsa_signature_2048_sha256_test.json"):
        key = group["publicKey"]
        modulus, exponent = bytes.fromhex(key["modulus"]).lstrip(b"\0"), int(key["publicExponent"], 16)
        scheme = Scheme(Algorithm.RSASSA, HashAlgorithm.SHA256.tpm_id)
        area = PublicArea(0x000B, 0x00050072, b"", None, scheme, RsaKey(2048, exponent, modulus))
        for case in group["tests"]:
            steps = Checklist()
            judge_signature(
                steps,
                public=area,
                raw_quote=bytes.fromhex(case["msg"]),
                raw_signature=b"\x00\x14\x00\x0b" + sized(bytes.fromhex(case["sig"])),
                needs=(),
            )
            # the "acceptable" one lacks the NULL of its algorithm identifier, which no TPM leaves out
            assert steps.passed("Q2") == (case["result"] == "valid"), case
            judged += 1
    assert judged >= 250


def test_ed25519_of_notes_agrees_with_wycheproof() -> None:
    judged = 0
    for group in groups("ed25519_test.json"):
        public = bytes.fromhex(group["publicKey"]["pk"])
        try:
            key = make_vkey("example.com/log", ED25519, public)
        except TlogError:
            assert all(case["result"] != "valid" for case in group["tests"])
            continue
        for case in group["tests"]:
            accepted = accepts_ed25519(key, bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
            assert accepted == (case["result"] == "valid"), case
            judged += 1
    assert judged >= 100


@pytest.fixture
def protocol() -> tuple[dict, SignerKey]:
    vector = json.loads((VECTORS / "secure-systems-lab+dsse" / "protocol-vector.json").read_text())
    point = ec.EllipticCurvePublicNumbers(
        int(vector["key"]["x"]), int(vector["key"]["y"]), ec.SECP256R1()
    ).public_key()
    spki = point.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return vector, SignerKey.from_spki(spki)


def test_the_protocols_own_envelope_is_accepted(protocol) -> None:
    vector, key = protocol
    assert (
        pre_authentication_encoding(vector["payloadType"], vector["payload_utf8"].encode())
        == vector["pae_utf8"].encode()
    )
    envelope = parse_envelope(json.dumps(vector["envelope"]).encode())
    verified = verify_envelope(envelope, keys=[key], threshold=1, payload_type=vector["payloadType"])
    assert verified.payload == b"hello world"


def test_the_protocols_own_envelope_with_another_payload_is_refused(protocol) -> None:
    vector, key = protocol
    changed = vector["envelope"] | {"payload": base64.b64encode(b"hello wOrld").decode()}
    envelope = parse_envelope(json.dumps(changed).encode())
    with pytest.raises(EnvelopeError, match="trusted keys, got 0"):
        verify_envelope(envelope, keys=[key], threshold=1, payload_type=vector["payloadType"])
