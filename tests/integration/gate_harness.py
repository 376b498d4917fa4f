"""Runs the real gate on this machine: real swtpm, fake launcher, a client that sees every byte."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.fakes.gate_launcher import FakeLauncher
from tests.fakes.guest_filters import made_filters
from tests.locked import locked_toolchain

GATE_SOURCES = Path(__file__).resolve().parents[2] / "builder" / "blindbuild" / "guest" / "gate"
CONFIG = {
    "version": 1,
    "profile": "tls-spki-quote-v1",
    "routes": ["/v1/hello"],
    "maxRequestBytes": 300_000,
    "maxResponseBytes": 300_000,
    "seconds": 3,
    "concurrency": 2,
}
EVENT_LOG = bytes(range(256)) * 80
EVIDENCE = "/.well-known/blindbuild/evidence"
ENDORSEMENT = "/.well-known/blindbuild/endorsement"
LISTENER, TPM, LOG, LAUNCHER = 3, 4, 5, 6


def go_command() -> tuple[str, dict[str, str]]:
    """Return the Go program and its environment: the locked toolchain's, as it compiles the product."""
    root = str(locked_toolchain() / "usr" / "lib" / "go-1.24")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blindbuild-tests" / "go"
    environment = {
        "GOROOT": root,
        "GOCACHE": str(cache),
        "GOTOOLCHAIN": "local",
        "GOFLAGS": "-mod=mod",
        "GOPROXY": "off",
        "CGO_ENABLED": "0",
        "HOME": str(cache),
        "LC_ALL": "C",
        "PATH": "/usr/bin:/bin",
    }
    return f"{root}/bin/go", environment


def build_gate(target: Path, *, tags: str = "") -> Path:
    """Compile the gate as the product is compiled."""
    go, environment = go_command()
    arguments = ["build", "-trimpath", "-ldflags", "-s -w -buildid=", "-tags", tags, "-o", str(target), "."]
    subprocess.run([go, *arguments], cwd=GATE_SOURCES, env=environment, check=True)
    return target


def need(*programs: str) -> None:
    """Skip unless all programs are there."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is missing")


def make_tpm_state(directory: Path, banks: str = "sha256,sha384,sha512") -> Path:
    """Manufacture a TPM with EK certificates of a CA of its own; returns the state directory."""
    need("swtpm", "swtpm_setup")
    state = directory / "state"
    state.mkdir()
    authority = directory / "ca"
    authority.mkdir()
    local_ca = directory / "localca.conf"
    names = (
        ("statedir", ""),
        ("signingkey", "signkey.pem"),
        ("issuercert", "issuer.pem"),
        ("certserial", "serial"),
    )
    local_ca.write_text("".join(f"{name} = {authority / file}\n" for name, file in names))
    options = directory / "localca.options"
    options.write_text("--platform-manufacturer test\n--platform-version 1\n--platform-model test\n")
    setup = directory / "setup.conf"
    setup.write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\ncreate_certs_tool_config = {local_ca}\n"
        f"create_certs_tool_options = {options}\nactive_pcr_banks = sha256\n"
    )
    arguments = [
        "--tpm2",
        "--tpmstate",
        str(state),
        "--create-ek-cert",
        "--create-platform-cert",
        "--overwrite",
    ]
    arguments += ["--pcr-banks", banks, "--config", str(setup)]
    done = subprocess.run(["swtpm_setup", *arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return state


class Swtpm:
    """A software TPM that answers raw commands on a stream socket, to one connection at a time."""

    def __init__(self, state: Path, runtime: Path) -> None:
        self.log = runtime / "swtpm.log"
        self._path = runtime / "tpm.sock"
        arguments = ["--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={self._path}"]
        arguments += [
            "--ctrl",
            f"type=unixio,path={runtime / 'ctrl.sock'}",
            "--flags",
            "not-need-init,startup-clear",
        ]
        arguments += ["--log", f"file={self.log},level=20"]
        self._process = subprocess.Popen(["swtpm", "socket", *arguments], stdin=subprocess.DEVNULL)

    def connect(self) -> socket.socket:
        """Open the command channel, once the TPM listens."""
        for _ in range(200):
            stream = socket.socket(socket.AF_UNIX)
            stream.settimeout(2)
            with contextlib.suppress(OSError):
                stream.connect(str(self._path))
                stream.settimeout(None)
                return stream
            stream.close()
            time.sleep(0.02)
        raise AssertionError("swtpm does not listen")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def commands(self) -> list[tuple[int, bytes]]:
        """Return all commands of the transcript: command code and bytes."""
        seen = []
        for block in self.log.read_text().split(" SWTPM_IO_")[1:]:
            kind, *lines = block.splitlines()
            if kind.startswith("Read:"):
                data = bytes.fromhex("".join(lines))
                seen.append((int.from_bytes(data[6:10], "big"), data))
        return seen


@dataclass
class Response:
    """One answer, and how many bytes it was on the wire before encryption."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    size: int

    def json(self) -> dict[str, object]:
        return json.loads(self.body)


