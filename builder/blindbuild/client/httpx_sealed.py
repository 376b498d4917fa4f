"""Streams for httpx's connection pool whose requests are sealed, so that TLS may end before the image.

As in httpx_streams the pool gets a stream only when the image was judged. What it writes there goes to no
network: it is kept until the pool wants the answer, sealed to the attested key, and carried as the body of
another request by whoever stands before the image. What the pool then reads was opened.

One stream of the pool is one session of the image. The connection that carries it may end and be opened anew
between two requests: what proves where the data goes is the seal.
"""

from __future__ import annotations

from typing import Any

from blindbuild.client.attest import MAX_RESPONSE
from blindbuild.client.exchange import Prepared, ask
from blindbuild.client.http1 import Response
from blindbuild.client.httpx_carrier import AsyncCarrier, Carrier, Waits, drive
from blindbuild.client.httpx_streams import READABLE, in_thread, limited
from blindbuild.client.judge import Judge
from blindbuild.client.sealed import MAX_REQUEST, SealedRequest, Sealer, read_opened
from blindbuild.client.transport import Peer
from blindbuild.client.verdict import Verdict, judge, recorded
from blindbuild.errors import ChannelError
from blindbuild.verify import RecordedSession


class SealedTurns:
    """One request after the other, as a pool writes them, and their answers: no input or output.

    Args:
        session: what was judged.
        verdict: that it was accepted.
        judge: knows whether the verdict is still current.
    """

    def __init__(self, session: RecordedSession, verdict: Verdict, judge: Judge) -> None:
        self._sealer = Sealer(session)
        self._verdict = verdict
        self._judge = judge
        self._request = bytearray()
        self._asks_head = False
        self._answer = memoryview(b"")

    def write(self, buffer: bytes) -> None:
        """Keep a part of a request.

        Raises:
            ChannelError: the verdict does not stand any more, or the request is too long for any gate.
        """
        self._judge.check(self._verdict)
        if len(self._request) + len(buffer) > MAX_REQUEST:
            raise ChannelError(f"expected a request of at most {MAX_REQUEST} bytes, got more")
        self._request += buffer

    def seal(self) -> SealedRequest | None:
        """Return the request that was written, to be sent once; None if nothing was written.

        Raises:
            ChannelError: the verdict does not stand any more: making the request may have taken long. Or it
                asks for a tunnel, which would end in the seal.
        """
        if not self._request:
            return None
        self._judge.check(self._verdict)
        if self._request.startswith(b"CONNECT "):
            raise ChannelError("expected a request for the image, got CONNECT")
        self._asks_head = self._request.startswith(b"HEAD ")
        return self._sealer.seal(self._taken())

    def _taken(self) -> bytearray:
        request, self._request = self._request, bytearray()
        return request

    def open(self, sealed: SealedRequest, outer: Response) -> None:
        """Open what came back.

        Raises:
            VerificationError: step C3, as `SealedRequest.answer` and `read_opened`.
            ChannelError: there is no sealed answer, or one to HEAD with a body, which a pool would take for
                the next answer.
        """
        answer = sealed.answer(outer)
        opened = read_opened(answer, max_body=MAX_RESPONSE)
        if self._asks_head and opened.body:
            raise ChannelError("expected no body in an answer to HEAD, got one")
        self._answer = memoryview(answer)

    def read(self, max_bytes: int) -> bytes:
        """Return the next part of the answer that was opened, empty at its end."""
        part, self._answer = self._answer[:max_bytes], self._answer[max_bytes:]
        return bytes(part)

    def get_extra_info(self, info: str) -> Any:
        """Return what a pool asks for; an idle connection whose verdict has ended looks cut."""
        return not self._judge.stands(self._verdict) if info == READABLE else None


