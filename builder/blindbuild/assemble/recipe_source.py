"""From recipe files to one tree of nodes: `extends` merged, variables put in; the only user of jinja2."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blindbuild.assemble.recipe_schema import EXTENDS, VARIABLE_NAME
from blindbuild.assemble.recipe_shape import did_you_mean, mistake, show
from blindbuild.assemble.recipe_yaml import (
    MAX_TEXT_BYTES,
    Entry,
    Items,
    Node,
    Scalar,
    Table,
    Where,
    parse_yaml,
)
from blindbuild.errors import RecipeError
from blindbuild.host.files import read_bytes

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment

MAX_CHAIN = 8  # recipes extend one or two others; ends a chain that goes on and on
MAX_RENDERED = 4096  # characters of one value; the longest legitimate ones are paths

Variable = str | int | bool


@dataclass(frozen=True, slots=True)
class RecipeSource:
    """A recipe with nothing left to merge or replace.

    Attributes:
        table: all keys but `extends` and `vars`; local paths are relative to `directory`.
        directory: where the recipe is.
        files: every recipe file read, the outermost first.
    """

    table: Table
    directory: Path
    files: tuple[Path, ...]


def read_source(path: Path) -> RecipeSource:
    """Read a recipe and all that it extends.

    Raises:
        RecipeError: a file is missing or malformed, a chain of `extends` is circular, a name is undefined.
    """
    directory = path.parent
    table, variables, files = _read_chain(path, directory, ())
    renderer = _Renderer(variables)
    rendered = renderer.table(table)
    return RecipeSource(rendered, directory, files)


def _read_chain(
    path: Path, directory: Path, seen: tuple[Path, ...]
) -> tuple[Table, dict[str, Variable], tuple[Path, ...]]:
    table = _read_table(path)
    entries = dict(table.entries)
    extends, own = entries.pop("extends", None), entries.pop("vars", None)
    variables = _read_variables(own.node) if own else {}
    table = _relocate(Table(entries, table.where), path.parent, directory)
    if extends is None:
        return table, variables, (path,)
    base_path = path.parent / str(EXTENDS.read(extends.node, "extends"))
    _check_chain(base_path, (*seen, path), extends.node.where)
    base, inherited, files = _read_chain(base_path, directory, (*seen, path))
    return _merge(base, table), {**inherited, **variables}, (path, *files)


def _check_chain(base: Path, seen: tuple[Path, ...], where: Where) -> None:
    if not base.is_file():
        raise RecipeError(f"extends: there is no file {base}", where=str(where))
    if any(base.samefile(earlier) for earlier in seen):
        raise RecipeError(f"extends: {base} extends itself, directly or through others", where=str(where))
    if len(seen) >= MAX_CHAIN:
        raise RecipeError(f"extends: expected a chain of at most {MAX_CHAIN} recipes", where=str(where))


def _read_table(path: Path) -> Table:
    def fail(message: str, *, hint: str | None = None) -> RecipeError:
        return RecipeError(message.removeprefix(f"{path}: "), where=str(path), hint=hint)

    hint = "name a recipe file, such as recipes/hello/recipe.yaml"
    node = parse_yaml(read_bytes(path, error=fail, hint=hint, limit_bytes=MAX_TEXT_BYTES), str(path))
    if not isinstance(node, Table):
        raise mistake(node.where, "the recipe", "a table of keys", show(node), "start with `name: …`")
    return node


def _read_variables(node: Node) -> dict[str, Variable]:
    if not isinstance(node, Table):
        raise mistake(node.where, "vars", "a table of names and values", show(node))
    variables: dict[str, Variable] = {}
    for name, entry in node.entries.items():
        if re.fullmatch(VARIABLE_NAME, name) is None:
            raise RecipeError(
                f"vars: expected a name of lower-case letters, digits and `_`, got `{name}`",
                where=str(entry.key_where),
            )
        variables[name] = _variable(entry.node, f"vars.{name}")
    return variables


def _variable(node: Node, at: str) -> Variable:
    expected = "text, a whole number, true or false"
    if not isinstance(node, Scalar):
        raise mistake(node.where, at, expected, show(node))
    if _is_template(node.text):
        raise mistake(node.where, at, "a value without `{{`", show(node), "variables cannot use variables")
    if node.yaml_type == "str":
        return node.text
    if node.text in ("true", "false"):
        return node.text == "true"
    if re.fullmatch("0|[1-9][0-9]{0,17}", node.text):
        return int(node.text)
    raise mistake(node.where, at, expected, show(node), f'write "{node.text}" in quotes for text')


def _merge(base: Table, over: Table) -> Table:
    """Return `base` with everything that `over` says: tables key by key, all else as a whole."""
    merged = dict(base.entries)
    for key, entry in over.entries.items():
        below = merged.get(key)
        if below is not None and isinstance(below.node, Table) and isinstance(entry.node, Table):
            merged[key] = Entry(entry.key_where, _merge(below.node, entry.node))
        else:
            merged[key] = entry
    return Table(merged, over.where)


def _relocate(table: Table, from_directory: Path, to_directory: Path) -> Table:
    """Rewrite the local paths (`from:` below `tree`) of an extended recipe, relative to the extending one."""
    prefix = posixpath.relpath(from_directory.as_posix(), to_directory.as_posix() or ".")
    tree = table.entries.get("tree")
    if prefix == "." or tree is None:
        return table
    moved = _move_paths(tree.node, prefix)
    return Table({**table.entries, "tree": Entry(tree.key_where, moved)}, table.where)


def _move_paths(node: Node, prefix: str) -> Node:
    if isinstance(node, Items):
        return Items(tuple(_move_paths(item, prefix) for item in node.items), node.where)
    if isinstance(node, Scalar):
        return node
    entries = {}
    for key, entry in node.entries.items():
        child = _move_paths(entry.node, prefix)
        if key == "from" and isinstance(child, Scalar) and child.yaml_type == "str" and child.text[:1] != "/":
            child = replace(child, text=f"{prefix}/{child.text}")
        entries[key] = Entry(entry.key_where, child)
    return Table(entries, node.where)


def _is_template(text: str) -> bool:
    return "{{" in text or "{%" in text or "{#" in text


class _Renderer:
    """Replaces templates in values; keys, `extends` and `vars` are never templates."""

    def __init__(self, variables: Mapping[str, Variable]) -> None:
        self._variables = variables
        self._environment: SandboxedEnvironment | None = None

    def table(self, table: Table) -> Table:
        return Table(
            {key: Entry(entry.key_where, self._node(entry.node)) for key, entry in table.entries.items()},
            table.where,
        )

    def _node(self, node: Node) -> Node:
        if isinstance(node, Table):
            return self.table(node)
        if isinstance(node, Items):
            return Items(tuple(self._node(item) for item in node.items), node.where)
        return self._scalar(node) if _is_template(node.text) else node

    def _scalar(self, scalar: Scalar) -> Scalar:
        import jinja2  # takes longer to import than everything else here together
        from jinja2.sandbox import SandboxedEnvironment

        if self._environment is None:
            self._environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined)
            self._environment.globals.clear()
            del self._environment.filters["random"]  # the same recipe must give the same image
        try:
            text = self._environment.from_string(scalar.text).render(self._variables)
        except jinja2.UndefinedError as error:
            raise self._undefined(scalar, error) from error
        except Exception as error:  # a template can raise whatever its expressions raise
            raise RecipeError(
                f"the template {show(scalar)} cannot be rendered: {error}", where=str(scalar.where)
            ) from error
        if len(text) > MAX_RENDERED:
            raise RecipeError(
                f"expected at most {MAX_RENDERED} characters from the template, got {len(text)}",
                where=str(scalar.where),
            )
        return replace(scalar, text=text, templated=True)

    def _undefined(self, scalar: Scalar, error: Exception) -> RecipeError:
        match = re.search(r"'([^']*)' is undefined", str(error))
        near = did_you_mean(match[1], self._variables) if match else None
        names = ", ".join(sorted(self._variables)) or "none"
        return RecipeError(
            f"the template {show(scalar)} cannot be rendered: {error}",
            where=str(scalar.where),
            hint=near or f"variables defined in `vars`: {names}",
        )
