"""A socket that takes everything and answers with fixed bytes, then ends."""

from __future__ import annotations

import io


class ScriptedStream:
    """As much of a connected socket as a client uses."""

    def __init__(self, answer: bytes) -> None:
        self._answer = io.BytesIO(answer)
        self._wait_s = 1.0
        self.sent = b""
        self.closed = False

    def gettimeout(self) -> float:
        return self._wait_s

    def settimeout(self, seconds: float) -> None:
        self._wait_s = seconds

    def send(self, data: bytes) -> int:
        self.sent += bytes(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._wait_s == 0:
            raise BlockingIOError  # nothing comes before it is asked for
        return self._answer.read(size)

    def close(self) -> None:
        self.closed = True
