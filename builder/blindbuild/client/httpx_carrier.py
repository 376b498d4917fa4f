"""What carries the exchange and sealed requests for httpx's pool to whoever stands before an image.

Nothing of it is believed, so its connection may be opened anew between two requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from blindbuild.client.advice import LOST, channel_error
from blindbuild.client.exchange import Question
from blindbuild.client.forwarded import forwarding_context, server_name
from blindbuild.client.http1 import Response, read_with
from blindbuild.client.http1_forwarded import reading_forwarded
from blindbuild.client.httpx_streams import READABLE, close_shielded
from blindbuild.client.limit import Limit
from blindbuild.client.transport import MAX_SEND_S, Address
from blindbuild.errors import ChannelError

_CHUNK = 64 << 10  # bytes
_TURNS = 8  # of an event loop; what anyio has taken from the network already is read in three
_Asked = TypeVar("_Asked")
_Given = TypeVar("_Given")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Waits:
    """Time limits in seconds, each for one wait; None is none."""

    connect_s: float | None
    write_s: float | None
    read_s: float | None


class Carrier:
    """Asks whoever stands before the image, on a connection that is opened anew when it has ended.

    Args:
        backend: httpcore's own, which opens connections.
        address: the only one that is asked.
    """

    def __init__(self, backend: Any, address: Address) -> None:
        self._backend = backend
        self.address = address
        self._stream: Any = None
        self._closed = False

    def ask(self, question: Question, waits: Waits) -> Response:
        """Send one request and read its answer; it is not sent a second time.

        Raises:
            ChannelError: the answer is a redirect, too long, or none; or this was closed.
        """
        self.check()
        stream = self._usable(waits.connect_s)
        try:
            self.check()  # connecting takes time
            for part in _parts(question, self.address):
                stream.write(part, waits.write_s)
            reader = reading_forwarded(max_body=question.max_body, deadline=question.deadline)
            answer = read_with(reader, lambda: stream.read(_CHUNK, waits.read_s))
        except BaseException:
            self._drop()
            raise
        if not answer.again:
            self._drop()
        return answer.response

    def check(self) -> None:
        """Refuse to go on after `close`.

        Raises:
            ChannelError: it was called.
        """
        if self._closed:
            raise _closed(self.address)

    def close(self) -> None:
        """Close the connection, if there is one, and open no other."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _usable(self, wait_s: float | None) -> Any:
        stream = self._stream  # which another thread may close meanwhile
        if stream is not None and stream.get_extra_info(READABLE):  # an end, or what nobody asked for
            self._drop()
        if self._stream is None:
            self._stream = self._connect(wait_s)
        return self._stream

    def _connect(self, wait_s: float | None) -> Any:
        stream = self._backend.connect_tcp(self.address.host, self.address.port, wait_s)
        if not self.address.tls:
            return stream
        try:
            return stream.start_tls(forwarding_context(), server_name(self.address), wait_s)
        except BaseException:
            stream.close()
            raise


class AsyncCarrier:
    """The same, awaited."""

    def __init__(self, backend: Any, address: Address) -> None:
        self._backend = backend
        self.address = address
        self._stream: Any = None
        self._closed = False

    async def ask(self, question: Question, waits: Waits) -> Response:
        """Send one request and read its answer; see `Carrier.ask`."""
        self.check()
        stream = await self._usable(waits.connect_s)
        try:
            self.check()  # connecting takes time
            for part in _parts(question, self.address):
                await stream.write(part, waits.write_s)
            reader = reading_forwarded(max_body=question.max_body, deadline=question.deadline)
            answer = await drive(reader, lambda _: stream.read(_CHUNK, waits.read_s))
        except BaseException:
            await self._drop()
            raise
        if not answer.again:
            await self._drop()
        return answer.response

    def check(self) -> None:
        """Refuse to go on after `aclose`; see `Carrier.check`."""
        if self._closed:
            raise _closed(self.address)

    async def aclose(self) -> None:
        """Close the connection, if there is one, and open no other."""
        self._closed = True
        await self._drop()

    async def _drop(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await close_shielded(stream)

    async def _usable(self, wait_s: float | None) -> Any:
        if self._stream is not None and await _has_spoken(self._stream):
            await self._drop()
        if self._stream is None:
            self._stream = await self._connect(wait_s)
        return self._stream

    async def _connect(self, wait_s: float | None) -> Any:
        stream = await self._backend.connect_tcp(self.address.host, self.address.port, wait_s)
        if not self.address.tls:
            return stream
        try:
            return await stream.start_tls(forwarding_context(), server_name(self.address), wait_s)
        except BaseException:
            await close_shielded(stream)
            raise


async def drive(talk: Generator[_Asked, _Given, _T], answer: Callable[[_Asked], Awaitable[_Given]]) -> _T:
    """Give a generator what it asks for, until it returns: `exchange.ask` and `http1.read_with`, awaited."""
    try:
        asked = next(talk)
        while True:
            asked = talk.send(await answer(asked))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _parts(question: Question, address: Address) -> Iterator[memoryview]:
    """Yield a request in parts, of which each is sent before the next is asked for, within `MAX_SEND_S`."""
    limit = Limit("to have sent a request", MAX_SEND_S, question.deadline)
    rest = memoryview(question.written(host=str(address)))
    while rest:
        limit.check()
        yield rest[:_CHUNK]
        rest = rest[_CHUNK:]


async def _has_spoken(stream: Any) -> bool:
    """Return whether something has come that nobody asked for, or the end of the connection."""
    import anyio.lowlevel

    spoken: bool = stream.get_extra_info(READABLE)

    async def listen() -> None:
        nonlocal spoken
        with contextlib.suppress(Exception):  # an end of any kind
            await stream.read(1, None)
        spoken = True

    if not spoken:
        # anyio and TLS keep what they have taken from the network, where no socket shows it any more
        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            for _ in range(_TURNS):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    return spoken


def _closed(address: Address) -> ChannelError:
    return channel_error(f"{address}: connection closed; attest again", LOST)
