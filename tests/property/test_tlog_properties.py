"""Logs of any size: every proof verifies, every changed one fails, and damage raises our error or nothing."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.merkle import (
    leaf_hash,
    prove_consistency,
    prove_inclusion,
    read_root,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from blindbuild.formats.note import parse_vkey, write_note
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.formats.tlog_proof import parse_tlog_proof, write_tlog_proof
from blindbuild.formats.tlog_tiles import (
    Tile,
    TileReader,
    new_tiles,
    parse_bundle,
    read_entries,
    write_bundle,
)
from blindbuild.publish.witness import parse_add_checkpoint
from tests.fakes import naive_log
from tests.fakes.damage import assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.log_world import LOG_KEY, Shown, judged, policy_text

ENTRIES = [b"entry %d" % number for number in range(700)]
SIZES = st.integers(1, len(ENTRIES))


@functools.cache
def files() -> dict[str, bytes]:
    """The tiles of every size that the tests ask for, as one log that grew has them."""
    return {}


def read(path: str, _limit: int) -> bytes | None:
    return files().get(path)


def reader(size: int) -> TileReader:
    files().update(naive_log.tiles(ENTRIES[:size]))
    return TileReader(read, size)


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES)
def test_inclusion_is_proven_from_tiles_and_nothing_changed_passes(data: st.DataObject, size: int) -> None:
    index = data.draw(st.integers(0, size - 1))
    entries = ENTRIES[:size]
    path = prove_inclusion(reader(size).subtree, index, size)
    root = naive_log.mth(entries)
    assert list(path) == naive_log.path(index, entries)
    assert read_root(reader(size).subtree, size) == root == tree_root(map(leaf_hash, entries))
    leaf = leaf_hash(entries[index])
    verify_inclusion(leaf, index, size, path, root)
    other = data.draw(st.integers(0, 2 * size).filter(lambda value: value != index))
    with pytest.raises(TlogError):
        verify_inclusion(leaf, other, size, path, root)
    for changed in damaged(data, path):
        with pytest.raises(TlogError):
            verify_inclusion(leaf, index, size, changed, root)


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES)
def test_growth_is_proven_from_tiles_and_nothing_changed_passes(data: st.DataObject, new: int) -> None:
    old = data.draw(st.integers(1, new))
    path = prove_consistency(reader(new).subtree, old, new)
    roots = naive_log.mth(ENTRIES[:old]), naive_log.mth(ENTRIES[:new])
    assert list(path) == naive_log.proof(old, ENTRIES[:new])
    verify_consistency(old, roots[0], new, roots[1], path)
    for changed in damaged(data, path):
        with pytest.raises(TlogError):
            verify_consistency(old, roots[0], new, roots[1], changed)
    forked = [*ENTRIES[: old - 1], b"another", *ENTRIES[old:new]]
    with pytest.raises(TlogError):
        verify_consistency(old, roots[0], new, naive_log.mth(forked), tuple(naive_log.proof(old, forked)))


def damaged(data: st.DataObject, path: tuple[bytes, ...]):
    yield (*path, bytes(32))
    if path:
        place = data.draw(st.integers(0, len(path) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = bytearray(path[place])
        flipped[bit // 8] ^= 1 << bit % 8
        yield (*path[:place], bytes(flipped), *path[place + 1 :])
        yield (*path[:place], *path[place + 1 :])


@settings(max_examples=40, deadline=None)
@given(SIZES, SIZES)
def test_a_log_that_grows_writes_every_tile_it_then_has_and_none_twice(one: int, other: int) -> None:
    old, new = sorted((one, other))
    before, after = naive_log.tiles(ENTRIES[:old]), naive_log.tiles(ENTRIES[:new])
    written = [tile.path for tile in new_tiles(old, new)]
    assert len(written) == len(set(written))
    assert set(written) == after.keys() - before.keys()


@given(st.integers(0, 10**15))
def test_the_path_of_a_tile_is_in_groups_of_three_digits(index: int) -> None:
    assert Tile(3, index, 256).path == f"tile/3/{naive_log.place(index)}"
    assert Tile(None, index, 7).path == f"tile/entries/{naive_log.place(index)}.p/7"


def test_the_path_of_the_specifications_example() -> None:
    assert Tile(0, 1234067, 256).path == "tile/0/x001/x234/067"
    # and its tree of 70,000: 273 full tiles and one of 112; one full and one of 17; one of width 1
    found = {(tile.level, tile.index, tile.width) for tile in new_tiles(0, 70000) if tile.level is not None}
    assert len(found) == 273 + 1 + 2 + 1
    assert {(0, 273, 112), (1, 0, 256), (1, 1, 17), (2, 0, 1)} <= found
    assert (1, 0, 1) in {(tile.level, tile.index, tile.width) for tile in new_tiles(0, 256)}


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_bundles_read_back(entries: list[bytes]) -> None:
    assert list(parse_bundle(write_bundle(entries), len(entries))) == entries


def test_a_reader_takes_the_full_tile_when_the_partial_one_was_deleted() -> None:
    kept = {path: data for path, data in naive_log.tiles(ENTRIES[:256]).items() if ".p/" not in path}
    tiles = TileReader(lambda path, _limit: kept.get(path), 200)
    assert read_root(tiles.subtree, 200) == naive_log.mth(ENTRIES[:200])
    assert list(read_entries(lambda path, _limit: kept.get(path), 200)) == ENTRIES[:200]
    with pytest.raises(TlogError, match="has no tile/0/001"):
        TileReader(lambda path, _limit: kept.get(path), 257).subtree(0, 256)


HONEST = Shown()
REQUEST = b"old 3\n" + b"".join(naive_log.b64(h).encode() + b"\n" for h in naive_log.proof(3, HONEST.entries))


def _read_request(data: bytes) -> None:
    parse_checkpoint(parse_add_checkpoint(data).note)


PARSERS = {
    "proof": (parse_tlog_proof, HONEST.proof),
    "checkpoint": (parse_checkpoint, HONEST.checkpoint),
    "policy": (parse_log_policy, policy_text()),
    "request": (_read_request, REQUEST + b"\n" + HONEST.checkpoint),
    "vkey": (lambda data: parse_vkey(data.decode("latin-1")), LOG_KEY.vkey.encode()),
    "bundle": (lambda data: parse_bundle(data, 3), write_bundle(ENTRIES[:3])),
}


@pytest.mark.parametrize("name", PARSERS)
def test_what_is_cut_or_flipped_raises_our_error_or_nothing(name: str) -> None:
    parse, data = PARSERS[name]
    parse(data)
    cut = assert_nothing_else_raised(parse, truncations(data), TlogError)
    if name != "policy":  # which may end after any line behind its quorum
        # a note that was cut behind one of its four signatures is a note with fewer
        whole = 3 if name in ("proof", "checkpoint", "request") else 0
        assert cut == len(data) - whole
    assert assert_nothing_else_raised(parse, bit_flips(data), TlogError) > 0


def test_no_cut_or_flipped_proof_is_believed() -> None:
    proof = HONEST.proof
    for data in (*truncations(proof, step=29), *bit_flips(proof, step=7)):
        steps = judged(data)
        assert "internal-error" not in {step.reason for step in steps.failed()}
        if not steps.failed():
            # what is left is a signature that nobody knows: the quorum of the others is enough
            assert parse_tlog_proof(data).signed.checkpoint == parse_tlog_proof(proof).signed.checkpoint


def test_what_is_parsed_is_written_as_it_was() -> None:
    proof = parse_tlog_proof(HONEST.proof)
    assert write_tlog_proof(proof) == HONEST.proof
    assert write_note(proof.signed.note) == HONEST.checkpoint
