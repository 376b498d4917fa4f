"""Strict JSON and its RFC 8785 form."""

from __future__ import annotations

import pytest

from blindbuild.errors import CanonicalError
from blindbuild.formats.canonical import canonical_bytes, parse_canonical, parse_json

# number in VERIFIER.md 3.2 or a name, the document, and what the message must say
REFUSED = {
    "18 duplicate key": (b'{"a":1,"a":1}', "duplicate key 'a'"),
    "19 NaN": (b'{"a":NaN}', "expected an integer, got NaN"),
    "19 Infinity": (b"[-Infinity]", "expected an integer, got -Infinity"),
    "20 float": (b'{"sequence":42.0}', "expected an integer, got 42.0"),
    "exponent": (b"[1e2]", "expected an integer, got 1e2"),
    "huge exponent": (b"[1e400]", "expected an integer, got 1e400"),
    "21 integer 2^53": (b"[9007199254740992]", "integer below 2^53"),
    "integer of many digits": (b"[" + b"9" * 5000 + b"]", "integer below 2^53"),
    "minus zero": (b"[-0]", "integer below 2^53"),
    "24 BOM": (b'\xef\xbb\xbf{"a":1}', "byte order mark"),
    "25 invalid UTF-8": (b'["\xff"]', "not UTF-8 at byte 2"),
    "encoded surrogate": (b'["\xed\xa0\x80"]', "not UTF-8 at byte 2"),
    "26 lone surrogate escape": (b'["\\ud800"]', "lone surrogate at character 0"),
    "27 depth 10^5": (b"[" * 100_000 + b"]" * 100_000, "nested deeper than 32"),
    "depth 34": (b"[" * 34 + b"]" * 34, "nested deeper than 32"),
    "28 trailing bytes": (b"{} {}", "Extra data"),
    "trailing NUL": (b"{}\0", "Extra data"),
    "non-ASCII key": ('{"é":1}'.encode(), "expected ASCII keys"),
    "empty": (b"", "not JSON"),
    "control character": (b'["\x01"]', "not JSON"),
    "leading zero": (b"[01]", "not JSON"),
    "comment": (b"[] // x", "not JSON"),
    "single quotes": (b"['a']", "not JSON"),
    "UTF-16": ('{"a":1}'.encode("utf-16"), "not UTF-8"),
}
NOT_CANONICAL = {
    "white space": b'{"a": 1}',
    "key order": b'{"b":1,"a":2}',
    "escaped slash": b'["\\/"]',
    "escaped letter": b'["\\u0061"]',
    "final newline": b"{}\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_json_that_two_readers_could_read_differently_is_refused(name: str) -> None:
    document, message = REFUSED[name]
    with pytest.raises(CanonicalError, match=message.replace("^", r"\^")):
        parse_json(document)


def test_what_takes_far_more_memory_than_bytes_is_refused_before_it_is_parsed() -> None:
    for many in (
        b"[" + b"[]," * 300_000 + b"0]",
        b"[" + b"0," * 600_000 + b"0]",
        b"[" + b"{}," * 300_000 + b"0]",
    ):
        with pytest.raises(CanonicalError, match="at most 524288 values"):
            parse_json(many, max_bytes=len(many))
    parse_json(b"[" + b"0," * 500_000 + b"0]", max_bytes=1 << 20)


def test_a_message_shows_the_beginning_of_what_is_wrong() -> None:
    long = b"a" * 100_000
    for document in (b'{"%s":1,"%s":2}' % (long, long), '{"é%s":1}'.encode() % long):
        with pytest.raises(CanonicalError) as caught:
            parse_json(document)
        assert len(str(caught.value)) < 200
    with pytest.raises(CanonicalError) as caught:
        canonical_bytes({"é" * 100_000: 1})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_json_in_another_form_than_rfc_8785_is_refused(name: str) -> None:
    parse_json(NOT_CANONICAL[name])
    with pytest.raises(CanonicalError, match="RFC 8785 form"):
        parse_canonical(NOT_CANONICAL[name])


def test_a_document_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(CanonicalError, match="at most 10 bytes"):
        parse_json(b"x" * 11, max_bytes=10)


def test_the_largest_integer_and_the_deepest_nesting_are_accepted() -> None:
    assert parse_canonical(b"[9007199254740991,-9007199254740991]") == [2**53 - 1, 1 - 2**53]
    parse_canonical(b"[" * 33 + b"]" * 33)


@pytest.mark.parametrize("value", [1.0, float("nan"), 2**53, {"é": 1}, {1: 2}, ["\ud800"], (1,), b"x"])
def test_values_that_could_not_be_read_back_are_not_written(value: object) -> None:
    with pytest.raises(CanonicalError):
        canonical_bytes(value)  # type: ignore[arg-type]


def test_the_example_of_rfc_8785_section_3_2_3_sorts_as_written_there() -> None:
    # RFC 8785 3.2.2 without the floats and non-ASCII keys that we refuse
    text = (
        '{"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}'
    )
    expected = '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    assert canonical_bytes(parse_json(text.encode())) == expected.encode()
