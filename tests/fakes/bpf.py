"""Evaluate classic BPF as the kernel does for seccomp; a second implementation, for tests only.

Source: linux/bpf_common.h, linux/filter.h, linux/seccomp.h; seccomp(2) for the layout of struct seccomp_data.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

ARCH_X86_64, ARCH_I386 = 0xC000003E, 0x40000003
KILL, ERRNO, ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
EPERM, ENOSYS = 1, 38


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct sock_filter."""

    code: int
    if_true: int
    if_false: int
    value: int


def parse_program(data: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of an array of struct sock_filter."""
    return tuple(Instruction(*fields) for fields in struct.iter_unpack("<HBBI", data))


def evaluate(
    program: Sequence[Instruction], number: int, arguments: Sequence[int] = (), arch: int = ARCH_X86_64
) -> int:
    """Return what a filter answers to one system call; raises for an instruction it should not have."""
    padded = [argument & (2**64 - 1) for argument in arguments] + [0] * (6 - len(arguments))
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    accumulator, at = 0, 0
    while True:
        step = program[at]
        at += 1
        if step.code == 0x20:  # BPF_LD | BPF_W | BPF_ABS
            accumulator = struct.unpack_from("<I", data, step.value)[0]
        elif step.code == 0x06:  # BPF_RET | BPF_K
            return step.value
        elif step.code == 0x05:  # BPF_JMP | BPF_JA
            at += step.value
        elif step.code in _JUMPS:
            at += step.if_true if _JUMPS[step.code](accumulator, step.value) else step.if_false
        else:
            raise ValueError(f"unexpected instruction {step}")


_JUMPS = {
    0x15: lambda a, k: a == k,  # BPF_JEQ
    0x25: lambda a, k: a > k,  # BPF_JGT
    0x35: lambda a, k: a >= k,  # BPF_JGE
    0x45: lambda a, k: a & k != 0,  # BPF_JSET
}
