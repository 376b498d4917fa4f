"""Firmware volumes: a flash file built by hand, and what a hostile one is refused for."""

from __future__ import annotations

import lzma
import struct
from collections.abc import Callable
from uuid import UUID

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.formats.firmware_volume import (
    MAX_CANDIDATES,
    MAX_FILES,
    MAX_FIRMWARE,
    MAX_UNPACKED,
    MAX_VOLUMES,
    find_dxe_volume,
)
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.pcr00 import predict_firmware
from tests.fakes.damage import assert_nothing_else_raised, bit_flips, truncations

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


def test_the_second_volume_of_the_packed_section_is_that_of_the_dxe_phase() -> None:
    assert find_dxe_volume(GOOD) == DXE


def test_volumes_before_and_padding_files_are_passed_over() -> None:
    inside = volume(file(b"", kind=0xF0) + file(section(0x19, b"raw")) + b"\xff" * 64)
    assert find_dxe_volume(flash(guided(pack(INNER)), before=inside)) == DXE


def test_the_events_are_the_version_and_the_volume() -> None:
    version, dxe = predict_firmware(GOOD, (HashAlgorithm.SHA256,), version="1.0")
    assert version.data == b"1\0.\x000\0\0\0"
    assert version.digests[HashAlgorithm.SHA256] == Digest.sha256(b"1\0.\x000\0\0\0")
    assert dxe.event_type is EventType.EV_EFI_PLATFORM_FIRMWARE_BLOB
    assert dxe.digests[HashAlgorithm.SHA256] == Digest.sha256(DXE)
    assert dxe.data == struct.pack("<QQ", 0x900000, len(DXE))


@pytest.mark.parametrize("version", ["2025\0", "é"])
def test_a_version_that_no_firmware_has_is_refused(version: str) -> None:
    with pytest.raises(MeasureError, match="expected ASCII without NUL"):
        predict_firmware(GOOD, (HashAlgorithm.SHA256,), version=version)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "expected one section packed with LZMA, got 0"),
        (GOOD + GOOD, "expected one section packed with LZMA, got 2"),
        (flash(guided(pack(INNER), guid=bytes(16))), "expected one section packed with LZMA, got 0"),
        (flash(guided(pack(INNER), attributes=0)), "packed with LZMA, but not marked as such"),
        (flash(guided(pack(INNER), offset=8)), "data at 8 of"),
        (flash(guided(pack(INNER), offset=0xFFF8)), "data at 65528 of"),
        (flash(section(0x02, bytes(4))), "no room for its GUID"),
        (flash(guided(pack(section(0x17, DXE)))), "expected two volumes"),
        (flash(guided(pack(INNER + section(0x17, DXE)))), "expected two volumes"),
        (flash(guided(pack(section(0x17, PEI) + section(0x17, DXE + b"x")))), "does not fill its section"),
        (flash(guided(pack(section(0x17, PEI) + section(0x17, b"x")))), "firmware volume at 0: cut off"),
        (
            flash(guided(pack(INNER, size=MAX_UNPACKED + 1))),
            f"expected at most {MAX_UNPACKED} unpacked bytes",
        ),
        (flash(guided(pack(INNER, size=len(INNER) + 1))), "firmware: "),
        (flash(guided(pack(INNER, size=8))), "firmware: "),
        (flash(guided(b"\xff" * 40)), "expected at most"),
        (flash(guided(b"short")), "expected an LZMA stream, got 5 bytes"),
        (flash(guided(b"\xff" * 5 + bytes(8) + b"damaged")), "the LZMA stream is damaged"),
        (b"_FVH" * (MAX_CANDIDATES + 1), f"expected at most {MAX_CANDIDATES} places"),
        (volume(b"") * (MAX_VOLUMES + 1), f"expected at most {MAX_VOLUMES} volumes"),
        (volume(file(b"") * (MAX_FILES + 1)), f"expected at most {MAX_FILES} files"),
        (bytes(MAX_FIRMWARE + 1), f"expected at most {MAX_FIRMWARE} bytes"),
    ],
)
def test_a_firmware_of_another_shape_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        find_dxe_volume(data)


def test_a_stream_that_unpacks_to_more_than_it_says_does_not_fill_the_memory() -> None:
    bomb = pack(bytes(1 << 24), size=1024)
    with pytest.raises(FormatError, match=r"firmware: expected 1024 unpacked bytes|damaged"):
        find_dxe_volume(flash(guided(bomb)))


@pytest.mark.parametrize("damage", [truncations, bit_flips])
def test_damage_gives_only_our_error(damage: Callable[[bytes], object]) -> None:
    copies = truncations(GOOD) if damage is truncations else bit_flips(GOOD)
    assert assert_nothing_else_raised(find_dxe_volume, copies, FormatError) > 50
