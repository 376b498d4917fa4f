"""The GUIDed table of OVMF images and the two lists of pages; hostile ones are refused, with the reason."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.ovmf import (
    MAX_FIRMWARE_BYTES,
    GuestArea,
    SevSectionType,
    TdxSectionType,
    read_footer_table,
    read_sev_metadata,
    read_tdx_metadata,
    sev_es_reset_address,
    sev_hash_area,
    svsm_entry_offset,
    write_footer_table,
)
from tests.fakes.ovmf_image import AMD_SEV_SECTIONS, SEV_ES_RESET, SEV_HASHES, OvmfImage, entry

DEBIAN_FIRMWARE = Path("/usr/share/ovmf/OVMF.fd")


def _sev(image: OvmfImage) -> object:
    data = image.build()
    return read_sev_metadata(data, read_footer_table(data))


def _tdx(image: OvmfImage) -> object:
    data = image.build()
    return read_tdx_metadata(data, read_footer_table(data))


def test_what_the_table_says_is_read() -> None:
    data = OvmfImage().build()
    table = read_footer_table(data)
    assert sev_es_reset_address(table) == 0x80B004
    assert sev_hash_area(table) == GuestArea(0x810C00, 0x400)
    assert svsm_entry_offset(table) is None
    sections = read_sev_metadata(data, table)
    assert [(s.area.address, s.area.size, int(s.kind)) for s in sections] == list(AMD_SEV_SECTIONS)


def test_the_list_for_trust_domains_is_read() -> None:
    data = OvmfImage().build()
    code, variables, *memory = read_tdx_metadata(data, read_footer_table(data))
    assert (code.kind, code.extends_mrtd, code.data) == (TdxSectionType.BFV, True, slice(0x2000, 0x8000))
    assert (variables.kind, variables.extends_mrtd, variables.data) == (
        TdxSectionType.CFV,
        False,
        slice(0, 0x2000),
    )
    assert [(s.area.address, s.area.size, int(s.kind)) for s in memory] == list(OvmfImage().memory)
    assert all(section.data is None for section in memory)


@pytest.mark.skipif(not DEBIAN_FIRMWARE.exists(), reason="Debian's package ovmf is not installed")
def test_debians_image_says_what_its_package_was_built_with() -> None:
    data = DEBIAN_FIRMWARE.read_bytes()
    table = read_footer_table(data)
    assert write_footer_table(table) == data[-32 - len(write_footer_table(table)) : -32]
    assert sev_es_reset_address(table) == 0x80B004  # PcdOvmfSecGhcbBackupBase region of OvmfPkgX64.fdf
    assert sev_hash_area(table) is None
    kinds = [section.kind for section in read_sev_metadata(data, table)]
    assert kinds.count(SevSectionType.CPUID) == kinds.count(SevSectionType.SNP_SECRETS) == 1
    code, variables, *_ = read_tdx_metadata(data, table)
    assert code.area.end == 1 << 32
    assert variables.area.end == code.area.address


def test_a_hash_area_of_zeros_means_that_no_hashes_are_checked() -> None:
    assert sev_hash_area(read_footer_table(OvmfImage(hashes=(0, 0)).build())) is None


def test_an_image_without_the_table_is_refused() -> None:
    with pytest.raises(FormatError, match="expected the GUIDed table 96b582de"):
        read_footer_table(bytes(4096).replace(b"\0\0", b"\x12\0"))


def test_an_image_that_is_too_large_is_refused() -> None:
    with pytest.raises(FormatError, match="expected at most 67108864 bytes"):
        read_footer_table(bytes(MAX_FIRMWARE_BYTES + 1))


def test_a_guid_that_is_there_twice_is_refused() -> None:
    image = OvmfImage(extra=entry(SEV_ES_RESET, struct.pack("<I", 0x1234)))
    with pytest.raises(FormatError, match="once in the GUIDed table, got it 2 times"):
        read_footer_table(image.build())


def test_a_table_of_thousands_of_entries_is_read_at_once() -> None:
    many = b"".join(entry(str(UUID(int=number)), b"") for number in range(3600))
    started = time.process_time()
    assert len(read_footer_table(OvmfImage(pages=32, extra=many).build()).entries) > 3600
    assert time.process_time() - started < 1


def test_an_entry_larger_than_the_table_is_refused() -> None:
    data = bytearray(OvmfImage().build())
    position = data.rindex(UUID(SEV_ES_RESET).bytes_le) - 2
    data[position : position + 2] = struct.pack("<H", 0x4000)
    with pytest.raises(FormatError, match="bytes in its table, got 16384"):
        read_footer_table(bytes(data))


def test_a_hash_area_across_two_pages_is_refused() -> None:
    with pytest.raises(FormatError, match="expected the SEV hash table in one page"):
        sev_hash_area(read_footer_table(OvmfImage(hashes=(0x810F00, 0x400)).build()))


def test_a_hash_area_of_another_length_is_refused() -> None:
    body = entry(SEV_HASHES, bytes(4))
    table = body + struct.pack("<H", len(body) + 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
    with pytest.raises(FormatError, match="expected 8 bytes for the SEV hash table's place, got 4"):
        sev_hash_area(read_footer_table(table + bytes(32)))


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ((), "expected 1 to 64 sections, got 0"),
        (((0x800000, 0x1000, 9),), "expected a known type, got 0x9"),
        (((0x800001, 0x1000, 1),), "expected whole pages below 4 GiB"),
        (((0x800000, 0x0, 1),), "expected whole pages below 4 GiB"),
        (((0xFFFFF000, 0x2000, 1),), "expected whole pages below 4 GiB"),
        (((0x800000, 0x20000000, 1),), "expected whole pages below 4 GiB"),
        (((0x800000, 0x2000, 2),), "expected one page for SNP_SECRETS, got 8192"),
        (((0x800000, 0x2000, 1), (0x801000, 0x1000, 1)), "expected ranges apart"),
        (tuple((index * 0x1000, 0x1000, 1) for index in range(65)), "expected 1 to 64 sections, got 65"),
    ],
)
def test_a_list_of_sev_pages_that_no_build_has_is_refused(sections: tuple, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        _sev(OvmfImage(sev_sections=sections))


@pytest.mark.parametrize(
    ("memory", "reason"),
    [
        (((0x800000, 0x1000, 3),), "expected a BFV and a TD_HOB"),
        (((0x800000, 0x1000, 2), (0x802000, 0x1000, 2)), "expected at most one TD_HOB, got 2"),
        (((0x800000, 0x1000, 2), (0x800000, 0x1000, 3)), "expected ranges apart"),
        (((0x800000, 0x1000, 4),), "expected a known type, got 0x4"),
        (((0xFFFFE000, 0x1000, 2),), "expected ranges apart"),
    ],
)
def test_a_list_of_tdx_pages_that_no_build_has_is_refused(memory: tuple, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        _tdx(OvmfImage(memory=memory))


def _patched(image: OvmfImage, change: Callable[[bytearray, int], None], marker: bytes) -> bytes:
    data = bytearray(image.build())
    change(data, data.rindex(marker))
    return bytes(data)


def _set(offset: int, value: int, form: str = "<I") -> Callable[[bytearray, int], None]:
    return lambda data, start: struct.pack_into(form, data, start + offset, value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set(-16, 0), "expected e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae before it"),
        (_set(8, 2), "expected version 1 of b'TDVF', got 2"),
        (_set(4, 100), "expected 208 bytes before the end of the image, got 100"),
        (_set(16, 0x8000), "inside an image of 32768 bytes, got 24576 at 0x8000"),
        (_set(20, 0x1000), "expected 24576 bytes of content"),
        (_set(44, 2), "expected attributes 0 or 1, got 0x2"),
        (_set(44, 0x80000001), "expected attributes 0 or 1, got 0x80000001"),
        (_set(16 + 64 + 4, 0x1000), "expected no content for TEMP_MEM, got 4096 bytes"),
    ],
)
def test_damage_in_the_list_for_trust_domains_is_refused(
    change: Callable[[bytearray, int], None], reason: str
) -> None:
    data = _patched(OvmfImage(), change, b"TDVF")
    with pytest.raises(FormatError, match=reason):
        read_tdx_metadata(data, read_footer_table(data))


def test_code_without_its_variable_store_is_refused_with_a_hint() -> None:
    data = OvmfImage().build()[0x2000:]
    with pytest.raises(FormatError, match="inside an image of 24576 bytes") as caught:
        read_tdx_metadata(data, read_footer_table(data))
    assert caught.value.hint == "give the whole image, code and variables in one file"


def test_a_distance_that_points_before_the_image_is_refused() -> None:
    data = OvmfImage().build()
    shorter = data[-400:]  # the table is whole, the lists are not
    with pytest.raises(FormatError, match=r"TDX metadata: expected it 16 to 400 bytes before the end"):
        read_tdx_metadata(shorter, read_footer_table(shorter))


def test_an_image_without_a_list_names_what_is_missing() -> None:
    table = struct.pack("<H", 18) + UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le + bytes(32)
    with pytest.raises(FormatError, match=r"TDX metadata: expected e47a6535-.* got none"):
        read_tdx_metadata(table, read_footer_table(table))
    with pytest.raises(FormatError, match=r"SEV metadata: expected dc886566-.* got none"):
        read_sev_metadata(table, read_footer_table(table))


def test_two_images_that_differ_in_a_section_are_read_as_different() -> None:
    assert _sev(OvmfImage()) != _sev(replace(OvmfImage(), sev_sections=AMD_SEV_SECTIONS[:-1]))


def test_lists_that_name_more_memory_than_a_measurement_is_worth_are_refused() -> None:
    areas = [(0x8000000 * index, 0x8000000) for index in (1, 2, 3)]
    image = OvmfImage(sev_sections=[(*area, 1) for area in areas]).build()
    with pytest.raises(FormatError, match="SEV metadata: expected at most 0x10000000 bytes in all"):
        read_sev_metadata(image, read_footer_table(image))
    image = OvmfImage(memory=[*((*area, 3) for area in areas), (0x1000, 0x1000, 2)]).build()
    with pytest.raises(FormatError, match="TDX metadata: expected at most 0x10000000 bytes in all"):
        read_tdx_metadata(image, read_footer_table(image))
