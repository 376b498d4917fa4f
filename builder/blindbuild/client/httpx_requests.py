"""What httpx and httpx2 have in common: one server, a pool of judged connections, and errors in words.

Both libraries hand a request to a *transport* and take a response from it; their classes differ in name only.
So the work is here, over whichever module it is given, and the transports add the base class.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

from blindbuild.client.advice import (
    BUSY,
    LOST,
    NO_TLS,
    OTHER_SERVER,
    SLOW,
    UNPROVEN,
    UNREACHABLE,
    Advice,
    channel_error,
)
from blindbuild.client.expectation import Expecting
from blindbuild.client.httpx_streams import AsyncAttestingBackend, AttestingBackend, in_thread
from blindbuild.client.judge import DEFAULT_REFRESH_S, IDLE_S, MAX_CONNECTIONS, Judge
from blindbuild.client.transport import DEFAULT_TIMEOUT_S, Address, default_port, tls_context
from blindbuild.errors import UsageError, VerificationError

_ALLOWED = frozenset({"auth", "cookies", "default_encoding", "event_hooks", "headers", "params", "timeout"})
_REFUSED = {
    "follow_redirects": "a redirect would lead to a server that has proven nothing",
    "http2": "a gate speaks HTTP/1.1",
    "limits": "the transport has its own",
    "mounts": "it would send requests past the attested transport",
    "proxy": "a proxy would end the connection somewhere else",
    "transport": "it would replace the attested one",
    "trust_env": "settings of the environment would lead past the attested transport",
    "verify": "the quote says whose key it is, not a certificate authority",
}


class Pool:
    """Connections to one server, each of which was judged before it was used.

    Args:
        library: httpx or httpx2.
        core: its httpcore.
        url: `https://host[:port]`; also `http://` for an image whose requests are sealed.
        expecting: what to judge by, or what gives it.
        refresh_s: how long what a callable gave counts for connections that were judged already.
        max_connections: at once.
        asynchronous: whether requests are awaited.
    """

    def __init__(
        self,
        library: ModuleType,
        core: ModuleType,
        url: str,
        expecting: Expecting,
        *,
        refresh_s: float,
        max_connections: int,
        asynchronous: bool,
    ) -> None:
        self.library = library
        self.core = core
        self.closed = False
        self.judge = Judge(Address.parse(url, plain=True), expecting, refresh_s=refresh_s)
        backend: Any
        if asynchronous:
            pool, backend = core.AsyncConnectionPool, AsyncAttestingBackend(core.AnyIOBackend(), self.judge)
        else:
            pool, backend = core.ConnectionPool, AttestingBackend(core.SyncBackend(), self.judge)
        self.connections = pool(
            ssl_context=tls_context(),
            max_connections=max_connections,
            keepalive_expiry=IDLE_S,
            retries=0,  # nothing is ever sent twice
            network_backend=backend,
        )

    def core_request(self, request: Any) -> Any:
        """Return a request for the pool, if it is for the one server.

        Raises:
            VerificationError: it is for another one, such as a redirect's; nothing is sent.
        """
        self._check_server(request.url)
        url, address = request.url, self.judge.address
        # with TLS for the pool in any case: only there a backend can put in a connection that was judged
        pooled = self.core.URL(scheme=b"https", host=url.raw_host, port=address.port, target=url.raw_path)
        return self.core.Request(
            method=request.method,
            url=pooled,
            headers=request.headers.raw,
            content=_Sent(self, request.stream),
            extensions=request.extensions,
        )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn httpcore's errors into those of the library; ours go through as they are."""
        try:
            yield
        except ssl.SSLError as error:  # what is no TLS; httpcore lets it through where it is awaited
            raise self.library.ReadError(self._words(error, LOST)) from error
        except (self.core.TimeoutException, self.core.NetworkError, self.core.ProtocolError) as error:
            kind = getattr(self.library, type(error).__name__, self.library.TransportError)
            raise kind(self._words(error, self._advice(error))) from error

    def _words(self, error: Exception, advice: Advice | None) -> str:
        if advice in (LOST, SLOW) and UNPROVEN.text in getattr(error, "__notes__", ()):
            advice = UNPROVEN
        return f"{self.judge.address}: {error}" + (f"\n{advice.text}" if advice else "")

    def _advice(self, error: Exception) -> Advice | None:
        core = self.core
        if isinstance(error, core.LocalProtocolError):
            return None  # a request that cannot be written down, such as one with a line end in a header
        if isinstance(error, core.ConnectError | core.ConnectTimeout):
            # OpenSSL's errors come without their class, but with its name
            return NO_TLS if "SSL" in str(error) else UNREACHABLE
        if isinstance(error, core.PoolTimeout):
            return BUSY
        return SLOW if isinstance(error, core.TimeoutException) else LOST

    def _check_server(self, url: Any) -> None:
        address = self.judge.address
        asked = (url.scheme, url.host.lower(), url.port or default_port(tls=address.tls))
        if asked != (address.scheme, address.host.lower(), address.port):
            raise VerificationError(
                f"expected a request to {address.url}, got one to {url.scheme}://{url.netloc.decode()[:200]}",
                step="C5",
                reason="other-server",
                hint=OTHER_SERVER.text,
            )


