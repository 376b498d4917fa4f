"""Resolution by the real apt against a small archive signed by a key of ours.

The archive is made by dpkg-deb, dpkg-scanpackages and GnuPG; what is expected of hashes and sizes is read
from the package files themselves.
"""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindbuild.assemble.archives import archives_at, machine_archives
from blindbuild.assemble.fetch import Sources, fetch_inputs, missing_inputs
from blindbuild.assemble.lock import (
    FIRMWARE,
    STUB,
    TOOLCHAIN,
    Lock,
    LockedPackage,
    Request,
    check_lock,
    parse_lock,
    render_lock,
)
from blindbuild.assemble.lock_apt import Pin, open_resolver
from blindbuild.assemble.lock_make import Resolution, Upgrade, make_lock
from blindbuild.assemble.recipe import Recipe, load_recipe
from blindbuild.errors import LockError
from blindbuild.host.store import Store
from tests.fakes.debian_archive import DebianArchive, Package, SigningKey, missing_tools

pytestmark = pytest.mark.skipif(bool(missing_tools()), reason=f"missing: {', '.join(missing_tools())}")

BASE = [
    *(Package(name) for name in TOOLCHAIN.split() if name != "gcc"),
    Package("gcc", "2:14-1", depends="gcc-14", source="gcc-defaults"),
    Package("gcc-14", "14.2-1", depends="gcc-14-base (= 14.2-1), libgone | libthere", recommends="gcc-doc"),
    Package("gcc-14-base", "14.2-1", source="gcc-14"),
    Package("gcc-doc", "14.2-1"),
    Package("libthere", "1:1.0+x~1-1"),
    Package("linux-source-6.12", "6.12.1-1"),
    Package("linux-source-6.12", "6.12.2-1", archive="debian-security"),
    Package(STUB, "257-1"),
    Package(FIRMWARE, "2025.02-1"),
]
BOOKWORM = [Package(STUB, "252-1"), Package(FIRMWARE, "2022.11-1")]
RECIPE = """\
name: hello
version: 1.0.0
sequence: 1
tree:
  debian: [libthere]
  compile: [{from: hello.c, to: /app/hello}]
service: {command: [/app/hello], routes: [/v1/hello], memory: 64M}
network: {address: dhcp}
"""


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> SigningKey:
    return SigningKey(tmp_path_factory.mktemp("gpg") / "home")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packages")


@pytest.fixture
def archive(tmp_path: Path, key: SigningKey, scratch: Path) -> DebianArchive:
    made = DebianArchive(tmp_path / "archive", key, scratch)
    made.publish(
        "trixie",
        Package("alpha", depends="beta (>= 1)", recommends="gamma"),
        Package("beta"),
        Package("gamma"),
    )
    return made


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def resolve(
    archive: DebianArchive, store: Store, *names: str, pins: tuple[Pin, ...] = ()
) -> list[LockedPackage]:
    request = Request("tree", "trixie", names, True)
    with open_resolver(store, "trixie", archives_at(archive.mirror), keyring=archive.key.keyring) as resolver:
        return list(resolver.resolve(request, pins))


def assert_is_the_file(archive: DebianArchive, locked: LockedPackage) -> None:
    data = (archive.root / locked.archive / locked.path).read_bytes()
    assert (locked.size, locked.digest.hex) == (len(data), hashlib.sha256(data).hexdigest())


def test_dependencies_are_locked_and_recommendations_are_not(archive: DebianArchive, store: Store) -> None:
    found = resolve(archive, store, "alpha")
    assert [(item.name, item.version, item.architecture, item.archive) for item in found] == [
        ("alpha", "1.0-1", "amd64", "debian"),
        ("beta", "1.0-1", "amd64", "debian"),
    ]
    for item in found:
        assert_is_the_file(archive, item)


def test_a_security_update_is_taken_from_its_archive(archive: DebianArchive, store: Store) -> None:
    archive.publish("trixie", Package("beta"), Package("beta", "1.0-1+deb13u1", archive="debian-security"))
    (found,) = resolve(archive, store, "beta")
    assert (found.version, found.archive) == ("1.0-1+deb13u1", "debian-security")
    assert found.path == "pool/updates/main/b/beta/beta_1.0-1+deb13u1_amd64.deb"
    assert_is_the_file(archive, found)


def test_a_pinned_version_stays_while_the_archive_has_it(archive: DebianArchive, store: Store) -> None:
    archive.publish("trixie", Package("beta"), Package("beta", "2.0-1"))
    assert resolve(archive, store, "beta")[0].version == "2.0-1"
    pins = (Pin("beta", "1.0-1"),)
    assert resolve(archive, store, "beta", pins=pins)[0].version == "1.0-1"
    archive.publish("trixie", Package("beta", "2.0-1"))
    assert resolve(archive, store, "beta", pins=pins)[0].version == "2.0-1"


def test_an_unknown_package_is_named(archive: DebianArchive, store: Store) -> None:
    with pytest.raises(LockError, match="tree, suite trixie: Unable to locate package nonesuch") as caught:
        resolve(archive, store, "nonesuch")
    assert caught.value.hint == "check the name, and that the recipe's suite has it"


