"""A connection to whoever stands before an image: a load balancer, an inspecting proxy, a CDN.

Nothing of it is believed, so any HTTP/1.1 will do, with or without TLS and whoever's certificate: what is
sent on it is the public exchange and sealed requests, and what comes back is judged or opened. It may be
opened anew between two requests, because what proves where the data goes is the seal.
"""

from __future__ import annotations

import ipaddress
import math
import socket
import ssl

from blindbuild.client.http1 import Response, read_with, write_request
from blindbuild.client.http1_forwarded import reading_forwarded
from blindbuild.client.transport import (
    DEFAULT_TIMEOUT_S,
    Address,
    HttpConnection,
    connect,
    lost,
    refuse_early_answer,
    send_whole,
    shake_hands,
    tls_context,
)
from blindbuild.errors import ChannelError

_CHUNK = 64 << 10  # bytes


class ForwardedConnection(HttpConnection):
    """HTTP/1.1 to an address whose owner passes requests on.

    Attributes:
        address: the other end, as asked for.
    """

    def __init__(self, address: Address, *, timeout_s: float) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._stream = None

    @classmethod
    def open(cls, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> ForwardedConnection:
        """Connect; nothing is sent yet.

        Args:
            url: `https://host[:port]` or `http://host[:port]`; proxies of the environment are never used.
            timeout_s: for connecting, and for each wait after it.

        Raises:
            ChannelError: no such address, or no connection.
        """
        connection = cls(Address.parse(url, plain=True), timeout_s=timeout_s)
        connection._stream = connection._connect()
        return connection

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        content_type: str,
        max_body: int,
        deadline: float = math.inf,
    ) -> Response:
        """Send one request and read its answer, in whatever form of HTTP/1.1 it comes.

        Raises:
            ChannelError: the connection was lost, or the answer is a redirect, too long or none. What was
                sent is not sent again.
        """
        message = write_request(method, target, host=str(self.address), body=body, content_type=content_type)
        stream = self._usable()
        try:
            send_whole(stream, message, deadline=deadline)
            reader = reading_forwarded(max_body=max_body, deadline=deadline)
            answer = read_with(reader, lambda: stream.recv(_CHUNK))
        except OSError as error:
            self.close()
            raise lost(self.address, error) from error
        except BaseException:
            self.close()
            raise
        if not answer.again:
            self.close()
        return answer.response

    def _usable(self) -> socket.socket:
        """Return the connection, or a new one where the other side has closed it since the last answer."""
        if self._stream is not None and not _is_idle(self._stream):
            self.close()
        if self._stream is None:
            self._stream = self._connect()
        return self._stream

    def _connect(self) -> socket.socket:
        plain = connect(self.address, timeout_s=self._timeout_s)
        if not self.address.tls:
            return plain
        return shake_hands(plain, self.address, forwarding_context(), server_name=server_name(self.address))


def forwarding_context() -> ssl.SSLContext:
    """Return settings for TLS that ends before the image; no certificate is believed, and none is needed."""
    context = tls_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # old middle boxes carry a seal as well as new ones
    return context


def server_name(address: Address) -> str | None:
    """Return what TLS tells whoever stands before the image; a CDN serves many names on one address."""
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        return address.host
    return None


def _is_idle(stream: socket.socket) -> bool:
    """Return whether nothing has come that nobody asked for, an end least of all."""
    try:
        refuse_early_answer(stream)
    except (OSError, ChannelError):
        return False
    return True