class SealedStream:
    """A session with an image that was judged, as httpcore's pool uses it."""

    def __init__(self, carrier: Carrier, turns: SealedTurns, connect_s: float) -> None:
        self._carrier = carrier
        self._turns = turns
        self._connect_s = connect_s
        self._write_s: float | None = None

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep a part of a request, if the verdict still holds; see `SealedTurns.write`."""
        self._carrier.check()
        self._turns.write(buffer)
        self._write_s = timeout

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send the request that was written, sealed, and return what was in its answer.

        Raises:
            VerificationError: as `SealedTurns.open`.
            ChannelError: the verdict does not hold any more, or there is no sealed answer; or it was closed.
        """
        self._carrier.check()
        sealed = self._turns.seal()
        if sealed is not None:
            waits = Waits(self._connect_s, self._write_s, timeout)
            self._turns.open(sealed, self._carrier.ask(sealed.question(max_body=MAX_RESPONSE), waits))
        return self._turns.read(max_bytes)

    def close(self) -> None:
        """Close the connection."""
        self._carrier.close()

    def start_tls(self, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: what is sealed needs no TLS."""
        raise ChannelError("expected no second TLS inside an attested connection")

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; see `SealedTurns.get_extra_info`."""
        return self._turns.get_extra_info(info)


class AsyncSealedStream:
    """The same for httpcore's asynchronous pool."""

    def __init__(self, carrier: AsyncCarrier, turns: SealedTurns, connect_s: float) -> None:
        self._carrier = carrier
        self._turns = turns
        self._connect_s = connect_s
        self._write_s: float | None = None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Keep a part of a request, if the verdict still holds; see `SealedTurns.write`."""
        self._carrier.check()
        self._turns.write(buffer)
        self._write_s = timeout

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Send the request that was written, sealed, and return what was in its answer.

        Raises:
            VerificationError: as `SealedTurns.open`.
            ChannelError: the verdict does not hold any more, or there is no sealed answer; or it was closed.
        """
        self._carrier.check()
        sealed = self._turns.seal()
        if sealed is not None:
            waits = Waits(self._connect_s, self._write_s, timeout)
            self._turns.open(sealed, await self._carrier.ask(sealed.question(max_body=MAX_RESPONSE), waits))
        return self._turns.read(max_bytes)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._carrier.aclose()

    async def start_tls(self, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: what is sealed needs no TLS."""
        raise ChannelError("expected no second TLS inside an attested connection")

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; see `SealedTurns.get_extra_info`."""
        return self._turns.get_extra_info(info)


class Unjudged:
    """What a pool takes for a connection without TLS: it becomes a stream that seals, or is closed."""

    def __init__(self, carrier: Carrier, prepared: Prepared, judge: Judge) -> None:
        self._carrier = carrier
        self._prepared = prepared
        self._judge = judge

    def start_tls(self, *, timeout: float | None = None, **_more: Any) -> SealedStream:
        """Connect, have the exchange and judge it.

        Args:
            timeout: for connecting, and for each wait after it.
            _more: for the TLS that the pool believes in; whether there is any, the address says.
        """
        wait_s, server = limited(timeout), str(self._carrier.address)
        waits = Waits(wait_s, wait_s, wait_s)
        try:
            with recorded(self._prepared.expectation, server):
                session = ask(
                    self._prepared.exchange(None), lambda question: self._carrier.ask(question, waits)
                )
            verdict = judge(self._prepared, session, Peer(server, session.spki))
            return SealedStream(self._carrier, SealedTurns(session, verdict, self._judge), wait_s)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._carrier.close()


class AsyncUnjudged:
    """The same for httpcore's asynchronous pool."""

    def __init__(self, carrier: AsyncCarrier, prepared: Prepared, judge: Judge) -> None:
        self._carrier = carrier
        self._prepared = prepared
        self._judge = judge

    async def start_tls(self, *, timeout: float | None = None, **_more: Any) -> AsyncSealedStream:
        """Connect, have the exchange and judge it; see `Unjudged.start_tls`."""
        wait_s, server = limited(timeout), str(self._carrier.address)
        waits = Waits(wait_s, wait_s, wait_s)
        try:
            with recorded(self._prepared.expectation, server):
                session = await drive(
                    self._prepared.exchange(None), lambda question: self._carrier.ask(question, waits)
                )
            verdict = await in_thread(lambda: judge(self._prepared, session, Peer(server, session.spki)))
            return AsyncSealedStream(self._carrier, SealedTurns(session, verdict, self._judge), wait_s)
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection."""
        await self._carrier.aclose()
