"""System call filters that let more through than the image's, each by one change."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from tests.fakes.bpf import ALLOW, Instruction, parse_program
from tests.fakes.guest_filters import ALLOW_ALL, made_filters

PATHS = {name: f"filters/{name}" for name in made_filters() if name != "gate"} | {"gate": "gate/filter"}
STACKS = {
    "init": ("socket-rule", "init"),
    "gate": ("socket-rule", "child", "gate"),
    "launcher": ("socket-rule", "child", "launcher"),
    "workload": ("socket-rule", "child", "launcher", "workload"),
    "dhcp": ("dhcp",),
}
LOAD, TEST, RETURN, AT_LEAST = 0x20, 0x15, 0x06, 0x35
PREAMBLE = 6  # instructions: other architectures, then x32
X32 = 0x40000000

Filters = Mapping[str, bytes]


def assemble(steps: Sequence[Instruction]) -> bytes:
    """Return the array of struct sock_filter."""
    return b"".join(struct.pack("<HBBI", s.code, s.if_true, s.if_false, s.value) for s in steps)


def without_any(*names: str) -> Filters:
    """Filters of which some allow everything at once."""
    return {**made_filters(), **dict.fromkeys(names, ALLOW_ALL)}


def allowing(call: int, *names: str) -> Filters:
    """Filters of which some allow one call before any other rule."""
    rule = [Instruction(LOAD, 0, 0, 0), Instruction(TEST, 0, 1, call), Instruction(RETURN, 0, 0, ALLOW)]
    load = [Instruction(LOAD, 0, 0, 0)]  # what follows expects the number to be there
    changed = {}
    for name in names:
        steps = list(parse_program(made_filters()[name]))
        changed[name] = assemble([*steps[:PREAMBLE], *rule, *load, *steps[PREAMBLE:]])
    return {**made_filters(), **changed}


def without_architecture(*names: str) -> Filters:
    """Filters of which some take the numbers of any architecture."""
    return _rewritten(names, lambda at, s: Instruction(TEST, 1, 1, s.value) if at == 1 else s)


def without_x32(*names: str) -> Filters:
    """Filters of which some compare no number with the x32 bit, or with the last that is known."""

    def open_(at: int, step: Instruction) -> Instruction:
        bound = step.code in (AT_LEAST, 0x25) and at < PREAMBLE + 1
        return Instruction(step.code, 1, 1, step.value) if bound else step

    return _rewritten(names, open_)


def with_executable_memory() -> Filters:
    """A gate whose filter compares PROT_EXEC with nothing."""
    protection = 16 + 8 * 2  # offset of the third argument
    steps = list(parse_program(made_filters()["gate"]))
    at = next(n for n, step in enumerate(steps) if step.code == LOAD and step.value == protection)
    steps[at + 1] = Instruction(0x45, 0, steps[at + 1].if_false, 0)  # has any bit of none
    return {**made_filters(), "gate": assemble(steps)}


def damaged(name: str, bit: int) -> Filters:
    """Filters with one bit of one of them flipped."""
    data = bytearray(made_filters()[name])
    data[bit // 8] ^= 1 << bit % 8
    return {**made_filters(), name: bytes(data)}


def _rewritten(names: Sequence[str], change) -> Filters:
    changed = {
        name: assemble([change(at, step) for at, step in enumerate(parse_program(made_filters()[name]))])
        for name in names
    }
    return {**made_filters(), **changed}
