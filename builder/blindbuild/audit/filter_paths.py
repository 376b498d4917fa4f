"""Every way through a stack of system call filters that ends with the call being executed.

A filter has no loops, so its ways can be listed, each with what it demands of the call: no number, no
architecture and no argument is left out, which trying values could do. What is known of a word is never
narrower than the truth: a way that cannot be taken may be listed, one that can be taken is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from blindbuild.errors import FormatError
from blindbuild.formats.bpf import (
    DATA_WORDS,
    ERRNO,
    JUMP,
    LOAD_WORD,
    RETURN,
    TESTS,
    Instruction,
    severity,
)

# A step is one instruction on one way. The product's largest stack takes 27,000; bounds an auditor's time.
MAX_STEPS = 200_000
MAX_WAYS = 400  # each is told by name and in words; the product's largest stack has 133
MAX_CONDITIONS = 512  # values and masks that are remembered of one word; the product's filters name 200 calls
_EQUAL, _GREATER, _AT_LEAST, _HAS_ANY = TESTS
_WORD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Word:
    """What is known of 32 bits.

    Attributes:
        low, high: the least and the greatest value.
        clear: bits that are 0.
        some: masks, of each of which at least one bit is 1.
        without: values that it has not.
    """

    low: int = 0
    high: int = _WORD
    clear: int = 0
    some: frozenset[int] = frozenset()
    without: frozenset[int] = frozenset()

    @property
    def value(self) -> int | None:
        """The only value there can be, or None."""
        return self.low if self.low == self.high else None

    def admits(self, value: int) -> bool:
        """Say whether the word can be this value."""
        return (
            self.low <= value <= self.high
            and not value & self.clear
            and value not in self.without
            and all(value & mask for mask in self.some)
        )

    def has_any(self, mask: int) -> bool:
        """Say whether it is known that one of these bits is 1."""
        if self.value is not None:
            return bool(self.value & mask)
        return any(known & ~mask == 0 for known in self.some)

    def has_none(self, mask: int) -> bool:
        """Say whether it is known that all of these bits are 0."""
        return mask & ~self.clear == 0 or (self.value is not None and not self.value & mask)

    def after(self, code: int, operand: int, *, holds: bool) -> Word | None:
        """Return what is known once a test has given this answer, or None if it cannot."""
        if code == _EQUAL:
            return self._equal(operand) if holds else self._not_equal(operand)
        if code == _HAS_ANY:
            return self._with_any(operand) if holds else self._with_none(operand)
        least = operand if code == _AT_LEAST else operand + 1
        return self._between(least, _WORD) if holds else self._between(0, least - 1)

    def _equal(self, value: int) -> Word | None:
        return Word(value, value) if self.admits(value) else None

    def _not_equal(self, value: int) -> Word | None:
        if not self.admits(value):
            return self
        return replace(self, without=self.without | {value})._between(0, _WORD)

    def _with_any(self, mask: int) -> Word | None:
        mask &= ~self.clear
        return self._settled(replace(self, some=self.some | {mask})) if mask else None

    def _with_none(self, mask: int) -> Word | None:
        clear = self.clear | mask
        some = frozenset(known & ~clear for known in self.some)
        return None if 0 in some else self._settled(replace(self, clear=clear, some=some))

    def _between(self, low: int, high: int) -> Word | None:
        low, high = max(self.low, low), min(self.high, high)
        while low in self.without:
            low += 1
        while high in self.without:
            high -= 1
        return self._settled(replace(self, low=low, high=high)) if low <= high else None

    @staticmethod
    def _settled(word: Word) -> Word | None:
        """Return the word without exceptions that are none any more, or None if its only value is one."""
        if word.value is not None:
            return Word(word.low, word.low) if word.admits(word.low) else None
        rest = replace(word, without=frozenset())
        without = frozenset(value for value in word.without if rest.admits(value))
        return word if without == word.without else replace(word, without=without)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to the execution of a call: what it demands of the 16 words of struct seccomp_data."""

    words: tuple[Word, ...]

    @property
    def number(self) -> Word:
        """The number of the call."""
        return self.words[0]

    @property
    def arch(self) -> Word:
        """The architecture by whose numbers it is called."""
        return self.words[1]

    def argument(self, index: int) -> tuple[Word, Word]:
        """Return the low and the high half of an argument."""
        return self.words[4 + 2 * index], self.words[5 + 2 * index]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a way has come to: the instruction of a program, and which word is in the accumulator."""

    program: int
    at: int
    loaded: int | None
    words: tuple[Word, ...]

    def step(self, distance: int = 0) -> _Place:
        return replace(self, at=self.at + 1 + distance)


def find_ways(stack: Sequence[Sequence[Instruction]]) -> tuple[tuple[Way, ...], int]:
    """Return the ways through a stack of filters on which the call is executed, and the steps that it took.

    A filter that says no more than an error has decided, whatever the others say. Any other answer counts as
    execution: of what tracers and listeners would do, nothing is known.

    Raises:
        FormatError: a program with operations other than loads of a word, tests of it, jumps and returns of a
            constant, or more than MAX_STEPS steps, MAX_WAYS ways or MAX_CONDITIONS conditions of a word.
    """
    found: list[Way] = []
    pending = [_Place(0, 0, None, (Word(),) * DATA_WORDS)]
    steps = 0
    while pending:
        place = pending.pop()
        if place.program == len(stack):
            found.append(Way(place.words))
            if len(found) > MAX_WAYS:
                raise FormatError(
                    f"filter: expected at most {MAX_WAYS} ways to the execution of a call, got more"
                )
            continue
        steps += 1
        if steps > MAX_STEPS:
            raise FormatError(f"filter: expected at most {MAX_STEPS} steps on all its ways, got more")
        pending.extend(_follow(place, stack[place.program][place.at]))
        if pending and any(len(word.without) + len(word.some) > MAX_CONDITIONS for word in pending[-1].words):
            raise FormatError(f"filter: expected at most {MAX_CONDITIONS} conditions of a word, got more")
    return tuple(found), steps


def _follow(place: _Place, step: Instruction) -> Iterator[_Place]:
    """Yield where an instruction leads to."""
    if step.code == LOAD_WORD:
        yield replace(place, at=place.at + 1, loaded=step.value // 4)
    elif step.code == RETURN:
        if severity(step.value) > ERRNO:
            yield _Place(place.program + 1, 0, None, place.words)
    elif step.code == JUMP:
        yield place.step(step.value)
    elif step.code in TESTS and place.loaded is not None:
        for holds, distance in ((False, step.if_false), (True, step.if_true)):
            word = place.words[place.loaded].after(step.code, step.value, holds=holds)
            if word is not None:
                words = (*place.words[: place.loaded], word, *place.words[place.loaded + 1 :])
                yield replace(place, at=place.at + 1 + distance, words=words)
    else:
        raise FormatError(
            f"filter: instruction {place.at}: operation {step.code:#06x} cannot be followed on all ways"
        )
