"""Searching for one secret text in everything that a machine left behind, however it was written.

A leak rarely keeps the bytes: logs print hexadecimal, telemetry base64, firmware UTF-16. Each spelling is
searched for by itself, in streams of any size.

Source: RFC 4648, 4 and 5 (base64); RFC 3986, 2.1 (percent-encoding).
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MIN_CANARY = 16  # bytes; shorter ones are found by chance, or lost between two base64 characters
MAX_HITS = 32  # in one artefact; one is too many already
_CHUNK = 8 << 20  # bytes read at once


@dataclass(frozen=True, slots=True)
class Hit:
    """One place where the secret stands: in which artefact, in which spelling, at which byte."""

    artefact: str
    spelling: str
    offset: int

    def __str__(self) -> str:
        """Say it in words."""
        return f"{self.artefact} has the request's text ({self.spelling}) at byte {self.offset}"


@dataclass(frozen=True, slots=True)
class Canary:
    """A text that nobody could guess, and every spelling it is searched in."""

    text: bytes
    spellings: Mapping[str, bytes]

    @classmethod
    def of(cls, text: bytes) -> Canary:
        """Return the canary with this text.

        Raises:
            ValueError: it is too short to be found with certainty.
        """
        if len(text) < MIN_CANARY:
            raise ValueError(f"expected a canary of at least {MIN_CANARY} bytes, got {len(text)}")
        return cls(text, dict(_spell(text)))

    @classmethod
    def fresh(cls) -> Canary:
        """Return a new one: printable, so that any workload takes it."""
        return cls.of(b"canary" + secrets.token_hex(12).encode())


def search_stream(stream: BinaryIO, canary: Canary, *, artefact: str) -> tuple[tuple[Hit, ...], int]:
    """Return where the canary stands in a stream, and how many bytes were looked at."""
    keep = max(map(len, canary.spellings.values())) - 1
    hits: set[tuple[int, str]] = set()
    before, at, size = b"", 0, 0
    while (chunk := stream.read(_CHUNK)) and len(hits) < MAX_HITS:
        window = before + chunk
        for name, pattern in canary.spellings.items():
            hits |= {(at + offset, name) for offset in _find_all(window, pattern)}
        size += len(chunk)
        before = window[-keep:]
        at += len(window) - len(before)
    found = tuple(Hit(artefact, name, offset) for offset, name in sorted(hits)[:MAX_HITS])
    return found, size


def search_files(files: Mapping[str, Path], canary: Canary) -> tuple[tuple[Hit, ...], dict[str, int]]:
    """Search every file, and every file below a directory.

    Returns:
        All places, and how many bytes each artefact had.
    """
    hits: list[Hit] = []
    sizes: dict[str, int] = {}
    for name, path in _all_files(files):
        with path.open("rb") as stream:
            found, sizes[name] = search_stream(stream, canary, artefact=name)
        hits += found
    return tuple(hits), sizes


def _all_files(files: Mapping[str, Path]) -> Iterator[tuple[str, Path]]:
    for name, path in files.items():
        if not path.is_dir():
            yield name, path
            continue
        for inner in sorted(path.rglob("*")):
            if inner.is_file() and not inner.is_symlink():
                yield f"{name}/{inner.relative_to(path)}", inner


def _find_all(data: bytes, pattern: bytes) -> Iterator[int]:
    at = data.find(pattern)
    for _ in range(MAX_HITS):
        if at < 0:
            return
        yield at
        at = data.find(pattern, at + 1)


def _spell(text: bytes) -> Iterable[tuple[str, bytes]]:
    lower = text.hex()
    yield "raw", text
    yield "reversed", text[::-1]
    yield "hexadecimal", lower.encode()
    yield "hexadecimal, upper case", lower.upper().encode()
    yield "hexadecimal with spaces", text.hex(" ").encode()
    yield "hexadecimal with spaces, upper case", text.hex(" ").upper().encode()
    yield "percent-encoded", "".join(f"%{byte:02x}" for byte in text).encode()
    yield "percent-encoded, upper case", "".join(f"%{byte:02X}" for byte in text).encode()
    # each byte as one character, as a program would that takes the text for Latin-1
    yield "UTF-16 little-endian", text.decode("latin-1").encode("utf-16-le")
    yield "UTF-16 big-endian", text.decode("latin-1").encode("utf-16-be")
    for shift in range(3):
        standard = _base64_core(text, shift)
        yield f"base64, shifted by {shift}", standard
        url = standard.translate(bytes.maketrans(b"+/", b"-_"))
        if url != standard:
            yield f"base64url, shifted by {shift}", url


def _base64_core(text: bytes, shift: int) -> bytes:
    """Return the base64 characters that depend on the text alone, if `shift` bytes (modulo 3) precede it."""
    encoded = base64.b64encode(bytes(shift) + text).rstrip(b"=")
    first = -(-8 * shift // 6)  # the first character without a bit of what precedes
    last = 8 * (shift + len(text)) // 6  # characters whose six bits are all there
    return encoded[first:last]
