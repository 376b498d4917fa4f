"""TPM structures: read to their last byte, and written back to the same bytes."""

from __future__ import annotations

import struct

import pytest

from blindbuild.errors import TpmStructureError
from blindbuild.formats.tpm2 import (
    EcdsaSignature,
    attest_magic_and_type,
    parse_quote,
    parse_signature,
    read_sized,
    signature_scheme,
)
from blindbuild.formats.tpmkey import Attribute, EccKey, RsaKey, parse_public, parse_sized_public
from tests.fakes.software_tpm import QuoteShape, sized
from tests.fakes.world import tpm

QUOTE = tpm().attest("sha256", b"n" * 32)
SIGNATURE = tpm().sign(QUOTE)
EK, AK = tpm().ek_public, tpm().ak_public
PARSERS = {
    "quote": (parse_quote, QUOTE),
    "signature": (parse_signature, SIGNATURE),
    "endorsement key": (parse_sized_public, EK),
    "attestation key": (parse_sized_public, AK),
}


def shaped(**changes) -> bytes:
    return tpm().but(shape=QuoteShape(**changes)).attest("sha256", b"n" * 32)


@pytest.mark.parametrize("name", PARSERS)
def test_a_structure_cut_at_any_byte_is_refused(name: str) -> None:  # 103
    parse, data = PARSERS[name]
    for length in range(len(data)):
        with pytest.raises(TpmStructureError):
            parse(data[:length])


@pytest.mark.parametrize("name", PARSERS)
def test_a_byte_too_many_is_refused(name: str) -> None:  # 102
    parse, data = PARSERS[name]
    with pytest.raises(TpmStructureError, match="expected the end"):
        parse(data + b"\0")


@pytest.mark.parametrize("name", PARSERS)
def test_a_flipped_bit_gives_another_value_or_our_error(name: str) -> None:
    parse, data = PARSERS[name]
    honest = parse(data)
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            assert parse(bytes(flipped)) != honest
        except TpmStructureError:
            continue


@pytest.mark.parametrize("name", PARSERS)
def test_a_structure_writes_back_to_the_same_bytes(name: str) -> None:
    parse, data = PARSERS[name]
    written = parse(data).to_bytes()
    assert written == data[2:] if "key" in name else written == data


def test_a_quote_says_what_the_tpm_put_in() -> None:
    quote = parse_quote(QUOTE)
    assert quote.extra_data == b"n" * 32
    assert quote.selections[0].registers == frozenset(range(24))
    assert (quote.clock.clock, quote.clock.reset_count, quote.clock.restart_count) == (3074, 2, 0)
    assert quote.clock.safe
    assert quote.firmware_version == 0x2019102300163636


MALFORMED = {
    "89 magic 0": ({"magic": 0}, "expected magic"),
    "90 certify": ({"attest_type": 0x8017}, "expected type"),
    "98 select size 255": ({"selections": ((11, bytes(255)),)}, "sizeofSelect: expected at most 4"),
    "98 select size 5": ({"selections": ((11, bytes(5)),)}, "sizeofSelect: expected at most 4"),
    "98 17 selections": ({"selections": ((11, b"\xff\xff\xff"),) * 17}, "expected at most 16 selections"),
    "safe is 2": ({"safe": 2}, "safe: expected 0 or 1"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_quote_is_refused(name: str) -> None:
    changes, message = MALFORMED[name]
    with pytest.raises(TpmStructureError, match=message):
        parse_quote(shaped(**changes))


def test_a_selection_count_of_four_billion_costs_nothing() -> None:  # 98
    start = QUOTE.index(struct.pack(">IH", 1, 11))
    with pytest.raises(TpmStructureError, match="expected at most 16 selections, got 4294967295"):
        parse_quote(QUOTE[:start] + b"\xff\xff\xff\xff" + QUOTE[start + 4 :])


@pytest.mark.parametrize("size", [0, 2, 4])
def test_a_selection_of_another_size_is_readable_and_not_the_same(size: int) -> None:  # 98
    quote = parse_quote(shaped(selections=((11, b"\xff" * size),)))
    assert quote.selections[0].registers == frozenset(range(8 * size))


@pytest.mark.parametrize("scheme", [0x0010, 0x0005, 0x001A, 0xFFFF])
def test_an_unknown_signature_scheme_is_refused(scheme: int) -> None:  # 104
    with pytest.raises(TpmStructureError, match="expected ECDSA, RSASSA or RSAPSS"):
        parse_signature(struct.pack(">HH", scheme, 11) + SIGNATURE[4:])


def test_the_first_fields_can_be_read_alone() -> None:
    assert attest_magic_and_type(QUOTE[:6]) == (0xFF544347, 0x8018)
    assert signature_scheme(SIGNATURE[:4]) == (0x0018, 0x000B)


def test_a_signature_keeps_leading_zeros() -> None:
    data = struct.pack(">HH", 0x18, 11) + sized(b"\0\1") + sized(b"\2")
    assert parse_signature(data) == EcdsaSignature(11, b"\0\1", b"\2")


def test_keys_are_read_with_all_their_parameters() -> None:
    ek, ak = parse_sized_public(EK), parse_sized_public(AK)
    assert isinstance(ek.key, RsaKey)
    assert isinstance(ak.key, EccKey)
    assert ek.key.public_exponent == 65537
    assert Attribute(ak.attributes) == (
        Attribute.FIXED_TPM
        | Attribute.FIXED_PARENT
        | Attribute.SENSITIVE_DATA_ORIGIN
        | Attribute.USER_WITH_AUTH
        | Attribute.RESTRICTED
        | Attribute.SIGN
    )
    assert ak.name() == tpm().ak_name


def changed_area(area: bytes, offset: int, value: int) -> bytes:
    return area[:offset] + struct.pack(">H", value) + area[offset + 2 :]


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0x0008, "expected an RSA or ECC key"),
        (10, 0x0013, "symmetric: expected AES or none"),
        (12, 0x001A, "unknown scheme"),
        (18, 0x1234, "unknown kdf"),
    ],
)
def test_an_unknown_algorithm_in_a_public_area_is_refused(offset: int, value: int, message: str) -> None:
    with pytest.raises(TpmStructureError, match=message):
        parse_public(changed_area(tpm().ak_area, offset, value))


def test_a_name_by_an_unknown_hash_is_refused() -> None:
    with pytest.raises(TpmStructureError, match="nameAlg"):
        parse_public(changed_area(tpm().ak_area, 2, 0x0012)).name()


def test_a_structure_longer_than_any_tpm_has_is_refused() -> None:
    with pytest.raises(TpmStructureError, match="at most 4096 bytes"):
        read_sized(bytes(4097), "public area")