def test_dependencies_that_cannot_be_met_are_an_error(archive: DebianArchive, store: Store) -> None:
    archive.publish("trixie", Package("alpha", depends="beta (>= 2)"), Package("beta"))
    with pytest.raises(LockError, match=r"held broken packages|Unable to satisfy"):
        resolve(archive, store, "alpha")


def release(archive: DebianArchive) -> Path:
    return archive.root / "debian" / "dists" / "trixie" / "InRelease"


def packages_file(archive: DebianArchive) -> Path:
    return archive.root / "debian" / "dists" / "trixie" / "main" / "binary-amd64" / "Packages"


def unsigned(archive: DebianArchive, other: SigningKey) -> None:
    del other
    body = release(archive).read_text().split("\n\n", 1)[1].split("-----BEGIN PGP SIGNATURE")[0]
    release(archive).unlink()
    release(archive).with_name("Release").write_text(body)


def without_release(archive: DebianArchive, other: SigningKey) -> None:
    del other
    release(archive).unlink()


def signed_by_another_key(archive: DebianArchive, other: SigningKey) -> None:
    archive.sign(archive.root / "debian", "trixie", key=other)


def altered_after_signing(archive: DebianArchive, other: SigningKey) -> None:
    del other
    release(archive).write_text(release(archive).read_text().replace("Origin: Test", "Origin: Best"))


def altered_index(archive: DebianArchive, other: SigningKey) -> None:
    del other
    packages_file(archive).write_text(
        packages_file(archive).read_text().replace("beta (>= 1)", "beta (>= 0)")
    )


def expired(archive: DebianArchive, other: SigningKey) -> None:
    del other
    archive.sign(archive.root / "debian", "trixie", until=datetime(2020, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unsigned, "not signed|does not have a Release file"),
        (without_release, "does not have a Release file"),
        (signed_by_another_key, "not signed|NO_PUBKEY|Sub-process"),
        (altered_after_signing, "not signed|BADSIG|Sub-process"),
        (altered_index, "Hash Sum mismatch|unexpected size"),
        (expired, "expired"),
    ],
)
def test_an_archive_without_a_good_signature_is_refused(
    archive: DebianArchive, store: Store, tmp_path: Path, damage: object, message: str
) -> None:
    assert callable(damage)
    damage(archive, SigningKey(tmp_path / "other"))
    with pytest.raises(LockError, match=message) as caught:
        resolve(archive, store, "alpha")
    assert "package lists cannot be had" in caught.value.message
    assert "--mirror" in (caught.value.hint or "")


def test_a_good_list_from_before_does_not_stand_in_for_a_bad_one(
    archive: DebianArchive, store: Store
) -> None:
    resolve(archive, store, "alpha")
    altered_after_signing(archive, archive.key)
    with pytest.raises(LockError, match="package lists cannot be had"):
        resolve(archive, store, "alpha")


def test_a_missing_keyring_is_named(archive: DebianArchive, store: Store, tmp_path: Path) -> None:
    archives = archives_at(archive.mirror)
    with pytest.raises(LockError, match=r"keyring\.gpg is missing") as caught:
        with open_resolver(store, "trixie", archives, keyring=tmp_path / "keyring.gpg"):
            pass
    assert caught.value.hint == "apt-get install debian-archive-keyring"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    folder = tmp_path / "recipe"
    folder.mkdir()
    (folder / "hello.c").write_text("int main(void) { return 0; }\n")
    (folder / "recipe.yaml").write_text(RECIPE)
    return load_recipe(folder)


@pytest.fixture
def full(archive: DebianArchive) -> DebianArchive:
    archive.publish("trixie", *BASE)
    archive.publish("bookworm", *BOOKWORM)
    return archive


def lock(
    recipe: Recipe,
    full: DebianArchive,
    store: Store,
    previous: Lock | None = None,
    upgrade: Upgrade | None = None,
) -> Lock:
    how = Resolution(store, {}, mirror=full.mirror, keyring=full.key.keyring)
    return make_lock(recipe, how, previous=previous, upgrade=upgrade)


def versions(made: Lock, group: str) -> dict[str, str]:
    return {item.name: item.version for item in made.groups[group]}


def test_a_recipe_is_locked_and_what_is_locked_can_be_fetched(
    recipe: Recipe, full: DebianArchive, store: Store
) -> None:
    made = lock(recipe, full, store)
    check_lock(recipe, made)
    assert parse_lock(render_lock(made), "x") == made
    assert str(full.root).encode() not in render_lock(made)
    assert versions(made, "kernel-source") == {"linux-source-6.12": "6.12.2-1"}
    assert versions(made, "stub") == {STUB: "257-1"}
    assert versions(made, "tree") == {"libthere": "1:1.0+x~1-1"}
    assert set(versions(made, "toolchain")) == {*TOOLCHAIN.split(), "gcc-14", "gcc-14-base", "libthere"}
    fetched = fetch_inputs(made, store, Sources({}, mirror=full.mirror))
    assert fetched == len({item.digest for group in made.groups.values() for item in group})
    assert missing_inputs(made, store) == ()


