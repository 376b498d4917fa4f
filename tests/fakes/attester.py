"""The server's side of the exchange on loopback: what the gate does, around any TPM that a test brings.

Source: docs/spec/evidence.md. It never uses the code under test to make an answer.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import socket
import ssl
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.fakes.listening import Listening

LABEL = b"blindbuild/tls-spki-quote/v1"


class Tpm(Protocol):
    """What the gate needs of a TPM."""

    ek_public: bytes
    ak_public: bytes

    def endorsement(self) -> list[tuple[int, bytes]]: ...
    def read_registers(self, bank: str) -> list[bytes]: ...
    def quote(self, bank: str, extra_data: bytes) -> tuple[bytes, bytes]: ...
    def activate(self, blob: bytes, encrypted_secret: bytes) -> bytes: ...


def bound_data(
    nonce: bytes, spki: bytes, statement: bytes, role: bytes = b"server", label: bytes = LABEL
) -> bytes:
    parts = (label, nonce, hashlib.sha256(spki).digest(), statement, role)
    return hashlib.sha256(b"".join(struct.pack(">H", len(part)) + part for part in parts)).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class TlsKey:
    """A P-256 key made for one boot, and a certificate by itself."""

    def __init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "blindbuild")])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(datetime(2000, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
            .sign(key, hashes.SHA256())
        )
        self.spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.pem = (
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            certificate.public_bytes(Encoding.PEM),
        )

    def context(self, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = maximum
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(b"".join(self.pem))
            context.load_cert_chain(file.name)
        return context


@dataclass
class Attester:
    """Answers the exchange for one booted image.

    Attributes:
        tamper: may change the answer to the evidence request, as a hostile operator would.
    """

    tpm: Tpm
    event_log: bytes
    key: TlsKey = field(default_factory=TlsKey)
    tamper: Callable[[dict], dict] = lambda answer: answer
    endorse: Callable[[dict], dict] = lambda answer: answer
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)

    def endorsement(self) -> dict:
        return self.endorse(
            {
                "version": 1,
                "ekCertificates": [
                    {"nvIndex": f"0x{index:08x}", "certificate": b64(data)}
                    for index, data in self.tpm.endorsement()
                ],
                "ekPublic": b64(self.tpm.ek_public),
                "akPublic": b64(self.tpm.ak_public),
            }
        )

    def evidence(self, request: dict, spki: bytes | None = None) -> dict:
        bank = request["bank"]
        extra = bound_data(
            bytes.fromhex(request["nonce"]), spki or self.key.spki, bytes.fromhex(request["statement"])
        )
        quote, signature = self.tpm.quote(bank, extra)
        answer = {
            "version": 1,
            "profile": request["profile"],
            "bank": bank,
            "quote": b64(quote),
            "signature": b64(signature),
            "pcrs": [value.hex() for value in self.tpm.read_registers(bank)],
            "eventLog": b64(self.event_log),
        }
        if "credentialBlob" in request:
            secret = self.tpm.activate(
                base64.b64decode(request["credentialBlob"]), base64.b64decode(request["encryptedSecret"])
            )
            answer["activatedSecret"] = b64(secret)
        return self.tamper(answer)

    def handle(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, path, body))
        if (method, path) == ("GET", "/.well-known/blindbuild/endorsement"):
            return 200, json.dumps(self.endorsement()).encode()
        if (method, path) == ("POST", "/.well-known/blindbuild/evidence"):
            try:
                return 200, json.dumps(self.evidence(json.loads(body))).encode()
            except KeyError:
                return 422, b'{"version":1,"error":"bank"}'
            except ValueError:
                return 422, b'{"version":1,"error":"credential"}'
        if (method, path) == ("POST", "/v1/hello"):
            return 200, b"hello, " + body
        return 404, b""


class Server:
    """Serves an attester, or anything with `handle`, over TLS on a free loopback port.

    Args:
        handle: method, path, body to status, body.
        key: the TLS key that the server shows.
        raw: replaces the whole answer by these bytes, for answers that are not HTTP as it should be.
        requests_per_connection: after so many the server hangs up without a word.
    """

    def __init__(
        self,
        handle: Callable[[str, str, bytes], tuple[int, bytes]],
        key: TlsKey,
        *,
        raw: Callable[[str, int, bytes], bytes] | None = None,
        requests_per_connection: int = 1000,
        maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    ) -> None:
        self._handle = handle
        self._raw = raw or plain_answer
        self._limit = requests_per_connection
        self._context = key.context(maximum_version)
        self._listening = Listening(self._serve)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._listening.port}"

    @property
    def connections(self) -> int:
        return self._listening.connections

    def __enter__(self) -> Server:
        self._listening.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listening.stop()

    def _serve(self, plain: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), plain:
            plain.settimeout(20)
            with self._context.wrap_socket(plain, server_side=True) as stream:
                reader = stream.makefile("rb")
                for _ in range(self._limit):
                    method, path, body = _read_request(reader)
                    status, answer = self._handle(method, path, body)
                    stream.sendall(self._raw(path, status, answer))


def _read_request(reader) -> tuple[str, str, bytes]:
    line = reader.readline()
    if not line:
        raise OSError("closed")
    method, path, _version = line.decode().split(" ")
    length = 0
    while (header := reader.readline().strip()) != b"":
        name, _, value = header.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return method, path, reader.read(length)


def plain_answer(_path: str, status: int, body: bytes) -> bytes:
    """As the gate writes it, padded to a bucket."""
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nPadding: ".encode()
    size = len(head) + 4 + len(body)
    bucket = next(b for b in (1024, 4096, 16384, 65536, 1 << 22) if b >= size)
    return head + b"0" * (bucket - size) + b"\r\n\r\n" + body
