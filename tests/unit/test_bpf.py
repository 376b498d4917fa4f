"""Classic BPF for seccomp: what is a program, and what it answers; tests/integration asks a kernel."""

from __future__ import annotations

import struct

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.bpf import (
    ALLOW,
    ARCH_I386,
    ERRNO,
    KILL_PROCESS,
    KILL_THREAD,
    LOG,
    TRACE,
    TRAP,
    USER_NOTIFICATION,
    SystemCall,
    parse_filter,
    run_filter,
    severity,
    strictest,
)
from tests.fakes.damage import bit_flips, truncations
from tests.fakes.guest_filters import made_filters

RETURN = (0x06, 0, 0, ALLOW)
Steps = tuple[tuple[int, int, int, int], ...]


def program(*steps: tuple[int, int, int, int]) -> bytes:
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


def answer(*steps: tuple[int, int, int, int], call: SystemCall | None = None) -> int:
    return run_filter(parse_filter(program(*steps)), call or SystemCall(7, (1, 2, 3, 4, 5, 6)))


@pytest.mark.parametrize("name", made_filters())
def test_the_filters_of_the_image_are_programs(name: str) -> None:
    data = made_filters()[name]
    steps = parse_filter(data)
    assert program(*((s.code, s.if_true, s.if_false, s.value) for s in steps)) == data


REFUSED = {
    "nothing": (b"", "expected 1 to 4096 instructions of 8 bytes, got 0 bytes"),
    "half an instruction": (program(RETURN)[:4], "got 4 bytes"),
    "a byte too many": (program(RETURN) + b"\0", "got 9 bytes"),
    "more than the kernel takes": (program(RETURN) * 4097, "got 32776 bytes"),
    "no return at the end": (program(RETURN, (0x00, 0, 0, 0)), "expected a return at its end"),
    "a jump to its own end": (program((0x05, 0, 0, 1), RETURN), "instruction 0: jumps behind the end"),
    "a jump far behind the end": (program((0x05, 0, 0, 0xFFFFFFFF), RETURN), "jumps behind the end"),
    "a test that jumps out if true": (program((0x15, 1, 0, 0), RETURN), "jumps behind the end"),
    "a test that jumps out if false": (program((0x15, 0, 1, 0), RETURN), "jumps behind the end"),
    "a test as its end": (program(RETURN, (0x15, 0, 0, 0)), "instruction 1: jumps behind the end"),
    "a word behind the data": (program((0x20, 0, 0, 64), RETURN), "a word of 64 bytes, got offset 64"),
    "a word between words": (program((0x20, 0, 0, 2), RETURN), "got offset 2"),
    "a half word": (program((0x28, 0, 0, 0), RETURN), "operation 0x0028 is none of seccomp's"),
    "a packet's word by index": (program((0x40, 0, 0, 0), RETURN), "operation 0x0040 is none of"),
    "a remainder": (program((0x94, 0, 0, 3), RETURN), "operation 0x0094 is none of"),
    "an operation of high bits": (program((0x106, 0, 0, 0), RETURN), "operation 0x0106 is none of"),
    "return of the index": (program((0x0E, 0, 0, 0), RETURN), "operation 0x000e is none of"),
    "scratch word 16": (program((0x02, 0, 0, 16), RETURN), "one of 16 words of scratch memory, got 16"),
    "a division by zero": (program((0x34, 0, 0, 0), RETURN), "divides by zero"),
    "a shift by 32": (program((0x64, 0, 0, 32), RETURN), "expected to shift by less than 32, got 32"),
    "scratch memory that nobody wrote": (
        program((0x60, 0, 0, 3), RETURN),
        "instruction 0: reads scratch memory that nothing was written to",
    ),
    "scratch memory that one way did not write": (
        program((0x15, 0, 1, 7), (0x02, 0, 0, 3), (0x60, 0, 0, 3), RETURN),
        "instruction 2: reads scratch memory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_no_kernel_installs_is_refused(what: str) -> None:
    data, message = REFUSED[what]
    with pytest.raises(FormatError) as caught:
        parse_filter(data)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (((0x20, 0, 0, 0), (0x16, 0, 0, 0)), 7),  # the number
        (((0x20, 0, 0, 4), (0x16, 0, 0, 0)), 0xC000003E),
        (((0x20, 0, 0, 32), (0x16, 0, 0, 0)), 3),  # the third argument's low half
        (((0x20, 0, 0, 36), (0x16, 0, 0, 0)), 0),
        (((0x80, 0, 0, 9), (0x16, 0, 0, 0)), 64),  # sizeof(struct seccomp_data)
        (((0x81, 0, 0, 9), (0x87, 0, 0, 0), (0x16, 0, 0, 0)), 64),
        (((0x00, 0, 0, 5), (0x14, 0, 0, 7), (0x16, 0, 0, 0)), 0xFFFFFFFE),
        (((0x00, 0, 0, 1), (0x84, 0, 0, 0), (0x16, 0, 0, 0)), 0xFFFFFFFF),
        (((0x00, 0, 0, 0x80000000), (0x24, 0, 0, 2), (0x16, 0, 0, 0)), 0),
        (((0x00, 0, 0, 7), (0x34, 0, 0, 2), (0x16, 0, 0, 0)), 3),
        (((0x00, 0, 0, 7), (0x01, 0, 0, 0), (0x3C, 0, 0, 0), (0x06, 0, 0, ALLOW)), KILL_THREAD),
        (((0x00, 0, 0, 1), (0x01, 0, 0, 33), (0x6C, 0, 0, 0), (0x16, 0, 0, 0)), 2),  # by 33 & 31
        (((0x00, 0, 0, 9), (0x02, 0, 0, 15), (0x61, 0, 0, 15), (0x0C, 0, 0, 0), (0x16, 0, 0, 0)), 18),
        (((0x01, 0, 0, 4), (0x03, 0, 0, 0), (0x60, 0, 0, 0), (0x16, 0, 0, 0)), 4),
        (((0x00, 0, 0, 3), (0x07, 0, 0, 0), (0x1D, 1, 0, 0), RETURN, (0x06, 0, 0, 1)), 1),  # A == X
        (((0x20, 0, 0, 0), (0x45, 0, 1, 4), (0x06, 0, 0, 1), (0x06, 0, 0, 2)), 1),  # 7 & 4
        (((0x20, 0, 0, 0), (0x25, 0, 1, 7), (0x06, 0, 0, 1), (0x06, 0, 0, 2)), 2),  # 7 > 7
        (((0x20, 0, 0, 0), (0x35, 0, 1, 7), (0x06, 0, 0, 1), (0x06, 0, 0, 2)), 1),  # 7 >= 7
        (((0x00, 0, 0, 0xFFFFFFFF), (0x25, 0, 1, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)), 1),  # no sign
        (((0x05, 0, 0, 1), (0x06, 0, 0, 1), (0x06, 0, 0, 2)), 2),
    ],
)  # fmt: skip
def test_each_operation_does_what_the_kernel_s_does(steps: Steps, expected: int) -> None:
    assert answer(*steps) == expected


