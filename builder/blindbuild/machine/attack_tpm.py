"""The operator between QEMU and its TPM: he can reset the TPM, or put another one in its place.

swtpm's control channel carries numbered commands and, once, a descriptor for the data channel; QEMU sends
both. Here everything is passed on as it comes, until the operator has something of his own to do.

Source: swtpm include/swtpm/tpm_ioctl.h; QEMU backends/tpm/tpm_emulator.c.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from blindbuild.errors import MachineError
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.machine.attack_model import NO_EVIDENCE, Outcome, RunningAttack, Stage
from blindbuild.machine.forgery import replay_into
from blindbuild.machine.sockets import listen_at
from blindbuild.machine.swtpm import DEFAULT_BANKS, SoftwareTpm, manufacture_tpm
from blindbuild.machine.tpm_connection import TpmConnection

POLL_S = 0.1  # after which the sockets to wait for are looked up anew
JOIN_LIMIT_S = 10.0

_READ_BYTES = 1 << 16
_MAX_DESCRIPTORS = 4
_DONE = bytes(4)  # ptm_res of a control command that went well
_SIZE_AT = 2  # of commandSize in a TPM command (Part 1, 18.2)


class TpmInterposer:
    """Passes a machine's TPM on to its QEMU, and at the operator's word another; a context manager.

    Args:
        directory: where its socket is; the path must be short.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "between"
        self._listener = listen_at(self._path)
        self._tpm: TpmConnection | None = None
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._listener.close()
        if self._thread is not None:
            self._thread.join(JOIN_LIMIT_S)

    def stand_before(self, control: Path) -> Path:
        """Return the socket for QEMU to use, in place of the control socket of its TPM."""
        self._thread = threading.Thread(target=self._serve, args=(control,), daemon=True)
        self._thread.start()
        return self._path

    @contextlib.contextmanager
    def held(self) -> Iterator[TpmConnection]:
        """Give the way to the TPM while the guest has to wait."""
        with self._lock:
            if self._tpm is None:
                raise MachineError("QEMU has not opened its TPM")
            yield self._tpm

    def replace_by(self, other: TpmConnection) -> TpmConnection:
        """Let another TPM answer from now on; return the way to the one before."""
        with self.held() as before:
            self._tpm = other
            return before

    def _serve(self, control: Path) -> None:
        with contextlib.suppress(OSError, MachineError), contextlib.ExitStack() as stack:
            qemu = stack.enter_context(self._accept())
            with self._lock:
                self._tpm = stack.enter_context(TpmConnection(control))
            guest: socket.socket | None = None
            while not self._ending.is_set():
                streams = [stream for stream in (qemu, self._tpm.control, guest) if stream is not None]
                select.select(streams, [], [], POLL_S)
                with self._lock:
                    # the operator may have taken what there was to read, or put in another TPM
                    opened = self._pass_on(self._tpm, qemu, guest)
                if opened is not guest and opened is not None:
                    guest = stack.enter_context(opened)

    def _accept(self) -> socket.socket:
        self._listener.settimeout(POLL_S)
        while not self._ending.is_set():
            with contextlib.suppress(TimeoutError):
                return self._listener.accept()[0]
        raise MachineError("QEMU never opened its TPM")

    def _pass_on(
        self, tpm: TpmConnection, qemu: socket.socket, guest: socket.socket | None
    ) -> socket.socket | None:
        """Pass on what there is to read; return the guest's data channel, once QEMU has given it."""
        streams = [stream for stream in (qemu, tpm.control, guest) if stream is not None]
        for stream in select.select(streams, [], [], 0.0)[0]:
            if stream is guest:
                stream.sendall(tpm.transmit(_receive_command(stream)))
            elif stream is qemu:
                data, descriptors, _, _ = socket.recv_fds(stream, _READ_BYTES, _MAX_DESCRIPTORS)
                if not data:
                    raise MachineError("QEMU closed its TPM")
                if descriptors:
                    guest = socket.socket(fileno=descriptors[0])
                    for other in descriptors[1:]:
                        os.close(other)
                    stream.sendall(_DONE)
                else:
                    tpm.control.sendall(data)
            else:
                qemu.sendall(_receive_some(stream))
        return guest


def _receive_some(stream: socket.socket) -> bytes:
    data = stream.recv(_READ_BYTES)
    if not data:
        raise MachineError("the other end of a TPM's channel is gone")
    return data


def _receive_command(stream: socket.socket) -> bytes:
    """Read one whole TPM command."""
    data = _receive_some(stream)
    while len(data) < _SIZE_AT + 4 or len(data) < struct.unpack_from(">I", data, _SIZE_AT)[0]:
        data += _receive_some(stream)
    return data


def _interposer(stage: Stage) -> TpmInterposer:
    found = stage.parts.get(TpmInterposer.__name__)
    if not isinstance(found, TpmInterposer):
        raise MachineError("this attack needs a machine whose TPM the operator stands before")
    return found


def _reset(stage: Stage) -> None:
    """Reset the TPM as a power cycle does, and tell it again what it had been told."""
    with _interposer(stage).held() as tpm:
        tpm.power_on()
        replay_into(tpm, parse_event_log(stage.session.evidence.event_log))


def _replace(stage: Stage) -> None:
    """Put another TPM in its place, told the same; the machine's own comes back afterwards."""
    state = stage.directory / "other-tpm"
    manufacture_tpm(state, stage.machine.authority, banks=DEFAULT_BANKS)
    sockets = stage.machine.files.sockets
    other = stage.closing.enter_context(SoftwareTpm(state, sockets / "other-tpm", sockets / "other-tpm.log"))
    connection = stage.closing.enter_context(other.connect())
    connection.power_on()
    replay_into(connection, parse_event_log(stage.session.evidence.event_log))
    before = _interposer(stage).replace_by(connection)
    stage.closing.callback(_interposer(stage).replace_by, before)


TPM_ATTACKS: tuple[RunningAttack, ...] = (
    RunningAttack(
        name="tpm-replaced",
        summary="puts another TPM of the same maker, fed with the logged digests, behind the running machine",
        outcome=Outcome.REFUSED,
        reasons=frozenset({NO_EVIDENCE}),
        play=_replace,
    ),
    RunningAttack(
        name="tpm-reset",
        summary="resets the TPM behind the running machine and feeds it the logged digests",
        outcome=Outcome.REFUSED,
        reasons=frozenset({NO_EVIDENCE}),
        play=_reset,
        last=True,
    ),
)
