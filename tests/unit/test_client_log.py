"""What a client remembers of logs, when it compares, and whom it asks."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from blindbuild.client import log_files
from blindbuild.client import web as web_client
from blindbuild.client.log_check import LogCheck
from blindbuild.client.log_files import open_log
from blindbuild.client.log_memory import MAX_CONFLICTS, LogMemory
from blindbuild.client.web import MAX_REFUSAL, exchange, fetch, post
from blindbuild.errors import BlindbuildError, ChannelError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.verify.checklist import LOG_TITLES, Checklist
from blindbuild.verify.tlog import FORKED, judge_logged
from tests.fakes import naive_log
from tests.fakes.log_world import ORIGIN, Shown, judged, others, our_entry, policy, reason
from tests.fakes.published import NOW
from tests.fakes.world import publisher

FIRST = Shown(entries=[*others(3), our_entry()], index=3)
LATER = Shown(entries=[*FIRST.entries, *others(5, 9)], index=3)
NO_WITNESS = policy("quorum none\n")


def files(root: Path, shown: Shown) -> str:
    for path, data in {**naive_log.tiles(shown.entries), "checkpoint": shown.checkpoint}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    return str(root)


def accept(check: LogCheck) -> Checklist:
    """What `log verify` does."""
    required = check.require(now=NOW)
    steps = Checklist({"M6": "the manifest is one that can be logged", **LOG_TITLES})
    steps.run("M6", lambda: (None, ""))
    note = judge_logged(steps, required, publisher().envelope, now=NOW)
    if not steps.failed():
        check.record(note)
    return steps


def size(memory: LogMemory) -> int | None:
    note = memory.read(ORIGIN)
    return None if note is None else parse_checkpoint(note).checkpoint.size


def test_a_client_goes_forward_with_the_log_and_never_back(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path / "memory")
    place = files(tmp_path / "log", LATER)
    for shown, expected in ((FIRST, 4), (LATER, 9), (FIRST, 9), (LATER, 9)):
        steps = accept(LogCheck(NO_WITNESS, shown.proof, place=place, memory=memory))
        assert reason(steps) is None
        assert size(memory) == expected


def test_a_slow_log_does_not_hold_the_client_file_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = LogMemory(tmp_path / "memory")
    memory.record(FIRST.checkpoint)
    place = files(tmp_path / "log", LATER)
    monkeypatch.setattr(log_files, "MAX_COMPARISON_S", -1.0)
    steps = accept(LogCheck(NO_WITNESS, LATER.proof, place=place, memory=memory))
    assert reason(steps) == "M13:log-unreachable"
    assert "to be read within" in steps.failed()[0].detail


def test_what_is_to_be_remembered_is_the_larger_view(tmp_path: Path) -> None:
    place = files(tmp_path / "log", LATER)
    for before, shown in ((FIRST, LATER), (LATER, FIRST)):
        memory = LogMemory(tmp_path / f"{len(before.entries)}")
        memory.record(before.checkpoint)
        required = LogCheck(NO_WITNESS, shown.proof, place=place, memory=memory).require(now=NOW)
        steps = Checklist({"M6": "", **LOG_TITLES})
        steps.run("M6", lambda: (None, ""))
        note = judge_logged(steps, required, publisher().envelope, now=NOW)
        assert steps.passed("M13")
        assert note == LATER.checkpoint


def test_a_memory_never_goes_back(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    for shown in (LATER, FIRST):
        memory.record(shown.checkpoint)
        assert memory.read(ORIGIN) == LATER.checkpoint


def test_at_first_use_it_is_said_that_nothing_was_compared(tmp_path: Path) -> None:
    steps = accept(LogCheck(policy(), FIRST.proof, memory=LogMemory(tmp_path)))
    assert not steps.passed("M13")
    assert any("first use of this log" in warning for warning in steps.warnings)


def test_without_the_logs_files_witnesses_are_enough_and_nothing_is_remembered(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    accept(LogCheck(policy(), FIRST.proof, memory=memory))
    steps = accept(LogCheck(policy(), LATER.proof, memory=memory))
    assert reason(steps) is None
    assert any("was not compared" in warning for warning in steps.warnings)
    assert size(memory) == 4


def test_without_files_and_without_witnesses_it_is_refused(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    accept(LogCheck(NO_WITNESS, FIRST.proof, memory=memory))
    steps = accept(LogCheck(NO_WITNESS, LATER.proof, memory=memory))
    assert reason(steps) == "M13:log-unreachable"
    steps = accept(LogCheck(NO_WITNESS, LATER.proof, place=str(tmp_path / "none"), memory=memory))
    assert "the log has no tile/" in steps.failed()[0].detail


def test_a_fork_is_refused_though_a_quorum_cosigned_it(tmp_path: Path) -> None:
    # every witness of the policy is bought: what the client saw before still counts
    memory = LogMemory(tmp_path / "memory")
    accept(LogCheck(policy(), FIRST.proof, memory=memory))
    forked = Shown(entries=[*others(2), our_entry(), *others(5, 30)], index=2)
    check = LogCheck(policy(), forked.proof, place=files(tmp_path / "evil", forked), memory=memory)
    steps = accept(check)
    assert reason(steps) == "M13:log-forked"
    said = check.keep_evidence(check.require(now=NOW), [FORKED])
    before, kept = (Path(word) for word in said.removeprefix("both checkpoints are kept: ").split(" and "))
    assert (before.read_bytes(), kept.read_bytes()) == (FIRST.checkpoint, forked.checkpoint)
    assert size(memory) == 4


def test_evidence_does_not_fill_the_disk(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.record(FIRST.checkpoint)
    for number in range(MAX_CONFLICTS + 5):
        memory.keep_conflict(ORIGIN, b"%d" % number)
    assert len(list(tmp_path.glob("*.conflict-*"))) == MAX_CONFLICTS


def test_a_refused_proof_asks_nobody(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.record(FIRST.checkpoint)
    unsigned = LATER.but(lines=[naive_log.Key.make("x", 1).sign(LATER.body)])
    for proof in (unsigned.proof, b"junk", None):
        check = LogCheck(policy(), proof, place="http://127.0.0.1:1/", memory=memory)
        assert check.require(now=NOW).problem == ""
        assert (reason(accept(check)) or "").startswith("M12:log-")


@pytest.mark.parametrize(
    "damage", [b"", b"x", FIRST.checkpoint[:-4], FIRST.checkpoint.replace(b"log\n", b"lag\n")]
)
def test_a_damaged_memory_is_never_first_use(tmp_path: Path, damage: bytes) -> None:
    memory = LogMemory(tmp_path)
    memory.record(FIRST.checkpoint)
    memory.path(ORIGIN).write_bytes(damage)
    with pytest.raises(BlindbuildError, match=str(tmp_path)):
        LogCheck(policy(), FIRST.proof, memory=memory).require(now=NOW)
    with pytest.raises(BlindbuildError):
        memory.record(LATER.checkpoint)


def test_another_process_that_accepted_a_fork_meanwhile_is_noticed(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.record(FIRST.checkpoint)
    with pytest.raises(BlindbuildError, match="another tree of 4 entries"):
        memory.record(Shown(entries=others(4, 50)).checkpoint)


def test_what_was_not_compared_with_the_newest_memory_does_not_replace_it(tmp_path: Path) -> None:
    # two runs at once, one of which was shown a fork: it stays in memory until somebody has compared it
    one, other = LogMemory(tmp_path), LogMemory(tmp_path)
    one.record(FIRST.checkpoint)
    for memory in (one, other):
        assert memory.read(ORIGIN) == FIRST.checkpoint
    forked = Shown(entries=others(6, 50))
    one.record(forked.checkpoint)
    other.record(LATER.checkpoint)
    assert LogMemory(tmp_path).read(ORIGIN) == forked.checkpoint
    steps = accept(LogCheck(policy(), LATER.proof, place=files(tmp_path / "log", LATER), memory=other))
    assert reason(steps) == "M13:log-forked"


def test_the_memory_of_one_log_is_none_of_another(tmp_path: Path) -> None:
    memory = LogMemory(tmp_path)
    memory.record(FIRST.checkpoint)
    assert memory.read("example.com/other") is None
    steps = judged(FIRST, remembered=FIRST.checkpoint.replace(b"example.com/log\n", b"example.com/lug\n", 1))
    assert reason(steps) == "M13:other-log"
    assert reason(judged(FIRST, remembered=b"junk")) == "M13:memory-malformed"


@pytest.fixture
def web() -> Iterator[tuple[str, dict[str, tuple[int, dict[str, str], bytes]]]]:
    answers: dict[str, tuple[int, dict[str, str], bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answers[self.path]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", answers
    server.shutdown()
    server.server_close()


def test_what_a_web_server_may_answer(web) -> None:
    address, answers = web
    bomb = gzip.compress(bytes(1 << 20))
    gz = {"Content-Encoding": "gzip"}
    answers |= {
        "/file": (200, {"Content-Type": "text/plain; charset=utf-8"}, b"abc"),
        "/gone": (410, {}, b""),
        "/none": (404, {}, b""),
        "/gzip": (200, gz, gzip.compress(b"abc")),
        "/bomb": (200, gz, bomb),
        "/cut": (200, gz, bomb[:-9]),
        "/twice": (200, gz, gzip.compress(b"a") + gzip.compress(b"b")),
        "/br": (200, {"Content-Encoding": "br"}, b"abc"),
        "/long": (200, {}, bytes(11)),
        "/broken": (500, {}, b"abc"),
        "/moved": (302, {"Location": f"{address}/file"}, b""),
    }
    assert fetch(f"{address}/file", limit_bytes=3) == b"abc"
    assert fetch(f"{address}/gzip", limit_bytes=3) == b"abc"
    assert fetch(f"{address}/gone", limit_bytes=3) is None
    assert open_log(f"{address}/")("none", 3) is None
    for path in ("bomb", "cut", "twice", "br", "long", "broken", "moved"):
        with pytest.raises(ChannelError):
            fetch(f"{address}/{path}", limit_bytes=10)
    answer = post(f"{address}/broken", b"x", limit_bytes=10)
    assert (answer.status, answer.body) == (500, b"abc")
    assert post(f"{address}/file", b"x", limit_bytes=10).content_type == "text/plain"


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/", "http://x y/", "http://\u00e9/", "//x", ""]
)
def test_only_http_addresses_are_asked(url: str) -> None:
    with pytest.raises(ChannelError):
        fetch(url, limit_bytes=10)


@contextmanager
def speaking(said: bytes, again: bytes = b"") -> Iterator[str]:
    """A server that answers with these bytes, and then goes on with others for as long as one listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as stream:
                stream.recv(4096)
                stream.sendall(said)
                stop = time.monotonic() + 30
                while again and time.monotonic() < stop:
                    stream.sendall(again)
                    time.sleep(0.02)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join()


