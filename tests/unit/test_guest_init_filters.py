"""init reads its filters as a whole, or powers off: `load_filters`, with the sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.guest_filters import filter_directory
from tests.fakes.guest_init import checked_harness

POWER_OFF = 9  # what stands for it in the harness
INIT_FILTERS = ("socket-rule", "child", "init", "dhcp", "launcher", "workload")
LONGEST = 8 * 1023


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return Path(shutil.copytree(filter_directory(), tmp_path / "filters"))


def load(place: Path) -> int:
    return subprocess.run([checked_harness(), "load", place], check=False, capture_output=True).returncode


def test_the_image_s_filters_are_read(place: Path) -> None:
    assert load(place) == 0


def test_the_longest_filter_is_read(place: Path) -> None:
    (place / "workload").write_bytes(bytes(LONGEST))
    assert load(place) == 0


@pytest.mark.parametrize("name", INIT_FILTERS)
def test_no_filter_may_be_missing(place: Path, name: str) -> None:
    (place / name).unlink()
    assert load(place) == POWER_OFF


def as_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def as_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-1]), id="a byte short"),
        pytest.param(lambda path: path.write_bytes(bytes(7)), id="no whole instruction"),
        pytest.param(lambda path: path.write_bytes(bytes(LONGEST + 8)), id="one instruction too long"),
        pytest.param(lambda path: path.write_bytes(bytes(1 << 20)), id="much too long"),
        pytest.param(as_link, id="a link"),
        pytest.param(as_directory, id="a directory"),
    ],
)
@pytest.mark.parametrize("name", ["socket-rule", "workload"])
def test_a_filter_that_is_not_whole_powers_off(place: Path, name: str, spoil: Callable[[Path], None]) -> None:
    spoil(place / name)
    assert load(place) == POWER_OFF
