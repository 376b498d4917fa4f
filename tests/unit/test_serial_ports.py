"""Serial ports as socket pairs: what is said arrives, in order, with times and in a file."""

from __future__ import annotations

import socket
import time
from pathlib import Path

from blindbuild.machine.serial_ports import Arrival, SerialCapture, SerialReader


def wait_for(reader: SerialReader, port: int, data: bytes) -> None:
    deadline = time.monotonic() + 5
    while reader.capture(port).data != data and time.monotonic() < deadline:
        time.sleep(0.005)
    assert reader.capture(port).data == data


def test_each_port_has_its_own_bytes_and_file(tmp_path: Path) -> None:
    pairs = {port: socket.socketpair() for port in range(4)}
    files = {port: tmp_path / f"serial{port}.log" for port in pairs}
    reader = SerialReader({port: ours for port, (ours, _) in pairs.items()}, files)
    reader.start()
    before = time.monotonic()
    pairs[0][1].sendall(b"BdsDxe: loading")
    wait_for(reader, 0, b"BdsDxe: loading")
    pairs[2][1].sendall(b"\0\xff")
    wait_for(reader, 2, b"\0\xff")
    after = time.monotonic()
    for _, theirs in pairs.values():
        theirs.close()
    reader.stop()
    assert [files[port].read_bytes() for port in files] == [b"BdsDxe: loading", b"", b"\0\xff", b""]
    last = reader.capture(0).last_time_s
    assert last is not None
    assert before <= last <= after
    assert reader.capture(1) == SerialCapture(())


def test_what_was_sent_before_the_stop_is_read(tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    reader = SerialReader({0: ours}, {0: tmp_path / "serial0.log"})
    theirs.sendall(b"last words")
    reader.start()
    reader.stop()
    assert reader.capture(0).data == b"last words"
    theirs.close()


def test_a_capture_tells_what_came_after_a_moment() -> None:
    capture = SerialCapture((Arrival(1.0, b"firm"), Arrival(2.0, b"ware"), Arrival(9.5, b"kernel")))
    assert capture.data == b"firmwarekernel"
    assert capture.last_time_s == 9.5
    assert capture.after(9.5) == b"kernel"
    assert capture.after(10.0) == b""
    assert SerialCapture(()).last_time_s is None
