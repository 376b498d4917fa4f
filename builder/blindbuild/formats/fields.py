"""A JSON object read field by field, with nothing unread left over."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, FormatError
from blindbuild.formats.canonical import JsonValue

MAX_PHRASE = 1000  # characters; phrases are shown to people
_MAX_NAMED = 8  # unknown keys that a message names; a hostile object may have very many
_STANDARD = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")


def decode_base64(text: str) -> bytes:
    """Decode standard base64 with padding, and nothing else.

    Raises:
        FormatError: another alphabet, white space, missing padding, or padding bits that are not zero.

    Source: RFC 4648, 3.2, 3.3, 3.5 and 4.
    """
    if not _STANDARD.fullmatch(text):
        raise FormatError("expected standard base64 with padding")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError("expected standard base64 with padding") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise FormatError("expected base64 whose padding bits are zero")
    return data


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


class Fields:
    """The fields of one JSON object; unknown and missing ones are refused at once.

    Args:
        value: the parsed JSON value; anything but an object is refused.
        where: what this object is, for messages, such as `predicate.build`.
        required: the keys that must be there.
        optional: the keys that may be there.
        error: the class of error to raise.
    """

    def __init__(
        self,
        value: JsonValue,
        where: str,
        *,
        required: Collection[str],
        optional: Collection[str] = (),
        error: type[BlindbuildError] = FormatError,
    ) -> None:
        self._where = where
        self._error = error
        if not isinstance(value, dict):
            raise error(f"{where}: expected an object, got {_kind(value)}")
        self._value = value
        missing = sorted(set(required) - value.keys())
        unknown = sorted(value.keys() - set(required) - set(optional))
        if missing:
            raise error(f"{where}: missing {', '.join(missing)}")
        if unknown:
            raise error(f"{where}: unknown {_names(unknown)}")

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def at(self, key: str) -> str:
        """Return the name of a field for messages."""
        return f"{self._where}.{key}"

    def raw(self, key: str) -> JsonValue:
        """Return the value as it was parsed."""
        return self._value[key]

    def fail(self, key: str, message: str) -> BlindbuildError:
        """Return (not raise) an error about this field."""
        return self._error(f"{self.at(key)}: {message}")

    def boolean(self, key: str) -> bool:
        """Return true or false."""
        value = self._value[key]
        if not isinstance(value, bool):
            raise self.fail(key, f"expected true or false, got {_kind(value)}")
        return value

    def integer(self, key: str, *, minimum: int, maximum: int) -> int:
        """Return an integer within bounds; a boolean is not one."""
        value = self._value[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, f"expected an integer, got {_kind(value)}")
        if not minimum <= value <= maximum:
            raise self.fail(key, f"expected {minimum} to {maximum}, got {value}")
        return value

    def text(self, key: str) -> str:
        """Return a string of any content."""
        value = self._value[key]
        if not isinstance(value, str):
            raise self.fail(key, f"expected a string, got {_kind(value)}")
        return value

    def word(self, key: str, allowed: Collection[str]) -> str:
        """Return one of the allowed words."""
        value = self.text(key)
        if value not in allowed:
            raise self.fail(key, f"expected {' or '.join(sorted(allowed))}, got {value[:80]!r}")
        return value

    def token(self, key: str, pattern: re.Pattern[str]) -> str:
        """Return a string that matches the whole pattern."""
        value = self.text(key)
        if not pattern.fullmatch(value):
            raise self.fail(key, f"expected {pattern.pattern}, got {value[:80]!r}")
        return value

    def phrase(self, key: str) -> str:
        """Return text for people: not empty, one line, nothing that could steer a terminal."""
        value = self.text(key)
        if not 0 < len(value) <= MAX_PHRASE or not value.isprintable():
            raise self.fail(key, f"expected 1 to {MAX_PHRASE} printable characters, got {value[:80]!r}")
        return value

    def digest(self, key: str, algorithm: HashAlgorithm) -> Digest:
        """Return a digest written as lower-case hex."""
        try:
            return Digest.from_hex(algorithm, self.text(key))
        except FormatError as error:
            raise self.fail(key, error.message) from error

    def base64(self, key: str, *, max_bytes: int) -> bytes:
        """Return bytes written as standard base64."""
        text = self.text(key)
        if len(text) > 4 * ((max_bytes + 2) // 3):
            raise self.fail(key, f"expected at most {max_bytes} bytes")
        try:
            data = decode_base64(text)
        except FormatError as error:
            raise self.fail(key, error.message) from error
        if len(data) > max_bytes:  # base64 comes in groups of three
            raise self.fail(key, f"expected at most {max_bytes} bytes, got {len(data)}")
        return data

    def array(self, key: str, *, minimum: int = 0, maximum: int) -> list[JsonValue]:
        """Return a list whose length is within bounds."""
        value = self._value[key]
        if not isinstance(value, list):
            raise self.fail(key, f"expected a list, got {_kind(value)}")
        if not minimum <= len(value) <= maximum:
            raise self.fail(key, f"expected {minimum} to {maximum} entries, got {len(value)}")
        return value

    def texts(self, key: str, *, minimum: int = 0, maximum: int) -> tuple[str, ...]:
        """Return a list of strings; an absent optional list is empty."""
        if key not in self._value:
            return ()
        values = self.array(key, minimum=minimum, maximum=maximum)
        texts = tuple(value for value in values if isinstance(value, str))
        if len(texts) != len(values):
            raise self.fail(key, "expected a list of strings")
        return texts


def _names(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _MAX_NAMED} more" if len(keys) > _MAX_NAMED else ""
    return ", ".join(repr(key[:80]) for key in keys[:_MAX_NAMED]) + more


def _kind(value: JsonValue) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int():
            return "an integer"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "an object"
