"""TPM 2.0 commands to a software TPM, from outside of any guest.

swtpm speaks two protocols: its control channel (a Unix socket) takes numbered commands, among them a
descriptor to use as data channel; the data channel carries TPM commands as they are.

Source: swtpm include/swtpm/tpm_ioctl.h and man 3 swtpm_ioctls; TPM 2.0 Library Part 3, 9.3, 22.2 and 22.4.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.measure.classification import REGISTER_COUNT

TIMEOUT_S = 30.0  # making an RSA key is the slowest command there is
MAX_TRIES = 10  # of a command that the TPM could not start, as it says of its first signature
MAX_RESPONSE_BYTES = 4096  # TPM2_MAX_RESPONSE_SIZE of libtpms; bounds memory

_CONTROL_INIT = 2
_CONTROL_SHUTDOWN = 3
_CONTROL_SET_DATA_DESCRIPTOR = 16

_ST_NO_SESSIONS = 0x8001
_ST_SESSIONS = 0x8002
_CC_STARTUP = 0x00000144
_CC_PCR_READ = 0x0000017E
_CC_PCR_EXTEND = 0x00000182
_SU_CLEAR = 0x0000
_RS_PASSWORD = 0x40000009
_RC_RETRY = 0x922  # Part 2, 6.6.3
_HEADER = struct.Struct(">HII")
EMPTY_PASSWORD = struct.pack(">IHBH", _RS_PASSWORD, 0, 0, 0)  # TPMS_AUTH_COMMAND
_SELECT_BYTES = 3


class TpmConnection:
    """A connection to a running swtpm; use it as a context manager.

    Args:
        control: the control socket. swtpm serves one at a time: QEMU and this cannot both hold it.

    Raises:
        MachineError: from every method, when swtpm or the TPM says no.
    """

    def __init__(self, control: Path) -> None:
        self._control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._control.settimeout(TIMEOUT_S)
        try:
            self._control.connect(str(control))
        except OSError as error:
            self._control.close()
            raise MachineError(f"{control}: no software TPM answers: {error.strerror}") from error
        self._data, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._data.settimeout(TIMEOUT_S)
        with theirs:
            socket.send_fds(
                self._control, [struct.pack(">I", _CONTROL_SET_DATA_DESCRIPTOR)], [theirs.fileno()]
            )
        self._control_result("set the data descriptor")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the TPM goes on and keeps its registers."""
        self._data.close()
        self._control.close()

    @property
    def control(self) -> socket.socket:
        """The control channel, for a program that passes on what another one says there."""
        return self._control

    def power_on(self) -> None:
        """Reset the TPM as a power cycle does, then TPM2_Startup(CLEAR)."""
        self._control.sendall(struct.pack(">II", _CONTROL_INIT, 0))
        self._control_result("initialise")
        self.execute(_CC_STARTUP, parameters=struct.pack(">H", _SU_CLEAR))

    def shut_down(self) -> None:
        """End the swtpm process."""
        self._control.sendall(struct.pack(">I", _CONTROL_SHUTDOWN))
        self._control_result("shut down")

    def read_registers(self, algorithm: HashAlgorithm) -> tuple[Digest, ...]:
        """Return all 24 registers of one bank, read without a change in between."""
        counters: set[int] = set()
        values: dict[int, Digest] = {}
        while len(values) < REGISTER_COUNT:
            missing = frozenset(range(REGISTER_COUNT)) - values.keys()
            counter, some = self._read_some(algorithm, missing)
            if not some:
                raise MachineError(f"the TPM has no {algorithm.value} bank")
            counters.add(counter)
            values.update(some)
        if len(counters) != 1:
            raise MachineError("registers changed while they were read")
        return tuple(values[register] for register in range(REGISTER_COUNT))

    def extend_register(self, register: int, digests: Mapping[HashAlgorithm, Digest]) -> None:
        """Extend one register in the banks for which there is a digest (TPM2_PCR_Extend)."""
        listed = b"".join(
            struct.pack(">H", algorithm.tpm_id) + digest.value for algorithm, digest in digests.items()
        )
        self.execute(
            _CC_PCR_EXTEND,
            handles=struct.pack(">I", register),
            authorization=password_sessions(1),
            parameters=struct.pack(">I", len(digests)) + listed,
        )

    def execute(
        self, code: int, *, handles: bytes = b"", authorization: bytes = b"", parameters: bytes = b""
    ) -> bytes:
        """Send one command; return what follows the response header.

        Args:
            code: TPM_CC.
            handles: the handle area.
            authorization: authorizationSize and sessions, or nothing for a command without sessions.
            parameters: the parameter area.
        """
        tag = _ST_SESSIONS if authorization else _ST_NO_SESSIONS
        body = handles + authorization + parameters
        command = _HEADER.pack(tag, _HEADER.size + len(body), code) + body
        result = _RC_RETRY
        for _ in range(MAX_TRIES):
            result, answer = self._exchange(command)
            if result == 0:
                return answer
            if result != _RC_RETRY:
                break
        raise MachineError(f"TPM command 0x{code:x}: response code 0x{result:x}")

    def transmit(self, command: bytes) -> bytes:
        """Send one command as it is; return the whole response, whatever it says."""
        try:
            self._data.sendall(command)
        except OSError as error:
            raise MachineError("the software TPM closed its connection") from error
        header = self._receive(self._data, _HEADER.size)
        _, size, _ = _HEADER.unpack(header)
        if not _HEADER.size <= size <= MAX_RESPONSE_BYTES:
            raise MachineError(f"the software TPM sent a response of {size} bytes")
        return header + self._receive(self._data, size - _HEADER.size)

    def _exchange(self, command: bytes) -> tuple[int, bytes]:
        """Send one command; return the response code and what follows the response header."""
        response = self.transmit(command)
        _, _, result = _HEADER.unpack_from(response)
        return result, response[_HEADER.size :]

    def _read_some(
        self, algorithm: HashAlgorithm, registers: frozenset[int]
    ) -> tuple[int, dict[int, Digest]]:
        """One TPM2_PCR_Read: it returns at most eight digests, and says which."""
        selection = struct.pack(">IHB", 1, algorithm.tpm_id, _SELECT_BYTES) + _bitmap(registers)
        answer = self.execute(_CC_PCR_READ, parameters=selection)
        head = struct.Struct(f">IIHB{_SELECT_BYTES}sI")
        if len(answer) < head.size:
            raise MachineError("PCR_Read: the answer is too short")
        counter, selections, _, _, bitmap, count = head.unpack_from(answer)
        chosen = [register for register in sorted(registers) if bitmap[register // 8] >> register % 8 & 1]
        step = 2 + algorithm.size
        if selections != 1 or count != len(chosen) or len(answer) != head.size + count * step:
            raise MachineError(f"PCR_Read: {count} digests for {len(chosen)} selected registers")
        starts = range(head.size + 2, len(answer), step)
        return counter, {
            register: Digest(algorithm, answer[start : start + algorithm.size])
            for register, start in zip(chosen, starts, strict=True)
        }

    def _control_result(self, what: str) -> None:
        (result,) = struct.unpack(">I", self._receive(self._control, 4))
        if result != 0:
            raise MachineError(f"swtpm refused to {what}: result 0x{result:x}")

    @staticmethod
    def _receive(stream: socket.socket, size: int) -> bytes:
        """Read exactly `size` bytes."""
        data = b""
        while len(data) < size:
            try:
                more = stream.recv(size - len(data))
            except TimeoutError as error:
                raise MachineError(f"the software TPM gave no answer within {TIMEOUT_S:.0f} s") from error
            if not more:
                raise MachineError("the software TPM closed its connection")
            data += more
        return data


def password_sessions(count: int) -> bytes:
    """Return an authorization area of empty passwords, one for each handle that needs one."""
    sessions = EMPTY_PASSWORD * count
    return struct.pack(">I", len(sessions)) + sessions


def _bitmap(registers: frozenset[int]) -> bytes:
    """TPMS_PCR_SELECTION.pcrSelect: bit n % 8 of byte n / 8 (TPM 2.0 Part 2, 10.6.2)."""
    value = sum(1 << register for register in registers)
    return value.to_bytes(_SELECT_BYTES, "little")
