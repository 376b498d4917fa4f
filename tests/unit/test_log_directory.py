"""The owner's side of a log: files that others can read, and a kill at any moment that harms nothing."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial
from pathlib import Path

import pytest

from blindbuild.client.log_files import open_log, read_consistency
from blindbuild.errors import BlindbuildError, BuildError, TlogError, UsageError
from blindbuild.formats.checkpoint import Checkpoint, UnverifiedCheckpoint, parse_checkpoint
from blindbuild.formats.cosignature import judge_key
from blindbuild.formats.merkle import leaf_hash, read_root, verify_consistency, verify_inclusion
from blindbuild.formats.note import SignatureState
from blindbuild.formats.tlog_proof import parse_tlog_proof
from blindbuild.formats.tlog_tiles import TileReader
from blindbuild.publish import generate_key
from blindbuild.publish import tlog as writer
from blindbuild.publish.tlog import PENDING_PATH, LogSigner, TransparencyLog
from tests.fakes import naive_log

ENTRIES = [b"entry %d" % number for number in range(600)]
SIGNER = LogSigner.of("example.com/log", generate_key())


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.fixture
def log(tmp_path: Path) -> TransparencyLog:
    made = TransparencyLog(tmp_path / "log", SIGNER)
    made.create()
    return made


def published(root: Path) -> Checkpoint:
    signed = parse_checkpoint((root / "checkpoint").read_bytes())
    assert judge_key(signed, SIGNER.key).state is SignatureState.GOOD
    return signed.checkpoint


def served(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_new_log_is_an_empty_tree(tmp_path: Path, log: TransparencyLog) -> None:
    assert published(tmp_path / "log") == Checkpoint("example.com/log", 0, naive_log.mth([]))


@pytest.mark.parametrize("steps", [[1, 1, 3], [255, 1, 1], [256, 300], [600], [100, 157, 256]])
def test_the_files_are_those_of_the_specification(tmp_path: Path, steps: list[int]) -> None:
    root = tmp_path / "log"
    log = TransparencyLog(root, SIGNER)
    log.create()
    size = 0
    for count in steps:
        places = log.append(ENTRIES[size : size + count])
        assert places == tuple(range(size, size + count))
        size += count
        expected = naive_log.tiles(ENTRIES[:size])
        assert {path: served(root).get(path) for path in expected} == expected
        assert published(root).root == naive_log.mth(ENTRIES[:size])
        assert not (root / PENDING_PATH).exists()
    for index in (0, size // 2, size - 1):
        proof = parse_tlog_proof(log.prove(index))
        head = proof.signed.checkpoint
        verify_inclusion(leaf_hash(ENTRIES[index]), proof.index, head.size, proof.path, head.root)


def test_what_is_there_is_not_added_again(log: TransparencyLog) -> None:
    assert log.append(ENTRIES[:3]) == (0, 1, 2)
    assert log.append([ENTRIES[1], ENTRIES[5], ENTRIES[5]]) == (1, 3, 3)
    assert log.checkpoint().checkpoint.size == 4


def test_a_log_is_begun_once_and_never_by_an_append(tmp_path: Path, log: TransparencyLog) -> None:
    with pytest.raises(UsageError, match="empty directory"):
        log.create()
    (tmp_path / "log" / "checkpoint").unlink()
    with pytest.raises(UsageError, match="no checkpoint"):
        log.append(ENTRIES[:1])
    with pytest.raises(UsageError, match="a log's directory"):
        TransparencyLog(tmp_path / "none", SIGNER).append(ENTRIES[:1])


def test_another_keys_log_is_not_appended_to(tmp_path: Path, log: TransparencyLog) -> None:
    for other in (LogSigner.of("example.com/log", generate_key()), LogSigner.of("other", SIGNER.signing_key)):
        with pytest.raises(UsageError, match="expected"):
            TransparencyLog(tmp_path / "log", other).append(ENTRIES[:1])


@pytest.mark.parametrize("place", ["tile/0/000.p/5", "tile/entries/000.p/5", "checkpoint"])
@pytest.mark.parametrize("damage", ["remove", "flip", "cut"])
def test_nothing_is_signed_over_damaged_files(
    tmp_path: Path, log: TransparencyLog, place: str, damage: str
) -> None:
    log.append(ENTRIES[:5])
    path = tmp_path / "log" / place
    data = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if damage == "cut" else data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    with pytest.raises((BuildError, UsageError)) as caught:
        log.append(ENTRIES[5:6])
    assert "restore the log's directory" in (caught.value.hint or "") or place == "checkpoint"
    assert not (tmp_path / "log" / PENDING_PATH).exists()


@pytest.mark.parametrize("place", ["tile/1/000.p/1", "tile/0/001.p/44", "tile/entries/001.p/44"])
def test_nothing_is_signed_over_a_damaged_file_of_a_larger_log(
    tmp_path: Path, log: TransparencyLog, place: str
) -> None:
    log.append(ENTRIES[:300])
    path = tmp_path / "log" / place
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BuildError, match="expected files that lead to the signed checkpoint of 300 entries"):
        log.append(ENTRIES[300:301])


def test_no_proof_is_written_that_no_client_would_believe(tmp_path: Path, log: TransparencyLog) -> None:
    log.append(ENTRIES[:300])
    tile = tmp_path / "log" / "tile" / "0" / "000"
    data = tile.read_bytes()
    tile.write_bytes(data[:320] + bytes(32) + data[352:])
    with pytest.raises(TlogError, match="leads to another root"):
        log.prove(10)
    log.prove(270)
    with pytest.raises(TlogError, match="below 300"):
        log.prove(300)


def kills(monkeypatch: pytest.MonkeyPatch, after: int | None, *, written: bool) -> list[Checkpoint]:
    """Kill at the `after`th write, before or after it took place; return the signed trees that got out."""
    out: list[Checkpoint] = []
    real = writer.write_atomically
    count = itertools.count()

    def write(path: Path, data: bytes, mode: int = 0o644) -> None:
        dies = next(count) == after
        if dies and not written:
            raise Killed
        real(path, data, mode)
        if path.name in (PENDING_PATH, "checkpoint"):
            out.append(parse_checkpoint(data).checkpoint)
        if dies:
            raise Killed

    monkeypatch.setattr(writer, "write_atomically", write)
    return out


def show(shown: list[Checkpoint], signed: UnverifiedCheckpoint, _read, _published: int):
    """Stand for witnesses that have no key."""
    shown.append(signed.checkpoint)
    return ()


@pytest.mark.parametrize("written", [False, True])
def test_a_log_goes_on_after_a_kill_at_any_write(tmp_path: Path, written: bool) -> None:
    before, first, second = ENTRIES[:250], ENTRIES[250:260], ENTRIES[300:310]
    for after in itertools.count():
        root = tmp_path / f"log{after}"
        log = TransparencyLog(root, SIGNER)
        log.create()
        log.append(before)
        shown: list[Checkpoint] = []
        asked = TransparencyLog(root, SIGNER, collect=partial(show, shown))
        with pytest.MonkeyPatch.context() as patch:
            out = kills(patch, after, written=written)
            try:
                asked.append(first)
                died = False
            except Killed:
                died = True
        assert published(root).size in (250, 260)
        with pytest.MonkeyPatch.context() as patch:
            out += kills(patch, None, written=False)
            asked.append(second)  # somebody else's release comes next, not the one that was killed
        trees: dict[int, bytes] = {}
        for one in (*out, *shown):
            assert trees.setdefault(one.size, one.root) == one.root, "two trees of one size were shown"
        _holds_together(root, before, trees)
        if not died:
            break
    assert after == 7  # entries and hashes of two tiles each, level 1, the checkpoint twice


def _holds_together(root: Path, before: list[bytes], trees: dict[int, bytes]) -> None:
    head = published(root)
    read = open_log(str(root))
    assert read_root(TileReader(read, head.size).subtree, head.size) == head.root
    for size, value in trees.items():
        earlier = Checkpoint("example.com/log", size, value)
        verify_consistency(size, value, head.size, head.root, read_consistency(read, earlier, head))
    assert naive_log.mth(before) == read_root(TileReader(read, 250).subtree, 250)


def test_a_real_kill_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    root = tmp_path / "log"
    key = tmp_path / "key"
    key.write_bytes(SIGNER.signing_key.to_pem())
    TransparencyLog(root, SIGNER).create()
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from blindbuild.publish import load_key
        from blindbuild.publish.tlog import LogSigner, TransparencyLog
        signer = LogSigner.of("example.com/log", load_key(Path(sys.argv[2]).read_bytes()))
        log = TransparencyLog(Path(sys.argv[1]), signer)
        print("ready", flush=True)
        number = 0
        while True:
            log.append([b"%s %d" % (sys.argv[3].encode(), number)])
            number += 1
        """
    )
    sizes = []
    for round_ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", program, root, key, str(round_)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.1 + 0.07 * round_)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        head = published(root)
        tiles = TileReader(open_log(str(root)), head.size)
        assert read_root(tiles.subtree, head.size) == head.root
        sizes.append(head.size)
    assert sizes == sorted(sizes)
    assert sizes[-1] > 0
    before = published(root)
    log = TransparencyLog(root, SIGNER)
    log.append([b"after"])
    head = published(root)
    path = read_consistency(open_log(str(root)), before, head)
    verify_consistency(before.size, before.root, head.size, head.root, path)


