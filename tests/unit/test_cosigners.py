"""What witnesses answer, and what a log's owner is told of it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blindbuild.client.web import Answer
from blindbuild.errors import BlindbuildError, ChannelError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.publish.cosigners import Cosigners, add_checkpoint_request
from tests.fakes import naive_log
from tests.fakes.log_world import LOG_KEY, SEEN, WITNESSES, Shown
from tests.fakes.naive_log import WITNESS, Key, b64
from tests.fakes.published import NOW

HONEST = Shown()
SIGNED = parse_checkpoint(naive_log.note(HONEST.body, LOG_KEY.sign(HONEST.body)))
NAMED = "".join(f"witness w{n} {key.vkey} http://w{n}/\n" for n, key in enumerate(WITNESSES, 1))
GOOD = Answer(200, "text/plain", WITNESSES[0].cosign(HONEST.body, SEEN).encode())
SIZE = "text/x.tlog.size"


def read(level: int, index: int) -> bytes:
    return naive_log.mth(HONEST.entries[index << level : (index + 1) << level])


def asking(answer: Callable[[str, bytes], Answer], quorum: str = "quorum w1\n") -> Cosigners:
    rules = parse_log_policy(f"log {LOG_KEY.vkey}\n{NAMED}{quorum}".encode())
    return Cosigners(rules, post=lambda url, body, *, limit_bytes: answer(url, body), clock=lambda: NOW)


def test_the_request_is_the_specifications() -> None:
    hashes = "".join(f"{b64(value)}\n" for value in naive_log.proof(3, HONEST.entries))
    expected = f"old 3\n{hashes}\n".encode() + naive_log.note(HONEST.body, LOG_KEY.sign(HONEST.body))
    assert add_checkpoint_request(SIGNED, read, 3) == expected
    assert add_checkpoint_request(SIGNED, read, 0).startswith(b"old 0\n\nexample.com/log\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(200, "text/plain", b""), "w1: note: "),
        (Answer(200, "text/plain", b"\xff\n"), "w1: note: "),
        (
            Answer(200, "text/plain", WITNESSES[0].line(bytes(72)).encode()),
            "no good cosignature of w1.example",
        ),
        (
            Answer(200, "text/plain", WITNESSES[0].cosign(HONEST.body + "x\n", SEEN).encode()),
            "no good cosignature of w1.example",
        ),
        (
            Answer(200, "text/plain", Key.make("w1.example", WITNESS, 1).cosign(HONEST.body, SEEN).encode()),
            "no good cosignature of w1.example",
        ),
        (Answer(403, "text/plain", b"no\x1b[2J"), "it knows another key (no\\x1b[2J)"),
        (Answer(404, "text/plain", b"no"), "it does not know this log: give its operator the key"),
        (Answer(422, "text/plain", b"no"), "it saw another history of this log: the log has forked"),
        (Answer(500, "text/plain", b""), "status 500"),
        (Answer(302, "text/plain", b""), "status 302"),
        (Answer(409, "text/plain", b"3\n"), "status 409 without the size"),
        (Answer(409, SIZE, b"3"), "status 409 without the size"),
        (Answer(409, SIZE, b"-3\n"), "size: expected a decimal number"),
        (Answer(409, SIZE, b"\xff\n"), "size: expected a decimal number"),
        (Answer(409, SIZE, b"12\n"), "it saw 12 entries of this log and this directory has 11"),
        (Answer(409, SIZE, b"3\n"), "it names another size each time"),
    ],
)
def test_each_bad_answer_is_told_in_words(answer: Answer, said: str) -> None:
    with pytest.raises(BlindbuildError) as caught:
        asking(lambda _url, _body: answer).collect(SIGNED, read, 3)
    assert "expected cosignatures by w1, got none" in caught.value.message
    assert said in caught.value.message
    assert caught.value.hint is not None
    assert "nothing was published" in caught.value.hint


@pytest.mark.parametrize(("ahead", "good"), [(60, True), (61, False), (10**9, False)])
def test_a_cosignature_that_clients_refuse_is_not_published(ahead: int, good: bool) -> None:
    line = WITNESSES[0].cosign(HONEST.body, NOW + ahead)
    answers = asking(lambda _url, _body: Answer(200, "text/plain", line.encode())).ask(SIGNED, read, 3)
    assert ("w1" in answers.cosignatures) is good
    assert ("clients would refuse" in answers.refusals.get("w1", "")) is not good


def test_a_witness_that_names_its_size_is_asked_from_there() -> None:
    asked: list[bytes] = []

    def answer(url: str, body: bytes) -> Answer:
        assert url.endswith("/add-checkpoint")
        asked.append(body.split(b"\n")[0])
        return Answer(409, SIZE, b"7\n") if len(asked) == 1 else GOOD

    rules = asking(lambda url, body: answer(url, body) if "w1" in url else Answer(500, "text/plain", b""))
    (signature,) = rules.collect(SIGNED, read, 3)
    assert signature.line.encode() == GOOD.body
    assert asked == [b"old 3", b"old 7"]


def test_witnesses_that_cannot_be_reached_do_not_matter_to_a_quorum_of_others() -> None:
    def answer(url: str, _body: bytes) -> Answer:
        if "w2" in url:
            raise ChannelError("w2 is down")
        index = int(url[8]) - 1
        return Answer(200, "text/plain", WITNESSES[index].cosign(HONEST.body, SEEN).encode())

    kept = asking(answer, "group g 2 w1 w2 w3\nquorum g\n").collect(SIGNED, read, 3)
    assert [signature.name for signature in kept] == ["w1.example", "w3.example"]
    with pytest.raises(BlindbuildError, match="w2: w2 is down"):
        asking(answer, "group g all w1 w2 w3\nquorum g\n").collect(SIGNED, read, 3)


def test_lines_of_others_in_an_answer_are_left_out() -> None:
    lines = (
        Key.make("x", WITNESS).cosign("x", 5) + GOOD.body.decode() + WITNESSES[1].cosign(HONEST.body, SEEN)
    )
    kept = asking(lambda _url, _body: Answer(200, "text/plain", lines.encode())).ask(SIGNED, read, 3)
    assert [s.name for s in kept.cosignatures["w1"]] == ["w1.example"]


def test_of_too_many_cosignatures_the_quorum_is_kept() -> None:
    keys = [Key.make(f"k{n}.example", WITNESS) for n in range(20)]
    named = "".join(f"witness k{n} {key.vkey} http://{n}\n" for n, key in enumerate(keys))
    names = " ".join(f"k{n}" for n in range(18))
    text = f"log {LOG_KEY.vkey}\n{named}group any-of 2 {names}\ngroup g all any-of k18 k19\nquorum g\n"
    rules = parse_log_policy(text.encode())

    def post(url: str, _body: bytes, *, limit_bytes: int) -> Answer:
        key = keys[int(url.removeprefix("http://").split("/")[0])]
        return Answer(200, "text/plain", key.cosign(HONEST.body, SEEN).encode())

    kept = [
        s.name.removesuffix(".example")
        for s in Cosigners(rules, post=post, clock=lambda: NOW).collect(SIGNED, read, 3)
    ]
    assert len(kept) == 15
    assert rules.is_met(kept)
    assert {"k18", "k19"} <= set(kept)
