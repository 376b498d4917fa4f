"""The 126 bad inputs as tests: each is marked with its number and records the reason by which it was refused.

A test of bad input 89 is marked, and says through one of these functions what it saw:

    @pytest.mark.bad_input(89)
    def test_...():
        refused(judge(...), "Q5:not-made-by-a-tpm")          # an Appraisal: exactly these reasons
        refused(judge(...), "M6:malformed", saying="duplicate key")  # one reason of many causes
        with refusing("Q10:malformed"): parse_session(...)   # a VerificationError of this step and reason
        with refusing("17 bytes", TlogError): parse(...)     # another of our errors, with this in its message
        accepted(judge(...))                                 # inputs that must be taken, such as 6 and 12
        record("M1:expired")                                 # whatever else the test itself has asserted

A marked test that records nothing fails: a number without a reason would be a number that nothing refuses.
`python -m tests.bad_inputs --write` runs all marked tests and writes docs/bad-inputs.md; what a test in that
table records must be what the table says. `--check` runs them and compares, `--list` only collects.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Protocol

import pytest
from _pytest.mark import ParameterSet

from blindbuild.errors import BlindbuildError, VerificationError
from blindbuild.verify import Step
from tests.bad_input_list import BAD_INPUTS, SECTIONS

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "docs" / "bad-inputs.md"
ACCEPTED = "accepted"
_PROPERTY = "bad_input"
_WRITING = "BLINDBUILD_BAD_INPUTS_WRITING"  # set while the table is made: it is stale by definition
_ROW = re.compile(r"\| (\d+) \| .*? \| (.*) \| (.*) \|")
_NUMBERED = re.compile(r"(\d+) ")
_TICKS = re.compile(r"`([^`]+)`")

_HEAD = """# Bad inputs

<!-- made by `python -m tests.bad_inputs --write` from a run; tests compare it with what they see -->

What somebody between a publisher and a client may try, by number, and the reason by which it is refused.
`M4:envelope-refused` is a step of the checklist ([spec/verification.md](spec/verification.md)) with its
machine-readable reason, as the client's own judge gave it; a name such as `TlogError` is the error of the
parser that refused the bytes, with a part of its message. *accepted* stands where an input, or its honest
neighbour, must be taken.
"""


class _Judged(Protocol):
    """An appraisal, as far as this module reads one."""

    verdict: object
    reasons: frozenset[str]
    failed: tuple[Step, ...]


class _Current:
    item: pytest.Item | None = None


def record(reason: str) -> None:
    """Note the reason by which the running test saw its input refused; unmarked tests note nothing."""
    said = (_PROPERTY, reason.replace("|", "/").replace("`", "'"))  # as a cell of a table can hold it
    if _Current.item is not None and said not in _Current.item.user_properties:
        _Current.item.user_properties.append(said)


def refused(appraisal: _Judged, *expected: str, saying: str = "") -> None:
    """Assert that exactly these `step:reason` failed and nothing was accepted; record them.

    Args:
        expected: at least one.
        saying: what the first failed step's detail contains, where one reason stands for many causes.
    """
    assert expected
    assert appraisal.reasons == set(expected), [step.detail for step in appraisal.failed]
    assert appraisal.verdict is None
    assert saying in appraisal.failed[0].detail
    for reason in expected:
        record(f"{reason}: {saying}" if saying else reason)


def accepted(appraisal: _Judged) -> None:
    """Assert that the session was accepted; record it."""
    assert appraisal.reasons == frozenset()
    assert appraisal.verdict is not None
    record(ACCEPTED)


@contextlib.contextmanager
def refusing(
    expected: str, error: type[BlindbuildError] = VerificationError
) -> Iterator[pytest.ExceptionInfo[BlindbuildError]]:
    """Assert that one of our errors is raised within, and record it.

    Args:
        expected: `step:reason` of a `VerificationError`; of any other error, what its message contains.
        error: its exact class.
    """
    with pytest.raises(error) as caught:
        yield caught
    assert type(caught.value) is error
    if isinstance(caught.value, VerificationError):
        assert f"{caught.value.step}:{caught.value.reason}" == expected
        record(expected)
    else:
        assert expected
        assert expected in caught.value.message
        record(f"{error.__name__}: {expected}")


def numbers_of(item: pytest.Item) -> list[int]:
    """Return the numbers that a test is marked with."""
    numbers = sorted({number for mark in item.iter_markers("bad_input") for number in mark.args})
    if not set(numbers) <= BAD_INPUTS.keys():
        raise pytest.UsageError(f"{item.nodeid}: expected numbers 1 to {len(BAD_INPUTS)}, got {numbers}")
    return numbers


def numbered(names: Iterable[str]) -> list[ParameterSet]:
    """Return parameters for `parametrize` of which those named "89 magic 0" are marked with their number."""
    return [
        pytest.param(name, marks=pytest.mark.bad_input(int(found[1])) if found else (), id=name)
        for name in names
        for found in (_NUMBERED.match(name),)
    ]


def function_of(nodeid: str) -> str:
    """Return a test's name without its parameters, as the table has it."""
    return nodeid.partition("[")[0].removeprefix("tests/")


