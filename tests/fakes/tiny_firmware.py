"""Firmware of a few instructions: says something on a serial port, then halts, resets or powers off."""

from __future__ import annotations

import struct

SIZE = 0x10000
START = 0x8000
COM1 = 0x3F8
RESET_CONTROL = 0xCF9  # ICH9: 6 is a full reset
LPC = 0x80000000 | 31 << 11  # configuration address of the ICH9 LPC bridge, 0:31.0
PM_BASE = 0x600


def _write_port(port: int, value: int, size: int = 1) -> bytes:
    """16-bit code for one port write of 1, 2 or 4 bytes."""
    load = {1: b"\xb0", 2: b"\xb8", 4: b"\x66\xb8"}[size] + value.to_bytes(size, "little")
    out = {1: b"\xee", 2: b"\xef", 4: b"\x66\xef"}[size]
    return b"\xba" + struct.pack("<H", port) + load + out


def _write_pci(address: int, value: int) -> bytes:
    return _write_port(0xCF8, address, 4) + _write_port(0xCFC, value, 4)


HALT = b""
RESET = _write_port(RESET_CONTROL, 6)
# ICH9: the base of the power management ports and its enable bit, then S5 into PM1_CNT
POWER_OFF = (
    _write_pci(LPC | 0x40, PM_BASE | 1) + _write_pci(LPC | 0x44, 0x80) + _write_port(PM_BASE + 4, 0x2000, 2)
)


def tiny_firmware(text: bytes, ending: bytes = HALT) -> bytes:
    """Return a flash image that looks like a firmware volume and starts at the reset vector."""
    code = b"\xfa" + b"".join(_write_port(COM1, letter) for letter in text)  # cli
    code += ending + b"\xf4\xeb\xfd"  # hlt; jmp -3
    image = bytearray(b"\xff" * SIZE)
    image[40:44] = b"_FVH"
    image[START : START + len(code)] = code
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<h", START - 0xFFF3)
    return bytes(image)