def test_two_at_once_take_turns(tmp_path: Path, log: TransparencyLog) -> None:
    children = []
    for number in range(4):
        child = os.fork()
        if child == 0:
            try:
                log.append([b"%d %d" % (number, index) for index in range(3)])
                os._exit(0)
            except BaseException:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert published(tmp_path / "log").size == 12


def test_what_was_signed_and_shown_is_published_once_the_witnesses_can_be_reached(tmp_path: Path) -> None:
    root = tmp_path / "log"
    TransparencyLog(root, SIGNER).create()
    shown: list[Checkpoint] = []

    def unreachable(signed: UnverifiedCheckpoint, _read, _published: int):
        shown.append(signed.checkpoint)
        raise BlindbuildError("no witness")

    with pytest.raises(BlindbuildError, match="no witness"):
        TransparencyLog(root, SIGNER, collect=unreachable).append(ENTRIES[:2])
    assert published(root).size == 0
    assert (root / PENDING_PATH).exists()
    TransparencyLog(root, SIGNER, collect=partial(show, shown)).append(())
    assert published(root) == shown[0] == shown[1]
    assert not (root / PENDING_PATH).exists()


def test_an_entry_that_is_too_long_is_refused_before_anything_is_written(
    tmp_path: Path, log: TransparencyLog
) -> None:
    before = served(tmp_path / "log")
    with pytest.raises(UsageError, match="at most 65535 bytes"):
        log.append([bytes(65536)])
    assert served(tmp_path / "log") == before
    log.append([bytes(65535)])
    assert published(tmp_path / "log").size == 1
