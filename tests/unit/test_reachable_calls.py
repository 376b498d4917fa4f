"""What the filters in an image leave to each role, and every change of a filter that lets more through."""

from __future__ import annotations

import functools
import itertools
import random
import struct
import time
from collections.abc import Callable, Mapping

import pytest

from blindbuild.audit import filter_paths, filters
from blindbuild.audit.filter_paths import Way, Word, find_ways
from blindbuild.audit.filters import (
    STACKS,
    check_calls,
    check_filters,
    find_reaches,
    load_allowed,
    parse_allowed,
)
from blindbuild.audit.image import UnpackedImage
from blindbuild.audit.rows import RULES
from blindbuild.audit.system_calls import describe, load_numbers, parse_form
from blindbuild.digest import Digest
from blindbuild.errors import FormatError, PolicyError
from blindbuild.formats.bpf import Instruction, SystemCall, parse_filter
from blindbuild.formats.cpio import CpioEntry
from tests.fakes import spoiled_filters as spoiled
from tests.fakes.bpf import ALLOW, ARCH_I386, ARCH_X86_64, evaluate, parse_program
from tests.fakes.guest_filters import ALLOW_ALL, made_filters
from tests.fakes.system_calls import numbers
from tests.golden import guest_filters

GOLDEN = {
    "init": guest_filters.INIT,
    "gate": guest_filters.GATE,
    "launcher": guest_filters.LAUNCHER,
    "workload": guest_filters.WORKLOAD,
    "dhcp": guest_filters.DHCP,
}
SAMPLED_BITS = 6  # of each filter; `full` takes more
ARCH_AARCH64 = 0xC00000B7
REFUSED_BY_ROWS = sorted({line for rule in RULES for line in rule.refused_calls})


def image(files: Mapping[str, bytes], mode: int = 0o100400) -> UnpackedImage:
    """An image with these filters and nothing else: the checks look at no more."""
    entries = tuple(CpioEntry(spoiled.PATHS[name].encode(), mode, data) for name, data in files.items())
    return UnpackedImage(None, "", Digest.sha256(b"".join(files.values())), entries)  # type: ignore[arg-type]


def findings(files: Mapping[str, bytes]) -> tuple[str, ...]:
    place = image(files)
    reaches = find_reaches(place)
    return (
        *check_filters(place, reaches).findings,
        *check_calls(place, reaches, REFUSED_BY_ROWS).findings,
    )


# --- the image's own


@functools.cache
def product() -> tuple[filters.Reach, ...]:
    return find_reaches(image(made_filters()))


def test_nothing_is_found_in_the_image_s_own_filters() -> None:
    assert findings(made_filters()) == ()


@pytest.mark.parametrize("role", STACKS)
def test_a_role_reaches_what_is_written_down_and_nothing_else(role: str) -> None:
    (reach,) = (reach for reach in product() if reach.role == role)
    assert set(reach.calls) == {name for name, (answer, _) in GOLDEN[role].items() if "ALLOW" in answer}
    free = {name for name, forms in reach.calls.items() if forms == ("",)}
    limited = {name for name, (answer, _) in GOLDEN[role].items() if "|" in answer}
    assert set(reach.calls) - free == limited | ({"sendmsg"} if role == "launcher" else set())


def test_what_arguments_are_left_is_told_in_words() -> None:
    calls = {reach.role: reach.calls for reach in product()}
    assert calls["gate"]["mmap"] == ("argument 2 has none of 0x4, argument 3 has a bit of 0x20",)
    assert calls["dhcp"]["sendto"] == ("argument 3 is 0, argument 4 is 0",)
    assert calls["workload"]["openat"] == ("argument 2 has none of 0x400243",)
    assert calls["launcher"]["kill"] == ("argument 0 is 0xffffffffffffffff, argument 1 is 9",)
    assert calls["workload"]["read"] == ("",)


def boundary_values(role: str) -> dict[int, dict[int, set[int]]]:
    """Return, by number and argument, values around everything that any filter compares with."""
    found: dict[int, dict[int, set[int]]] = {}
    for name in spoiled.STACKS[role]:
        number = None
        for load, test in itertools.pairwise(parse_program(made_filters()[name])):
            if load.code != spoiled.LOAD or test.code not in (0x15, 0x45):
                continue
            if load.value == 0:
                number = test.value
            elif load.value >= 16 and number is not None:
                index, shift = divmod(load.value - 16, 8)
                value = test.value
                near = {0, value, value ^ 1, value + 1, value - 1, 0xFFFFFFFF, value | 1 << 31}
                near |= {1 << bit for bit in range(32) if value >> bit & 1}
                halves = {(one & 0xFFFFFFFF) << 8 * shift for one in near}
                found.setdefault(number, {}).setdefault(index, {0}).update(halves)
    return found


