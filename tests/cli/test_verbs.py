"""The command line as people meet it: help, exit codes, streams, and what is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.cli.main import VERBS
from tests.fakes.world import authority, publisher

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "blindbuild"
HEAVY = ("lief", "yaml", "jinja2")


def run(*arguments: str, cwd: Path = ROOT, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_with_an_example(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert f"Example: blindbuild {verb}" in " ".join(done.stdout.split())


def test_help_names_every_verb_and_goes_to_stdout() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert all(f"  {verb} " in done.stdout for verb in VERBS)
    assert done.stderr == ""


@pytest.mark.parametrize("module", ["blindbuild.cli.main", "blindbuild.cli.verify", "blindbuild.cli.call"])
def test_what_a_client_uses_imports_nothing_of_the_builder(module: str) -> None:
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_unknown_verb_is_wrong_usage() -> None:
    done = run("buidl")
    assert done.returncode == 2
    assert "No such command 'buidl'" in done.stderr
    assert done.stdout == ""


def test_a_mistake_in_a_recipe_names_file_line_column_and_helps(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: x\nversion: 1.0.0\nsequence: 1\nservise:\n  command: [/a]\n")
    done = run("build", str(recipe))
    assert done.returncode == 2
    assert f"{recipe}:4:1" in done.stderr
    assert "hint:" in done.stderr
    assert "service" in done.stderr


def test_a_recipe_without_a_lock_says_what_to_run(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in ("recipe.yaml", "files/hello.c"):
        (tmp_path / name).write_bytes((ROOT / "recipes" / "hello" / name).read_bytes())
    done = run("build", str(tmp_path))
    assert done.returncode == 1
    assert "blindbuild lock" in done.stderr


def test_a_changed_workload_file_makes_the_lock_stale_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    for name in ("recipe.yaml", "recipe.lock", "files/hello.c"):
        (tmp_path / name).write_bytes((ROOT / "recipes" / "hello" / name).read_bytes())
    with (tmp_path / "files/hello.c").open("a") as file:
        file.write("/* changed */\n")
    done = run("lock", str(tmp_path), "--check")
    assert done.returncode == 1
    assert "files/hello.c changed since it was locked" in done.stderr


def test_keygen_makes_a_private_file_and_never_overwrites_it(tmp_path: Path) -> None:
    key = tmp_path / "release.key"
    done = run("keygen", "-o", str(key), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["private"] == str(key)
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    again = run("keygen", "-o", str(key))
    assert again.returncode == 2
    assert "there already" in again.stderr
    assert key.read_bytes() == before


def test_offline_with_an_empty_store_names_what_is_missing(tmp_path: Path) -> None:
    done = run(
        "build", "recipes/hello", "--offline", "-o", str(tmp_path), BLINDBUILD_STORE=str(tmp_path / "store")
    )
    assert done.returncode == 1
    assert "offline, and the store lacks" in done.stderr
    assert not (tmp_path / "hello").exists()


def test_a_server_that_is_not_there_is_an_error_and_no_verdict(tmp_path: Path) -> None:
    trust = tmp_path / "trust.json"
    trust.write_bytes(publisher().trust(tpm_roots=[authority().root_pem]))
    done = run("verify", "https://127.0.0.1:1", "--manifest", str(tmp_path), "--trust", str(trust))
    assert done.returncode == 2
    assert "sign the image first" in done.stderr


def test_colour_is_left_out_where_nobody_sees_it() -> None:
    done = run("lock", "recipes/hello", "--check")
    assert "\x1b" not in done.stdout + done.stderr
