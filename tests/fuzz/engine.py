"""A mutation fuzzer: takes inputs that are known, changes them, and keeps those that lead somewhere new.

Where an input leads is told by the lines through which the target's error came, or that it took the input.
That is coarse next to coverage, but needs no instrumentation and finds the same on every machine
for one seed. `python -m tests.fuzz --engine atheris` is the one with coverage, for hours by hand.
"""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from blindbuild.errors import BlindbuildError
from tests.fuzz.json_mutations import mutate_json
from tests.fuzz.targets import Target

CORPUS = Path(__file__).parent / "corpus"
MAX_POOL = 512  # inputs that are mutated further; the newest are kept
MIN_MUTATIONS = 8  # of a slow target, however short the time
MAX_INPUT = 1 << 22  # bytes; what the seeds need
_INTERESTING = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_FRAMES = 3  # of an error's way up: readers raise in one place for many callers
_SHRINK_ROUNDS = 200


@dataclass
class Found:
    """What a run found: how many inputs, how many ways, what led to new ones, and what broke the target."""

    runs: int = 0
    ways: set[str] = field(default_factory=set)
    new: list[bytes] = field(default_factory=list)
    crashes: list[tuple[bytes, BaseException]] = field(default_factory=list)


def corpus(target: Target) -> list[bytes]:
    """Return the seeds and the kept inputs of a target."""
    place = CORPUS / target.name
    kept = [path.read_bytes() for path in sorted(place.iterdir())] if place.is_dir() else []
    return target.seeds() + kept


def outcome(target: Target, data: bytes) -> tuple[str, BaseException | None]:
    """Return where the input leads, and the exception if it is none of ours."""
    try:
        target.run(data)
    except BlindbuildError as error:
        return _place(error), None
    except Exception as error:
        return f"{type(error).__name__} {_place(error)}", error
    return "taken", None


def _place(error: BaseException) -> str:
    while isinstance(error.__cause__, BlindbuildError):  # where it was found, not where it was wrapped
        error = error.__cause__
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    return " ".join(f"{frame.name}:{frame.lineno}" for frame in frames)


def fuzz(
    target: Target, *, seconds: float, seed: int = 0, clock: Callable[[], float] = time.monotonic
) -> Found:
    """Run the corpus once, then mutations of it until the time is over."""
    generator = random.Random(f"{target.name} {seed}")
    found = Found()
    pool: list[bytes] = []
    end = clock() + seconds
    for data in corpus(target):
        _try(target, data, found)
        pool.append(data)
    least = found.runs + MIN_MUTATIONS
    while clock() < end or found.runs < least:
        data = mutate(generator.choice(pool), pool, generator)
        if _try(target, data, found):
            found.new.append(data)
            pool = [*pool, data][-MAX_POOL:]
    return found


def _try(target: Target, data: bytes, found: Found) -> bool:
    """Run one input; return whether it led somewhere new."""
    found.runs += 1
    way, error = outcome(target, data)
    if way in found.ways:
        return False
    found.ways.add(way)
    if error is not None:
        found.crashes.append((shrink(target, data, way), error))
    return error is None


def mutate(data: bytes, pool: list[bytes], generator: random.Random) -> bytes:
    """Return a changed copy: JSON that is still JSON half of the time."""
    if generator.random() < 0.5 and (written := mutate_json(data, generator)) is not None:
        return written[:MAX_INPUT]
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        generator.choice(_MUTATIONS)(changed, pool, generator)
    return bytes(changed[:MAX_INPUT])


def _flip(data: bytearray, _pool: list[bytes], generator: random.Random) -> None:
    if data:
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)


def _set_number(data: bytearray, _pool: list[bytes], generator: random.Random) -> None:
    size = generator.choice((1, 2, 4, 8))
    if len(data) >= size:
        at = generator.randrange(len(data) - size + 1)
        number = generator.choice((*_INTERESTING, len(data), generator.randrange(1 << 16))) % (1 << 8 * size)
        data[at : at + size] = number.to_bytes(size, generator.choice(("little", "big")))


def _cut(data: bytearray, _pool: list[bytes], generator: random.Random) -> None:
    at = generator.randrange(len(data) + 1)
    del data[at : at + generator.choice((1, 2, 4, 16, len(data)))]


def _repeat(data: bytearray, _pool: list[bytes], generator: random.Random) -> None:
    at = generator.randrange(len(data) + 1)
    data[at:at] = data[at : at + generator.choice((1, 4, 32, 256))] * generator.choice((1, 2, 8))


def _insert(data: bytearray, _pool: list[bytes], generator: random.Random) -> None:
    at = generator.randrange(len(data) + 1)
    data[at:at] = generator.choice(
        (b"\0", b"\xff", b'"', b"[", b"{", b"\xed\xa0\x80", generator.randbytes(4))
    )


def _splice(data: bytearray, pool: list[bytes], generator: random.Random) -> None:
    other = generator.choice(pool)
    start = generator.randrange(len(other) + 1)
    part = other[start : start + generator.choice((4, 16, 64, 512))]
    at = generator.randrange(len(data) + 1)
    data[at : at + generator.choice((0, len(part)))] = part


_MUTATIONS = (_flip, _flip, _set_number, _set_number, _cut, _repeat, _insert, _splice)


def shrink(target: Target, data: bytes, way: str) -> bytes:
    """Return a shorter input that breaks the target in the same way, as far as leaving parts out can."""
    size = max(1, len(data) // 2)
    for _ in range(_SHRINK_ROUNDS):
        for start in range(0, len(data), size):
            shorter = data[:start] + data[start + size :]
            if outcome(target, shorter)[0] == way:
                data = shorter
                break
        else:
            if size == 1:
                break
            size //= 2
    return data


def keep(target: Target, data: bytes, *, kind: str) -> Path:
    """Write an input into the corpus, so that every later run tries it."""
    path = CORPUS / target.name / f"{kind}-{sha256(data).hexdigest()[:16]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
