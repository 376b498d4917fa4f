"""Inputs that only one check stands against: found by taking each check out (tests/mutation)."""

from __future__ import annotations

import dataclasses

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import EccKey, PublicArea, RsaKey, Scheme, parse_sized_public
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.quote import judge_signature
from tests.bad_inputs import refused
from tests.fakes.software_tpm import QuoteShape, sized
from tests.fakes.world import judge, session, tpm

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
