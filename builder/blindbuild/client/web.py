"""Small files and answers over HTTP that prove themselves: whole, within a limit, from the address asked.

What comes here is signed or hashed, so that plain http may carry it; nothing secret is ever asked for.
"""

from __future__ import annotations

import http.client
import time
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from email.message import Message
from typing import IO

from blindbuild.errors import ChannelError

TIMEOUT_S = 30.0  # for connecting, and for each wait after it
MAX_ANSWER_S = 120.0  # for a whole answer: a server that drips bytes does not hold the client for ever
_CHUNK = 1 << 16
_GZIP_OVERHEAD = 1 << 10  # bytes that compression may add to what does not compress
_GZIP = 16 + zlib.MAX_WBITS  # zlib's number for the gzip format
_NOT_THERE = (404, 410)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whatever its status; `content_type` is in lower case, without parameters."""

    status: int
    content_type: str
    body: bytes


def fetch(url: str, *, limit_bytes: int) -> bytes | None:
    """Return what is at an address, or None when the server says that it is not there.

    Raises:
        ChannelError: no http address, no connection, another status, or more than the limit.
    """
    answer = _ask(urllib.request.Request(_checked(url)), limit_bytes)  # noqa: S310  scheme is checked
    if answer.status in _NOT_THERE:
        return None
    if answer.status != http.client.OK:
        raise ChannelError(f"{url}: expected status 200, got {answer.status}")
    return answer.body


def post(url: str, body: bytes, *, limit_bytes: int) -> Answer:
    """Send a body to an address and return the answer, whatever its status.

    Raises:
        ChannelError: no http address, no connection, or more than the limit.
    """
    request = urllib.request.Request(_checked(url), data=body, method="POST")  # noqa: S310
    request.add_header("Content-Type", "application/octet-stream")
    return _ask(request, limit_bytes)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow nothing: the caller has named the address that it means."""
        return None


def _checked(url: str) -> str:
    if not url.isascii() or not url.isprintable() or " " in url:
        raise ChannelError(f"expected an address, got {url[:200]!r}")
    if not url.startswith(("http://", "https://")):
        raise ChannelError(f"expected an address that starts with https:// or http://, got {url[:200]!r}")
    return url


def _ask(request: urllib.request.Request, limit_bytes: int) -> Answer:
    # proxies of the environment are not used: who is asked is who was named
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    request.add_header("Accept-Encoding", "gzip, identity")
    request.add_header("User-Agent", "blindbuild")
    url = request.full_url
    try:
        try:
            response = opener.open(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            response = error
        with response:
            coded = "Content-Encoding" in response.headers
            body = _read(url, response, limit_bytes + (_GZIP_OVERHEAD if coded else 0))
            kind = response.headers.get_content_type()
            return Answer(int(response.status), kind, _decode(url, response.headers, body, limit_bytes))
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ChannelError(f"{url}: cannot be reached: {reason}") from error


def _read(url: str, response: IO[bytes], limit_bytes: int) -> bytes:
    deadline_s = time.monotonic() + MAX_ANSWER_S
    parts, size = [], 0
    while chunk := response.read1(_CHUNK):  # type: ignore[attr-defined]
        size += len(chunk)
        if size > limit_bytes:
            raise ChannelError(f"{url}: expected at most {limit_bytes} bytes, got more")
        if time.monotonic() > deadline_s:
            raise ChannelError(f"{url}: expected the whole answer within {MAX_ANSWER_S:.0f} s")
        parts.append(chunk)
    return b"".join(parts)


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
