"""QEMU's machine protocol: commands with answers, and events in between.

Source: QEMU docs/interop/qmp-spec.txt.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from blindbuild.errors import MachineError

TIMEOUT_S = 30.0  # an emulated machine on a busy host is slow, but not that slow
MAX_LINE_BYTES = 1 << 20  # real answers have some kilobytes; bounds memory


class QmpConnection:
    """A connected monitor; the greeting is read and capabilities are negotiated on construction.

    Args:
        stream: the connected socket; it is closed with this.

    Raises:
        MachineError: from every method, when QEMU refuses, hangs or is gone.
    """

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._stream.settimeout(TIMEOUT_S)
        self._buffer = b""
        self._events: list[Mapping[str, Any]] = []
        if "QMP" not in self._receive():
            raise MachineError("QMP: expected a greeting")
        self.execute("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; QEMU goes on."""
        self._stream.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Send one command and return the value of its answer, as JSON gave it."""
        request = {"execute": command} | ({"arguments": arguments} if arguments else {})
        try:
            self._stream.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise MachineError(f"QMP {command}: QEMU is gone") from error
        while True:
            answer = self._receive()
            if "event" in answer:
                self._events.append(answer)
            elif "error" in answer:
                raise MachineError(f"QMP {command}: {answer['error'].get('desc', 'refused')}")
            elif "return" in answer:
                return answer["return"]

    def monitor(self, command: str) -> str:
        """Run a command of the human monitor and return what it printed."""
        return str(self.execute("human-monitor-command", {"command-line": command}))

    def events(self) -> tuple[Mapping[str, Any], ...]:
        """Return all events so far, without waiting for more."""
        self._stream.settimeout(0.0)
        try:
            while True:
                self._events.append(self._receive())
        except (BlockingIOError, MachineError):
            return tuple(self._events)
        finally:
            self._stream.settimeout(TIMEOUT_S)

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            try:
                more = self._stream.recv(1 << 16)
            except BlockingIOError:
                raise
            except TimeoutError as error:
                raise MachineError(f"QMP: no answer within {TIMEOUT_S:.0f} s") from error
            except OSError as error:
                raise MachineError("QMP: QEMU is gone") from error
            if not more:
                raise MachineError("QMP: QEMU is gone")
            self._buffer += more
            if len(self._buffer) > MAX_LINE_BYTES:
                raise MachineError(f"QMP: more than {MAX_LINE_BYTES} bytes without a line end")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return _parse_message(line)


def _parse_message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except ValueError as error:
        raise MachineError("QMP: a line that is no JSON") from error
    if not isinstance(message, dict):
        raise MachineError("QMP: expected an object")
    return message
