"""The store keeps what it was given, and says so when it could not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, StoreError, UsageError
from blindbuild.host.files import (
    hash_file,
    read_bytes,
    remove_tree,
    temporary_directory,
    write_atomically,
    write_chunks_atomically,
)
from blindbuild.host.store import Store

# Source: FIPS 180-4 example, also `printf abc | sha256sum`.
ABC = Digest.from_hex(
    HashAlgorithm.SHA256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
)
KEY = Digest.sha256(b"key")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def leftovers(store: Store) -> list[str]:
    return names(store.root / "aside")


def python(code: str, *arguments: str) -> subprocess.Popen[str]:
    program = "from pathlib import Path\nimport sys, time\n" + textwrap.dedent(code)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )


def test_bytes_come_back_under_their_hash(store: Store) -> None:
    assert not store.has(ABC)
    assert store.add(b"abc") == ABC
    assert store.has(ABC)
    assert store.read(ABC) == b"abc"
    assert store.path(ABC).read_bytes() == b"abc"
    assert store.path(ABC).name == ABC.hex
    assert leftovers(store) == []


def test_adding_the_same_bytes_twice_is_harmless(store: Store) -> None:
    assert store.add(b"abc") == store.add(b"abc") == ABC


def test_a_file_is_added_only_if_it_is_the_expected_one(store: Store, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abd")
    with pytest.raises(
        StoreError, match=f"expected {ABC}, got sha256:a52d159f262b2c6ddb724a61840befc36eb30c88"
    ):
        store.add_file(tmp_path / "x", expected=ABC)
    assert not store.has(ABC)
    (tmp_path / "x").write_bytes(b"abc")
    assert store.add_file(tmp_path / "x", expected=ABC) == store.path(ABC)
    assert leftovers(store) == []


def test_a_file_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="gone: cannot copy: no such file"):
        store.add_file(tmp_path / "gone", expected=ABC)


def test_a_missing_blob_is_named(store: Store) -> None:
    with pytest.raises(StoreError, match=f"blob {ABC} is not in the store") as caught:
        store.read(ABC)
    assert "blindbuild fetch" in (caught.value.hint or "")


@pytest.mark.parametrize("how", ["read", "path"])
@pytest.mark.parametrize("damage", [b"abd", b"ab", b"abcc", b""])
def test_a_damaged_blob_is_named_and_removed(store: Store, how: str, damage: bytes) -> None:
    path = store.path(store.add(b"abc"))
    path.chmod(0o644)
    path.write_bytes(damage)
    with pytest.raises(StoreError, match=f"blob {ABC} is damaged"):
        getattr(store, how)(ABC)
    assert not store.has(ABC)
    store.add(b"abc")
    assert store.read(ABC) == b"abc"


def test_a_link_in_place_of_a_blob_is_refused_and_removed(store: Store, tmp_path: Path) -> None:
    path = store.path(store.add(b"abc"))
    path.unlink()
    (tmp_path / "abc").write_bytes(b"abc")
    path.symlink_to(tmp_path / "abc")
    with pytest.raises(StoreError, match="is damaged"):
        store.read(ABC)
    assert not store.has(ABC)
    assert (tmp_path / "abc").read_bytes() == b"abc"


def test_only_sha256_names_blobs(store: Store) -> None:
    with pytest.raises(StoreError, match="names blobs by sha256, got sha1"):
        store.has(Digest.zero(HashAlgorithm.SHA1))


def fill(directory: Path) -> None:
    (directory / "sub").mkdir()
    (directory / "sub" / "file").write_text("content")
    (directory / "link").symlink_to("sub/file")


def test_a_stage_result_is_found_once_it_is_made(store: Store) -> None:
    assert store.find_stage("kernel", KEY) is None
    with store.make_stage("kernel", KEY) as directory:
        fill(directory)
        assert not (store.root / "stages").exists()
    found = store.find_stage("kernel", KEY)
    assert found is not None
    assert (found / "link").read_text() == "content"
    assert store.find_stage("kernel", Digest.sha256(b"other")) is None
    assert store.find_stage("guest", KEY) is None
    assert leftovers(store) == []


def test_a_stage_that_fails_leaves_nothing(store: Store) -> None:
    def fail(directory: Path) -> None:
        fill(directory)
        (directory / "sub").chmod(0o555)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.ensure_stage("kernel", KEY, fail)
    assert store.find_stage("kernel", KEY) is None
    assert leftovers(store) == []


def damage_content(path: Path) -> None:
    (path / "sub" / "file").write_text("Content")


def damage_mode(path: Path) -> None:
    (path / "sub" / "file").chmod(0o755)


def damage_by_addition(path: Path) -> None:
    (path / "sub" / "more").write_text("")


def damage_by_removal(path: Path) -> None:
    (path / "sub" / "file").unlink()


def damage_link(path: Path) -> None:
    (path / "link").unlink()
    (path / "link").symlink_to("sub")


def damage_listing(path: Path) -> None:
    (path.parent / "listing").unlink()


DAMAGES = [
    (damage_content, "sub/file is not as listed"),
    (damage_mode, "sub/file is not as listed"),
    (damage_by_addition, "sub/more is not as listed"),
    (damage_by_removal, "sub/file is not as listed"),
    (damage_link, "link is not as listed"),
    (damage_listing, "no such file or directory"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_a_damaged_stage_result_is_named_and_removed(store: Store, damage: object, message: str) -> None:
    with store.make_stage("kernel", KEY) as directory:
        fill(directory)
    found = store.find_stage("kernel", KEY)
    assert found is not None
    assert callable(damage)
    damage(found)
    with pytest.raises(StoreError, match=f"stage kernel {KEY.hex[:12]} is damaged: {message}"):
        store.find_stage("kernel", KEY)
    assert store.find_stage("kernel", KEY) is None
    assert leftovers(store) == []


def test_a_big_result_is_found_without_hashing_it(store: Store) -> None:
    with store.make_stage("toolchain", KEY) as directory:
        fill(directory)
    found = store.find_stage("toolchain", KEY, verify=False)
    assert found is not None
    damage_content(found)
    assert store.find_stage("toolchain", KEY, verify=False) == found


def test_a_result_may_hold_read_only_directories(store: Store) -> None:
    with store.make_stage("toolchain", KEY) as directory:
        fill(directory)
        (directory / "sub").chmod(0o555)
    assert store.find_stage("toolchain", KEY) is not None


def test_a_pipe_in_a_result_is_refused(store: Store) -> None:
    with (
        pytest.raises(StoreError, match="made pipe, expected only files"),
        store.make_stage("x", KEY) as path,
    ):
        os.mkfifo(path / "pipe")
    assert store.find_stage("x", KEY) is None


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6644])
def test_a_set_id_bit_in_a_result_is_refused(store: Store, mode: int) -> None:
    def make(directory: Path) -> None:
        (directory / "program").write_text("x")
        (directory / "program").chmod(mode)

    with pytest.raises(StoreError, match=f"made program with mode {mode:04o}, expected no set-id bits"):
        store.ensure_stage("x", KEY, make)
    assert store.find_stage("x", KEY) is None


@pytest.mark.parametrize("name", ["", "../x", "a/b", "A"])
def test_a_stage_name_is_a_plain_word(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="expected a stage name"):
        store.find_stage(name, KEY)


def test_ensure_stage_makes_a_result_only_once(store: Store) -> None:
    calls: list[Path] = []

    def make(directory: Path) -> None:
        calls.append(directory)
        fill(directory)

    first = store.ensure_stage("guest", KEY, make)
    assert store.ensure_stage("guest", KEY, make) == first == store.find_stage("guest", KEY)
    assert len(calls) == 1


SLOW_STAGE = """
from blindbuild.digest import Digest
from blindbuild.host.store import Store
store, key = Store(Path(sys.argv[1])), Digest.sha256(b"key")
def make(directory):
    print("making", flush=True)
    (directory / "a").write_text("a")
    time.sleep(float(sys.argv[2]))
