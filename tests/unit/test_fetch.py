"""Whatever a mirror does, the store holds only what the lock names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.archives import archives_at
from blindbuild.assemble.fetch import Progress, Sources, export_inputs, fetch_inputs, missing_inputs
from blindbuild.assemble.lock import GROUPS, Lock, LockedPackage, LockedWheel
from blindbuild.digest import Digest
from blindbuild.errors import FetchError, LockError, StoreError
from blindbuild.host.network import NotThereError, Patience, download
from blindbuild.host.store import Store
from tests.fakes.mirror import Fault, Mirror, serve_mirror

DATA = bytes(range(256)) * 1000
PATIENT = Patience(attempts=3, timeout_s=1.5, pause_s=0.01, sleep=lambda _: None)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    with serve_mirror() as mirror:
        mirror.files["/file"] = DATA
        yield mirror


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def get(mirror: Mirror, target: Path, size: int = len(DATA)) -> bytes:
    download(f"{mirror.url}/file", target, size=size, patience=PATIENT)
    return target.read_bytes()


def test_a_file_is_downloaded_and_its_growth_told(mirror: Mirror, tmp_path: Path) -> None:
    seen: list[int] = []
    download(f"{mirror.url}/file", tmp_path / "x", size=len(DATA), patience=PATIENT, on_bytes=seen.append)
    assert (tmp_path / "x").read_bytes() == DATA
    assert seen == sorted(seen)
    assert seen[-1] == len(DATA)


def test_a_download_goes_on_where_an_earlier_one_ended(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000])
    assert get(mirror, tmp_path / "x") == DATA
    assert mirror.requests == ["/file bytes=1000-"]


def test_a_complete_file_needs_no_request(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA)
    assert get(mirror, tmp_path / "x") == DATA
    assert mirror.requests == []


def test_a_beginning_that_is_too_long_is_thrown_away(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA + b"x")
    assert get(mirror, tmp_path / "x") == DATA


@pytest.mark.parametrize("kind", ["truncate", "stall"])
def test_a_transfer_that_breaks_off_is_resumed(mirror: Mirror, tmp_path: Path, kind: str) -> None:
    mirror.faults["/file"] = Fault(kind, 70000, times=1)
    assert get(mirror, tmp_path / "x") == DATA
    assert mirror.requests == ["/file", "/file bytes=70000-"] or mirror.requests == [
        "/file",
        "/file bytes=65536-",
    ]


def test_a_mirror_that_ignores_ranges_starts_from_the_beginning(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"y" * 1000)
    mirror.faults["/file"] = Fault("no-range")
    assert get(mirror, tmp_path / "x") == DATA


def test_an_answer_without_a_length_is_counted(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/file"] = Fault("unsized")
    assert get(mirror, tmp_path / "x") == DATA


def test_a_busy_mirror_is_asked_again(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/file"] = Fault("status", 503, times=2)
    assert get(mirror, tmp_path / "x") == DATA


def test_pauses_double(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/file"] = Fault("status", 503)
    pauses: list[float] = []
    patience = Patience(attempts=4, timeout_s=1, pause_s=0.5, sleep=pauses.append)
    with pytest.raises(FetchError, match="answered with status 503, 4 times in a row"):
        download(f"{mirror.url}/file", tmp_path / "x", size=len(DATA), patience=patience)
    assert pauses == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("truncate", 0), "the transfer ended|closed|incomplete"),
        (Fault("stall", 0), "timed out"),
        (Fault("status", 403), "status 403"),
        (Fault("other-size"), f"expected {len(DATA)} bytes, the server has {len(DATA) + 4}"),
        (Fault("longer"), f"expected {len(DATA)} bytes, the server sends more"),
        (Fault("redirect", "file:///etc/passwd"), "another scheme"),
        (Fault("redirect", "https://127.0.0.1/"), "another scheme"),
        (Fault("redirect", "/file"), "redirect"),
    ],
    ids=str,
)
def test_what_patience_does_not_cure_is_an_error(
    mirror: Mirror, tmp_path: Path, fault: Fault, message: str
) -> None:
    mirror.faults["/file"] = fault
    with pytest.raises(FetchError, match=message) as caught:
        get(mirror, tmp_path / "x")
    assert not isinstance(caught.value, NotThereError)


def test_a_mirror_that_trickles_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/file"] = Fault("trickle")
    hasty = replace(PATIENT, window_s=0.1, window_bytes=1000)
    with pytest.raises(FetchError, match=r"expected 1000 bytes in 0\.1 s, got \d+, 3 times in a row"):
        download(f"{mirror.url}/file", tmp_path / "x", size=len(DATA), patience=hasty)
    assert len(mirror.requests) == 3
    assert DATA.startswith((tmp_path / "x").read_bytes())


def test_a_mirror_that_brings_one_byte_a_connection_is_given_up(mirror: Mirror, tmp_path: Path) -> None:
    mirror.faults["/file"] = Fault("truncate", 1)
    with pytest.raises(FetchError, match="the transfer ended after 3 of 256000 bytes, 3 times in a row"):
        get(mirror, tmp_path / "x")


def test_a_mirror_that_breaks_off_again_and_again_but_brings_enough_is_used(
    mirror: Mirror, tmp_path: Path
) -> None:
    mirror.faults["/file"] = Fault("truncate", PATIENT.window_bytes)
    assert get(mirror, tmp_path / "x") == DATA
    assert len(mirror.requests) > PATIENT.attempts


def test_another_part_than_the_one_asked_for_is_refused(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000])
    mirror.faults["/file"] = Fault("wrong-range")
    with pytest.raises(FetchError, match="another part than the one asked for"):
        get(mirror, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA[:1000]


def test_a_file_that_shrank_on_the_mirror_is_started_anew(mirror: Mirror, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DATA[:1000])
    mirror.files["/file"] = DATA[:900]
    with pytest.raises(FetchError, match=f"expected {len(DATA)} bytes, the server has 900"):
        get(mirror, tmp_path / "x")


@pytest.mark.parametrize("status", [404, 410])
def test_a_file_that_is_gone_is_told_apart(mirror: Mirror, tmp_path: Path, status: int) -> None:
    mirror.faults["/file"] = Fault("status", status)
    with pytest.raises(NotThereError, match=f"status {status}"):
        get(mirror, tmp_path / "x")
    assert len(mirror.requests) == 1


def test_nobody_listening_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="refused, 3 times in a row"):
        download("http://127.0.0.1:1/x", tmp_path / "x", size=1, patience=PATIENT)


@pytest.mark.parametrize("url", ["ftp://h/x", "/etc/passwd", "data:,x", "x"])
def test_other_schemes_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="expected an address with http, https or file"):
        download(url, tmp_path / "x", size=1)


def test_a_directory_can_be_a_mirror(tmp_path: Path) -> None:
    (tmp_path / "a+b c").write_bytes(DATA)
    download(f"file://{tmp_path}/a%2Bb%20c", tmp_path / "x", size=len(DATA))
    assert (tmp_path / "x").read_bytes() == DATA
    with pytest.raises(NotThereError):
        download(f"file://{tmp_path}/gone", tmp_path / "y", size=1)
    with pytest.raises(FetchError, match="ended after 256000 of 256001 bytes"):
        download(f"file://{tmp_path}/a%2Bb%20c", tmp_path / "z", size=len(DATA) + 1)


def package(
    name: str, data: bytes, *, version: str = "1:2.0+x~1-1", archive: str = "debian"
) -> LockedPackage:
    path = f"pool/main/{name[0]}/{name}/{name}_{version.partition(':')[2]}_amd64.deb"
    return LockedPackage(name, version, "amd64", archive, path, len(data), Digest.sha256(data))


def url_path(item: LockedPackage) -> str:
    return f"/{item.archive}/" + item.path.replace("+", "%2B")


def lock_of(*packages: LockedPackage, wheels: tuple[LockedWheel, ...] = ()) -> Lock:
    groups: dict[str, tuple[LockedPackage, ...]] = dict.fromkeys(GROUPS, ())
    checksum = Digest.sha256(b"")
    return Lock("trixie", checksum, checksum, {**groups, "toolchain": packages}, wheels, ())


def publish(mirror: Mirror, *names: str) -> list[LockedPackage]:
    packages = []
    for index, name in enumerate(names):
        data = name.encode() * 5000
        packages.append(package(name, data, archive="debian-security" if index % 2 else "debian"))
        mirror.files[url_path(packages[-1])] = data
    return packages


def sources(mirror: Mirror) -> Sources:
    return Sources({}, mirror=f"{mirror.url}/debian", patience=PATIENT)


def test_all_packages_of_a_lock_reach_the_store(mirror: Mirror, store: Store) -> None:
    packages = publish(mirror, "alpha", "beta", "gamma", "delta")
    lock = replace(lock_of(*packages), groups={**lock_of(*packages).groups, "tree": (packages[0],)})
    steps: list[Progress] = []
    assert fetch_inputs(lock, store, sources(mirror), on_progress=steps.append) == 4
    assert [store.read(item.digest) for item in packages] == [
        mirror.files[url_path(item)] for item in packages
    ]
    assert missing_inputs(lock, store) == ()
    assert {step.name for step in steps} == {"alpha", "beta", "gamma", "delta"}
    assert (steps[-1].done, steps[-1].total) == (4, 4)
    assert len(mirror.requests) == 4


def test_what_the_store_has_needs_no_network(mirror: Mirror, store: Store) -> None:
    lock = lock_of(*publish(mirror, "alpha"))
    fetch_inputs(lock, store, sources(mirror))
    mirror.requests.clear()
    assert fetch_inputs(lock, store, sources(mirror)) == 0
    assert fetch_inputs(lock, store, replace(sources(mirror), offline=True)) == 0
    assert mirror.requests == []


def test_an_altered_package_is_refused_and_named(mirror: Mirror, store: Store) -> None:
    packages = publish(mirror, "alpha", "beta")
    mirror.faults[url_path(packages[1])] = Fault("corrupt")
    with pytest.raises(
        FetchError, match=f"beta 1:2.0\\+x~1-1: expected {packages[1].digest}, got sha256:"
    ) as caught:
        fetch_inputs(lock_of(*packages), store, sources(mirror))
    assert "altered" in (caught.value.hint or "")
    assert not store.has(packages[1].digest)
    mirror.faults.clear()
    fetch_inputs(lock_of(*packages), store, sources(mirror))
    assert store.has(packages[1].digest), "the altered bytes must not have been kept for resuming"


def test_versions_that_are_gone_are_all_named_with_what_to_do(mirror: Mirror, store: Store) -> None:
    packages = publish(mirror, "alpha", "beta", "gamma")
    del mirror.files[url_path(packages[2])], mirror.files[url_path(packages[0])]
    with pytest.raises(LockError, match=r"no longer has alpha 1:2.0\+x~1-1, gamma 1:2.0\+x~1-1") as caught:
        fetch_inputs(lock_of(*packages), store, sources(mirror))
    assert "blindbuild lock --upgrade alpha gamma" in (caught.value.hint or "")
    assert store.has(packages[1].digest)


def test_one_failure_stops_the_other_transfers(mirror: Mirror, store: Store) -> None:
    packages = publish(mirror, *[f"p{number:02}" for number in range(20)])
    mirror.faults[url_path(packages[0])] = Fault("status", 403)
    with pytest.raises(FetchError, match=r"p00.*status 403"):
        fetch_inputs(lock_of(*packages), store, sources(mirror))
    assert len(mirror.requests) < 20


def test_an_interrupted_fetch_is_resumed_by_the_next(mirror: Mirror, store: Store) -> None:
    packages = publish(mirror, "alpha")
    mirror.files[url_path(packages[0])] = DATA
    packages = [package("alpha", DATA)]
    mirror.faults[url_path(packages[0])] = Fault("truncate", 100_000, times=1)
    impatient = replace(sources(mirror), patience=replace(PATIENT, attempts=1))
    with pytest.raises(FetchError, match="1 times in a row"):
        fetch_inputs(lock_of(*packages), store, impatient)
    fetch_inputs(lock_of(*packages), store, sources(mirror))
    assert mirror.requests[1].endswith("bytes=100000-") or mirror.requests[1].endswith("bytes=98304-")
    assert store.read(packages[0].digest) == DATA


def test_offline_lists_what_is_missing(mirror: Mirror, store: Store) -> None:
    lock = lock_of(*publish(mirror, *[f"p{number:02}" for number in range(10)]))
    with pytest.raises(
        FetchError, match=r"offline, and the store lacks p00, p01, .*p07 and 2 more"
    ) as caught:
        fetch_inputs(lock, store, replace(sources(mirror), offline=True))
    assert "blindbuild fetch" in (caught.value.hint or "")
    assert mirror.requests == []


def test_inputs_can_be_carried_to_another_machine(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    lock = lock_of(*publish(mirror, "alpha", "beta"))
    fetch_inputs(lock, store, sources(mirror))
    assert export_inputs(lock, store, tmp_path / "vendor") == 2
    assert export_inputs(lock, store, tmp_path / "vendor") == 2
    assert sorted(path.name for path in (tmp_path / "vendor").iterdir()) == [
        "alpha_2.0+x~1-1_amd64.deb",
        "beta_2.0+x~1-1_amd64.deb",
    ]
    other = Store(tmp_path / "other")
    away = Sources({}, vendor=tmp_path / "vendor", offline=True)
    assert fetch_inputs(lock, other, away) == 2
    assert missing_inputs(lock, other) == ()


def test_exporting_follows_no_link_that_lies_in_the_directory(
    mirror: Mirror, store: Store, tmp_path: Path
) -> None:
    lock = lock_of(*publish(mirror, "alpha"))
    fetch_inputs(lock, store, sources(mirror))
    vendor, name = tmp_path / "vendor", "alpha_2.0+x~1-1_amd64.deb"
    vendor.mkdir()
    (tmp_path / "mine").write_text("mine")
    for link in (name, f".{name}.aside"):
        (vendor / link).symlink_to(tmp_path / "mine")
    export_inputs(lock, store, vendor)
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (vendor / name).is_symlink()
    assert (vendor / name).read_bytes() == store.read(lock.groups["toolchain"][0].digest)


def test_exporting_onto_a_directory_is_an_error(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    lock = lock_of(*publish(mirror, "alpha"))
    fetch_inputs(lock, store, sources(mirror))
    (tmp_path / "alpha_2.0+x~1-1_amd64.deb" / "inner").mkdir(parents=True)
    with pytest.raises(FetchError, match=r"alpha_2.0.*cannot write: is a directory"):
        export_inputs(lock, store, tmp_path)


def test_an_altered_file_in_the_vendor_directory_is_refused_and_named(
    mirror: Mirror, store: Store, tmp_path: Path
) -> None:
    lock = lock_of(*publish(mirror, "alpha"))
    (tmp_path / "alpha_2.0+x~1-1_amd64.deb").write_bytes(b"something else")
    with pytest.raises(FetchError, match=r"alpha_2.0.*expected sha256:.*, got sha256:"):
        fetch_inputs(lock, store, replace(sources(mirror), vendor=tmp_path))
    assert missing_inputs(lock, store) != ()


def test_exporting_an_incomplete_store_is_an_error(mirror: Mirror, store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not in the store"):
        export_inputs(lock_of(*publish(mirror, "alpha")), store, tmp_path / "vendor")


@pytest.mark.parametrize(
    ("mirror_url", "debian", "security"),
    [
        ("https://h/debian", "https://h/debian", "https://h/debian-security"),
        ("https://h/debian/", "https://h/debian", "https://h/debian-security"),
        ("http://h:8/x", "http://h:8/x/debian", "http://h:8/x/debian-security"),
        ("file:///srv", "file:///srv/debian", "file:///srv/debian-security"),
    ],
)
def test_a_mirror_has_both_archives(mirror_url: str, debian: str, security: str) -> None:
    archives = archives_at(mirror_url)
    assert (archives.debian, archives.security) == (debian, security)
    assert archives.url("debian", "pool/main/g/g++_1:2~x.deb") == f"{debian}/pool/main/g/g%2B%2B_1:2~x.deb"


@pytest.mark.parametrize(
    "mirror_url", ["", "h/debian", "ftp://h/debian", "https://h/de bian", "http://h\n/debian"]
)
def test_a_mirror_is_an_address(mirror_url: str) -> None:
    with pytest.raises(LockError, match="expected a mirror's address"):
        archives_at(mirror_url)
