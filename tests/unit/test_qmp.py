"""The monitor protocol against a monitor of ours at the other end of a socket pair."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest

from blindbuild.errors import MachineError
from blindbuild.machine.qmp import QmpConnection

GREETING = {"QMP": {"version": {}, "capabilities": []}}


class FakeMonitor(threading.Thread):
    """Answers each line it gets with the next of its prepared lines."""

    def __init__(self, stream: socket.socket, answers: list[list[object] | bytes]) -> None:
        super().__init__(daemon=True)
        self.stream, self.answers, self.requests = stream, answers, []

    def run(self) -> None:
        self.send([GREETING])
        with self.stream.makefile("rb") as lines:
            for answer in [[{"return": {}}], *self.answers]:
                self.requests.append(json.loads(lines.readline()))
                self.send(answer)
        self.stream.close()

    def send(self, answer: list[object] | bytes) -> None:
        lines = (
            answer
            if isinstance(answer, bytes)
            else b"".join(json.dumps(a).encode() + b"\r\n" for a in answer)
        )
        self.stream.sendall(lines)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def connect(pair: tuple[socket.socket, socket.socket], *answers: list[object] | bytes) -> QmpConnection:
    FakeMonitor(pair[1], list(answers)).start()
    return QmpConnection(pair[0])


def test_capabilities_are_negotiated_first(pair: tuple[socket.socket, socket.socket]) -> None:
    monitor = FakeMonitor(pair[1], [])
    monitor.start()
    QmpConnection(pair[0])
    monitor.join()
    assert monitor.requests == [{"execute": "qmp_capabilities"}]


def test_an_answer_is_returned_and_events_before_it_are_kept(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    event = {"event": "SHUTDOWN", "data": {"reason": "guest-shutdown"}}
    qmp = connect(pair, [{"event": "RESUME"}, event, {"return": {"status": "running"}}])
    assert qmp.execute("query-status") == {"status": "running"}
    assert [found["event"] for found in qmp.events()] == ["RESUME", "SHUTDOWN"]


def test_the_human_monitor_gives_text(pair: tuple[socket.socket, socket.socket]) -> None:
    assert connect(pair, [{"return": "Hub 0:\r\n"}]).monitor("info network") == "Hub 0:\r\n"


def test_a_refusal_names_the_command_and_the_reason(pair: tuple[socket.socket, socket.socket]) -> None:
    qmp = connect(pair, [{"error": {"class": "GenericError", "desc": "no such device"}}])
    with pytest.raises(MachineError, match=r"QMP device_del: no such device"):
        qmp.execute("device_del", {"id": "x"})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"", "QEMU is gone"), (b"not json\n", "no JSON"), (b"[1]\n", "expected an object")],
)
def test_what_is_no_answer_is_an_error(
    pair: tuple[socket.socket, socket.socket], answer: bytes, reason: str
) -> None:
    qmp = connect(pair, answer)
    with pytest.raises(MachineError, match=reason):
        qmp.execute("query-status")


def test_another_greeting_is_refused(pair: tuple[socket.socket, socket.socket]) -> None:
    pair[1].sendall(b'{"hello": 1}\n')
    with pytest.raises(MachineError, match="greeting"):
        QmpConnection(pair[0])
