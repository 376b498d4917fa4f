"""Damaged copies of good bytes, for parsers that may refuse or accept them but raise nothing unforeseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from blindbuild.errors import FormatError


def truncations(data: bytes, *, step: int = 1) -> Iterator[bytes]:
    """Yield every proper prefix, or every `step`th."""
    return (data[:size] for size in range(0, len(data), step))


def bit_flips(data: bytes, *, step: int = 1) -> Iterator[bytes]:
    """Yield a copy for every byte (or every `step`th) with one of its bits flipped, another bit each time."""
    for number, offset in enumerate(range(0, len(data), step)):
        damaged = bytearray(data)
        damaged[offset] ^= 1 << (number % 8)
        yield bytes(damaged)


def assert_all_refused(
    parse: Callable[[bytes], object], damaged: Iterator[bytes], error: type[FormatError]
) -> None:
    """Check that every copy is refused with `error`."""
    for data in damaged:
        with pytest.raises(error):
            parse(data)


def assert_nothing_else_raised(
    parse: Callable[[bytes], object], damaged: Iterator[bytes], error: type[FormatError]
) -> int:
    """Check that every copy is read or refused with `error`; return how many were refused."""
    refused = 0
    for data in damaged:
        try:
            parse(data)
        except error:
            refused += 1
    return refused
