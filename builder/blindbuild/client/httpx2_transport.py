"""A transport for httpx2 that judges a server before the first byte of a request, on every connection.

    client = attested_client("https://host", expectation)
    OpenAI(base_url="https://host/v1", http_client=client, max_retries=0)

Each new connection is attested after its handshake; a request goes over the very connection that was judged,
or is sealed to the key that was.
"""

from __future__ import annotations

from typing import Any

import httpcore2
import httpx2

from blindbuild.client.expectation import Expecting
from blindbuild.client.httpx_requests import AsyncSender, Body, Sender, client_options
from blindbuild.client.judge import DEFAULT_REFRESH_S


class _Body(Body, httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """The body of an answer, in the library's own class."""


class AttestedTransport(Sender, httpx2.BaseTransport):
    """Sends requests to one server, over connections that were judged; see `Sender` for its arguments."""

    library, core, body = httpx2, httpcore2, _Body


class AsyncAttestedTransport(AsyncSender, httpx2.AsyncBaseTransport):
    """The same, awaited."""

    library, core, body = httpx2, httpcore2, _Body


def attested_client(
    url: str, expectation: Expecting, *, refresh_s: float = DEFAULT_REFRESH_S, **options: Any
) -> httpx2.Client:
    """Return a client of one attested server.

    Args:
        url: `https://host[:port]`, also `http://` for an image whose requests are sealed; relative addresses
            of requests are below it.
        expectation: what to judge by, or what gives it; see `Sender`.
        refresh_s: seconds; see `Sender`.
        options: of `httpx2.Client`; what would lead data elsewhere, such as `proxy`, is refused. `timeout`
            is 30 seconds unless given: a TPM takes its time.

    Raises:
        UsageError: an option that an attested client cannot have.
        ChannelError: no such address.
    """
    chosen = client_options(url, options)
    return httpx2.Client(transport=AttestedTransport(url, expectation, refresh_s=refresh_s), **chosen)


def attested_async_client(
    url: str, expectation: Expecting, *, refresh_s: float = DEFAULT_REFRESH_S, **options: Any
) -> httpx2.AsyncClient:
    """Return an asynchronous client of one attested server; see `attested_client`."""
    chosen = client_options(url, options)
    return httpx2.AsyncClient(
        transport=AsyncAttestedTransport(url, expectation, refresh_s=refresh_s), **chosen
    )
