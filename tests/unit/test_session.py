"""Recorded sessions and the attester's answers: JSON that says one thing."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest

from blindbuild.errors import VerificationError
from blindbuild.verify import parse_endorsement, parse_evidence, parse_session, session_bytes
from tests.fakes.world import judge, session

DATA = session_bytes(session())
VALUE = json.loads(DATA)
MISSING = object()


def changed(path: str, new: object, session: dict = VALUE) -> bytes:
    value = copy.deepcopy(session)
    *above, last = path.split("/")
    place = value
    for part in above:
        place = place[part]
    if new is MISSING:
        del place[last]
    else:
        place[last] = new
    return json.dumps(value).encode()


def test_a_session_reads_back_and_is_no_longer_live() -> None:
    read = parse_session(DATA)
    assert read == dataclasses.replace(session(), live=False, evidence=read.evidence)
    assert session_bytes(read) == DATA
    judge(read).accepted()


def test_a_session_with_a_pinned_key_has_no_secrets() -> None:
    data = session_bytes(session(credential=False))
    assert b"ecret" not in data
    assert parse_session(data).credential_secret is None


REFUSED = {
    "unknown field": ("more", 1),
    "unknown field in evidence": ("evidence/more", 1),
    "unknown field in endorsement": ("endorsement/more", 1),
    "missing field": ("nonce", MISSING),
    "version 2": ("version", 2),
    "version true": ("evidence/version", True),
    "another profile": ("profile", "hpke-quote-v1"),
    "another profile in the answer": ("evidence/profile", "none"),
    "bank sha1": ("evidence/bank", "sha1"),
    "nonce in capitals": ("nonce", VALUE["nonce"].upper()),
    "nonce too short": ("nonce", VALUE["nonce"][2:]),
    "nonce not hex": ("nonce", "g" * 64),
    "23 registers": ("evidence/pcrs", VALUE["evidence"]["pcrs"][:23]),
    "25 registers": ("evidence/pcrs", [*VALUE["evidence"]["pcrs"], "00" * 32]),
    "101 register without a value": ("evidence/pcrs", ["", *VALUE["evidence"]["pcrs"][1:]]),
    "101 register of 20 bytes": ("evidence/pcrs", ["ab" * 20, *VALUE["evidence"]["pcrs"][1:]]),
    "register not text": ("evidence/pcrs", [0, *VALUE["evidence"]["pcrs"][1:]]),
    "quote not base64": ("evidence/quote", "!"),
    "quote with white space": ("evidence/quote", VALUE["evidence"]["quote"] + "\n"),
    "quote in the URL-safe alphabet": ("evidence/quote", "_w=="),
    "quote with padding bits": ("evidence/quote", "/x=="),
    "quote too long": ("evidence/quote", "A" * 8000),
    "secret of 31 bytes": ("evidence/activatedSecret", "A" * 40 + "AA=="),
    "index as a number": (
        "endorsement/ekCertificates",
        [{"nvIndex": 0x01C00002, "certificate": ""}],
    ),
    "index without zeros": ("endorsement/ekCertificates", [{"nvIndex": "0x1c00002", "certificate": ""}]),
    "126 a million certificates": (
        "endorsement/ekCertificates",
        [{"nvIndex": "0x01c00002", "certificate": ""}] * 9,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_session_that_breaks_a_rule_is_refused(name: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_session(changed(*REFUSED[name]))
    assert (caught.value.step, caught.value.reason) == ("Q10", "malformed")


def test_answers_are_read_alone() -> None:
    assert parse_endorsement(json.dumps(VALUE["endorsement"]).encode()) == session().endorsement
    read = parse_evidence(json.dumps(VALUE["evidence"]).encode())
    assert read.registers == session().evidence.registers


@pytest.mark.parametrize("parse", [parse_endorsement, parse_evidence, parse_session])
@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"{}", b"\xff", b"[" * 10**5, b'{"version":1}'])
def test_what_is_no_answer_is_refused(parse, data: bytes) -> None:
    with pytest.raises(VerificationError) as caught:
        parse(data)
    assert caught.value.reason == "malformed"


def test_a_session_over_the_limit_is_refused() -> None:
    with pytest.raises(VerificationError):
        parse_session(b" " * (8 << 20) + b"{}")


def test_a_truncated_session_gives_our_error_at_every_length() -> None:
    for length in range(0, len(DATA), 11):
        with pytest.raises(VerificationError):
            parse_session(DATA[:length])