def boundary_calls(role: str) -> list[SystemCall]:
    """Return calls of every number with arguments at every boundary, and by other numbers."""
    values, made = boundary_values(role), []
    chance = random.Random(role)
    for number in range(1024):
        wanted = values.get(number, {})
        for index in range(6):
            wanted.setdefault(index, {0})
        combined = list(itertools.product(*(sorted(wanted[index]) for index in range(6))))
        made += [SystemCall(number, each) for each in chance.sample(combined, min(40, len(combined)))]
        for arch in (ARCH_I386, ARCH_AARCH64, 0):
            made.append(SystemCall(number, arch=arch))
        made.append(SystemCall(number | spoiled.X32))
    return made


def executed(files: Mapping[str, bytes], role: str, call: SystemCall) -> bool:
    """Ask the tests' own interpreter whether every filter of a role allows a call."""
    programs = [_parsed(files[name]) for name in spoiled.STACKS[role]]
    return all(evaluate(p, call.number, call.arguments, call.arch) == ALLOW for p in programs)


@functools.lru_cache(maxsize=32)
def _parsed(data: bytes):
    return parse_program(data)


@pytest.mark.parametrize("role", STACKS)
def test_the_ways_are_those_that_an_interpreter_takes(role: str) -> None:
    """The oracle runs the bytes for each call; a call is executed if, and only if, it is on a way."""
    (reach,) = (reach for reach in product() if reach.role == role)
    by_number: dict[int, list[Way]] = {}
    for way in reach.ways:
        assert way.number.value is not None
        by_number.setdefault(way.number.value, []).append(way)
    done = 0
    for call in boundary_calls(role):
        words = call.words()
        ways = by_number.get(call.number, [])
        listed = any(all(w.admits(v) for w, v in zip(way.words, words, strict=True)) for way in ways)
        assert listed is executed(made_filters(), role, call), call
        done += listed
    assert done >= len(by_number)


# --- changes


CHANGES: dict[str, tuple[Callable[[], Mapping[str, bytes]], str]] = {
    "no filter for the gate": (lambda: without("gate"), "gate/filter: missing"),
    "no F0": (lambda: without("socket-rule"), "filters/socket-rule: missing"),
    "F0 off": (lambda: spoiled.without_any("socket-rule"), "every process: i386 calls are reachable"),
    "F0 off, as rows see it": (
        lambda: spoiled.without_any("socket-rule"),
        "every process: socket is reachable",
    ),
    "the gate's filter off": (
        lambda: spoiled.without_any("gate"),
        "gate: socketpair is reachable where argument 0 is 1",
    ),
    "the gate's filter off, in sum": (
        lambda: spoiled.without_any("gate"),
        "more calls are reachable that it should not have",
    ),
    "the workload's filter off": (
        lambda: spoiled.without_any("workload"),
        "workload: wait4 is reachable",
    ),
    "the DHCP child's filter off": (lambda: spoiled.without_any("dhcp"), "dhcp: x32 calls are reachable"),
    "init's filter off": (lambda: spoiled.without_any("init"), "init: 3"),
    "socket by F0": (lambda: spoiled.allowing(41, "socket-rule"), "every process: socket is reachable"),
    "socket allowed for workloads": (
        lambda: spoiled.allowing(41, "socket-rule", "launcher", "workload"),
        "workload: socket is reachable",
    ),
    "connect for the DHCP child": (lambda: spoiled.allowing(42, "dhcp"), "dhcp: connect is reachable"),
    "sendto with an address": (
        lambda: spoiled.allowing(44, "socket-rule", "launcher", "workload"),
        "workload: sendto is reachable",
    ),
    "ptrace by F0": (lambda: spoiled.allowing(101, "socket-rule"), "every process: ptrace is reachable"),
    "mount by F0": (lambda: spoiled.allowing(165, "socket-rule"), "every process: mount is reachable"),
    "a call that no row names": (
        lambda: spoiled.allowing(87, "launcher", "workload"),
        "workload: unlink is reachable",
    ),
    "open for writing": (lambda: spoiled.allowing(2, "workload", "launcher"), "workload: open is reachable"),
    "executable memory for the gate": (
        spoiled.with_executable_memory,
        "gate: mmap is reachable where argument 3 has a bit of 0x20",
    ),
    "any architecture, by F0": (
        lambda: spoiled.without_architecture("socket-rule"),
        "every process: calls by numbers of another architecture than x86-64 are reachable",
    ),
    "any architecture, for the gate": (
        lambda: spoiled.without_architecture("socket-rule", "child", "gate"),
        "gate: i386 calls are reachable",
    ),
    "x32, by F0": (lambda: spoiled.without_x32("socket-rule"), "every process: x32 calls are reachable"),
    "numbers to come, by F0": (
        lambda: spoiled.without_x32("socket-rule"),
        "every process: calls by numbers above 1023 are reachable",
    ),
    "half an instruction": (
        lambda: {**made_filters(), "gate": made_filters()["gate"][:-4]},
        "gate/filter: filter: expected 1 to 4096 instructions of 8 bytes",
    ),
    "an end that is no return": (
        lambda: {**made_filters(), "child": made_filters()["child"][:-8]},
        "filters/child: filter: instruction",
    ),
    "a program that computes": (
        lambda: {**made_filters(), "init": bytes.fromhex("0400000001000000") + ALLOW_ALL},
        "init: filter: instruction 0: operation 0x0004 cannot be followed",
    ),
    "an answer that a tracer gives": (
        lambda: {**made_filters(), "init": bytes.fromhex("060000000000f07f")},  # SECCOMP_RET_TRACE
        "init: 3",
    ),
}  # fmt: skip


