"""A socket that takes everything and answers with fixed bytes, then ends."""

from __future__ import annotations

import io


class ScriptedStream:
    """As much of a connected socket as a client uses."""

    def __init__(self, answer: bytes) -> None:
        self._answer = io.BytesIO(answer)
        self.sent = b""
        self.closed = False

    def gettimeout(self) -> float:
        return 1.0

    def settimeout(self, _seconds: float) -> None:
        pass

    def send(self, data: bytes) -> int:
        self.sent += bytes(data)
        return len(data)

    def recv(self, _size: int) -> bytes:
        raise BlockingIOError  # nothing comes before it is asked for

    def recv_into(self, buffer: memoryview) -> int:
        return self._answer.readinto(buffer)

    def close(self) -> None:
        self.closed = True
