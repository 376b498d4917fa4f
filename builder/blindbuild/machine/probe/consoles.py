"""The ends of the bait consoles: who listens on them, and when each byte came."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from blindbuild.machine.serial_ports import SerialCapture, SerialReader
from blindbuild.machine.sockets import listen_at


class BaitConsoles:
    """Listens for QEMU's consoles; a context manager around the machine's life.

    Args:
        sockets: where each console will connect to, by name.
        directory: where each one's bytes are written as `NAME.log`.

    Raises:
        MachineError: on entry, a socket that cannot be made.
    """

    def __init__(self, sockets: Mapping[str, Path], directory: Path) -> None:
        self._sockets = dict(sockets)
        self._names = list(sockets)
        self.logs = {name: directory / f"{name}.log" for name in sockets}
        self._stack = contextlib.ExitStack()
        self._listeners: dict[str, socket.socket] = {}
        self._reader: SerialReader | None = None

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            for name, path in self._sockets.items():
                self._listeners[name] = undo.enter_context(listen_at(path))
            self._stack = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader is not None:
            self._reader.stop()
        self._stack.close()

    def start(self) -> None:
        """Take up the connections, all of which a QEMU that runs has made, and begin to read.

        To be called at once: a socket that nobody reads holds a few hundred bytes, and the rest comes late.
        """
        accepted = {number: self._listeners[name].accept()[0] for number, name in enumerate(self._names)}
        files = {number: self.logs[name] for number, name in enumerate(self._names)}
        self._reader = SerialReader(accepted, files)
        self._reader.start()

    def captures(self) -> dict[str, SerialCapture]:
        """Return what each console has said until now."""
        reader = self._reader
        if reader is None:
            return {}
        return {name: reader.capture(number) for number, name in enumerate(self._names)}
