"""The variable store writer against itself and damaged stores; tests/integration has the oracle."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    EfiVariable,
    pack_boot_order,
    pack_load_option,
    read_variables,
    set_variables,
)
from tests.fakes.variable_store import AREA_START, HEADER_BYTES, STORE_BYTES, VOLUME_BYTES, empty_store

BOOT = EfiVariable(
    EFI_GLOBAL_VARIABLE,
    "Boot0007",
    pack_load_option("operator", r"\EFI\BOOT\BOOTX64.EFI", "evil=1\0".encode("utf-16-le")),
)
ORDER = EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([7]))


def test_an_empty_store_has_no_variables() -> None:
    assert read_variables(empty_store()) == ()


def test_a_variable_set_again_replaces_the_first() -> None:
    image = set_variables(empty_store(), [BOOT, ORDER])
    other = EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([1, 2]))
    assert read_variables(set_variables(image, [other])) == (BOOT, other)


def test_everything_outside_of_the_store_stays() -> None:
    image = empty_store() + b"behind the volume"
    changed = set_variables(image, [BOOT])
    assert changed[:AREA_START] == image[:AREA_START]
    assert changed[HEADER_BYTES + STORE_BYTES :] == image[HEADER_BYTES + STORE_BYTES :]


def test_a_deleted_variable_is_not_returned() -> None:
    image = bytearray(set_variables(empty_store(), [BOOT, ORDER]))
    image[AREA_START + 2] = 0x3D  # VAR_ADDED & VAR_DELETED
    assert read_variables(bytes(image)) == (ORDER,)


variables = st.builds(
    EfiVariable,
    vendor=st.uuids().map(str),
    name=st.text(st.characters(min_codepoint=1, max_codepoint=0xD7FF), min_size=1, max_size=20),
    data=st.binary(max_size=60),
    attributes=st.integers(0, 0xFFFFFFFF),
    monotonic_count=st.integers(0, 0xFFFFFFFFFFFFFFFF),
    timestamp=st.binary(min_size=16, max_size=16),
    key_index=st.integers(0, 0xFFFFFFFF),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(variables, max_size=8, unique_by=lambda variable: (variable.vendor, variable.name)))
def test_what_was_set_is_read_back(some: list[EfiVariable]) -> None:
    assert read_variables(set_variables(empty_store(), some)) == tuple(some)


def test_a_store_cut_anywhere_is_refused() -> None:
    image = set_variables(empty_store(), [BOOT])
    for size in [*range(AREA_START + 200), VOLUME_BYTES - 1]:
        with pytest.raises(FormatError):
            read_variables(image[:size])


# The store's size where it still fits, and reserved fields of the store's and the variable's header.
REDUNDANT = frozenset(
    {HEADER_BYTES + 16, HEADER_BYTES + 17, *range(HEADER_BYTES + 22, AREA_START), AREA_START + 3},
)


def test_a_flipped_bit_gives_our_error_or_another_value() -> None:
    image = set_variables(empty_store(), [BOOT, ORDER])
    good = read_variables(image)
    for position in range(AREA_START + 60 + len("Boot0007") * 2):
        damaged = bytearray(image)
        damaged[position] ^= 0x10
        try:
            assert read_variables(bytes(damaged)) != good or position in REDUNDANT, position
        except FormatError:
            continue


def replaced(image: bytes, position: int, data: bytes) -> bytes:
    return image[:position] + data + image[position + len(data) :]


@pytest.mark.parametrize(
    ("position", "data", "reason"),
    [
        (40, b"_FVX", "expected a non-volatile data volume"),
        (16, bytes(16), "expected a non-volatile data volume"),
        (50, b"\0\0", "checksum"),
        (HEADER_BYTES, bytes(16), "expected a healthy authenticated store"),
        (HEADER_BYTES + 20, b"\xff", "expected a healthy authenticated store"),
        (HEADER_BYTES + 16, struct.pack("<I", VOLUME_BYTES), "the volume has room"),
        (AREA_START, b"\x12\x34", "expected 0x55aa"),
        (AREA_START + 40, struct.pack("<I", 0x10000), "runs over the end"),
        (AREA_START + 36, struct.pack("<I", 3), "no UTF-16"),
        (AREA_START + 36, struct.pack("<I", 16), "does not end in its only NUL"),
        (HEADER_BYTES + STORE_BYTES - 1, b"\0", "not erased"),
    ],
)
def test_a_damaged_store_is_refused_for_its_reason(position: int, data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_variables(replaced(set_variables(empty_store(), [BOOT]), position, data))


def test_variables_that_do_not_fit_are_refused() -> None:
    big = EfiVariable(EFI_GLOBAL_VARIABLE, "Big", bytes(STORE_BYTES))
    with pytest.raises(FormatError, match="room for"):
        set_variables(empty_store(), [big])


@pytest.mark.parametrize("name", ["", "with\0nul"])
def test_a_name_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="cannot write a variable"):
        set_variables(empty_store(), [EfiVariable(EFI_GLOBAL_VARIABLE, name, b"")])
