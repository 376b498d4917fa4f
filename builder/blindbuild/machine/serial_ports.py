"""What a machine says on its serial ports, with the time at which each byte arrived.

QEMU connects each port to a socket of ours, so that bytes are seen as they come; one thread reads them all
and writes each port's bytes to a file.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

PORT_COUNT = 4  # an ISA machine has four
MAX_PORT_BYTES = 64 << 20  # a kernel with every console option on writes 1 MB; bounds memory

_READ_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Arrival:
    """Bytes that came together, and when, by the monotonic clock, in seconds."""

    time_s: float
    data: bytes


@dataclass(frozen=True, slots=True)
class SerialCapture:
    """All that one port has said."""

    arrivals: tuple[Arrival, ...]

    @property
    def data(self) -> bytes:
        """All bytes in order."""
        return b"".join(arrival.data for arrival in self.arrivals)

    @property
    def last_time_s(self) -> float | None:
        """When the last byte came; None if none did."""
        return self.arrivals[-1].time_s if self.arrivals else None

    def after(self, time_s: float) -> bytes:
        """Return the bytes that arrived at or after this time."""
        return b"".join(arrival.data for arrival in self.arrivals if arrival.time_s >= time_s)


class SerialReader:
    """Reads the serial ports in a thread of its own, from `start` until QEMU closes them or `stop`.

    Args:
        streams: the connected socket of each port.
        files: where each port's bytes are written as well.
    """

    def __init__(self, streams: Mapping[int, socket.socket], files: Mapping[int, Path]) -> None:
        self._streams = streams
        self._files = files
        self._arrivals: dict[int, list[Arrival]] = {port: [] for port in streams}
        self._sizes = dict.fromkeys(streams, 0)
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._read_all, name="serial ports", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read what is there, then end; harmless if ended."""
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread.ident is not None:
            self._thread.join()
        for stream in (*self._streams.values(), self._wake, self._woken):
            stream.close()

    def capture(self, port: int) -> SerialCapture:
        """Return what one port has said until now."""
        with self._lock:
            return SerialCapture(tuple(self._arrivals[port]))

    def _read_all(self) -> None:
        with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
            sinks = {port: stack.enter_context(path.open("wb")) for port, path in self._files.items()}
            for port, stream in self._streams.items():
                stream.setblocking(False)
                selector.register(stream, selectors.EVENT_READ, port)
            selector.register(self._woken, selectors.EVENT_READ, None)
            open_ports = set(self._streams)
            stopping = False
            while open_ports:
                ready = selector.select(0.0 if stopping else None)
                if stopping and not ready:
                    return
                for key, _ in ready:
                    if key.data is None:
                        stopping = True
                        selector.unregister(self._woken)
                    elif not self._read_port(key.data, sinks[key.data]):
                        selector.unregister(key.fileobj)
                        open_ports.discard(key.data)

    def _read_port(self, port: int, sink: BinaryIO) -> bool:
        """Take what a port has; return False at its end, or when it has said too much."""
        try:
            data = self._streams[port].recv(_READ_BYTES)
        except OSError:
            return False
        self._sizes[port] += len(data)
        if not data or self._sizes[port] > MAX_PORT_BYTES:
            return False
        now = time.monotonic()
        sink.write(data)
        sink.flush()
        with self._lock:
            self._arrivals[port].append(Arrival(now, data))
        return True