@pytest.mark.parametrize(
    ("said", "again"),
    [
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a"),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"a"),
        (b"", b"a"),
    ],
)
def test_a_server_that_drips_at_any_place_is_left_in_time(
    monkeypatch: pytest.MonkeyPatch, said: bytes, again: bytes
) -> None:
    monkeypatch.setattr(web_client, "MAX_ANSWER_S", 0.3)
    with speaking(said, again) as address:
        began = time.monotonic()
        with pytest.raises(ChannelError, match="expected the whole answer within"):
            fetch(address, limit_bytes=1 << 20)
        assert time.monotonic() - began < 20


def test_an_answer_that_ends_early_is_no_answer() -> None:
    with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc") as address:
        with pytest.raises(ChannelError, match="expected the whole answer"):
            fetch(address, limit_bytes=10)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        (b"Content-Length: 5000\r\n\r\n" + b"a" * 5000, 5000),
        (b"Content-Length: 100000\r\n\r\n" + b"a" * 100_000, MAX_REFUSAL),
        (b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", 3),
        (b"Transfer-Encoding: chunked\r\n\r\n-1\r\n" + b"a" * 100_000, MAX_REFUSAL),
    ],
    ids=["short", "long", "in chunks", "a chunk without an end"],
)
def test_of_a_refusal_no_more_is_read_than_is_shown(said: bytes, size: int) -> None:
    with speaking(b"HTTP/1.1 404 X\r\n" + said) as address:
        assert len(exchange("GET", address, limit_bytes=10).body) == size


def test_what_a_server_says_instead_of_an_answer_steers_no_terminal() -> None:
    with speaking(b"\x1b]0;owned\x07\xc2\x9b" + b"z" * 5000 + b"\r\n\r\n") as address:
        with pytest.raises(ChannelError) as refused:
            fetch(address, limit_bytes=10)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400
