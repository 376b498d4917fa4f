"""What httpx's pool writes and reads where requests are sealed, without a network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ssl
import time
from collections.abc import Callable
from typing import Any

import pytest

from blindbuild.client import Expectation, httpx_carrier, httpx_sealed
from blindbuild.client.advice import LOST
from blindbuild.client.exchange import Question, prepare
from blindbuild.client.http1 import Response
from blindbuild.client.httpx_carrier import AsyncCarrier, Carrier, Waits
from blindbuild.client.httpx_sealed import AsyncSealedStream, SealedStream, SealedTurns, Unjudged
from blindbuild.client.judge import Judge
from blindbuild.client.sealed import SealedRequest
from blindbuild.client.transport import Address, Peer
from blindbuild.client.verdict import judge
from blindbuild.errors import ChannelError, VerificationError
from tests.fakes.published import NOW
from tests.fakes.world import HPKE_KEY, TEST_POLICY, pinned_trust, sealed_publisher, sealed_session

HERE = Address("host", 443)


QUESTION = Question("GET", "/x", max_body=10)
WAITS = Waits(1.0, 2.0, 3.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Stream:
    """One of httpcore's, sync and awaited, that answers with fixed bytes, then ends."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.readable = False
        self.unasked: bytes | Exception | None = None
        self.closed = False
        self.written: list[tuple[bytes, float | None]] = []

    def write(self, data: bytes, timeout: float | None) -> Any:
        self.written.append((bytes(data), timeout))
        return self.backend.given(None)

    def read(self, max_bytes: int, timeout: float | None) -> Any:
        if (max_bytes, timeout) == (1, None):  # has something come unasked?
            return self._unasked()
        assert (max_bytes, timeout) == (64 << 10, WAITS.read_s)
        return self.backend.given(self.backend.answers.pop(0))

    async def _unasked(self) -> bytes:
        if self.unasked is None:
            await asyncio.Event().wait()
        if isinstance(self.unasked, Exception):
            raise self.unasked
        return self.unasked or b""

    def start_tls(self, context: ssl.SSLContext, name: str | None, timeout: float | None) -> Any:
        self.backend.shaken.append((context.minimum_version, context.verify_mode, name, timeout))
        if self.backend.breaks is not None:
            raise self.backend.breaks
        return self.backend.given(self)

    def get_extra_info(self, info: str) -> bool:
        assert info == "is_readable"
        return self.readable

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.closed = True


class Backend:
    """One of httpcore's, sync or awaited."""

    def __init__(self, *answers: bytes, awaited: bool) -> None:
        self.answers = list(answers)
        self.streams: list[Stream] = []
        self.shaken: list[Any] = []
        self.breaks: Exception | None = None
        self.connecting: Callable[[], object] = lambda: None
        self._awaited = awaited

    def given(self, value: Any) -> Any:
        async def waiting() -> Any:
            return value

        return waiting() if self._awaited else value

    def connect_tcp(self, host: str, port: int, timeout: float | None) -> Any:
        assert (host, port, timeout) == (HERE.host, HERE.port, WAITS.connect_s)
        self.connecting()
        self.streams.append(Stream(self))
        return self.given(self.streams[-1])


def asking(backend: Backend, *, awaited: bool, address: Address = HERE) -> Callable[[], Response]:
    """Return what asks one question after the other on one carrier."""
    if awaited:
        waiting = AsyncCarrier(backend, address)
        return lambda: asyncio.run(waiting.ask(QUESTION, WAITS))
    carrier = Carrier(backend, address)
    return lambda: carrier.ask(QUESTION, WAITS)


class Nobody:
    """A backend that may not be asked."""

    def connect_tcp(self, *_arguments: Any, **_more: Any) -> Any:
        raise AssertionError("connected")


def judged(now: list[float]) -> tuple[SealedTurns, Judge]:
    published = sealed_publisher()
    expectation = Expectation(
        published.envelope, published.release, pinned_trust(), TEST_POLICY, clock=lambda: now[0]
    )
    judged_by = Judge(HERE, expectation, refresh_s=0.0)
    prepared = prepare(judged_by.ask())
    verdict = judge(prepared, sealed_session(), Peer("host", HPKE_KEY))
    return SealedTurns(sealed_session(), verdict, judged_by), judged_by


def test_a_request_is_sealed_whole_and_once() -> None:
    turns, _ = judged([NOW])
    assert turns.seal() is None
    for part in (b"POST / HTTP/1.1\r\n", b"\r\n", b""):
        turns.write(part)
    first = turns.seal()
    assert first is not None
    assert turns.seal() is None
    assert b"POST" not in first.body
    turns.write(b"another")
    second = turns.seal()
    assert second is not None
    assert second.body[:16] == first.body[:16]  # the session
    assert second.body[16:48] != first.body[16:48]  # a key of its own


