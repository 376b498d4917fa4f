"""Bad input 125, played on loopback: what sits on the path of a connection, or changes its end."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import threading

import pytest

from blindbuild.client import Connection, Expectation, attest
from blindbuild.client.attest import AttestedConnection
from blindbuild.client.transport import tls_context
from blindbuild.errors import ChannelError, VerificationError
from tests.bad_inputs import record, refused, refusing
from tests.fakes.attester import Attester, Server, TlsKey, bound_data, plain_answer
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.world import TEST_POLICY, pinned_trust, publisher, tpm

pytestmark = pytest.mark.bad_input(125)
LOG = log_bytes(honest_boot())
EVIDENCE = "/.well-known/blindbuild/evidence"
WORKLOAD = "/v1/hello"


def honest(**changes) -> Attester:
    return Attester(**{"tpm": tpm(), "event_log": LOG, **changes})


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


def refused_by_the_client(server: Server, attester: Attester, *reasons: str) -> None:
    """The exchange is refused for these reasons, and nothing else was ever asked of the server."""
    attempt = attest(server.url, expectation())
    refused(attempt.appraisal, *reasons)
    with pytest.raises(VerificationError):
        attempt.accept()
    assert WORKLOAD not in [path for _, path, _ in attester.requests]


def resigned(attester: Attester, extra: bytes) -> dict[str, str]:
    """A quote by the attester's own TPM over other extraData."""
    quote, signature = attester.tpm.quote("sha256", extra)
    return {"quote": base64.b64encode(quote).decode(), "signature": base64.b64encode(signature).decode()}


def test_a_quote_for_another_key() -> None:
    attester = honest()
    with Server(attester.handle, TlsKey()) as server:  # whose key no quote of this attester is about
        refused_by_the_client(server, attester, "Q7:bound-data-mismatch", "C3:other-tls-key")


def test_the_same_quote_over_a_second_connection() -> None:
    attester = honest()
    first: list[dict] = []

    def replay(answer: dict) -> dict:
        first.append(answer)
        return first[0]

    attester.tamper = replay
    with Server(attester.handle, attester.key) as server:
        attest(server.url, expectation()).accept().close()
        refused_by_the_client(server, attester, "A8:credential-mismatch", "Q7:bound-data-mismatch")


@pytest.mark.parametrize("role", [b"client", b"", b"serve", b"server\0"])
def test_a_reflected_role(role: bytes) -> None:
    attester = honest()

    def reflect(answer: dict) -> dict:
        asked = json.loads(attester.requests[-1][2])
        nonce, statement = bytes.fromhex(asked["nonce"]), bytes.fromhex(asked["statement"])
        return answer | resigned(attester, bound_data(nonce, attester.key.spki, statement, role=role))

    attester.tamper = reflect
    with Server(attester.handle, attester.key) as server:
        refused_by_the_client(server, attester, "Q7:bound-data-mismatch", "C3:other-tls-key")


def test_a_tls_key_that_changed_after_the_verdict() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server, Server(attester.handle, TlsKey()) as other:
        verdict = attest(server.url, expectation()).accept().verdict
        # whoever moves a verdict to another connection, as a pool of connections would, is stopped there
        with Connection.open(other.url) as connection, refusing("C3:other-tls-key"):
            AttestedConnection(connection, verdict)
        with Connection.open(server.url) as connection:
            assert AttestedConnection(connection, verdict).post(WORKLOAD, b"x") == b"hello, x"


def test_a_connection_that_ended_is_not_replaced_by_one_to_another_key() -> None:
    attester = honest()
    with Server(attester.handle, attester.key, requests_per_connection=2) as server:
        connection = attest(server.url, expectation()).accept()
        with refusing("connection lost; attest again", ChannelError):
            connection.post(WORKLOAD, b"secret")
        assert server.connections == 1
    assert WORKLOAD not in [path for _, path, _ in attester.requests]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/.well-known/blindbuild/endorsement", EVIDENCE, WORKLOAD])
def test_a_redirect(path: str, status: int) -> None:
    attester, elsewhere = honest(), honest()
    with Server(elsewhere.handle, elsewhere.key) as target:

        def raw(asked: str, code: int, body: bytes) -> bytes:
            if asked != path:
                return plain_answer(asked, code, body)
            location = f"HTTP/1.1 {status} X\r\nLocation: {target.url}{path}\r\nContent-Length: 0\r\n\r\n"
            return location.encode()

        with Server(attester.handle, attester.key, raw=raw) as server:
            with refusing("expected an answer, got a redirect", ChannelError):
                attest(server.url, expectation()).accept().post(WORKLOAD, b"secret")
        assert target.connections == 0
    assert elsewhere.requests == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "HTTP://127.0.0.1", "127.0.0.1", "//127.0.0.1"])
def test_plain_http(url: str) -> None:
    with refusing("expected https://HOST", ChannelError):
        attest(url, expectation())


def test_plain_http_behind_an_https_address() -> None:
    received: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        stream, _ = listener.accept()
        with stream:
            received.append(stream.recv(65536))
            stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer, args=(listener,), daemon=True)
        thread.start()
        with refusing("cannot speak TLS 1.3", ChannelError):
            attest(f"https://127.0.0.1:{listener.getsockname()[1]}", expectation())
        thread.join(10)
    assert received[0][:1] == b"\x16"  # a TLS handshake, and no request
    assert b"blindbuild" not in received[0]


def test_resumption() -> None:
    """A session that is resumed shows no certificate, so nothing would say whose key is at its end."""
    attester = honest()
    reused: list[bool] = []
    context = attester.key.context()

    def serve(listener: socket.socket) -> None:
        for _ in range(4):
            plain, _ = listener.accept()
            with plain, context.wrap_socket(plain, server_side=True) as stream:
                reused.append(bool(stream.session_reused))
                stream.sendall(b"x")  # a client that has read this has read the ticket before it
                stream.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        address = listener.getsockname()
        for _ in range(2):
            with Connection.open(f"https://127.0.0.1:{address[1]}") as connection:
                assert connection.spki == attester.key.spki
                assert connection._stream is not None
                assert connection._stream.recv(1) == b"x"
        # a client that wants to does resume, with the very same settings
        settings, session = tls_context(), None
        for _ in range(2):
            with socket.create_connection(address) as plain:
                with settings.wrap_socket(plain, session=session) as stream:
                    assert stream.recv(1) == b"x"
                    session = stream.session
        thread.join(10)
    assert reused == [False, False, False, True]
    record("never resumed")
