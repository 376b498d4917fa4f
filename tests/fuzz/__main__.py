"""Fuzz by hand: `python -m tests.fuzz --seconds 3600 [--target tcglog] [--engine atheris]`.

An input that breaks a target is shrunk and written to `corpus/TARGET/`, where every later run, and CI, tries
it; with `--keep N` so are N small ones that led somewhere new. The engine `atheris` follows coverage; it
takes one target, and grows a corpus in the directory that `--grow` names.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
import traceback
from pathlib import Path
from types import FunctionType

import click

from blindbuild.errors import BlindbuildError
from tests.fuzz.engine import corpus, fuzz, keep
from tests.fuzz.targets import TARGETS, Target

MAX_NEW = 12 << 10  # bytes: the corpus is part of the repository


def main() -> int:
    """Fuzz the chosen targets; return 1 if any broke."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.fuzz")
    parser.add_argument("--seconds", type=float, default=60, help="in all, over the chosen targets")
    parser.add_argument("--target", action="append", choices=[target.name for target in TARGETS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("mutation", "atheris"), default="mutation")
    parser.add_argument("--keep", type=int, default=0, help="how many inputs that led to something new")
    parser.add_argument("--grow", type=Path, help="where atheris keeps what it finds")
    options = parser.parse_args()
    chosen = [target for target in TARGETS if options.target is None or target.name in options.target]
    if options.engine == "atheris":
        return _with_coverage(chosen, options)
    broken = 0
    for target in chosen:
        found = fuzz(target, seconds=options.seconds / len(chosen), seed=options.seed)
        click.echo(
            f"{target.name}: {found.runs} inputs, {len(found.ways)} ways, {len(found.crashes)} broke it"
        )
        for data in sorted(found.new, key=len)[: options.keep]:
            if len(data) <= MAX_NEW:
                keep(target, data, kind="found")
        for data, error in found.crashes:
            broken += 1
            traceback.print_exception(error)
            click.echo(f"kept: {keep(target, data, kind='crash')}")
    return int(broken > 0)


def _with_coverage(chosen: list[Target], options: argparse.Namespace) -> int:
    import atheris  # type: ignore[import-not-found]

    if len(chosen) != 1:
        click.echo("atheris takes one --target", err=True)
        return 2
    target = chosen[0]
    run = atheris.instrument_func(target.run)

    def one(data: bytes) -> None:
        try:
            run(data)
        except BlindbuildError:
            pass
        except Exception:
            click.echo(f"kept: {keep(target, data, kind='crash')}")
            raise

    for function in gc.get_objects():  # those under test: to instrument all of Python takes minutes
        if isinstance(function, FunctionType) and str(function.__module__).startswith("blindbuild."):
            atheris.instrument_func(function)
    place = options.grow or Path(tempfile.mkdtemp(prefix="fuzz-"))
    place.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(corpus(target)):
        (place / f"seed-{number}").write_bytes(data)
    longest = 2 * max(len(data) for data in corpus(target)) + 256
    atheris.Setup(
        [sys.argv[0], str(place), f"-max_total_time={int(options.seconds)}", f"-max_len={longest}"], one
    )
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
