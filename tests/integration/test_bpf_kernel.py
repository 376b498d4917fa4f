"""Classic BPF against the kernel of this machine: what it installs, and what it answers to real calls."""

from __future__ import annotations

import ctypes
import os
import random
import struct
from collections.abc import Callable

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.bpf import ERRNO, SystemCall, parse_filter, run_filter
from tests.fakes.guest_filters import made_filters

SECCOMP, NO_NEW_PRIVS = 317, 38
UNUSED = 1000  # the number of no call: what is tried has no effect
MAX_ERRNO = 4095  # the kernel cuts the data of an answer down to it
PROGRAMS, CALLS = 60, 8
EDGES = (0, 1, 2, 7, 31, 32, 63, 255, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
# All bits of the accumulator have a part in the errno: Knuth's multiplier, then the highest 11 bits.
TO_ERRNO = ((0x24, 0, 0, 0x9E3779B1), (0x74, 0, 0, 21), (0x44, 0, 0, ERRNO), (0x16, 0, 0, 0))

Step = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def in_child(action: Callable[[int], None]) -> bytes:
    """Return what a child writes into a pipe before it ends or is ended."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            action(writing)
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def install(data: bytes) -> bool:
    """Install a program for this process."""
    library = ctypes.CDLL(None, use_errno=True)
    library.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    program = _Program(len(data) // 8, data)
    return library.syscall(SECCOMP, 1, 0, ctypes.byref(program)) == 0


def kernel_takes(data: bytes) -> bool:
    """Say whether the kernel installs a program; what is installed may end the child at once."""

    def try_it(writing: int) -> None:
        if not install(data):
            os.write(writing, b"refused")

    return in_child(try_it) != b"refused"


def errnos(data: bytes, calls: list[tuple[int, ...]]) -> list[int]:
    """Return the kernel's errno for calls of number UNUSED with these arguments."""

    def try_them(writing: int) -> None:
        assert install(data)
        library = ctypes.CDLL(None, use_errno=True)
        found = []
        for arguments in calls:
            ctypes.set_errno(0)
            library.syscall(ctypes.c_long(UNUSED), *map(ctypes.c_ulong, arguments))
            found.append(ctypes.get_errno())
        os.write(writing, struct.pack(f"<{len(found)}I", *found))

    return list(struct.unpack(f"<{len(calls)}I", in_child(try_them)))


def assemble(steps: list[Step]) -> bytes:
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def random_steps(chance: random.Random) -> list[Step]:
    """Return a body of any operations; many bodies break a rule."""
    steps: list[Step] = [(0x20, 0, 0, 16), (0x07, 0, 0, 0), (0x20, 0, 0, 28)]  # two arguments to begin with
    for left in range(chance.randrange(1, 14), 0, -1):
        constant = chance.choice(EDGES) if chance.random() < 0.8 else chance.getrandbits(32)
        kind = chance.randrange(5)
        if kind == 0:
            steps.append((0x20, 0, 0, 4 * chance.randrange(4, 16)))
        elif kind == 1:
            code = chance.choice((0x04, 0x14, 0x24, 0x34, 0x44, 0x54, 0x64, 0x74, 0xA4))
            by_index = chance.random() < 0.4
            small = constant % 33 if code in (0x64, 0x74) else constant
            steps.append((code | 8 if by_index else code, 0, 0, small))
        elif kind == 2:
            codes = (0x02, 0x03, 0x60, 0x61, 0x07, 0x87, 0x84, 0x00, 0x01, 0x80, 0x81)
            code = chance.choice(codes)
            steps.append((code, 0, 0, constant % 17 if code in (0x02, 0x03, 0x60, 0x61) else constant))
        elif kind == 3:
            code = chance.choice((0x15, 0x25, 0x35, 0x45, 0x1D, 0x2D, 0x3D, 0x4D))
            steps.append((code, chance.randrange(left + 2), chance.randrange(left + 2), constant))
        else:
            steps.append((0x05, 0, 0, chance.randrange(left + 1)))
    return steps


def only_for_unused(body: list[Step]) -> bytes:
    """Return a program that answers number UNUSED with an errno made by the body, and allows the rest."""
    head = [(0x20, 0, 0, 0), (0x15, 1, 0, UNUSED), (0x06, 0, 0, 0x7FFF0000), (0x00, 0, 0, 0)]
    return assemble([*head, *body, *TO_ERRNO])


@pytest.fixture(scope="module", autouse=True)
def _need_a_kernel() -> None:
    if not kernel_takes(assemble([(0x06, 0, 0, 0x7FFF0000)])):
        pytest.skip("this kernel installs no filters")


def ours_takes(data: bytes) -> bool:
    try:
        parse_filter(data)
    except FormatError:
        return False
    return True


def test_the_kernel_and_we_take_the_same_programs() -> None:
    chance = random.Random(1)
    seen = set()
    for _ in range(4 * PROGRAMS):
        data = only_for_unused(random_steps(chance))
        seen.add(ours_takes(data))
        assert kernel_takes(data) is ours_takes(data), data.hex()
    assert seen == {True, False}


def test_every_operation_is_taken_by_both_or_by_none() -> None:
    """All codes of one byte, and some of two, at a place where their operands are right."""
    taken = set()
    for code in (*range(256), 0x100, 0x106, 0x8006, 0xFF06):
        steps = [(0x02, 0, 0, 4), (code, 0, 0, 4), *[(0x06, 0, 0, 0x7FFF0000)] * 8]
        data = assemble(steps)
        assert kernel_takes(data) is ours_takes(data), hex(code)
        if ours_takes(data):
            taken.add(code)
    assert len(taken) == 41


def test_a_damaged_filter_of_the_image_is_taken_by_both_or_by_none() -> None:
    chance = random.Random(2)
    seen = set()
    for name, data in made_filters().items():
        assert kernel_takes(data), name
        for _ in range(PROGRAMS // 5):
            damaged = bytearray(data)
            damaged[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            seen.add(ours_takes(bytes(damaged)))
            assert kernel_takes(bytes(damaged)) is ours_takes(bytes(damaged)), bytes(damaged).hex()
    assert seen == {True, False}


def test_the_kernel_s_answers_are_the_ones_that_are_computed_here() -> None:
    chance = random.Random(3)
    answered, distinct = 0, set()
    while answered < PROGRAMS:
        data = only_for_unused(random_steps(chance))
        calls = [
            tuple(chance.choice(EDGES) << 32 | chance.choice(EDGES) for _ in range(6)) for _ in range(CALLS)
        ]
        if not ours_takes(data):
            continue
        program = parse_filter(data)
        ours = [run_filter(program, SystemCall(UNUSED, arguments)) for arguments in calls]
        if any(answer >> 16 != ERRNO >> 16 for answer in ours):
            continue  # a division by zero: the kernel kills
        answered += 1
        distinct.update(ours)
        assert errnos(data, calls) == [min(answer & 0xFFFF, MAX_ERRNO) for answer in ours], data.hex()
    assert len(distinct) > 40


def test_a_division_by_zero_ends_the_process() -> None:
    body = [(0x00, 0, 0, 5), (0x01, 0, 0, 0), (0x3C, 0, 0, 0)]
    data = only_for_unused(body)
    assert run_filter(parse_filter(data), SystemCall(UNUSED)) == 0  # SECCOMP_RET_KILL_THREAD
    with pytest.raises(struct.error):
        errnos(data, [(0,)])
