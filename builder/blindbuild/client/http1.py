"""HTTP/1.1 as the gate speaks it: one request, one answer with a known length, nothing clever.

Source: RFC 9112; what is optional there and not needed here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from blindbuild.client.advice import EARLY_ANSWER, LOST, REDIRECT, channel_error
from blindbuild.errors import ChannelError

MAX_HEAD = 160 << 10  # bytes; the Padding header alone fills up to a 64 KiB bucket
MAX_HEADERS = 64  # the gate sends four
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ([\x20-\x7e]*)")
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.1: token
_VALUE = re.compile(rb"[\x20-\x7e]*")  # RFC 9110 5.5 without obs-text and tabs
_LENGTH = re.compile(r"[0-9]{1,10}")
_TARGET = re.compile(r"/[A-Za-z0-9/._~%-]*")
_CONTENT_TYPE = re.compile(r"[a-z0-9.+-]+/[a-z0-9.+-]+")
_NO_CONTENT = 204
_HEAD_END = b"\r\n\r\n"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Status and headers, and how many bytes of body follow."""

    status: int
    headers: Mapping[str, str]
    length: int


def write_request(method: str, target: str, *, host: str, body: bytes | None, content_type: str) -> bytes:
    """Return the bytes of a request; the same for the same arguments, and nothing about this client.

    Raises:
        ChannelError: a target or content type that does not fit on the line.
    """
    if not _TARGET.fullmatch(target):
        raise ChannelError(f"expected a path such as /v1/hello, got {target[:80]!r}")
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
    if body is not None:
        if not _CONTENT_TYPE.fullmatch(content_type):
            raise ChannelError(f"expected a content type, got {content_type[:80]!r}")
        lines += [f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]
    return "\r\n".join((*lines, "", "")).encode("ascii") + (body or b"")


def read_response(receive: Callable[[], bytes], *, max_body: int) -> Response:
    """Read one answer.

    Args:
        receive: returns the next bytes, empty at the end of the connection.
        max_body: refuse a longer body.

    Raises:
        ChannelError: the connection ended early, a limit was exceeded, or the answer is not plain HTTP/1.1
            with a Content-Length. A redirect is refused like any other.
    """
    return read_with(reading(max_body=max_body), receive)


def read_with(reader: Generator[None, bytes, _T], receive: Callable[[], bytes]) -> _T:
    """Have a reader read what `receive` returns, until it has enough."""
    next(reader)
    try:
        while True:
            reader.send(receive())
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def reading(*, max_body: int) -> Generator[None, bytes, Response]:
    """Read one answer from whoever sends its bytes into this generator; nothing at all ends the connection.

    Raises:
        ChannelError: as `read_response`.
    """
    received = b""
    while _HEAD_END not in received:
        if len(received) > MAX_HEAD:
            raise ChannelError(f"expected at most {MAX_HEAD} bytes of headers")
        received += _present((yield))
    raw_head, _, body = received.partition(_HEAD_END)
    if len(raw_head) > MAX_HEAD:
        raise ChannelError(f"expected at most {MAX_HEAD} bytes of headers")
    head = parse_head(raw_head, max_body=max_body)
    parts, size = [body], len(body)
    while size < head.length:
        parts.append(_present((yield)))
        size += len(parts[-1])
    if size > head.length:
        raise channel_error(f"expected {head.length} bytes of body, got more", EARLY_ANSWER)
    return Response(head.status, head.headers, b"".join(parts))


def parse_head(raw: bytes, *, max_body: int) -> Head:
    """Parse status line and headers, without the empty line.

    Raises:
        ChannelError: anything that two readers could understand differently.
    """
    lines = raw.split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise ChannelError(f"expected an HTTP/1.1 status line, got {lines[0][:80]!r}")
    status = int(status_line[1])
    headers = _headers(lines[1:])
    refuse_redirect(status)
    if status < 200:
        raise ChannelError(f"expected a final answer, got status {status}")
    if "transfer-encoding" in headers or "content-encoding" in headers:
        raise ChannelError("expected a body as it is, got an encoded one")
    return Head(status, headers, _body_length(status, headers, max_body))


def refuse_redirect(status: int) -> None:
    """Refuse an answer that names another address, which is never asked.

    Raises:
        ChannelError: it does.
    """
    if 300 <= status < 400:
        raise channel_error(f"expected an answer, got a redirect ({status})", REDIRECT)


def _body_length(status: int, headers: Mapping[str, str], max_body: int) -> int:
    text = headers.get("content-length")
    if status == _NO_CONTENT:  # RFC 9112 6.3: no body, whatever the headers say; ours say nothing
        if text not in (None, "0"):
            raise ChannelError("expected no body with status 204")
        return 0
    if text is None or not _LENGTH.fullmatch(text):
        raise ChannelError(f"expected a Content-Length, got {(text or 'none')[:40]!r}")
    length = int(text)
    if length > max_body:
        raise ChannelError(f"expected at most {max_body} bytes of body, got {length}")
    return length


def _headers(lines: list[bytes]) -> dict[str, str]:
    if len(lines) > MAX_HEADERS:
        raise ChannelError(f"expected at most {MAX_HEADERS} headers, got {len(lines)}")
    headers: dict[str, str] = {}
    for line in lines:
        # RFC 9112 5.1 and 5.2: no white space before the colon, no folded lines
        name, colon, value = line.partition(b":")
        stripped = value.strip(b" ")
        if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(stripped):
            raise ChannelError(f"expected a header line, got {line[:80]!r}")
        key = name.decode("ascii").lower()
        if key in headers:
            raise ChannelError(f"expected header {key} once, got it twice")
        headers[key] = stripped.decode("ascii")
    return headers


def _present(data: bytes) -> bytes:
    if not data:
        raise channel_error("the connection ended in the middle of an answer", LOST)
    return data
