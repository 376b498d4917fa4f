"""Runs the tests once to see which of them reach which place, then each mutant in a process of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import pytest
from _pytest.runner import runtestprotocol

from blindbuild.verify.checklist import Checklist

MAX_MUTANT_S = 120  # a mutant that loops for ever has been noticed
_SURVIVED, _KILLED = 0, 1


# while it is entered, it calls the function with the keys of changes whose places are reached
Noted = Callable[[Callable[[str], None]], AbstractContextManager[None]]


class Change(Protocol):
    """What an engine can try."""

    @property
    def key(self) -> str:
        """Its name."""
        ...

    def apply(self) -> None:
        """Change this process."""
        ...


@dataclass(frozen=True, slots=True)
class StepOff:
    """A step of the checklist that passes whatever its check says."""

    step: str

    @property
    def key(self) -> str:
        """Its name in reports."""
        return f"step {self.step}"

    def apply(self) -> None:
        """Let the step pass in this process; the value is the check's own, or none where it refused."""
        run = Checklist.run

        def lenient(self_: Checklist, step: str, check: Callable, **more) -> object:
            return run(self_, step, (lambda: _value_or_none(check)) if step == self.step else check, **more)

        Checklist.run = lenient  # type: ignore[method-assign]


def _value_or_none(check: Callable[[], tuple[object, str]]) -> tuple[object, str]:
    try:
        return check()
    except Exception:
        return None, "off"


@dataclass
class Seen:
    """What the tests did without any change: the time of each, and which reach which change's place."""

    seconds: dict[pytest.Item, float] = field(default_factory=dict)
    reached: dict[str, set[pytest.Item]] = field(default_factory=lambda: defaultdict(set))


class Engine:
    """A pytest plugin that runs the collected tests for each change instead of once.

    Args:
        changes: what to try.
        noted: tells which changes a test reaches.
        jobs: how many child processes at a time.
    """

    def __init__(self, changes: Sequence[Change], noted: Noted, jobs: int) -> None:
        self._changes, self._noted, self._jobs = changes, noted, jobs
        self.survivors: list[Change] = []
        self.killed: list[Change] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        seen = self._run_unchanged(session.items)
        running: dict[int, Change] = {}
        for change in self._changes:
            while len(running) >= self._jobs:
                self._collect(running)
            tests = sorted(seen.reached[change.key], key=lambda item: seen.seconds[item])
            if tests:
                running[self._start(change, tests)] = change
            else:
                self.survivors.append(change)
        while running:
            self._collect(running)
        return True

    def _run_unchanged(self, items: Sequence[pytest.Item]) -> Seen:
        seen = Seen()
        for index, item in enumerate(items):
            after = items[index + 1] if index + 1 < len(items) else None
            keys: set[str] = set()
            with self._noted(keys.add):
                started = time.perf_counter()
                passed = all(r.passed for r in runtestprotocol(item, log=False, nextitem=after))
            if not passed:  # skipped, or broken by somebody: it can notice nothing
                continue
            seen.seconds[item] = time.perf_counter() - started
            for key in keys:
                seen.reached[key].add(item)
        return seen

    def _start(self, change: Change, tests: Sequence[pytest.Item]) -> int:
        sys.stdout.flush()
        child = os.fork()
        if child:
            return child
        code = _KILLED
        try:
            signal.alarm(MAX_MUTANT_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            change.apply()
            code = _SURVIVED if _all_pass(tests) else _KILLED
        finally:
            os._exit(code)

    def _collect(self, running: dict[int, Change]) -> None:
        child, status = os.wait()
        change = running.pop(child)
        survived = os.WIFEXITED(status) and os.WEXITSTATUS(status) == _SURVIVED
        (self.survivors if survived else self.killed).append(change)
        sys.stdout.write("S" if survived else ".")
        sys.stdout.flush()


def _all_pass(tests: Sequence[pytest.Item]) -> bool:
    for index, item in enumerate(tests):
        after = tests[index + 1] if index + 1 < len(tests) else None
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=after)):
            return False
    return True


@contextmanager
def failures_noted(note: Callable[[str], None]) -> Iterator[None]:
    """Note the key of each step that fails in any checklist."""
    fail = Checklist._fail

    def noting(self_: Checklist, step: str, *more: object) -> None:
        note(StepOff(step).key)
        fail(self_, step, *more)  # type: ignore[arg-type]

    Checklist._fail = noting  # type: ignore[method-assign]
    try:
        yield
    finally:
        Checklist._fail = fail  # type: ignore[method-assign]
