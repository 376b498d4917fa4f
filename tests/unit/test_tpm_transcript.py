"""What a TPM was told, from its transcript: commands written here byte by byte from the specification."""

from __future__ import annotations

import hashlib
import struct

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.machine.transcript import Extend, read_extends, replay_extends

SHA256, SHA384 = HashAlgorithm.SHA256, HashAlgorithm.SHA384
DONE = struct.pack(">HII", 0x8001, 10, 0)
REFUSED = struct.pack(">HII", 0x8001, 10, 0x101)
STARTUP = struct.pack(">HIIH", 0x8001, 12, 0x144, 0)
EVENT = Digest.of(SHA256, b"event")
LONG_EVENT = Digest.of(SHA384, b"event")


def extend(register: int, *digests: Digest) -> bytes:
    """TPM2_PCR_Extend with an empty password (Part 3, 22.2)."""
    listed = b"".join(struct.pack(">H", digest.algorithm.tpm_id) + digest.value for digest in digests)
    session = struct.pack(">IHBH", 0x40000009, 0, 0, 0)
    body = struct.pack(">II", register, len(session)) + session + struct.pack(">I", len(digests)) + listed
    return struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body


def dump(direction: str, message: bytes) -> bytes:
    """One message as swtpm writes it: sixteen bytes a line, a space before and after."""
    lines = [f" SWTPM_IO_{direction}: length {len(message)}"]
    for start in range(0, len(message), 16):
        lines.append(" " + "".join(f"{byte:02X} " for byte in message[start : start + 16]))
    return ("\n".join(lines) + "\n").encode()


def transcript(*exchanges: tuple[bytes, bytes]) -> bytes:
    parts = [dump("Read", command) + dump("Write", response) for command, response in exchanges]
    return b" Ctrl Cmd: length 4\n 00 00 00 10 \n Ctrl Rsp: length 4\n 00 00 00 00 \n" + b"".join(parts)


def test_extends_are_read_in_order_and_replayed_in_each_bank() -> None:
    log = transcript((STARTUP, DONE), (extend(4, EVENT, LONG_EVENT), DONE), (extend(4, EVENT), DONE))
    extends = read_extends(log)
    assert extends == (Extend(4, (EVENT, LONG_EVENT)), Extend(4, (EVENT,)))
    first = hashlib.sha256(bytes(32) + EVENT.value).digest()
    second = hashlib.sha256(first + EVENT.value).digest()
    assert replay_extends(extends, SHA256)[4].value == second
    assert replay_extends(extends, SHA384)[4].value == hashlib.sha384(bytes(48) + LONG_EVENT.value).digest()
    assert replay_extends(extends, SHA256)[17] == Digest.ones(SHA256)


def test_a_command_that_the_tpm_refused_changed_nothing() -> None:
    assert read_extends(transcript((STARTUP, DONE), (extend(4, EVENT), REFUSED))) == ()


def test_a_power_cycle_begins_anew() -> None:
    log = transcript((STARTUP, DONE), (extend(4, EVENT), DONE), (STARTUP, DONE), (extend(5, EVENT), DONE))
    assert read_extends(log) == (Extend(5, (EVENT,)),)


def test_a_command_without_its_response_is_left_out() -> None:
    log = transcript((STARTUP, DONE), (extend(4, EVENT), DONE))
    for cut in (dump("Read", extend(5, EVENT)), dump("Read", extend(5, EVENT))[:90], b" SWTPM_IO_Re"):
        assert read_extends(log + cut) == (Extend(4, (EVENT,)),)


def test_a_transcript_without_a_start_is_refused() -> None:
    with pytest.raises(MachineError, match="expected a TPM2_Startup, got none"):
        read_extends(transcript((extend(4, EVENT), DONE)))
    with pytest.raises(MachineError, match="expected a TPM2_Startup, got none"):
        read_extends(b"")


@pytest.mark.parametrize(("code", "name"), [(0x13C, "PCR_Event"), (0x13D, "PCR_Reset"), (0x185, "Sequence")])
def test_another_way_to_change_a_register_is_refused(code: int, name: str) -> None:
    command = struct.pack(">HII", 0x8001, 10, code)
    with pytest.raises(MachineError, match=f"expected no TPM2_.*{name}"):
        read_extends(transcript((STARTUP, DONE), (command, DONE)))


@pytest.mark.parametrize(
    "command",
    [
        struct.pack(">HII", 0x8002, 10, 0x182),
        extend(24, EVENT),
        extend(4, EVENT)[:5] + bytes([extend(4, EVENT)[5] + 1]) + extend(4, EVENT)[6:] + b"x",
        extend(4, EVENT).replace(b"\x00\x0b", b"\x00\x0f", 1),
        extend(4, EVENT).replace(b"\x00\x00\x00\x01\x00\x0b", b"\x00\x00\x00\x02\x00\x0b"),
    ],
)
def test_an_extend_that_cannot_be_read_is_refused(command: bytes) -> None:
    with pytest.raises(MachineError, match="a TPM2_PCR_Extend that cannot be read"):
        read_extends(transcript((STARTUP, DONE), (command, DONE)))


@pytest.mark.parametrize("message", [b"\x80\x01", struct.pack(">HII", 0x8001, 11, 0x182)])
def test_a_message_of_another_size_is_refused(message: bytes) -> None:
    with pytest.raises(MachineError, match="TPM transcript: expected"):
        read_extends(transcript((STARTUP, DONE), (message, DONE)))


def test_a_dump_that_breaks_off_in_the_middle_is_refused() -> None:
    damaged = dump("Read", extend(4, EVENT)).split(b"\n")
    log = transcript((STARTUP, DONE)) + b"\n".join([*damaged[:2], b"other words", *damaged[3:]])
    with pytest.raises(MachineError, match=r"expected \d+ bytes after line"):
        read_extends(log + dump("Write", DONE))
