"""A witness: cosigns growth, remembers before it answers, and never two histories."""

from __future__ import annotations

import base64
import hashlib
import struct
import threading
from pathlib import Path

import pytest

from blindbuild.client.web import Answer
from blindbuild.errors import BlindbuildError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.cosignature import judge_key
from blindbuild.formats.note import SignatureState, parse_vkey
from blindbuild.publish import generate_key
from blindbuild.publish import witness as module
from blindbuild.publish.witness import Witness, WitnessKey
from tests.fakes import naive_log
from tests.fakes.log_world import LOG_KEY, ORIGIN, others
from tests.fakes.naive_log import LOG, Key, b64

KEY = WitnessKey.of("witness.example", generate_key())
TIME = 1_790_000_000
ENTRIES = others(12)
TEXT = naive_log.checkpoint_text(ORIGIN, ENTRIES)
FORK = [*others(4), *others(8, 40)]


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    made = Witness(tmp_path / "state", KEY, [parse_vkey(LOG_KEY.vkey)], clock=lambda: TIME)
    assert made.begin() == (ORIGIN,)
    return made


def request(old: int, entries: list[bytes], *, text: str | None = None, proof=None, lines=None) -> bytes:
    body = naive_log.checkpoint_text(ORIGIN, entries) if text is None else text
    path = (naive_log.proof(old, entries) if old else []) if proof is None else proof
    signed = naive_log.note(body, *([LOG_KEY.sign(body)] if lines is None else lines))
    return "\n".join((f"old {old}", *map(b64, path), "", "")).encode() + signed


def cosigned(answer: Answer, entries: list[bytes]) -> bool:
    text = naive_log.checkpoint_text(ORIGIN, entries)
    signed = parse_checkpoint(naive_log.note(text, answer.body.decode()))
    verdict = judge_key(signed, KEY.key)
    return answer.status == 200 and verdict.state is SignatureState.GOOD and verdict.time == TIME


def test_growth_is_cosigned_step_by_step(witness: Witness) -> None:
    old = 0
    for size in (1, 4, 4, 5, 12):
        assert cosigned(witness.add_checkpoint(request(old, ENTRIES[:size])), ENTRIES[:size])
        old = size


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"old 4\n", 400),
        (request(4, ENTRIES).replace(b"old 4", b"old 04"), 400),
        (request(4, ENTRIES).replace(b"old 4", b"new 4"), 400),
        (request(4, ENTRIES, proof=[bytes(32)] * 64), 400),
        (request(13, ENTRIES, proof=[]), 400),
        (bytes(1 << 20), 400),
        (request(4, ENTRIES, text=f"{ORIGIN}\n12\n"), 400),
        (request(4, ENTRIES, lines=[]), 403),
        (request(4, ENTRIES, lines=[Key.make("x", LOG).sign("x")]), 403),
        (request(4, ENTRIES, lines=[LOG_KEY.line(bytes(64))]), 403),
        (request(4, ENTRIES, lines=[Key.make(ORIGIN, LOG, 1).sign(TEXT)]), 403),
        (request(4, ENTRIES, text=naive_log.checkpoint_text("example.com/other", ENTRIES)), 404),
        (request(0, ENTRIES), 409),
        (request(5, ENTRIES), 409),
        (request(4, ENTRIES, proof=[]), 422),
        (request(4, ENTRIES, proof=[bytes(32)]), 422),
        (request(4, ENTRIES, proof=[*naive_log.proof(4, ENTRIES), bytes(32)]), 422),
        (request(4, [*others(3), *others(9, 60)]), 422),
        (request(4, [*others(3), *others(1, 60)]), 422),
        (request(4, ENTRIES[:4], proof=[bytes(32)]), 422),
    ],
)
def test_everything_else_is_refused_and_changes_nothing(witness: Witness, body: bytes, status: int) -> None:
    witness.add_checkpoint(request(0, ENTRIES[:4]))
    before = witness.latest(naive_hash())
    answer = witness.add_checkpoint(body)
    assert answer.status == status, answer
    assert b"witness.example" not in answer.body
    if status == 409:
        assert (answer.body, answer.content_type) == (b"4\n", "text/x.tlog.size")
    assert witness.latest(naive_hash()) == before


def test_two_processes_that_begin_at_once_do_not_forget_what_one_of_them_cosigned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (
        Witness(tmp_path / "state", KEY, [parse_vkey(LOG_KEY.vkey)], clock=lambda: TIME) for _ in range(2)
    )
    answers: list[Answer] = []
    write = module.write_atomically

    def serve() -> None:
        one.begin()
        answers.append(one.add_checkpoint(request(0, ENTRIES)))

    threads = [threading.Thread(target=serve)]

    def late(path: Path, data: bytes, mode: int) -> None:
        if data == b"" and threads:  # the second process has found no state, and the first one is quicker
            thread = threads.pop()
            thread.start()
            thread.join(0.5)
            write(path, data, mode)
            started.append(thread)
        else:
            write(path, data, mode)

    started: list[threading.Thread] = []
    monkeypatch.setattr(module, "write_atomically", late)
    other.begin()
    started[0].join()
    assert cosigned(answers[0], ENTRIES)
    assert other.add_checkpoint(request(0, FORK)).status == 409


