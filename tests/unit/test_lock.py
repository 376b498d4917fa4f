"""A lock has one spelling, and is stale as soon as anything it was made for changes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.assemble.lock import (
    GROUPS,
    Lock,
    LockedFile,
    LockedPackage,
    LockedWheel,
    check_lock,
    deep_checksum,
    lock_path,
    parse_lock,
    read_lock,
    render_lock,
    request_checksum,
    requests_of,
)
from blindbuild.assemble.lock_make import Resolution, Upgrade, make_lock
from blindbuild.assemble.recipe import Recipe, load_recipe
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import LockError
from blindbuild.host.store import Store

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
RECIPE = """\
name: hello
version: 1.0.0
sequence: 1
tree:
  compile: [{from: hello.c, to: /app/hello}]
service: {command: [/app/hello], routes: [/v1/hello], memory: 64M}
network: {address: dhcp}
"""

DIGESTS = st.binary(min_size=32, max_size=32).map(lambda data: Digest(HashAlgorithm.SHA256, data))
WORDS = st.from_regex(r"[a-z0-9][a-z0-9+.~:-]{0,20}", fullmatch=True)
SIZES = st.integers(0, 1 << 40)
PACKAGES = st.builds(
    LockedPackage,
    name=WORDS,
    version=WORDS,
    architecture=st.sampled_from(["amd64", "all"]),
    archive=st.sampled_from(["debian", "debian-security"]),
    path=st.from_regex(
        r"pool/(main|updates/main)/[a-z]/[a-z0-9+.-]{1,9}x/[a-z0-9+~_]{1,9}\.deb", fullmatch=True
    ),
    size=SIZES,
    digest=DIGESTS,
)


def wheel(name: str, version: str, digest: Digest) -> LockedWheel:
    return LockedWheel(name, version, f"{name.replace('-', '_')}-{version}-py3-none-any.whl", digest)


WHEELS = st.builds(
    wheel,
    name=st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,8}){0,2}", fullmatch=True),
    version=st.from_regex(
        r"([1-9][0-9]?!)?(0|[1-9][0-9]?)(\.(0|[1-9][0-9]?)){0,2}(rc1|\.post2)?(\+b\.1)?", fullmatch=True
    ),
    digest=DIGESTS,
)
FILES = st.builds(
    LockedFile, source=st.from_regex(r"[a-z.][ -~]{0,30}", fullmatch=True), size=SIZES, digest=DIGESTS
)


def listed(
    items: st.SearchStrategy[object], key: Callable[[object], str]
) -> st.SearchStrategy[tuple[object, ...]]:
    lists = st.lists(items, max_size=4, unique_by=key)
    return lists.map(lambda found: tuple(sorted(found, key=key)))


def by_name(item: object) -> str:
    return str(item.name)  # type: ignore[attr-defined]


def by_source(item: object) -> str:
    return str(item.source)  # type: ignore[attr-defined]


LOCKS = st.builds(
    Lock,
    suite=st.sampled_from(["trixie", "bookworm"]),
    recipe_checksum=DIGESTS,
    request_checksum=DIGESTS,
    groups=st.fixed_dictionaries({name: listed(PACKAGES, by_name) for name in GROUPS}),
    wheels=listed(WHEELS, by_name),
    files=listed(FILES, by_source),
)


def package(name: str) -> LockedPackage:
    path = f"pool/main/{name[0]}/{name}/{name}_1_amd64.deb"
    return LockedPackage(name, "1", "amd64", "debian", path, 5, Digest.sha256(name.encode()))


EMPTY: dict[str, tuple[LockedPackage, ...]] = dict.fromkeys(GROUPS, ())
LOCK = Lock(
    "trixie",
    Digest.sha256(b"recipe"),
    Digest.sha256(b"requests"),
    {**EMPTY, "toolchain": (package("bc"), package("gcc")), "stub": (package("systemd-boot-efi"),)},
    (LockedWheel("numpy", "2.0", "numpy-2.0-cp313-cp313-manylinux_2_28_x86_64.whl", Digest.sha256(b"w")),),
    (LockedFile("files/a b.c", 3, Digest.sha256(b"abc")),),
)
TEXT = render_lock(LOCK).decode()


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "hello.c").write_text("int main(void) { return 0; }\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_recipe(tmp_path)


def reload(recipe: Recipe, old: str = "", new: str = "") -> Recipe:
    recipe.path.write_text(RECIPE.replace(old, new))
    return load_recipe(recipe.path)


@settings(max_examples=25, deadline=None)  # making the examples takes far longer than the test
@given(lock=LOCKS)
def test_a_lock_comes_back_from_its_text(lock: Lock) -> None:
    assert parse_lock(render_lock(lock), "x") == lock


def test_every_input_has_a_line_of_its_own() -> None:
    lines = TEXT.splitlines()
    for word in ('"bc"', '"gcc"', '"systemd-boot-efi"', '"numpy"', '"files/a b.c"'):
        assert sum(word in line for line in lines) == 1
    assert TEXT.endswith("}\n")
    assert json.loads(TEXT)["groups"]["toolchain"][1]["name"] == "gcc"


REFUSED = [
    ('"version": 1,\n', '"version": 2,\n', "expected version 1, got 2"),
    ('"version": 1,\n', '"version": 1, \n', "another spelling or order"),
    ('"version": 1,\n', '"version": 1,\n  "version": 1,\n', "another spelling or order"),
    ('"version": 1,\n', '"version": 1.0,\n', "not valid JSON: expected whole numbers only"),
    ('"suite": "trixie",', '"suite": "trixie", "x": 1,', "the lock: expected files, groups, recipe"),
    ('"recipe": "sha256:', '"recipe": "', "another spelling or order"),
    ('"recipe": "sha256:', '"recipe": "sha256:0', "expected 64 lower-case hex digits"),
    ('"stub": [', '"stab": [', "groups: expected firmware, kernel-source, stub"),
    ('"name": "bc"', '"name": "hc"', "toolchain: expected distinct entries in order"),
    ('"name": "bc"', '"name": "gcc"', "toolchain: expected distinct entries in order"),
    ('"name": "bc"', '"name": 5', r"toolchain\[0\]: expected a word, got 5"),
    ('"name": "bc"', '"name": "b c"', r"toolchain\[0\]: expected a word, got 'b c'"),
    ('"archive": "debian"', '"archive": "ubuntu"', "expected archive, architecture and path"),
    ('"architecture": "amd64"', '"architecture": "arm64"', "expected archive, architecture and path"),
    ("pool/main/b/bc/", "pool/main/../bc/", "expected archive, architecture and path"),
    ("pool/main/b/bc/", "/pool/main/b/bc/", "expected archive, architecture and path"),
    ("pool/main/b/bc/", "https://h/pool/", "expected archive, architecture and path"),
    ('"size": 5', '"size": -5', "expected a size in bytes, got -5"),
    ('"size": 5', '"size": true', "expected a size in bytes, got True"),
    ('"size": 5', '"size": "5"', "expected a size in bytes, got '5'"),
    ('"size": 5', '"size": 05', "not valid JSON"),
    ('_x86_64.whl"', '_x86_64.tar.gz"', "expected the name of a wheel"),
    ('"filename": "numpy', '"filename": "../numpy', "expected the name of a wheel"),
    ("numpy-2.0-cp313-", "numpy-2.0-", "expected the name of a wheel"),
    ('"name": "numpy"', '"name": "evil@https://h/evil.tar.gz#"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"name": "numpy"', '"name": "--index-url=https://h"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"name": "numpy"', '"name": "Numpy"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"name": "numpy"', '"name": "numpyy"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"version": "2.0"', '"version": "2.0;--config-settings=x"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"version": "2.0"', '"version": "2.1"', r"wheels\[0\]: expected numpy 2.0 as its"),
    ('"source": "files/a b.c"', '"source": "/etc/passwd"', r"files\[0\]: expected a relative path"),
    ("{\n", "<<<<<<< ours\n{\n", "unresolved merge conflicts"),
    ("trixie", "trixié", "not valid JSON"),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED, ids=[row[1][:30] for row in REFUSED])
def test_another_spelling_is_refused(old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(LockError, match=message) as caught:
        parse_lock(TEXT.replace(old, new, 1).encode(), "recipe.lock")
    assert caught.value.message.startswith("recipe.lock: ")
    assert "blindbuild lock" in (caught.value.hint or "")


def test_every_truncation_is_refused() -> None:
    for end in range(len(TEXT)):
        with pytest.raises(LockError):
            parse_lock(TEXT[:end].encode(), "x")


def test_every_flipped_bit_is_refused_or_another_value() -> None:
    for position in range(len(TEXT)):
        altered = bytearray(TEXT.encode())
        altered[position] ^= 1
        try:
            assert parse_lock(bytes(altered), "x") != LOCK
        except LockError:
            continue


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"[" * 100_000, b"\xff"])
def test_what_is_no_lock_is_refused(data: bytes) -> None:
    with pytest.raises(LockError):
        parse_lock(data, "x")


def test_a_missing_lock_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(LockError, match=r"recipe.lock: cannot read: no such file") as caught:
        read_lock(tmp_path / "recipe.lock")
    assert "blindbuild lock" in (caught.value.hint or "")


def test_a_lock_is_beside_its_recipe(recipe: Recipe) -> None:
    assert lock_path(recipe).name == "recipe.lock"
    assert lock_path(recipe, local=True).name == "recipe.local.lock"


def test_a_lock_is_good_for_the_recipe_it_was_made_for(recipe: Recipe) -> None:
    check_lock(recipe, replace(LOCK, recipe_checksum=deep_checksum(recipe)))


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("64M", "65M", "the recipe"),
        ("tree:", "boot: {stub: bookworm}\ntree:", "what it needs from Debian and PyPI"),
    ],
)
def test_a_changed_recipe_makes_its_lock_stale(recipe: Recipe, old: str, new: str, what: str) -> None:
    files = tuple(LockedFile(file.source, file.size, file.digest) for file in recipe.local_files)
    checksums = {"recipe_checksum": deep_checksum(recipe), "request_checksum": request_checksum(recipe)}
    lock = replace(LOCK, files=files, **checksums)
    with pytest.raises(LockError, match=f"{what} changed since it was locked") as caught:
        check_lock(reload(recipe, old, new), lock)
    assert caught.value.hint == f"run `blindbuild lock {recipe.path}`, and look at the difference"


def test_a_changed_local_file_makes_the_lock_stale_and_is_named(recipe: Recipe) -> None:
    files = tuple(LockedFile(file.source, file.size, file.digest) for file in recipe.local_files)
    lock = replace(LOCK, recipe_checksum=deep_checksum(recipe), files=files)
    (recipe.directory / "hello.c").write_text("int main(void) { return 1; }\n")
    with pytest.raises(LockError, match=r"hello\.c changed since it was locked"):
        check_lock(load_recipe(recipe.path), lock)


def test_resolution_depends_on_packages_and_suites_only(recipe: Recipe) -> None:
    before = request_checksum(recipe)
    (recipe.directory / "hello.c").write_text("int main(void) { return 1; }\n")
    assert request_checksum(reload(recipe, "64M", "65M")) == before
    assert request_checksum(reload(recipe, "tree:", "boot: {firmware: bookworm}\ntree:")) != before
    assert request_checksum(reload(recipe, "tree:", "tree:\n  debian: [libc6]")) != before
    assert request_checksum(reload(recipe, "tree:", "tree:\n  wheels: [x==1]")) != before


def test_compiler_and_kernel_are_always_of_the_same_suite(recipe: Recipe) -> None:
    changed = reload(recipe, "tree:", "suite: bookworm\ntree:\n  debian: [zstd, libc6]")
    suites = {request.group: request.suite for request in requests_of(changed)}
    assert suites == {
        "toolchain": "trixie",
        "kernel-source": "trixie",
        "stub": "bookworm",
        "firmware": "bookworm",
        "tree": "bookworm",
    }
    assert requests_of(changed)[-1].names == ("libc6", "zstd")


def test_a_changed_local_file_is_locked_anew_without_network(recipe: Recipe, tmp_path: Path) -> None:
    lock = replace(LOCK, request_checksum=request_checksum(recipe))
    nowhere = Resolution(Store(tmp_path / "store"), {}, mirror="http://127.0.0.1:1/debian")
    renewed = make_lock(recipe, nowhere, previous=lock)
    check_lock(recipe, renewed)
    assert renewed.groups == lock.groups
    assert [file.source for file in renewed.files] == ["hello.c"]


def test_only_what_is_locked_can_be_upgraded(recipe: Recipe, tmp_path: Path) -> None:
    how = Resolution(Store(tmp_path / "store"), {}, mirror="http://127.0.0.1:1/debian")
    with pytest.raises(LockError, match="gccc is not in the lock") as caught:
        make_lock(recipe, how, previous=LOCK, upgrade=Upgrade(frozenset({"gccc"})))
    assert caught.value.hint == "did you mean `gcc`?"


def test_the_locks_in_this_repository_are_current_and_name_no_host() -> None:
    for path in sorted(RECIPES.glob("*/recipe.lock")):
        lock = read_lock(path)
        check_lock(load_recipe(path.parent), lock)
        assert all(lock.groups[name] for name in GROUPS if name != "tree")
        assert b"://" not in path.read_bytes()