class Client:
    """One TLS connection; sends bytes as they are and reads answers strictly."""

    def __init__(self, port: int, *, timeout_s: float = 30) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        plain = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.stream = context.wrap_socket(plain)
        self._rest = b""

    def close(self) -> None:
        self.stream.close()

    def send(self, data: bytes) -> None:
        self.stream.sendall(data)

    def get(self, path: str) -> Response:
        self.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        return self.read()

    def post(self, path: str, body: bytes) -> Response:
        self.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return self.read()

    def evidence(self, **fields: object) -> Response:
        return self.post(EVIDENCE, json.dumps(evidence_request(**fields)).encode())

    def spki(self) -> bytes:
        """Return the connection's SubjectPublicKeyInfo."""
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        der = self.stream.getpeercert(binary_form=True)
        assert der is not None
        key = x509.load_der_x509_certificate(der).public_key()
        return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def read(self) -> Response:
        """Read one answer."""
        while b"\r\n\r\n" not in self._rest:
            self._more()
        head, _, rest = self._rest.partition(b"\r\n\r\n")
        lines = head.decode("ascii").split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines[1:])]
        length = int(dict(headers).get("Content-Length", "0"))
        while len(rest) < length:
            self._more()
            rest = self._rest[len(head) + 4 :]
        self._rest = rest[length:]
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        return Response(int(status), headers, rest[:length], len(head) + 4 + length)

    def at_end(self) -> bool:
        """Wait until the server has closed, and say whether it sent nothing more."""
        try:
            return self._rest == b"" and self.stream.recv(1) == b""
        except (ConnectionResetError, ssl.SSLError):
            return True

    def _more(self) -> None:
        piece = self.stream.recv(65536)
        if not piece:
            raise EOFError("the server closed")
        self._rest += piece


def evidence_request(**changes: object) -> dict[str, object]:
    """Return a right evidence request with some fields changed; None removes one."""
    fields: dict[str, object] = {
        "version": 1,
        "profile": "tls-spki-quote-v1",
        "nonce": "11" * 32,
        "statement": "22" * 32,
        "bank": "sha256",
    }
    fields |= changes
    return {name: value for name, value in fields.items() if value is not None}


def binding(nonce: bytes, spki: bytes, statement: bytes) -> bytes:
    """Return the extraData a quote must have (docs/spec/evidence.md), written anew for the tests."""
    parts = b"blindbuild/tls-spki-quote/v1", nonce, hashlib.sha256(spki).digest(), statement, b"server"
    return hashlib.sha256(b"".join(len(part).to_bytes(2, "big") + part for part in parts)).digest()


def b64(text: object) -> bytes:
    """Decode a base64 member of an answer."""
    assert isinstance(text, str)
    return base64.b64decode(text, validate=True)


@dataclass
class RunningGate:
    """The gate's process and what it is connected to."""

    process: subprocess.Popen[bytes]
    port: int
    launcher: FakeLauncher
    clients: list[Client] = field(default_factory=list)

    def client(self, *, timeout_s: float = 30) -> Client:
        """Open a connection, closed with the gate."""
        client = Client(self.port, timeout_s=timeout_s)
        self.clients.append(client)
        return client

    def alive(self) -> bool:
        return self.process.poll() is None


def event_log_file(content: bytes) -> int:
    """Return a sealed memfd, as init makes it."""
    descriptor = os.memfd_create("log", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(descriptor, content)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@contextlib.contextmanager
def running_gate(
    binary: Path,
    directory: Path,
    tpm: socket.socket | None,
    *,
    launcher: FakeLauncher | None = None,
    config: object = CONFIG,
    system_calls: bytes | None = None,
    prefix: tuple[str, ...] = (),
    event_log: bytes = EVENT_LOG,
) -> Iterator[RunningGate]:
    """Start the gate with the descriptors of docs/spec/guest-abi.md.

    Args:
        binary: the compiled gate.
        directory: becomes its working directory.
        tpm: the TPM's command channel; None for a TPM that never answers.
        launcher: who answers requests; echoes by default.
        config: gate.json, as a value or as text.
        system_calls: the filter beside it; the product's by default.
        prefix: a program to run it under, which must become the gate.
        event_log: what init would hand over.
    """
    (directory / "gate.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (directory / "filter").write_bytes(made_filters()["gate"] if system_calls is None else system_calls)
    launcher = launcher or FakeLauncher()
    silent = socket.socketpair()
    tpm = tpm or silent[0]
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        log = event_log_file(event_log)
        sources = (listener.fileno(), tpm.fileno(), log, launcher.gate_end.fileno())
        # Away from 3 to 6 first, so that none of the copies below covers a source of another.
        aside = [fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, 50) for source in sources]

        def hand_over() -> None:
            for target, source in zip((LISTENER, TPM, LOG, LAUNCHER), aside, strict=True):
                os.dup2(source, target)

        process = subprocess.Popen(
            [*prefix, str(binary)],
            cwd=directory,
            env={},
            stdin=subprocess.DEVNULL,
            preexec_fn=hand_over,
            close_fds=False,
        )
        for descriptor in (*aside, log):
            os.close(descriptor)
        gate = RunningGate(process, listener.getsockname()[1], launcher)
    try:
        yield gate
    finally:
        for client in gate.clients:
            client.close()
        process.kill()
        process.wait()
        for end in silent:
            end.close()