def without(name: str) -> Mapping[str, bytes]:
    return {other: data for other, data in made_filters().items() if other != name}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_lets_more_through_is_found(change: str) -> None:
    spoil, finding = CHANGES[change]
    found = findings(spoil())
    assert any(finding in one for one in found), found


def test_one_check_of_a_stack_that_is_gone_is_made_up_for_by_the_others() -> None:
    """No finding where nothing more is reachable: what the launcher's filter lets through, F0 stops."""
    assert findings(spoiled.without_architecture("launcher")) == ()
    assert findings(spoiled.without_x32("launcher")) == ()
    assert findings(spoiled.allowing(41, "launcher", "workload")) == ()


@pytest.mark.parametrize("name", made_filters())
def test_a_flipped_bit_lets_nothing_more_through_or_is_found(name: str) -> None:
    flip_bits(name, SAMPLED_BITS)


@pytest.mark.full
@pytest.mark.parametrize("name", made_filters())
def test_many_flipped_bits_let_nothing_more_through_or_are_found(name: str) -> None:
    assert flip_bits(name, 80 * SAMPLED_BITS)


def flip_bits(name: str, count: int) -> int:
    """Flip bits one at a time; return how many were found."""
    chance = random.Random(name)
    bits = range(8 * len(made_filters()[name]))
    found = 0
    for bit in chance.sample(bits, min(count, len(bits))):
        files = spoiled.damaged(name, bit)
        if findings(files):
            found += 1
            continue
        parse_filter(files[name])
        for role in (role for role, stack in spoiled.STACKS.items() if name in stack):
            more = [c for c in sampled_calls(role) if executed(files, role, c) and not was_executed(role, c)]
            assert more == [], (name, bit)
    return found


@functools.cache
def sampled_calls(role: str) -> tuple[SystemCall, ...]:
    made = boundary_calls(role)
    return tuple(random.Random(role).sample(made, 300)) + tuple(SystemCall(number) for number in range(463))


@functools.cache
def was_executed(role: str, call: SystemCall) -> bool:
    return executed(made_filters(), role, call)


# --- rows, lists, and words


def test_every_row_that_names_calls_has_the_check_of_all_filters_as_well() -> None:
    rows = [rule for rule in RULES if rule.refused_calls]
    assert len(rows) >= 10
    for rule in rows:
        assert "system-call-filters" in rule.checks, rule.identifier


@pytest.mark.parametrize("call", sorted({parse_form(line).name for line in REFUSED_BY_ROWS}))
def test_a_call_that_a_row_refuses_is_found_when_f0_allows_it(call: str) -> None:
    place = image(spoiled.allowing(load_numbers()[call], "socket-rule"))
    lines = [line for line in REFUSED_BY_ROWS if parse_form(line).name == call]
    check = check_calls(place, find_reaches(place), lines)
    assert any(finding.startswith(f"every process: {call} is reachable") for finding in check.findings)
    assert check.looked_at == 6


def test_what_is_no_regular_file_is_no_filter() -> None:
    link = 0o120777
    assert {reach.problem for reach in find_reaches(image(made_filters(), link))} == {
        "filters/socket-rule: missing",
        "filters/dhcp: missing",
    }


def test_a_role_whose_filter_cannot_be_read_is_not_counted_as_looked_at() -> None:
    place = image(without("gate"))
    assert check_calls(place, find_reaches(place), ["socket"]).looked_at == 5


def test_the_allow_list_is_the_written_one() -> None:
    for role, forms in load_allowed().items():
        assert set(forms) == {name for name, (answer, _) in GOLDEN[role].items() if "ALLOW" in answer}, role


