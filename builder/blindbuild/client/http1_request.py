"""Requests of HTTP/1.1 as a local program sends them, and as they are passed on to an attested server.

Source: RFC 9112; what is optional there and not needed here is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from blindbuild.errors import ChannelError

MAX_REQUEST_HEAD = 32 << 10  # bytes; browsers send about 2 KiB, tokens make it more
MAX_REQUEST_HEADERS = 100
METHODS = frozenset({"DELETE", "GET", "OPTIONS", "PATCH", "POST", "PUT"})
_REQUEST_LINE = re.compile(rb"([A-Z]{1,20}) ([\x21-\x7e]{1,8192}) HTTP/1\.1")
_NAME = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110 5.1: token
_VALUE = re.compile(rb"[\x20-\x7e\t]*")  # RFC 9110 5.5 without obs-text
_LENGTH = re.compile(r"[0-9]{1,18}")
_TARGET = re.compile(r"/[\x21-\x7e]*")
# RFC 9110 7.6.1: what is for the next hop alone; and what a browser says about its user's other pages
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_BROWSERS_OWN = frozenset({"cookie", "dnt", "origin", "referer"})
_REPLACED = frozenset({"accept-encoding", "content-length", "host"})


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request.

    Attributes:
        headers: in order; names in lower case.
    """

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return a header's value, or an empty text."""
        return next((value for key, value in self.headers if key == name), "")

    @property
    def length(self) -> int:
        """How many bytes of body follow.

        Raises:
            ChannelError: that cannot be known.
        """
        named = dict(self.headers)
        text = named.get("content-length", "0")
        if "transfer-encoding" in named or not _LENGTH.fullmatch(text):
            raise ChannelError("expected a body whose Content-Length is known")
        return int(text)

    @property
    def closing(self) -> bool:
        """Whether the client wants the connection to end after the answer."""
        return "close" in self.get("connection").lower()


def parse_request_head(raw: bytes) -> RequestHead:
    """Parse request line and headers, without the empty line.

    Raises:
        ChannelError: anything that two readers could understand differently.
    """
    first, *lines = raw.split(b"\r\n")
    found = _REQUEST_LINE.fullmatch(first)
    if found is None:
        raise ChannelError(f"expected an HTTP/1.1 request, got {first[:80]!r}")
    if len(lines) > MAX_REQUEST_HEADERS:
        raise ChannelError(f"expected at most {MAX_REQUEST_HEADERS} headers, got {len(lines)}")
    headers = tuple(_header(line) for line in lines)
    names = [name for name, _value in headers]
    for once in ("host", "content-length", "authorization", "origin", "transfer-encoding"):
        if names.count(once) > 1:
            raise ChannelError(f"expected header {once} once, got it twice")
    if "host" not in names:
        raise ChannelError("expected a Host header, got none")
    target = found[2].decode("ascii")
    if not _TARGET.fullmatch(target):
        raise ChannelError(f"expected a path such as /v1/hello, got {target[:80]!r}")
    return RequestHead(found[1].decode("ascii"), target, headers)


def write_forwarded(head: RequestHead, body: bytes, *, host: str, without: Sequence[str] = ()) -> bytes:
    """Return a request as it is passed on.

    Args:
        host: of the server that was judged; it replaces the one in the request.
        without: further headers that are not passed on.
    """
    named = {name.strip().lower() for name in head.get("connection").split(",")}
    dropped = _HOP_BY_HOP | _BROWSERS_OWN | _REPLACED | named | set(without)
    lines = [f"{head.method} {head.target} HTTP/1.1", f"Host: {host}"]
    lines += [f"{name}: {value}" for name, value in head.headers if not _is_dropped(name, dropped)]
    if body or head.method in ("PATCH", "POST", "PUT"):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*lines, "", "")).encode("ascii") + body


def _is_dropped(name: str, dropped: set[str] | frozenset[str]) -> bool:
    return name in dropped or name.startswith(("sec-", "access-control-"))


def _header(line: bytes) -> tuple[str, str]:
    # RFC 9112 5.1 and 5.2: no white space before the colon, no folded lines
    name, colon, value = line.partition(b":")
    stripped = value.strip(b" \t")
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(stripped):
        raise ChannelError(f"expected a header line, got {line[:80]!r}")
    return name.decode("ascii").lower(), stripped.decode("ascii")
