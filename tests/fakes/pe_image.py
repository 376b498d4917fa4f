"""Small PE32+ images made without the code under test, field by field from "PE Format"."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

PE_OFFSET = 64
OPTIONAL = PE_OFFSET + 24


@dataclass(frozen=True, slots=True)
class FakeSection:
    """A section to place; the virtual size is that of the data unless given."""

    name: bytes
    data: bytes
    virtual_size: int | None = None


DEFAULT_SECTIONS = (FakeSection(b".text", b"code" * 100), FakeSection(b".data", b"data", virtual_size=600))


def make_pe(
    sections: Sequence[FakeSection] = DEFAULT_SECTIONS,
    *,
    directories: int = 16,
    size_of_headers: int = 1024,
    tail: bytes = b"",
    symbol_table: int = 0,
) -> bytes:
    """Return an x86-64 image with file alignment 512 and section alignment 4096."""
    table = body = b""
    address, offset = 4096, size_of_headers
    for section in sections:
        size = len(section.data) if section.virtual_size is None else section.virtual_size
        raw = section.data + bytes(-len(section.data) % 512)
        table += struct.pack("<8sIIII12xI", section.name, size, address, len(raw), offset, 0x40000040)
        body += raw
        offset += len(raw)
        address += -(-max(size, len(raw)) // 4096) * 4096
    coff = struct.pack("<HHIIIHH", 0x8664, len(sections), 0, symbol_table, 0, 112 + 8 * directories, 0x206)
    optional = struct.pack("<HBBIIIII", 0x20B, 1, 2, 512, 1024, 0, 4096, 4096)
    optional += struct.pack("<QII6HIIIIHH", 0, 4096, 512, *[0] * 6, 0, address, size_of_headers, 0, 10, 0)
    optional += struct.pack("<4QII", 0, 0, 0, 0, 0, directories) + bytes(8 * directories)
    headers = b"MZ".ljust(60, b"\0") + struct.pack("<I", PE_OFFSET) + b"PE\0\0" + coff + optional + table
    return headers.ljust(size_of_headers, b"\0") + body + tail


def with_certificates(image: bytes, certificates: bytes) -> bytes:
    """Return the image with an attribute certificate table at its end."""
    output = bytearray(image + certificates)
    struct.pack_into("<II", output, OPTIONAL + 112 + 8 * 4, len(image), len(certificates))
    return bytes(output)
