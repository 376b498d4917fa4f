"""Checks that are taken out are missed; all of them in the full run, a sample in every run."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from blindbuild.verify import ecdsa
from tests.mutation.engine import StepOff
from tests.mutation.mutants import PACKAGE, read_module
from tests.mutation.run import MODULES, ROOT, equivalents, files_about


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.mutation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("formats/dsse.py", ("dsse", "removed_checks")),
        ("verify/rebuilders.py", ("rebuilders",)),
    ],
)
def test_every_check_of_a_sample_is_missed_when_it_is_not_there(path: str, tests: tuple[str, ...]) -> None:
    done = run(path, "--tests", *(f"tests/unit/test_{name}.py" for name in tests))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


@pytest.mark.full
@pytest.mark.parametrize("path", MODULES)
def test_every_check_is_missed_when_it_is_not_there(path: str) -> None:
    done = run(path)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "explained, but noticed" not in done.stdout


@pytest.mark.full
def test_every_step_of_the_checklist_is_missed_when_it_is_off() -> None:
    done = run("--steps")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_what_nobody_notices_is_reported() -> None:
    done = run("verify/ecdsa.py", "--tests", "tests/unit/test_release.py")
    assert done.returncode == 1
    assert "survived: verify/ecdsa.py verify_p256: return False" in done.stdout


def test_a_mutant_lacks_one_check_and_nothing_else() -> None:
    module = read_module("verify/ecdsa.py")
    assert [mutant.what for mutant in module.mutants] == ["return False", "return False #2"]
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    original = ecdsa.verify_p256.__code__
    try:
        assert not ecdsa.verify_p256(key, bytes(64), b"")
        module.mutants[1].apply()
        assert ecdsa.verify_p256(key, bytes(64), b"")
        assert not ecdsa.verify_p256(key, bytes(63), b"")
    finally:
        ecdsa.verify_p256.__code__ = original


def test_the_places_that_a_test_reaches_are_noted() -> None:
    module = read_module("verify/ecdsa.py")
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    reached: list[str] = []
    with module.noted(reached.append):
        ecdsa.verify_p256(key, bytes(63), b"")
    assert reached == [module.mutants[0].key]
    ecdsa.verify_p256(key, bytes(63), b"")
    assert len(reached) == 1


@pytest.mark.parametrize("path", MODULES)
def test_every_refusal_of_a_module_has_a_mutant(path: str) -> None:
    tree = ast.parse((PACKAGE / path).read_text())
    raises = sum(isinstance(node, ast.Raise) for node in ast.walk(tree))
    module = read_module(path)
    assert sum(mutant.what.startswith("raise") for mutant in module.mutants) == raises
    assert len({mutant.key for mutant in module.mutants}) == len(module.mutants)
    assert files_about(path)


def test_what_cannot_be_noticed_has_a_reason_and_is_still_there() -> None:
    keys = {mutant.key for path in MODULES for mutant in read_module(path).mutants}
    keys |= {StepOff(step).key for step in ("E6", "E10")}
    assert all(reason for reason in equivalents().values())
    assert equivalents().keys() <= keys