def naive_hash() -> str:
    return hashlib.sha256(ORIGIN.encode()).hexdigest()


def test_an_empty_tree_has_the_empty_root_and_no_proof(witness: Witness) -> None:
    other = f"{ORIGIN}\n0\n{b64(bytes(32))}\n"
    assert witness.add_checkpoint(request(0, [], text=other)).status == 422
    assert witness.add_checkpoint(request(0, ENTRIES[:2], proof=[bytes(32)])).status == 422
    assert cosigned(witness.add_checkpoint(request(0, [])), [])


def test_a_fork_and_a_rollback_are_refused_also_after_a_restart(tmp_path: Path, witness: Witness) -> None:
    witness.add_checkpoint(request(0, ENTRIES))
    again = Witness(tmp_path / "state", KEY, [parse_vkey(LOG_KEY.vkey)], clock=lambda: TIME)
    assert again.begin() == ()
    for entries in (FORK, ENTRIES[:5], [*ENTRIES[:11], b"x"]):
        assert again.add_checkpoint(request(0, entries)).status == 409
        old = min(12, len(entries))
        assert again.add_checkpoint(request(old, entries)).status in (409, 422)
    assert again.add_checkpoint(request(12, FORK)).status == 422
    assert cosigned(again.add_checkpoint(request(12, [*ENTRIES, b"x"])), [*ENTRIES, b"x"])


def test_what_was_cosigned_is_served_with_both_signatures(witness: Witness) -> None:
    assert witness.latest(naive_hash()).status == 404
    assert witness.latest("0" * 64).status == 404
    stranger = Key.make("stranger", LOG).sign("x")
    lines = [LOG_KEY.sign(naive_log.checkpoint_text(ORIGIN, ENTRIES)), stranger]
    witness.add_checkpoint(request(0, ENTRIES, lines=lines))
    answer = witness.latest(naive_hash())
    signed = parse_checkpoint(answer.body)
    assert answer.status == 200
    assert signed.checkpoint.size == 12
    assert [s.name for s in signed.note.signatures] == [ORIGIN, "witness.example"]


def test_state_that_vanished_or_is_not_its_own_is_never_first_use(tmp_path: Path, witness: Witness) -> None:
    witness.add_checkpoint(request(0, ENTRIES))
    (path,) = (tmp_path / "state").glob("*.note")
    data = path.read_bytes()
    text = naive_log.checkpoint_text(ORIGIN, ENTRIES[:2])
    forged = naive_log.note(text, LOG_KEY.sign(text), Key.make("witness.example", 4).cosign(text, TIME))
    for damage in (data[:-5], forged, b"x", data.replace(b"\n12\n", b"\n11\n")):
        path.write_bytes(damage)
        assert witness.add_checkpoint(request(0, FORK)).status == 500
        with pytest.raises(BlindbuildError):
            Witness(tmp_path / "state", KEY, [parse_vkey(LOG_KEY.vkey)], clock=lambda: TIME).begin()
    path.unlink()
    assert witness.add_checkpoint(request(0, FORK)).status == 500
    path.write_bytes(data)
    assert cosigned(witness.add_checkpoint(request(12, ENTRIES)), ENTRIES)


def test_it_remembers_before_it_answers(witness: Witness, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args) -> None:
        raise BlindbuildError("no room")

    monkeypatch.setattr(module, "write_atomically", full)
    answer = witness.add_checkpoint(request(0, ENTRIES))
    assert answer.status == 500
    assert b"example" not in answer.body
    monkeypatch.undo()
    assert cosigned(witness.add_checkpoint(request(0, FORK)), FORK)  # nothing was cosigned before


def test_of_many_requests_at_once_one_history_wins(tmp_path: Path, witness: Witness) -> None:
    witness.add_checkpoint(request(0, ENTRIES[:4]))
    bodies = [request(4, ENTRIES[:size]) for size in range(5, 13)]
    bodies += [request(4, FORK[:size]) for size in range(5, 13)]
    answers: list[tuple[bytes, Answer]] = []
    second = Witness(tmp_path / "state", KEY, [parse_vkey(LOG_KEY.vkey)], clock=lambda: TIME)
    second.begin()
    threads = [
        threading.Thread(target=lambda b=body, w=w: answers.append((b, w.add_checkpoint(b))))
        for body, w in zip(bodies, [witness, second] * 8, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for _, answer in answers) == [200] + [409] * 15
    (won,) = [body for body, answer in answers if answer.status == 200]
    assert parse_checkpoint(witness.latest(naive_hash()).body).note.text in won


def test_the_time_of_a_cosignature_is_the_witnesss(witness: Witness) -> None:
    line = witness.add_checkpoint(request(0, ENTRIES)).body.decode()
    blob = base64.b64decode(line.split()[-1])
    assert struct.unpack(">Q", blob[4:12]) == (TIME,)
    assert len(blob) == 4 + 8 + 64
