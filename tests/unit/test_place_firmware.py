"""Firmware is checked before QEMU sees it; code cannot be written, variables are the machine's own."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from blindbuild.errors import FormatError, MachineError
from blindbuild.machine.firmware import MAX_FLASH_BYTES, Firmware, place_firmware
from tests.fakes.variable_store import empty_store

CODE = (bytes(40) + b"_FVH").ljust(8192, b"\xff")


def test_each_machine_gets_its_own_variables_and_code_it_cannot_write(tmp_path: Path) -> None:
    placed = place_firmware(Firmware(CODE, empty_store()), tmp_path)
    assert placed.code.read_bytes() == CODE
    assert stat.S_IMODE(placed.code.stat().st_mode) == 0o400
    placed.variables.write_bytes(b"what the last boot left")
    again = place_firmware(Firmware(CODE, empty_store()), tmp_path)
    assert again == placed
    assert again.variables.read_bytes() == empty_store()


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (b"", "expected a firmware volume, got nothing"),
        (b"MZ".ljust(8192), "expected a firmware volume, got 4d5a"),
        (CODE + b"x", "multiple of 4096"),
        (CODE + bytes(MAX_FLASH_BYTES - len(CODE)), "bytes of flash"),
    ],
)
def test_what_is_no_flash_image_is_refused(tmp_path: Path, code: bytes, reason: str) -> None:
    with pytest.raises(MachineError, match=reason):
        place_firmware(Firmware(code, empty_store()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_variables_that_are_no_store_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="variable store"):
        place_firmware(Firmware(CODE, CODE), tmp_path)
