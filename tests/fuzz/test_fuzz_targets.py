"""No parser without a target: what the verifying side reads by is reached by some target's seeds."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from blindbuild.errors import BlindbuildError
from tests.fuzz.engine import outcome
from tests.fuzz.targets import TARGETS, Target

# a function that reads bytes or text, by its name and by what it takes first
_READS = re.compile(r"(?:parse|read|decode|split|find|trim|from)(?:_.*)?")
_TAKES = re.compile(r"(?:bytes|str)(?: \| .*)?")
WITHOUT = {
    "blindbuild.client.published.read_published": "names a place; what is there has targets of its own",
    "blindbuild.client.registry_login.read_login": "names a host; the file is the user's own",
}

SEALED = {"sealed-answer"}  # what opens comes from the one who holds the key


def parsers() -> Iterator[tuple[str, types.CodeType]]:
    """Every public function of the verifying side that reads bytes or text, with its code."""
    for package in ("formats", "manifest", "verify", "client"):
        parent = importlib.import_module(f"blindbuild.{package}")
        for found in pkgutil.iter_modules(parent.__path__, f"{parent.__name__}."):
            module = importlib.import_module(found.name)
            for name, function in _functions(module):
                parts = name.split(".")
                if any(part.startswith("_") for part in parts) or not _READS.fullmatch(parts[-1]):
                    continue
                taken = [p for p in inspect.signature(function).parameters.values() if p.name != "cls"]
                if taken and _TAKES.fullmatch(str(taken[0].annotation)):
                    yield f"{module.__name__}.{name}", inspect.unwrap(function).__code__


def _functions(module: types.ModuleType) -> Iterator[tuple[str, Callable]]:
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) or hasattr(value, "__wrapped__"):
            yield name, value
        elif inspect.isclass(value):
            made = {
                key: one for key, one in vars(value).items() if isinstance(one, classmethod | staticmethod)
            }
            yield from ((f"{name}.{key}", one.__func__) for key, one in made.items())


def reached() -> set[types.CodeType]:
    """The code that runs when each target reads its seeds."""
    codes: set[types.CodeType] = set()
    seeds = [(target, data) for target in TARGETS for data in target.seeds()]

    def note(frame: types.FrameType, event: str, _argument: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    for target, data in seeds:
        sys.setprofile(note)
        try:
            target.run(data)
        except BlindbuildError:
            pass
        finally:
            sys.setprofile(None)
    return codes


def test_every_parser_has_a_target_or_a_reason() -> None:
    codes, found = reached(), dict(parsers())
    assert len(found) > 80
    without = {name for name, code in found.items() if code not in codes}
    assert without == WITHOUT.keys()


def test_a_targets_name_is_its_own() -> None:
    names = [target.name for target in TARGETS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_target_takes_one_of_its_seeds(target: Target) -> None:
    # seeds that are all refused would fuzz nothing but the first check
    if target.name in SEALED:
        return
    assert "taken" in {outcome(target, data)[0] for data in target.seeds()}
