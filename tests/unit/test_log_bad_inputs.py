"""The bad inputs 64 to 88 about logs: each by its number, refused by its expected reason."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import parse_checkpoint_text
from blindbuild.formats.merkle import verify_consistency
from blindbuild.formats.note import parse_note, parse_signature_lines
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.formats.tlog_tiles import parse_bundle, parse_tile
from tests.bad_inputs import refusing
from tests.fakes import naive_log
from tests.fakes.log_world import (
    LOG_KEY,
    ORIGIN,
    SEEN,
    WITNESSES,
    Shown,
    judged,
    others,
    our_entry,
    policy,
    policy_text,
    reason,
)
from tests.fakes.naive_log import LOG, WITNESS, Key, b64, note
from tests.fakes.published import NOW

HONEST = Shown()
BODY = HONEST.body
ROOT = BODY.splitlines()[2]
SIGNED = LOG_KEY.sign(BODY)
COSIGNED = [key.cosign(BODY, SEEN) for key in WITNESSES]


def test_the_honest_log_is_accepted() -> None:
    steps = judged(HONEST)
    assert reason(steps) is None
    assert steps.passed("M6", "M12")


def refused_text(text: str) -> str | None:
    """The reason when a log key signs this text and witnesses cosign it."""
    lines = [LOG_KEY.sign(text), *(key.cosign(text, SEEN) for key in WITNESSES)]
    return reason(judged(HONEST.but(text=text, lines=lines)))


@pytest.mark.bad_input(64)
def test_64_a_checkpoint_of_two_lines() -> None:
    assert refused_text(f"{ORIGIN}\n11\n") == "M12:log-proof-malformed"
    with refusing("3 to 64 lines", TlogError):
        parse_checkpoint_text(b"a\n1\n")


@pytest.mark.bad_input(65)
@pytest.mark.parametrize(
    "size", ["007", "+7", "7 ", "7_0", "-7", str(2**64), "", "0x7", "٧", "7.0", str(2**63)]
)
def test_65_a_size_in_another_spelling(size: str) -> None:
    assert refused_text(f"{ORIGIN}\n{size}\n{ROOT}\n") == "M12:log-proof-malformed"


@pytest.mark.bad_input(66)
@pytest.mark.parametrize("length", [0, 31, 33])
def test_66_a_root_of_another_length(length: int) -> None:
    assert refused_text(f"{ORIGIN}\n11\n{b64(bytes(length))}\n") == "M12:log-proof-malformed"


@pytest.mark.bad_input(67)
def test_67_another_origin_with_the_right_key() -> None:
    text = BODY.replace(ORIGIN, "example.com/other")
    assert refused_text(text) == "M12:other-log"


@pytest.mark.bad_input(68)
def test_68_the_right_name_with_another_key_id() -> None:
    line = LOG_KEY.line(LOG_KEY.private.sign(BODY.encode()), key_id=b"\0\0\0\0")
    assert reason(judged(HONEST.but(lines=[line, *COSIGNED]))) == "M12:log-signature-missing"


@pytest.mark.bad_input(69)
def test_69_the_same_key_id_with_another_keys_signature() -> None:
    line = LOG_KEY.line(Key.make("x", LOG).private.sign(BODY.encode()))
    assert reason(judged(HONEST.but(lines=[line, *COSIGNED]))) == "M12:log-signature-bad"


@pytest.mark.bad_input(70)
def test_70_a_bad_signature_of_a_known_key_beside_a_good_one() -> None:
    bad = LOG_KEY.line(bytes(64))
    assert reason(judged(HONEST.but(lines=[SIGNED, bad, *COSIGNED]))) == "M12:log-signature-bad"
    bad = WITNESSES[0].line(struct.pack(">Q", SEEN) + bytes(64))
    assert reason(judged(HONEST.but(lines=[SIGNED, *COSIGNED, bad]))) == "M12:witness-signature-bad"
    # the quorum would be met without the bad one: the note is refused all the same
    assert reason(judged(HONEST.but(lines=[SIGNED, *COSIGNED[1:], bad]))) == "M12:witness-signature-bad"


@pytest.mark.bad_input(71)
def test_71_a_hyphen_for_the_em_dash() -> None:
    lines = [SIGNED.replace("—", "-"), *COSIGNED]
    assert reason(judged(HONEST.but(lines=lines))) == "M12:log-proof-malformed"
    with refusing("expected a line", TlogError):
        parse_note(note(BODY, lines[0]))


@pytest.mark.bad_input(72)
def test_72_carriage_returns() -> None:
    assert reason(judged(HONEST.proof.replace(b"\n", b"\r\n"))) == "M12:log-proof-malformed"
    with refusing("control character 0x0d", TlogError):
        parse_note(HONEST.checkpoint.replace(b"\n", b"\r\n"))


@pytest.mark.bad_input(73)
@pytest.mark.parametrize("byte", [0x00, 0x07, 0x09, 0x1B, 0x1F])
def test_73_a_control_character(byte: int) -> None:
    with refusing("control character 0x", TlogError):
        parse_note(HONEST.checkpoint.replace(b"example", b"ex" + bytes([byte]), 1))
    assert refused_text(BODY.replace("log", f"l{chr(byte)}g")) == "M12:log-proof-malformed"


@pytest.mark.bad_input(74)
def test_74_seventeen_signatures() -> None:
    strangers = [Key.make(f"s{n}", WITNESS).cosign(BODY, SEEN) for n in range(13)]
    assert reason(judged(HONEST.but(lines=[SIGNED, *COSIGNED, *strangers[:12]]))) is None
    assert reason(judged(HONEST.but(lines=[SIGNED, *COSIGNED, *strangers]))) == "M12:log-proof-malformed"
    with refusing("1 to 16 signatures, got 17", TlogError):
        parse_note(note(BODY, SIGNED, *COSIGNED, *strangers))


@pytest.mark.bad_input(75)
def test_75_the_text_ends_at_the_last_empty_line() -> None:
    parsed = parse_note(note("a\n\nb\n\n\nc\n", SIGNED))
    assert parsed.text == b"a\n\nb\n\n\nc\n"
    assert len(parsed.signatures) == 1
    # a checkpoint has no empty lines, whoever signed them
    assert refused_text(BODY + "\nmore\n") == "M12:log-proof-malformed"


@pytest.mark.bad_input(76)
def test_76_a_log_key_as_a_witness_and_the_other_way_round() -> None:
    for text in (
        f"log {LOG_KEY.vkey}\nwitness w {Key.make('w', LOG).vkey}\nquorum w\n",
        f"log {WITNESSES[0].vkey}\nquorum none\n",
    ):
        with refusing("key of type 0x0", TlogError):
            parse_log_policy(text.encode())
    # a witness's signature without its time, as a log would make it
    plain = WITNESSES[0].line(WITNESSES[0].private.sign(BODY.encode()))
    assert reason(judged(HONEST.but(lines=[SIGNED, plain, *COSIGNED[1:]]))) == "M12:witness-signature-bad"


@pytest.mark.bad_input(77)
@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (NOW + 61, "M12:cosignature-in-future"),
        (2**63 - 1, "M12:cosignature-in-future"),
        (NOW - 3601, "M12:cosignature-too-old"),
        (1, "M12:cosignature-too-old"),
        (0, "M12:witness-signature-bad"),
        (2**63, "M12:witness-signature-bad"),
        (2**64 - 1, "M12:witness-signature-bad"),
        (NOW + 60, None),
        (NOW - 3600, None),
    ],
)
def test_77_the_time_of_a_cosignature(time: int, expected: str | None) -> None:
    lines = [SIGNED, *(key.cosign(BODY, time) for key in WITNESSES)]
    assert reason(judged(HONEST.but(lines=lines), max_age_s=3600)) == expected


@pytest.mark.bad_input(77)
def test_77_one_witness_with_a_wrong_clock_does_not_spoil_a_quorum_of_others() -> None:
    lines = [SIGNED, WITNESSES[0].cosign(BODY, NOW + 9999), *COSIGNED[1:]]
    assert reason(judged(HONEST.but(lines=lines))) is None
    assert reason(judged(HONEST.but(lines=lines[:3]))) == "M12:cosignature-in-future"


@pytest.mark.bad_input(78)
def test_78_one_witness_under_two_names_counts_once() -> None:
    twice = Key("other.example", WITNESS, WITNESSES[0].private)
    with refusing("every key once", TlogError):
        parse_log_policy(policy_text(f"witness w4 {twice.vkey}\nquorum none\n"))
    both = [SIGNED, COSIGNED[0], COSIGNED[0], WITNESSES[0].cosign(BODY, SEEN + 1), twice.cosign(BODY, SEEN)]
    assert reason(judged(HONEST.but(lines=both))) == "M12:quorum-missed"


@pytest.mark.bad_input(79)
@pytest.mark.parametrize(
    ("quorum", "match"),
    [
        ("", "expected a quorum line"),
        ("quorum w1\nquorum w2\n", "one quorum line"),
        ("quorum w1\nquorum w1\n", "one quorum line"),
        ("group a all b\ngroup b all a\nquorum a\n", "a line above"),
        ("group a all a\nquorum a\n", "a line above"),
        ("group g 4 w1 w2 w3\nquorum g\n", "number from 1 to 3"),
        ("group g 0 w1 w2 w3\nquorum g\n", "number from 1 to 3"),
        ("group g 02 w1 w2 w3\nquorum g\n", "number from 1 to 3"),
        ("group g all\nquorum g\n", "all|any|K"),
        ("quorum w9\n", "a line above"),
        ("group none any w1\nquorum none\n", "not taken"),
        ("group w1 any w2\nquorum w1\n", "not taken"),
        ("group g any none\nquorum g\n", "a line above"),
        ("group a any w1\ngroup b any w1\nquorum b\n", "in one group"),
        ("group a any w1 w1\nquorum a\n", "in one group"),
        ("quorum w1", "end with a newline"),
        ("quorums w1\n", "got 'quorums'"),
        ("quorum w1\r\n", "control character"),
        ("quorum w1 w2\n", "expected `quorum NAME`"),
    ],
)
def test_79_a_quorum_that_means_nothing(quorum: str, match: str) -> None:
    with refusing(match, TlogError):
        parse_log_policy(policy_text(quorum))


@pytest.mark.bad_input(80)
@pytest.mark.parametrize(
    "changes",
    [
        {"path": naive_log.path(3, HONEST.entries)[:-1]},
        {"path": [*naive_log.path(3, HONEST.entries), bytes(32)]},
        {"path": [bytes(32)] * 63},
        {"path": []},
        {"index": 11, "path": naive_log.path(3, HONEST.entries)},
        {"index": 2**63 - 1, "path": naive_log.path(3, HONEST.entries)},
    ],
)
def test_80_a_proof_too_short_or_long_or_outside(changes: dict) -> None:
    assert reason(judged(HONEST.but(**changes))) == "M12:not-in-log"


@pytest.mark.bad_input(80)
def test_80_a_proof_of_sixty_four_hashes() -> None:
    assert reason(judged(HONEST.but(path=[bytes(32)] * 64))) == "M12:log-proof-malformed"


@pytest.mark.bad_input(81)
def test_81_an_inclusion_proof_of_another_leaf() -> None:
    assert reason(judged(HONEST.but(index=4))) == "M12:not-in-log"
    assert reason(judged(HONEST.but(index=4, path=naive_log.path(3, HONEST.entries)))) == "M12:not-in-log"


@pytest.mark.bad_input(82)
def test_82_an_inner_node_as_a_leaf() -> None:
    # a log whose tree has our leaf's bytes where a node's two hashes would be hashed
    leaf = our_entry()
    root = hashlib.sha256(b"\x01" + leaf).digest()
    text = f"{ORIGIN}\n1\n{b64(root)}\n"
    lines = [LOG_KEY.sign(text), *(key.cosign(text, SEEN) for key in WITNESSES)]
    shown = Shown(text=text, lines=lines, index=0, path=[])
    assert reason(judged(shown)) == "M12:not-in-log"
    text = f"{ORIGIN}\n1\n{b64(hashlib.sha256(leaf).digest())}\n"  # and without any prefix
    lines = [LOG_KEY.sign(text), *(key.cosign(text, SEEN) for key in WITNESSES)]
    assert reason(judged(shown.but(text=text, lines=lines))) == "M12:not-in-log"


@pytest.mark.bad_input(83)
def test_83_trees_of_no_and_of_one_leaf() -> None:
    assert reason(judged(Shown(entries=[], index=0, path=[]))) == "M12:not-in-log"
    assert reason(judged(Shown(entries=[our_entry()], index=0))) is None
    assert reason(judged(Shown(entries=[our_entry()], index=1, path=[]))) == "M12:not-in-log"
    assert reason(judged(Shown(entries=others(1), index=0))) == "M12:not-in-log"


@pytest.mark.bad_input(84)
def test_84_a_consistency_proof_that_goes_back_or_of_equal_sizes() -> None:
    entries = others(9)
    roots = [naive_log.mth(entries[:size]) for size in range(10)]
    with refusing("at most 5", TlogError):
        verify_consistency(9, roots[9], 5, roots[5], naive_log.proof(5, entries))
    with refusing("equal sizes", TlogError):
        verify_consistency(5, roots[5], 5, roots[4], ())
    with refusing("no hashes", TlogError):
        verify_consistency(5, roots[5], 5, roots[5], (roots[5],))
    other = Shown(entries=[*others(3, 20), our_entry(), *others(7, 30)])
    assert reason(judged(HONEST, remembered=other.checkpoint)) == "M13:log-forked"


@pytest.mark.bad_input(85)
def test_85_tiles_of_another_width() -> None:
    for data, width in ((bytes(255 * 32), 256), (bytes(256 * 32), 255), (bytes(31), 1), (b"", 1)):
        with refusing("tile: expected", TlogError):
            parse_tile(data, width)


@pytest.mark.bad_input(86)
@pytest.mark.parametrize(
    ("data", "width"),
    [
        (b"\0", 1),
        (b"\0\5abcd", 1),
        (b"\xff\xff" + bytes(65534), 1),
        (b"\0\1a\0\1b", 1),
        (b"\0\1a", 2),
        (b"", 1),
        (b"\0\1a\0", 1),
    ],
)
def test_86_entries_that_overrun_their_bundle(data: bytes, width: int) -> None:
    with refusing("entries: ", TlogError):
        parse_bundle(data, width)


@pytest.mark.bad_input(87)
@pytest.mark.parametrize(
    "changes",
    [
        {"product": "other"},
        {"channel": "beta"},
        {"sequence": 41},
        {"statementSha256": "0" * 64},
        {"envelopeSha256": "0" * 64},
        {"v": 2},
        {"type": "blindbuild/something-else"},
        {"more": 1},
    ],
)
def test_87_a_leaf_that_says_something_else(changes: dict) -> None:
    from tests.fakes.world import publisher

    leaf = naive_log.entry(publisher().envelope, publisher().statement, **changes)
    assert reason(judged(Shown(entries=[*others(3), leaf, *others(2, 3)]))) == "M12:not-in-log"


@pytest.mark.bad_input(87)
def test_87_a_release_of_one_channel_is_none_of_another() -> None:
    assert reason(judged(HONEST, channel="beta")) == "M12:not-in-log"


@pytest.mark.bad_input(88)
def test_88_two_checkpoints_of_one_size_with_two_roots() -> None:
    other = Shown(entries=[*others(3, 50), our_entry(), *others(7, 3)])
    steps = judged(other, remembered=HONEST.checkpoint)
    assert reason(steps) == "M13:log-forked"
    (failed,) = steps.failed()
    assert "expected one history, got two" in failed.detail
    assert any("keep both signed checkpoints" in hint for hint in steps.hints)
    # with no witness the client is the only one who can tell, and does
    assert (
        reason(judged(other, remembered=HONEST.checkpoint, policy=policy("quorum none\n")))
        == "M13:log-forked"
    )


def test_signature_lines_alone_are_nothing_else() -> None:
    lines = "".join(COSIGNED).encode()
    assert [signature.line for signature in parse_signature_lines(lines)] == COSIGNED
    for data in (b"", b"x\n\n" + lines, b"\n" + lines, lines[:-1], lines + b"\n", lines + b"x\n"):
        with pytest.raises(TlogError):
            parse_signature_lines(data)
