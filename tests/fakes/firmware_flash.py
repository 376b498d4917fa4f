"""A code flash file as firmware builds have it: volumes, files, sections, one of them packed."""

from __future__ import annotations

import lzma
import struct
from uuid import UUID

LZMA = UUID("ee4e5898-3914-4259-9d6e-dc7bd79403cf").bytes_le


def volume(body: bytes) -> bytes:
    """Write a firmware volume around files (PI 1.8, volume 3, 3.2.1)."""
    length = 72 + len(body)
    start = bytes(16) + bytes(range(16)) + struct.pack("<Q4sIH", length, b"_FVH", 0x4FEFF, 72)
    tail = struct.pack("<HBB", 0, 0, 2) + struct.pack("<IIII", 1, length, 0, 0)
    total = sum(struct.unpack("<36H", start + bytes(2) + tail))
    return start + struct.pack("<H", -total & 0xFFFF) + tail + body


def file(content: bytes, *, kind: int = 0x0B, attributes: int = 0) -> bytes:
    """Write a file of a volume, padded to 8 bytes (PI 1.8, volume 3, 3.2.3)."""
    size = 24 + len(content)
    head = bytes(16) + struct.pack("<HBB", 0, kind, attributes) + size.to_bytes(3, "little") + b"\xf8"
    return (head + content).ljust(-(-size // 8) * 8, b"\xff")


def section(kind: int, payload: bytes) -> bytes:
    """Write a section, padded to 4 bytes (PI 1.8, volume 3, 3.2.5)."""
    size = 4 + len(payload)
    return (size.to_bytes(3, "little") + bytes([kind]) + payload).ljust(-(-size // 4) * 4, b"\0")


def pack(data: bytes, *, size: int | None = None) -> bytes:
    """Pack as an LZMA "alone" stream that says how long it is."""
    stream = lzma.compress(data, format=lzma.FORMAT_ALONE)
    return stream[:5] + struct.pack("<Q", len(data) if size is None else size) + stream[13:]


def guided(stream: bytes, *, guid: bytes = LZMA, attributes: int = 1, offset: int = 24) -> bytes:
    """Write the GUIDed section of a packed stream."""
    return section(0x02, guid + struct.pack("<HH", offset, attributes) + stream)


PEI = volume(file(b"pei" * 8))
DXE = volume(file(b"dxe" * 40))
INNER = section(0x19, bytes(12)) + section(0x17, PEI) + section(0x17, DXE)


def flash(packed: bytes, *, before: bytes = b"") -> bytes:
    """Write a code flash file: the packed file in a volume, then code that is no volume."""
    return before + volume(file(packed)) + b"\xff" * 64 + b"\x90_FVH" + bytes(64)


GOOD = flash(guided(pack(INNER)))
