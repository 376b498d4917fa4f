"""A small HTTP server for programs that answer short requests: bounded in size, time and connections.

It speaks plain HTTP. TLS, names and access are a reverse proxy's; what goes through here is signed.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from blindbuild.client.web import Answer
from blindbuild.errors import BlindbuildError

MAX_CONNECTIONS = 64  # at once; more are closed unanswered
MAX_CONNECTION_S = 30.0  # then a connection is closed, whatever it is doing
_SILENCE_S = 10.0
_TOO_LARGE, _LENGTH_REQUIRED = 413, 411

Handle = Callable[[str, str, bytes], Answer]
"""(method, path, body) -> answer."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], handle: Handle, max_body: int) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self.handle = handle
        self.max_body = max_body
        self._began: dict[socket.socket, float] = {}
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            full = len(self._began) >= MAX_CONNECTIONS
            if not full:
                self._began[request] = time.monotonic()
        if full:
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._began.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        # called twice a second: who drips bytes holds a thread only so long
        limit = time.monotonic() - MAX_CONNECTION_S
        with self._guard:
            late = [request for request, began in self._began.items() if began < limit]
        for request in late:
            with contextlib.suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that breaks is the other side's affair."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = _SILENCE_S
    server_version = "blindbuild"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer a request without a body; one that has a body ends the connection, as it is not read."""
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True
        self._answer(self.server.handle("GET", self.path, b""))

    def do_POST(self) -> None:
        """Read the body, whose length must be known and small, and answer."""
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit() or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            self._answer(Answer(_LENGTH_REQUIRED, "text/plain", b"expected a Content-Length\n"))
            return
        if len(text) > 18 or int(text) > self.server.max_body:
            self.close_connection = True
            self._answer(Answer(_TOO_LARGE, "text/plain", b"too large\n"))
            return
        body = self.rfile.read(int(text))
        if len(body) != int(text):
            self.close_connection = True
            return
        self._answer(self.server.handle("POST", self.path, body))

    def _answer(self, answer: Answer) -> None:
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: who asks is not recorded."""


@contextlib.contextmanager
def serve(host: str, port: int, handle: Handle, *, max_body: int) -> Iterator[str]:
    """Answer requests in threads while the caller holds this; give the address.

    Args:
        host: the address to listen at.
        port: 0 for any that is free.
        handle: answers; called from several threads at once.
        max_body: bytes of a request; larger ones are refused unread.

    Raises:
        BlindbuildError: the address cannot be listened at.
    """
    try:
        server = _Server((host, port), handle, max_body)
    except OSError as error:
        raise BlindbuildError(
            f"{host}:{port}: cannot listen: {(error.strerror or str(error)).lower()}"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="http", daemon=True)
    thread.start()
    shown = f"[{host}]" if ":" in host else host
    try:
        yield f"http://{shown}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
