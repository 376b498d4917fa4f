"""Kinds of values a recipe can hold: each reads itself from a node, and describes itself as JSON Schema.

One definition serves the reader, the schema and the documentation, so they cannot drift apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from blindbuild.assemble.recipe_yaml import Entry, Items, Node, Scalar, Table, Where
from blindbuild.errors import RecipeError

Value = str | int | tuple["Value", ...] | Mapping[str, "Value"] | None
Schema = dict[str, object]

TEMPLATE_SCHEMA: Schema = {"$ref": "#/$defs/template"}
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_SIZE = re.compile(r"([1-9][0-9]{0,17})([KMG]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Kind(Protocol):
    """What a field can be."""

    def read(self, node: Node, at: str) -> Value:
        """Return the node's value; RecipeError if it is not of this kind."""
        ...

    def schema(self) -> Schema:
        """Return JSON Schema that accepts what `read` accepts, and templates."""
        ...

    def describe(self) -> str:
        """Return what is expected, as the middle of a sentence."""
        ...


@dataclass(frozen=True, slots=True)
class Text:
    """Text that matches a pattern (valid in Python and ECMA-262) as a whole."""

    what: str
    pattern: str
    hint: str | None = None

    def read(self, node: Node, at: str) -> Value:
        scalar = _text_scalar(node, at, self.what, self.hint)
        if re.fullmatch(self.pattern, scalar.text, re.ASCII) is None:
            raise mistake(scalar.where, at, self.what, show(scalar), self.hint)
        return scalar.text

    def schema(self) -> Schema:
        pattern = f"^(?:{self.pattern})$"
        return {"anyOf": [{"type": "string", "pattern": pattern}, TEMPLATE_SCHEMA]}

    def describe(self) -> str:
        return self.what


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range, in plain decimal digits."""

    minimum: int
    maximum: int

    def read(self, node: Node, at: str) -> Value:
        scalar = as_scalar(node, at, self.describe())
        if (scalar.quoted and not scalar.templated) or not _NUMBER.fullmatch(scalar.text):
            hint = "remove the quotes" if scalar.quoted and _NUMBER.fullmatch(scalar.text) else None
            raise mistake(scalar.where, at, self.describe(), show(scalar), hint or "use decimal digits only")
        if not self.minimum <= int(scalar.text) <= self.maximum:
            raise mistake(scalar.where, at, self.describe(), scalar.text)
        return int(scalar.text)

    def schema(self) -> Schema:
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        return {"anyOf": [number, TEMPLATE_SCHEMA]}

    def describe(self) -> str:
        return f"a whole number from {self.minimum} to {self.maximum}"


@dataclass(frozen=True, slots=True)
class Size:
    """A number of bytes, with K, M or G for 2^10, 2^20, 2^30."""

    minimum: int
    maximum: int

    def read(self, node: Node, at: str) -> Value:
        scalar = as_scalar(node, at, self.describe())
        match = _SIZE.fullmatch(scalar.text)
        if match is None or (scalar.quoted and not scalar.templated and not match[2]):
            raise mistake(scalar.where, at, self.describe(), show(scalar), "write 512M, for example")
        size = int(match[1]) * _UNITS[match[2]]
        if not self.minimum <= size <= self.maximum:
            raise mistake(scalar.where, at, self.describe(), scalar.text)
        return size

    def schema(self) -> Schema:
        number = {"type": "integer", "minimum": self.minimum, "maximum": self.maximum}
        text = {"type": "string", "pattern": "^[1-9][0-9]{0,17}[KMG]$"}
        return {"anyOf": [number, text, TEMPLATE_SCHEMA]}

    def describe(self) -> str:
        return f"a size from {write_size(self.minimum)} to {write_size(self.maximum)}"


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few words; `later` are words the specification has and this version does not do."""

    words: tuple[str, ...]
    later: tuple[str, ...] = ()

    def read(self, node: Node, at: str) -> Value:
        scalar = _text_scalar(node, at, self.describe(), None)
        if scalar.text in self.later:
            raise not_yet(scalar.where, f"{at}: `{scalar.text}`", f"use {self.describe()}")
        if scalar.text not in self.words:
            raise mistake(
                scalar.where, at, self.describe(), show(scalar), did_you_mean(scalar.text, self.words)
            )
        return scalar.text

    def schema(self) -> Schema:
        return {"anyOf": [{"enum": list(self.words)}, TEMPLATE_SCHEMA]}

    def describe(self) -> str:
        return " or ".join(f"`{word}`" for word in self.words)


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of distinct values of one kind."""

    item: Kind
    minimum: int = 0
    maximum: int = 256
    distinct: bool = True

    def read(self, node: Node, at: str) -> Value:
        if not isinstance(node, Items):
            raise mistake(node.where, at, self.describe(), show(node), "write [one, two], or lines with `- `")
        if not self.minimum <= len(node.items) <= self.maximum:
            raise mistake(node.where, at, self.describe(), f"{len(node.items)} entries")
        values: list[Value] = []
        for index, child in enumerate(node.items):
            value = self.item.read(child, f"{at}[{index}]")
            if self.distinct and value in values:
                raise RecipeError(f"{at}[{index}]: {show(child)} stands here twice", where=str(child.where))
            values.append(value)
        return tuple(values)

    def schema(self) -> Schema:
        result: Schema = {"type": "array", "items": complete_schema(self.item), "maxItems": self.maximum}
        if self.minimum:
            result["minItems"] = self.minimum
        if self.distinct:
            result["uniqueItems"] = True
        return result

    def describe(self) -> str:
        least = f"{self.minimum} to " if self.minimum else "at most "
        return f"a list ({least}{self.maximum}) of {self.item.describe()}"


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a record.

    Attributes:
        name: the key.
        kind: what its value is.
        about: one sentence for people.
        required: it must be there (in a record: unless nothing in it is required).
        default: its value when absent and not required.
        default_text: how documentation writes the default, where the value says it badly.
    """

    name: str
    kind: Kind
    about: str
    required: bool = False
    default: Value = None
    default_text: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """A table with fixed keys; a record in a record may be absent if nothing in it is required."""

    fields: tuple[Field, ...]
    later: Mapping[str, str] = field(default_factory=dict)

    def read(self, node: Node, at: str) -> Value:
        if not isinstance(node, Table):
            raise mistake(node.where, at or "the recipe", self.describe(), show(node))
        for key, entry in node.entries.items():
            self._check_key(key, entry, at)
        # What is there comes first, so that a wrong value is told before one that it may have replaced.
        present = {
            item.name: item.kind.read(node.entries[item.name].node, join(at, item.name))
            for item in self.fields
            if item.name in node.entries
        }
        return {
            item.name: present[item.name] if item.name in present else self._read_absent(item, node, at)
            for item in self.fields
        }

    def _check_key(self, key: str, entry: Entry, at: str) -> None:
        names = tuple(item.name for item in self.fields)
        if key in names:
            return
        if key in self.later:
            raise not_yet(entry.key_where, f"`{join(at, key)}`", self.later[key])
        raise RecipeError(
            f"unknown key `{key}`{f' in `{at}`' if at else ''}",
            where=str(entry.key_where),
            hint=did_you_mean(key, names) or f"known keys: {', '.join(names)}",
        )

    def _read_absent(self, item: Field, table: Table, at: str) -> Value:
        if isinstance(item.kind, Record):
            return item.kind.read(Table({}, table.where), join(at, item.name))
        if not item.required:
            return item.default
        raise RecipeError(
            f"`{join(at, item.name)}` is missing: expected {item.kind.describe()}",
            where=str(table.where),
            hint=item.about,
        )

    def schema(self) -> Schema:
        properties = {item.name: {**item.kind.schema(), "description": item.about} for item in self.fields}
        return {"type": "object", "additionalProperties": False, "properties": properties}

    def requirements(self) -> Schema:
        """Return the schema of what must be there once everything is merged."""
        nested = {
            item.name: needs
            for item in self.fields
            if isinstance(item.kind, Record) and (needs := item.kind.requirements())
        }
        names = [item.name for item in self.fields if item.required or item.name in nested]
        result: Schema = {"required": names} if names else {}
        return {**result, "properties": nested} if nested else result

    def describe(self) -> str:
        return f"a table with {', '.join(item.name for item in self.fields)}"


