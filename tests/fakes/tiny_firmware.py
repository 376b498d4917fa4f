"""Firmware of a few instructions: says something on a serial port, then halts or resets the machine."""

from __future__ import annotations

import struct

SIZE = 0x10000
START = 0x8000
COM1 = 0x3F8
RESET_CONTROL = 0xCF9  # ICH9: 6 is a full reset


def _write_port(port: int, value: int) -> bytes:
    return b"\xba" + struct.pack("<H", port) + bytes((0xB0, value)) + b"\xee"  # mov dx; mov al; out


def tiny_firmware(text: bytes, *, reset: bool = False, port: int = COM1) -> bytes:
    """Return a flash image that looks like a firmware volume and starts at the reset vector."""
    code = b"\xfa" + b"".join(_write_port(port, letter) for letter in text)  # cli
    code += _write_port(RESET_CONTROL, 6) if reset else b""
    code += b"\xf4\xeb\xfd"  # hlt; jmp -3
    image = bytearray(b"\xff" * SIZE)
    image[40:44] = b"_FVH"
    image[START : START + len(code)] = code
    image[0xFFF0:0xFFF3] = b"\xe9" + struct.pack("<h", START - 0xFFF3)
    return bytes(image)
