"""The toolchain directory, from packages written by the standard library."""

from pathlib import Path

import pytest

from blindbuild.assemble.lock import LockedPackage
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.errors import ArchiveError, BuildError, StoreError
from blindbuild.host.store import Store
from tests.fakes.debian_package import lock_deb, write_deb

GCC = {"usr": None, "usr/bin": None, "usr/bin/gcc-14": b"compiler", "usr/bin/gcc": "gcc-14"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def add(store: Store, package: str, files: dict[str, bytes | str | None], **options: int) -> LockedPackage:
    data = write_deb(package, "1.0-1", files, **options)
    store.add(data)
    return lock_deb(package, "1.0-1", data)


def test_packages_are_unpacked_into_one_root(store):
    data = add(store, "data", {"etc": None, "etc/x.conf": b"x\n"})
    root = prepare_toolchain(store, [add(store, "gcc", GCC), data])
    assert (root / "usr/bin/gcc").read_bytes() == b"compiler"
    assert (root / "usr/bin/gcc-14").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/x.conf").stat().st_mode & 0o777 == 0o644


def test_old_and_new_places_of_programs_are_one_directory(store):
    old = add(store, "old", {"bin": None, "bin/sh": b"shell", "lib64": None, "lib64/ld.so": b"loader"})
    base = add(store, "base-files", {"lib64": "usr/lib64", "sbin": "usr/sbin"})
    root = prepare_toolchain(store, [base, old])
    assert (root / "usr/bin/sh").read_bytes() == (root / "bin/sh").read_bytes() == b"shell"
    assert (root / "lib64/ld.so").read_bytes() == b"loader"
    assert {name: (root / name).readlink() for name in ("bin", "sbin", "lib64")} == {
        "bin": Path("usr/bin"),
        "sbin": Path("usr/sbin"),
        "lib64": Path("usr/lib64"),
    }


def test_the_alternatives_are_linked_when_their_programs_are_there(store):
    root = prepare_toolchain(store, [add(store, "gcc", GCC)])
    assert (root / "usr/bin/cc").readlink() == Path("gcc")
    assert not (root / "usr/bin/awk").is_symlink()


def test_a_set_user_id_bit_is_dropped(store):
    root = prepare_toolchain(store, [add(store, "su", {"usr/x": b"x"}, mode=0o4755)])
    assert (root / "usr/x").stat().st_mode & 0o7777 == 0o755


def test_the_order_of_packages_does_not_matter(store):
    packages = [add(store, "first", {"usr/a": b"a"}), add(store, "second", {"usr/b": b"b"})]
    assert prepare_toolchain(store, packages) == prepare_toolchain(store, packages[::-1])
    assert toolchain_key(packages) != toolchain_key(packages[:1])


def test_two_packages_with_one_file_are_refused_and_leave_nothing(store):
    packages = [add(store, "first", {"usr/x": b"a"}), add(store, "second", {"usr/x": b"b"})]
    with pytest.raises(BuildError, match="second: usr/x: another package has a different file of this name"):
        prepare_toolchain(store, packages)
    assert store.find_stage("toolchain", toolchain_key(packages)) is None


def test_a_package_other_than_the_locked_one_is_refused(store):
    data = write_deb("gcc", "2.0-1", {"usr/x": b"x"})
    store.add(data)
    with pytest.raises(BuildError, match=r"expected gcc 1\.0-1, got gcc 2\.0-1"):
        prepare_toolchain(store, [lock_deb("gcc", "1.0-1", data)])


def test_a_package_that_would_leave_the_root_is_refused(store):
    with pytest.raises(ArchiveError, match="expected a relative path"):
        prepare_toolchain(store, [add(store, "evil", {"../x": b"x"})])


def test_a_link_of_one_package_does_not_lead_another_out_of_the_root(store, tmp_path):
    (tmp_path / "outside").mkdir()
    link = add(store, "first", {"usr/share": str(tmp_path / "outside")})
    through = add(store, "second", {"usr/share/x": b"x"})
    with pytest.raises(BuildError, match="second: usr/share/x: usr/share is a symbolic link"):
        prepare_toolchain(store, [link, through])
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_package_that_is_not_in_the_store_is_refused(store):
    with pytest.raises(StoreError, match="is not in the store"):
        prepare_toolchain(store, [lock_deb("gcc", "1.0-1", b"never added")])


def test_no_package_at_all_is_refused(store):
    with pytest.raises(BuildError, match="expected at least one package"):
        prepare_toolchain(store, [])
