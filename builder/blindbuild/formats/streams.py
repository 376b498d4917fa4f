"""Hashes of many parts of one file, in one sequential pass over it.

What is measured of an image overlaps: the whole file, each section, the kernel in one of them, the initrd
that starts with another. Each of these is a stream: ranges of the file, bytes and zeros in some order. Every
piece of the file is read once and given to all streams it belongs to, and streams that begin alike share
their state up to where they part. Only a stream that goes back in the file costs a pass of its own.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.source import Source, check_range

READ_BYTES = 1 << 20  # one read: fits the processor's cache, and two of them are all that is held
SMALL_BYTES = 1 << 22  # files up to here are hashed faster than threads start
MAX_THREADS = 4  # six hashers want most bytes in three banks; more threads only push out each other's data

_ZEROS = bytes(1 << 16)


@dataclass(frozen=True, slots=True)
class FileRange:
    """Bytes of the file."""

    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Zeros:
    """Bytes that are zero and not in the file."""

    size: int


Piece = FileRange | Zeros | bytes
Stream = tuple[Piece, ...]
Digests = dict[HashAlgorithm, Digest]


class Hasher(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes, /) -> None:
        """Take more bytes."""

    def digest(self) -> bytes:
        """Return the hash of all bytes taken so far."""

    def copy(self) -> Hasher:
        """Return another hasher that took the same bytes."""


def join_pieces(pieces: Iterable[Piece]) -> Stream:
    """Return the same bytes in as few pieces as possible: nothing empty, neighbours in the file as one."""
    joined: list[Piece] = []
    for piece in pieces:
        last = joined[-1] if joined else None
        if _size(piece) == 0:
            continue
        match last, piece:
            case FileRange(offset=start, size=size), FileRange(offset=offset) if start + size == offset:
                joined[-1] = FileRange(start, size + piece.size)
            case _:
                joined.append(piece)
    return tuple(joined)


def cut_pieces(pieces: Iterable[Piece], start: int, end: int) -> Iterator[Piece]:
    """Yield the pieces of bytes `start` to `end` of a stream."""
    position = 0
    for piece in pieces:
        size = _size(piece)
        first, last = max(start - position, 0), min(end - position, size)
        if first < last:
            yield _cut(piece, first, last)
        position += size


def stream_size(pieces: Iterable[Piece]) -> int:
    """Return how many bytes a stream has."""
    return sum(_size(piece) for piece in pieces)


class StreamSource:
    """A stream as a source of its own: a file inside a file."""

    __slots__ = ("_pieces", "_source")

    def __init__(self, source: Source, pieces: Stream) -> None:
        self._source = source
        self._pieces = pieces

    @property
    def size(self) -> int:
        """How many bytes the stream has."""
        return stream_size(self._pieces)

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on; FormatError if they are not all there."""
        check_range(self, offset, size)
        return b"".join(self._render(piece) for piece in cut_pieces(self._pieces, offset, offset + size))

    def _render(self, piece: Piece) -> bytes:
        match piece:
            case FileRange(offset=offset, size=size):
                return self._source.read(offset, size)
            case Zeros(size=size):
                return bytes(size)
            case _:
                return piece


def hash_streams(
    source: Source,
    streams: Mapping[str, Sequence[Piece]],
    algorithms: Iterable[HashAlgorithm],
    *,
    threads: int | None = None,
) -> dict[str, Digests]:
    """Return the hash of every stream with every algorithm.

    Args:
        source: what file ranges are ranges of.
        streams: what to hash, by any name.
        algorithms: at least one.
        threads: how many; 0 for none, None to choose by the number of bytes. The result is the same.

    Raises:
        FormatError: no algorithm, or a range that is not inside the source.
    """
    chosen = tuple(dict.fromkeys(algorithms))
    if not chosen:
        raise FormatError("expected at least one hash algorithm, got none")
    if threads is None:
        threads = MAX_THREADS if source.size > SMALL_BYTES else 0
    named = {name: join_pieces(pieces) for name, pieces in streams.items()}
    states = _share_beginnings(tuple(dict.fromkeys(named.values())), chosen)
    for state in states.values():
        if state.follows is None:
            _take_generated(state)
    with _workers(threads) as start:
        _hash_segments(source, list(_segments(list(states.values()))), start)
    return {
        name: {algorithm: Digest(algorithm, hasher.digest()) for algorithm, hasher in states[pieces].hashers}
        for name, pieces in named.items()
    }


@dataclass(slots=True, eq=False)
class _State:
    """How far the hashers of one stream have come.

    Attributes:
        pieces: those not taken yet.
        hashers: empty until the stream that it follows is complete.
        follows: a stream that this one begins with.
        followers: the other direction of `follows`.
        taken: how many bytes of the first piece, a range, are taken already.
        pass_number: after planning, the last pass that it takes part in.
        position: after planning, where in the file its last range ends.
    """

    pieces: list[Piece]
    hashers: list[tuple[HashAlgorithm, Hasher]]
    follows: _State | None = None
    followers: list[_State] = field(default_factory=list)
    taken: int = 0
    pass_number: int = 0
    position: int = 0


