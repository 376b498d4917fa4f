"""A connection to whoever stands before an image: a load balancer, an inspecting proxy, a CDN.

Nothing of it is believed, so any HTTP/1.1 will do, with or without TLS and whoever's certificate: what is
sent on it is the public exchange and sealed requests, and what comes back is judged or opened. It may be
opened anew between two requests, because what proves where the data goes is the seal.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import re
import socket
import ssl
import time
from typing import TYPE_CHECKING

from blindbuild.client.advice import LOST, REDIRECT, channel_error
from blindbuild.client.http1 import Response, write_request
from blindbuild.client.transport import (
    DEFAULT_TIMEOUT_S,
    MAX_ANSWER_S,
    MAX_SEND_S,
    Address,
    tls_context,
)
from blindbuild.errors import ChannelError

if TYPE_CHECKING:
    from blindbuild.client.exchange import Question

_PLAIN = "http://"
_PLAIN_PORT = 80
_PORT = re.compile(r":[0-9]{1,5}/?\Z")
_CHUNK = 64 << 10  # bytes
_HEADS = 1 << 20  # bytes of an answer that are not its body, with the heads of chunks; proxies add a few KiB


class ForwardedConnection:
    """HTTP/1.1 to an address whose owner passes requests on.

    Attributes:
        address: the other end, as asked for.
    """

    def __init__(self, address: Address, *, tls: bool, timeout_s: float) -> None:
        self.address = address
        self._tls = tls
        self._timeout_s = timeout_s
        self._stream: socket.socket | None = None

    @classmethod
    def open(cls, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> ForwardedConnection:
        """Connect; nothing is sent yet.

        Args:
            url: `https://host[:port]` or `http://host[:port]`; proxies of the environment are never used.
            timeout_s: for connecting, and for each wait after it.

        Raises:
            ChannelError: no such address, or no connection.
        """
        address, tls = parse_address(url)
        connection = cls(address, tls=tls, timeout_s=timeout_s)
        connection._stream = connection._connect()
        return connection

    def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str, max_body: int
    ) -> Response:
        """Send one request and read its answer, in whatever form of HTTP/1.1 it comes.

        Raises:
            ChannelError: the connection was lost, or the answer is a redirect, too long or none. What was
                sent is not sent again.
        """
        message = write_request(method, target, host=str(self.address), body=body, content_type=content_type)
        stream = self._usable()
        try:
            _send(stream, message)
            response, again = _receive(stream, method, max_body)
        # http.client lets some bad numbers through, to where they are the last two
        except (OSError, http.client.HTTPException, ValueError, OverflowError) as error:
            self.close()
            raise channel_error(f"{self.address}: connection lost: {type(error).__name__}", LOST) from error
        except BaseException:
            self.close()
            raise
        if not again:
            self.close()
        return response

    def ask(self, question: Question) -> Response:
        """Send one request of an exchange and read its answer.

        Raises:
            ChannelError: as `request`.
        """
        return self.request(
            question.method,
            question.target,
            body=question.body,
            content_type=question.content_type,
            max_body=question.max_body,
        )

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _usable(self) -> socket.socket:
        """Return the connection, or a new one where the other side has closed it since the last answer."""
        if self._stream is not None and not _is_idle(self._stream):
            self.close()
        if self._stream is None:
            self._stream = self._connect()
        return self._stream

    def _connect(self) -> socket.socket:
        try:
            plain = socket.create_connection((self.address.host, self.address.port), timeout=self._timeout_s)
        except (OSError, UnicodeError) as error:  # the latter for names that IDNA cannot encode, as a..b
            raise ChannelError(f"{self.address}: cannot connect: {error}") from error
        if not self._tls:
            return plain
        context = tls_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2  # old middle boxes carry a seal as well as new ones
        try:
            return context.wrap_socket(plain, server_hostname=_server_name(self.address.host))
        except OSError as error:
            plain.close()
            raise ChannelError(f"{self.address}: cannot speak TLS: {error}") from error
        except BaseException:
            plain.close()
            raise


def parse_address(url: str) -> tuple[Address, bool]:
    """Read `https://host[:port]` or `http://host[:port]`; return where it is, and whether TLS is spoken.

    Raises:
        ChannelError: anything else.
    """
    if not url.startswith(_PLAIN):
        return Address.parse(url), True
    rest = url.removeprefix(_PLAIN)
    if not _PORT.search(rest):
        rest = f"{rest.removesuffix('/')}:{_PLAIN_PORT}"
    return Address.parse(f"https://{rest}"), False


class _Wire(io.RawIOBase):
    """What `http.client` reads an answer from: a stream, up to a deadline and so many bytes.

    It counts by itself, as `http.client` has ways around its limits: a chunk of -1 bytes has no end.
    """

    def __init__(self, stream: socket.socket, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = self._left = max_bytes
        self._deadline = time.monotonic() + MAX_ANSWER_S

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        if time.monotonic() > self._deadline:
            raise ChannelError(f"expected a whole answer within {MAX_ANSWER_S:.0f} s")
        received = self._stream.recv_into(buffer)
        self._left -= received
        if self._left < 0:
            raise ChannelError(f"expected at most {self._max_bytes} bytes of an answer, got more")
        return received

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)


def _receive(stream: socket.socket, method: str, max_body: int) -> tuple[Response, bool]:
    """Return an answer, and whether another request may follow it."""
    wire = _Wire(stream, max_body + max_body // 4 + _HEADS)
    answer = http.client.HTTPResponse(wire, method=method)  # type: ignore[arg-type]
    answer.begin()
    if 300 <= answer.status < 400:
        raise channel_error(f"expected an answer, got a redirect ({answer.status})", REDIRECT)
    body = answer.read(max_body + 1)
    if len(body) > max_body:
        raise ChannelError(f"expected at most {max_body} bytes of body, got more")
    if answer.length:  # what is missing of a stated length
        raise http.client.IncompleteRead(body, answer.length)
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Response(answer.status, headers, body), not answer.will_close


def _send(stream: socket.socket, message: bytes) -> None:
    deadline = time.monotonic() + MAX_SEND_S
    rest = memoryview(message)
    while rest:
        if time.monotonic() > deadline:
            raise ChannelError(f"expected to have sent a request within {MAX_SEND_S:.0f} s")
        rest = rest[stream.send(rest[:_CHUNK]) :]


def _is_idle(stream: socket.socket) -> bool:
    """Return whether nothing has come that nobody asked for, an end least of all."""
    wait_s = stream.gettimeout()
    stream.settimeout(0)
    try:
        stream.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False
    finally:
        stream.settimeout(wait_s)
    return False


def _server_name(host: str) -> str | None:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host  # a CDN serves many names on one address
    return None
