"""Asking a gate without judging it: for images that are probed because they are no product."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl

from blindbuild.client import Expectation, attest
from blindbuild.client.forwarded import ForwardedConnection
from blindbuild.client.sealed import SealedConnection
from blindbuild.errors import BlindbuildError
from blindbuild.machine.probe.http_corpus import HEALTH_PATH

ASK_LIMIT_S = 30.0  # for one answer; a workload that hangs is ended by its deadline before that
MAX_ANSWER = 1 << 20  # bytes; reports of attempts have 10 KiB

_STATUS = re.compile(rb"HTTP/1\.1 ([1-5][0-9]{2}) ")
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]{1,7})\r\n", re.IGNORECASE)
_NO_CONTENT = 204


def gate_speaks(host: str, port: int) -> bool:
    """Say whether anything there answers a health question by HTTP over TLS, whoever it is."""
    try:
        ask_plainly(host, port, "GET", HEALTH_PATH)
    except OSError:
        return False
    return True


def ask_plainly(host: str, port: int, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
    """Send one request on a connection of its own; return status and body.

    Raises:
        OSError: no connection, no TLS, or no whole answer in time; its text says which.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    head = f"{method} {path} HTTP/1.1\r\nHost: probe\r\n"
    if method == "POST":
        head += f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n"
    with (
        socket.create_connection((host, port), ASK_LIMIT_S) as plain,
        context.wrap_socket(plain) as stream,
    ):
        stream.sendall(head.encode("ascii") + b"\r\n" + body)
        return _read_answer(stream)


def ask_sealed(url: str, expectation: Expectation, path: str, body: bytes) -> tuple[int, bytes]:
    """POST one request, sealed to the key that a server names, whoever it is; return status and body.

    Args:
        url: where it is.
        expectation: names the statement and the TPM that are asked for; it is not judged by.
        path, body: what is sealed.

    Raises:
        OSError: no evidence with such a key, or no whole answer in time; its text says which.
    """
    try:
        attempt = attest(url, expectation, timeout_s=ASK_LIMIT_S)
        attempt.close()
        with contextlib.closing(
            SealedConnection(ForwardedConnection.open(url, timeout_s=ASK_LIMIT_S), attempt.session)
        ) as connection:
            answer = connection.request(
                "POST", path, body=body, content_type="application/octet-stream", max_body=MAX_ANSWER
            )
            return answer.status, answer.body
    except BlindbuildError as error:
        raise ConnectionError(error.message) from error


def _read_answer(stream: ssl.SSLSocket) -> tuple[int, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(stream, len(data))
    head, _, body = data.partition(b"\r\n\r\n")
    status, length = _STATUS.match(head), _LENGTH.search(head + b"\r\n")
    if status is None:
        raise ConnectionError("the answer is no HTTP")
    if int(status[1]) == _NO_CONTENT:
        return _NO_CONTENT, b""
    size = int(length[1]) if length else 0
    while len(body) < size:
        body += _receive(stream, len(body))
    return int(status[1]), body[:size]


def _receive(stream: ssl.SSLSocket, have: int) -> bytes:
    more = stream.recv(1 << 16)
    if not more:
        raise ConnectionError("the connection was closed before the answer was whole")
    if have + len(more) > MAX_ANSWER:
        raise ConnectionError(f"the answer has more than {MAX_ANSWER} bytes")
    return more
