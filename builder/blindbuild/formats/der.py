"""DER: the few types that a signature over a PE image is made of, written and strictly read.

`cryptography` writes no SignedData over Authenticode content, and its general ASN.1 interface is not yet
stable; see docs/adr/0007-secure-boot-signing.md.

Source: ITU-T X.690 (02/2021), 8.1 (identifier and length octets), 8.3, 8.19 and 10.1 to 11.6 (DER).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from blindbuild.errors import FormatError

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
OBJECT_IDENTIFIER = 0x06
SEQUENCE = 0x30
SET = 0x31
CONTEXT = 0x80  # class bits of [n] over a primitive value
CONSTRUCTED = 0x20
MAX_ARC = 1 << 28  # real identifiers stay far below; bounds a number's digits

_LONG_FORM = 0x80
_HIGH_TAG_NUMBER = 0x1F
_MAX_LENGTH_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Element:
    """One value: its identifier octet, its contents, and both with the length as they were read."""

    tag: int
    content: bytes
    encoded: bytes


def write_element(tag: int, *contents: bytes) -> bytes:
    """Return a value with its identifier and the shortest length (X.690, 10.1)."""
    content = b"".join(contents)
    size = len(content)
    if size < _LONG_FORM:
        return bytes((tag, size)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, _LONG_FORM | len(octets))) + octets + content


def write_sequence(*elements: bytes) -> bytes:
    """Return a SEQUENCE of values that are encoded already."""
    return write_element(SEQUENCE, *elements)


def write_set(*elements: bytes) -> bytes:
    """Return a SET OF, its members in the order of their bytes (X.690, 11.6)."""
    return write_element(SET, *sorted(elements))


def write_integer(value: int) -> bytes:
    """Return a non-negative INTEGER in the fewest octets."""
    return write_element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def write_object_identifier(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER from its dotted form (X.690, 8.19)."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    return write_element(
        OBJECT_IDENTIFIER, b"".join(_write_arc(arc) for arc in (40 * first + second, *others))
    )


def read_object_identifier(element: Element) -> str:
    """Return the dotted form of an OBJECT IDENTIFIER.

    Raises:
        FormatError: another type, or arcs that are cut off, padded or too large.
    """
    content = require(element, OBJECT_IDENTIFIER, "an object identifier").content
    if not content or content[-1] & _LONG_FORM:
        raise FormatError("der: expected an object identifier that ends, got a cut-off arc")
    arcs: list[int] = []
    value = 0
    for octet in content:
        if value == 0 and octet == _LONG_FORM:
            raise FormatError("der: expected arcs without leading zeros")
        value = value << 7 | octet & 0x7F
        if value > MAX_ARC:
            raise FormatError(f"der: expected arcs up to {MAX_ARC}, got a larger one")
        if not octet & _LONG_FORM:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (first, arcs[0] - 40 * first, *arcs[1:]))


def read_only(data: bytes) -> Element:
    """Return the one value that `data` is.

    Raises:
        FormatError: malformed, not in its shortest form, or followed by other bytes.
    """
    element, end = _read_at(data, 0)
    if end != len(data):
        raise FormatError(f"der: expected one value of {end} bytes, got {len(data)}")
    return element


def read_first(data: bytes) -> Element:
    """Return the value at the start of `data`, whatever follows it; FormatError if it is malformed."""
    return _read_at(data, 0)[0]


def read_members(element: Element) -> tuple[Element, ...]:
    """Return the values inside a constructed one; FormatError if it is primitive or malformed."""
    if not element.tag & CONSTRUCTED:
        raise FormatError(f"der: expected a constructed value, got identifier 0x{element.tag:02x}")
    return tuple(_read_all(element.content))


def require(element: Element, tag: int, what: str) -> Element:
    """Return `element` if it has this identifier; FormatError otherwise."""
    if element.tag != tag:
        raise FormatError(f"der: expected {what} (0x{tag:02x}), got identifier 0x{element.tag:02x}")
    return element


def _read_all(data: bytes) -> Iterator[Element]:
    position = 0
    while position < len(data):
        element, position = _read_at(data, position)
        yield element


def _read_at(data: bytes, start: int) -> tuple[Element, int]:
    """Return the value at `start` and where the next one begins."""
    if len(data) - start < 2:
        raise FormatError(f"der: cut off: expected identifier and length at {start}")
    tag, first = data[start], data[start + 1]
    if tag & _HIGH_TAG_NUMBER == _HIGH_TAG_NUMBER:
        raise FormatError(f"der: expected a tag number below 31 at {start}")
    octets = first & ~_LONG_FORM if first & _LONG_FORM else 0
    at = start + 2 + octets
    size = int.from_bytes(data[start + 2 : at], "big") if octets else first
    if first == _LONG_FORM or octets > _MAX_LENGTH_OCTETS or at > len(data):
        raise FormatError(f"der: expected a definite length in the data at {start + 1}")
    if octets and (size < _LONG_FORM or not data[start + 2]):
        raise FormatError(f"der: expected the shortest length at {start + 1}")
    end = at + size
    if end > len(data):
        raise FormatError(f"der: cut off: a value at {start} ends at {end} of {len(data)}")
    return Element(tag, data[at:end], data[start:end]), end


def _write_arc(arc: int) -> bytes:
    """Return base-128 digits, all but the last one marked."""
    digits = [arc & 0x7F]
    while arc := arc >> 7:
        digits.append(arc & 0x7F | _LONG_FORM)
    return bytes(reversed(digits))
