"""The mirror moves on, or the network is gone: what demo and build do then."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.assemble.lock import lock_path
from blindbuild.assemble.recipe import Recipe, load_recipe
from blindbuild.cli.demo import obtain_inputs
from blindbuild.cli.inputs import InputOptions
from blindbuild.errors import LockError
from tests.locked import HELLO, QuietReporter, locked_inputs, user_store

GONE = "bc"  # a small package of the toolchain


class Notes(QuietReporter):
    """Keeps what a person would read."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        """Keep it."""
        self.said.append(text)


@pytest.fixture
def outdated(tmp_path: Path) -> Recipe:
    """recipes/hello with a lock that names a version no mirror has."""
    shutil.copytree(HELLO, tmp_path / "hello", ignore=shutil.ignore_patterns("*.local.lock"))
    package = next(item for item in locked_inputs().groups["toolchain"] if item.name == GONE)
    lock = tmp_path / "hello" / "recipe.lock"
    text = lock.read_text()
    version = package.version.split(":")[-1]
    row = next(line for line in text.splitlines() if f'"name": "{GONE}"' in line)
    gone = row.replace(version, "0.0.1-1").replace(package.digest.hex, "0" * 64)
    assert gone.count("0.0.1-1") == 2
    text = text.replace(row, gone)
    lock.write_text(text)
    return load_recipe(tmp_path / "hello" / "recipe.yaml")


@pytest.mark.network
def test_demo_locks_anew_into_an_untracked_file_when_a_version_is_gone_and_says_so(outdated: Recipe) -> None:
    before, notes = lock_path(outdated).read_bytes(), Notes()
    lock = obtain_inputs(outdated, store=user_store(), reporter=notes, options=InputOptions(), locked=False)
    said = "\n".join(notes.said)
    assert f"{GONE} 0.0.1-1" in said
    assert "which git does not track" in said
    assert lock_path(outdated, local=True).is_file()
    assert lock_path(outdated).read_bytes() == before
    assert {item.name for item in lock.groups["toolchain"]} >= {"gcc", GONE}
    again = Notes()
    assert (
        obtain_inputs(outdated, store=user_store(), reporter=again, options=InputOptions(), locked=False)
        == lock
    )
    assert any("the mirror no longer has every version" in note for note in again.said)


@pytest.mark.network
def test_locked_forbids_that(outdated: Recipe) -> None:
    with pytest.raises(LockError, match=f"{GONE} 0.0.1-1") as gone:
        obtain_inputs(outdated, store=user_store(), reporter=Notes(), options=InputOptions(), locked=True)
    assert "lock --upgrade" in (gone.value.hint or "")
    assert not lock_path(outdated, local=True).exists()


@pytest.mark.kernel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take the network away")
def test_build_offline_works_with_the_network_gone(tmp_path: Path) -> None:
    locked_inputs()
    shutil.copytree(HELLO, tmp_path / "hello")
    local = lock_path(load_recipe(HELLO / "recipe.yaml"), local=True)
    if local.exists():
        shutil.copyfile(local, tmp_path / "hello" / "recipe.lock")
    program = [sys.executable, "-c", "from blindbuild.cli.main import run; run()"]
    arguments = ["build", str(tmp_path / "hello"), "--offline", "-o", str(tmp_path / "images")]
    done = subprocess.run(
        ["unshare", "--net", *program, *arguments], capture_output=True, text=True, check=False, timeout=3000
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "images" / "hello" / "1.0.0" / "hello.efi").is_file()
