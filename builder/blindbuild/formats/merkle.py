"""The Merkle tree of a transparency log: hashes, proofs that a leaf is in it, proofs that it only grew.

Sources: RFC 6962, 2.1 (hashes and proofs); RFC 9162, 2.1.3.2 and 2.1.4.2 (how proofs are verified).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable, Iterator, Sequence

from blindbuild.errors import TlogError

EMPTY_ROOT = hashlib.sha256(b"").digest()
MAX_PROOF = 63  # hashes: the height of a tree of 2^63 leaves

ReadSubtree = Callable[[int, int], bytes]
"""(level, index) -> the hash of the complete subtree over leaves [index * 2^level, (index + 1) * 2^level)."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of a leaf; the prefix 0x00 keeps it apart from an inner node."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def tree_root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes, in memory that grows with the tree's height only."""
    peaks: list[tuple[int, bytes]] = []  # complete subtrees (height, hash), the highest first
    for leaf in leaves:
        height, value = 0, leaf
        while peaks and peaks[-1][0] == height:
            value = node_hash(peaks.pop()[1], value)
            height += 1
        peaks.append((height, value))
    if not peaks:
        return EMPTY_ROOT
    root = peaks.pop()[1]
    while peaks:
        root = node_hash(peaks.pop()[1], root)
    return root


def read_root(read: ReadSubtree, size: int) -> bytes:
    """Return the root over the first `size` leaves."""
    return _range_hash(read, 0, size) if size else EMPTY_ROOT


def prove_inclusion(read: ReadSubtree, index: int, size: int) -> tuple[bytes, ...]:
    """Return the audit path of a leaf, from its sibling up.

    Raises:
        TlogError: there is no such leaf.

    Source: RFC 6962, 2.1.1: PATH(m, D[n]).
    """
    if not 0 <= index < size:
        raise TlogError(f"expected a leaf below {size}, got {index}")
    low, high, path = 0, size, []
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_hash(read, middle, high))
            high = middle
        else:
            path.append(_range_hash(read, low, middle))
            low = middle
    return tuple(reversed(path))


def prove_consistency(read: ReadSubtree, old: int, new: int) -> tuple[bytes, ...]:
    """Return the proof that the tree of `new` leaves begins with that of `old`; empty for 0 and for equal.

    Raises:
        TlogError: the old tree is the larger one.

    Source: RFC 6962, 2.1.2: PROOF(m, D[n]).
    """
    if not 0 <= old <= new:
        raise TlogError(f"expected a size of at most {new}, got {old}")
    if old in (0, new):
        return ()
    low, high, path = 0, new, []
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range_hash(read, middle, high))
            high = middle
        else:
            path.append(_range_hash(read, low, middle))
            low = middle
    if low:  # b is false: the old root is not one of the subtrees the verifier knows
        path.append(_range_hash(read, low, high))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, path: Sequence[bytes], root: bytes) -> None:
    """Check that a leaf hash stands at an index of a tree.

    Raises:
        TlogError: the index is outside, the path has another length, or it leads to another root.

    Source: RFC 9162, 2.1.3.2.
    """
    if not 0 <= index < size:
        raise TlogError(f"expected a leaf below {size}, got {index}")
    value = leaf
    for sibling, stands_left in _walk(index, size - 1, path, "inclusion proof"):
        value = node_hash(sibling, value) if stands_left else node_hash(value, sibling)
    if not hmac.compare_digest(value, root):
        raise TlogError("inclusion proof: leads to another root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    """Check that a tree begins with an earlier one.

    Raises:
        TlogError: the earlier one is larger, the roots of equal sizes differ, or the proof does not lead to
            both roots.

    Source: RFC 9162, 2.1.4.2; a tree without leaves is the beginning of every tree (tlog-witness).
    """
    if not 0 <= old <= new:
        raise TlogError(f"expected an earlier size of at most {new}, got {old}")
    if old in (0, new):
        _verify_trivial(old, old_root, new, new_root, path)
        return
    if not path:
        raise TlogError("consistency proof: expected more hashes")
    hashes = list(path)
    if old & (old - 1) == 0:  # the old root is itself the first subtree, which the proof leaves out
        hashes.insert(0, old_root)
    known = (old & -old).bit_length() - 1  # the height of that first subtree
    position, last = (old - 1) >> known, (new - 1) >> known
    from_old = from_new = hashes[0]
    for value, stands_left in _walk(position, last, hashes[1:], "consistency proof"):
        if stands_left:
            from_old, from_new = node_hash(value, from_old), node_hash(value, from_new)
        else:
            from_new = node_hash(from_new, value)
    if not hmac.compare_digest(from_old, old_root) or not hmac.compare_digest(from_new, new_root):
        raise TlogError("consistency proof: leads to other roots")


def _verify_trivial(old: int, old_root: bytes, new: int, new_root: bytes, path: Sequence[bytes]) -> None:
    if path:
        raise TlogError("consistency proof: expected no hashes")
    if old == 0 and old_root != EMPTY_ROOT:
        raise TlogError("expected the root of a tree without leaves")
    if old == new and not hmac.compare_digest(old_root, new_root):
        raise TlogError("expected equal roots of equal sizes, got different ones")


def _walk(position: int, last: int, path: Sequence[bytes], what: str) -> Iterator[tuple[bytes, bool]]:
    """Yield each hash of a path, and whether it stands left of what it is hashed with."""
    for value in path:
        if last == 0:
            raise TlogError(f"{what}: expected fewer hashes")
        stands_left = bool(position & 1) or position == last
        while stands_left and not position & 1 and position:
            position >>= 1
            last >>= 1
        yield value, stands_left
        position >>= 1
        last >>= 1
    if last:
        raise TlogError(f"{what}: expected more hashes")


def _split(count: int) -> int:
    """Return the largest power of two below a count of at least 2."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_hash(read: ReadSubtree, low: int, high: int) -> bytes:
    # the ranges of RFC 6962's recursion begin at a multiple of the power of two that they are cut at
    count = high - low
    if count & (count - 1) == 0 and low % count == 0:
        return read(count.bit_length() - 1, low // count)
    middle = low + _split(count)
    return node_hash(_range_hash(read, low, middle), _range_hash(read, middle, high))
