"""docs/bad-inputs.md: every bad input has a test, and the table is what the tests saw."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest

from blindbuild.errors import TlogError, VerificationError
from tests.bad_input_list import BAD_INPUTS
from tests.bad_inputs import ROOT, refusing, stated_table


@cache
def collected() -> dict[int, set[str]]:
    """The marked tests of each number."""
    command = [sys.executable, "-m", "tests.bad_inputs", "--list"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    tests: dict[int, set[str]] = defaultdict(set)
    for line in listed.splitlines():
        number, _, test = line.partition(" ")
        tests[int(number)].add(test)
    return tests


def test_the_list_has_all_numbers_once() -> None:
    assert list(BAD_INPUTS) == list(range(1, 127))


def test_every_bad_input_has_a_test() -> None:
    assert collected().keys() == BAD_INPUTS.keys()


def test_the_table_names_every_test_and_no_other() -> None:
    stated = {number: set(tests) for number, (_, tests) in stated_table().items()}
    assert stated == collected(), "python -m tests.bad_inputs --write"


def test_every_number_of_the_table_has_a_reason() -> None:
    stated = stated_table()
    assert stated.keys() == BAD_INPUTS.keys()
    assert all(reasons for reasons, _ in stated.values())


@pytest.mark.full
def test_the_table_is_what_a_run_shows() -> None:
    command = [sys.executable, "-m", "tests.bad_inputs", "--check"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr


def test_a_refusal_by_another_reason_or_error_fails_its_test() -> None:
    for raised, expected, error in (
        (VerificationError("x", step="Q5", reason="y"), "Q5:z", VerificationError),
        (VerificationError("x", step="Q5", reason="y"), "Q6:y", VerificationError),
        (TlogError("17 bytes"), "18 bytes", TlogError),
        (TlogError("17 bytes"), "", TlogError),
        (TlogError("17 bytes"), "17 bytes", VerificationError),
    ):
        with pytest.raises((AssertionError, TlogError)):
            with refusing(expected, error):
                raise raised
    with pytest.raises(pytest.fail.Exception):
        with refusing("Q5:y"):
            pass


PLUGIN = """
import pytest
from tests.bad_inputs import Recording, record
"""
SILENT = """
@pytest.mark.bad_input(89)
def test_silent():
    pass
"""
OUTSIDE = """
@pytest.mark.bad_input(127)
def test_outside():
    record("Q5:not-made-by-a-tpm")
"""
SPEAKING = """
@pytest.mark.bad_input(89)
def test_speaking():
    record("Q5:not-made-by-a-tpm")
"""


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        (SILENT, "expected a recorded reason"),
        (OUTSIDE, "expected numbers 1 to 126"),
        (SPEAKING, "1 passed"),
    ],
)
def test_a_marked_test_must_record_a_reason_and_a_number_there_is(tmp_path, test: str, expected: str) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.bad_inputs import Recording\n"
        "def pytest_configure(config):\n"
        "    config.addinivalue_line('markers', 'bad_input(number)')\n"
        "    config.pluginmanager.register(Recording())\n"
    )
    (tmp_path / "test_it.py").write_text(PLUGIN + test)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_it.py",
    ]
    environment = {"PYTHONPATH": f"{ROOT}:{ROOT / 'builder'}", "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False, text=True)
    assert expected in ran.stdout + ran.stderr
