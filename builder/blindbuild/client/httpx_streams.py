"""Streams that can only write to a server that was judged: what httpx's own connection pool is built upon.

httpx sends through httpcore, whose pool takes a *network backend*. This one connects as usual, and where the
pool asks for TLS it has the whole exchange with the server; only then does the pool get a stream. The stream
asks its verdict before every write, so that no mistake of the pool can send data to somebody not judged. For
an image whose requests are sealed the streams are those of httpx_sealed.
Nothing of httpcore is imported here: httpcore and httpcore2 have the same interface.

Why not a client of our own: pooling, timeouts and HTTP/1.1 are httpcore's and h11's already, in the program
that asked for httpx, and the part that has to be trusted is the few lines of `write`.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, TypeVar

from blindbuild.client.advice import EARLY_ANSWER, LOST, OTHER_SERVER, channel_error
from blindbuild.client.exchange import Prepared, as_bytes
from blindbuild.client.judge import Judge
from blindbuild.client.transport import DEFAULT_TIMEOUT_S, Address, Peer, read_peer, refuse_early_answer
from blindbuild.client.verdict import Verdict, judge, recorded
from blindbuild.errors import ChannelError
from blindbuild.verify import RecordedSession

_CHUNK = 64 << 10  # bytes
READABLE = "is_readable"  # httpcore asks it of an idle connection, and closes one that says yes
_MOMENT_S = 0.2  # for a record of TLS that is there to be read whole
_T = TypeVar("_T")


class AttestedStream:
    """A TLS connection whose other end was judged, as httpcore's pool uses it."""

    def __init__(self, inner: Any, verdict: Verdict, judge: Judge) -> None:
        self._inner = inner
        self._verdict = verdict
        self._judge = judge
        self._asking = False

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what arrives; what is written next is a new request."""
        self._asking = False
        data: bytes = self._inner.read(max_bytes, timeout)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, if the verdict still holds.

        Raises:
            ChannelError: it does not; or an answer came before its request.
        """
        self._verdict.check()
        if not self._asking:
            self._judge.check(self._verdict)
            _check_silence(self._inner)
            self._asking = True
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def start_tls(self, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: there is one TLS connection, and it ends where it was judged to end."""
        raise ChannelError("expected no second TLS inside an attested connection")

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; an idle connection whose verdict has ended looks cut."""
        if info == READABLE and not self._judge.stands(self._verdict):
            return True
        return self._inner.get_extra_info(info)


class AsyncAttestedStream:
    """The same for httpcore's asynchronous pool."""

    def __init__(self, inner: Any, verdict: Verdict, judge: Judge) -> None:
        self._inner = inner
        self._verdict = verdict
        self._judge = judge
        self._asking = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what arrives; what is written next is a new request."""
        self._asking = False
        data: bytes = await self._inner.read(max_bytes, timeout)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, if the verdict still holds.

        Raises:
            ChannelError: it does not; or an answer came before its request.
        """
        self._verdict.check()
        if not self._asking:
            self._judge.check(self._verdict)
            await _check_silence_async(self._inner)
            self._asking = True
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    async def start_tls(self, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: there is one TLS connection, and it ends where it was judged to end."""
        raise ChannelError("expected no second TLS inside an attested connection")

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for; an idle connection whose verdict has ended looks cut."""
        if info == READABLE and not self._judge.stands(self._verdict):
            return True
        return self._inner.get_extra_info(info)


class AttestingBackend:
    """Connects for httpcore's pool, and gives it streams that were judged, and no others.

    Args:
        inner: httpcore's own backend, which opens the connections.
    """

    def __init__(self, inner: Any, judge: Judge) -> None:
        self._inner = inner
        self._judge = judge

    def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> Any:
        """Connect to the one server; nothing is sent yet, and what is sealed connects later."""
        address = self._judge.address
        _same_server(address, host, port)
        prepared = self._judge.prepare()  # what was published is judged before a server is asked
        if prepared.sealed:
            from blindbuild.client.httpx_carrier import Carrier
            from blindbuild.client.httpx_sealed import Unjudged

            return Unjudged(Carrier(self._inner, address), prepared, self._judge)
        address.check_tls()
        return _Plain(self._inner.connect_tcp(host, port, timeout, **more), prepared, self._judge)

    def connect_unix_socket(self, path: str, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: an attested server is reached over TLS."""
        raise ChannelError(f"expected a server with an address, got the socket {path[:200]!r}")

    def sleep(self, seconds: float) -> None:
        """Sleep, which httpcore asks for between retries; there are none."""
        self._inner.sleep(seconds)


class AsyncAttestingBackend:
    """The same for httpcore's asynchronous pool; what may wait for disks or networks runs in a thread."""

    def __init__(self, inner: Any, judge: Judge) -> None:
        self._inner = inner
        self._judge = judge

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, **more: Any) -> Any:
        """Connect to the one server; nothing is sent yet, and what is sealed connects later."""
        address = self._judge.address
        _same_server(address, host, port)
        prepared = await in_thread(self._judge.prepare)
        if prepared.sealed:
            from blindbuild.client.httpx_carrier import AsyncCarrier
            from blindbuild.client.httpx_sealed import AsyncUnjudged

            return AsyncUnjudged(AsyncCarrier(self._inner, address), prepared, self._judge)
        address.check_tls()
        return _AsyncPlain(await self._inner.connect_tcp(host, port, timeout, **more), prepared, self._judge)

    async def connect_unix_socket(self, path: str, *_arguments: Any, **_more: Any) -> Any:
        """Refuse: an attested server is reached over TLS."""
        raise ChannelError(f"expected a server with an address, got the socket {path[:200]!r}")

    async def sleep(self, seconds: float) -> None:
        """Sleep, which httpcore asks for between retries; there are none."""
        await self._inner.sleep(seconds)


class _Plain:
    """A connection without TLS: all that it can do is to become an attested one, or to be closed."""

    def __init__(self, inner: Any, prepared: Prepared, judge: Judge) -> None:
        self._inner = inner
        self._prepared = prepared
        self._judge = judge

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AttestedStream:
        """Shake hands, have the exchange and judge it.

        Args:
            server_hostname: not sent: nothing is said about what we look for before the verdict.
            timeout: for the handshake, and for each wait after it.
        """
        stream = self._inner.start_tls(ssl_context, None, timeout)
        try:
            tls = stream.get_extra_info("socket")
            peer = read_peer(str(self._judge.address), tls.getpeercert(binary_form=True), tls.version())
            with recorded(self._prepared.expectation, peer.server):
                session = self._exchange(stream, peer, limited(timeout))
            return AttestedStream(stream, judge(self._prepared, session, peer), self._judge)
        except BaseException:
            stream.close()
            raise

    def _exchange(self, stream: Any, peer: Peer, wait_s: float) -> RecordedSession:
        talk = as_bytes(self._prepared.exchange(peer.spki), host=peer.server)
        try:
            outgoing = next(talk)
            while True:
                if outgoing is None:
                    outgoing = talk.send(stream.read(_CHUNK, wait_s))
                else:
                    stream.write(outgoing, wait_s)
                    outgoing = next(talk)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for."""
        return self._inner.get_extra_info(info)


class _AsyncPlain:
    """The same for httpcore's asynchronous pool."""

    def __init__(self, inner: Any, prepared: Prepared, judge: Judge) -> None:
        self._inner = inner
        self._prepared = prepared
        self._judge = judge

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncAttestedStream:
        """Shake hands, have the exchange and judge it; see `_Plain.start_tls`."""
        stream = await self._inner.start_tls(ssl_context, None, timeout)
        try:
            tls = stream.get_extra_info("ssl_object")
            peer = read_peer(str(self._judge.address), tls.getpeercert(binary_form=True), tls.version())
            with recorded(self._prepared.expectation, peer.server):
                session = await self._exchange(stream, peer, limited(timeout))
            verdict = await in_thread(lambda: judge(self._prepared, session, peer))
            return AsyncAttestedStream(stream, verdict, self._judge)
        except BaseException:
            await close_shielded(stream)
            raise

    async def _exchange(self, stream: Any, peer: Peer, wait_s: float) -> RecordedSession:
        talk = as_bytes(self._prepared.exchange(peer.spki), host=peer.server)
        try:
            outgoing = next(talk)
            while True:
                if outgoing is None:
                    outgoing = talk.send(await stream.read(_CHUNK, wait_s))
                else:
                    await stream.write(outgoing, wait_s)
                    outgoing = next(talk)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def aclose(self) -> None:
        """Close the connection."""
        await self._inner.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for."""
        return self._inner.get_extra_info(info)


def _same_server(address: Address, host: str, port: int) -> None:
    if (host.strip("[]").lower(), port) != (address.host.lower(), address.port):
        raise channel_error(f"expected to connect to {address}, got {host[:200]}:{port}", OTHER_SERVER)


def limited(timeout: float | None) -> float:
    """Return the limit of a wait before the verdict."""
    # no limit at all would let a silent server hold the program before it has proven anything
    return DEFAULT_TIMEOUT_S if timeout is None else timeout


def _check_silence(inner: Any) -> None:
    """Refuse a connection on which something has arrived that nobody asked for, or that has ended."""
    try:
        refuse_early_answer(inner.get_extra_info("socket"))
    except OSError as error:
        raise channel_error("connection lost before the request; attest again", LOST) from error


async def _check_silence_async(inner: Any) -> None:
    """The same; what TLS sends for itself is no answer, and is waited for a moment."""
    import anyio

    data: bytes | None = _decrypted(inner.get_extra_info("ssl_object")) or None
    if data is None and inner.get_extra_info(READABLE):
        with anyio.move_on_after(_MOMENT_S):
            data = await inner.read(1)
    if data == b"":
        raise channel_error("connection lost before the request; attest again", LOST)
    if data is not None:
        raise channel_error("expected no answer before a request, got one", EARLY_ANSWER)


def _decrypted(tls: ssl.SSLObject) -> bytes:
    """Return a byte of what was read from the network already, and not yet from TLS."""
    try:
        return tls.read(1)
    except ssl.SSLError:  # nothing there
        return b""


async def in_thread(work: Callable[[], _T]) -> _T:
    """Do what may wait for files or networks without holding up what else is awaited."""
    import anyio.to_thread  # comes with httpx

    return await anyio.to_thread.run_sync(work)


async def close_shielded(stream: Any) -> None:
    """Close a stream, also for somebody who is being cancelled."""
    import anyio

    with anyio.CancelScope(shield=True):
        await stream.aclose()