_Segment = tuple[FileRange, tuple[_State, ...]]
_Start = Callable[[Hasher, bytes], "Future[None] | None"]


def _share_beginnings(streams: Sequence[Stream], algorithms: Sequence[HashAlgorithm]) -> dict[Stream, _State]:
    """Return the states, shortest first; one whose beginning is another whole stream follows that one."""
    states: dict[Stream, _State] = {}
    for stream in sorted(streams, key=len):
        shared = next((length for length in range(len(stream) - 1, 0, -1) if stream[:length] in states), 0)
        if shared:
            leader = states[stream[:shared]]
            states[stream] = _State(list(stream[shared:]), [], follows=leader)
            leader.followers.append(states[stream])
        else:
            states[stream] = _State(list(stream), [(one, _new_hasher(one)) for one in algorithms])
    return states


def _new_hasher(algorithm: HashAlgorithm) -> Hasher:
    # Not for this process's security: firmware also extends what it measures into SHA-1 banks.
    return hashlib.new(algorithm.value, usedforsecurity=False)


@contextmanager
def _workers(threads: int) -> Iterator[_Start]:
    """Give what updates a hasher, now or in a thread; the threads end with the block."""
    if not threads:
        yield lambda hasher, data: hasher.update(data)
        return
    with ThreadPoolExecutor(threads) as pool:
        yield lambda hasher, data: pool.submit(hasher.update, data)


def _segments(states: Sequence[_State]) -> Iterator[_Segment]:
    """Yield what to read, in order, and which streams take it."""
    passes: dict[int, list[tuple[int, int, int]]] = {}
    for number, state in enumerate(states):
        for pass_number, part in _plan(state):
            passes.setdefault(pass_number, []).append((part.offset, part.offset + part.size, number))
    for _, ranges in sorted(passes.items()):
        yield from _sweep(ranges, states)


def _plan(state: _State) -> Iterator[tuple[int, FileRange]]:
    """Yield the ranges of a stream and the pass in which it can take each; its leader is planned already."""
    if state.follows is not None:
        state.pass_number, state.position = state.follows.pass_number, state.follows.position
    for piece in state.pieces:
        if isinstance(piece, FileRange):
            if piece.offset < state.position:
                state.pass_number += 1
            state.position = piece.offset + piece.size
            yield state.pass_number, piece


def _sweep(ranges: Sequence[tuple[int, int, int]], states: Sequence[_State]) -> Iterator[_Segment]:
    """Yield the stretches of one pass between which the set of streams changes, no longer than one read."""
    starts: dict[int, list[int]] = {}
    ends: dict[int, list[int]] = {}
    for start, end, number in ranges:
        starts.setdefault(start, []).append(number)
        ends.setdefault(end, []).append(number)
    active: set[int] = set()
    for here, there in itertools.pairwise(sorted({*starts, *ends})):
        active.difference_update(ends.get(here, ()))
        active.update(starts.get(here, ()))
        takers = tuple(states[number] for number in sorted(active))
        for offset in range(here, there if takers else here, READ_BYTES):
            yield FileRange(offset, min(READ_BYTES, there - offset)), takers


def _hash_segments(source: Source, segments: Sequence[_Segment], start: _Start) -> None:
    """Read and hash; the next read happens while threads still hash the last one."""
    ahead = _read(source, segments[0][0]) if segments else b""
    for index, (part, takers) in enumerate(segments):
        hashers = [one for state in takers for one in state.hashers]
        # The slow ones first, so that the threads end together.
        hashers.sort(key=lambda one: -one[0].size)
        running = [start(hasher, ahead) for _, hasher in hashers]
        if index + 1 < len(segments):
            ahead = _read(source, segments[index + 1][0])
        for future in running:
            if future is not None:
                future.result()
        for state in takers:
            _take_range(state, part.size)


def _read(source: Source, part: FileRange) -> bytes:
    check_range(source, part.offset, part.size)
    return source.read(part.offset, part.size)


def _take_range(state: _State, size: int) -> None:
    """Note that `size` bytes of the stream's next range were hashed, and go on behind it if it is over."""
    state.taken += size
    if state.taken == _size(state.pieces[0]):
        state.taken = 0
        del state.pieces[0]
        _take_generated(state)


def _take_generated(state: _State) -> None:
    """Hash what comes next and is not in the file; a stream that is complete starts those that follow it."""
    while state.pieces and not isinstance(state.pieces[0], FileRange):
        for data in _generated(state.pieces.pop(0)):
            for _, hasher in state.hashers:
                hasher.update(data)
    if not state.pieces:
        for follower in state.followers:
            follower.hashers = [(algorithm, hasher.copy()) for algorithm, hasher in state.hashers]
            _take_generated(follower)


def _generated(piece: Piece) -> Iterator[bytes]:
    if isinstance(piece, bytes):
        yield piece
        return
    for start in range(0, piece.size, len(_ZEROS)):
        yield _ZEROS[: piece.size - start]


def _size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.size


def _cut(piece: Piece, first: int, last: int) -> Piece:
    match piece:
        case FileRange(offset=offset):
            return FileRange(offset + first, last - first)
        case Zeros():
            return Zeros(last - first)
        case _:
            return piece[first:last]
