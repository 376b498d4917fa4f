"""Relay and TLS interceptor between a client and a TLS echo of ours."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest

from blindbuild.machine.interception import Listener, Relay, ServerIdentity, TlsInterceptor, make_identity


class TlsEcho(Listener):
    """Sends back what it gets, until it gets nothing."""

    def __init__(self, identity: ServerIdentity) -> None:
        super().__init__(self._echo)
        self._context = identity.context

    def _echo(self, plain: socket.socket) -> None:
        with self._context.wrap_socket(plain, server_side=True) as stream:
            while data := stream.recv(65536):
                stream.sendall(data)


@pytest.fixture(scope="module")
def identity() -> ServerIdentity:
    return make_identity()


@pytest.fixture
def echo(identity: ServerIdentity) -> Iterator[TlsEcho]:
    with TlsEcho(identity) as running:
        yield running


def exchange(port: int, data: bytes) -> tuple[bytes, bytes]:
    """Return the certificate that was shown and what came back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain) as stream,
    ):
        assert stream.version() == "TLSv1.3"
        certificate = stream.getpeercert(binary_form=True)
        stream.sendall(data)
        answer = b""
        while len(answer) < len(data):
            answer += stream.recv(65536)
    assert certificate is not None
    return certificate, answer


def test_a_relay_shows_the_servers_own_certificate(echo: TlsEcho, identity: ServerIdentity) -> None:
    with Relay("127.0.0.1", echo.port) as relay:
        certificate, answer = exchange(relay.port, b"hello")
    assert answer == b"hello"
    assert identity.spki in certificate


def test_an_interceptor_shows_its_own_and_reads_all(echo: TlsEcho, identity: ServerIdentity) -> None:
    with TlsInterceptor("127.0.0.1", echo.port) as interceptor:
        certificate, answer = exchange(interceptor.port, b"patient data")
        assert answer == b"patient data"
        assert (interceptor.seen, interceptor.answered) == (b"patient data", b"patient data")
    assert identity.spki not in certificate


def test_much_data_goes_both_ways(echo: TlsEcho) -> None:
    data = bytes(range(256)) * 2000
    with TlsInterceptor("127.0.0.1", echo.port) as interceptor:
        assert exchange(interceptor.port, data)[1] == data


def test_several_clients_at_once(echo: TlsEcho) -> None:
    with Relay("127.0.0.1", echo.port) as relay:
        assert [exchange(relay.port, bytes([number]))[1] for number in range(5)] == [
            bytes([number]) for number in range(5)
        ]


def test_a_target_that_is_not_there_ends_only_its_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        free = unused.getsockname()[1]
    with Relay("127.0.0.1", free) as relay:
        with socket.create_connection(("127.0.0.1", relay.port), 10) as stream:
            assert stream.recv(1) == b""
        with socket.create_connection(("127.0.0.1", relay.port), 10) as stream:
            assert stream.recv(1) == b""


def test_nothing_listens_after_the_end(echo: TlsEcho) -> None:
    with Relay("127.0.0.1", echo.port) as relay:
        port = relay.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 10)
