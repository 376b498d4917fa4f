"""Classic BPF as seccomp takes it: what a program may be, and what it answers to a system call.

The rules are those of the kernel, no stricter: a program that reads here is one that a kernel installs.

Source: Linux 6.12, net/core/filter.c (bpf_check_classic, check_load_and_stores, bpf_convert_filter) and
kernel/seccomp.c (seccomp_check_filter); linux/filter.h, linux/bpf_common.h, linux/seccomp.h.
"""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from blindbuild.errors import FormatError

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
SCRATCH_WORDS = 16  # BPF_MEMWORDS
DATA_WORDS = 16  # struct seccomp_data: number, architecture, instruction pointer, six arguments

ARCH_X86_64, ARCH_I386 = 0xC000003E, 0x40000003  # linux/audit.h
X32_BIT = 0x40000000  # __X32_SYSCALL_BIT

KILL_PROCESS, KILL_THREAD, TRAP, ERRNO = 0x80000000, 0, 0x00030000, 0x00050000
USER_NOTIFICATION, TRACE, LOG, ALLOW = 0x7FC00000, 0x7FF00000, 0x7FFC0000, 0x7FFF0000
ACTION_MASK = 0xFFFF0000  # SECCOMP_RET_ACTION_FULL; the rest is data

LOAD_WORD, LOAD_LENGTH, LOAD_CONSTANT, LOAD_SCRATCH = 0x20, 0x80, 0x00, 0x60
LOAD_X_LENGTH, LOAD_X_CONSTANT, LOAD_X_SCRATCH = 0x81, 0x01, 0x61
STORE, STORE_X, TO_X, FROM_X, NEGATE = 0x02, 0x03, 0x07, 0x87, 0x84
RETURN, RETURN_ACCUMULATOR, JUMP = 0x06, 0x16, 0x05
BY_X = 0x08  # BPF_X: the operand is the index register, not the constant