def test_names_and_numbers_are_linux_s() -> None:
    assert load_numbers() == numbers()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gate: read\n", "expected calls for every role"),
        ("gats: read\n", "filters.txt:1: expected roles and calls, got 'gats: read'"),
        ("gate\n", "filters.txt:1: expected roles and calls, got 'gate'"),
        ("gate: read read\n", "filters.txt:1: gate read is there twice"),
        ("gate,gate: read\n", "filters.txt:1: gate read is there twice"),
        ("gate: reed\n", "expected a name of Linux 6.12, got 'reed'"),
        ("gate read 0\n", "read: expected a condition such as 0=1, got '0'"),
        ("gate read 6=1\n", "got '6=1'"),
        ("gate read 0=01\n", "got '0=01'"),
        ("gate read 0=0x1ffffffffffffffff\n", "got '0=0x1ffffffffffffffff'"),
        ("gate read 0&0\n", "got '0&0'"),
        ("gate read 0!&0x100000000\n", "got '0!&0x100000000'"),
    ],
)
def test_an_allow_list_that_breaks_a_rule_is_refused(text: str, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        parse_allowed(text)
    assert message in caught.value.message


def test_a_program_of_too_many_ways_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test of a bit doubles the ways; a hostile image must not keep an auditor busy for ever."""
    monkeypatch.setattr(filter_paths, "MAX_STEPS", 20_000)
    bit = [Instruction(0x45, 0, 0, 1 << number) for number in range(30)]
    steps = [Instruction(0x20, 0, 0, 16), *bit, Instruction(0x06, 0, 0, 0)]
    with pytest.raises(FormatError, match="expected at most 20000 steps"):
        find_ways([steps])


@pytest.mark.parametrize("kind", ["ways", "values", "bits"])
def test_filters_that_would_keep_an_auditor_busy_are_a_finding(kind: str) -> None:
    """All of them allow everything, in as many ways, or with as much to remember, as there is room for."""
    one = {
        "ways": lambda k: ((0x20, 0, 0, 16), (0x15, 0, 1, k), (0x06, 0, 0, ALLOW)),
        "values": lambda k: ((0x20, 0, 0, 16), (0x15, 0, 1, 2 * k), (0x06, 0, 0, 0)),
        "bits": lambda k: ((0x20, 0, 0, 16), (0x45, 1, 0, 0xFFFF0000 | k), (0x06, 0, 0, 0)),
    }[kind]
    steps = [struct.pack("<HBBI", *step) for k in range(1300) for step in one(k)]
    before = time.process_time()
    found = findings({**made_filters(), "init": b"".join((*steps, ALLOW_ALL))})
    assert any(text.startswith("init: filter: expected at most") for text in found)
    assert time.process_time() - before < 20


def test_a_word_of_many_conditions_is_told_in_few() -> None:
    word = Word(without=frozenset(range(100)))
    way = Way((*(Word(),) * 4, word, *(Word(),) * 11))
    assert describe(way).endswith("and 92 more conditions")
    assert len(describe(way)) < 200


def test_what_is_known_of_a_word_is_never_too_narrow() -> None:
    """Random tests in a row: every value for which they turn out so is still admitted."""
    chance = random.Random(1)
    codes = (0x15, 0x25, 0x35, 0x45)
    tests = {0x15: lambda a, b: a == b, 0x25: lambda a, b: a > b, 0x35: lambda a, b: a >= b}
    for _ in range(20_000):
        word: Word | None = Word()
        value = chance.choice((chance.randrange(8), chance.getrandbits(32), 0xFFFFFFFF))
        for _ in range(chance.randrange(1, 9)):
            code, operand = (
                chance.choice(codes),
                chance.choice((value, chance.randrange(9), chance.getrandbits(32))),
            )
            holds = bool(value & operand) if code == 0x45 else tests[code](value, operand)
            assert word is not None
            word = word.after(code, operand, holds=holds)
        assert word is not None
        assert word.admits(value)
        for mask in (1, 6, 1 << 31):
            assert not word.has_any(mask) or value & mask
            assert not word.has_none(mask) or not value & mask


def test_a_word_that_cannot_be_is_none() -> None:
    assert Word().after(0x15, 5, holds=True).after(0x15, 6, holds=True) is None  # type: ignore[union-attr]
    assert Word(3, 4).after(0x25, 4, holds=True) is None
    assert Word(3, 3).after(0x15, 3, holds=False) is None
    assert Word().after(0x45, 6, holds=False).after(0x45, 4, holds=True) is None  # type: ignore[union-attr]
    assert Word().after(0x45, 4, holds=True).after(0x45, 6, holds=False) is None  # type: ignore[union-attr]
    assert Word(0, 1).after(0x15, 0, holds=False) == Word(1, 1)
    assert Word().after(0x35, 0, holds=False) is None


def test_other_architectures_are_not_taken_for_ours() -> None:
    assert ARCH_X86_64 != ARCH_I386
    assert executed(made_filters(), "gate", SystemCall(0))
    assert not executed(made_filters(), "gate", SystemCall(0, arch=ARCH_I386))