print("got", store.ensure_stage("slow", key, make).name, flush=True)
"""


def test_two_builds_at_once_do_the_work_once(store: Store) -> None:
    builds = [python(SLOW_STAGE, str(store.root), "0.5") for _ in range(3)]
    outputs = [build.communicate(timeout=30)[0] for build in builds]
    assert sorted(outputs) == ["got result\n", "got result\n", "making\ngot result\n"]


def test_a_killed_build_leaves_nothing_visible_and_the_next_one_cleans_up(store: Store) -> None:
    build = python(SLOW_STAGE, str(store.root), "60")
    assert build.stdout is not None
    assert build.stdout.readline() == "making\n"
    build.send_signal(signal.SIGKILL)
    build.communicate()
    assert leftovers(store) == [f"slow-{KEY.hex}"]
    assert store.find_stage("slow", KEY) is None
    again = Store(store.root)
    again.add(b"abc")
    assert leftovers(again) == []


def test_cleaning_up_spares_what_a_running_build_is_making(store: Store) -> None:
    build = python(SLOW_STAGE, str(store.root), "1")
    assert build.stdout is not None
    assert build.stdout.readline() == "making\n"
    store.add(b"abc")
    assert leftovers(store) == [f"slow-{KEY.hex}"]
    assert build.communicate(timeout=30)[0] == "got result\n"


def test_a_killed_addition_leaves_nothing_visible_and_the_next_one_cleans_up(
    store: Store, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    code = """
    from blindbuild.digest import Digest
    from blindbuild.host.store import Store
    print("adding", flush=True)
    Store(Path(sys.argv[1])).add_file(Path(sys.argv[2]), expected=Digest.sha256(b"abc"))
    """
    adding = python(code, str(store.root), str(tmp_path / "pipe"))
    with (tmp_path / "pipe").open("wb") as pipe:  # returns when the other side reads
        pipe.write(b"ab")
        pipe.flush()
        assert len(leftovers(store)) == 1
        Store(store.root).add(b"other")
        assert len(leftovers(store)) == 1, "the file of a living process must stay"
        adding.send_signal(signal.SIGKILL)
        adding.communicate()
    assert not store.has(ABC)
    Store(store.root).add(b"another")
    assert leftovers(store) == []


def test_a_workspace_keeps_its_content(store: Store) -> None:
    with store.workspace("apt") as path:
        (path / "x").write_text("y")
    with Store(store.root).workspace("apt") as path:
        assert (path / "x").read_text() == "y"


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"BLINDBUILD_STORE": "/s", "XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/s"),
        ({"XDG_CACHE_HOME": "/c", "HOME": "/h"}, "/c/blindbuild"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/blindbuild"),
        ({"HOME": "/h"}, "/h/.cache/blindbuild"),
    ],
)
def test_the_store_is_where_the_environment_says(environ: dict[str, str], root: str) -> None:
    assert Store.default(environ).root == Path(root)


def test_a_store_without_a_place_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no place for the store"):
        Store.default({})


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot write: not a directory") as caught:
        Store(tmp_path / "file" / "store").add(b"abc")
    assert "BLINDBUILD_STORE" in (caught.value.hint or "")


USES = [
    lambda store: store.add(b"abc"),
    lambda store: store.has(ABC),
    lambda store: store.read(ABC),
    lambda store: store.path(ABC),
    lambda store: store.find_stage("x", KEY),
    lambda store: store.ensure_stage("x", KEY, fill),
    lambda store: store.workspace("x").__enter__(),
    lambda store: store.partial(ABC).__enter__(),
]


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_new_store_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        Store(tmp_path / "new" / "store").add(b"abc")
    finally:
        os.umask(before)
    assert (tmp_path / "new" / "store").stat().st_mode & 0o7777 == 0o700


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("mode", [0o777, 0o775, 0o757, 0o1777])
def test_a_store_that_others_can_write_to_is_refused(
    tmp_path: Path, use: Callable[[Store], object], mode: int
) -> None:
    Store(tmp_path / "store").add(b"abc")
    (tmp_path / "store").chmod(mode)
    with pytest.raises(StoreError, match=f"only its owner can write to, got mode {mode:04o}") as caught:
        use(Store(tmp_path / "store"))
    assert caught.value.hint == f"if nobody else has written to it: chmod go-w {tmp_path / 'store'}"


def test_a_store_that_others_can_only_read_is_used(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    assert Store(tmp_path / "store").add(b"abc") == ABC


@pytest.mark.parametrize("use", USES)
def test_a_store_of_another_user_is_refused(
    tmp_path: Path, use: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(tmp_path / "store").add(b"abc")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StoreError, match="expected a directory of user 4711, got one") as caught:
        use(Store(tmp_path / "store"))
    assert "BLINDBUILD_STORE" in (caught.value.hint or "")


def test_a_link_to_a_store_is_followed_only_if_it_is_the_users(tmp_path: Path) -> None:
    Store(tmp_path / "store").add(b"abc")
    (tmp_path / "link").symlink_to("store")
    assert Store(tmp_path / "link").read(ABC) == b"abc"
    if os.geteuid() != 0:
        pytest.skip("only root can make a link of another user")
    os.lchown(tmp_path / "link", 65534, 65534)
    with pytest.raises(StoreError, match="or a link"):
        Store(tmp_path / "link").read(ABC)


def test_a_file_is_written_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one", 0o600)
    write_atomically(path, b"two", 0o640)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"two", 0o640)
    assert names(path.parent) == ["file"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "inner").write_text("")
    with pytest.raises(BlindbuildError, match="file: cannot write: is a directory"):
        write_atomically(tmp_path / "file", b"x")
    assert names(tmp_path) == ["file"]


def test_reading_keeps_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", limit_bytes=5) == b"12345"
    with pytest.raises(StoreError, match="expected at most 4 bytes, got more"):
        read_bytes(tmp_path / "file", limit_bytes=4, error=StoreError)


def test_a_file_hash_is_the_one_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert hash_file(tmp_path / "file") == (3, ABC)


def test_a_temporary_directory_is_gone_afterwards_with_all_that_is_in_it() -> None:
    with temporary_directory() as path:
        (path / "a" / "b").mkdir(parents=True)
        (path / "a" / "b" / "c").write_text("")
        (path / "a" / "b").chmod(0o500)
        (path / "a").chmod(0o500)
    assert not path.exists()
    remove_tree(path)


def test_a_piece_that_cannot_be_made_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"new"
        raise StoreError("no more")

    path = tmp_path / "file"
    write_chunks_atomically(path, (b"o", b"ld"))
    with pytest.raises(StoreError, match="no more"):
        write_chunks_atomically(path, pieces())
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]
