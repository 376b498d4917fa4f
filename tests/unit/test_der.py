"""DER against values worked out from X.690 by hand, and against what OpenSSL reads."""

from __future__ import annotations

import pytest
from cryptography.x509 import ObjectIdentifier
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.der import (
    OCTET_STRING,
    SEQUENCE,
    read_first,
    read_members,
    read_object_identifier,
    read_only,
    require,
    write_element,
    write_integer,
    write_object_identifier,
    write_sequence,
    write_set,
)
from tests.fakes.damage import assert_all_refused, truncations


@pytest.mark.parametrize(
    ("size", "head"),
    [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff"), (256, "04820100"), (65536, "0483010000")],
)
def test_a_length_has_the_fewest_octets(size: int, head: str) -> None:
    encoded = write_element(OCTET_STRING, bytes(size))
    assert encoded[: len(head) // 2].hex() == head
    assert read_only(encoded).content == bytes(size)


@pytest.mark.parametrize(
    ("value", "encoded"),
    [(0, "020100"), (1, "020101"), (127, "02017f"), (128, "02020080"), (256, "02020100")],
)
def test_an_integer_is_never_negative_by_accident(value: int, encoded: str) -> None:
    assert write_integer(value).hex() == encoded


def test_members_of_a_set_are_in_the_order_of_their_bytes() -> None:
    assert write_set(write_integer(2), write_integer(1)).hex() == "3106020101020102"


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("1.2.840.113549.1.7.2", "06092a864886f70d010702"),
        ("2.999", "06028837"),
        ("1.3.14.3.2.26", "06052b0e03021a"),
    ],
)
def test_object_identifiers_are_those_of_known_encodings(dotted: str, encoded: str) -> None:
    assert write_object_identifier(dotted).hex() == encoded
    assert read_object_identifier(read_only(bytes.fromhex(encoded))) == dotted


@given(
    st.lists(st.integers(0, (1 << 28) - 100), min_size=1, max_size=8), st.integers(0, 2), st.integers(0, 39)
)
def test_object_identifiers_round_trip_and_the_library_knows_them_too(
    arcs: list[int], first: int, second: int
) -> None:
    dotted = ".".join(map(str, (first, second, *arcs)))
    assert read_object_identifier(read_only(write_object_identifier(dotted))) == dotted
    assert ObjectIdentifier(dotted).dotted_string == dotted


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "cut off"),
        ("30", "cut off"),
        ("3080", "definite length"),
        ("30850000000001", "definite length"),
        ("308203", "definite length"),
        ("30810100", "shortest length"),
        ("3082000100", "shortest length"),
        ("3003020101ff", "expected one value of 5 bytes, got 6"),
        ("3004020101", "ends at 6 of 5"),
        ("3f0100", "tag number below 31"),
    ],
)
def test_what_is_not_the_one_encoding_of_one_value_is_refused(encoded: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_only(bytes.fromhex(encoded))


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("0600", "cut-off arc"),
        ("060186", "cut-off"),
        ("06028001", "leading zeros"),
        ("06062a9080808001", "larger one"),
        ("020101", "an object identifier"),
    ],
)
def test_a_malformed_object_identifier_is_refused(encoded: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        read_object_identifier(read_only(bytes.fromhex(encoded)))


def test_members_are_read_and_primitives_have_none() -> None:
    outer = write_sequence(write_integer(5), write_element(OCTET_STRING, b"x"))
    members = read_members(read_only(outer))
    assert [member.encoded for member in members] == [write_integer(5), b"\x04\x01x"]
    assert require(members[1], OCTET_STRING, "octets").content == b"x"
    with pytest.raises(FormatError, match="expected a constructed value"):
        read_members(members[0])
    with pytest.raises(FormatError, match="expected a sequence"):
        require(members[0], SEQUENCE, "a sequence")


def test_the_first_value_is_read_whatever_follows() -> None:
    assert read_first(write_integer(5) + b"more").encoded == write_integer(5)


def test_every_truncation_is_refused() -> None:
    assert_all_refused(
        read_only, truncations(write_sequence(write_element(OCTET_STRING, bytes(300)))), FormatError
    )
