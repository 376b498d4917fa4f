"""Registries on loopback: Debian's docker-registry as it is, and one that answers whatever a test wants."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import json
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

PROGRAM = shutil.which("docker-registry", path="/usr/bin:/usr/local/bin")
NAME, PASSWORD = "ada", "correct horse"
BASIC = base64.b64encode(f"{NAME}:{PASSWORD}".encode()).decode()
_BCRYPT = "$2b$04$jLzcht49119fgzskzKPH4.6.oFDCh6j4myq7QU1D2Gg1WBUDHv9xa"  # of the password, by libxcrypt
needs_registry = pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")


@contextlib.contextmanager
def docker_registry(folder: Path, *, auth: dict | None = None) -> Iterator[str]:
    """Run Debian's registry on a free port; gives HOST:PORT."""
    assert PROGRAM is not None
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "blobs")}},
        "http": {"addr": "127.0.0.1:0", "secret": "of this test"},
        **({} if auth is None else {"auth": auth}),
    }
    (folder / "registry.yml").write_text(json.dumps(config))  # JSON is YAML
    with (
        (folder / "registry.log").open("w+b") as log,
        subprocess.Popen([PROGRAM, "serve", folder / "registry.yml"], stdout=log, stderr=log) as process,
    ):
        try:
            yield f"127.0.0.1:{_port(process, folder / 'registry.log')}"
        finally:
            process.terminate()


def _port(process: subprocess.Popen, log: Path) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def basic_auth(folder: Path) -> dict:
    """The registry's configuration for a login by name and password."""
    (folder / "htpasswd").write_text(f"{NAME}:{_BCRYPT}\n")
    return {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}


def docker_config(host: str, login: str = BASIC, **more) -> dict[str, str]:
    """An environment with docker's configuration in it."""
    return {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {host: {"auth": login}}, **more})}


@dataclass
class TokenServer:
    """Issues the tokens that docker-registry asks for, for a name and password, or to anybody for pulling."""

    folder: Path
    seen: list[tuple[str, str]] = field(default_factory=list)  # (Authorization, query)
    url: str = ""

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tokens")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(self._key, hashes.SHA256())
        )
        (self.folder / "tokens.pem").write_bytes(self._certificate.public_bytes(Encoding.PEM))

    @property
    def auth(self) -> dict:
        bundle = str(self.folder / "tokens.pem")
        return {
            "token": {"realm": self.url, "service": "tests", "issuer": "tokens", "rootcertbundle": bundle}
        }

    def answer(self, request: Request) -> Answer:
        authorization = request.headers.get("authorization", "")
        query = urlsplit(request.path).query
        self.seen.append((authorization, query))
        asked = parse_qs(query)
        _kind, repository, actions = asked["scope"][0].split(":")
        allowed = actions.split(",") if authorization == f"Basic {BASIC}" else ["pull"]
        access = [{"type": "repository", "name": repository, "actions": allowed}]
        return Answer(200, json.dumps({"token": self._token(access), "expires_in": 300}).encode())

    def _token(self, access: list[dict]) -> str:
        now = int(time.time())
        certificate = base64.b64encode(self._certificate.public_bytes(Encoding.DER)).decode()
        claims = {"iss": "tokens", "sub": NAME, "aud": "tests", "exp": now + 300, "nbf": now - 10, "iat": now}
        parts = (
            {"typ": "JWT", "alg": "ES256", "x5c": [certificate]},
            {**claims, "jti": "1", "access": access},
        )
        message = ".".join(_url64(json.dumps(part).encode()) for part in parts)
        r, s = decode_dss_signature(self._key.sign(message.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{message}.{_url64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@dataclass
class Request:
    """What a client asked for; names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Answer:
    """What it gets; `stream` goes on for as long as one listens."""

    status: int = 200
    body: bytes = b""
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    stream: Iterator[bytes] | None = None


@dataclass
class FakeServer:
    """A web server whose answers are a function of a test, with all that it was asked."""

    answer: Callable[[Request], Answer]
    requests: list[Request] = field(default_factory=list)
    host: str = ""


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        request = Request(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}, body
        )
        self.fake.requests.append(request)
        answer = self.fake.answer(request)
        self.send_response(answer.status)
        if answer.stream is None:
            self.send_header("Content-Length", str(len(answer.body)))
        for name, value in {"Content-Type": answer.kind, **answer.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(answer.body)
        for part in answer.stream or ():
            self.wfile.write(part)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # noqa: N815

    def log_message(self, *_args) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_args) -> None:
        """Clients that hang up are what these tests are about."""


@contextlib.contextmanager
def serving(answer: Callable[[Request], Answer], *, tls=None) -> Iterator[FakeServer]:
    """Serve a function of requests at a free port, with TLS if a context is given."""
    fake = FakeServer(answer)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    fake.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


MEDIA_TYPES = {
    "manifest.dsse.json": "application/vnd.in-toto+dsse",
    "release.dsse.json": "application/vnd.blindbuild.release+dsse",
    "channels.json": "application/vnd.blindbuild.ledger+json",
    "manifest.tlog-proof": "application/vnd.blindbuild.tlog-proof",
    "probe.dsse.json": "application/vnd.blindbuild.probe+dsse",
}


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(name, "application/vnd.blindbuild.rebuild+dsse")


def manifest_value(files: dict[str, bytes]) -> dict:
    """The manifest of a publication as docs/distribution.md has it, as a dictionary to be changed."""
    return {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.blindbuild.publication.v1",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha256(b"{}"), "size": 2},
        "layers": [
            {
                "mediaType": media_type(name),
                "digest": sha256(data),
                "size": len(data),
                "annotations": {"org.opencontainers.image.title": name},
            }
            for name, data in files.items()
        ],
    }


def naive_push(host: str, name: str, tag: str, files: dict[str, bytes], value: dict | None = None) -> str:
    """Push with nothing but HTTP requests, as the distribution specification has them; gives the digest."""
    base = f"http://{host}/v2/{name}"
    for data in (b"{}", *files.values()):
        location = call("POST", f"{base}/blobs/uploads/").headers["Location"]
        call("PUT", f"{location}&digest={sha256(data)}", data, "application/octet-stream")
    manifest = json.dumps(manifest_value(files) if value is None else value).encode()
    kind = "application/vnd.oci.image.manifest.v1+json"
    return call("PUT", f"{base}/manifests/{tag}", manifest, kind).headers["Docker-Content-Digest"]


def call(method: str, url: str, body: bytes = b"", kind: str = "") -> HTTPResponse:
    # always to a registry of ours on loopback
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as response:  # noqa: S310
        return response


@contextlib.contextmanager
def static_files(folder: Path) -> Iterator[str]:
    """Serve a directory as Python's own web server does; gives its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        """Say nothing."""
