"""An ACPI table whose code reaches the guest's RAM: the firmware passes it on, the guest's kernel runs it.

In ACPI's own language:

    Device (\\_SB.OPRT) {
        OperationRegion (RAM_, SystemMemory, FOUND_AT, 8)
        Field (RAM_, DWordAcc, NoLock, Preserve) { WRIT, 32, COPY, 32 }
        Method (_INI) { WRIT = MAGIC   COPY = WRIT }
    }

Source: ACPI 6.5, 5.2.6 (header), 20.2 (AML grammar), 6.5.1 (_INI is run when the namespace is set up).
"""

from __future__ import annotations

import struct

# In the first megabyte, which Linux gives to nobody (arch/x86/realmode/init.c, reserve_real_mode)
FOUND_AT = 0x8000
MAGIC = b"\xa5AML"

_HEADER = struct.Struct("<4sIBB6s8sI4sI")
_DWORD, _BYTE = 0x0C, 0x0A
_DWORD_ACCESS = 0x03  # 20.2.5.2, FieldFlags: DWordAcc, NoLock, Preserve


def ram_writing_table() -> bytes:
    """Return an SSDT that writes MAGIC to FOUND_AT and copies it, by reading, behind itself."""
    value = bytes([_DWORD]) + MAGIC
    stores = b"\x70" + value + b"WRIT" + b"\x70" + b"WRIT" + b"COPY"
    region = b"\x5b\x80RAM_\x00" + struct.pack("<BIBB", _DWORD, FOUND_AT, _BYTE, 8)
    fields = b"RAM_" + bytes([_DWORD_ACCESS]) + b"WRIT" + _length(32) + b"COPY" + _length(32)
    method = b"_INI\x00" + stores  # no arguments, not serialised
    device = b"\\\x2e_SB_OPRT" + region + b"\x5b\x81" + _package(fields) + b"\x14" + _package(method)
    return _table(b"\x5b\x82" + _package(device))


def _table(code: bytes) -> bytes:
    """Return code behind a header whose bytes add up to zero with the rest."""
    size = _HEADER.size + len(code)
    header = _HEADER.pack(b"SSDT", size, 2, 0, b"OPERAT", b"REACHRAM", 1, b"HAND", 1)
    checksum = -sum(header + code) & 0xFF
    return header[:9] + bytes([checksum]) + header[10:] + code


def _package(content: bytes) -> bytes:
    """Return content behind its length, which counts its own bytes (20.2.4)."""
    return _length(len(content) + (1 if len(content) < 0x3F else 2)) + content


def _length(value: int) -> bytes:
    return bytes([value]) if value < 0x40 else bytes([0x40 | value & 0xF, value >> 4])
