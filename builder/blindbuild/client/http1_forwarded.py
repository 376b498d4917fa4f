"""HTTP/1.1 as whoever stands before an image answers it: any form of it, read without input or output.

Load balancers and CDNs answer in chunks, add headers, say some of them twice, or end the connection to end a
body. All of that is taken, as nothing of it is believed: what counts is inside the body, where it is judged
or opened. What is bounded is how much and how long.

Source: RFC 9112.
"""

from __future__ import annotations

import math
import re
from collections.abc import Generator
from dataclasses import dataclass

from blindbuild.client.advice import LOST, channel_error
from blindbuild.client.http1 import MAX_HEAD, Response, refuse_redirect
from blindbuild.client.limit import Limit
from blindbuild.client.transport import MAX_ANSWER_S
from blindbuild.errors import ChannelError

MAX_LINE = 64 << 10  # bytes; proxies add headers of some KiB
MAX_OVERHEAD = 1 << 20  # bytes of an answer that are not its body: each line costs time
MAX_INTERIM = 16  # answers before the final one; servers send one or two
_STATUS_LINE = re.compile(rb"HTTP/1\.(?P<minor>[01]) (?P<status>[1-5][0-9]{2})(?: .*)?")
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.1: token
_FRAMING = (b"connection", b"content-length", b"transfer-encoding")  # RFC 9112 6 and 9.3
_LENGTH = re.compile(rb"[0-9]{1,15}")
_CHUNK = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_NO_CONTENT = 204


@dataclass(frozen=True, slots=True)
class ForwardedAnswer:
    """An answer, and whether another request may follow it on its connection."""

    response: Response
    again: bool


def reading_forwarded(
    *, max_body: int, deadline: float = math.inf
) -> Generator[None, bytes, ForwardedAnswer]:
    """Read one answer from whoever sends its bytes into this generator; nothing at all ends the connection.

    Raises:
        ChannelError: the answer is none, ended early, or took too long; a limit was exceeded; or it is a
            redirect.
    """
    received = _Received(max_body + MAX_OVERHEAD, Limit("a whole answer", MAX_ANSWER_S, deadline))
    for _ in range(MAX_INTERIM + 1):
        head = yield from _read_head(received)
        if head.status >= 200:  # RFC 9110 15.2: else a final one follows
            break
    else:
        raise ChannelError(f"expected a final answer after at most {MAX_INTERIM} others")
    refuse_redirect(head.status)
    body = yield from _read_body(received, head, max_body)
    again = head.keeps and not received.left_over
    return ForwardedAnswer(Response(head.status, {}, body), again)


@dataclass(frozen=True, slots=True)
class _Head:
    """Status, and what says where the body ends.

    Attributes:
        length: of the body; None when it ends with the connection.
        keeps: whether the connection goes on after it.
    """

    status: int
    chunked: bool
    length: int | None
    keeps: bool


class _Received:
    """What has arrived and was not read yet."""

    def __init__(self, max_bytes: int, limit: Limit) -> None:
        self._max_bytes = max_bytes
        self._limit = limit
        self._data = bytearray()
        self._at = 0  # what is before was read
        self._total = 0
        self._overhead = 0

    @property
    def left_over(self) -> bool:
        """Whether more has arrived than was read."""
        return self._at < len(self._data)

    def line(self) -> Generator[None, bytes, bytes]:
        """Read to the end of a line, and return what is before it."""
        searched = 0
        while (end := self._data.find(b"\n", self._at + searched)) < 0:
            searched = len(self._data) - self._at
            if searched > MAX_LINE:
                raise ChannelError(f"expected a line of at most {MAX_LINE} bytes, got more")
            if not (yield from self._more()):
                raise _cut()
        self._overhead += end + 1 - self._at
        if self._overhead > MAX_OVERHEAD:
            raise ChannelError(f"expected at most {MAX_OVERHEAD} bytes around the body of an answer")
        found = self._taken(end)
        self._at += 1
        return found.removesuffix(b"\r")  # RFC 9112 2.2: a line feed alone may be taken for an end

    def exactly(self, size: int) -> Generator[None, bytes, bytes]:
        """Read so many bytes."""
        while len(self._data) - self._at < size:
            if not (yield from self._more()):
                raise _cut()
        return self._taken(self._at + size)

    def rest(self, max_bytes: int) -> Generator[None, bytes, bytes]:
        """Read to the end of the connection."""
        while (yield from self._more()):
            pass
        _check_size(len(self._data) - self._at, max_bytes)
        return self._taken(len(self._data))

    def _taken(self, end: int) -> bytes:
        with memoryview(self._data) as data:  # copied once: a body may be long
            found = bytes(data[self._at : end])
        self._at = end
        if end == len(self._data):
            self._data, self._at = bytearray(), 0
        return found

    def _more(self) -> Generator[None, bytes, bool]:
        del self._data[: self._at]
        self._at = 0
        data = yield
        self._limit.check()
        self._total += len(data)
        if self._total > self._max_bytes:
            raise ChannelError(f"expected at most {self._max_bytes} bytes of an answer, got more")
        self._data += data
        return bool(data)


