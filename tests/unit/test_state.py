"""What the client remembers, so that nobody takes it back in time."""

from __future__ import annotations

import dataclasses
import multiprocessing
from pathlib import Path

import pytest

from blindbuild.client import StateStore
from blindbuild.client.state import MAX_KEYS
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, VerificationError
from blindbuild.formats.tpm2 import ClockInfo
from blindbuild.verify import History

DOMAIN = Digest.sha256(b"domain")
KEY = "000b" + "ab" * 32
HISTORY = History(42, Digest.sha256(b"statement"), 1000, {KEY: ClockInfo(5, 2, 1, True)})


def test_first_use_is_nothing_and_makes_nothing(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "trust")
    assert store.read(DOMAIN) is None
    assert list(tmp_path.iterdir()) == []


def test_what_was_recorded_is_read_back(tmp_path: Path) -> None:
    store = StateStore(tmp_path / "trust")
    store.record(DOMAIN, HISTORY)
    assert store.read(DOMAIN) == HISTORY
    assert store.read(Digest.sha256(b"another")) is None
    assert store.path(DOMAIN).stat().st_mode & 0o777 == 0o600
    assert {path.suffix for path in (tmp_path / "trust").iterdir()} == {".json", ".lock"}


def test_a_later_release_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.record(DOMAIN, HISTORY)
    later = History(43, Digest.sha256(b"later"), 900, {"000b" + "cd" * 32: ClockInfo(1, 1, 1, True)})
    store.record(DOMAIN, later)
    read = store.read(DOMAIN)
    assert read is not None
    assert (read.sequence, read.statement, read.time) == (43, later.statement, 1000)
    assert read.clocks == {**HISTORY.clocks, **later.clocks}


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"sequence": 41}, "rollback"), ({"statement": Digest.sha256(b"x")}, "equivocation")],
)
def test_what_another_client_accepted_meanwhile_is_not_lost(
    tmp_path: Path, change: dict, reason: str
) -> None:
    store = StateStore(tmp_path)
    store.record(DOMAIN, HISTORY)
    with pytest.raises(VerificationError) as caught:
        store.record(DOMAIN, dataclasses.replace(HISTORY, **change))
    assert (caught.value.step, caught.value.reason) == ("M10", reason)
    assert store.read(DOMAIN) == HISTORY


def test_a_clock_never_goes_back(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.record(DOMAIN, HISTORY)
    store.record(DOMAIN, dataclasses.replace(HISTORY, clocks={KEY: ClockInfo(9, 1, 9, True)}))
    assert store.read(DOMAIN) == HISTORY


@pytest.mark.parametrize("damage", [b"", b"{}", b"x", b'{"version":2}', b" ", b'{"clocks":{},"sequence":-1}'])
def test_a_damaged_file_is_never_first_use(tmp_path: Path, damage: bytes) -> None:
    store = StateStore(tmp_path)
    store.record(DOMAIN, HISTORY)
    store.path(DOMAIN).write_bytes(damage)
    with pytest.raises(BlindbuildError, match=str(tmp_path)):
        store.read(DOMAIN)
    with pytest.raises(BlindbuildError):
        store.record(DOMAIN, HISTORY)


def test_a_truncated_file_is_never_first_use(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    store.record(DOMAIN, HISTORY)
    whole = store.path(DOMAIN).read_bytes()
    for length in range(len(whole)):
        store.path(DOMAIN).write_bytes(whole[:length])
        with pytest.raises(BlindbuildError):
            store.read(DOMAIN)


def test_a_key_that_is_seen_again_is_kept(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    clocks = {f"000b{number:064x}": ClockInfo(1, 1, 1, True) for number in range(MAX_KEYS)}
    first, second = list(clocks)[:2]
    store.record(DOMAIN, dataclasses.replace(HISTORY, clocks=clocks))
    store.record(DOMAIN, dataclasses.replace(HISTORY, time=2000, clocks={first: ClockInfo(2, 1, 1, True)}))
    store.record(DOMAIN, dataclasses.replace(HISTORY, time=3000, clocks={KEY: ClockInfo(1, 1, 1, True)}))
    read = store.read(DOMAIN)
    assert read is not None
    assert {first, KEY} <= read.clocks.keys()
    assert second not in read.clocks


def test_the_clock_not_seen_for_longest_makes_room_and_the_release_is_still_recorded(tmp_path: Path) -> None:
    store = StateStore(tmp_path)
    names = [f"000b{number:064x}" for number in range(MAX_KEYS + 1)]
    clocks = {name: ClockInfo(2**53 - 1, 2**32 - 1, 2**32 - 1, False) for name in names[:MAX_KEYS]}
    statement = HISTORY.statement
    store.record(DOMAIN, History(42, statement, 1000, clocks))
    store.record(DOMAIN, History(42, statement, 2000, {**clocks, names[MAX_KEYS]: ClockInfo(1, 1, 1, True)}))
    read = store.read(DOMAIN)
    assert read is not None
    assert len(read.clocks) == MAX_KEYS
    assert names[MAX_KEYS] in read.clocks
    later = History(
        43, Digest.sha256(b"later"), 3000, {**read.clocks, "000b" + "ff" * 32: ClockInfo(1, 1, 1, True)}
    )
    store.record(DOMAIN, later)
    read = store.read(DOMAIN)
    assert read is not None
    assert (read.sequence, len(read.clocks)) == (43, MAX_KEYS)
    assert {names[MAX_KEYS], "000b" + "ff" * 32} <= read.clocks.keys()


def test_a_folder_that_cannot_be_made_is_our_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BlindbuildError, match="cannot be"):
        StateStore(tmp_path / "file" / "trust").record(DOMAIN, HISTORY)


@pytest.mark.parametrize(
    ("environ", "root"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/blindbuild/trust"),
        ({"HOME": "/h"}, "/h/.local/state/blindbuild/trust"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/blindbuild/trust"),
    ],
)
def test_the_state_lives_where_the_user_keeps_state(environ: dict, root: str) -> None:
    assert StateStore.default(environ).path(DOMAIN) == Path(root) / f"{DOMAIN.hex}.json"


def test_without_a_home_there_is_no_state() -> None:
    with pytest.raises(BlindbuildError, match="HOME"):
        StateStore.default({})


def _record_many(root: Path, start: int) -> None:
    for sequence in range(start, start + 40, 2):
        try:
            StateStore(root).record(DOMAIN, History(sequence, Digest.sha256(b"%d" % sequence), sequence))
        except VerificationError:
            continue


def test_clients_at_the_same_time_leave_the_highest(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    clients = [context.Process(target=_record_many, args=(tmp_path, start)) for start in (0, 1)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    read = StateStore(tmp_path).read(DOMAIN)
    assert read is not None
    assert read.sequence == 39
