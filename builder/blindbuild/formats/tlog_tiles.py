"""A transparency log as static files: where each tile is, and what is in it.

Source: C2SP tlog-tiles (c2sp.org/tlog-tiles), "Merkle Tree", "Partial Tiles", "Log entries".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from blindbuild.errors import TlogError
from blindbuild.formats.checkpoint import HASH_SIZE, MAX_SIZE
from blindbuild.formats.merkle import tree_root

CHECKPOINT_PATH = "checkpoint"
TILE_WIDTH = 256  # hashes or entries in a full tile
TILE_HEIGHT = 8  # levels of the Merkle tree in one tile
MAX_TILE = TILE_WIDTH * HASH_SIZE  # bytes
MAX_ENTRY = 2**16 - 1  # bytes; the length is a uint16
MAX_BUNDLE = TILE_WIDTH * (MAX_ENTRY + 2)  # bytes
ENTRIES = "entries"
_PATH_GROUP = 1000  # an index is written in groups of three digits

ReadFile = Callable[[str, int], bytes | None]
"""(path below the log's prefix, most bytes) -> the file, or None when it is not there."""


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of hashes or, at level None, one bundle of entries."""

    level: int | None
    index: int
    width: int

    @property
    def path(self) -> str:
        """Where it is below the log's prefix."""
        rest, last = divmod(self.index, _PATH_GROUP)
        groups = [f"{last:03d}"]
        while rest:
            rest, group = divmod(rest, _PATH_GROUP)
            groups.insert(0, f"x{group:03d}")
        level = ENTRIES if self.level is None else str(self.level)
        partial = "" if self.width == TILE_WIDTH else f".p/{self.width}"
        return f"tile/{level}/{'/'.join(groups)}{partial}"

    @property
    def first(self) -> int:
        """The index, within its level, of the first hash or entry in it."""
        return self.index * TILE_WIDTH


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """Return a tile as a tree of `size` leaves has it, full or partial.

    Raises:
        TlogError: such a tree has no such tile.
    """
    width = min(TILE_WIDTH, _hashes_at(level, size) - index * TILE_WIDTH)
    if index < 0 or width < 1:
        raise TlogError(f"a tree of {size} leaves has no tile {index} at level {level}")
    return Tile(level, index, width)


def new_tiles(old: int, new: int) -> Iterator[Tile]:
    """Yield the tiles of hashes and entries that a tree has when it grew from `old` to `new` leaves."""
    levels: list[int | None] = [None, *range((MAX_SIZE.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)]
    for level in levels:
        before, after = _hashes_at(level, old), _hashes_at(level, new)
        if before == after:
            continue
        for index in range(before // TILE_WIDTH, (after + TILE_WIDTH - 1) // TILE_WIDTH):
            yield tile_at(level, index, new)


def read_tile(read: ReadFile, tile: Tile, limit_bytes: int) -> bytes:
    """Return the bytes of a tile of hashes; a log may have replaced a partial one by the full one.

    Raises:
        TlogError: the log has neither.
    """
    data = read(tile.path, limit_bytes)
    if data is not None:
        return data
    full = read(Tile(tile.level, tile.index, TILE_WIDTH).path, limit_bytes)
    if full is None:
        raise TlogError(f"the log has no {tile.path}")
    return full[: tile.width * HASH_SIZE]


def parse_tile(data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the hashes of a tile.

    Raises:
        TlogError: not exactly `width` hashes.
    """
    if len(data) != width * HASH_SIZE:
        raise TlogError(f"tile: expected {width} hashes, {width * HASH_SIZE} bytes, got {len(data)}")
    return tuple(data[at : at + HASH_SIZE] for at in range(0, len(data), HASH_SIZE))


def parse_bundle(data: bytes, width: int) -> tuple[bytes, ...]:
    """Return the entries of a bundle.

    Raises:
        TlogError: an entry ends behind the data, or there are not exactly `width` of them.
    """
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        if len(entries) == width:
            raise TlogError(f"entries: expected {width}, got more")
        end = at + 2
        if end <= len(data):
            end += struct.unpack_from(">H", data, at)[0]
        if end > len(data):
            raise TlogError(f"entries: entry {len(entries)} ends behind the bundle")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise TlogError(f"entries: expected {width}, got {len(entries)}")
    return tuple(entries)


def write_bundle(entries: Sequence[bytes]) -> bytes:
    """Return entries as a bundle.

    Raises:
        TlogError: an entry that is too long.
    """
    if any(len(entry) > MAX_ENTRY for entry in entries):
        raise TlogError(f"entries: expected entries of at most {MAX_ENTRY} bytes")
    return b"".join(struct.pack(">H", len(entry)) + entry for entry in entries)


class TileReader:
    """Hashes of complete subtrees, from the tiles of a tree of one size.

    What it returns is only as true as the files are: whoever uses it compares with a signed root.

    Args:
        read: reads a file of the log.
        size: of the tree; it decides which tiles are partial.
    """

    def __init__(self, read: ReadFile, size: int) -> None:
        self._read = read
        self._size = size
        self._tiles: dict[Tile, tuple[bytes, ...]] = {}

    def hashes(self, tile: Tile) -> tuple[bytes, ...]:
        """Return the hashes of a tile, read once."""
        if tile not in self._tiles:
            self._tiles[tile] = parse_tile(read_tile(self._read, tile, MAX_TILE), tile.width)
        return self._tiles[tile]

    def subtree(self, level: int, index: int) -> bytes:
        """Return the hash over leaves [index * 2^level, (index + 1) * 2^level).

        Raises:
            TlogError: the tree has no such complete subtree, or the tile is malformed.
        """
        if (index + 1) << level > self._size:
            raise TlogError(f"a tree of {self._size} leaves has no subtree {index} of height {level}")
        tile_level, height = divmod(level, TILE_HEIGHT)
        first = index << height
        tile = tile_at(tile_level, first // TILE_WIDTH, self._size)
        at = first - tile.first
        return tree_root(self.hashes(tile)[at : at + (1 << height)])


def read_entries(read: ReadFile, size: int) -> Iterator[bytes]:
    """Yield every entry of a tree in order, from its bundles; nothing is compared with a root here.

    Raises:
        TlogError: a bundle is not there or malformed.
    """
    for index in range((size + TILE_WIDTH - 1) // TILE_WIDTH):
        tile = tile_at(None, index, size)
        data = read(tile.path, MAX_BUNDLE)
        if data is not None:
            yield from parse_bundle(data, tile.width)
            continue
        full = read(Tile(None, index, TILE_WIDTH).path, MAX_BUNDLE)
        if full is None:
            raise TlogError(f"the log has no {tile.path}")
        yield from parse_bundle(full, TILE_WIDTH)[: tile.width]


def _hashes_at(level: int | None, size: int) -> int:
    return size if level is None else size >> (TILE_HEIGHT * level)