def _read_head(received: _Received) -> Generator[None, bytes, _Head]:
    line = yield from received.line()
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        raise ChannelError(f"expected an HTTP/1.1 status line, got {line[:80]!r}")
    said: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    for line in (yield from _read_lines(received)):
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise ChannelError(f"expected a header line, got {line[:80]!r}")
        if name.lower() in said:
            said[name.lower()] += [word.strip() for word in value.lower().split(b",")]
    status = int(found["status"])
    chunked = _is_chunked(said[b"transfer-encoding"])
    length = _length(said[b"content-length"])
    if status == _NO_CONTENT:  # RFC 9112 6.3: no body, whatever the headers say
        chunked, length = False, 0
    keeps = found["minor"] == b"1" and b"close" not in said[b"connection"]
    return _Head(status, chunked, length, keeps and (chunked or length is not None))


def _read_lines(received: _Received) -> Generator[None, bytes, list[bytes]]:
    """Read to an empty line."""
    lines, size = [], 0
    while line := (yield from received.line()):
        size += len(line)
        if size > MAX_HEAD:
            raise ChannelError(f"expected at most {MAX_HEAD} bytes of headers")
        lines.append(line)
    return lines


def _is_chunked(codings: list[bytes]) -> bool:
    if codings not in ([], [b"chunked"]):
        raise ChannelError("expected a body as it is or in chunks, got an encoded one")
    return bool(codings)


def _length(values: list[bytes]) -> int | None:
    if not values:
        return None
    if len(set(values)) > 1 or not _LENGTH.fullmatch(values[0]):
        raise ChannelError(f"expected one Content-Length, got {b', '.join(values)[:80]!r}")
    return int(values[0])


def _read_body(received: _Received, head: _Head, max_body: int) -> Generator[None, bytes, bytes]:
    if head.chunked:  # RFC 9112 6.3: before any length
        return (yield from _read_chunks(received, max_body))
    if head.length is None:
        return (yield from received.rest(max_body))
    _check_size(head.length, max_body)
    return (yield from received.exactly(head.length))


def _read_chunks(received: _Received, max_body: int) -> Generator[None, bytes, bytes]:
    parts: list[bytes] = []
    length = 0
    while True:
        line = yield from received.line()
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise ChannelError(f"expected the size of a chunk, got {line[:80]!r}")
        size = int(found["size"], 16)
        if size == 0:
            break
        length += size
        _check_size(length, max_body)
        parts.append((yield from received.exactly(size)))
        if (yield from received.line()):
            raise ChannelError("expected the end of a chunk, got more")
    yield from _read_lines(received)  # RFC 9112 7.1.2: trailers mean nothing here
    return b"".join(parts)


def _check_size(size: int, max_body: int) -> None:
    if size > max_body:
        raise ChannelError(f"expected at most {max_body} bytes of body, got more")


def _cut() -> ChannelError:
    return channel_error("the connection ended in the middle of an answer", LOST)