def test_an_answer_is_read_in_parts_and_ends() -> None:
    turns, _ = judged([NOW])
    assert turns.read(10) == b""
    turns._answer = memoryview(b"0123456789")
    assert [turns.read(4) for _ in range(4)] == [b"0123", b"4567", b"89", b""]


def test_an_answer_that_nobody_sealed_is_not_read() -> None:
    turns, _ = judged([NOW])
    turns.write(b"POST / HTTP/1.1\r\n\r\n")
    sealed = turns.seal()
    assert sealed is not None
    with pytest.raises(VerificationError) as caught:
        turns.open(sealed, Response(200, {}, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"))
    assert (caught.value.step, caught.value.reason) == ("C3", "answer-not-sealed")
    with pytest.raises(ChannelError, match="got status 503"):
        turns.open(sealed, Response(503, {}, b""))
    assert turns.read(10) == b""


@pytest.mark.parametrize("step", [3600, -1])
def test_a_verdict_that_ended_takes_and_seals_nothing(step: int) -> None:
    now: list[float] = [NOW]
    turns, judged_by = judged(now)
    turns.write(b"first part")
    assert not turns.get_extra_info("is_readable")
    assert turns.get_extra_info("ssl_object") is None
    now[0] += step
    assert turns.get_extra_info("is_readable")  # so the pool throws it away
    stream = SealedStream(Carrier(Nobody(), HERE), turns, 1.0)
    awaited = AsyncSealedStream(AsyncCarrier(Nobody(), HERE), turns, 1.0)
    for refused in (
        lambda: stream.write(b"second part"),
        lambda: stream.read(1),
        lambda: awaited.write(b"second part").send(None),
        lambda: awaited.read(1).send(None),
    ):
        with pytest.raises(ChannelError, match="expired; attest again"):
            refused()
    assert stream.get_extra_info("is_readable")
    assert awaited.get_extra_info("is_readable")
    assert judged_by.address == HERE


def test_what_no_gate_would_take_is_refused_before_it_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx_sealed, "MAX_REQUEST", 10)
    turns, _ = judged([NOW])
    turns.write(b"0123456789")
    with pytest.raises(ChannelError, match="a request of at most 10 bytes, got more"):
        turns.write(b"!")


def test_no_tls_goes_over_a_stream_that_seals() -> None:
    turns, _ = judged([NOW])
    with pytest.raises(ChannelError, match="no second TLS"):
        SealedStream(Carrier(Nobody(), HERE), turns, 1.0).start_tls(None)
    with pytest.raises(ChannelError, match="no second TLS"):
        AsyncSealedStream(AsyncCarrier(Nobody(), HERE), turns, 1.0).start_tls(None).send(None)


def test_a_connection_that_was_never_opened_can_be_closed() -> None:
    _, judged_by = judged([NOW])
    Unjudged(Carrier(Nobody(), HERE), prepare(judged_by.ask()), judged_by).close()


# --- what carries sealed requests

both = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


@both
def test_whoever_ends_tls_shows_any_certificate_and_is_told_the_name(awaited: bool) -> None:
    backend = Backend(OK[:20], OK[20:], OK, awaited=awaited)
    ask = asking(backend, awaited=awaited)
    assert [ask().body, ask().body] == [b"ok", b"ok"]
    [stream] = backend.streams
    assert backend.shaken == [(ssl.TLSVersion.TLSv1_2, ssl.CERT_NONE, "host", WAITS.connect_s)]
    assert stream.written == [(b"GET /x HTTP/1.1\r\nHost: host\r\n\r\n", WAITS.write_s)] * 2


@both
def test_an_address_without_tls_has_none(awaited: bool) -> None:
    backend = Backend(OK, awaited=awaited)
    plain = Address(HERE.host, HERE.port, tls=False)
    assert asking(backend, awaited=awaited, address=plain)().body == b"ok"
    assert backend.shaken == []
    assert backend.streams[0].written[0][0] == b"GET /x HTTP/1.1\r\nHost: host:443\r\n\r\n"


@both
def test_a_connection_that_ended_or_spoke_unasked_is_opened_anew(awaited: bool) -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    backend = Backend(OK, closing, OK + b"more", OK, awaited=awaited)
    ask = asking(backend, awaited=awaited)
    ask()
    backend.streams[0].readable = True
    for _ in range(3):
        assert ask().body == b"ok"
    assert [len(stream.written) for stream in backend.streams] == [1, 1, 1, 1]
    assert [stream.closed for stream in backend.streams] == [True, True, True, False]


@both
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "ended in the middle"),
        (b"HTTP/1.1 302 Found\r\n\r\n", "got a redirect"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n", "at most 10 bytes of body"),
    ],
)
def test_what_is_no_answer_ends_the_connection_and_is_not_asked_again(
    awaited: bool, answer: bytes, message: str
) -> None:
    backend = Backend(answer, awaited=awaited)
    with pytest.raises(ChannelError, match=message):
        asking(backend, awaited=awaited)()
    [stream] = backend.streams
    assert stream.closed
    assert len(stream.written) == 1


