"""The builder's door to the network: one file of known size from a mirror, resumed and retried.

What arrives is not trusted: the caller compares its hash. The size is known beforehand, so nobody can fill
the disk, and a transfer that stops early is told from one that is complete.
"""

from __future__ import annotations

import contextlib
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, BinaryIO, Protocol, cast
from urllib.parse import unquote, urlsplit

from blindbuild.errors import FetchError
from blindbuild.host.clock import monotonic_s, sleep_s

CHUNK_BYTES = 1 << 16
MAX_REDIRECTS = 5  # mirror networks use one or two
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_SCHEMES = ("http", "https", "file")
_HINT = "check the connection, or name another mirror with --mirror"


class NotThereError(FetchError):
    """The server says that it does not have the file (any more)."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download is tried.

    Attributes:
        attempts: connections in a row that each bring less than `window_bytes`.
        timeout_s: silence after which a connection is given up.
        window_s: how often a connection's pace is judged.
        window_bytes: what it must bring in that time; a mirror that trickles would hold a fetch for ever.
        pause_s: before the second attempt; doubled before each further one.
        sleep: waits; replaced where nobody should wait.
    """

    attempts: int = 5
    timeout_s: float = 30.0
    window_s: float = 60.0
    window_bytes: int = 60 << 10
    pause_s: float = 0.5
    sleep: Callable[[float], None] = field(default=sleep_s, compare=False)


