"""YAML text to nodes that know where they stand; the only module that imports yaml.

Stricter than YAML: one document, no anchors, aliases, tags or merge keys, no key twice, bounded size and
depth. Scalars keep their text: what a plain `NO` or `0644` means is decided by the field it stands in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import yaml

from blindbuild.errors import RecipeError

MAX_TEXT_BYTES = 256 * 1024  # recipes have a few kilobytes; bounds time and memory
MAX_DEPTH = 16  # the deepest recipe needs 5; libyaml's own composer overflows the stack without a limit

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PREFIX = "tag:yaml.org,2002:"


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
    """A leaf.

    Attributes:
        text: the characters, quotes and escapes resolved, nothing else.
        yaml_type: what YAML 1.1 takes it for: `str int float bool null timestamp merge value`.
        quoted: it stood in quotes or in a block.
        where: its place.
        templated: its text came out of a template, so it has no YAML type of its own.
    """

    text: str
    yaml_type: str
    quoted: bool
    where: Where
    templated: bool = False

    def meaning(self) -> str:
        """Return what YAML 1.1 makes of the text, for error messages."""
        if self.yaml_type == "null":
            return "nothing"
        if self.yaml_type in ("merge", "value"):
            return "a special key"
        try:
            value = yaml.safe_load(self.text)
        except ValueError:  # a date such as 2026-02-31
            return "a date"
        if isinstance(value, bool):
            return "true" if value else "false"
        return f"the number {value}" if isinstance(value, int | float) else f"the date {value}"


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    where: Where


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a table, and where its key stands."""

    key_where: Where
    node: Node


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping with unique text keys, in the order of the file."""

    entries: Mapping[str, Entry]
    where: Where


class Mark(Protocol):
    """A place as the YAML parser gives it, counted from 0."""

    line: int
    column: int


Node = Scalar | Items | Table


def parse_yaml(data: bytes, file: str) -> Node:
    """Parse one YAML document.

    Args:
        data: UTF-8 text.
        file: the name to use in errors.

    Raises:
        RecipeError: not UTF-8, not YAML, or YAML of a kind that recipes do not use.
    """
    if len(data) > MAX_TEXT_BYTES:
        raise RecipeError(f"expected at most {MAX_TEXT_BYTES} bytes, got {len(data)}", where=file)
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError("expected UTF-8 text", where=f"{file}:{line}:1") from error
    composer = _Composer(file)
    try:
        return composer.document(iter(yaml.parse(text, Loader=_LOADER)))
    except yaml.MarkedYAMLError as error:
        unclosed = "end of stream" in (error.problem or "")  # then where it began says more
        mark = (error.context_mark if unclosed else None) or error.problem_mark
        raise RecipeError(
            f"not valid YAML: {error.problem or error.context}",
            where=str(composer.where(mark)) if mark else file,
            hint="indent with spaces, put a space after each colon, quote text with special characters",
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise RecipeError(f"not valid YAML: {error.reason}", where=f"{file}:{line}:{column}") from error


class _Composer:
    """Builds nodes from parser events."""

    def __init__(self, file: str) -> None:
        self._file = file

    def where(self, mark: Mark) -> Where:
        return Where(self._file, mark.line + 1, mark.column + 1)

    def document(self, events: Iterator[yaml.Event]) -> Node:
        next(events)  # the stream's start
        event = next(events)
        if isinstance(event, yaml.StreamEndEvent):
            raise RecipeError("expected a recipe, got nothing", where=f"{self._file}:1:1")
        node = self._node(next(events), events, depth=1)
        next(events)  # the document's end
        event = next(events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise RecipeError(
                "expected one document, got another after `---`", where=str(self.where(_start(event)))
            )
        return node

    def _node(self, event: yaml.Event, events: Iterator[yaml.Event], *, depth: int) -> Node:
        where = self.where(_start(event))
        self._refuse_extras(event, where)
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event, where)
        if depth >= MAX_DEPTH:
            raise RecipeError(f"expected at most {MAX_DEPTH} levels, got more", where=str(where))
        if isinstance(event, yaml.SequenceStartEvent):
            items = []
            while not isinstance(event := next(events), yaml.SequenceEndEvent):
                items.append(self._node(event, events, depth=depth + 1))
            return Items(tuple(items), where)
        return self._table(events, where, depth)

    def _table(self, events: Iterator[yaml.Event], where: Where, depth: int) -> Table:
        entries: dict[str, Entry] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            key = self._node(event, events, depth=depth + 1)
            if not isinstance(key, Scalar):
                raise RecipeError("expected a word as key, got a list or a table", where=str(key.where))
            if (earlier := entries.get(key.text)) is not None:
                raise RecipeError(
                    f"key `{key.text}` stands here twice, first in line {earlier.key_where.line}",
                    where=str(key.where),
                    hint="remove one of the two",
                )
            entries[key.text] = Entry(key.where, self._node(next(events), events, depth=depth + 1))
        return Table(entries, where)

    def _refuse_extras(self, event: yaml.Event, where: Where) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise RecipeError(
                "anchors and aliases are not used in recipes",
                where=str(where),
                hint="use `vars` and {{ name }}, or `extends`",
            )
        if (tag := getattr(event, "tag", None)) is not None:
            raise RecipeError(
                f"tags are not used in recipes, got {tag.replace(_PREFIX, '!!')}",
                where=str(where),
                hint="put text in quotes, and write numbers without",
            )


def _start(event: yaml.Event) -> Mark:
    return cast(Mark, event.start_mark)  # the parser marks every event; only hand-made ones have None


def _scalar(event: yaml.ScalarEvent, where: Where) -> Scalar:
    text = event.value
    if not event.implicit[0]:  # not plain
        return Scalar(text, "str", True, where)
    for tag, pattern in yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ()):
        if pattern.match(text):
            return Scalar(text, tag.removeprefix(_PREFIX), False, where)
    return Scalar(text, "str", False, where)
