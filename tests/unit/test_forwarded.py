"""HTTP/1.1 through somebody in between: any form of it is read, and nothing of it is believed."""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from types import ModuleType

import pytest

from blindbuild.client import http1_forwarded, transport
from blindbuild.client.exchange import Question
from blindbuild.client.forwarded import ForwardedConnection
from blindbuild.client.http1 import Response, read_with
from blindbuild.client.http1_forwarded import reading_forwarded
from blindbuild.client.transport import Address, shake_hands, tls_context
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
    ("url", "host", "port", "shown"),
    [
        ("https://host", "host", 443, "https://host"),
        ("https://host:8443/", "host", 8443, "https://host:8443"),
        ("https://host:80", "host", 80, "https://host:80"),
        ("http://host", "host", 80, "http://host"),
        ("http://host/", "host", 80, "http://host"),
        ("http://host:443", "host", 443, "http://host:443"),
        ("http://[::1]", "::1", 80, "http://[::1]"),
        ("http://[::1]:81/", "::1", 81, "http://[::1]:81"),
    ],
)
def test_an_address_is_with_tls_or_without(url: str, host: str, port: int, shown: str) -> None:
    address = Address.parse(url, plain=True)
    assert (address.host, address.port, address.tls) == (host, port, url.startswith("https:"))
    assert address.url == shown
    assert Address.parse(shown, plain=True) == address