class Recording:
    """The plugin (tests/conftest.py registers it) that knows which test is running and what it recorded."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        numbers = numbers_of(item)
        _Current.item = item if numbers else None
        try:
            result = yield
        finally:
            _Current.item = None
        if numbers:
            _check(item, numbers)
        return result


def _check(item: pytest.Item, numbers: list[int]) -> None:
    seen = {reason for key, reason in item.user_properties if key == _PROPERTY}
    if not seen:
        pytest.fail(f"bad input {numbers}: expected a recorded reason (see tests/bad_inputs.py), got none")
    if os.environ.get(_WRITING):
        return
    for number in numbers:
        stated, tests = stated_table().get(number, (frozenset(), frozenset()))
        if function_of(item.nodeid) in tests and not seen <= stated:
            pytest.fail(
                f"bad input {number}: expected {sorted(stated)} as docs/bad-inputs.md says, got "
                f"{sorted(seen)}; if that is right: python -m tests.bad_inputs --write"
            )


@cache
def stated_table() -> dict[int, tuple[frozenset[str], frozenset[str]]]:
    """Return what the committed table says: by number the reasons and the tests."""
    rows: dict[int, tuple[frozenset[str], frozenset[str]]] = {}
    for line in TABLE.read_text().splitlines() if TABLE.exists() else ():
        if found := _ROW.fullmatch(line):
            number, reasons, tests = found.groups()
            words = _TICKS.findall(reasons.replace(f"*{ACCEPTED}*", f"`{ACCEPTED}`"))
            rows[int(number)] = frozenset(words), frozenset(_TICKS.findall(tests))
    return rows


class Collecting:
    """A plugin that keeps, in the process that started the run, what all marked tests recorded."""

    def __init__(self) -> None:
        self.marked: dict[str, list[int]] = {}
        self.reasons: dict[int, set[str]] = defaultdict(set)
        self.tests: dict[int, set[str]] = defaultdict(set)
        self.skipped: dict[str, str] = {}

    def pytest_itemcollected(self, item: pytest.Item) -> None:
        if numbers := numbers_of(item):
            self.marked[item.nodeid] = numbers

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped:
            self.skipped[report.nodeid] = str(report.longrepr)
        if report.when != "call" or not report.passed:
            return
        for number in self.marked[report.nodeid]:
            self.tests[number].add(function_of(report.nodeid))
            self.reasons[number] |= {reason for key, reason in report.user_properties if key == _PROPERTY}


def table(run: Collecting) -> str:
    """Return docs/bad-inputs.md after a run."""
    lines = [_HEAD]
    for number, title in BAD_INPUTS.items():
        if number in SECTIONS:
            lines += [
                "",
                f"## {SECTIONS[number]}",
                "",
                "| number | input | refused by | test |",
                "|---|---|---|---|",
            ]
        reasons = sorted(run.reasons[number], key=lambda reason: (reason == ACCEPTED, reason))
        shown = ", ".join(f"*{ACCEPTED}*" if r == ACCEPTED else f"`{r}`" for r in reasons)
        tests = ", ".join(f"`{test}`" for test in sorted(run.tests[number]))
        lines.append(f"| {number} | {title} | {shown or 'no test yet'} | {tests or '-'} |")
    return "\n".join(lines).replace("\n\n\n", "\n\n") + "\n"


def marked_files() -> list[str]:
    """Return the test files that mention the marker."""
    return sorted(
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("test_*.py")
        if "mark.bad_input" in path.read_text()
    )


def collect(*arguments: str) -> Collecting:
    """Run pytest on the marked tests, in this process."""
    run = Collecting()
    code = pytest.main(
        ["-m", "bad_input and not full", "-q", "-p", "no:randomly", *arguments, *marked_files()], [run]
    )
    if code != pytest.ExitCode.OK:
        raise SystemExit(f"the marked tests must pass first, got {code!r}")
    return run


def main(arguments: list[str]) -> int:
    """`--write`, `--check` or `--list`."""
    os.chdir(ROOT)
    os.environ[_WRITING] = "1"
    if arguments == ["--list"]:
        with contextlib.redirect_stdout(sys.stderr):
            run = collect("--collect-only")
        sys.stdout.writelines(
            f"{number} {function_of(node)}\n" for node, numbers in run.marked.items() for number in numbers
        )
        return 0
    if arguments not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m tests.bad_inputs --write | --check | --list\n")
        return 2
    run = collect()
    for node, why in run.skipped.items():
        sys.stderr.write(f"skipped, so not in the table: {node}: {why}\n")
    made = table(run)
    if arguments == ["--write"]:
        TABLE.write_text(made)
        return 0
    if made != TABLE.read_text():
        sys.stderr.write("docs/bad-inputs.md is not what the run shows: python -m tests.bad_inputs --write\n")
        return 1
    return 0


if __name__ == "__main__":
    from tests import bad_inputs  # not this second copy of the module, which no test would record into

    sys.exit(bad_inputs.main(sys.argv[1:]))
