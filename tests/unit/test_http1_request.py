"""Requests of local programs: one reading or none, and nothing passed on that is not for the server."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.client.http1_request import RequestHead, parse_request_head, write_forwarded
from blindbuild.errors import ChannelError

GOOD = b"POST /v1/hello?x=1 HTTP/1.1\r\nHost: 127.0.0.1:80\r\nContent-Length: 3\r\nX-Own:  a b "


def test_a_request_is_read() -> None:
    head = parse_request_head(GOOD)
    assert (head.method, head.target, head.length) == ("POST", "/v1/hello?x=1", 3)
    assert head.get("x-own") == "a b"
    assert not head.closing


REFUSED = {
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: h", "an HTTP/1.1 request"),
    "lower-case method": (b"get / HTTP/1.1\r\nHost: h", "an HTTP/1.1 request"),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: h", "an HTTP/1.1 request"),
    "another server": (b"GET http://other/ HTTP/1.1\r\nHost: h", "a path such as"),
    "a server to connect to": (b"CONNECT other:443 HTTP/1.1\r\nHost: h", "a path such as"),
    "no host": (b"GET / HTTP/1.1\r\nA: b", "a Host header"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: h\r\nHost: i", "host once"),
    "two lengths": (b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\ncontent-length: 2", "once"),
    "two origins": (b"GET / HTTP/1.1\r\nHost: h\r\nOrigin: a\r\nOrigin: b", "origin once"),
    "folded line": (b"GET / HTTP/1.1\r\nHost: h\r\n i", "a header line"),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : h", "a header line"),
    "bare line feed": (b"GET / HTTP/1.1\r\nHost: h\nX: y", "a header line"),
    "control character": (b"GET / HTTP/1.1\r\nHost: h\x00", "a header line"),
    "101 headers": (b"GET / HTTP/1.1" + b"\r\nA: b" * 101, "at most 100"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_two_readers_could_read_differently_is_refused(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(ChannelError, match=message):
        parse_request_head(data)


@pytest.mark.parametrize(
    "line",
    [
        "Content-Length:",
        "Content-Length: +3",
        "Content-Length: 1_0",
        "Transfer-Encoding: chunked",
        "Content-Length: -1",
    ],
)
def test_a_body_of_unknown_length_is_refused(line: str) -> None:
    head = parse_request_head(f"POST / HTTP/1.1\r\nHost: h\r\n{line}".encode())
    with pytest.raises(ChannelError, match="Content-Length is known"):
        _ = head.length


def test_what_is_not_for_the_server_is_not_passed_on() -> None:
    head = RequestHead(
        "POST",
        "/v1/hello",
        (
            ("host", "127.0.0.1:3128"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "identity"),
            ("te", "trailers"),
            ("proxy-authorization", "Basic x"),
            ("expect", "100-continue"),
            ("cookie", "of another program on this machine"),
            ("origin", "https://page.example"),
            ("referer", "https://page.example/secret"),
            ("sec-fetch-site", "cross-site"),
            ("accept-encoding", "gzip"),
            ("blindbuild-token", "t"),
            ("content-length", "99"),
            ("authorization", "Bearer for the server"),
            ("content-type", "application/json"),
        ),
    )
    assert write_forwarded(head, b"{}", host="server.example:8443", without=["blindbuild-token"]) == (
        b"POST /v1/hello HTTP/1.1\r\nHost: server.example:8443\r\nauthorization: Bearer for the server\r\n"
        b"content-type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )


def test_a_request_without_a_body_says_nothing_of_one() -> None:
    head = RequestHead("GET", "/", (("host", "h"),))
    assert write_forwarded(head, b"", host="s") == b"GET / HTTP/1.1\r\nHost: s\r\n\r\n"


@given(st.binary(max_size=200))
def test_any_bytes_give_a_request_or_our_error(tail: bytes) -> None:
    for data in (tail, b"GET / HTTP/1.1\r\n" + tail, GOOD[:40] + tail):
        try:
            head = parse_request_head(data)
        except ChannelError:
            continue
        # what is passed on is one request again, without what could end its line
        again = write_forwarded(head, b"", host="h")
        assert again.count(b"\r\n\r\n") == 1
        assert parse_request_head(again.partition(b"\r\n\r\n")[0]).target == head.target
