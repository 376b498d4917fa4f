"""Filters of the kind that the image has: two interpreters agree, and every way is one that is taken."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.audit.filter_paths import find_ways
from blindbuild.formats.bpf import ALLOW, ERRNO, SystemCall, parse_filter, run_filter, strictest
from tests.fakes.bpf import evaluate, parse_program
from tests.fakes.guest_filters import made_filters

MAX_LENGTH = 24  # instructions
EDGES = st.sampled_from((0, 1, 2, 3, 4, 6, 41, 0x40000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF))
words = EDGES | st.integers(0, 2**32 - 1)
long_words = st.builds(lambda high, low: high << 32 | low, words, words)
calls = st.builds(
    SystemCall,
    number=words,
    arguments=st.tuples(*[long_words] * 6),
    arch=st.sampled_from((0xC000003E, 0x40000003, 0xC00000B7)) | words,
)


@st.composite
def programs(draw: st.DrawFn) -> bytes:
    """A program of loads, tests and returns whose jumps stay inside it."""
    length = draw(st.integers(0, MAX_LENGTH))
    steps = [(0x20, 0, 0, 0)]
    for left in range(length, 0, -1):
        distance = st.integers(0, left - 1)
        kind = draw(st.sampled_from(("load", "test", "test", "test", "jump", "return")))
        if kind == "load":
            steps.append((0x20, 0, 0, 4 * draw(st.sampled_from((0, 0, 1, 4, 5, 8, 15)))))
        elif kind == "jump":
            steps.append((0x05, 0, 0, draw(distance)))
        elif kind == "return":
            steps.append((0x06, 0, 0, draw(st.sampled_from((ALLOW, ERRNO | 1, 0, 0x80000000)))))
        else:
            code = draw(st.sampled_from((0x15, 0x25, 0x35, 0x45)))
            steps.append((code, draw(distance), draw(distance), draw(EDGES)))
    steps.append((0x06, 0, 0, draw(st.sampled_from((ALLOW, ERRNO | 38)))))
    return b"".join(struct.pack("<HBBI", *step) for step in steps)


@given(data=programs(), call=calls)
def test_a_second_interpreter_answers_the_same(data: bytes, call: SystemCall) -> None:
    ours = run_filter(parse_filter(data), call)
    assert ours == evaluate(parse_program(data), call.number, call.arguments, call.arch)


@given(name=st.sampled_from(sorted(made_filters())), call=calls, number=st.integers(0, 470))
def test_the_image_s_filters_answer_the_same_by_a_second_interpreter(
    name: str, call: SystemCall, number: int
) -> None:
    data = made_filters()[name]
    for tried in (call, SystemCall(number, call.arguments)):
        ours = run_filter(parse_filter(data), tried)
        assert ours == evaluate(parse_program(data), tried.number, tried.arguments, tried.arch)


@settings(max_examples=300)
@given(stack=st.lists(programs(), min_size=1, max_size=3), tried=st.lists(calls, min_size=1, max_size=20))
def test_a_call_is_executed_if_and_only_if_it_is_on_a_way(
    stack: list[bytes], tried: list[SystemCall]
) -> None:
    parsed = [parse_filter(data) for data in stack]
    ways, _ = find_ways(parsed)
    for call in tried:
        answer = strictest([run_filter(program, call) for program in parsed])
        listed = [
            way for way in ways if all(w.admits(v) for w, v in zip(way.words, call.words(), strict=True))
        ]
        assert bool(listed) is (answer == ALLOW)
        assert len(listed) <= 1  # ways part where they differ
