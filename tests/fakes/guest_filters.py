"""The system call filters as the image has them, made by this machine's compilers; and how to make others."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.fakes.guest_init import FILTER_SOURCES, compile_here

ALLOW_ALL = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW
MUSL = ("-Os", "-static", "-idirafter", "/usr/include", "-idirafter", "/usr/include/x86_64-linux-gnu")


@functools.cache
def made_filters(*, compiler: str = "gcc", probe: bool = False) -> Mapping[str, bytes]:
    """Return every filter by its name, as the tables of guest/filters give it."""
    flags = MUSL if compiler == "musl-gcc" else ("-O1",)
    if probe:
        flags = (*flags, "-DBLINDBUILD_PROBE")
    name = f"mkfilters-{compiler}-{probe}"
    program = compile_here(compiler, flags, tuple(sorted(FILTER_SOURCES.glob("*.c"))), name)
    with tempfile.TemporaryDirectory() as place:
        subprocess.run([program], cwd=place, check=True)
        return {path.name: path.read_bytes() for path in sorted(Path(place).iterdir())}


@functools.cache
def filter_directory() -> Path:
    """Return a directory with init's filters in it, for a harness; the system clears it."""
    place = Path(tempfile.mkdtemp(prefix="blindbuild-filters-"))
    for name, data in made_filters().items():
        (place / name).write_bytes(data)
    return place
