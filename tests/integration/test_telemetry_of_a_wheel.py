"""`pip install` brings a telemetry client: the build refuses it; waived, the report says what stops it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.locked import ROOT

pytestmark = [pytest.mark.network, pytest.mark.full, pytest.mark.kernel]

PROGRAM = Path(sys.executable).parent / "blindbuild"
RECIPE = """\
name: speaks
version: 1.0.0
sequence: 1
tree:
  wheels: [onnxruntime==1.32.0]
  compile: [{from: hello.c, to: /app/hello}]
service:
  command: [/app/hello]
  routes: [/v1/hello]
  memory: 64M
network:
  address: dhcp
"""
LIBRARY = "workload/usr/lib/python3/dist-packages/onnxruntime/capi/libonnxruntime.so.1.32.0"
FINDING = re.compile(r"channel \d+ \(\S+\): workload(/\S+): (imports (\w+)|a script|a pickle)")
KINDS = {"a script": "interpreter", "a pickle": "pickle"}


def blindbuild(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in (PROGRAM, *arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == code, done.stderr
    return done


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("speaks")
    shutil.copyfile(ROOT / "recipes/hello/files/hello.c", place / "hello.c")
    (place / "recipe.yaml").write_text(RECIPE)
    blindbuild("lock", place)
    return place


@pytest.fixture(scope="module")
def refusal(recipe: Path) -> str:
    return blindbuild("build", recipe, "-o", recipe / "images", code=1).stderr


@pytest.fixture(scope="module")
def image(recipe: Path, refusal: str) -> Path:
    """The image once the recipe says of each finding what makes it harmless."""
    found = {(match[1], match[3] or KINDS[match[2]]) for match in FINDING.finditer(refusal)}
    waivers = [
        {"path": path, "what": what, "control": "the filters and the file list stop it"}
        for path, what in sorted(found)
    ]
    (recipe / "recipe.yaml").write_text(f"{RECIPE}channels: {{waive: {json.dumps(waivers)}}}\n")
    blindbuild("lock", recipe)
    return Path(blindbuild("build", recipe, "-o", recipe / "images").stdout.strip())


def test_the_build_names_every_import_that_could_speak(refusal: str) -> None:
    for name in ("socket", "connect", "sendto", "getaddrinfo"):
        assert f"{LIBRARY}: imports {name} (network)" in refusal


def test_the_report_shows_the_client_and_what_stops_it(image: Path) -> None:
    line = next(line for line in blindbuild("channels", image).stdout.splitlines() if "reports home" in line)
    assert line.startswith("  onnxruntime reports home (workload/usr/lib/python3/dist-packages/onnxruntime)")
    assert (
        "ask for socket, connect, bind, listen, accept4, sendto, getaddrinfo; ORT_DISABLE_TELEMETRY=1" in line
    )
    assert "Row 32 package-telemetry is " in line


def test_the_ledger_has_the_client_by_module_and_by_word(image: Path) -> None:
    (found,) = json.loads((image / "channels.json").read_text())["telemetry"]
    assert found["package"] == "onnxruntime"
    assert f"OneDsTelemetry in {LIBRARY}" in found["signs"]
    assert found["off"] == ["ORT_DISABLE_TELEMETRY=1"]
    assert "connect" in found["imports"]
