"""What can be taken out of a module: found in its syntax tree, applied to the running function's code."""

from __future__ import annotations

import ast
import contextlib
import copy
import importlib
import types
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent.parent / "builder" / "blindbuild"
_NOTE = "_note_for_mutation"  # a global of the module while its places are noted
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One check less.

    Attributes:
        path: of the module, below the package.
        function: the outermost function that holds it, with its class.
        what: the text that was there, in one line; with a number when the function has it more than once.
        number: of the node in the function's tree.
        instead: what takes the node's place.
    """

    path: str
    function: str
    what: str
    number: int
    instead: ast.AST

    @property
    def key(self) -> str:
        """Names it in `equivalent.txt`, whatever stands above it in the file."""
        return f"{self.path} {self.function}: {self.what}"

    def apply(self) -> None:
        """Take the check out of this very process."""
        code = _code_of(self.path, self.function, lambda tree: _put(tree, self.number, self.instead))
        _replace_code(self.path, self.function, code)


@dataclass(frozen=True, slots=True)
class Module:
    """A module's mutants.

    Attributes:
        places: by function, by the number of a statement, the keys of the mutants in it.
    """

    path: str
    mutants: tuple[Mutant, ...]
    places: Mapping[str, Mapping[int, Sequence[str]]]

    @contextlib.contextmanager
    def noted(self, note: Callable[[str], None]) -> Iterator[None]:
        """Have `note` called with a mutant's key whenever its place is reached."""
        before = {
            name: _replace_code(self.path, name, _noting(self.path, name, repr(places)))
            for name, places in self.places.items()
        }
        vars(_module(self.path))[_NOTE] = note
        try:
            yield
        finally:
            for name, code in before.items():
                _replace_code(self.path, name, code)


def _module(path: str) -> types.ModuleType:
    return importlib.import_module("blindbuild." + path[:-3].replace("/", "."))


def _replace_code(path: str, function: str, code: types.CodeType) -> types.CodeType:
    place: object = _module(path)
    for name in function.split("."):
        place = vars(place)[name] if isinstance(place, type) else getattr(place, name)
    while not isinstance(place, types.FunctionType):  # caches, properties, class methods
        if hasattr(place, "cache_clear"):
            place.cache_clear()
        inner = [getattr(place, name, None) for name in ("__wrapped__", "__func__", "fget")]
        place = next(one for one in inner if one is not None)
    before, place.__code__ = place.__code__, code
    return before


def read_module(path: str) -> Module:
    """Return what can be taken out of a module, in the order of its text."""
    mutants: list[Mutant] = []
    places: dict[str, dict[int, list[str]]] = {}
    for name, function in _outer_functions(_tree_of(path)):
        seen: Counter[str] = Counter()
        for change in _changes(function):
            seen[change.text] += 1
            what = change.text if seen[change.text] == 1 else f"{change.text} #{seen[change.text]}"
            mutants.append(Mutant(path, name, what, change.number, change.instead))
            places.setdefault(name, {}).setdefault(change.statement, []).append(mutants[-1].key)
    return Module(path, tuple(mutants), places)


@cache
def _tree_of(path: str) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text())


@cache
def _noting(path: str, name: str, places: str) -> types.CodeType:
    return _code_of(path, name, lambda tree: _note(tree, ast.literal_eval(places)))


@dataclass(frozen=True, slots=True)
class _Change:
    """A node by its number in the walk, what takes its place, the statement it is in, and its text."""

    number: int
    instead: ast.AST
    statement: int
    text: str


def _outer_functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    for node in tree.body:
        if isinstance(node, _FUNCTIONS):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from (
                (f"{node.name}.{inner.name}", inner) for inner in node.body if isinstance(inner, _FUNCTIONS)
            )


def _changes(function: ast.AST) -> Iterator[_Change]:
    nodes = list(ast.walk(function))
    numbers = {id(node): number for number, node in enumerate(nodes)}
    holder = {id(child): node for node in nodes for child in ast.iter_child_nodes(node)}
    for number, node in enumerate(nodes):
        statement = node
        while not isinstance(statement, ast.stmt):
            statement = holder[id(statement)]
        for instead, text in _instead(node):
            yield _Change(number, instead, numbers[id(statement)], text)


def _instead(node: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Yield what a node can become, and the text that is then missing."""
    if isinstance(node, ast.Raise):
        yield ast.Pass(), _text(node)
    elif _returns_false(node):
        yield ast.Return(ast.Constant(True)), _text(node)
    elif isinstance(node, ast.If | ast.IfExp | ast.While | ast.Return) and isinstance(
        _test(node), ast.BoolOp
    ):
        condition = _test(node)
        word = "and" if isinstance(condition.op, ast.And) else "or"
        for index, operand in enumerate(condition.values):
            rest = condition.values[:index] + condition.values[index + 1 :]
            changed = copy.copy(node)
            setattr(changed, _field(node), ast.BoolOp(condition.op, rest) if len(rest) > 1 else rest[0])
            yield changed, f"{word} {_text(operand)}"


def _field(node: ast.AST) -> str:
    return "value" if isinstance(node, ast.Return) else "test"


def _test(node: ast.AST) -> ast.AST:
    return getattr(node, _field(node))


def _returns_false(node: ast.AST) -> bool:
    return isinstance(node, ast.Return) and isinstance(node.value, ast.Constant) and node.value.value is False


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:120]


def _code_of(path: str, name: str, change: Callable[[ast.AST], None]) -> types.CodeType:
    """Return the code of one function of a module after a change to it."""
    tree = copy.deepcopy(_tree_of(path))
    change(dict(_outer_functions(tree))[name])
    filename = str(PACKAGE / path)
    code: types.CodeType = compile(ast.fix_missing_locations(tree), filename, "exec", dont_inherit=True)
    for part in name.split("."):
        code = next(c for c in code.co_consts if isinstance(c, types.CodeType) and c.co_name == part)
    return code


def _put(function: ast.AST, number: int, instead: ast.AST) -> None:
    nodes = list(ast.walk(function))
    replacement = ast.copy_location(copy.deepcopy(instead), nodes[number])
    for field, value, index in _fields(nodes):
        if value is nodes[number]:
            if index is None:
                setattr(*field, replacement)
            else:
                getattr(*field)[index] = replacement


def _note(function: ast.AST, notes: Mapping[int, Sequence[str]]) -> None:
    nodes = list(ast.walk(function))
    marks = {id(nodes[number]): keys for number, keys in notes.items()}
    places = [(field, index) for field, value, index in _fields(nodes) if id(value) in marks]
    for (node, name), index in sorted(places, key=lambda place: place[1] or 0, reverse=True):
        body = getattr(node, name)
        for key in marks[id(body[index])]:
            call = ast.Expr(ast.Call(ast.Name(_NOTE, ast.Load()), [ast.Constant(key)], []))
            body.insert(index, ast.copy_location(call, body[index]))


def _fields(nodes: Sequence[ast.AST]) -> Iterator[tuple[tuple[ast.AST, str], object, int | None]]:
    """Yield each place where a node hangs: its holder and field, the node, and its index in a list."""
    for node in nodes:
        for name, value in ast.iter_fields(node):
            if isinstance(value, list):
                yield from (((node, name), one, index) for index, one in enumerate(value))
            else:
                yield (node, name), value, None
