"""`pip install blindbuild` gives a client: it verifies without the libraries of the builder."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from blindbuild.verify.bundle import Bundle, bundle_bytes
from tests.fakes.published import NOW
from tests.fakes.world import authority, publisher, session

ROOT = Path(__file__).resolve().parents[2]
BUILDER_ONLY = (
    "lief",
    "yaml",
    "jinja2",
    "zstandard",
    "tuf",
    "securesystemslib",
    "httpx",
    "asn1crypto",
    "oras",
)
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


def needed(requirements: list[str]) -> set[str]:
    """The distributions that pip would install for these, by the names that they have themselves."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        if "extra ==" in requirement:
            continue
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        try:
            distribution = importlib.metadata.distribution(name[0])
        except importlib.metadata.PackageNotFoundError:
            assert ";" in requirement, f"{requirement}: not there, and needed everywhere"
            continue
        if distribution.name not in found:
            found.add(distribution.name)
            waiting += distribution.requires or []
    return found


def link(distribution: str, target: Path) -> None:
    """Put a distribution that is installed here into another environment, file by file at the top."""
    installed = importlib.metadata.distribution(distribution)
    tops = {Path(str(file)).parts[0] for file in installed.files or [] if ".." not in Path(str(file)).parts}
    for top in tops - {"__pycache__"}:
        source = Path(str(installed.locate_file(top)))
        if not (target / top).exists():
            (target / top).symlink_to(source)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and what it declares, and nothing else."""
    place = tmp_path_factory.mktemp("client")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist")],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = (place / "dist").glob("*.whl")
    venv.create(place / "env", with_pip=False)
    (packages,) = (place / "env").glob("lib/python3*/site-packages")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile"),
            *("--target", str(packages), str(wheel)),
        ],
        check=True,
        capture_output=True,
    )
    (metadata,) = packages.glob("blindbuild-*.dist-info")
    declared = importlib.metadata.Distribution.at(metadata).requires or []
    for name in needed(declared):
        link(name, packages)
    return place / "env" / "bin" / "python"


def run(client: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([client, "-I", *arguments], capture_output=True, text=True, check=False, env={})


def test_the_client_has_none_of_the_builders_libraries(client: Path) -> None:
    for module in BUILDER_ONLY:
        assert run(client, "-c", f"import {module}").returncode != 0, module


def test_a_client_judges_a_bundle(client: Path, tmp_path: Path) -> None:
    bundle = Bundle(session(), publisher().envelope, NOW, release=publisher().release)
    (tmp_path / "bundle.json").write_bytes(bundle_bytes(bundle))
    (tmp_path / "trust.json").write_bytes(publisher().trust(**ROOTS))
    verify = (
        *("-c", "from blindbuild.cli.main import run; run()", "verify", str(tmp_path / "bundle.json")),
        *("--trust", str(tmp_path / "trust.json"), "--recorded", "--offline-audit"),
        *("--at-time", "2026-09-21T14:13:20Z", "--allow-test-tpm"),
    )
    done = run(client, *verify, "--json")
    assert done.returncode == 4, done.stderr
    assert json.loads(done.stdout)["accepted"] is True
    assert run(client, *verify, "--explain").returncode == 4
    refused = run(client, *verify[:-1])
    assert refused.returncode == 3
    assert "A11 test-tpm" in refused.stderr


def test_a_client_has_every_verb_that_needs_no_builder(client: Path) -> None:
    code = "from blindbuild.cli.main import run; run()"
    for verb in ("verify", "call", "evidence", "explain", "trust", "keygen", "sign", "proxy"):
        done = run(client, "-c", code, verb, "--help")
        assert done.returncode == 0, (verb, done.stderr)


@pytest.mark.parametrize("module", ["blindbuild.verify", "blindbuild.client"])
def test_the_library_is_there_without_the_command_line(client: Path, module: str) -> None:
    loaded = f"import sys, {module}; print([m for m in ('click', 'rich') if m in sys.modules])"
    done = run(client, "-c", loaded)
    assert done.stdout.strip() == "[]", done.stderr


def test_what_a_feature_needs_is_said_when_it_is_not_there(client: Path, tmp_path: Path) -> None:
    code = (
        "from blindbuild.client.tuf import TufRepository; from blindbuild.manifest import TrustRoots;"
        "import dataclasses;"
        "trust = TrustRoots('hello', (), 1, (), (), (), (), ());"
        "trust = dataclasses.replace(trust, tuf_root=b'{}');"
        "TufRepository(trust, '/nowhere').refresh()"
    )
    done = run(client, "-c", code)
    assert "expected the libraries that follow a TUF repository" in done.stderr
