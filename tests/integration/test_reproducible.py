"""Two builds of one lock, kernel included, that have nothing in common but the lock: the same bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from blindbuild.assemble.lock import lock_path
from blindbuild.assemble.recipe import load_recipe
from blindbuild.cli.outputs import MANIFEST, RELEASE
from blindbuild.host.store import Store
from tests.boot.lab import ROOT, Lab

pytestmark = pytest.mark.kernel

NOBODY = 65534
BUILD_TIMEOUT_S = 3600
RUN = "from blindbuild.cli.main import run; run()"


def run_as_other(
    arguments: list[str], *, cwd: Path, environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run the builder as another user where that is possible."""
    command = [sys.executable, "-c", RUN, *arguments]
    if becomes_nobody(environ):
        command = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", *command]
    return subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False, timeout=BUILD_TIMEOUT_S,
        umask=0o077,
    )  # fmt: skip


def becomes_nobody(environ: dict[str, str]) -> bool:
    """Whether another user can start our interpreter and make a sandbox."""
    if os.geteuid() != 0:
        return False
    probe = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "bwrap", "--unshare-all"]
    probe += ["--ro-bind", "/", "/", sys.executable, "-c", "import blindbuild.cli.main"]
    return subprocess.run(probe, env=environ, capture_output=True, check=False).returncode == 0


def second_store(first: Store) -> Path:
    """A store of its own: the same inputs, none of the first one's results; kept between runs.

    Not in the user's cache directory, which other users may not enter.
    """
    place = Path("/var/tmp") / f"blindbuild-rebuild-{os.geteuid()}"
    (place / "blobs").mkdir(parents=True, exist_ok=True)
    for blob in (first.root / "blobs").rglob("*"):
        target = place / "blobs" / blob.relative_to(first.root / "blobs")
        if blob.is_dir():
            target.mkdir(exist_ok=True)
        elif not target.exists():
            shutil.copyfile(blob, target)
    place.chmod(0o700)
    if os.geteuid() == 0:
        for path in [place, *place.rglob("*")]:
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    return place


def test_another_path_user_processor_count_time_zone_and_locale_give_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> None:
    lab = Lab(tmp_path_factory.mktemp("first"))
    first = lab.build()
    elsewhere = Path(tempfile.mkdtemp(prefix="another place "))  # pytest's own cannot be entered by others
    request.addfinalizer(lambda: shutil.rmtree(elsewhere))
    recipe, local = (
        elsewhere / "recipes" / "hello",
        lock_path(load_recipe(ROOT / "recipes/hello"), local=True),
    )
    shutil.copytree(ROOT / "recipes" / "hello", recipe)
    if local.exists():
        shutil.copyfile(local, recipe / "recipe.lock")
    shutil.copytree(ROOT / "builder", elsewhere / "builder", ignore=shutil.ignore_patterns("__pycache__"))
    environ = {
        "BLINDBUILD_STORE": str(second_store(lab.store)),
        "PYTHONPATH": str(elsewhere / "builder"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"],
        "LANG": "tr_TR.UTF-8",
        "TZ": "Asia/Kathmandu",
        "HOME": "/nonexistent",
    }
    if os.geteuid() == 0:
        for path in [elsewhere, *elsewhere.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
    arguments = ["build", str(recipe), "--offline", "-j", "3", "-o", str(elsewhere / "out")]
    done = run_as_other(arguments, cwd=elsewhere, environ=environ)
    assert done.returncode == 0, done.stderr
    second = elsewhere / "out" / "hello" / "1.0.0"
    names = {path.name for path in first.iterdir()} - {MANIFEST, RELEASE}
    assert {path.name for path in second.iterdir()} == names
    different = [
        name for name in sorted(names) if (first / name).read_bytes() != (second / name).read_bytes()
    ]
    assert different == []
