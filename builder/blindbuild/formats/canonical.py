"""Strict JSON in, RFC 8785 out.

What is signed here is bytes, and whoever reads them must see what the signer saw: no duplicate keys, no
numbers that two parsers read differently, no text that is not text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Never, cast

import rfc8785

from blindbuild.errors import CanonicalError

JsonValue = None | bool | int | str | list["JsonValue"] | dict[str, "JsonValue"]

MAX_BYTES = 1 << 20  # a statement of three banks is below 64 KiB; bounds time and memory
MAX_VALUES = 1 << 19  # of any document: a list of empty lists takes 25 times its bytes of memory
MAX_DEPTH = 32  # a statement has 9 levels; bounds recursion here and in any other parser
INTEGER_LIMIT = 1 << 53  # RFC 8785 3.2.2.3: above this an IEEE 754 double is not exact
_MAX_INTEGER_DIGITS = 16  # 2^53 has 16; refused before int() is paid for
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def parse_json(data: bytes, *, max_bytes: int = MAX_BYTES) -> JsonValue:
    """Parse one JSON value, strictly.

    Args:
        data: the whole document, UTF-8 without a byte order mark.
        max_bytes: refuse anything longer, before it is parsed.

    Returns:
        None, bool, int, str, list or dict; never a float.

    Raises:
        CanonicalError: malformed, too long, too deep, too many values, a duplicate or non-ASCII key, a number
            that is not an integer below 2^53, or text with a lone surrogate.

    Source: RFC 8259; RFC 7493 (I-JSON) 2.1-2.3.
    """
    if len(data) > max_bytes:
        raise CanonicalError(f"expected at most {max_bytes} bytes of JSON, got {len(data)}")
    if data.startswith(_BYTE_ORDER_MARK):
        raise CanonicalError("JSON starts with a byte order mark")
    # each value but the first follows one of these; those inside texts count as well
    if sum(map(data.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise CanonicalError(f"expected at most {MAX_VALUES} values in JSON")
    try:
        value = cast(JsonValue, _DECODER.decode(data.decode("utf-8")))
    except UnicodeDecodeError as error:
        raise CanonicalError(f"JSON is not UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise CanonicalError(f"not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error
    except RecursionError as error:
        raise CanonicalError(f"JSON is nested deeper than {MAX_DEPTH} levels") from error
    _check_values(value)
    return value


def canonical_bytes(value: JsonValue) -> bytes:
    """Return the RFC 8785 form of a value.

    Raises:
        CanonicalError: a float, an integer of 2^53 or more, or anything else `parse_json` would refuse.
    """
    _check_values(value)
    try:
        return rfc8785.dumps(value)
    except rfc8785.CanonicalizationError as error:
        raise CanonicalError(f"cannot be written as RFC 8785 JSON: {error}") from error


def parse_canonical(data: bytes, *, max_bytes: int = MAX_BYTES) -> JsonValue:
    """Parse JSON that must be in its RFC 8785 form, byte for byte.

    Raises:
        CanonicalError: as `parse_json`, or the bytes are not the canonical form of what they say.
    """
    value = parse_json(data, max_bytes=max_bytes)
    expected = canonical_bytes(value)
    if expected != data:
        position = next(
            (i for i, (a, b) in enumerate(zip(expected, data, strict=False)) if a != b),
            min(len(expected), len(data)),
        )
        raise CanonicalError(f"JSON is not in its RFC 8785 form: first difference at byte {position}")
    return value


def _object(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    result: dict[str, JsonValue] = {}
    for key, value in pairs:
        if not key.isascii():
            raise CanonicalError(f"expected ASCII keys, got {key[:80]!r}")
        if key in result:
            raise CanonicalError(f"duplicate key {key[:80]!r}")
        result[key] = value
    return result


def _integer(text: str) -> int:
    # "-0" is an integer for Python and a float for ECMAScript
    if len(text.lstrip("-")) > _MAX_INTEGER_DIGITS or text == "-0" or not text.isascii():
        raise CanonicalError(f"expected an integer below 2^53, got {text[:40]}")
    return int(text)


def _no_float(text: str) -> Never:
    raise CanonicalError(f"expected an integer, got {text[:40]}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=_no_float, parse_constant=_no_float
)


def _check_values(root: JsonValue) -> None:
    # by hand, level by level: a recursive walk would need the depth limit it is there to enforce
    level: list[JsonValue] = [root]
    for _depth in range(MAX_DEPTH + 1):
        for value in level:
            _check_scalar(value)
        level = [child for value in level for child in _children(value)]
        if not level:
            return
    raise CanonicalError(f"JSON is nested deeper than {MAX_DEPTH} levels")


def _children(value: JsonValue) -> Iterator[JsonValue]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _check_scalar(value: JsonValue) -> None:
    match value:
        case None | bool() | list():
            return
        case int():
            if abs(value) >= INTEGER_LIMIT:
                raise CanonicalError(f"expected an integer below 2^53, got {value}")
        case str():
            _check_text(value)
        case dict():
            for key in value:
                if not isinstance(key, str) or not key.isascii():
                    raise CanonicalError(f"expected ASCII keys, got {str(key)[:80]!r}")
        case _:
            raise CanonicalError(f"expected a JSON value without floats, got {type(value).__name__}")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CanonicalError(f"text with a lone surrogate at character {error.start}") from error
