"""What a software TPM was told to measure, from the transcript that swtpm keeps of every command.

With it the registers of any guest can be known after its end, also of one that runs no agent or panics at
once, and each extend in its order: what a kernel does behind the back of the firmware's event log included.

Source: swtpm src/swtpm/logging.c (the form of a dump); TPM 2.0 Library Part 1, 18 (commands and responses);
Part 3, 9.3 (TPM2_Startup) and 22 (integrity collection).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MachineError
from blindbuild.measure.classification import REGISTER_COUNT, initial_value

MAX_TRANSCRIPT = 256 << 20  # bytes; a boot writes some 2 MB

_HEADER = struct.Struct(">HII")  # tag, size, command or response code
_ST_SESSIONS = 0x8002
_CC_STARTUP = 0x00000144
_CC_PCR_EXTEND = 0x00000182
# Other commands that change registers. OVMF and Linux send none of them, and following a hash sequence would
# take more than its last command: refused, so that no value is wrong in silence.
_CC_ALSO_EXTENDING = {
    0x0000013C: "TPM2_PCR_Event",
    0x0000013D: "TPM2_PCR_Reset",
    0x00000185: "TPM2_EventSequence",
}
_DIRECTION = re.compile(rb"\s*SWTPM_IO_(Read|Write): length (\d+)")
_DUMP_BYTES = 16  # on each line
_HEXADECIMAL = re.compile(rb"\s*((?:[0-9A-F]{2} )+)")


@dataclass(frozen=True, slots=True)
class Extend:
    """One TPM2_PCR_Extend that the TPM carried out: one register, in some banks."""

    register: int
    digests: tuple[Digest, ...]

    def in_bank(self, algorithm: HashAlgorithm) -> Digest | None:
        """Return what this bank was extended with, None if it was left alone."""
        return next((digest for digest in self.digests if digest.algorithm is algorithm), None)


def read_extends(transcript: bytes) -> tuple[Extend, ...]:
    """Return every extend since the last power cycle, in order.

    Args:
        transcript: swtpm's log at level 20.

    Raises:
        MachineError: the transcript is cut off or too large, never starts the TPM up, or holds a command that
            changes registers in another way.
    """
    extends: list[Extend] = []
    started = False
    for command, response in _exchanges(transcript):
        code = _check(command)
        if _check(response) != 0:
            continue
        if code == _CC_STARTUP:
            started = True
            extends.clear()
        elif code in _CC_ALSO_EXTENDING:
            raise MachineError(f"TPM transcript: expected no {_CC_ALSO_EXTENDING[code]}, got one")
        elif code == _CC_PCR_EXTEND:
            extends.append(_read_extend(command))
    if not started:
        raise MachineError("TPM transcript: expected a TPM2_Startup, got none")
    return tuple(extends)


def read_commands(transcript: bytes) -> tuple[tuple[int, bytes], ...]:
    """Return every command that was sent since swtpm began to write, as code and whole bytes, in order.

    Args:
        transcript: swtpm's log at level 20; it may end in the middle of a dump.

    Raises:
        MachineError: the transcript is cut off elsewhere, too large, or not a transcript of commands.
    """
    return tuple(
        (_check(message), message) for direction, message in _messages(transcript) if direction == b"Read"
    )


def replay_extends(extends: Sequence[Extend], algorithm: HashAlgorithm) -> tuple[Digest, ...]:
    """Return what the 24 registers of one bank hold after these extends."""
    values = [initial_value(register, algorithm) for register in range(REGISTER_COUNT)]
    for extend in extends:
        digest = extend.in_bank(algorithm)
        if digest is not None:
            values[extend.register] = values[extend.register].extend(digest)
    return tuple(values)


def _exchanges(transcript: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield each command with its response; a last command without one is left out."""
    command: bytes | None = None
    for direction, message in _messages(transcript):
        if direction == b"Read":
            command = message
        elif command is not None:
            yield command, message
            command = None


def _messages(transcript: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield direction and bytes of each dump."""
    if len(transcript) > MAX_TRANSCRIPT:
        raise MachineError(f"TPM transcript: expected at most {MAX_TRANSCRIPT} bytes, got {len(transcript)}")
    lines = transcript.split(b"\n")
    for number, line in enumerate(lines):
        heading = _DIRECTION.fullmatch(line)
        if heading is None:
            continue
        size, data = int(heading[2]), b""
        end = number + 1 + -(-size // _DUMP_BYTES)
        for dump in lines[number + 1 : end]:
            digits = _HEXADECIMAL.fullmatch(dump)
            if digits is None:
                break
            data += bytes.fromhex(digits[1].decode("ascii"))
        if len(data) == size:
            yield heading[1], data
        elif end < len(lines) - 1:  # else the log ends in the middle of its last dump: swtpm is still writing
            raise MachineError(
                f"TPM transcript: expected {size} bytes after line {number + 1}, got {len(data)}"
            )


def _check(message: bytes) -> int:
    """Return the code of a command or response whose header tells its size."""
    if len(message) < _HEADER.size:
        raise MachineError(f"TPM transcript: expected a header of {_HEADER.size} bytes, got {len(message)}")
    _, size, code = _HEADER.unpack_from(message)
    if size != len(message):
        raise MachineError(f"TPM transcript: expected a message of {size} bytes, got {len(message)}")
    return int(code)


def _read_extend(command: bytes) -> Extend:
    """Return what a TPM2_PCR_Extend command says (Part 3, 22.2; Part 2, 10.3.2 and 10.9.7)."""
    tag, _, _ = _HEADER.unpack_from(command)
    body = command[_HEADER.size :]
    try:
        register, authorization = struct.unpack_from(">II", body)
        (count,) = struct.unpack_from(">I", body, 8 + authorization)
        position, digests = 12 + authorization, []
        for _ in range(min(count, len(HashAlgorithm) + 1)):
            algorithm = HashAlgorithm.from_tpm_id(int.from_bytes(body[position : position + 2], "big"))
            value = body[position + 2 : position + 2 + algorithm.size]
            digests.append(Digest(algorithm, value))
            position += 2 + algorithm.size
    except (struct.error, FormatError) as error:
        raise MachineError(f"TPM transcript: a TPM2_PCR_Extend that cannot be read: {error}") from error
    if tag != _ST_SESSIONS or register >= REGISTER_COUNT or count != len(digests) or position != len(body):
        raise MachineError(
            "TPM transcript: a TPM2_PCR_Extend that cannot be read: other fields than expected"
        )
    return Extend(register, tuple(digests))