@dataclass(frozen=True, slots=True)
class WordOr:
    """A fixed word, or a record."""

    word: str
    record: Record

    def read(self, node: Node, at: str) -> Value:
        if isinstance(node, Table):
            return self.record.read(node, at)
        if isinstance(node, Scalar) and node.text == self.word:
            return self.word
        raise mistake(node.where, at, self.describe(), show(node))

    def schema(self) -> Schema:
        return {"anyOf": [{"const": self.word}, complete_schema(self.record), TEMPLATE_SCHEMA]}

    def describe(self) -> str:
        return f"`{self.word}` or {self.record.describe()}"


def complete_schema(kind: Kind) -> Schema:
    """Return a kind's schema together with what it requires."""
    if isinstance(kind, Record):
        return {**kind.requirements(), **kind.schema()}
    return kind.schema()


def as_scalar(node: Node, at: str, expected: str) -> Scalar:
    """Return the node if it is a single value; RecipeError otherwise."""
    if not isinstance(node, Scalar):
        raise mistake(node.where, at, expected, show(node))
    return node


def _text_scalar(node: Node, at: str, expected: str, hint: str | None) -> Scalar:
    scalar = as_scalar(node, at, expected)
    if scalar.yaml_type == "null" or (scalar.yaml_type != "str" and scalar.text == ""):
        raise mistake(scalar.where, at, expected, "nothing", hint)
    if scalar.yaml_type != "str" and not scalar.templated:
        raise mistake(scalar.where, at, expected, show(scalar), f'write "{scalar.text}" in quotes')
    return scalar


def mistake(where: Where, at: str, expected: str, got: str, hint: str | None = None) -> RecipeError:
    """Return the error for a value of the wrong kind."""
    return RecipeError(f"{at}: expected {expected}, got {got}", where=str(where), hint=hint)


def not_yet(where: Where, what: str, hint: str) -> RecipeError:
    """Return the error for something the specification has and this version does not do."""
    return RecipeError(f"{what} is not implemented in this version", where=str(where), hint=hint)


def show(node: Node) -> str:
    """Return a value as an error message shows it."""
    if isinstance(node, Items):
        return "a list"
    if isinstance(node, Table):
        return "a table"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "…"
    if node.quoted or node.templated:
        return f'"{text}"'
    if node.yaml_type == "str":
        return f"`{text}`"
    return f"`{text}`, which YAML reads as {node.meaning()}" if text else "nothing"


def did_you_mean(word: str, words: Iterable[str]) -> str | None:
    """Return a hint with the nearest word, if one is near."""
    from difflib import get_close_matches  # only on the way to an error

    near = get_close_matches(word.lower(), sorted(words), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None


def join(at: str, name: str) -> str:
    """Return the dotted path of a key."""
    return f"{at}.{name}" if at else name


def write_size(size: int) -> str:
    """Write bytes the way a recipe may."""
    for unit, factor in reversed(_UNITS.items()):
        if size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)
