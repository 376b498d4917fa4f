"""Somebody who ends TLS before an image, as a load balancer or an inspecting proxy does, and sees every byte.

It takes one request after the other from its client, and asks the image on a connection of its own. `before`
and `after` are what a hostile one does to requests and answers; `seen` has all that went through its hands.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from tests.fakes.attester import TlsKey, _read_request
from tests.fakes.listening import Listening


@dataclass
class Passing:
    """One request on its way; `forward` sends one to the image, and may be called more than once."""

    method: str
    path: str
    body: bytes
    forward: Callable[[str, str, bytes], tuple[int, bytes]]

    def on(self) -> tuple[int, bytes]:
        return self.forward(self.method, self.path, self.body)


Play = Callable[[Passing], tuple[int, bytes]]


class Middle:
    """Listens on a loopback port, with TLS of its own or without, and passes on to `port`.

    Args:
        play: what it does with each request; it passes it on by default.
        tls: speak TLS to the client, at most of this version; None for plain HTTP.
        chunked: answer in the form of HTTP/1.1 that many proxies prefer.
        hang_up: close the connection after each answer, with no word about it.
    """

    def __init__(
        self,
        port: int,
        play: Play = Passing.on,
        *,
        tls: ssl.TLSVersion | None = ssl.TLSVersion.TLSv1_3,
        chunked: bool = False,
        hang_up: bool = False,
    ) -> None:
        self._port = port
        self.play = play
        self._context = None if tls is None else TlsKey().context(tls)
        self._chunked = chunked
        self._hang_up = hang_up
        self._listening = Listening(self._serve)
        self.seen = b""
        self.paths: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.kept: list[bytes] = []

    @property
    def url(self) -> str:
        scheme = "http" if self._context is None else "https"
        return f"{scheme}://127.0.0.1:{self._listening.port}"

    def __enter__(self) -> Middle:
        self._listening.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listening.stop()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), plain, contextlib.ExitStack() as stack:
            plain.settimeout(20)
            stream = plain
            if self._context is not None:
                stream = stack.enter_context(self._context.wrap_socket(plain, server_side=True))
            reader = stream.makefile("rb")
            while True:
                method, path, body = _read_request(reader)
                self.paths.append(path)
                status, answer = self.play(Passing(method, path, body, self._forward))
                self.sizes.append((len(body), len(answer)))
                if self._hang_up:
                    # the end goes out with the answer: a client that is quicker would send into nothing
                    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
                stream.sendall(self._answer(status, answer))
                if self._hang_up:
                    return

    def _answer(self, status: int, body: bytes) -> bytes:
        # what is twice, and what says who answered, as middle boxes add it
        head = f"HTTP/1.1 {status} X\r\nVia: 1.1 middle\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n"
        if self._chunked and status != 204:
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"0\r\n\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def _forward(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # as load balancers do
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=30, context=context)
        try:
            connection.request(method, path, body if method == "POST" else None)
            answer = connection.getresponse()
            data = answer.read()
            self.seen += path.encode() + body + str(answer.headers).encode() + data
            return answer.status, data
        finally:
            connection.close()
