"""Random access to the bytes of a file that need not be in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from blindbuild.errors import FormatError

CHUNK_BYTES = 1 << 20  # bounds memory; much longer than what a read or an update costs on top


class Source(Protocol):
    """A file, or something like one, whose bytes do not change while it is read."""

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on.

        Raises:
            BlindbuildError: they are not all there, or cannot be read.
        """
        ...


class BytesSource:
    """Bytes that are in memory already."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self._data)

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes from `offset` on; FormatError if they are not all there."""
        check_range(self, offset, size)
        return self._data[offset : offset + size]


def as_source(data: bytes | Source) -> Source:
    """Return what reads `data`, which may be a source already."""
    return BytesSource(data) if isinstance(data, bytes) else data


def check_range(source: Source, offset: int, size: int) -> None:
    """Refuse a range that is not inside the source.

    Raises:
        FormatError: it starts or ends outside.
    """
    if offset < 0 or size < 0 or offset + size > source.size:
        raise FormatError(f"cut off: expected {size} bytes at {offset}, got a file of {source.size} bytes")


def read_chunks(source: Source, offset: int, size: int) -> Iterator[bytes]:
    """Yield `size` bytes from `offset` on in pieces that do not fill the memory.

    Raises:
        FormatError: they are not all there.
    """
    check_range(source, offset, size)
    for start in range(offset, offset + size, CHUNK_BYTES):
        yield source.read(start, min(CHUNK_BYTES, offset + size - start))
