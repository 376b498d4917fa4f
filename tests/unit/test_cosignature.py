"""Cosignatures of both kinds, made by hand from the specification and judged by the code under test."""

from __future__ import annotations

import dataclasses
import hashlib
import struct

import pytest

from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import Checkpoint, parse_checkpoint
from blindbuild.formats.cosignature import cosign_checkpoint, judge_key, sign_checkpoint
from blindbuild.formats.note import (
    COSIGNATURE_ED25519,
    COSIGNATURE_ML_DSA_44,
    ED25519,
    NoteSignature,
    SignatureState,
    UnverifiedNote,
    make_vkey,
    parse_vkey,
    write_note,
)
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.verify.tlog import accept_checkpoint
from tests.fakes.log_world import LOG_KEY, SEEN, WITNESSES, Shown
from tests.fakes.naive_log import b64, note
from tests.fakes.published import NOW

mldsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa")

HONEST = Shown()
HEAD = parse_checkpoint(HONEST.checkpoint).checkpoint
SECRET = mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(range(32)))
PUBLIC = SECRET.public_key().public_bytes_raw()
NAME = "pq.example"


def message(
    head: Checkpoint, *, name: str = NAME, time: int = SEEN, label: bytes = b"subtree/v1\n\0"
) -> bytes:
    """struct cosigned_message of tlog-cosignature."""
    return (
        label
        + bytes([len(name)])
        + name.encode()
        + struct.pack(">Q", time)
        + bytes([len(head.origin)])
        + head.origin.encode()
        + struct.pack(">QQ", 0, head.size)
        + head.root
    )


def line(signed: bytes, *, time: int = SEEN) -> str:
    key_id = hashlib.sha256(NAME.encode() + b"\n\x06" + PUBLIC).digest()[:4]
    return f"— {NAME} {b64(key_id + struct.pack('>Q', time) + SECRET.sign(signed))}\n"


def test_a_cosignature_with_ml_dsa_44_counts_in_a_policy() -> None:
    key = make_vkey(NAME, COSIGNATURE_ML_DSA_44, PUBLIC)
    assert parse_vkey(key.text) == key
    rules = parse_log_policy(f"log {LOG_KEY.vkey}\nwitness pq {key.text}\nquorum pq\n".encode())
    signed = parse_checkpoint(note(HONEST.body, LOG_KEY.sign(HONEST.body), line(message(HEAD))))
    assert accept_checkpoint(signed, rules, now=NOW).witnesses == (("pq", SEEN),)


@pytest.mark.parametrize(
    "signed",
    [
        message(dataclasses.replace(HEAD, size=12)),
        message(dataclasses.replace(HEAD, root=bytes(32))),
        message(dataclasses.replace(HEAD, origin="example.com/lug")),
        message(HEAD, name="pq.exampla"),
        message(HEAD, time=SEEN + 1),
        message(HEAD, label=b"subtree/v2\n\0"),
        HEAD.text,
        b"cosignature/v1\ntime %d\n" % SEEN + HEAD.text,
    ],
)
def test_a_cosignature_with_ml_dsa_44_over_anything_else_is_bad(signed: bytes) -> None:
    key = make_vkey(NAME, COSIGNATURE_ML_DSA_44, PUBLIC)
    verdict = judge_key(parse_checkpoint(note(HONEST.body, line(signed))), key)
    assert verdict.state is SignatureState.BAD


def test_a_cosignature_with_ml_dsa_44_does_not_hold_for_other_extension_lines_unseen() -> None:
    # the message leaves extension lines out; the log's own signature and Ed25519 cosignatures have them
    body = HONEST.body + "more\n"
    signed = parse_checkpoint(note(body, LOG_KEY.sign(HONEST.body), line(message(HEAD))))
    assert judge_key(signed, parse_vkey(LOG_KEY.vkey)).state is SignatureState.BAD
    signed = parse_checkpoint(note(body, WITNESSES[0].cosign(HONEST.body, SEEN)))
    assert judge_key(signed, parse_vkey(WITNESSES[0].vkey)).state is SignatureState.BAD


