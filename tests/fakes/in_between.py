"""Those who stand between a client and an attested server, on loopback: a relay, and a man in the middle."""

from __future__ import annotations

import contextlib
import socket
import ssl
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from blindbuild.machine.interception import pass_on


def inspecting_context(authority: str) -> ssl.SSLContext:
    """A server's side as a device makes it that opens TLS: its own key, certified by its own authority."""
    key, issuer = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, authority)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .sign(issuer, hashes.SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        Path(file.name).write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(file.name)
    return context


@dataclass
class Seen:
    """What somebody in between has read of what the client sent."""

    port: int
    from_client: bytearray = field(default_factory=bytearray)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"


@contextlib.contextmanager
def man_in_the_middle(port: int, *, authority: str) -> Iterator[Seen]:
    """Open every TLS connection, and pass all bytes on unchanged over another one."""
    context = inspecting_context(authority)
    upstream = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    upstream.check_hostname, upstream.verify_mode = False, ssl.CERT_NONE
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen = Seen(listener.getsockname()[1])

        def serve(plain: socket.socket) -> None:
            with contextlib.suppress(OSError), plain:
                with (
                    context.wrap_socket(plain, server_side=True) as client,
                    upstream.wrap_socket(socket.create_connection(("127.0.0.1", port))) as server,
                ):
                    # in one thread: OpenSSL breaks connections that two threads read and write at once
                    pass_on(client, server, seen.from_client.extend)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    threading.Thread(target=serve, args=(plain,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield seen
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
