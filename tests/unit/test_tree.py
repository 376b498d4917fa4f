import tarfile

import pytest

from blindbuild.assemble.tree import (
    Kind,
    Tree,
    TreeEntry,
    device_entry,
    directory_entry,
    file_entry,
    from_deb_packages,
    from_files,
    symlink_entry,
)
from blindbuild.errors import BuildError, PolicyError
from blindbuild.formats.deb import DebPackage, read_deb
from tests.fakes.deb import CONTROL, make_deb, make_tar, tar_file, tar_other


def package(name: str, *entries: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes]) -> DebPackage:
    return read_deb(make_deb(make_tar(entries), control=CONTROL.replace(b"hello", name.encode())))


def test_paths_are_sorted_by_their_bytes_whatever_the_input_order() -> None:
    tree = Tree(
        {b"b": file_entry(b""), b"a/x": file_entry(b""), b"a-": file_entry(b""), b"Z": file_entry(b"")}
    )
    assert list(tree) == [b"Z", b"a", b"a-", b"a/x", b"b"]


def test_missing_parents_become_read_only_directories() -> None:
    tree = Tree({b"usr/lib/x": file_entry(b"")})
    assert tree[b"usr"] == tree[b"usr/lib"] == directory_entry(0o555)


def test_an_explicit_parent_keeps_its_mode() -> None:
    assert Tree({b"a/x": file_entry(b""), b"a": directory_entry(0o500)})[b"a"].mode == 0o500


@pytest.mark.parametrize(
    "path", [b"", b"/a", b"a/", b"a//b", b"./a", b"a/..", b"..", b"a b", b"a\n", b"\xc3\xa9", b"a" * 1025]
)
def test_a_path_that_an_image_cannot_hold_is_refused(path: bytes) -> None:
    with pytest.raises(PolicyError, match="tree: "):
        Tree({path: file_entry(b"")})


def test_a_parent_that_is_no_directory_is_refused() -> None:
    with pytest.raises(BuildError, match="a is no directory, and has a/b below it"):
        Tree({b"a": symlink_entry(b"c"), b"a/b": file_entry(b"")})


@pytest.mark.parametrize(
    ("kind", "mode", "data", "device"),
    [
        (Kind.FILE, 0o100444, b"", (0, 0)),
        (Kind.FILE, 0o444, b"", (1, 3)),
        (Kind.DIRECTORY, 0o555, b"x", (0, 0)),
        (Kind.SYMLINK, 0o777, b"", (0, 0)),
        (Kind.SYMLINK, 0o777, b"a\0", (0, 0)),
        (Kind.SYMLINK, 0o555, b"a", (0, 0)),
        (Kind.DEVICE, 0o666, b"", (0, 0)),
    ],
)
def test_an_entry_that_contradicts_itself_is_refused(
    kind: Kind, mode: int, data: bytes, device: tuple[int, int]
) -> None:
    with pytest.raises(BuildError, match="tree: "):
        TreeEntry(kind, mode, data, device)


def test_the_full_mode_has_the_file_type() -> None:
    entries = (file_entry(b"", 0o400), directory_entry(), symlink_entry(b"x"), device_entry(1, 3, 0o666))
    assert [f"{entry.full_mode:o}" for entry in entries] == ["100400", "40555", "120777", "20666"]


def test_trees_merge_when_they_agree() -> None:
    merged = from_files({b"a/x": b"1"}).merge(from_files({b"a/x": b"1", b"a/y": b"2"}))
    assert merged == from_files({b"a/x": b"1", b"a/y": b"2"})


def test_a_merge_names_every_conflict() -> None:
    with pytest.raises(BuildError, match="different entries: x, y"):
        from_files({b"x": b"1", b"y": b"1"}).merge(from_files({b"x": b"2", b"y": b"2"}))


def test_a_merge_of_a_file_with_a_directory_is_refused() -> None:
    with pytest.raises(BuildError, match="different entries: a"):
        from_files({b"a": b""}).merge(from_files({b"a/b": b""}))


