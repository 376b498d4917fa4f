"""HTTP/1.1 through somebody in between: any form of it is read, and nothing of it is believed."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from blindbuild.client import forwarded
from blindbuild.client.forwarded import ForwardedConnection, parse_address
from blindbuild.client.http1 import Response
from blindbuild.errors import ChannelError
from tests.fakes.scripted_stream import ScriptedStream

ENDLESS = 2 << 20  # bytes
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def ask(connection: ForwardedConnection, max_body: int = 100) -> Response:
    return connection.request("POST", "/x", body=b"body", content_type="text/plain", max_body=max_body)


def through(
    monkeypatch: pytest.MonkeyPatch, *answers: bytes
) -> tuple[ForwardedConnection, list[ScriptedStream]]:
    """A connection whose next streams answer with these bytes; all streams that were made."""
    left, made = list(answers), []

    def connect(_self: ForwardedConnection) -> ScriptedStream:
        made.append(ScriptedStream(left.pop(0)))
        return made[-1]

    monkeypatch.setattr(ForwardedConnection, "_connect", connect)
    return ForwardedConnection.open("http://127.0.0.1:1"), made


@pytest.mark.parametrize(
    ("url", "host", "port", "tls"),
    [
        ("https://host", "host", 443, True),
        ("https://host:8443/", "host", 8443, True),
        ("http://host", "host", 80, False),
        ("http://host/", "host", 80, False),
        ("http://host:8080", "host", 8080, False),
        ("http://[::1]", "::1", 80, False),
        ("http://[::1]:81/", "::1", 81, False),
    ],
)
def test_an_address_is_with_tls_or_without(url: str, host: str, port: int, tls: bool) -> None:
    address, spoken = parse_address(url)
    assert (address.host, address.port, spoken) == (host, port, tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://",
        "ftp://host",
        "host",
        "http://user@host",
        "http://host/path",
        "http://host:0",
        "http://a b",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(ChannelError):
        parse_address(url)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
def test_an_answer_is_read_in_any_form(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    connection, made = through(monkeypatch, answer)
    assert ask(connection).body == b"ok"
    assert made[0].sent.startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "connection lost: RemoteDisconnected"),
        (b"SSH-2.0\r\n", "connection lost: BadStatusLine"),
        (OK[:-1], "connection lost: IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\no", "connection lost: IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\no", "connection lost: ValueError"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 101 + b"\r\n", "connection lost: HTTPException"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000, "connection lost: LineTooLong"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, "expected at most 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, "expected at most 100 bytes"),
        (CHUNKED + b"-" + b"f" * 20 + b"\r\no", "connection lost: OverflowError"),
        (CHUNKED + b"-1\r\n" + b"x" * ENDLESS, "bytes of an answer, got more"),
        (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * ENDLESS, "bytes of an answer, got more"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * (ENDLESS // 20), "bytes of an answer, got more"),
        (b"HTTP/1.1 307 X\r\nLocation: https://other/\r\n\r\n", "got a redirect"),
    ],
)
def test_what_is_no_answer_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, message: str
) -> None:
    connection, made = through(monkeypatch, answer)
    with pytest.raises(ChannelError, match=message):
        ask(connection)
    assert made[0].closed
    assert len(made) == 1, "nothing is sent a second time"


def test_a_connection_that_ended_between_two_requests_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, made = through(monkeypatch, OK, OK, OK)
    assert ask(connection).body == b"ok"
    for end in (b"", b"late"):  # hung up, or said something that nobody asked for
        monkeypatch.setattr(made[-1], "recv", lambda _size, end=end: end)
        assert ask(connection).body == b"ok"
    assert [stream.closed for stream in made] == [True, True, False]


def test_a_connection_that_broke_between_two_requests_is_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, made = through(monkeypatch, OK, OK)
    ask(connection)

    def broken(_size: int) -> bytes:
        raise ConnectionResetError

    monkeypatch.setattr(made[-1], "recv", broken)
    assert ask(connection).body == b"ok"


def test_an_announced_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    connection, made = through(monkeypatch, closing, OK)
    ask(connection)
    assert made[0].closed
    ask(connection)
    assert len(made) == 2
    connection.close()
    connection.close()


@pytest.mark.parametrize(
    ("limit", "message"), [("MAX_ANSWER_S", "a whole answer"), ("MAX_SEND_S", "have sent")]
)
def test_a_middle_that_drips_does_not_hold_the_client(
    monkeypatch: pytest.MonkeyPatch, limit: str, message: str
) -> None:
    connection, made = through(monkeypatch, OK)
    monkeypatch.setattr(forwarded, limit, -1.0)
    with pytest.raises(ChannelError, match=message):
        ask(connection)
    assert made[0].closed


def test_nobody_there_is_an_error_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChannelError, match="cannot connect"):
        ForwardedConnection.open(f"http://127.0.0.1:{port}", timeout_s=5)
    with pytest.raises(ChannelError, match="cannot connect"):
        ForwardedConnection.open("http://a..b", timeout_s=5)


def test_a_server_without_tls_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_say_hello, args=(listener,), daemon=True)
        thread.start()
        started = time.monotonic()
        with pytest.raises(ChannelError, match="cannot speak TLS"):
            ForwardedConnection.open(f"https://127.0.0.1:{listener.getsockname()[1]}", timeout_s=5)
        thread.join(timeout=5)
    assert time.monotonic() < started + 5


def _say_hello(listener: socket.socket) -> None:
    stream, _ = listener.accept()
    with stream:
        stream.sendall(b"220 hello\r\n")
        stream.recv(1024)