class _Sent:
    """The body of a request: an error of its own is none of the connection's."""

    def __init__(self, pool: Pool, stream: Any) -> None:
        self._pool = pool
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        self._check()
        with self._errors():
            yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self._check()
        with self._errors():
            async for part in self._stream:
                yield part

    def _check(self) -> None:
        # a pool that is closed during an exchange would use the connection that comes of it, and keep it
        if self._pool.closed:
            raise channel_error(f"{self._pool.judge.address}: connection closed; attest again", LOST)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._pool.core.WriteError as error:
            # httpcore would take it for the end of the connection, and the request for one that was sent
            raise self._pool.library.WriteError(f"the body of the request: {error}") from error


class Body:
    """The body of an answer, as it arrives."""

    def __init__(self, pool: Pool, stream: Any) -> None:
        self._pool = pool
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with self._pool.errors():
            yield from self._stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._pool.errors():
            async for part in self._stream:
                yield part

    def close(self) -> None:
        """Give the connection back to the pool, or end it when the body was not read to its end."""
        self._stream.close()

    async def aclose(self) -> None:
        """The same, awaited."""
        await self._stream.aclose()


class _Pooled:
    """Sends requests to one server, over connections that were judged.

    Args:
        url: `https://host[:port]`, the only server there is; also `http://` for an image whose requests are
            sealed.
        expectation: what to judge by, or what gives it: it is called at each attestation, and again for a
            connection in use when it was last called `refresh_s` ago.
        refresh_s: seconds.
        max_connections: at once.

    Requests raise, besides the library's own errors:

    * VerificationError: the server was refused, or the request was for another server.
    * ChannelError: the server broke the protocol of the exchange, or its verdict expired meanwhile.
    """

    library: ModuleType
    core: ModuleType
    body: type[Body]
    asynchronous = False

    def __init__(
        self,
        url: str,
        expectation: Expecting,
        *,
        refresh_s: float = DEFAULT_REFRESH_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._pool = Pool(
            self.library,
            self.core,
            url,
            expectation,
            refresh_s=refresh_s,
            max_connections=max_connections,
            asynchronous=self.asynchronous,
        )

    def _response(self, answer: Any) -> Any:
        return self.library.Response(
            answer.status,
            headers=answer.headers,
            stream=self.body(self._pool, answer.stream),
            extensions=answer.extensions,
        )


class Sender(_Pooled):
    __doc__ = _Pooled.__doc__

    def handle_request(self, request: Any) -> Any:
        """Send one request and return its answer; nothing is sent a second time."""
        asked = self._pool.core_request(request)
        self._pool.judge.refresh()
        with self._pool.errors():
            return self._response(self._pool.connections.handle_request(asked))

    def close(self) -> None:
        """Close all connections, for good."""
        self._pool.closed = True
        self._pool.connections.close()


class AsyncSender(_Pooled):
    """As `Sender`, awaited."""

    asynchronous = True

    async def handle_async_request(self, request: Any) -> Any:
        """Send one request and return its answer; nothing is sent a second time."""
        asked = self._pool.core_request(request)
        if self._pool.judge.due:
            await in_thread(self._pool.judge.ask)
        with self._pool.errors():
            return self._response(await self._pool.connections.handle_async_request(asked))

    async def aclose(self) -> None:
        """Close all connections, for good."""
        self._pool.closed = True
        await self._pool.connections.aclose()


def client_options(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return what a client is made with, from what its caller wishes.

    Raises:
        UsageError: a wish that would lead data past the attested transport.
    """
    for name in options:
        if name not in _ALLOWED:
            reason = _REFUSED.get(name, "it is not one of the options that an attested client takes")
            raise UsageError(
                f"expected no {name}= for an attested client: {reason}",
                hint=f"it takes {', '.join(sorted(_ALLOWED))}",
            )
    return {
        "timeout": DEFAULT_TIMEOUT_S,
        **options,
        "base_url": Address.parse(url, plain=True).url,
        "trust_env": False,
        "follow_redirects": False,
    }
