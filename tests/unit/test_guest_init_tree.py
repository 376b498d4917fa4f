"""The tree check that init makes before anything else, on directories of this machine."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.fakes.guest_init import harness

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root to make device nodes and files of uid 0"
)

FILES = {
    "init": (0o500, b"\x7fELF"),
    "workload/data": (0o444, b"x" * 200_000),
    "~blindbuild.end": (0o400, b"end\n"),
}


def describe(root: Path) -> bytes:
    """Write the listing as docs/spec/guest-abi.md says, from what is on disk."""
    lines = []
    for path in sorted(root.rglob("*"), key=lambda path: os.fsencode(path.relative_to(root))):
        status, name = path.lstat(), str(path.relative_to(root))
        if name == ".blindbuild.tree":
            continue
        size, digest = "0", "-"
        if stat.S_ISCHR(status.st_mode):
            kind, size = "c", f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
        elif stat.S_ISDIR(status.st_mode):
            kind = "d"
        else:
            link = stat.S_ISLNK(status.st_mode)
            kind, data = ("l", os.fsencode(path.readlink())) if link else ("f", path.read_bytes())
            size, digest = str(len(data)), hashlib.sha256(data).hexdigest()
        lines.append(f"{kind} {status.st_mode:07o} {status.st_uid} {status.st_gid} {size} {digest} {name}\n")
    return f"blindbuild-tree 1 {len(lines)}\n{''.join(lines)}".encode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dev", "workload", "aside"):
        (tmp_path / name).mkdir(mode=0o555)
    for name, (mode, data) in FILES.items():
        (tmp_path / name).write_bytes(data)
        (tmp_path / name).chmod(mode)
    os.mknod(tmp_path / "dev/null", 0o020666, os.makedev(1, 3))
    (tmp_path / "workload/link").symlink_to("data")
    (tmp_path / ".blindbuild.tree").write_bytes(describe(tmp_path))
    return tmp_path


def matches(root: Path) -> bool:
    return harness("tree").ask(os.fsencode(root)) == b"\1"


def relist(root: Path, listing: bytes) -> None:
    (root / ".blindbuild.tree").write_bytes(listing)


def test_a_tree_that_is_as_listed_matches(root: Path) -> None:
    assert matches(root)


@pytest.mark.parametrize("name", ["init", "workload/data", "workload/link", "dev/null", "~blindbuild.end"])
def test_a_missing_entry_is_noticed(root: Path, name: str) -> None:
    (root / name).unlink()
    assert not matches(root)


def test_a_file_cut_short_is_noticed(root: Path) -> None:
    os.truncate(root / "workload/data", 199_999)
    assert not matches(root)


def test_a_file_with_another_byte_is_noticed(root: Path) -> None:
    with (root / "workload/data").open("r+b") as stream:
        stream.seek(150_000)
        stream.write(b"y")
    assert not matches(root)


def test_another_mode_or_owner_is_noticed(root: Path) -> None:
    (root / "init").chmod(0o755)
    assert not matches(root)
    (root / "init").chmod(0o500)
    os.chown(root / "init", 0, 1)
    assert not matches(root)


def test_another_device_or_link_target_is_noticed(root: Path) -> None:
    (root / "workload/link").unlink()
    (root / "workload/link").symlink_to("dato")
    assert not matches(root)


def test_another_device_number_is_noticed(root: Path) -> None:
    (root / "dev/null").unlink()
    os.mknod(root / "dev/null", 0o020666, os.makedev(1, 1))
    (root / "dev/null").chmod(0o666)  # the listed mode: only the number differs
    assert not matches(root)


def test_a_file_that_is_not_listed_is_noticed(root: Path) -> None:
    (root / "workload/more").write_bytes(b"")
    assert not matches(root)


def test_an_empty_directory_that_is_not_listed_is_noticed(root: Path) -> None:
    (root / "aside/more").mkdir()
    assert not matches(root)


def test_a_tree_without_the_sentinel_at_its_end_is_refused(root: Path) -> None:
    (root / "~blindbuild.end").rename(root / "~blindbuild.fin")
    relist(root, describe(root))
    assert not matches(root)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"blindbuild-tree 1 8\n", b"blindbuild-tree 1 7\n"),
        (b"blindbuild-tree 1 8\n", b"blindbuild-tree 2 8\n"),
        (b"blindbuild-tree 1 8\n", b"blindbuild-tree 1 08\n"),
        (b"blindbuild-tree 1 8\n", b""),
        (b"f 0100500 0 0 4 ", b"f 100500 0 0 4 "),
        (b"f 0100500 0 0 4 ", b"f 0100500 0 0 04 "),
        (b"f 0100500 0 0 4 ", b"f 0100500  0 0 4 "),
        (b" init\n", b" init \n"),
        (b" init\n", b" init\0\n"),
        (b"~blindbuild.end\n", b"~blindbuild.end"),
        (b"~blindbuild.end\n", b"~blindbuild.end\n\n"),
    ],
)
def test_a_listing_of_another_form_is_refused(root: Path, before: bytes, after: bytes) -> None:
    listing = describe(root)
    assert before in listing
    relist(root, listing.replace(before, after, 1))
    assert not matches(root)


def test_every_truncation_of_the_listing_is_refused(root: Path) -> None:
    listing = describe(root)
    for size in range(len(listing)):
        relist(root, listing[:size])
        assert not matches(root)


def test_a_listing_with_a_line_twice_is_refused(root: Path) -> None:
    lines = describe(root).splitlines(keepends=True)
    relist(root, b"blindbuild-tree 1 9\n" + b"".join([*lines[1:], lines[-1]]))
    assert not matches(root)
