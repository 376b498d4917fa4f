"""Changes to JSON that leave it JSON, so that what is behind the parser is reached: what values mean."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

MAX_JSON = 1 << 16  # bytes; more takes too long to be written anew for each change
_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    2**31,
    2**53 - 1,
    2**53 + 1,
    2**64,
    "",
    "a",
    "0" * 64,
    "ab" * 32,
    "AAAA",
    "\x1b[2J",
    "\ud7ff\u202e",
    "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    [],
    [[]],
    {},
    {"": 0},
)


def mutate_json(data: bytes, generator: random.Random) -> bytes | None:
    """Return JSON with one to three changes in canonical order, or None for what is no JSON object."""
    if not data.startswith(b"{") or len(data) > MAX_JSON:
        return None
    try:
        value = json.loads(data)
        for _ in range(generator.choice((1, 1, 2, 3))):
            places = list(_places(value))
            if not places:
                break
            holder, key = generator.choice(places)
            generator.choice(_CHANGES)(holder, key, places, generator)
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except (ValueError, RecursionError):  # no JSON, or too deep to be walked
        return None
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return each member of each list and object, as what holds it and where it is in there."""
    found: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        holder = todo.pop()
        keys: Any = ()
        if isinstance(holder, dict):
            keys = list(holder)
        elif isinstance(holder, list):
            keys = range(len(holder))
        for key in keys:
            found.append((holder, key))
            todo.append(holder[key])
    return found


def _replace(holder: Any, key: Any, _places: list[Any], generator: random.Random) -> None:
    holder[key] = copy.deepcopy(generator.choice(_VALUES))


def _copy(holder: Any, key: Any, places: list[Any], generator: random.Random) -> None:
    """Put a copy of the value of another place here."""
    other, at = generator.choice(places)
    try:
        holder[key] = copy.deepcopy(other[at])
    except (KeyError, IndexError):  # an earlier change took it away
        return


def _edit(holder: Any, key: Any, _places: list[Any], generator: random.Random) -> None:
    """Change a string or a number a little."""
    value = holder[key]
    if isinstance(value, str) and value:
        at = generator.randrange(len(value))
        holder[key] = value[:at] + generator.choice(("", "0", "f", "=", "/", value)) + value[at + 1 :]
    elif isinstance(value, int):
        holder[key] = value + generator.choice((-1, 1, 1 << 32))
    elif isinstance(value, list):
        value += value[-1:]


def _remove(holder: Any, key: Any, _places: list[Any], _generator: random.Random) -> None:
    del holder[key]


def _rename(holder: Any, key: Any, _places: list[Any], generator: random.Random) -> None:
    if isinstance(holder, dict):
        holder[generator.choice(("", "x", f"{key}x"))] = holder.pop(key)


_Change = Callable[[Any, Any, list[Any], random.Random], None]
_CHANGES: tuple[_Change, ...] = (_replace, _replace, _copy, _edit, _edit, _remove, _rename)
