"""An empty UEFI variable store, its headers written from the specification with `struct`."""

from __future__ import annotations

import struct
import uuid
from functools import cache

STORE_BYTES = 0x2000
VOLUME_BYTES = 0x4000
HEADER_BYTES = 72
AREA_START = HEADER_BYTES + 28


@cache
def empty_store() -> bytes:
    """An empty store with its headers written from the specification, not by the code under test."""
    header = bytearray(
        bytes(16)
        + uuid.UUID("fff12b8d-7696-4c8b-a985-2747075b4f50").bytes_le
        + struct.pack("<Q4sIHHHBB", VOLUME_BYTES, b"_FVH", 0x4FEFF, HEADER_BYTES, 0, 0, 0, 2)
        + struct.pack("<IIII", VOLUME_BYTES // 0x1000, 0x1000, 0, 0)
    )
    total = sum(struct.unpack(f"<{HEADER_BYTES // 2}H", header))
    header[50:52] = struct.pack("<H", -total & 0xFFFF)
    store = uuid.UUID("aaf32c78-947b-439a-a180-2e144ec37792").bytes_le
    store += struct.pack("<IBBHI", STORE_BYTES, 0x5A, 0xFE, 0, 0)
    image = bytes(header) + store
    return image + b"\xff" * (VOLUME_BYTES - len(image))