def download(
    url: str,
    target: Path,
    *,
    size: int,
    proxies: Mapping[str, str] | None = None,
    patience: Patience | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Bring a file of a known size; what `target` holds already is taken for its beginning.

    Args:
        url: http, https, or file.
        target: appended to; keeps what has arrived if this fails, so that the next call goes on from there.
        size: in bytes; the server must not send more.
        proxies: by scheme; the environment's if not given.
        patience: when to give up.
        on_bytes: called with the number of bytes that `target` holds, as it grows; what it raises ends this.

    Raises:
        NotThereError: the server does not have it.
        FetchError: it cannot be had.
    """
    scheme = urlsplit(url).scheme
    if scheme not in _SCHEMES:
        raise FetchError(f"{url}: expected an address with http, https or file", hint=_HINT)
    patience = patience or Patience()
    fruitless, held = 0, _size(target)
    while _size(target) != size:
        if _size(target) > size:
            target.unlink()  # not ours: too long for what was asked
        if (now := _size(target)) - held >= patience.window_bytes:
            fruitless = 0
        held = now
        try:
            if scheme == "file":
                _copy(Path(unquote(urlsplit(url).path)), target, size, on_bytes)
            else:
                pace = _Pace(patience, now, on_bytes)
                _receive(url, target, size, proxies, patience.timeout_s, pace.take)
        except _TemporaryError as error:
            fruitless += 1
            if fruitless >= patience.attempts:
                raise FetchError(f"{url}: {error}, {fruitless} times in a row", hint=_HINT) from error
            patience.sleep(patience.pause_s * 2 ** (fruitless - 1))
    on_bytes(size)


class _Reader(Protocol):
    def read1(self, size: int, /) -> bytes: ...


class _TemporaryError(Exception):
    """Something that another attempt may cure."""


class _Pace:
    """Gives a connection up that brings too little in too long."""

    def __init__(self, patience: Patience, held: int, on_bytes: Callable[[int], None]) -> None:
        self._patience = patience
        self._on_bytes = on_bytes
        self._began_s, self._held = monotonic_s(), held

    def take(self, received: int) -> None:
        """Judge the connection by how many bytes the target holds now, and pass the number on."""
        self._on_bytes(received)
        now_s = monotonic_s()
        if now_s - self._began_s < self._patience.window_s:
            return
        if received - self._held < self._patience.window_bytes:
            raise _TemporaryError(
                f"expected {self._patience.window_bytes} bytes in {self._patience.window_s:g} s, "
                f"got {received - self._held}"
            )
        self._began_s, self._held = now_s, received


class _SameSchemeRedirects(urllib.request.HTTPRedirectHandler):
    max_redirections = MAX_REDIRECTS

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme != urlsplit(req.full_url).scheme:
            raise FetchError(
                f"{req.full_url}: redirects to {newurl}, which has another scheme",
                hint="name the address it redirects to with --mirror",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _receive(
    url: str,
    target: Path,
    size: int,
    proxies: Mapping[str, str] | None,
    timeout_s: float,
    on_bytes: Callable[[int], None],
) -> None:
    start = _size(target)
    # A proxy or mirror that compresses on the way would change the bytes that are counted here.
    headers = {"User-Agent": "blindbuild", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  scheme checked by the caller
        with _opener(url, proxies).open(request, timeout=timeout_s) as response:
            start = _check_answer(url, response.status, response.headers, start, size)
            with target.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                stream.truncate()
                _pour(url, cast(http.client.HTTPResponse, response), stream, start, size, on_bytes)
    except urllib.error.HTTPError as error:
        error.close()
        raise _refusal(url, error.code, target) from error
    except http.client.InvalidURL as error:
        raise FetchError(f"{url}: {error}") from error
    except (OSError, http.client.HTTPException, EOFError) as error:
        raise _TemporaryError(_reason(error)) from error


def _opener(url: str, proxies: Mapping[str, str] | None) -> urllib.request.OpenerDirector:
    handlers: list[urllib.request.BaseHandler] = [
        urllib.request.ProxyHandler(dict(proxies) if proxies is not None else None),
        _SameSchemeRedirects(),
    ]
    if urlsplit(url).scheme == "https":  # making a context reads all certificates: 50 ms
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context()))
    return urllib.request.build_opener(*handlers)


def _check_answer(url: str, status: int, headers: Message, start: int, size: int) -> int:
    """Return the offset at which the answer's body begins; FetchError if the file has another size."""
    if status == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise _TemporaryError("the server sent another part than the one asked for")
        total = match[3]
    else:
        start, total = 0, headers.get("Content-Length", "*")
    if total != "*" and total != str(size):
        raise FetchError(f"{url}: expected {size} bytes, the server has {total[:20]}", hint=_HINT)
    return start


def _refusal(url: str, status: int, target: Path) -> Exception:
    if status == 416:  # RFC 9110, 15.5.17: the range begins behind the end of what it has
        target.unlink(missing_ok=True)
        return _TemporaryError("the server has less than was received before")
    if status in (404, 410):
        return NotThereError(f"{url}: the server does not have it (status {status})")
    if 300 <= status < 400:
        return FetchError(f"{url}: redirects without end, or to another scheme", hint=_HINT)
    if status in RETRIED_STATUSES:
        return _TemporaryError(f"the server answered with status {status}")
    return FetchError(f"{url}: the server answered with status {status}", hint=_HINT)


def _copy(source: Path, target: Path, size: int, on_bytes: Callable[[int], None]) -> None:
    try:
        with source.open("rb") as reader, target.open("wb") as stream:
            _pour(f"file://{source}", reader, stream, 0, size, on_bytes)
    except FileNotFoundError as error:
        raise NotThereError(f"file://{source}: there is no such file") from error
    except _TemporaryError as error:
        raise FetchError(f"file://{source}: {error}") from error
    except OSError as error:
        raise FetchError(f"file://{source}: {_reason(error)}") from error


def _pour(
    url: str, reader: _Reader, stream: BinaryIO, start: int, size: int, on_bytes: Callable[[int], None]
) -> None:
    received = start
    while chunk := reader.read1(CHUNK_BYTES):  # `read` waits for a full chunk, however slowly it comes
        received += len(chunk)
        if received > size:
            stream.truncate(0)
            raise FetchError(f"{url}: expected {size} bytes, the server sends more", hint=_HINT)
        try:
            stream.write(chunk)
        except OSError as error:  # of this machine's disk: no other attempt cures it
            raise FetchError(
                f"{url}: cannot write: {_reason(error)}", hint="make room on the disk"
            ) from error
        on_bytes(received)
    if received < size:
        raise _TemporaryError(f"the transfer ended after {received} of {size} bytes")


def _size(path: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


def _reason(error: BaseException) -> str:
    inner = error.reason if isinstance(error, urllib.error.URLError) else error
    text = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    return (text or type(inner).__name__).lower()
