"""`python -m tests.mutation [PATH ...] [--steps] [--jobs N] [--tests FILE ...]`."""

from __future__ import annotations

import argparse
import sys

from tests.mutation.run import MODULES, run_modules, run_steps


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("paths", nargs="*", help="modules below builder/blindbuild, such as verify/quote.py")
    parser.add_argument(
        "--steps", action="store_true", help="switch off one step of the checklist after the other"
    )
    parser.add_argument("--all", action="store_true", help="all modules that judge")
    parser.add_argument("--jobs", type=int, default=1, help="child processes at a time")
    parser.add_argument("--tests", nargs="+", help="the test files that may notice")
    chosen = parser.parse_args()
    results = []
    if chosen.steps:
        results.append(run_steps(jobs=chosen.jobs, tests=chosen.tests))
    if paths := MODULES if chosen.all else chosen.paths:
        results.append(run_modules(paths, jobs=chosen.jobs, tests=chosen.tests))
    for result in results:
        sys.stdout.write(f"\n{result.summary}\n")
        sys.stdout.writelines(f"survived: {key}\n" for key in result.unexplained)
        sys.stdout.writelines(f"explained, but noticed: {key}\n" for key in result.stale)
    return 1 if any(result.unexplained for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
