"""Whatever the bytes, reading OVMF's tables gives a value that writes back, or our error."""

from __future__ import annotations

import struct
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.ovmf import (
    FooterEntry,
    FooterTable,
    read_footer_table,
    read_sev_metadata,
    read_tdx_metadata,
    sev_es_reset_address,
    sev_hash_area,
    svsm_entry_offset,
    write_footer_table,
)
from tests.fakes.ovmf_image import OvmfImage

IMAGE = OvmfImage(pages=4, variable_pages=1).build()
TABLES = slice(len(IMAGE) - 600, len(IMAGE))  # both lists, the table and what follows it


def _read_all(data: bytes) -> None:
    table = read_footer_table(data)
    written = write_footer_table(table)
    assert data[: len(data) - 32].endswith(written)
    for read in (sev_es_reset_address, sev_hash_area, svsm_entry_offset):
        _or_our_error(lambda read=read: read(table))
    _or_our_error(lambda: read_sev_metadata(data, table))
    _or_our_error(lambda: read_tdx_metadata(data, table))


def _or_our_error(call) -> None:
    with suppress(FormatError):
        call()


@given(
    st.lists(
        st.builds(FooterEntry, st.uuids(), st.binary(max_size=64)), max_size=12, unique_by=lambda e: e.guid
    ),
    st.binary(max_size=200),
)
def test_a_table_that_is_written_is_read_as_it_was(entries: list[FooterEntry], before: bytes) -> None:
    table = FooterTable(tuple(entries))
    assert read_footer_table(before + write_footer_table(table) + bytes(32)) == table


def test_every_cut_gives_a_value_or_our_error() -> None:
    for end in range(len(IMAGE) - 700, len(IMAGE)):
        _or_our_error(lambda end=end: _read_all(IMAGE[:end]))
    for start in range(len(IMAGE) - 700, len(IMAGE)):
        _or_our_error(lambda start=start: _read_all(IMAGE[start:]))


def test_every_flipped_bit_of_the_tables_gives_a_value_or_our_error() -> None:
    for position in range(TABLES.start, TABLES.stop):
        for bit in range(8):
            data = bytearray(IMAGE)
            data[position] ^= 1 << bit
            _or_our_error(lambda data=data: _read_all(bytes(data)))


@given(st.binary(max_size=400), st.integers(0, 0xFFFF))
@settings(max_examples=300)
def test_any_bytes_before_the_footer_give_a_value_or_our_error(body: bytes, size: int) -> None:
    footer = struct.pack("<H", size) + bytes.fromhex("de82b596b21ff745baeaa366c55a082d") + bytes(32)
    _or_our_error(lambda: _read_all(body + footer))
