"""The part of CBOR that is read here, against the examples of the standard."""

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.cbor import MAX_DEPTH, CborValue, decode_cbor, encode_cbor
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations

# RFC 8949, appendix A
EXAMPLES: list[tuple[CborValue, str]] = [
    (0, "00"),
    (1, "01"),
    (10, "0a"),
    (23, "17"),
    (24, "1818"),
    (25, "1819"),
    (100, "1864"),
    (1000, "1903e8"),
    (1000000, "1a000f4240"),
    (1000000000000, "1b000000e8d4a51000"),
    (18446744073709551615, "1bffffffffffffffff"),
    (-18446744073709551616, "3bffffffffffffffff"),
    (-1, "20"),
    (-10, "29"),
    (-100, "3863"),
    (-1000, "3903e7"),
    (b"", "40"),
    (b"\x01\x02\x03\x04", "4401020304"),
    ("", "60"),
    ("a", "6161"),
    ("IETF", "6449455446"),
    ('"\\', "62225c"),
    ("\u00fc", "62c3bc"),
    ("\u6c34", "63e6b0b4"),
    ("\U00010151", "64f0908591"),
    ((), "80"),
    ((1, 2, 3), "83010203"),
    ((1, (2, 3), (4, 5)), "8301820203820405"),
    (tuple(range(1, 26)), "98190102030405060708090a0b0c0d0e0f101112131415161718181819"),
    ({}, "a0"),
    ({1: 2, 3: 4}, "a201020304"),
    ({"a": 1, "b": (2, 3)}, "a26161016162820203"),
    (("a", {"b": "c"}), "826161a161626163"),
]


@pytest.mark.parametrize(("value", "encoded"), EXAMPLES)
def test_the_examples_of_the_standard_encode_and_decode(value: CborValue, encoded: str) -> None:
    assert encode_cbor(value).hex() == encoded
    assert decode_cbor(bytes.fromhex(encoded)) == value


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "cut off"),
        ("1817", "shortest"),
        ("190018", "shortest"),
        ("1b0000000000000001", "shortest"),
        ("5f42010243030405ff", "definite length"),
        ("9fff", "definite length"),
        ("1c", "definite length"),
        ("c074323031332d30332d32315432303a30343a30305a", "major type 6"),
        ("f5", "major type 7"),
        ("f6", "major type 7"),
        ("f90000", "major type 7"),
        ("0000", "expected an end"),
        ("a201020103", "duplicate key 1"),
        ("a1400102", "expected keys"),
        ("61ff", "UTF-8"),
        ("9bffffffffffffffff", "cut off"),
        ("5bffffffffffffffff00", "cut off"),
        ("bb7fffffffffffffff", "cut off"),
        ("81" * MAX_DEPTH + "00", "levels"),
        ("81" * 5000 + "00", "levels"),
    ],
)
def test_what_has_two_readings_or_too_much_is_refused(encoded: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        decode_cbor(bytes.fromhex(encoded))


def test_a_boolean_or_an_integer_that_is_too_large_is_not_written() -> None:
    with pytest.raises(FormatError, match="no boolean"):
        encode_cbor(True)
    with pytest.raises(FormatError, match="64 bits"):
        encode_cbor(1 << 64)


def test_damage_gives_our_error_only() -> None:
    data = encode_cbor(({"signing_certificate": tuple(range(60)), "x": b"abc"}, -35, "text"))
    assert_all_refused(decode_cbor, truncations(data), FormatError)
    assert assert_nothing_else_raised(decode_cbor, bit_flips(data), FormatError) > 0
