"""Wheels resolved and brought by the real pip, from a directory of wheels made here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from blindbuild.assemble.fetch import Sources, fetch_inputs, missing_inputs
from blindbuild.assemble.lock import GROUPS, Lock, LockedWheel
from blindbuild.assemble.lock_pypi import resolve_wheels
from blindbuild.digest import Digest
from blindbuild.errors import FetchError, LockError
from blindbuild.host.store import Store


def make_wheel(folder: Path, name: str, version: str, tag: str = "py3-none-any", *requires: str) -> Path:
    """Write a wheel with nothing in it (PEP 427)."""
    info = f"{name}-{version}.dist-info"
    metadata = [f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}"]
    metadata += [f"Requires-Dist: {requirement}" for requirement in requires]
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(metadata) + "\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    make_wheel(folder, "alpha", "1.0", "py3-none-any", "Beta_Two>=1")
    make_wheel(folder, "beta_two", "1.0", "cp313-cp313-manylinux_2_28_x86_64")
    make_wheel(folder, "beta_two", "1.1", "cp313-cp313-manylinux_2_28_x86_64")
    make_wheel(folder, "beta_two", "1.1", "cp311-cp311-manylinux_2_17_x86_64")
    make_wheel(folder, "beta_two", "2.0", "cp313-cp313-win_amd64")
    return folder


def environ(index: Path) -> dict[str, str]:
    return {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": "/dev/null",
        "UNRELATED": "x",
    }


def names(wheels: tuple[LockedWheel, ...]) -> list[str]:
    return [wheel.filename for wheel in wheels]


def test_wheels_are_for_the_python_of_the_suite_and_not_for_this_one(index: Path) -> None:
    found = resolve_wheels(["alpha==1.0"], "trixie", keep=(), environ=environ(index))
    assert names(found) == [
        "alpha-1.0-py3-none-any.whl",
        "beta_two-1.1-cp313-cp313-manylinux_2_28_x86_64.whl",
    ]
    assert [(wheel.name, wheel.version) for wheel in found] == [("alpha", "1.0"), ("beta-two", "1.1")]
    for wheel in found:
        assert wheel.digest.hex == hashlib.sha256((index / wheel.filename).read_bytes()).hexdigest()
    older = resolve_wheels(["alpha==1.0"], "bookworm", keep=(), environ=environ(index))
    assert names(older)[1] == "beta_two-1.1-cp311-cp311-manylinux_2_17_x86_64.whl"


def test_kept_versions_stay(index: Path) -> None:
    kept = LockedWheel(
        "beta-two", "1.0", "beta_two-1.0-cp313-cp313-manylinux_2_28_x86_64.whl", Digest.sha256(b"")
    )
    found = resolve_wheels(["alpha==1.0"], "trixie", keep=(kept,), environ=environ(index))
    assert [wheel.version for wheel in found] == ["1.0", "1.0"]


def test_a_wheel_that_is_not_there_is_an_error(index: Path) -> None:
    with pytest.raises(LockError, match=r"No matching distribution found for alpha==9\.0") as caught:
        resolve_wheels(["alpha==9.0"], "trixie", keep=(), environ=environ(index))
    assert "x86-64" in (caught.value.hint or "")


def lock_of(index: Path) -> Lock:
    wheels = resolve_wheels(["alpha==1.0"], "trixie", keep=(), environ=environ(index))
    checksum = Digest.sha256(b"")
    return Lock("trixie", checksum, checksum, dict.fromkeys(GROUPS, ()), wheels, ())


def test_locked_wheels_reach_the_store(index: Path, tmp_path: Path) -> None:
    lock, store = lock_of(index), Store(tmp_path / "store")
    assert fetch_inputs(lock, store, Sources(environ(index))) == 2
    assert missing_inputs(lock, store) == ()
    for wheel in lock.wheels:
        assert store.read(wheel.digest) == (index / wheel.filename).read_bytes()


def test_an_altered_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    lock, store = lock_of(index), Store(tmp_path / "store")
    make_wheel(index, "alpha", "1.0", "py3-none-any")
    with pytest.raises(FetchError, match=r"HASHES|hashes"):
        fetch_inputs(lock, store, Sources(environ(index)))
    assert not store.has(lock.wheels[0].digest)