def test_locking_twice_gives_the_same_text(
    recipe: Recipe, full: DebianArchive, store: Store, tmp_path: Path
) -> None:
    first = render_lock(lock(recipe, full, store))
    assert render_lock(lock(recipe, full, Store(tmp_path / "other"))) == first


def test_stub_and_firmware_come_from_the_suite_that_the_recipe_names(
    recipe: Recipe, full: DebianArchive, store: Store
) -> None:
    recipe.path.write_text(RECIPE + "boot: {stub: bookworm, firmware: bookworm}\n")
    made = lock(load_recipe(recipe.path), full, store)
    assert versions(made, "stub") == {STUB: "252-1"}
    assert versions(made, "firmware") == {FIRMWARE: "2022.11-1"}
    assert versions(made, "kernel-source") == {"linux-source-6.12": "6.12.2-1"}


def newer(full: DebianArchive) -> None:
    full.publish(
        "trixie",
        *BASE,
        Package("gcc-14", "14.3-1", depends="gcc-14-base (= 14.3-1), libthere"),
        Package("gcc-14-base", "14.3-1", source="gcc-14"),
        Package("zstd", "2.0-1"),
    )


def test_locked_versions_stay_until_they_are_upgraded(
    recipe: Recipe, full: DebianArchive, store: Store
) -> None:
    first = lock(recipe, full, store)
    newer(full)
    recipe.path.write_text(RECIPE.replace("[libthere]", "[libthere, bc]"))
    changed = load_recipe(recipe.path)
    second = lock(changed, full, store, previous=first)
    assert versions(second, "toolchain") == versions(first, "toolchain")
    assert set(versions(second, "tree")) == {"bc", "libthere"}
    everything = lock(changed, full, store, previous=second, upgrade=Upgrade(everything=True))
    assert versions(everything, "toolchain")["zstd"] == "2.0-1"
    assert versions(everything, "toolchain")["gcc-14"] == "14.3-1"


def test_one_package_can_be_upgraded_and_takes_the_others_of_its_source_along(
    recipe: Recipe, full: DebianArchive, store: Store
) -> None:
    first = lock(recipe, full, store)
    newer(full)
    second = lock(recipe, full, store, previous=first, upgrade=Upgrade(frozenset({"gcc-14"})))
    before, after = versions(first, "toolchain"), versions(second, "toolchain")
    assert {name: after[name] for name in after if after[name] != before[name]} == {
        "gcc-14": "14.3-1",
        "gcc-14-base": "14.3-1",
    }


def test_a_version_that_is_gone_is_named_by_fetch_and_cured_by_the_hint(
    recipe: Recipe, full: DebianArchive, store: Store
) -> None:
    first = lock(recipe, full, store)
    full.path_of(Package("zstd")).unlink()
    full.publish("trixie", *[package for package in BASE if package.name != "zstd"], Package("zstd", "2.0-1"))
    with pytest.raises(LockError, match=r"the mirror no longer has zstd 1\.0-1") as caught:
        fetch_inputs(first, store, Sources({}, mirror=full.mirror))
    assert "blindbuild lock --upgrade zstd" in (caught.value.hint or "")
    second = lock(recipe, full, store, previous=first, upgrade=Upgrade(frozenset({"zstd"})))
    fetch_inputs(second, store, Sources({}, mirror=full.mirror))
    assert missing_inputs(second, store) == ()


def test_the_mirrors_are_learnt_from_this_machines_apt(tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "debian.sources").write_text(
        "Types: deb deb-src\nURIs: https://mirror.example/debian/\nSuites: bookworm bookworm-updates\n"
        "Components: main non-free\n\n"
        "Types: deb\nURIs: https://mirror.example/sec\nSuites: bookworm-security\nComponents: main\n"
    )
    (sources / "other.list").write_text(
        "deb https://packages.example/debian bookworm stable\ndeb https://node.example/x nodistro main\n"
    )
    found = machine_archives(
        apt_configuration(tmp_path, 'Acquire::http::Proxy "http://proxy.example:3128";\n')
    )
    assert (found.debian, found.security) == ("https://mirror.example/debian", "https://mirror.example/sec")
    assert found.proxies() == {"http": "http://proxy.example:3128"}


def test_a_machine_without_a_debian_archive_is_told_to_name_one(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    with pytest.raises(LockError, match="knows no Debian archive") as caught:
        machine_archives(apt_configuration(tmp_path, ""))
    assert "--mirror" in (caught.value.hint or "")


def apt_configuration(folder: Path, more: str) -> list[tuple[str, str]]:
    (folder / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{folder}/sources";\n'
        f'Dir::Etc::parts "/dev/null";\nDir::State::lists "{folder}/lists";\n' + more
    )
    return [("APT_CONFIG", str(folder / "apt.conf"))]


@pytest.mark.network
def test_the_real_archive_has_everything_for_the_hello_recipe(store: Store) -> None:
    hello = load_recipe(Path(__file__).resolve().parents[2] / "recipes" / "hello")
    made = make_lock(hello, Resolution(store, dict(os.environ)))
    check_lock(hello, made)
    assert len(made.groups["toolchain"]) > 80
