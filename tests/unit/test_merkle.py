"""The Merkle tree against answers that others published, and against the recursion of RFC 6962."""

from __future__ import annotations

import hashlib
import itertools

import pytest

from blindbuild.errors import TlogError
from blindbuild.formats.merkle import (
    EMPTY_ROOT,
    leaf_hash,
    node_hash,
    prove_consistency,
    prove_inclusion,
    read_root,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.fakes import naive_log

# google/certificate-transparency, merkletree tests (Apache-2.0): the inputs, and the root after each of them
INPUTS = [bytes.fromhex(t) for t in ("", "00", "10", "2021", "3031", "40414243")]
INPUTS += [bytes(range(0x50, 0x58)), bytes(range(0x60, 0x70))]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
MANY = [b"%d" % number for number in range(70)]


def subtree(entries):
    return lambda level, index: naive_log.mth(entries[index << level : (index + 1) << level])


@pytest.mark.parametrize("size", range(9))
def test_the_published_roots_come_out(size: int) -> None:
    leaves = [leaf_hash(entry) for entry in INPUTS[:size]]
    assert tree_root(leaves).hex() == ROOTS[size]
    assert read_root(subtree(INPUTS), size).hex() == ROOTS[size]
    assert naive_log.mth(INPUTS[:size]).hex() == ROOTS[size]


@pytest.mark.parametrize("size", range(1, 35))
def test_proofs_are_those_of_the_rfcs_recursion_and_verify(size: int) -> None:
    entries = MANY[:size]
    read, root = subtree(entries), naive_log.mth(entries)
    for index in range(size):
        path = prove_inclusion(read, index, size)
        assert list(path) == naive_log.path(index, entries)
        verify_inclusion(leaf_hash(entries[index]), index, size, path, root)
    for old in range(size + 1):
        path = prove_consistency(read, old, size)
        assert list(path) == (naive_log.proof(old, entries) if old else [])
        verify_consistency(old, naive_log.mth(entries[:old]), size, root, path)


def test_a_proof_for_another_index_size_leaf_or_root_is_refused() -> None:
    size = 13
    entries = MANY[:size]
    root = naive_log.mth(entries)
    for index in range(size):
        path = prove_inclusion(subtree(entries), index, size)
        leaf = leaf_hash(entries[index])
        others = [(leaf, i, size, path, root) for i in range(-1, size + 2) if i != index]
        others += [(leaf, index, size, path, leaf), (leaf_hash(b"x"), index, size, path, root)]
        others += [(leaf, index, size, path[:-1], root), (leaf, index, size, (*path, root), root)]
        others += [(leaf, index, size, tuple(reversed(path)), root)] if len(set(path)) > 1 else []
        for other in others:
            with pytest.raises(TlogError):
                verify_inclusion(*other)


def test_a_path_that_is_longer_than_the_tree_is_high_is_refused_though_it_leads_to_the_root() -> None:
    # a log that signs a size which its tree does not have
    leaf, other = leaf_hash(b"a"), leaf_hash(b"b")
    with pytest.raises(TlogError, match="fewer hashes"):
        verify_inclusion(leaf, 0, 1, (other,), node_hash(other, leaf))
    pair = node_hash(leaf, other)
    with pytest.raises(TlogError, match="fewer hashes"):
        verify_consistency(1, node_hash(leaf, leaf), 2, node_hash(leaf, pair), (other, leaf))
    with pytest.raises(TlogError, match="more hashes"):
        verify_inclusion(leaf, 0, 2, (), leaf)
    with pytest.raises(TlogError, match="more hashes"):
        verify_consistency(1, leaf, 2, leaf, ())


def test_a_consistency_proof_with_anything_changed_is_refused() -> None:
    roots = [naive_log.mth(MANY[:size]) for size in range(18)]
    for old, new in itertools.combinations(range(1, 18), 2):
        path = prove_consistency(subtree(MANY), old, new)
        changed = [(old, roots[old], new, roots[new], value) for value in damaged(path)]
        changed += [(old, EMPTY_ROOT, new, roots[new], path), (old, roots[old], new, EMPTY_ROOT, path)]
        changed += [(new, roots[new], old, roots[old], path), (old, roots[new], new, roots[old], path)]
        for other in changed:
            with pytest.raises(TlogError):
                verify_consistency(*other)


def damaged(path):
    yield path[:-1]
    yield (*path, bytes(32))
    for place in range(len(path)):
        yield (*path[:place], hashlib.sha256(path[place]).digest(), *path[place + 1 :])


def test_no_tree_is_the_beginning_of_every_tree_and_of_no_other_root() -> None:
    verify_consistency(0, EMPTY_ROOT, 5, naive_log.mth(MANY[:5]), ())
    with pytest.raises(TlogError, match="without leaves"):
        verify_consistency(0, bytes(32), 5, naive_log.mth(MANY[:5]), ())
    with pytest.raises(TlogError, match="expected no hashes"):
        verify_consistency(0, EMPTY_ROOT, 5, naive_log.mth(MANY[:5]), (bytes(32),))


def test_there_is_no_proof_of_what_is_not_there() -> None:
    for index, size in ((0, 0), (5, 5), (-1, 5)):
        with pytest.raises(TlogError):
            prove_inclusion(subtree(MANY), index, size)
    with pytest.raises(TlogError):
        prove_consistency(subtree(MANY), 6, 5)


def test_an_inner_node_is_no_leaf() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)
    assert node_hash(left, right) == hashlib.sha256(b"\x01" + left + right).digest()
