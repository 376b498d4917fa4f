"""A server as the gate should be seen from outside, with a switch for each thing that a gate must not do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

PADDED = 1024
REFUSED = ("400 Bad Request", "Connection: close\r\nContent-Length: 0\r\n")
MISSING = ("404 Not Found", "Connection: close\r\nContent-Length: 0\r\n")


@dataclass(frozen=True)
class Behaviour:
    """What it does; the defaults are what a gate does."""

    tickets: int = 0
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    protocols: tuple[str, ...] = ()
    name: str = "gate.invalid"
    subject: str = ""
    serial: int = 1
    not_before: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    second_certificate: bool = False
    header: str = ""
    padded: bool = True
    filling: str = "0"
    cut: bool = False
    metrics: bool = False
    echoes_path: bool = False
    takes_http10: bool = False
    dumb: bool = False
    stalls: bool = False


def make_context(behaviour: Behaviour, *, name: str | None = None) -> ssl.SSLContext:
    """Return the server's side, with a fresh key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, behaviour.subject)] if behaviour.subject else []
    )
    names = x509.SubjectAlternativeName([x509.DNSName(name or behaviour.name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(behaviour.serial)
        .not_valid_before(behaviour.not_before)
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = behaviour.oldest, behaviour.newest
    context.num_tickets = behaviour.tickets
    if behaviour.protocols:
        context.set_alpn_protocols(list(behaviour.protocols))
    with tempfile.TemporaryDirectory() as directory:
        chain = Path(directory, "chain.pem")
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        chain.write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(chain)
    return context


@contextlib.contextmanager
def serving(behaviour: Behaviour) -> Iterator[int]:
    """Serve; yields the port."""
    context = make_context(behaviour)
    if behaviour.second_certificate:
        other = make_context(behaviour)

        def choose(tls: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> None:
            if name is not None:
                tls.context = other

        context.sni_callback = choose
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        threading.Thread(target=_accept, args=(listener, context, behaviour), daemon=True).start()
        yield listener.getsockname()[1]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, behaviour: Behaviour) -> None:
    with contextlib.suppress(OSError):
        while True:
            plain, _ = listener.accept()
            threading.Thread(target=_serve, args=(plain, context, behaviour), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, behaviour: Behaviour) -> None:
    with contextlib.suppress(OSError), plain:
        plain.settimeout(10)
        with context.wrap_socket(plain, server_side=True) as stream:
            data = b""
            while b"\r\n\r\n" not in data and (more := stream.recv(65_536)):
                data += more
            if behaviour.stalls and data.startswith(b"POST /v1/hello "):
                time.sleep(3)
            if data and not behaviour.dumb:
                message = _answer(data, behaviour)
                parts = [message[:100], message[100:]] if behaviour.cut and b"metrics" in data else [message]
                for part in parts:
                    stream.sendall(part)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65_536):
                pass


def _choose(line: str, data: bytes, behaviour: Behaviour) -> tuple[str, str]:
    """Return status and head, as a gate would, but for what the behaviour says."""
    empty = ("200 OK", "Content-Type: application/json\r\nContent-Length: 0\r\n")
    if line == "GET /healthz HTTP/1.1":
        odd = any(word in data for word in (b"Transfer-Encoding", b"Content-Length", b"Expect", b"Upgrade"))
        return REFUSED if odd else ("204 No Content", "")
    if line == "GET /healthz HTTP/1.0" and behaviour.takes_http10:
        return "204 No Content", ""
    if not line.endswith(" HTTP/1.1") or line.startswith("POST /.well-known/blindbuild/evidence "):
        return REFUSED
    if "blindbuild/endorsement" in line or line.startswith("POST /v1/hello "):
        return empty
    return empty if line.startswith("GET /metrics ") and behaviour.metrics else MISSING


def _answer(data: bytes, behaviour: Behaviour) -> bytes:
    line = data.split(b"\r\n", 1)[0].decode("latin-1")
    status, head = _choose(line, data, behaviour)
    if behaviour.echoes_path and status.startswith("404"):
        head += f"Padding-2: {'0' * (len(line) % 7)}\r\n"
    message = f"HTTP/1.1 {status}\r\n{head}{behaviour.header}"
    if behaviour.padded:
        rest = PADDED - len(message) - len("Padding: \r\n\r\n")
        message += f"Padding: {behaviour.filling * (rest // len(behaviour.filling))}\r\n"
    return (message + "\r\n").encode()
