"""Forms of system calls, names and conditions on arguments, as the allow list and the rows write them."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blindbuild.audit.filter_paths import Way, Word
from blindbuild.errors import PolicyError

NAMES_FILE = Path(__file__).with_name("system_calls.txt")
LARGEST_NUMBER = 1023  # names are looked for up to here; Linux 6.12 ends at 462
MAX_TOLD = 8  # conditions of a word that are told one by one; no filter of the product has so many
_CONDITION = re.compile(r"([0-5])(=|&|!&)(0x[0-9a-f]+|0|[1-9][0-9]*)")
_HALF = 32
_WORD = (1 << _HALF) - 1


@dataclass(frozen=True, slots=True)
class Condition:
    """What is demanded of an argument: `=` a value of 64 bits, `&` or `!&` some or none of 32 bits."""

    argument: int
    test: str
    value: int

    def follows(self, way: Way) -> bool:
        """Say whether the condition holds for every call that takes a way."""
        low, high = way.argument(self.argument)
        if self.test == "=":
            return (low.value, high.value) == (self.value & _WORD, self.value >> _HALF)
        return low.has_any(self.value) if self.test == "&" else low.has_none(self.value)


@dataclass(frozen=True, slots=True)
class Form:
    """A call, with what its arguments have to be; without conditions they may be anything."""

    name: str
    conditions: tuple[Condition, ...] = ()

    def covers(self, way: Way) -> bool:
        """Say whether every call of this name that takes a way has the form."""
        return all(condition.follows(way) for condition in self.conditions)


def parse_form(text: str) -> Form:
    """Return the form that a line such as `sendto 4=0 3!&0x20000000` writes.

    Raises:
        PolicyError: a name that no system call has, or something that is no condition.
    """
    name, *words = text.split() or [""]
    if name not in load_numbers():
        raise PolicyError(f"system calls: expected a name of Linux 6.12, got {name[:80]!r}")
    conditions = []
    for word in words:
        match = _CONDITION.fullmatch(word)
        value = int(match[3], 0) if match else 0
        if not match or value >> (2 * _HALF if match[2] == "=" else _HALF) or (match[2] != "=" and not value):
            raise PolicyError(f"system calls: {name}: expected a condition such as 0=1, got {word[:80]!r}")
        conditions.append(Condition(int(match[1]), match[2], value))
    return Form(name, tuple(conditions))


@functools.lru_cache(maxsize=1)
def load_numbers() -> Mapping[str, int]:
    """Return the number of every system call by its name."""
    lines = NAMES_FILE.read_text("ascii").splitlines()
    pairs = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name: int(number) for number, name in pairs}


@functools.lru_cache(maxsize=1)
def _load_names() -> Mapping[int, str]:
    return {number: name for name, number in load_numbers().items()}


def names_of(way: Way) -> tuple[str, ...]:
    """Return what can be called on a way by its name, or by its number, which is at most LARGEST_NUMBER."""
    known = way.number.value
    numbers: Iterable[int] = range(LARGEST_NUMBER + 1) if known is None else (known,)
    names = _load_names()
    return tuple(
        names.get(number, f"call {number}")
        for number in numbers
        if number <= LARGEST_NUMBER and way.number.admits(number)
    )


def describe(way: Way) -> str:
    """Return what a way demands of arguments, in words; "" if nothing."""
    return ", ".join(text for index in range(6) if (text := _describe_argument(index, *way.argument(index))))


def _describe_argument(index: int, low: Word, high: Word) -> str:
    if low.value is not None and high.value is not None:
        return f"argument {index} is {_show(low.value | high.value << _HALF)}"
    halves = (("low", _describe_word(low)), ("high", _describe_word(high)))
    told = [(half, words) for half, words in halves if words]
    if [half for half, _ in told] == ["low"]:
        return f"argument {index} {told[0][1]}"
    return ", ".join(f"the {half} half of argument {index} {words}" for half, words in told)


def _describe_word(word: Word) -> str:
    if word.value is not None:
        return f"is {_show(word.value)}"
    parts = [f"has a bit of {mask:#x}" for mask in sorted(word.some)]
    if word.clear:
        parts.append(f"has none of {word.clear:#x}")
    if (word.low, word.high) != (0, _WORD):
        parts.append(f"is {word.low:#x} to {word.high:#x}")
    parts += [f"is not {_show(value)}" for value in sorted(word.without)]
    if len(parts) > MAX_TOLD:
        parts[MAX_TOLD:] = [f"{len(parts) - MAX_TOLD} more conditions"]
    return " and ".join(parts)


def _show(value: int) -> str:
    return str(value) if value < 10 else f"{value:#x}"
