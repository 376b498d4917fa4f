"""A TLS server on loopback that keeps every byte it was sent, and answers what a test wants."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakes.attester import Attester, TlsKey
from tests.fakes.listening import Listening

WELL_KNOWN = "/.well-known/blindbuild/"


@dataclass(frozen=True)
class Request:
    """One request as it came; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def of_the_exchange(self) -> bool:
        return self.target.startswith(WELL_KNOWN)


@dataclass
class Visit:
    """One connection: what was said at its start, and all that was sent on it."""

    server_name: str | None = None
    resumed: bool = False
    data: bytes = b""
    requests: list[Request] = field(default_factory=list)


def answer(status: int, body: bytes, **headers: str) -> bytes:
    """An answer as the gate writes it, with its padding."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", "Padding: " + "0" * 500]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode() + body


class RecordingServer:
    """Serves the exchange for an attester, and everything else through `handle`.

    Args:
        attester: makes the evidence; its own key unless `key` is given.
        handle: takes a request, gives the bytes of the answer; None hangs up, and an answer that is followed
            by HANG_UP is cut there.
        tamper: may change the bytes of the exchange's answers.
        takes: after so many bytes of a body that is not of the exchange the server hangs up.
    """

    def __init__(
        self,
        attester: Attester,
        handle: Callable[[Request], bytes | None] = lambda request: answer(200, b"hello, " + request.body),
        *,
        key: TlsKey | None = None,
        tamper: Callable[[Request, bytes], bytes | None] = lambda _request, data: data,
        takes: int | None = None,
    ) -> None:
        self._attester = attester
        self._handle = handle
        self._tamper = tamper
        self._takes = takes
        self.context = (key or attester.key).context()
        self.context.sni_callback = self._named
        self._names: dict[int, str | None] = {}
        self.visits: list[Visit] = []
        self._listening = Listening(self._serve)
        self.port = self._listening.port
        self.streams: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def asked(self) -> list[Request]:
        """The requests that are not of the exchange, in order."""
        return [r for visit in list(self.visits) for r in visit.requests if not r.of_the_exchange]

    @property
    def received(self) -> bytes:
        """Every byte inside TLS."""
        return b"".join(visit.data for visit in self.visits)

    def use_key(self, key: TlsKey) -> None:
        """Show another key from the next connection on, as after a reboot or a change of machines."""
        self.context = key.context()
        self.context.sni_callback = self._named

    def hang_up(self) -> None:
        """End all connections that are open."""
        for stream in self.streams:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(stream, socket.SHUT_RDWR)  # without a farewell of TLS

    def __enter__(self) -> RecordingServer:
        self._listening.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listening.stop()
        self.hang_up()

    def _named(
        self, stream: ssl.SSLObject | ssl.SSLSocket, name: str | None, _context: ssl.SSLContext
    ) -> None:
        self._names[id(stream)] = name

    def _serve(self, plain: socket.socket) -> None:
        visit = Visit()
        self.visits.append(visit)
        with contextlib.suppress(OSError, ValueError), plain:
            plain.settimeout(20)
            with self.context.wrap_socket(plain, server_side=True) as stream:
                self.streams.append(stream)
                visit.server_name = self._names.get(id(stream))
                visit.resumed = bool(stream.session_reused)
                while (request := _read(stream, visit, self._takes)) is not None:
                    visit.requests.append(request)
                    data = self._answer(request)
                    if data is None:
                        return
                    stream.sendall(data)

    def _answer(self, request: Request) -> bytes | None:
        if not request.of_the_exchange:
            return self._handle(request)
        status, body = self._attester.handle(request.method, request.target, request.body)
        return self._tamper(request, answer(status, body))


def _read(stream: ssl.SSLSocket, visit: Visit, takes: int | None) -> Request | None:
    data = b""

    def more() -> bytes:
        part = stream.recv(65536)
        visit.data += part
        return part

    while b"\r\n\r\n" not in data:
        part = more()
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    method, target, _version = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", "0"))
    while len(body) < length:
        if takes is not None and len(body) > takes and not target.startswith(WELL_KNOWN):
            return None
        part = more()
        if not part:
            return None
        body += part
    return Request(method, target, headers, body)
