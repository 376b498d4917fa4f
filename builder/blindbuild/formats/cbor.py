"""The part of CBOR that COSE signatures need, in its one shortest form.

What is hashed or signed here is bytes, so a value has one encoding: definite lengths, shortest heads.
Floats, simple values and indefinite lengths are refused; null is read where the caller expects it; tags are
written, and refused when read.

Source: RFC 8949, 3 (major types) and 4.2.1 (core deterministic encoding), without its order of map keys:
the structures read here have an order of their own.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from blindbuild.errors import FormatError

MAX_DEPTH = 8  # an EIF's signature has 3 levels; bounds recursion
MAX_ITEMS = 1 << 16  # an EIF's signature section of 32 KiB cannot hold more; bounds time and memory


@dataclass(frozen=True, slots=True)
class CborTag:
    """A value with a tag, which says what it is (RFC 8949, 3.4); none is ever read."""

    number: int
    value: CborValue


CborValue = None | int | bytes | str | tuple["CborValue", ...] | dict["CborKey", "CborValue"] | CborTag
CborKey = int | str

_NULL = b"\xf6"  # RFC 8949 3.3: simple value 22
_TAG = 6  # RFC 8949 3: a major type as well, kept apart from those that are read
_IMMEDIATE = 24  # RFC 8949 3: lengths and integers below this are in the head byte itself


class _Major(enum.IntEnum):
    UNSIGNED = 0
    NEGATIVE = 1
    BYTES = 2
    TEXT = 3
    ARRAY = 4
    MAP = 5


def encode_cbor(value: CborValue) -> bytes:
    """Return the encoding of a value; a map keeps the order of its keys.

    Raises:
        FormatError: an integer of more than 64 bits, or a boolean.
    """
    match value:
        case None:
            return _NULL
        case bool():
            raise FormatError("CBOR: expected no boolean")
        case int():
            return _head(_Major.UNSIGNED, value) if value >= 0 else _head(_Major.NEGATIVE, -1 - value)
        case bytes():
            return _head(_Major.BYTES, len(value)) + value
        case str():
            text = value.encode("utf-8")
            return _head(_Major.TEXT, len(text)) + text
        case _:
            return _encode_nested(value)


def decode_cbor(data: bytes, *, nulls: bool = False) -> CborValue:
    """Return the one value that `data` encodes.

    Args:
        data: the encoding.
        nulls: read the simple value null, as None; without it there is none in what is returned.

    Raises:
        FormatError: not in the form that `encode_cbor` gives, of a kind that is not read here, too deep, too
            many items, a key twice, or bytes left over.
    """
    reader = _Reader(data, nulls=nulls)
    value = reader.value(MAX_DEPTH)
    if reader.position != len(data):
        raise FormatError(f"CBOR: expected an end at byte {reader.position}, got {len(data)} bytes")
    if encode_cbor(value) != data:
        raise FormatError("CBOR: expected the shortest encoding")
    return value


def _encode_nested(value: tuple[CborValue, ...] | dict[CborKey, CborValue] | CborTag) -> bytes:
    match value:
        case tuple():
            return _head(_Major.ARRAY, len(value)) + b"".join(map(encode_cbor, value))
        case dict():
            pairs = (encode_cbor(key) + encode_cbor(item) for key, item in value.items())
            return _head(_Major.MAP, len(value)) + b"".join(pairs)
        case CborTag():
            return _head(_TAG, value.number) + encode_cbor(value.value)


def _head(major: int, number: int) -> bytes:
    lead = major << 5
    if number < _IMMEDIATE:
        return bytes((lead | number,))
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes((lead | code,)) + number.to_bytes(size, "big")
    raise FormatError("CBOR: expected an integer of at most 64 bits")


class _Reader:
    def __init__(self, data: bytes, *, nulls: bool) -> None:
        self._data = data
        self._nulls = nulls
        self._items = 0
        self.position = 0

    def value(self, depth: int) -> CborValue:
        self._items += 1
        if depth == 0 or self._items > MAX_ITEMS:
            raise FormatError(f"CBOR: expected at most {MAX_DEPTH} levels and {MAX_ITEMS} items")
        return None if self._nulls and self._take_null() else self._not_null(depth)

    def _not_null(self, depth: int) -> CborValue:
        major, number = self._read_head()
        match major:
            case _Major.UNSIGNED:
                return number
            case _Major.NEGATIVE:
                return -1 - number
            case _Major.BYTES:
                return self._take(number)
            case _Major.TEXT:
                return self._text(number)
            case _Major.ARRAY:
                return tuple(self.value(depth - 1) for _ in range(self._count(number)))
            case _Major.MAP:
                return self._map(self._count(number), depth)

    def _take_null(self) -> bool:
        found = self._data.startswith(_NULL, self.position)
        self.position += found
        return found

    def _read_head(self) -> tuple[_Major, int]:
        first = self._take(1)[0]
        major, information = first >> 5, first & 0x1F
        if major not in list(_Major):
            raise FormatError(f"CBOR: major type {major} is not read here")
        if information < _IMMEDIATE:
            return _Major(major), information
        sizes = {24: 1, 25: 2, 26: 4, 27: 8}
        if information not in sizes:
            raise FormatError("CBOR: expected a definite length")
        return _Major(major), int.from_bytes(self._take(sizes[information]), "big")

    def _take(self, size: int) -> bytes:
        taken = self._data[self.position : self.position + size]
        if len(taken) != size:
            raise FormatError(f"CBOR: cut off: expected {size} bytes at {self.position}, got {len(taken)}")
        self.position += size
        return taken

    def _count(self, number: int) -> int:
        # each item takes a byte at least, so a head cannot promise more than there is
        if number > len(self._data) - self.position:
            raise FormatError(f"CBOR: cut off: expected {number} items at {self.position}")
        return number

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError("CBOR: expected text in UTF-8") from error

    def _map(self, size: int, depth: int) -> CborValue:
        pairs: dict[CborKey, CborValue] = {}
        for _ in range(size):
            key = self.value(depth - 1)
            if not isinstance(key, int | str):
                raise FormatError("CBOR: expected keys that are integers or text")
            if key in pairs:
                raise FormatError(f"CBOR: duplicate key {repr(key)[:80]}")
            pairs[key] = self.value(depth - 1)
        return pairs
