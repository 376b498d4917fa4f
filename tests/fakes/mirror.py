"""A mirror over HTTP on this machine that can be told to misbehave."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What goes wrong, and for how many requests of a path (-1: for all).

    Attributes:
        kind: `status`, `truncate`, `stall`, `corrupt`, `longer`, `other-size`, `redirect`, `no-range`,
            `wrong-range`, `unsized`, `trickle`.
        value: the status, how many bytes come first, or where it redirects to.
        times: requests it happens to.
    """

    kind: str
    value: int | str = 0
    times: int = -1


@dataclass
class Mirror:
    """Files and faults by path, and the requests seen as `path range`."""

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    released: threading.Event = field(default_factory=threading.Event)

    def take_fault(self, path: str) -> Fault:
        fault = self.faults.get(path, Fault("none"))
        if fault.times == 0:
            return Fault("none")
        fault.times -= 1
        return fault


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def do_GET(self) -> None:
        asked = self.headers.get("Range", "")
        self.mirror.requests.append(f"{self.path} {asked}".strip())
        fault = self.mirror.take_fault(self.path)
        data = self.mirror.files.get(self.path)
        if fault.kind == "redirect":
            self._answer(302, b"", location=str(fault.value))
        elif fault.kind == "status":
            self._answer(int(fault.value), b"sorry")
        elif data is None:
            self._answer(404, b"not found")
        else:
            self._send(data, asked, fault)

    def _send(self, data: bytes, asked: str, fault: Fault) -> None:
        start = int(match[1]) if (match := re.fullmatch(r"bytes=(\d+)-", asked)) else 0
        if fault.kind == "no-range":
            start = 0
        if start and start >= len(data):
            self._answer(416, b"")
            return
        body = data[start:]
        if fault.kind == "corrupt":
            body = bytes([body[0] ^ 1]) + body[1:]
        elif fault.kind in ("longer", "other-size"):
            body += b"more"
        shown = start + 1 if fault.kind == "wrong-range" else start
        span = f"bytes {shown}-{len(data) - 1}/{len(data)}" if start else ""
        self._answer(206 if start else 200, body, content_range=span, fault=fault)

    def _answer(
        self,
        status: int,
        body: bytes,
        *,
        location: str = "",
        content_range: str = "",
        fault: Fault | None = None,
    ) -> None:
        kind = fault.kind if fault else "none"
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        if content_range:
            self.send_header("Content-Range", content_range)
        if kind in ("longer", "unsized"):
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "trickle":
            self._trickle(body)
            return
        if kind in ("truncate", "stall"):
            self.wfile.write(body[: int(fault.value if fault else 0)])
            self.wfile.flush()
            self.close_connection = True
            if kind == "stall":
                self.mirror.released.wait(30)
            return
        self.wfile.write(body)

    def _trickle(self, body: bytes) -> None:
        self.close_connection = True
        for byte in body:
            if self.mirror.released.wait(0.02):
                return
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are what these tests are about."""


@contextlib.contextmanager
def serve_mirror() -> Iterator[Mirror]:
    """Give a mirror that answers at `mirror.url` until the end of the block."""
    mirror = Mirror()
    handler = type("Handler", (_Handler,), {"mirror": mirror})
    server = _Server(("127.0.0.1", 0), handler)
    mirror.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield mirror
    finally:
        mirror.released.set()
        server.shutdown()
        server.server_close()
