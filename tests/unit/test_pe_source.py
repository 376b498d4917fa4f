"""PE images that are not in memory: what is read of them, and the limits that hold instead."""

from __future__ import annotations

import struct

import pytest

from blindbuild.errors import PeError
from blindbuild.formats.pe_image import (
    MACHINE_AMD64,
    MACHINE_ARM64,
    MAX_SECTION_DATA,
    MAX_SECTIONS,
    read_pe_source,
)
from blindbuild.formats.source import BytesSource
from tests.fakes.pe_image import OPTIONAL, PE_OFFSET, FakeSection, make_pe

IMAGE = make_pe()
TABLE = OPTIONAL + 112 + 8 * 16


class SparseSource:
    """A file that is an image and then zeros, and notes how much of it was read."""

    def __init__(self, head: bytes, size: int) -> None:
        self.head = head
        self.size = size
        self.taken = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the image, or zeros behind it."""
        self.taken += size
        return self.head[offset : offset + size].ljust(size, b"\0")


def test_only_headers_are_read() -> None:
    source = SparseSource(IMAGE, 3 << 30)
    image = read_pe_source(source)
    assert [section.name for section in image.sections] == [".text", ".data"]
    assert source.taken < 1024


def test_a_file_beyond_32_bits_is_refused() -> None:
    with pytest.raises(PeError, match="expected at most 4294967295 bytes, got 4294967296"):
        read_pe_source(SparseSource(IMAGE, 1 << 32))
    with pytest.raises(PeError, match="expected at most 4096 bytes, got 4097"):
        read_pe_source(SparseSource(IMAGE, 4097), max_size=4096)


def test_the_data_of_a_section_is_not_made_longer_than_memory_allows() -> None:
    image = bytearray(IMAGE)
    size = MAX_SECTION_DATA + 1
    struct.pack_into("<I", image, TABLE + 40 + 8, size)
    struct.pack_into("<I", image, OPTIONAL + 56, 8192 + size)
    found = read_pe_source(BytesSource(bytes(image)))
    assert found.section_data(".text") == b"code" * 100
    with pytest.raises(PeError, match=r"\.data: expected at most 1073741824 bytes, got 1073741825"):
        found.section_data(".data")


def test_the_accepted_machines_are_a_choice() -> None:
    arm = bytearray(IMAGE)
    struct.pack_into("<H", arm, PE_OFFSET + 4, MACHINE_ARM64)
    with pytest.raises(PeError, match="expected machine 0x8664, got 0xaa64"):
        read_pe_source(BytesSource(bytes(arm)))
    both = (MACHINE_AMD64, MACHINE_ARM64)
    assert read_pe_source(BytesSource(bytes(arm)), machines=both).data == bytes(arm)
    struct.pack_into("<H", arm, PE_OFFSET + 4, 0x14C)
    with pytest.raises(PeError, match="expected machine 0x8664 or 0xaa64, got 0x014c"):
        read_pe_source(BytesSource(bytes(arm)), machines=both)


def test_more_sections_are_accepted_where_profiles_multiply_them() -> None:
    count = MAX_SECTIONS - 6  # what the fake's headers have room for
    many = make_pe([FakeSection(f".s{i}".encode(), b"x") for i in range(count)], size_of_headers=4096)
    with pytest.raises(PeError, match=f"expected 1 to 20 sections, got {count}"):
        read_pe_source(BytesSource(many), max_sections=20)
    assert len(read_pe_source(BytesSource(many), max_sections=count).sections) == count