@both
def test_a_connection_whose_tls_fails_is_closed(awaited: bool) -> None:
    backend = Backend(awaited=awaited)
    backend.breaks = OSError("no TLS")
    with pytest.raises(OSError, match="no TLS"):
        asking(backend, awaited=awaited)()
    assert backend.streams[0].closed


@pytest.mark.parametrize("unasked", [b"H", b"", ssl.SSLError("bad record")], ids=["data", "end", "broken"])
def test_what_was_taken_from_the_network_already_is_no_answer_to_the_next_request(
    unasked: bytes | Exception,
) -> None:
    backend = Backend(OK, OK, awaited=True)
    ask = asking(backend, awaited=True)
    ask()
    backend.streams[0].unasked = unasked
    assert ask().body == b"ok"
    assert [(len(stream.written), stream.closed) for stream in backend.streams] == [(1, True), (1, False)]


@both
def test_a_client_that_was_closed_neither_takes_nor_sends_nor_connects(awaited: bool) -> None:
    turns, _ = judged([NOW])
    turns.write(b"POST / HTTP/1.1\r\n\r\n")
    if awaited:
        stream: Any = AsyncSealedStream(AsyncCarrier(Nobody(), HERE), turns, 1.0)
        asyncio.run(stream.aclose())
        calls = (lambda: asyncio.run(stream.write(b"x")), lambda: asyncio.run(stream.read(1)))
    else:
        stream = SealedStream(Carrier(Nobody(), HERE), turns, 1.0)
        stream.close()
        calls = (lambda: stream.write(b"x"), lambda: stream.read(1))
    for call in calls:
        with pytest.raises(ChannelError, match="connection closed; attest again") as caught:
            call()
        assert caught.value.hint == LOST.text


@both
def test_a_client_that_is_closed_while_it_connects_sends_nothing(awaited: bool) -> None:
    backend = Backend(OK, awaited=awaited)
    carrier: Any = (AsyncCarrier if awaited else Carrier)(backend, HERE)

    def close() -> None:
        carrier.aclose().send(None) if awaited else carrier.close()

    def close_now() -> None:
        with contextlib.suppress(StopIteration):
            close()

    backend.connecting = close_now
    with pytest.raises(ChannelError, match="connection closed"):
        asyncio.run(carrier.ask(QUESTION, WAITS)) if awaited else carrier.ask(QUESTION, WAITS)
    assert [(stream.written, stream.closed) for stream in backend.streams] == [([], True)]


@both
def test_a_long_request_is_written_in_parts_within_one_limit(
    awaited: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = Backend(OK, awaited=awaited)
    asked = Question("POST", "/x", body=bytes(200_000), max_body=10)
    carrier: Any = (AsyncCarrier if awaited else Carrier)(backend, HERE)

    def ask() -> Response:
        return asyncio.run(carrier.ask(asked, WAITS)) if awaited else carrier.ask(asked, WAITS)

    assert ask().body == b"ok"
    written = [part for part, _ in backend.streams[0].written]
    assert b"".join(written) == asked.written(host="host")
    assert [len(part) for part in written[:-1]] == [64 << 10] * 3
    monkeypatch.setattr(httpx_carrier, "MAX_SEND_S", -1.0)
    with pytest.raises(ChannelError, match="expected to have sent a request within 0 s"):
        ask()


@both
def test_a_question_with_a_deadline_is_not_waited_for_longer(awaited: bool) -> None:
    carrier: Any = (AsyncCarrier if awaited else Carrier)(Backend(OK, awaited=awaited), HERE)

    def ask(deadline: float) -> Response:
        asked = dataclasses.replace(QUESTION, deadline=deadline)
        return asyncio.run(carrier.ask(asked, WAITS)) if awaited else carrier.ask(asked, WAITS)

    assert ask(time.monotonic() + 5).body == b"ok"
    with pytest.raises(ChannelError, match="within 0 s"):
        ask(time.monotonic() - 1)


def test_a_tunnel_is_not_asked_for_inside_a_seal() -> None:
    turns, _ = judged([NOW])
    turns.write(b"CONNECT other:443 HTTP/1.1\r\n")
    with pytest.raises(ChannelError, match="expected a request for the image, got CONNECT"):
        turns.seal()


def test_an_answer_to_head_has_no_body(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, _ = judged([NOW])
    inside = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"
    for method, body, fits in (
        (b"HEAD", b"", True),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n", False),
        (b"GET", b"x", True),
    ):
        turns.write(method + b" / HTTP/1.1\r\n\r\n")
        sealed = turns.seal()
        assert sealed is not None
        opened = inside % (len(body), body)
        monkeypatch.setattr(SealedRequest, "answer", lambda _self, _outer, opened=opened: opened)
        if fits:
            turns.open(sealed, Response(200, {}, b""))
            assert turns.read(1000) == opened
        else:
            with pytest.raises(ChannelError, match="expected no body in an answer to HEAD"):
                turns.open(sealed, Response(200, {}, b""))
