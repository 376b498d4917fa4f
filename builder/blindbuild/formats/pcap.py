"""Captures of Ethernet frames in the classic pcap format, as QEMU's filter-dump writes them.

Source: draft-ietf-opsawg-pcap, sections 4 and 5; QEMU net/dump.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from blindbuild.errors import FormatError

ETHERNET = 1  # LINKTYPE_ETHERNET
MAX_FRAMES = 1 << 20  # a session has a few thousand; bounds memory

_FILE_HEADER = struct.Struct("<IHHiIII")
_RECORD_HEADER = struct.Struct("<IIII")
_MAGIC_MICROSECONDS = 0xA1B2C3D4
_VERSION = (2, 4)
_ADDRESS_BYTES = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame: when it was captured, in microseconds since the epoch of the capture, and its bytes."""

    time_us: int
    data: bytes

    @property
    def destination(self) -> bytes:
        """The six bytes of the destination address."""
        return self.data[:_ADDRESS_BYTES]

    @property
    def source(self) -> bytes:
        """The six bytes of the source address."""
        return self.data[_ADDRESS_BYTES : 2 * _ADDRESS_BYTES]


def parse_pcap(data: bytes, *, growing: bool = False) -> tuple[Frame, ...]:
    """Return all frames of a capture, in the order of the file.

    Args:
        data: the file.
        growing: the file is still being written, so that its last record may be cut short.

    Raises:
        FormatError: not such a capture, or a record leaves its bounds.
    """
    _check_header(data)
    frames: list[Frame] = []
    position = _FILE_HEADER.size
    while position < len(data):
        frame, position = _parse_record(data, position)
        if frame is None:
            if growing:
                break
            raise FormatError(f"capture: record at {position} is cut short")
        frames.append(frame)
        if len(frames) > MAX_FRAMES:
            raise FormatError(f"capture: more than {MAX_FRAMES} frames")
    return tuple(frames)


def _check_header(data: bytes) -> None:
    if len(data) < _FILE_HEADER.size:
        raise FormatError(f"capture: expected a header of {_FILE_HEADER.size} bytes, got {len(data)}")
    magic, major, minor, _, _, _, link = _FILE_HEADER.unpack_from(data)
    if magic != _MAGIC_MICROSECONDS or (major, minor) != _VERSION:
        raise FormatError("capture: expected little-endian pcap 2.4 with microseconds, got other bytes")
    if link != ETHERNET:
        raise FormatError(f"capture: expected link type {ETHERNET}, got {link}")


def _parse_record(data: bytes, position: int) -> tuple[Frame | None, int]:
    """Return the record at `position` and where the next one is; None where the data ends too early."""
    start = position + _RECORD_HEADER.size
    if start > len(data):
        return None, position
    seconds, microseconds, captured, original = _RECORD_HEADER.unpack_from(data, position)
    if microseconds >= 1_000_000 or captured > original:
        raise FormatError(f"capture: record at {position} is malformed")
    if captured < 2 * _ADDRESS_BYTES:
        raise FormatError(f"capture: record at {position} is too short for a frame")
    if start + captured > len(data):
        return None, position
    return Frame(seconds * 1_000_000 + microseconds, data[start : start + captured]), start + captured
