"""The C parts of init, compiled for this machine and driven through frames; see guest_init_harness.c."""

from __future__ import annotations

import functools
import os
import shutil
import socket
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INIT = ROOT / "builder" / "blindbuild" / "guest" / "init"
FILTER_SOURCES = ROOT / "builder" / "blindbuild" / "guest" / "filters"
PROBE = ROOT / "builder" / "blindbuild" / "guest" / "probe"
HARNESS = Path(__file__).with_name("guest_init_harness.c")
WARNINGS = ("-std=gnu17", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@functools.cache
def _directory() -> Path:
    """Return one directory a test process; the system clears it with its other temporary files."""
    return Path(tempfile.mkdtemp(prefix="blindbuild-init-"))


def compile_here(compiler: str, flags: tuple[str, ...], sources: tuple[Path, ...], name: str) -> Path:
    """Return a program made by a compiler of this machine; skips the test where there is none."""
    if shutil.which(compiler) is None:
        pytest.skip(f"needs {compiler} to compile the guest's C for this machine")
    program = _directory() / name
    argv = [
        compiler,
        *WARNINGS,
        *flags,
        "-I",
        str(INIT),
        "-I",
        str(PROBE),
        "-o",
        str(program),
        *map(str, sources),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def init_sources() -> tuple[Path, ...]:
    """Return all C files of init but the one with PID 1's main function."""
    return tuple(sorted(path for path in INIT.glob("*.c") if path.name != "main.c"))


@functools.cache
def checked_harness() -> Path:
    """Return the harness compiled with the address and undefined-behaviour sanitizers."""
    return compile_here("gcc", SANITIZERS, (HARNESS, *init_sources()), "checked")


@functools.cache
def plain_harness(*, probe: bool = False) -> Path:
    """Return the harness as the product is compiled, or with the launcher that tries to break out."""
    extra = (PROBE / "attempts.c",) if probe else ()
    flags = ("-Os", *(("-DBLINDBUILD_PROBE",) if probe else ()))
    return compile_here("gcc", flags, (HARNESS, *init_sources(), *extra), "probe" if probe else "plain")


@functools.cache
def static_harness() -> Path:
    """Return the harness as one static file, for a root directory with nothing else in it."""
    return compile_here("gcc", ("-Os", "-static", "-Wno-unused-result"), (HARNESS, *init_sources()), "static")


@functools.cache
def checked_program(*sources: Path) -> Path:
    """Return a program of these C files with the sanitizers."""
    return compile_here("gcc", SANITIZERS, sources, f"checked-{sources[0].stem}")


@functools.cache
def static_program(*sources: Path) -> Path:
    """Return a static program of these C files, as a workload is."""
    return compile_here("gcc", ("-Os", "-static"), sources, sources[0].stem)


SANITIZER_STATUS = 77


def spawn(argv: list[str], request: socket.socket) -> int:
    """Start a program with this socket as descriptor 3 and /dev/null as 0 to 2; return its process id."""
    with Path(os.devnull).open("r+b") as null:
        actions = [(os.POSIX_SPAWN_DUP2, request.fileno(), 3)]
        actions += [(os.POSIX_SPAWN_DUP2, null.fileno(), number) for number in (0, 1, 2)]
        options = f"exitcode={SANITIZER_STATUS}"
        environment = {"ASAN_OPTIONS": options, "UBSAN_OPTIONS": options}
        return os.posix_spawn(argv[0], argv, environment, file_actions=actions)


def status_of(process: int) -> int:
    """Wait for a process of `spawn`; its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


@dataclass(frozen=True, slots=True)
class Harness:
    """A running harness in one mode."""

    process: subprocess.Popen[bytes]

    def ask(self, frame: bytes) -> bytes:
        """Return the answer to a frame; fails the test with the sanitizer's report if it died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(struct.pack(">I", len(frame)) + frame)
            self.process.stdin.flush()
        except BrokenPipeError:
            pytest.fail(self._report())
        header = self.process.stdout.read(4)
        if len(header) != 4:
            pytest.fail(self._report())
        return self.process.stdout.read(struct.unpack(">I", header)[0])

    def _report(self) -> str:
        assert self.process.stderr is not None
        return f"the harness died: {self.process.stderr.read().decode()}"


@functools.cache
def harness(mode: str) -> Harness:
    """Return the harness in this mode, started once a test process."""
    pipe = subprocess.PIPE
    argv = [str(checked_harness()), mode]
    return Harness(subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe))
