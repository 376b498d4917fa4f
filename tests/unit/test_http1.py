"""HTTP/1.1 answers: one reading or none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.client.http1 import MAX_HEAD, read_response, write_request
from blindbuild.client.transport import Address
from blindbuild.errors import ChannelError


def read(data: bytes, *, chunk: int = 100_000, max_body: int = 1000):
    pieces = iter([data[i : i + chunk] for i in range(0, len(data), chunk)])
    return read_response(lambda: next(pieces, b""), max_body=max_body)


GOOD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nPadding: 000\r\n\r\nhello"


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_an_answer_is_read_however_it_arrives(chunk: int) -> None:
    response = read(GOOD, chunk=chunk)
    assert (response.status, response.body) == (200, b"hello")
    assert response.headers == {"content-length": "5", "padding": "000"}


def test_an_answer_padded_to_the_largest_bucket_is_read() -> None:
    data = GOOD.replace(b"000", b"0" * 65_000)
    assert read(data).body == b"hello"


def test_no_content_has_no_body() -> None:
    assert read(b"HTTP/1.1 204 No Content\r\n\r\n").body == b""


def test_an_empty_reason_is_allowed() -> None:
    assert read(b"HTTP/1.1 404 \r\nContent-Length: 0\r\n\r\n").status == 404


REFUSED = {
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n", "a redirect"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 status line"),
    "HTTP/2 preface": (b"\0\0\x12\x04\0\0\0\0\0\r\n\r\n", "HTTP/1.1 status line"),
    "status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "HTTP/1.1 status line"),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n", "a final answer"),
    "no length": (b"HTTP/1.1 200 OK\r\n\r\n", "a Content-Length"),
    "length with a sign": (b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello", "a Content-Length"),
    "length twice": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "content-length once",
    ),
    "length over the limit": (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "at most 1000 bytes"),
    "length of 12 digits": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n", "Content-Length"),
    "chunked": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "an encoded one"),
    "126 gzip": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 0\r\n\r\n",
        "an encoded one",
    ),
    "folded line": (b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\nContent-Length: 0\r\n\r\n", "a header line"),
    "space before colon": (b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", "a header line"),
    "bare line feed": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\r\n\r\n", "status line"),
    "control character": (b"HTTP/1.1 200 OK\r\nA: \x1b\r\nContent-Length: 0\r\n\r\n", "a header line"),
    "65 headers": (
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"A%d: b\r\n" % i for i in range(65)) + b"\r\n",
        "at most 64 headers",
    ),
    "endless headers": (b"HTTP/1.1 200 OK\r\nA: " + b"b" * (MAX_HEAD + 10), "bytes of headers"),
    "body after no content": (b"HTTP/1.1 204 X\r\nContent-Length: 1\r\n\r\nx", "no body with status 204"),
    "more than the length": (GOOD + b"!", "5 bytes of body, got more"),
    "less than the length": (GOOD[:-1], "ended in the middle"),
    "nothing": (b"", "ended in the middle"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("chunk", [5, 1_000_000])
def test_an_answer_that_two_readers_could_read_differently_is_refused(name: str, chunk: int) -> None:
    data, message = REFUSED[name]
    with pytest.raises(ChannelError) as caught:
        read(data, chunk=chunk)
    assert message in caught.value.message


def test_an_answer_cut_at_any_byte_gives_our_error() -> None:
    for length in range(len(GOOD)):
        with pytest.raises(ChannelError):
            read(GOOD[:length])


@given(st.binary(max_size=200))
def test_any_bytes_give_an_answer_or_our_error(tail: bytes) -> None:
    for data in (tail, b"HTTP/1.1 200 OK\r\n" + tail, GOOD[:40] + tail):
        try:
            read(data)
        except ChannelError:
            continue


def test_a_request_says_nothing_about_the_client() -> None:
    data = write_request("POST", "/v1/hello", host="h", body=b"x", content_type="application/json")
    assert data == (
        b"POST /v1/hello HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\nx"
    )
    assert write_request("GET", "/", host="h", body=None, content_type="") == (
        b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    )


@pytest.mark.parametrize("target", ["", "v1", "/a b", "/a\r\nX: y", "//é", "http://x/"])
def test_a_target_that_does_not_fit_on_the_line_is_refused(target: str) -> None:
    with pytest.raises(ChannelError, match="expected a path"):
        write_request("GET", target, host="h", body=None, content_type="")


def test_a_content_type_that_does_not_fit_on_the_line_is_refused() -> None:
    with pytest.raises(ChannelError, match="expected a content type"):
        write_request("POST", "/", host="h", body=b"", content_type="a/b\r\nX: y")


@pytest.mark.parametrize(
    "url",
    [
        "http://h",
        "https://",
        "h:1",
        "https://u@h",
        "https://h/x",
        "https://h?x",
        "https://h:0",
        "https://h:65536",
    ],
)
def test_an_address_that_is_more_or_less_than_host_and_port_is_refused(url: str) -> None:
    with pytest.raises(ChannelError):
        Address.parse(url)


@pytest.mark.parametrize(
    ("url", "host", "port", "shown"),
    [
        ("https://h", "h", 443, "h"),
        ("https://127.0.0.1:8443/", "127.0.0.1", 8443, "127.0.0.1:8443"),
        ("https://[::1]:1", "::1", 1, "[::1]:1"),
    ],
)
def test_addresses_are_read(url: str, host: str, port: int, shown: str) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, str(address)) == (host, port, shown)