def test_all_of_a_call_is_shown_to_the_filter() -> None:
    call = SystemCall(1, (2 << 32 | 3, 2**64 - 1), arch=ARCH_I386, instruction_pointer=5 << 32 | 4)
    words = (1, ARCH_I386, 4, 5, 3, 2, 0xFFFFFFFF, 0xFFFFFFFF, *[0] * 8)
    assert call.words() == words
    for index, word in enumerate(words):
        assert answer((0x20, 0, 0, 4 * index), (0x16, 0, 0, 0), call=call) == word


def test_the_strictest_answer_wins_whatever_its_data() -> None:
    order = [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIFICATION, TRACE, LOG, ALLOW]
    assert sorted(order, key=severity) == order  # seccomp(2), "SECCOMP_RET_..."
    assert strictest([ALLOW, ERRNO | 1, LOG]) == ERRNO | 1
    assert strictest([ERRNO | 38, TRAP | 0xFFFF, ALLOW]) == TRAP | 0xFFFF
    assert strictest([0x80010000, 0]) == 0x80010000
    assert strictest([]) == ALLOW


def test_a_filter_cut_short_is_refused_and_a_changed_one_raises_nothing_else() -> None:
    data = made_filters()["child"]
    for cut in truncations(data):
        if len(cut) % 8 or not cut or cut[-8:-6] != b"\x06\0":
            with pytest.raises(FormatError):
                parse_filter(cut)
    refused = 0
    for flipped in bit_flips(data):
        try:
            run_filter(parse_filter(flipped), SystemCall(169))
        except FormatError:
            refused += 1
    assert refused > 12
