"""`./dev bench`: what things cost here and now. Prints, never asserts; ratios are against a peer."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from blindbuild.cli.booting import READY_TIMEOUT_S, gate_answers
from blindbuild.errors import MachineError
from blindbuild.machine.machine import Machine
from tests.benchmarks.imports import bench_imports
from tests.benchmarks.ledger import bench_ledger
from tests.benchmarks.measure import bench_measure
from tests.benchmarks.verification import bench_verification, record
from tests.boot.lab import ROOT, ROUTE, Lab

PROGRAM = Path(sys.executable).parent / "blindbuild"
REPEATS = 5


def say(what: str, value: str, aim: str = "") -> None:
    """Print one line."""
    print(f"{what:<58} {value:>16}{f'   (aim: {aim})' if aim else ''}", flush=True)


def seconds_of(run: Callable[[], object]) -> float:
    """Wall-clock seconds of one run."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def best_of(run: Callable[[], object], repeats: int = REPEATS) -> float:
    """The median of several runs."""
    return statistics.median(seconds_of(run) for _ in range(repeats))


def command(*arguments: str, environ: dict[str, str] | None = None) -> None:
    """Run blindbuild as a process of its own."""
    done = subprocess.run(
        [PROGRAM, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environ or {})},
    )
    if done.returncode:
        raise SystemExit(f"blindbuild {' '.join(arguments)} failed:\n{done.stderr}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory that goes away."""
    with tempfile.TemporaryDirectory(prefix="blindbuild-bench-") as name:
        yield Path(name)


def bench_builds(lab: Lab, place: Path) -> None:
    """Builds: clean with a warm store, unchanged, one workload file changed."""
    recipe = place / "recipe"
    shutil.copytree(ROOT / "recipes" / "hello", recipe)
    output = ("-o", str(place / "images"))
    lab.build()
    for stage in ("image", "guest-init", "guest-gate", "guest-workload"):
        shutil.rmtree(lab.store.root / "stages" / stage, ignore_errors=True)
    clean = seconds_of(lambda: command("build", str(recipe), "--offline", *output))
    say("clean build, inputs and kernel in the store", f"{clean:.1f} s")
    unchanged = best_of(lambda: command("build", str(recipe), "--offline", *output))
    say("unchanged rebuild, whole process", f"{unchanged:.2f} s", "0.5 s")

    def change() -> None:
        with (recipe / "files" / "hello.c").open("a") as file:
            file.write(f"/* {time.time_ns()} */\n")
        command("lock", str(recipe))
        command("build", str(recipe), "--offline", *output)

    say("one workload file changed, lock and build", f"{best_of(change, 3):.2f} s", "3 s")


def bench_machine(lab: Lab, image: Path) -> None:
    """Power-on to the first attested answer, and the least RAM that boots."""
    with Machine(lab.machine(image)) as machine:
        machine.wait_until_ready(gate_answers, READY_TIMEOUT_S)
        with lab.judge(machine.url, lab.expect(image, machine)).accept() as connection:
            json.loads(connection.post(ROUTE, b"Ada"))
        say(
            f"power-on to first attested answer ({machine.accelerator.name})",
            f"{time.monotonic() - machine.power_on_s:.1f} s",
        )
    smallest = None
    for memory in (192, 160, 128):
        with suppress(MachineError), Machine(replace(lab.machine(image), memory_mib=memory)) as machine:
            machine.wait_until_ready(gate_answers, READY_TIMEOUT_S)
            smallest = memory
    say("smallest RAM that boots (128 MiB is the least OVMF takes)", f"{smallest} MiB", "128 MiB")


def main() -> None:
    """Run every benchmark."""
    with scratch() as place:
        bench_imports(say)
        bench_measure(place, say, lambda run: best_of(run, 3))
        lab = Lab(place)
        bench_builds(lab, place)
        image = lab.build()
        bench_ledger(say, best_of, image)
        say("boot image (UKI)", f"{(image / 'hello.efi').stat().st_size / 1e6:.2f} MB", "8 MB")
        with lab.running(lab.machine(image)) as machine:
            case = record(lab, image, machine)
        bench_verification(case, place, say)
        bench_machine(lab, image)


if __name__ == "__main__":
    main()
