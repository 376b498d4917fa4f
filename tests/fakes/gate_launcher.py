"""The launcher's side of descriptor 6, with Python functions as the workload.

Source: docs/spec/guest-abi.md, "Gate and launcher" and "Gate and workload".
"""

from __future__ import annotations

import array
import socket
import struct
import threading
from collections.abc import Callable

Workload = Callable[[socket.socket], None]


def read_request(stream: socket.socket) -> bytes:
    """Return the one request, and check that end of file follows it."""
    prefix = _read_exactly(stream, 4)
    body = _read_exactly(stream, struct.unpack(">I", prefix)[0])
    if stream.recv(1):
        raise AssertionError("the gate sent bytes after the request")
    return body


def _read_exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise AssertionError(f"expected {size} bytes from the gate, got {len(data)}")
        data += piece
    return data


def echo(stream: socket.socket) -> None:
    """A workload that answers with what it was asked."""
    body = read_request(stream)
    stream.sendall(struct.pack(">I", len(body)) + body)


def answer_with(data: bytes) -> Workload:
    """A workload that reads its request and then writes exactly `data`, framed or not."""

    def run(stream: socket.socket) -> None:
        read_request(stream)
        stream.sendall(data)

    return run


class FakeLauncher:
    """Starts one thread a request; refuses `busy` times; `raw_reply` replaces every reply."""

    def __init__(self, workload: Workload = echo) -> None:
        self.gate_end, self._own_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.workload = workload
        self.busy = 0
        self.started = 0
        self.raw_reply: bytes | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Die, as far as the gate can see."""
        self._own_end.shutdown(socket.SHUT_RDWR)
        self._own_end.close()

    def _serve(self) -> None:
        try:
            while message := self._own_end.recv(16):
                assert message == b"R", message
                self._reply()
        except OSError:
            return

    def _reply(self) -> None:
        if self.raw_reply is not None:
            self._own_end.send(self.raw_reply)
        elif self.busy > 0:
            self.busy -= 1
            self._own_end.send(b"B")
        else:
            self._start()

    def _start(self) -> None:
        gate_end, workload_end = socket.socketpair()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [gate_end.fileno()]))]
        self._own_end.sendmsg([b"S"], rights)
        gate_end.close()
        self.started += 1
        threading.Thread(target=self._run, args=(workload_end,), daemon=True).start()

    def _run(self, stream: socket.socket) -> None:
        with stream:
            try:
                self.workload(stream)
            except OSError:
                return
