"""The operator between client and machine: passing bytes on, or ending TLS himself."""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from blindbuild.errors import BlindbuildError
from blindbuild.machine.config import HOST_ADDRESS

READ_BYTES = 1 << 16
CONNECT_LIMIT_S = 30.0
POLL_S = 0.1  # how long a read may block on a TLS record that carries no data
MAX_SEEN_BYTES = 16 << 20  # bounds memory

_Handler = Callable[[socket.socket], None]


class Listener:
    """Takes connections on a free port of 127.0.0.1, each in a thread; a context manager.

    Args:
        handle: what to do with a connection; it is closed afterwards, and what fails in it ends only itself.
    """

    def __init__(self, handle: _Handler) -> None:
        self._handle = handle
        self._listener = socket.create_server((HOST_ADDRESS, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept_all, name="listener", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            for stream in self._open:
                with contextlib.suppress(OSError):
                    stream.shutdown(socket.SHUT_RDWR)

    @property
    def url(self) -> str:
        """Where a client would connect to."""
        return f"https://{HOST_ADDRESS}:{self.port}"

    def _accept_all(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:  # closed by __exit__
                return
            with self._lock:
                self._open.add(stream)
            threading.Thread(target=self._serve, args=(stream,), daemon=True).start()

    def _serve(self, stream: socket.socket) -> None:
        with contextlib.suppress(OSError, BlindbuildError), stream:
            self._handle(stream)
        with self._lock:
            self._open.discard(stream)


class Relay(Listener):
    """Passes every connection on to another machine as it is: what any network may do.

    Args:
        host, port: the other machine.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(self._relay)
        self._target = (host, port)

    def _relay(self, client: socket.socket) -> None:
        with socket.create_connection(self._target, CONNECT_LIMIT_S) as server:
            pass_on(client, server, lambda _: None)


class TlsInterceptor(Listener):
    """Ends the client's TLS with a key of its own and speaks TLS to the machine: reads all, passes all on.

    Attributes:
        seen: everything that clients have sent, decrypted.
        answered: everything that the machine has answered.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(self._intercept)
        self._target = (host, port)
        self._identity = make_identity()
        self.seen = b""
        self.answered = b""

    def _intercept(self, plain: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with (
            self._identity.context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(self._target, CONNECT_LIMIT_S) as upstream,
            context.wrap_socket(upstream) as server,
        ):
            pass_on(client, server, self._note, self._note_answer)

    def _note(self, data: bytes) -> None:
        self.seen = (self.seen + data)[:MAX_SEEN_BYTES]

    def _note_answer(self, data: bytes) -> None:
        self.answered = (self.answered + data)[:MAX_SEEN_BYTES]


def pass_on(
    client: socket.socket,
    server: socket.socket,
    note: Callable[[bytes], object],
    note_answer: Callable[[bytes], object] = lambda _: None,
) -> None:
    """Pass bytes both ways until either side ends; `note` gets what the client sends, the other the rest."""
    other = {client: server, server: client}
    with selectors.DefaultSelector() as selector:
        for stream in other:
            selector.register(stream, selectors.EVENT_READ)
        while True:
            for stream in _readable(selector, client, server):
                data = _read(stream)
                if data == b"":
                    return
                if data is None:
                    continue
                (note if stream is client else note_answer)(data)
                other[stream].settimeout(CONNECT_LIMIT_S)
                other[stream].sendall(data)


def _readable(selector: selectors.BaseSelector, *streams: socket.socket) -> Iterator[socket.socket]:
    """Yield the streams with something to read; TLS may hold data that the socket no longer shows."""
    pending = [stream for stream in streams if isinstance(stream, ssl.SSLSocket) and stream.pending()]
    ready = [key.fileobj for key, _ in selector.select(0.0 if pending else None)]
    yield from (stream for stream in streams if stream in pending or stream in ready)


def _read(stream: socket.socket) -> bytes | None:
    """Read what there is; nothing means the end, None that it was a TLS record without data."""
    stream.settimeout(POLL_S)
    try:
        return stream.recv(READ_BYTES)
    except TimeoutError:
        return None


@dataclass(frozen=True, slots=True)
class ServerIdentity:
    """A TLS server's key: the context to serve with, and its DER SubjectPublicKeyInfo."""

    context: ssl.SSLContext
    spki: bytes


def make_identity() -> ServerIdentity:
    """Return a TLS 1.3 server with a fresh P-256 key and a self-signed certificate, as a gate has."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2049, 12, 31, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    with tempfile.TemporaryDirectory(prefix="blindbuild-") as directory:
        chain = Path(directory, "chain.pem")  # ssl loads keys from files only
        chain.touch(mode=0o600)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(chain)
    return ServerIdentity(
        context, key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
