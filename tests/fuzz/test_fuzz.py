"""Every parser, fuzzed for a little while: only our errors come out. Hours are for `python -m tests.fuzz`."""

from __future__ import annotations

import json
import os
import random

import pytest

from blindbuild.errors import FormatError
from tests.fuzz.engine import CORPUS, corpus, fuzz, mutate, outcome, shrink
from tests.fuzz.json_mutations import mutate_json
from tests.fuzz.targets import TARGETS, Target

# over all targets: in every run, and in the one that has hours
BUDGET_S = 600 if os.environ.get("BLINDBUILD_HYPOTHESIS") == "searching" else 15
SECONDS = float(os.environ.get("BLINDBUILD_FUZZ_SECONDS", BUDGET_S / len(TARGETS)))  # a target
MAX_KEPT = 1 << 16  # bytes of a kept input; they are for the repository


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_only_our_errors_come_out(target: Target) -> None:
    found = fuzz(target, seconds=SECONDS)
    assert found.runs > len(corpus(target))
    assert [(data[:200], repr(error)) for data, error in found.crashes] == []


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_kept_input_is_small_and_belongs_to_a_target(target: Target) -> None:
    assert all(len(data) <= MAX_KEPT for data in corpus(target)[len(target.seeds()) :])
    if CORPUS.is_dir():
        assert {path.name for path in CORPUS.iterdir()} <= {target.name for target in TARGETS}


def fragile(data: bytes) -> None:
    """Break on a number that a length field could have, as a careless parser does."""
    if not data.startswith(b"head"):
        raise FormatError("expected head")
    if data[4:5] == b"\xff":
        raise IndexError("the length was believed")


FRAGILE = Target("fragile", fragile, lambda: [b"head\x03abc and a tail that does not matter"])


def test_the_fuzzer_finds_a_mistake_and_makes_it_short() -> None:
    found = fuzz(FRAGILE, seconds=20, clock=_Runs(20000))
    assert [type(error) for _, error in found.crashes] == [IndexError]
    assert found.crashes[0][0] == b"head\xff"


class _Runs:
    """A clock that counts how often it is asked, so that a run is the same everywhere."""

    def __init__(self, runs: int) -> None:
        self._left = runs

    def __call__(self) -> float:
        self._left -= 1
        return 0.0 if self._left > 0 else 100.0


def test_one_seed_gives_one_run() -> None:
    one, other = (fuzz(FRAGILE, seconds=20, seed=7, clock=_Runs(500)) for _ in range(2))
    assert (one.runs, one.ways) == (other.runs, other.ways)


def test_mutations_of_nothing_are_possible() -> None:
    generator = random.Random(1)
    assert {len(mutate(b"", [b""], generator)) for _ in range(200)} != {0}


def test_an_error_of_ours_is_told_from_any_other() -> None:
    assert outcome(FRAGILE, b"x")[1] is None
    assert outcome(FRAGILE, b"head")[0] == "taken"
    assert shrink(FRAGILE, b"head\xff" + bytes(100), outcome(FRAGILE, b"head\xff")[0]) == b"head\xff"


def test_changed_json_is_still_json_and_reaches_every_value() -> None:
    generator = random.Random(1)
    data = b'{"a":[1,{"b":"text"}],"c":null}'
    changed = {mutate_json(data, generator) for _ in range(2000)} - {None}
    values = [json.loads(one or b"") for one in changed]
    assert len(values) > 500
    assert any(value.get("a") is None for value in values)
    assert any(isinstance(value.get("a"), list) and {} in value["a"] for value in values)
    assert any("c" not in value for value in values)
    assert json.loads(data) == {"a": [1, {"b": "text"}], "c": None}


@pytest.mark.parametrize("data", [b"", b"[1]", b"{", b'{"a":}', b"\xff"])
def test_what_is_no_json_object_is_left_to_the_other_changes(data: bytes) -> None:
    assert mutate_json(data, random.Random(1)) is None


@pytest.mark.parametrize("depth", [600, 900, 5000])
def test_deep_nesting_is_no_affair_of_the_fuzzers(depth: int) -> None:
    deep = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    for number in range(50):
        assert mutate(deep, [deep], random.Random(number)) is not None
