"""Which tests are asked about which module, and what is known about mutants that nobody can notice."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from blindbuild.verify.checklist import LOG_TITLES, PROBE_TITLES, TITLES
from blindbuild.verify.current import CURRENT_TITLES
from blindbuild.verify.rebuilders import REBUILD_TITLES
from tests.mutation.engine import Change, Engine, Noted, StepOff, failures_noted
from tests.mutation.mutants import PACKAGE, Module, read_module

ROOT = Path(__file__).parent.parent.parent
EQUIVALENT = Path(__file__).parent / "equivalent.txt"
_NOT_JUDGING = re.compile(r"__init__|explain.*|tlog_monitor")
MODULES = tuple(
    f"verify/{path.name}"
    for path in sorted((PACKAGE / "verify").glob("*.py"))
    if not _NOT_JUDGING.fullmatch(path.stem)
)
_SUITES = ("unit", "vectors")
# tests that damage every byte of something notice every check a little, late and at length
_NO_JUDGES = re.compile(r".*(?:explain|export|imports|_page|benchmark).*")
_WITHOUT_DAMAGE = "not cut and not flipped and not damaged and not change_of_a_byte and not million"
# whole sessions, judged as a client judges them; and whatever else judges one, for what these did not notice
_WORLD = re.compile(r"fakes\.(?:world|log_world|tuf\w*)\b")
_JUDGES = tuple(
    f"tests/unit/test_{name}.py"
    for name in ("appraise", "bad_inputs_manifest", "bad_inputs_quote", "log_bad_inputs")
)

_PLATFORMS = {"chain", "ecdsa", "evidence", "nitro", "platform_evidence", "snp", "tdx", "tdx_collateral"}
_PLATFORM_JUDGES = tuple(f"tests/unit/test_{name}_evidence.py" for name in ("nitro", "snp", "tdx"))


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one run: how many were tried, those nobody noticed, and explanations no longer true."""

    name: str
    tried: int
    survivors: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def unexplained(self) -> tuple[str, ...]:
        """The survivors without a written reason."""
        return tuple(key for key in self.survivors if key not in equivalents())

    @property
    def summary(self) -> str:
        """One line."""
        noticed, explained = self.tried - len(self.survivors), len(self.survivors) - len(self.unexplained)
        return f"{self.name}: {noticed} of {self.tried} noticed, {explained} explained"


def equivalents() -> dict[str, str]:
    """Return by its key why a mutant cannot be noticed; `equivalent.txt` has `KEY` and `  REASON` lines."""
    reasons: dict[str, str] = {}
    key = ""
    for line in EQUIVALENT.read_text().splitlines():
        if line.startswith("  "):
            reasons[key] = f"{reasons[key]} {line.strip()}".strip()
        elif line and not line.startswith("#"):
            key = line
            reasons[key] = ""
    return reasons


def files_about(path: str) -> list[str]:
    """Return the fast test files that import a module, and those that judge whole sessions."""
    dotted = "blindbuild." + path[:-3].replace("/", ".")
    package, _, name = dotted.rpartition(".")
    mentions = re.compile(rf"{re.escape(dotted)}\b|from {re.escape(package)} import [^#]*\b{name}\b")
    judges = _PLATFORM_JUDGES if name in _PLATFORMS else _JUDGES
    return sorted({*_files_with(mentions), *(judges if path.startswith("verify/") else ())})


def _files_with(pattern: re.Pattern[str]) -> list[str]:
    files = sorted(file for suite in _SUITES for file in (ROOT / "tests" / suite).glob("test_*.py"))
    judging = [file for file in files if not _NO_JUDGES.fullmatch(file.name)]
    return [str(file.relative_to(ROOT)) for file in judging if pattern.search(file.read_text())]


def run_modules(paths: Sequence[str], *, jobs: int = 1, tests: Sequence[str] | None = None) -> Result:
    """Try the mutants of modules; those that their own tests miss are shown to everything that judges.

    Args:
        paths: below the package.
        jobs: child processes at a time.
        tests: the files that may notice, and no others; by default those that `files_about` gives, then all.
    """
    modules = [read_module(path) for path in paths]
    changes = [mutant for module in modules for mutant in module.mutants]
    first = sorted({file for path in paths for file in files_about(path)})
    return _try(" ".join(paths), changes, _noting(modules), jobs, first, tests)


def _noting(modules: Sequence[Module]) -> Noted:
    @contextlib.contextmanager
    def noted(note: Callable[[str], None]) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for module in modules:
                stack.enter_context(module.noted(note))
            yield

    return noted


def run_steps(*, jobs: int = 1, tests: Sequence[str] | None = None) -> Result:
    """Switch off each step of the checklist in turn; with `tests`, as `run_modules`."""
    titles = {**TITLES, **LOG_TITLES, **REBUILD_TITLES, **CURRENT_TITLES, **PROBE_TITLES}
    return _try("steps", [StepOff(step) for step in titles], failures_noted, jobs, _JUDGES, tests)


def _try(
    name: str,
    changes: Sequence[Change],
    noted: Noted,
    jobs: int,
    first: Sequence[str],
    only: Sequence[str] | None,
) -> Result:
    """Try changes on the first tests, and on everything that judges what those did not notice."""
    engine = Engine(changes, noted, jobs)
    _run(engine, only or first)
    rest = [change for change in engine.survivors if change.key not in equivalents()]
    more = [] if only else sorted(set(_files_with(_WORLD)) - set(first))
    if rest and more:
        again = Engine(rest, noted, jobs)
        _run(again, more)
        engine.survivors = [c for c in engine.survivors if c not in rest] + again.survivors
        engine.killed += again.killed
    return _result(name, engine)


def _run(engine: Engine, files: Sequence[str]) -> None:
    os.environ["BLINDBUILD_BAD_INPUTS_WRITING"] = "1"  # tests are to notice by themselves, not by the table
    chosen = ["-m", "not full", "-k", _WITHOUT_DAMAGE, "-q", "--no-header", "--no-summary", *files]
    code = pytest.main(chosen, [engine])
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise SystemExit(f"the tests could not be collected: {code!r}")


def _result(name: str, engine: Engine) -> Result:
    survivors, killed = ({change.key for change in some} for some in (engine.survivors, engine.killed))
    stale = sorted(killed & equivalents().keys())
    return Result(name, len(survivors) + len(killed), tuple(sorted(survivors)), tuple(stale))