_FORM = struct.Struct("<HBBI")
_WORD = 0xFFFFFFFF
_DATA_BYTES = 4 * DATA_WORDS
_DIVIDE, _SHIFT_LEFT, _SHIFT_RIGHT = 0x34, 0x64, 0x74
# The shift takes five bits of its operand, as eBPF does, which the kernel translates to.
_ARITHMETIC: Mapping[int, Callable[[int, int], int]] = {
    0x04: operator.add,
    0x14: operator.sub,
    0x24: operator.mul,
    _DIVIDE: operator.floordiv,
    0x44: operator.or_,
    0x54: operator.and_,
    _SHIFT_LEFT: lambda a, b: a << (b & 31),
    _SHIFT_RIGHT: lambda a, b: a >> (b & 31),
    0xA4: operator.xor,
}
TESTS: Mapping[int, Callable[[int, int], bool]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: lambda a, b: a & b != 0,
}
_JUMPS = frozenset({*TESTS, *(code | BY_X for code in TESTS)})
_USES_SCRATCH = frozenset({LOAD_SCRATCH, LOAD_X_SCRATCH, STORE, STORE_X})
_CODES = (
    frozenset({LOAD_WORD, LOAD_LENGTH, LOAD_CONSTANT, LOAD_X_LENGTH, LOAD_X_CONSTANT, TO_X, FROM_X, NEGATE})
    | frozenset({RETURN, RETURN_ACCUMULATOR, JUMP})
    | frozenset({*_ARITHMETIC, *(code | BY_X for code in _ARITHMETIC)})
    | _JUMPS
    | _USES_SCRATCH
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One struct sock_filter: operation, distances of a conditional jump, and constant."""

    code: int
    if_true: int
    if_false: int
    value: int


@dataclass(frozen=True, slots=True)
class SystemCall:
    """What a filter is shown of a system call."""

    number: int
    arguments: tuple[int, ...] = ()
    arch: int = ARCH_X86_64
    instruction_pointer: int = 0

    def words(self) -> tuple[int, ...]:
        """Return struct seccomp_data as 16 words; the low half of each 64-bit field is first."""
        padded = (*self.arguments, 0, 0, 0, 0, 0, 0)[:6]
        long = struct.pack("<7Q", self.instruction_pointer, *padded)
        return (self.number, self.arch, *struct.unpack("<14I", long))


def parse_filter(data: bytes) -> tuple[Instruction, ...]:
    """Return the instructions of an array of struct sock_filter that the kernel would install.

    Raises:
        FormatError: not whole instructions, too many or none, an operation that seccomp has not, a jump or a
            load out of range, an end that is no return, or scratch memory read before it was written.

    Source: kernel/seccomp.c, seccomp_prepare_filter.
    """
    if not data or len(data) % _FORM.size or len(data) > MAX_INSTRUCTIONS * _FORM.size:
        raise FormatError(
            f"filter: expected 1 to {MAX_INSTRUCTIONS} instructions of 8 bytes, got {len(data)} bytes"
        )
    program = tuple(Instruction(*fields) for fields in _FORM.iter_unpack(data))
    for at, step in enumerate(program):
        if wrong := _find_fault(step, left=len(program) - at - 1):
            raise FormatError(f"filter: instruction {at}: {wrong}")
    if program[-1].code not in (RETURN, RETURN_ACCUMULATOR):
        raise FormatError("filter: expected a return at its end")
    _check_scratch(program)
    return program


def run_filter(program: Sequence[Instruction], call: SystemCall) -> int:
    """Return the answer of one filter from `parse_filter`: action and data.

    Source: net/core/filter.c, bpf_convert_filter.
    """
    return _Machine(call.words()).run(program)


def strictest(answers: Sequence[int]) -> int:
    """Return the answer that wins among those of all filters of a process; ALLOW where there is none.

    Source: kernel/seccomp.c, seccomp_run_filters: the least action as a signed number.
    """
    return min(answers, key=severity, default=ALLOW)


def severity(answer: int) -> int:
    """Return the action of an answer as the kernel orders them: the least is the strictest."""
    action = answer & ACTION_MASK
    return action - (1 << 32) if action & KILL_PROCESS else action


def _find_fault(step: Instruction, *, left: int) -> str:
    """Return what is wrong with an instruction that has `left` others after it, or ""."""
    if step.code not in _CODES:
        return f"operation {step.code:#06x} is none of seccomp's"
    if step.code == LOAD_WORD and (step.value >= _DATA_BYTES or step.value % 4):
        return f"expected to load a word of 64 bytes, got offset {step.value}"
    if step.code == JUMP and step.value >= left:
        return "jumps behind the end"
    if step.code in _JUMPS and max(step.if_true, step.if_false) >= left:
        return "jumps behind the end"
    if step.code in _USES_SCRATCH and step.value >= SCRATCH_WORDS:
        return f"expected one of {SCRATCH_WORDS} words of scratch memory, got {step.value}"
    if step.code == _DIVIDE and step.value == 0:
        return "divides by zero"
    if step.code in (_SHIFT_LEFT, _SHIFT_RIGHT) and step.value >= 32:
        return f"expected to shift by less than 32, got {step.value}"
    return ""


def _check_scratch(program: Sequence[Instruction]) -> None:
    """Check that no word of scratch memory is read that some way to that place has not written."""
    everything = (1 << SCRATCH_WORDS) - 1
    arriving = [everything] * (len(program) + 1)
    written = 0
    for at, step in enumerate(program):
        written &= arriving[at]
        if step.code in (STORE, STORE_X):
            written |= 1 << step.value
        elif step.code in (LOAD_SCRATCH, LOAD_X_SCRATCH) and not written >> step.value & 1:
            raise FormatError(f"filter: instruction {at}: reads scratch memory that nothing was written to")
        elif targets := tuple(_targets(step)):
            for target in targets:
                arriving[at + 1 + target] &= written
            written = everything


def _targets(step: Instruction) -> Iterator[int]:
    """Yield how far an instruction may jump."""
    if step.code == JUMP:
        yield step.value
    elif step.code in _JUMPS:
        yield from (step.if_true, step.if_false)


class _Machine:
    """Registers and scratch memory of one run; a program only jumps forward, so that every run ends."""

    def __init__(self, words: Sequence[int]) -> None:
        self._words = words
        self._scratch = [0] * SCRATCH_WORDS
        self._accumulator = self._index = 0

    def run(self, program: Sequence[Instruction]) -> int:
        at = 0
        while True:
            step = program[at]
            at += 1
            if step.code in (RETURN, RETURN_ACCUMULATOR):
                return step.value if step.code == RETURN else self._accumulator
            if step.code == JUMP:
                at += step.value
            elif step.code in _JUMPS:
                holds = TESTS[step.code & ~BY_X](self._accumulator, self._operand(step))
                at += step.if_true if holds else step.if_false
            elif step.code & ~BY_X == _DIVIDE and self._operand(step) == 0:
                return KILL_THREAD
            else:
                self._compute(step)

    def _operand(self, step: Instruction) -> int:
        return self._index if step.code & BY_X else step.value

    def _compute(self, step: Instruction) -> None:
        code = step.code
        if code in (STORE, STORE_X):
            self._scratch[step.value] = self._accumulator if code == STORE else self._index
        elif code in (TO_X, LOAD_X_LENGTH, LOAD_X_CONSTANT, LOAD_X_SCRATCH):
            self._index = self._load(step)
        else:
            self._accumulator = self._load(step) & _WORD

    def _load(self, step: Instruction) -> int:
        code = step.code
        if code == LOAD_WORD:
            return self._words[step.value // 4]
        if code in (LOAD_LENGTH, LOAD_X_LENGTH):
            return _DATA_BYTES
        if code in (LOAD_SCRATCH, LOAD_X_SCRATCH):
            return self._scratch[step.value]
        if code in (LOAD_CONSTANT, LOAD_X_CONSTANT):
            return step.value
        if code in (TO_X, FROM_X):
            return self._accumulator if code == TO_X else self._index
        if code == NEGATE:
            return -self._accumulator
        return _ARITHMETIC[code & ~BY_X](self._accumulator, self._operand(step))
