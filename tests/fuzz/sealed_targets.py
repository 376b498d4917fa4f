"""What arrives through somebody who ends TLS, under fuzz: a line each, as in `targets.py`."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import patch

from blindbuild.client.forwarded import ForwardedConnection
from blindbuild.client.sealed import read_opened
from blindbuild.client.transport import Address
from blindbuild.formats.hpke import Sender, read_key, set_up_sender
from blindbuild.verify import parse_evidence, parse_session, session_bytes
from tests.fakes.scripted_stream import ScriptedStream
from tests.fakes.world import sealed_session

MAX_BODY = 1 << 16
_KEY = bytes.fromhex("302a300506032b656e032100" + "09" + "00" * 31)  # RFC 7748: the base point
_INNER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nPadding: 00\r\n\r\nok"


def _sender() -> Sender:
    return set_up_sender(read_key(_KEY), info=b"", ephemeral=bytes(range(32)))


def _read_key(data: bytes) -> None:
    set_up_sender(read_key(data), info=b"", ephemeral=bytes(range(32)))


def _read_inner(data: bytes) -> None:
    """Read what was in an answer that opened: nothing but the image can have made it, and still."""
    read_opened(data, max_body=MAX_BODY)


def _read_outer(data: bytes) -> None:
    connection = ForwardedConnection(Address("127.0.0.1", 1, tls=False), timeout_s=1)
    with patch.object(ForwardedConnection, "_connect", lambda _self: ScriptedStream(data)):
        answer = connection.request("GET", "/x", content_type="text/plain", max_body=MAX_BODY)
    assert len(answer.body) <= MAX_BODY


def _read_address(data: bytes) -> None:
    address = Address.parse(data.decode("latin-1"), plain=True)
    assert 0 < address.port < 65536
    assert Address.parse(address.url, plain=True) == address


def _read_session(data: bytes) -> None:
    read = parse_session(data)
    assert (read.profile == "hpke-quote-v1") is (read.evidence.sealing is not None)


def _outer() -> list[bytes]:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
    return [_INNER, chunks, b"HTTP/1.1 100 Continue\r\n\r\n" + _INNER, b"HTTP/1.0 200 OK\r\n\r\nok"]


def _evidence() -> list[bytes]:
    whole = session_bytes(sealed_session())
    start = whole.index(b'"evidence":') + len(b'"evidence":')
    return [whole[start : whole.index(b"}", start) + 1]]


SEALED_TARGETS: tuple[tuple[str, Callable[[bytes], object], Callable[[], list[bytes]]], ...] = (
    ("hpke-key", _read_key, lambda: [_KEY]),
    ("sealed-answer", lambda data: _sender().open_answer(b"x", data), lambda: [bytes(49)]),
    ("sealed-inner", _read_inner, lambda: [_INNER]),
    ("forwarded-answer", _read_outer, _outer),
    ("forwarded-address", _read_address, lambda: [b"http://host:80/", b"https://[::1]:443"]),
    ("sealed-session", _read_session, lambda: [session_bytes(sealed_session())]),
    ("sealed-evidence", parse_evidence, _evidence),
)
