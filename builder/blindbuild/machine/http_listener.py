"""As much of HTTP/1.1 as an operator needs who answers a client himself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

MAX_LINE_BYTES = 8 << 10
MAX_BODY_BYTES = 16 << 20  # bounds memory


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a client has asked."""

    method: str
    target: str
    body: bytes


def read_request(reader: BinaryIO) -> HttpRequest | None:
    """Return the next request; None at the end of the connection."""
    words = reader.readline(MAX_LINE_BYTES).split(b" ")
    if len(words) != 3:
        return None
    length = 0
    while (line := reader.readline(MAX_LINE_BYTES).strip()) != b"":
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and value.strip().isdigit():
            length = min(int(value), MAX_BODY_BYTES)
    method, target = (word.decode("ascii", "replace") for word in words[:2])
    return HttpRequest(method, target, reader.read(length))


def http_answer(content_type: str, body: bytes, *, status: int = 200) -> bytes:
    """Return an answer."""
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body
