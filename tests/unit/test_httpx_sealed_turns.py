"""What httpx's pool writes and reads where requests are sealed, without a network."""

from __future__ import annotations

from typing import Any

import pytest

from blindbuild.client import Expectation, httpx_sealed
from blindbuild.client.exchange import prepare
from blindbuild.client.http1 import Response
from blindbuild.client.httpx_sealed import (
    AsyncCarrier,
    AsyncSealedStream,
    Carrier,
    SealedStream,
    SealedTurns,
    Unjudged,
)
from blindbuild.client.judge import Judge
from blindbuild.client.transport import Address, Peer
from blindbuild.client.verdict import judge
from blindbuild.errors import ChannelError, VerificationError
from tests.fakes.published import NOW
from tests.fakes.world import HPKE_KEY, TEST_POLICY, pinned_trust, sealed_publisher, sealed_session

HERE = Address("host", 443)


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
