"""The capture reader against files in the documented layout."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.pcap import Frame, parse_pcap

HEADER = bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 00000100 01000000".replace(" ", ""))
FRAME = bytes.fromhex("ffffffffffff525400b11d010806") + bytes(28)


def record(data: bytes, seconds: int = 5, microseconds: int = 250_000) -> bytes:
    return struct.pack("<IIII", seconds, microseconds, len(data), len(data)) + data


def test_a_frame_has_its_time_and_both_addresses() -> None:
    (frame,) = parse_pcap(HEADER + record(FRAME))
    assert frame == Frame(5_250_000, FRAME)
    assert frame.destination.hex(":") == "ff:ff:ff:ff:ff:ff"
    assert frame.source.hex(":") == "52:54:00:b1:1d:01"


@given(
    st.lists(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 999_999), st.binary(min_size=12)), max_size=5
    )
)
def test_all_records_come_back_in_order(records: list[tuple[int, int, bytes]]) -> None:
    data = HEADER + b"".join(record(frame, seconds, micro) for seconds, micro, frame in records)
    assert parse_pcap(data) == tuple(Frame(s * 1_000_000 + u, frame) for s, u, frame in records)


def test_a_capture_cut_anywhere_is_refused_unless_it_is_growing() -> None:
    data = HEADER + record(FRAME) + record(FRAME)
    whole = {len(HEADER), len(HEADER) + 16 + len(FRAME)}
    for size in set(range(len(data))) - whole:
        with pytest.raises(FormatError):
            parse_pcap(data[:size])
        if size > len(HEADER):
            assert len(parse_pcap(data[:size], growing=True)) == size // (len(HEADER) + 16 + len(FRAME))


@pytest.mark.parametrize(
    ("position", "data", "reason"),
    [
        (0, b"\x4d\x3c\xb2\xa1", "expected little-endian pcap"),
        (4, b"\x03", "expected little-endian pcap"),
        (20, b"\x65", "link type"),
        (28, struct.pack("<I", 1_000_000), "malformed"),
        (36, struct.pack("<I", 1), "malformed"),
        (32, struct.pack("<II", 11, 11), "too short"),
        (32, struct.pack("<II", 9999, 9999), "cut short"),
    ],
)
def test_a_damaged_capture_is_refused_for_its_reason(position: int, data: bytes, reason: str) -> None:
    good = HEADER + record(FRAME)
    with pytest.raises(FormatError, match=reason):
        parse_pcap(good[:position] + data + good[position + len(data) :])
