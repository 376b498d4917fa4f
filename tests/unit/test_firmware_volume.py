"""Firmware volumes: a flash file built by hand, and what a hostile one is refused for."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, MeasureError
from blindbuild.formats.firmware_volume import (
    MAX_CANDIDATES,
    MAX_FILES,
    MAX_FIRMWARE,
    MAX_SECTIONS,
    MAX_UNPACKED,
    MAX_VOLUMES,
    find_dxe_volume,
)
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.pcr00 import predict_firmware
from tests.fakes.damage import assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.firmware_flash import DXE, GOOD, INNER, PEI, file, flash, guided, pack, section, volume


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
        (flash(section(0x19, b"") * (MAX_SECTIONS + 1)), f"expected at most {MAX_SECTIONS} sections"),
        (
            flash(guided(pack(section(0x17, b"") * (MAX_SECTIONS + 1)))),
            f"expected at most {MAX_SECTIONS} sections",
        ),
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
