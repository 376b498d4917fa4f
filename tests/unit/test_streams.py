"""Hashes of parts of a file in one pass, against the parts put together first."""

from __future__ import annotations

import hashlib

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.source import BytesSource
from blindbuild.formats.streams import (
    READ_BYTES,
    FileRange,
    Piece,
    Stream,
    StreamSource,
    Zeros,
    cut_pieces,
    hash_streams,
    join_pieces,
)

SHA256, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA512
DATA = bytes(range(256)) * 16


class CountingSource(BytesSource):
    """A source that notes what was read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reads: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        """Note and read."""
        self.reads.append((offset, size))
        return super().read(offset, size)


def _bytes(piece: Piece, data: bytes) -> bytes:
    match piece:
        case FileRange(offset=offset, size=size):
            return data[offset : offset + size]
        case Zeros(size=size):
            return bytes(size)
        case _:
            return piece


STREAMS: dict[str, Stream] = {
    "whole": (FileRange(0, len(DATA)),),
    "hole": (FileRange(0, 100), FileRange(104, 50), Zeros(7), b"end"),
    "section": (FileRange(1000, 500),),
    "initrd": (FileRange(1000, 500), b"\0\0", FileRange(2000, 10)),
    "longer": (FileRange(1000, 500), b"\0\0", FileRange(2000, 10), b"tail"),
    "backwards": (FileRange(3000, 10), FileRange(20, 10), FileRange(20, 10)),
    "generated": (b"only", Zeros(3)),
    "after generated": (b"only", Zeros(3), FileRange(5, 5)),
    "empty": (),
    "same": (FileRange(1000, 500),),
}


@pytest.mark.parametrize("threads", [0, 1, 3, None])
def test_each_stream_has_the_hash_of_its_bytes(threads: int | None) -> None:
    found = hash_streams(BytesSource(DATA), STREAMS, (SHA256, SHA512), threads=threads)
    for name, pieces in STREAMS.items():
        content = b"".join(_bytes(piece, DATA) for piece in pieces)
        assert found[name][SHA256].value == hashlib.sha256(content).digest(), name
        assert found[name][SHA512].value == hashlib.sha512(content).digest(), name


def test_every_byte_is_read_once_however_many_streams_want_it() -> None:
    source = CountingSource(DATA)
    forwards = {name: pieces for name, pieces in STREAMS.items() if name != "backwards"}
    hash_streams(source, forwards, (SHA256, SHA512), threads=0)
    assert sum(size for _, size in source.reads) == len(DATA)
    assert source.reads == sorted(source.reads)


def test_a_stream_that_goes_back_costs_a_pass_over_its_own_bytes_only() -> None:
    source = CountingSource(DATA)
    hash_streams(source, {name: STREAMS[name] for name in ("whole", "backwards")}, (SHA256,), threads=0)
    assert sum(size for _, size in source.reads) == len(DATA) + 20


def test_long_ranges_are_read_in_pieces() -> None:
    data = bytes(2 * READ_BYTES + 5)
    source = CountingSource(data)
    found = hash_streams(source, {"whole": (FileRange(0, len(data)),)}, (SHA256,), threads=2)
    assert found["whole"][SHA256].value == hashlib.sha256(data).digest()
    assert source.reads == [(0, READ_BYTES), (READ_BYTES, READ_BYTES), (2 * READ_BYTES, 5)]


def test_shared_beginnings_are_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    real = hashlib.new

    class Counting:
        def __init__(self, hasher: object) -> None:
            self.hasher = hasher

        def update(self, data: bytes) -> None:
            taken.append(len(data))
            self.hasher.update(data)

        def digest(self) -> bytes:
            return self.hasher.digest()

        def copy(self) -> Counting:
            return Counting(self.hasher.copy())

    monkeypatch.setattr(hashlib, "new", lambda name, **options: Counting(real(name, **options)))
    names = ("section", "initrd", "longer", "same")
    hash_streams(BytesSource(DATA), {name: STREAMS[name] for name in names}, (SHA256,), threads=0)
    assert sum(taken) == 500 + 2 + 10 + 4


def test_no_algorithm_is_an_error() -> None:
    with pytest.raises(FormatError, match="expected at least one hash algorithm, got none"):
        hash_streams(BytesSource(DATA), {}, ())


@pytest.mark.parametrize("part", [FileRange(4096, 1), FileRange(0, 4097), FileRange(5000, 0)])
def test_a_range_outside_the_file_is_refused(part: FileRange) -> None:
    streams: dict[str, Stream] = {"x": (part,)}
    if not part.size:
        assert hash_streams(BytesSource(DATA), streams, (SHA256,))["x"][SHA256].value == (
            hashlib.sha256().digest()
        )
        return
    with pytest.raises(FormatError, match="cut off"):
        hash_streams(BytesSource(DATA), streams, (SHA256,))


def test_neighbours_in_the_file_become_one_range_and_empty_pieces_go() -> None:
    pieces = (FileRange(0, 5), b"", FileRange(5, 5), Zeros(0), FileRange(11, 1), FileRange(12, 0))
    assert join_pieces(pieces) == (FileRange(0, 10), FileRange(11, 1))


@pytest.mark.parametrize(("start", "end"), [(0, 0), (0, 12), (3, 7), (5, 5), (9, 12), (4, 20)])
def test_a_cut_out_of_a_stream_has_the_bytes_between(start: int, end: int) -> None:
    pieces: Stream = (FileRange(10, 4), b"abcd", Zeros(4))
    cut = b"".join(_bytes(piece, DATA) for piece in cut_pieces(pieces, start, end))
    assert cut == (DATA[10:14] + b"abcd" + bytes(4))[start:end]


def test_a_stream_is_a_source_of_its_own() -> None:
    pieces: Stream = (FileRange(10, 4), b"abcd", Zeros(4))
    source = StreamSource(BytesSource(DATA), pieces)
    assert source.size == 12
    assert source.read(2, 8) == DATA[12:14] + b"abcd" + bytes(2)
    with pytest.raises(FormatError, match="cut off: expected 2 bytes at 11, got a file of 12 bytes"):
        source.read(11, 2)