def test_a_tree_moves_below_a_directory() -> None:
    assert list(from_files({b"a/b": b""}).below(b"workload")) == [b"workload", b"workload/a", b"workload/a/b"]


def test_executables_are_executable_and_have_to_exist() -> None:
    tree = from_files({b"run": b"", b"data": b""}, executables=[b"run"])
    assert (tree[b"run"].mode, tree[b"data"].mode) == (0o555, 0o444)
    with pytest.raises(BuildError, match="no files: missing"):
        from_files({b"run": b""}, executables=[b"missing"])


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (b"/usr/bin/app", b"usr/bin/app"),
        (b"/bin/app", b"usr/bin/app"),
        (b"/alternative", b"usr/bin/app"),
        (b"usr/bin/up/bin/app", b"usr/bin/app"),
        (b"/../../usr", b"usr"),
        (b"/", b""),
        (b"/missing", None),
        (b"/usr/bin/app/x", None),
        (b"/loop", None),
        (b"/dangling", None),
    ],
)
def test_paths_resolve_as_in_a_root_directory(path: bytes, found: bytes | None) -> None:
    links = {
        b"bin": b"usr/bin",
        b"alternative": b"/bin/app",
        b"usr/bin/up": b"..",
        b"loop": b"loop",
        b"dangling": b"no",
    }
    tree = Tree(
        {b"usr/bin/app": file_entry(b"", 0o555)}
        | {path: symlink_entry(target) for path, target in links.items()}
    )
    assert tree.resolve(path) == found


def test_packages_become_a_tree_without_write_bits_and_hard_links() -> None:
    first = package(
        "first",
        tar_other("./usr/", tarfile.DIRTYPE),
        tar_file("./usr/a", b"content", 0o644),
        tar_other("./usr/b", tarfile.LNKTYPE, target="./usr/a"),
        tar_other("./usr/c", tarfile.SYMTYPE, target="a"),
    )
    second = package("second", tar_other("./usr/", tarfile.DIRTYPE), tar_file("./usr/run", b"x", 0o755))
    tree = from_deb_packages([first, second])
    assert dict(tree) == {
        b"usr": directory_entry(0o555),
        b"usr/a": file_entry(b"content", 0o444),
        b"usr/b": file_entry(b"content", 0o444),
        b"usr/c": symlink_entry(b"a"),
        b"usr/run": file_entry(b"x", 0o555),
    }
    assert from_deb_packages([second, first]) == tree


def test_set_id_bits_of_a_package_are_kept_for_the_policy_to_refuse() -> None:
    tree = from_deb_packages([package("su", tar_file("./usr/su", b"", 0o4755))])
    assert tree[b"usr/su"].mode == 0o4555


def test_the_links_of_a_merged_usr_are_made_where_packages_need_them() -> None:
    tree = from_deb_packages([package("libc", tar_other("./usr/lib64/", tarfile.DIRTYPE))])
    assert tree[b"lib64"] == symlink_entry(b"usr/lib64")
    assert b"bin" not in tree


def test_a_directory_of_a_package_wins_over_the_links_of_a_merged_usr() -> None:
    tree = from_deb_packages([package("old", tar_file("./lib/x", b""), tar_file("./usr/lib/y", b""))])
    assert tree[b"lib"] == directory_entry()


def test_packages_that_disagree_on_a_path_are_refused() -> None:
    with pytest.raises(BuildError, match=r"two 1:2\.10-3: a is not the same"):
        from_deb_packages([package("one", tar_file("./a", b"1")), package("two", tar_file("./a", b"2"))])


def test_only_what_is_to_be_kept_has_to_fit_an_image() -> None:
    packages = [package("certs", tar_file("./usr/é", b""), tar_file("./usr/lib/x", b""))]
    assert b"usr/lib/x" in from_deb_packages(packages, keep=lambda path: path.startswith(b"usr/lib"))
    with pytest.raises(PolicyError, match="printable ASCII"):
        from_deb_packages(packages)
