"""Key services on loopback: keys that sign for whoever asks over HTTP, and are never handed out.

Written from the public API descriptions: HashiCorp Vault's transit engine ("Sign data") and the `Sign` action
of AWS KMS (JSON 1.1 protocol). Only what a signer asks is answered.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Answer = tuple[int, dict]


@dataclass
class Vault:
    """One Ed25519 key of a transit engine."""

    name: str = "releases"
    token: str = "a token"
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    asked: list[bytes] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str], body: dict) -> Answer:
        if headers.get("x-vault-token") != self.token:
            return 403, {"errors": ["permission denied"]}
        if not path.startswith(f"/v1/transit/sign/{self.name}") or body.get("key_version") != 1:
            return 404, {"errors": ["signing key not found"]}
        message = base64.b64decode(body["input"], validate=True)
        self.asked.append(message)
        return 200, {"data": {"signature": f"vault:v1:{base64.b64encode(self.key.sign(message)).decode()}"}}

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@dataclass
class Kms:
    """One P-256 key of AWS KMS; the request's own signature is not looked at."""

    alias: str = "alias/releases"
    key: object = field(default_factory=lambda: generate_private_key(SECP256R1()))
    asked: list[bytes] = field(default_factory=list)

    def answer(self, path: str, headers: dict[str, str], body: dict) -> Answer:
        del path
        if headers.get("x-amz-target") != "TrentService.Sign" or not headers.get("authorization"):
            return 400, {"__type": "UnknownOperationException"}
        if body["KeyId"] != self.alias:
            return 400, {"__type": "NotFoundException", "message": f"Alias {body['KeyId']} is not found."}
        if (body["MessageType"], body["SigningAlgorithm"]) != ("DIGEST", "ECDSA_SHA_256"):
            return 400, {"__type": "ValidationException"}
        digest = base64.b64decode(body["Message"], validate=True)
        self.asked.append(digest)
        signature = self.key.sign(digest, ECDSA(Prehashed(SHA256())))
        return 200, {
            "KeyId": self.alias,
            "Signature": base64.b64encode(signature).decode(),
            "SigningAlgorithm": "ECDSA_SHA_256",
        }

    def public_pem(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@contextmanager
def served(answer: Callable[[str, dict[str, str], dict], Answer]) -> Iterator[str]:
    """Serve a key service on loopback; gives its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", "0"))
            body = json.loads(self.rfile.read(length) or b"{}")
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, value = answer(self.path, headers, body)
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_PUT = do_POST  # noqa: N815  the name that http.server looks for

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
