"""Small files and answers over HTTP that prove themselves: whole, within a limit, from the address asked.

What comes here is signed or hashed, so that plain http may carry it; whether it may is for the caller to say.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import ipaddress
import socket
import ssl
import threading
import urllib.parse
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message

from blindbuild.errors import ChannelError
from blindbuild.formats.printable import visible

TIMEOUT_S = 30.0  # for connecting, and for each wait after it
MAX_ANSWER_S = (
    120.0  # for a whole answer, TLS and headers too: who drips bytes does not hold the client for ever
)
_CHUNK = 1 << 16
_GZIP_OVERHEAD = 1 << 10  # bytes that compression may add to what does not compress
_GZIP = 16 + zlib.MAX_WBITS  # zlib's number for the gzip format
MAX_REFUSAL = 1 << 13  # bytes of an answer that is not the thing asked for: a reason for people
NOT_THERE = (404, 410)
MOVED = (301, 302, 303, 307, 308)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whatever its status; `content_type` is in lower case, without parameters."""

    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer as it came: nothing was followed, decompressed, or asked a second time."""

    status: int
    headers: Message
    body: bytes


def exchange(
    method: str,
    url: str,
    *,
    limit_bytes: int,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    within_s: float = MAX_ANSWER_S,
) -> Reply:
    """Send one request and return its answer, whatever its status.

    Args:
        method: such as `GET`.
        url: an http or https address.
        limit_bytes: of the body of an answer of status 200 to 299; of another, the first bytes are enough.
        headers: beside those that every request has.
        body: what is sent.
        within_s: for the whole exchange.

    Raises:
        ChannelError: no http address, no connection, not in time, more than the limit, or a compressed body:
            nobody asked for one, and its size would say nothing.
    """
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    with _asked(method, _checked(url), body, sent, within_s) as response:
        if not 200 <= response.status < 300:  # RFC 9110, 15.3: all others are no success
            return Reply(response.status, response.headers, _first_of(response))
        coding = response.headers.get("Content-Encoding", "identity").lower()
        if coding != "identity":
            raise ChannelError(f"{url}: expected no compression, got {coding[:40]!r}")
        return Reply(response.status, response.headers, _read(url, response, limit_bytes))


def fetch_plain(url: str, *, limit_bytes: int, within_s: float = MAX_ANSWER_S) -> bytes | None:
    """Return what is at an address, uncompressed, or None when the server says that it is not there.

    Raises:
        ChannelError: as `exchange`, or another status; a redirect is not followed, because the address that
            was named is the one that is trusted to be up to date.
    """
    reply = exchange("GET", url, limit_bytes=limit_bytes, within_s=within_s)
    if reply.status in NOT_THERE:
        return None
    if reply.status in MOVED:
        raise ChannelError(
            f"{url}: expected status 200, got {reply.status}: redirects are not followed",
            hint=f"if you mean the place it leads to, name it: {reply.headers.get('Location', '')[:200]}",
        )
    if reply.status != http.client.OK:
        raise ChannelError(f"{url}: expected status 200, got {reply.status}")
    return reply.body


def is_loopback(host: str) -> bool:
    """Whether a host, as it stands in an address, can only be this machine."""
    if host.lower() == "localhost":  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def fetch(url: str, *, limit_bytes: int) -> bytes | None:
    """Return what is at an address, or None when the server says that it is not there.

    Raises:
        ChannelError: no http address, no connection, another status, or more than the limit.
    """
    answer = _ask("GET", _checked(url), None, limit_bytes)
    if answer.status in NOT_THERE:
        return None
    if answer.status != http.client.OK:
        raise ChannelError(f"{url}: expected status 200, got {answer.status}")
    return answer.body


def post(url: str, body: bytes, *, limit_bytes: int) -> Answer:
    """Send a body to an address and return the answer, whatever its status.

    Raises:
        ChannelError: no http address, no connection, or more than the limit.
    """
    return _ask("POST", _checked(url), body, limit_bytes)


def _checked(url: str) -> str:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ChannelError(f"expected an address, got {url[:200]!r}")
    if not url.startswith(("http://", "https://")):
        raise ChannelError(f"expected an address that starts with https:// or http://, got {url[:200]!r}")
    return url


def _ask(method: str, url: str, body: bytes | None, limit_bytes: int) -> Answer:
    headers = {"Accept-Encoding": "gzip, identity"}
    if body is not None:
        headers["Content-Type"] = "application/octet-stream"
    with _asked(method, url, body, headers, MAX_ANSWER_S) as response:
        return _read_answer(url, response, limit_bytes)


@contextlib.contextmanager
def _asked(
    method: str, url: str, body: bytes | None, headers: Mapping[str, str], within_s: float
) -> Iterator[http.client.HTTPResponse]:
    # no redirects are followed and no proxies of the environment used: who is asked is who was named
    late = threading.Event()
    try:
        with _connect(url, late, within_s) as connection:
            parts = urllib.parse.urlsplit(url)
            target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
            more = {"User-Agent": "blindbuild", "Connection": "close"}
            stream = None
            if body is not None:  # in pieces: a socket's timeout is for each, however long all of them take
                stream, more["Content-Length"] = io.BytesIO(body), str(len(body))
            connection.request(method, target, body=stream, headers={**headers, **more})
            with connection.getresponse() as response:
                yield response
    except ChannelError:
        if not late.is_set():  # else the answer is short because the connection was cut
            raise
    except (OSError, http.client.HTTPException, ValueError) as error:
        if not late.is_set():  # the text may be the server's
            raise ChannelError(f"{url}: cannot be reached: {visible(str(error)[:200])}") from error
    if late.is_set():
        raise ChannelError(f"{url}: expected the whole answer within {within_s:.0f} s")


@contextlib.contextmanager
def _connect(url: str, late: threading.Event, within_s: float) -> Iterator[http.client.HTTPConnection]:
    """Open a connection that is cut, and `late` set, when the time for the whole answer is over."""
    parts = urllib.parse.urlsplit(url)
    secure = parts.scheme == "https"
    if not parts.hostname or "@" in parts.netloc:
        raise ChannelError(f"expected an address with a host and no user, got {url[:200]!r}")
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port)
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(socket.create_connection((connection.host, connection.port), TIMEOUT_S))
        stack.enter_context(_cut_off(stream, late, within_s))
        if secure:
            # by hand: ssl.create_default_context() would write keys to the file that SSLKEYLOGFILE names
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks names and certificates
            context.load_default_certs()
            stream = stack.enter_context(context.wrap_socket(stream, server_hostname=parts.hostname))
        connection.sock = stream
        yield connection


@contextlib.contextmanager
def _cut_off(stream: socket.socket, late: threading.Event, within_s: float) -> Iterator[None]:
    # by a second handle on the connection: TLS takes the first one over
    with stream.dup() as handle:

        def cut() -> None:
            late.set()
            with contextlib.suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(within_s, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _read_answer(url: str, response: http.client.HTTPResponse, limit_bytes: int) -> Answer:
    coded = "Content-Encoding" in response.headers
    body = _read(url, response, limit_bytes + (_GZIP_OVERHEAD if coded else 0))
    kind = response.headers.get_content_type()
    return Answer(response.status, kind, _decode(url, response.headers, body, limit_bytes))


def _read(url: str, response: http.client.HTTPResponse, limit_bytes: int) -> bytes:
    parts, size = [], 0
    while chunk := response.read1(_CHUNK):
        size += len(chunk)
        if size > limit_bytes:
            raise ChannelError(f"{url}: expected at most {limit_bytes} bytes, got more")
        parts.append(chunk)
    if response.length:
        raise ChannelError(f"{url}: expected the whole answer, got {size} bytes of it")
    return b"".join(parts)


def _first_of(response: http.client.HTTPResponse) -> bytes:
    # in pieces: read() takes a chunk of -1 bytes for all that will ever come
    parts, size = [], 0
    while size < MAX_REFUSAL and (chunk := response.read1(MAX_REFUSAL - size)):
        size += len(chunk)
        parts.append(chunk)
    return b"".join(parts)[:MAX_REFUSAL]


def _decode(url: str, headers: Message, body: bytes, limit_bytes: int) -> bytes:
    # tlog-tiles, "Log entries": a log may compress entries without being asked
    coding = headers.get("Content-Encoding", "identity").lower()
    if coding == "identity" and len(body) <= limit_bytes:
        return body
    if coding != "gzip":
        raise ChannelError(f"{url}: expected gzip or no compression, got {coding[:40]!r}")
    decoder = zlib.decompressobj(_GZIP)
    try:
        plain = decoder.decompress(body, limit_bytes + 1)
    except zlib.error as error:
        raise ChannelError(f"{url}: expected gzip: {error}") from error
    if len(plain) > limit_bytes or not decoder.eof or decoder.unused_data:
        raise ChannelError(f"{url}: expected one gzip stream of at most {limit_bytes} bytes")
    return plain
