"""Wheels resolved and brought by the real pip, from a directory of wheels made here."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from blindbuild.assemble.fetch import Sources, fetch_inputs, missing_inputs
from blindbuild.assemble.lock import GROUPS, Lock, LockedWheel
from blindbuild.assemble.lock_pypi import resolve_wheels
from blindbuild.assemble.requirement import parse_requirement
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


def resolve(index: Path, *requires: str, suite: str = "trixie") -> list[str]:
    make_wheel(index, "root", "1.0", "py3-none-any", *requires)
    return names(resolve_wheels(["root==1.0"], suite, keep=(), environ=environ(index)))


def make_source(folder: Path, name: str, trace: Path) -> Path:
    """Write a source archive whose setup.py leaves a trace when it is run."""
    path = folder / f"{name}-1.0.zip"
    code = f"open({str(trace)!r}, 'w').close()\nfrom setuptools import setup\nsetup(name={name!r})\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-1.0/setup.py", code)
    return path


@pytest.mark.parametrize("how", ["evil @ file://{path}", "evil === {path}", "evil[x]@ file://{path}"])
def test_a_dependency_at_an_address_is_refused_and_its_code_never_runs(
    index: Path, tmp_path: Path, how: str
) -> None:
    trace = tmp_path / "trace"
    requirement = how.format(path=make_source(tmp_path, "evil", trace))
    with pytest.raises(LockError, match="root: expected a requirement with a version from the package index"):
        resolve(index, requirement)
    make_wheel(index, "middle", "1.0", "py3-none-any", requirement)
    with pytest.raises(LockError, match="middle: expected a requirement"):
        resolve(index, "middle")
    assert not trace.exists()


def test_a_source_archive_in_the_index_is_not_built(index: Path, tmp_path: Path) -> None:
    make_source(index, "evil", tmp_path / "trace")
    with pytest.raises(LockError, match="No matching distribution found for evil"):
        resolve(index, "evil")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("requirement", ["a b", "--index-url=https://h", "-r x", "alpha==../x", ""])
def test_a_malformed_dependency_is_refused(requirement: str) -> None:
    with pytest.raises(LockError, match="root: malformed requirement"):
        parse_requirement(requirement, wanted_by="root", python="3.13")


def test_dependencies_of_dependencies_are_found_by_their_extras_and_for_the_python_of_the_image(
    index: Path,
) -> None:
    for name in ("fast", "slow", "old", "new"):
        make_wheel(index, name, "1.0")
    make_wheel(
        index, "middle", "1.0", "py3-none-any",
        'fast; extra == "speed"', 'slow; extra == "other"', 'old; python_version < "3.12"',
        'new; python_version >= "3.12"', 'evil @ https://h/x.zip ; sys_platform == "win32"',
    )  # fmt: skip
    found = [name.partition("-")[0] for name in resolve(index, "middle[Speed]")]
    assert found == ["fast", "middle", "new", "root"]
    found = [name.partition("-")[0] for name in resolve(index, "middle", suite="bookworm")]
    assert found == ["middle", "old", "root"]


def test_every_requirement_on_a_wheel_counts(index: Path) -> None:
    assert resolve(index, "alpha", "Beta.Two<1.1")[1].startswith("beta_two-1.0-")
    with pytest.raises(LockError, match=r"(?i)conflict|No matching distribution"):
        resolve(index, "alpha", "beta-two<1")


def test_wheels_that_depend_on_each_other_are_all_found(index: Path) -> None:
    make_wheel(index, "one", "1.0", "py3-none-any", "root", "two")
    make_wheel(index, "two", "1.0", "py3-none-any", "one")
    assert [name.partition("-")[0] for name in resolve(index, "one")] == ["one", "root", "two"]


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
