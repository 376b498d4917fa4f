"""The readers of what an auditor is given: recipe, lock, packages and programs; whoever published it chose
every byte.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from blindbuild.assemble.kernel_config import parse_config
from blindbuild.assemble.lock import parse_lock
from blindbuild.assemble.recipe import load_recipe, render_recipe
from blindbuild.assemble.wheel import from_wheel
from blindbuild.audit.elf import read_elf
from blindbuild.formats.deb import parse_control
from blindbuild.formats.tar import read_tar
from tests.fakes.deb import CONTROL, make_tar, tar_file
from tests.unit.test_wheel import make_wheel

RECIPES = Path(__file__).parents[2] / "recipes"
HELLO = RECIPES / "hello"


@cache
def _recipe_place() -> tempfile.TemporaryDirectory[str]:
    place = tempfile.TemporaryDirectory(prefix="recipe-")
    shutil.copytree(HELLO, place.name, dirs_exist_ok=True)
    return place


def _read_recipe(data: bytes) -> None:
    path = Path(_recipe_place().name, "recipe.yaml")
    path.write_bytes(data)
    render_recipe(load_recipe(path))


@cache
def _programs() -> list[bytes]:
    """A program and a library, as small as a compiler makes them."""
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "x.c")
        source.write_text('int puts(const char *); int main(void) { return puts("x"); }\n')
        programs = []
        for more in (("-nostdlib", "-e", "main", "-static-pie"), ("-shared", "-fPIC")):
            target = Path(place, f"x{more[-1]}")
            extra = ["-Wl,--unresolved-symbols=ignore-all", "-Wl,-z,noseparate-code", "-Wl,--build-id=none"]
            subprocess.run(["gcc", "-Os", "-s", *more, *extra, "-o", target, source], check=True)
            programs.append(target.read_bytes())
        return programs


def _recipes() -> list[bytes]:
    flow = b'{version: 1, x: [1, "a", ~], y: &a {b: *a}}'
    return [
        (HELLO / "recipe.yaml").read_bytes(),
        (RECIPES / "hello-sealed" / "recipe.yaml").read_bytes(),
        flow,
    ]


AUDIT_TARGETS: tuple[tuple[str, Callable[[bytes], object], Callable[[], list[bytes]]], ...] = (
    ("recipe", _read_recipe, _recipes),
    (
        "lock",
        lambda data: parse_lock(data, "recipe.lock"),
        lambda: [(HELLO / "recipe.lock").read_bytes()],
    ),
    (
        "wheel",
        lambda data: from_wheel(data, name="x.whl"),
        lambda: [make_wheel({"x/__init__.py": b"1", "x-1.data/purelib/y.py": b"2" * 99})],
    ),
    (
        "tar",
        lambda data: list(read_tar(io.BytesIO(data).read, where="x")),
        lambda: [make_tar([tar_file("./x", b"y")])],
    ),
    ("control", parse_control, lambda: [CONTROL]),
    (
        "kernel-config",
        lambda data: parse_config(data.decode("latin-1"), where="x"),
        lambda: [b'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\n'],
    ),
    ("elf", read_elf, _programs),
)
