"""The local proxy's sockets: one thread a connection, with limits on time, size and number."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from blindbuild.client.http1_request import MAX_REQUEST_HEAD, RequestHead, parse_request_head
from blindbuild.client.proxy import ClientGoneError, Proxy, Reply, in_text
from blindbuild.client.proxy_access import same_user
from blindbuild.errors import ChannelError

MAX_CLIENTS = 256  # connections at once; each has a thread
HEAD_S = 10.0  # from a head's first byte to its last
IDLE_CLIENT_S = 120.0  # between two requests
GRACE_S = 5.0  # for requests that are being answered when the proxy is stopped
BODY_S = 600.0  # for a whole body, in either direction
_CHUNK = 64 << 10  # bytes
_DRAIN_S = 2.0  # after an answer that does not wait for the rest of a request
_DRAIN_BYTES = 1 << 20
_HEAD_END = b"\r\n\r\n"
_STRANGER = in_text(403, "expected a program of the user who started this proxy", "start one of your own")


class Incoming:
    """What a local program sends on one connection."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._buffer = b""
        self.done = True

    def head(self) -> RequestHead | None:
        """Return the next request's head, or None when there is none.

        Raises:
            ChannelError: it is malformed.
        """
        deadline = time.monotonic() + IDLE_CLIENT_S
        began = bool(self._buffer)
        while _HEAD_END not in self._buffer:
            if len(self._buffer) > MAX_REQUEST_HEAD:
                raise ChannelError(f"expected at most {MAX_REQUEST_HEAD} bytes of headers")
            if self._buffer and not began:
                deadline, began = time.monotonic() + HEAD_S, True
            try:
                data = self._receive(deadline)
            except OSError:
                return None
            if not data:
                return None
            self._buffer += data
        raw, _, self._buffer = self._buffer.partition(_HEAD_END)
        head = parse_request_head(raw)
        named = dict(head.headers)
        self.done = named.get("content-length", "0") == "0" and "transfer-encoding" not in named
        return head

    def body(self, head: RequestHead) -> bytes | None:
        """Return the body; a program that waits for leave to send it gets it now, one that is gone None."""
        deadline = time.monotonic() + BODY_S
        length = head.length
        try:
            if head.get("expect").lower() == "100-continue" and len(self._buffer) < length:
                self._stream.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            parts, size = [self._buffer], len(self._buffer)
            while size < length:
                parts.append(self._receive(deadline))
                size += len(parts[-1])
                if not parts[-1]:
                    return None
        except OSError:
            return None
        whole = b"".join(parts)
        self._buffer = whole[length:]
        self.done = True
        return whole[:length]

    def _receive(self, deadline: float) -> bytes:
        rest = deadline - time.monotonic()
        if rest <= 0:
            raise TimeoutError
        self._stream.settimeout(rest)
        return self._stream.recv(_CHUNK)


class _Handler(socketserver.BaseRequestHandler):
    """One connection of a local program."""

    server: _Server

    def handle(self) -> None:
        stream: socket.socket = self.request
        with contextlib.suppress(OSError, ClientGoneError):
            if not self.server.takes(stream):
                self._send(stream, _STRANGER, closing=True)
                return
            self._serve(stream)

    def _serve(self, stream: socket.socket) -> None:
        incoming = Incoming(stream)
        while True:
            try:
                head = incoming.head()
                if head is None:
                    return
            except ChannelError as error:
                self._send(stream, in_text(400, error.message, error.hint), closing=True)
                return
            with self.server.busy():
                reply = self.server.proxy.answer(head, incoming)
                closing = head.closing or reply.closing or not incoming.done or self.server.stopping
                self._send(stream, reply, closing=closing)
            if closing:
                return

    def _send(self, stream: socket.socket, reply: Reply, *, closing: bool) -> None:
        stream.settimeout(BODY_S)
        stream.sendall(_write(reply, closing=closing))
        if closing:
            _drain(stream)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, proxy: Proxy, listener: socket.socket, *, same_user_only: bool) -> None:
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.proxy = proxy
        self._same_user_only = same_user_only
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._idle = threading.Condition()
        self._busy = 0
        self.stopping = False

    def takes(self, stream: socket.socket) -> bool:
        """Return whether whoever connected may."""
        return not self._same_user_only or same_user(stream)

    def get_request(self) -> tuple[socket.socket, Any]:
        return self.socket.accept()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            full = len(self._open) >= MAX_CLIENTS
            if not full:
                self._open.add(request)
        if full:
            super().shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Hold while a request is being answered."""
        with self._idle:
            self._busy += 1
        try:
            yield
        finally:
            with self._idle:
                self._busy -= 1
                self._idle.notify_all()

    def end_all(self) -> None:
        """End every connection, after a moment for requests that are being answered."""
        self.stopping = True
        with self._idle:
            self._idle.wait_for(lambda: self._busy == 0, GRACE_S)
        with self._guard:
            streams = list(self._open)
        for stream in streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a connection that breaks is the other side's affair."""


@contextlib.contextmanager
def serving(proxy: Proxy, listener: socket.socket, *, same_user_only: bool) -> Iterator[None]:
    """Answer local programs in threads while the caller holds this.

    Args:
        listener: from `listen` or `listen_at_path`; closed at the end.
        same_user_only: refuse connections of other users of this machine.
    """
    server = _Server(proxy, listener, same_user_only=same_user_only)
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="proxy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        server.end_all()
        thread.join()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; port 0 is any that is free.

    Raises:
        ChannelError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise ChannelError(
            f"{host}:{port}: cannot listen: {(error.strerror or str(error)).lower()}"
        ) from error


def listen_at_path(path: Path) -> socket.socket:
    """Return a socket in the file system that only its owner can connect to.

    Raises:
        ChannelError: the path cannot be had, or something else than an old socket is there.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # from its first moment nobody else may connect
    try:
        if path.is_socket() and not path.is_symlink() and not _answers(path):
            path.unlink()  # of a proxy that was killed
        listener.bind(str(path))
        listener.listen(64)
    except OSError as error:
        listener.close()
        raise ChannelError(f"{path}: cannot listen: {(error.strerror or str(error)).lower()}") from error
    finally:
        os.umask(mask)
    return listener


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _write(reply: Reply, *, closing: bool) -> bytes:
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/1.1 {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    if reply.status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(reply.body)}")
    lines.append(f"Connection: {'close' if closing else 'keep-alive'}")
    return "\r\n".join((*lines, "", "")).encode("latin-1") + reply.body


def _drain(stream: socket.socket) -> None:
    """End our half, then take what still comes: a reset could cost the program the answer."""
    stream.shutdown(socket.SHUT_WR)
    deadline, taken = time.monotonic() + _DRAIN_S, 0
    while taken < _DRAIN_BYTES and (rest := deadline - time.monotonic()) > 0:
        stream.settimeout(rest)
        data = stream.recv(_CHUNK)
        if not data:
            return
        taken += len(data)
