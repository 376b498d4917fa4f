"""One virtual machine: QEMU with OVMF and a software TPM, from power-on to nothing left behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.formats.pcap import Frame, parse_pcap
from blindbuild.host.process import Process, start
from blindbuild.machine.accelerator import QEMU, Accelerator, choose_accelerator
from blindbuild.machine.config import GUEST_MAC, HOST_ADDRESS, MachineConfig
from blindbuild.machine.firmware import Firmware, place_firmware
from blindbuild.machine.qemu import MachineFiles, qemu_arguments
from blindbuild.machine.qmp import QmpConnection
from blindbuild.machine.serial_ports import PORT_COUNT, SerialCapture, SerialReader
from blindbuild.machine.sockets import listen_at
from blindbuild.machine.swtpm import SoftwareTpm, TpmAuthority, manufacture_tpm
from blindbuild.machine.workplace import disposable_directory

ReadinessProbe = Callable[[str, int], bool]
_Part = TypeVar("_Part")

CONNECT_LIMIT_S = 60.0  # for QEMU to open its sockets, on a busy host
POLL_S = 0.05  # between two questions whether the guest is ready
KNOCK_S = 0.1  # how long a connection is held open to make QEMU look for the guest
TAIL_BYTES = 2000  # of each serial port, in an error

_FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\S+\s+(\S+)\s+(\d+)\s")
_TERMINAL_SEQUENCE = re.compile("\x1b\\[[0-9;=?]*[A-Za-z]")  # ECMA-48, 5.4: control sequences
_SOURCE = bytes.fromhex(GUEST_MAC.replace(":", ""))
_ENDINGS = {
    "guest-shutdown": "the guest powered off",
    "guest-reset": "the guest reset the machine",
    "guest-panic": "the guest panicked",
    "host-qmp-quit": "it was told to end",
    "host-signal": "it was ended by a signal",
}


class Machine:
    """A virtual machine; as a context manager it runs from entry to exit.

    Start it from a thread that stays: the kernel ends QEMU and swtpm when that thread ends.

    Args:
        config: what it is made of.

    Raises:
        MachineError: from every method, when the machine does not do what was asked.
        ToolError: from `start`, when QEMU or swtpm is missing.
    """

    def __init__(self, config: MachineConfig) -> None:
        self.config = _absolute(config)
        self._stack = contextlib.ExitStack()
        self._files: MachineFiles | None = None
        self._accelerator: Accelerator | None = None
        self._authority: TpmAuthority | None = None
        self._qemu: Process | None = None
        self._tpm: SoftwareTpm | None = None
        self._qmp: QmpConnection | None = None
        self._serial: SerialReader | None = None
        self._port = 0
        self._clock_base = 0
        self._power_on_s = 0.0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Power it on; returns when the guest's first instruction may run."""
        if self._files is not None:
            raise MachineError("this machine was started before; make another one")
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End QEMU and the TPM and remove all but what `state_dir` keeps; harmless if done before."""
        self._stack.close()

    @property
    def url(self) -> str:
        """Where the guest's port can be reached."""
        return f"https://{HOST_ADDRESS}:{self.port}"

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that leads to the guest."""
        self._require_started()
        return self._port

    @property
    def accelerator(self) -> Accelerator:
        """What runs the guest, and why."""
        return _there(self._accelerator)

    @property
    def files(self) -> MachineFiles:
        """Where logs, capture, TPM state and flash are; without `state_dir` only until `stop`."""
        self._require_started()
        return _there(self._files)

    @property
    def authority(self) -> TpmAuthority:
        """Who endorsed the TPM: its two certificates belong into the trust file."""
        self._require_started()
        return _there(self._authority)

    @property
    def qmp(self) -> QmpConnection:
        """QEMU's monitor."""
        self._require_started()
        return _there(self._qmp)

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of QEMU and swtpm."""
        self._require_started()
        return _there(self._qemu).pid, _there(self._tpm).pid

    @property
    def power_on_s(self) -> float:
        """When the guest began to run, by the monotonic clock."""
        self._require_started()
        return self._power_on_s

    def wait_until_ready(self, probe: ReadinessProbe, timeout_s: float) -> float:
        """Ask `probe(host, port)` until it says yes; return the seconds since power-on.

        It is asked only after the guest has spoken on the network: before that, QEMU would accept a
        connection and keep it hanging.

        Raises:
            MachineError: the machine ended, or `timeout_s` went by; the message shows what it said.
        """
        self._require_started()
        deadline = time.monotonic() + timeout_s
        late = f"not ready within {timeout_s:g} s"
        self._poll(self._has_spoken, deadline, f"{late}: the guest sent nothing")
        self._poll(lambda: probe(HOST_ADDRESS, self._port), deadline, late)
        return time.monotonic() - self._power_on_s

    def wait_until_ended(self, timeout_s: float) -> str:
        """Wait until the machine ends by itself; return how, in words."""
        deadline = time.monotonic() + timeout_s
        while (ending := self.ending()) is None:
            if time.monotonic() > deadline:
                raise MachineError(f"expected a machine that ends within {timeout_s:g} s{self.last_words()}")
            time.sleep(POLL_S)
        return ending

    def ending(self) -> str | None:
        """Return how the machine ended, in words; None while it runs."""
        self._require_started()
        status = _there(self._qemu).poll()
        if status is None:
            return None
        reasons = [event["data"]["reason"] for event in self.qmp.events() if event["event"] == "SHUTDOWN"]
        if reasons:
            return _ENDINGS.get(reasons[-1], f"it shut down ({reasons[-1]})")
        return f"QEMU was ended by signal {-status}" if status < 0 else f"QEMU ended with status {status}"

    def serial(self, port: int) -> SerialCapture:
        """Return what a serial port (0 to 3) has said until now, and when."""
        self._require_started()
        return _there(self._serial).capture(port)

    def serial_bytes(self, port: int) -> bytes:
        """Return the bytes of a serial port until now."""
        return self.serial(port).data

    def frames(self) -> tuple[tuple[float, Frame], ...]:
        """Return every frame on the network card until now, each with its monotonic time.

        QEMU stamps frames with the guest's clock, which began at a known second when the guest was let go;
        the times are therefore early by the few milliseconds that letting go takes, never late.
        """
        captured = parse_pcap(self.files.capture.read_bytes(), growing=True)
        return tuple((frame.time_us / 1e6 - self._clock_base + self._power_on_s, frame) for frame in captured)

    def first_guest_frame_time(self) -> float | None:
        """Return the monotonic time of the first frame that the guest sent; None if it sent none."""
        return next((time_s for time_s, frame in self.frames() if frame.source == _SOURCE), None)

    def read_registers(self, algorithm: HashAlgorithm) -> tuple[Digest, ...]:
        """Cut the power of everything but the TPM, and read its registers from outside."""
        self.cut_power()
        with _there(self._tpm).connect() as tpm:
            return tpm.read_registers(algorithm)

    def cut_power(self) -> None:
        """End QEMU without letting it tell anybody, so that the TPM stays as it is."""
        self._require_started()
        qemu = _there(self._qemu)
        if qemu.poll() is None:
            os.kill(qemu.pid, signal.SIGKILL)
            qemu.wait(CONNECT_LIMIT_S)

    def last_words(self) -> str:
        """Return what QEMU and the serial ports said last, as lines to append to an error."""
        files = self.files
        said = [("QEMU", files.qemu_log.read_bytes() if files.qemu_log.exists() else b"")]
        said += [(f"serial port {port}", self.serial_bytes(port)) for port in range(PORT_COUNT)]
        parts = [f"\n{who} said:\n{_printable(data)}" for who, data in said if data]
        return "".join(parts) or "\nneither QEMU nor a serial port said anything"

    def _start(self) -> None:
        sockets = self._stack.enter_context(disposable_directory())
        directory = (self.config.state_dir or sockets / "state").absolute()
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._files = files = MachineFiles(directory, sockets)
        for log in (files.qemu_log, files.tpm_log):
            log.unlink(missing_ok=True)
        self._accelerator = choose_accelerator(self.config.accelerator)
        self._authority = TpmAuthority((self.config.tpm_authority or directory / "authority").absolute())
        manufacture_tpm(files.tpm_state, self._authority, banks=self.config.tpm_banks)
        self._tpm = self._stack.enter_context(
            SoftwareTpm(
                files.tpm_state, files.tpm_socket, files.tpm_log, transcript=self.config.tpm_transcript
            )
        )
        self._start_qemu(files, self._accelerator)
        self._let_go()

    def _start_qemu(self, files: MachineFiles, accelerator: Accelerator) -> None:
        """Start QEMU with the guest held back, and take up its connections."""
        placed = place_firmware(
            Firmware(self.config.firmware_code, self.config.firmware_vars), files.directory
        )
        now = (self.config.clock or datetime.now(UTC)).astimezone(UTC).replace(microsecond=0)
        self._clock_base = int(now.timestamp())
        between = self.config.tpm_between
        arguments = qemu_arguments(
            self.config,
            accelerator,
            files,
            firmware_code=placed.code,
            firmware_variables=placed.variables,
            clock=now.strftime("%Y-%m-%dT%H:%M:%S"),
            tpm_socket=None if between is None else between(files.tpm_socket),
        )
        with contextlib.ExitStack() as listeners:
            monitor = listeners.enter_context(listen_at(files.monitor_socket))
            ports = {
                port: listeners.enter_context(listen_at(files.serial_socket(port)))
                for port in range(PORT_COUNT)
            }
            self._stack.callback(self._stop_serial)  # after QEMU has ended, so that nothing it said is lost
            self._qemu = start(QEMU, arguments, log=files.qemu_log)
            self._stack.callback(self._qemu.terminate)
            self._start_serial(files, ports)
            self._qmp = self._open_monitor(monitor)

    def _start_serial(self, files: MachineFiles, ports: Mapping[int, socket.socket]) -> None:
        with contextlib.ExitStack() as undo:
            streams = {port: undo.enter_context(self._accept(listener)) for port, listener in ports.items()}
            self._serial = SerialReader(streams, {port: files.serial_log(port) for port in ports})
            undo.pop_all()
        self._serial.start()

    def _stop_serial(self) -> None:
        if self._serial is not None:
            self._serial.stop()

    def _open_monitor(self, listener: socket.socket) -> QmpConnection:
        stream = self._stack.enter_context(self._accept(listener))
        try:
            return QmpConnection(stream)
        except MachineError as error:
            raise MachineError(f"expected a running QEMU, got {error}{self.last_words()}") from error

    def _accept(self, listener: socket.socket) -> socket.socket:
        """Take one connection of QEMU's, unless it ends first."""
        deadline = time.monotonic() + CONNECT_LIMIT_S
        listener.settimeout(POLL_S)
        while True:
            with contextlib.suppress(TimeoutError):
                return listener.accept()[0]
            status = _there(self._qemu).poll()
            if status is not None or time.monotonic() > deadline:
                log = self.files.qemu_log
                said = _printable(log.read_bytes()) if log.exists() else ""
                how = "did not connect" if status is None else f"ended with status {status}"
                raise MachineError(f"expected a running QEMU, it {how}:\n{said or 'it said nothing'}")

    def _let_go(self) -> None:
        """Find the forwarded port, then let the guest run."""
        forwards = _FORWARD.findall(self.qmp.monitor("info usernet"))
        if len(forwards) != 1 or forwards[0][0] != HOST_ADDRESS:
            raise MachineError(f"expected one forwarded port, QEMU has {forwards}")
        self._port = int(forwards[0][1])
        self._power_on_s = time.monotonic()
        self.qmp.execute("cont")

    def _poll(self, done: Callable[[], bool], deadline: float, late: str) -> None:
        """Ask `done` until it says yes, unless the machine ends or the deadline passes."""
        while not done():
            if (ending := self.ending()) is not None:
                raise MachineError(f"expected a machine that gets ready, {ending}{self.last_words()}")
            if time.monotonic() > deadline:
                raise MachineError(f"{late}{self.last_words()}")
            time.sleep(POLL_S)

    def _has_spoken(self) -> bool:
        """Knock, so that QEMU asks for the guest's hardware address; say whether the guest sent anything."""
        with contextlib.suppress(OSError), socket.create_connection((HOST_ADDRESS, self._port), KNOCK_S):
            time.sleep(KNOCK_S)
        return self.first_guest_frame_time() is not None

    def _require_started(self) -> None:
        if self._files is None:
            raise MachineError("this machine was not started")


def _absolute(config: MachineConfig) -> MachineConfig:
    """Return the configuration with every path absolute: QEMU is started in another directory."""
    direct = config.direct
    if direct is not None:
        initrd = None if direct.initrd is None else direct.initrd.absolute()
        direct = replace(direct, kernel=direct.kernel.absolute(), initrd=initrd)
    return replace(config, disk=None if config.disk is None else config.disk.absolute(), direct=direct)


def _there(value: _Part | None) -> _Part:
    """Return a part that exists in every started machine."""
    if value is None:
        raise MachineError("this machine did not start")
    return value


def _printable(data: bytes) -> str:
    """Return the end of what was said, without terminal sequences and control characters."""
    text = _TERMINAL_SEQUENCE.sub("", data[-TAIL_BYTES:].decode("utf-8", "replace")).replace("\r\n", "\n")
    return "".join(letter if letter.isprintable() or letter == "\n" else "�" for letter in text).strip()
