"""Strict JSON: round trips, and no input gives anything but our error."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import CanonicalError
from blindbuild.formats.canonical import canonical_bytes, parse_canonical, parse_json

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
_SCALARS = st.none() | st.booleans() | st.integers(1 - 2**53, 2**53 - 1) | _TEXT
_KEYS = st.text(st.characters(max_codepoint=127), max_size=8)
VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_what_is_written_reads_back_and_is_canonical(value) -> None:
    data = canonical_bytes(value)
    assert parse_canonical(data) == value
    assert json.loads(data) == value


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")))
def test_any_bytes_give_a_value_or_our_error(data: bytes) -> None:
    try:
        value = parse_json(data)
    except CanonicalError:
        return
    assert json.loads(data) == value


@given(VALUES, st.data())
def test_any_changed_byte_gives_another_value_or_our_error(value, data) -> None:
    document = bytearray(canonical_bytes(value))
    position = data.draw(st.integers(0, len(document) - 1))
    document[position] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(CanonicalError):
        assert parse_canonical(bytes(document)) != value