def test_an_address_without_tls_is_for_who_asked_for_it() -> None:
    address = Address.parse("http://host:8080", plain=True)
    for refused in (lambda: Address.parse("http://host:8080"), address.check_tls):
        with pytest.raises(ChannelError, match=r"expected https://HOST or .*, got 'http://host:8080'"):
            refused()
    Address.parse("https://host", plain=True).check_tls()


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
        "http://a..b",
        "https://.host",
        "https://" + "a" * 64 + ".example",
        "https://" + "a." * 127 + "example",
    ],
)
def test_any_other_address_is_refused(url: str) -> None:
    with pytest.raises(ChannelError):
        Address.parse(url, plain=True)


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        b"HTTP/1.1 200 OK\r\nVia: a\r\nVia: b\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 100\n\n" * 16 + OK,
        b"HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200\nContent-Length:2\n\nok",
        b"HTTP/1.1 200 \xff\r\nServer: \xff\r\nContent-Length: 2\r\nCONTENT-LENGTH: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        CHUNKED + b"0002 ;name=value\r\nok\r\n0;last\r\nTrailer: a\r\n\r\n",
    ],
)
def test_an_answer_is_read_in_any_form(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    connection, made = through(monkeypatch, answer)
    assert ask(connection).body == b"ok"
    assert made[0].sent.startswith(b"POST /x HTTP/1.1\r\nHost: 127.0.0.1:1\r\n")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"", "ended in the middle of an answer"),
        (b"SSH-2.0\r\n", "expected an HTTP/1.1 status line"),
        (b"HTTP/1.1 600 X\r\n\r\n", "expected an HTTP/1.1 status line"),
        (b"HTTP/2 200\r\n\r\n", "expected an HTTP/1.1 status line"),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", "expected a header line"),
        (b"HTTP/1.1 200 OK\r\n folded: a\r\n\r\n", "expected a header line"),
        (OK[:-1], "ended in the middle of an answer"),
        (CHUNKED + b"2\r\no", "ended in the middle of an answer"),
        (CHUNKED + b"2\r\nok\r\n", "ended in the middle of an answer"),
        (CHUNKED + b"2\r\nokay\r\n0\r\n\r\n", "expected the end of a chunk"),
        (CHUNKED + b"-5\r\no", "expected the size of a chunk"),
        (CHUNKED + b"0x2\r\nok\r\n0\r\n\r\n", "expected the size of a chunk"),
        (CHUNKED + b"f" * 20 + b"\r\no", "expected the size of a chunk"),
        (CHUNKED + b"65\r\n" + b"x" * 101, "expected at most 100 bytes of body"),
        (CHUNKED + b"60\r\n" + b"x" * 96 + b"\r\n5\r\n", "expected at most 100 bytes of body"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "got an encoded one"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "one Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "one Content-Length"),
        (b"HTTP/1.1 200 OK\r\nA: " + b"b" * 140_000, "a line of at most 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * ENDLESS, "at most 163840 bytes of headers"),
        (b"HTTP/1.1 200 OK\r\n" + b"Connection: ,,,,,\r\n" * ENDLESS, "at most 163840 bytes of headers"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"x" * 101, "expected at most 100 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1000, "expected at most 100 bytes"),
        (CHUNKED + b"1\r\nx\r\n0\r\n" + b"a: b\r\n" * ENDLESS, "at most 163840 bytes of headers"),
        (b"HTTP/1.1 100\n\n" * 17 + OK, "expected a final answer after at most 16 others"),
        (CHUNKED + b"1;a\r\nx\r\n" * ENDLESS, "bytes around the body of an answer"),
        (b"HTTP/1.1 307 X\r\nLocation: https://other/\r\n\r\n", "got a redirect"),
    ],
)
def test_what_is_no_answer_ends_the_connection(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, message: str
) -> None:
    connection, made = through(monkeypatch, answer)
    with pytest.raises(ChannelError, match=message):
        ask(connection, ENDLESS if b";a" in answer else 100)
    assert made[0].closed
    assert len(made) == 1, "nothing is sent a second time"


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_answer_is_read_however_it_arrives(size: int) -> None:
    whole = b"HTTP/1.1 103 Early\r\n\r\n" + CHUNKED + b"1\r\no\r\n1;a\r\nk\r\n0\r\nTrailer: a\r\n\r\n"
    pieces = iter([whole[at : at + size] for at in range(0, len(whole), size)])
    answer = read_with(reading_forwarded(max_body=2), lambda: next(pieces))
    assert (answer.response.status, answer.response.body, answer.again) == (200, b"ok", True)
    assert list(pieces) == []


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n0\r\na: b\r\n\r\n"])
def test_an_answer_cut_at_any_byte_is_none(answer: bytes) -> None:
    for length in range(len(answer)):
        pieces = iter((answer[:length],))
        with pytest.raises(ChannelError, match="ended in the middle"):
            read_with(reading_forwarded(max_body=2), lambda pieces=pieces: next(pieces, b""))


def test_an_answer_without_content_has_no_body_whatever_it_says() -> None:
    for said in (b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"):
        whole = iter((b"HTTP/1.1 204 No Content\r\n" + said + b"\r\n",))
        answer = read_with(reading_forwarded(max_body=2), lambda whole=whole: next(whole))
        assert (answer.response.body, answer.again) == (b"", True)


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


class BreakingStream(ScriptedStream):
    """One that breaks when its answer is read."""

    def __init__(self, error: OSError) -> None:
        super().__init__(b"")
        self._error = error

    def recv(self, size: int) -> bytes:
        if self.gettimeout():
            raise self._error
        return super().recv(size)


@pytest.mark.parametrize(
    ("error", "message"),
    [(ConnectionResetError(), "connection lost; attest again"), (TimeoutError(), "no answer in time")],
    ids=["reset", "silent"],
)
def test_a_connection_that_breaks_in_an_answer_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, error: OSError, message: str
) -> None:
    stream = BreakingStream(error)
    monkeypatch.setattr(ForwardedConnection, "_connect", lambda _self: stream)
    with pytest.raises(ChannelError, match=message):
        ask(ForwardedConnection.open("http://127.0.0.1:1"))
    assert stream.closed


def test_an_announced_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: Keep-Alive, Close\r\n\r\n")
    ended = b"HTTP/1.1 200 OK\r\n\r\nok"  # with its connection
    old = OK.replace(b"1.1", b"1.0")
    more = OK + b"HTTP/1.1 200 OK\r\n"  # what nobody asked for
    connection, made = through(monkeypatch, closing, ended, old, more, OK)
    for asked in range(5):
        assert ask(connection).body == b"ok"
        assert [stream.closed for stream in made] == [True] * asked + [asked < 4]
    connection.close()
    connection.close()


@pytest.mark.parametrize(
    ("module", "limit", "message"),
    [(http1_forwarded, "MAX_ANSWER_S", "a whole answer"), (transport, "MAX_SEND_S", "have sent")],
)
def test_a_middle_that_drips_does_not_hold_the_client(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, limit: str, message: str
) -> None:
    connection, made = through(monkeypatch, OK)
    monkeypatch.setattr(module, limit, -1.0)
    with pytest.raises(ChannelError, match=message):
        ask(connection)
    assert made[0].closed


def test_an_exchange_has_one_deadline_for_all_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    connection, made = through(monkeypatch, OK, OK)
    question = Question("GET", "/x", max_body=100, deadline=time.monotonic() + 5)
    assert connection.ask(question).body == b"ok"
    with pytest.raises(ChannelError, match=r"within -?[0-9]+ s"):
        connection.ask(dataclasses.replace(question, deadline=time.monotonic() - 1))
    assert made[-1].closed


def test_a_name_that_tls_cannot_say_is_an_error_of_ours() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, pytest.raises(ChannelError, match="cannot speak TLS"):
        shake_hands(ours, Address("host", 443), tls_context(), server_name=".host")
    assert ours.fileno() == -1


def test_nobody_there_is_an_error_of_ours() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ChannelError, match="cannot connect"):
        ForwardedConnection.open(f"http://127.0.0.1:{port}", timeout_s=5)


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