def test_what_is_signed_here_is_what_others_sign() -> None:
    log, witness = parse_vkey(LOG_KEY.vkey), parse_vkey(WITNESSES[0].vkey)
    assert (log.kind, witness.kind) == (ED25519, COSIGNATURE_ED25519)
    own = sign_checkpoint(HEAD, log, LOG_KEY.private.sign)
    assert own.line == LOG_KEY.sign(HONEST.body)
    cosigned = cosign_checkpoint(HEAD, witness, WITNESSES[0].private.sign, time=SEEN)
    assert cosigned.line == WITNESSES[0].cosign(HONEST.body, SEEN)
    for kind in (witness, log):
        with pytest.raises(TlogError, match="key of type"):
            (sign_checkpoint if kind is witness else _cosign)(HEAD, kind, LOG_KEY.private.sign)
    for time in (0, -1, 2**63):
        with pytest.raises(TlogError, match="time from 1"):
            cosign_checkpoint(HEAD, witness, WITNESSES[0].private.sign, time=time)


def _cosign(head: Checkpoint, key, sign) -> NoteSignature:
    return cosign_checkpoint(head, key, sign, time=SEEN)


def test_the_latest_of_a_witnesss_times_counts() -> None:
    key = parse_vkey(WITNESSES[0].vkey)
    lines = [WITNESSES[0].cosign(HONEST.body, SEEN - 5), WITNESSES[0].cosign(HONEST.body, SEEN)]
    for order in (lines, lines[::-1]):
        assert judge_key(parse_checkpoint(note(HONEST.body, *order)), key).time == SEEN


@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 71, 73, 2428])
def test_a_cosignature_of_another_length_is_bad_and_nothing_else(length: int) -> None:
    key = parse_vkey(WITNESSES[0].vkey)
    verdict = judge_key(parse_checkpoint(note(HONEST.body, WITNESSES[0].line(b"\1" * length))), key)
    assert verdict.state is SignatureState.BAD
    assert "expected 72 bytes" in verdict.problem


def test_a_key_with_another_id_is_none() -> None:
    name, key_id, encoded = LOG_KEY.vkey.split("+", 2)
    other = f"{int(key_id[0], 16) ^ 1:x}{key_id[1:]}"
    for text in (
        f"{name}+{other}+{encoded}",
        f"x{name}+{key_id}+{encoded}",
        f"{name}+{key_id.upper()}x+{encoded}",
    ):
        with pytest.raises(TlogError, match=r"expected id|NAME"):
            parse_vkey(text)


def test_a_key_of_small_order_or_of_another_length_is_none() -> None:
    for public in (bytes(32), b"\1" + bytes(31), bytes(31), b"x" * 33):
        with pytest.raises(TlogError):
            make_vkey("x", ED25519, public)
    with pytest.raises(TlogError, match="0x01, 0x04 or 0x06"):
        make_vkey("x", 2, bytes(32))
    for name in ("", "a b", "a+b", "a\u00a0b", "a\u3000b", "a\tb", "x" * 256, "a\u202eb"):
        with pytest.raises(TlogError, match="key name"):
            make_vkey(name, ED25519, WITNESSES[0].public)


def test_a_note_that_is_put_together_wrongly_is_not_written() -> None:
    good = NoteSignature("x", b"1234", b"5")
    assert write_note(UnverifiedNote(b"a\n", (good,))).endswith(b"\n")
    for text, signatures in ((b"a", (good,)), (b"a\n", ()), (b"a\r\n", (good,)), (b"a\n", (good,) * 17)):
        with pytest.raises(TlogError):
            write_note(UnverifiedNote(text, signatures))


def test_a_policy_that_no_note_can_meet_is_refused() -> None:
    keys = [make_vkey(f"w{n}", COSIGNATURE_ED25519, hashlib.sha256(b"%d" % n).digest()) for n in range(20)]
    listed = "".join(f"witness {key.name} {key.text}\n" for key in keys)
    names = " ".join(key.name for key in keys)
    for count, fits in ((15, True), (16, False), (20, False)):
        text = f"{listed}group g {count} {names}\nquorum g\n".encode()
        if fits:
            assert parse_log_policy(text).fewest_cosignatures == 15
        else:
            with pytest.raises(TlogError, match="at most 15 cosignatures"):
                parse_log_policy(text)
    nested = f"{listed}group a all w0 w1 w2\ngroup b any w3 w4\ngroup c all a b\nquorum c\n"
    assert parse_log_policy(nested.encode()).fewest_cosignatures == 4
    assert not parse_log_policy(nested.encode()).is_met(["w0", "w1", "w2"])
    assert not parse_log_policy(nested.encode()).is_met(["w0", "w1", "w3", "w4"])
    assert parse_log_policy(nested.encode()).is_met(["w0", "w1", "w2", "w4"])
