"""What the processes of an image can still ask of the kernel: the filters in it, executed.

For every role the stack of its filters is followed on all ways. What is reachable then is held against an
allow list for each role, and against the calls of which a row of the ledger says that nobody has them. That
init and the gate install the files that are looked at here is not shown: tests and boots do that.

Source: docs/spec/guest-abi.md, "Filters".
"""

from __future__ import annotations

import functools
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.audit.check import Check
from blindbuild.audit.filter_paths import Way, find_ways
from blindbuild.audit.image import UnpackedImage
from blindbuild.audit.system_calls import LARGEST_NUMBER, Form, describe, load_numbers, names_of, parse_form
from blindbuild.errors import FormatError, PolicyError
from blindbuild.formats.bpf import ARCH_I386, ARCH_X86_64, X32_BIT, Instruction, parse_filter

ALLOWED_FILE = Path(__file__).with_name("filters.txt")
MAX_NAMED = 10  # calls too many of one role that are told one by one; an open filter has hundreds
# The files whose filters a process has, in the order in which it gets them.
_F0, _CHILD = "filters/socket-rule", "filters/child"
STACKS = {
    "init": (_F0, "filters/init"),
    "gate": (_F0, _CHILD, "gate/filter"),
    "launcher": (_F0, _CHILD, "filters/launcher"),
    "workload": (_F0, _CHILD, "filters/launcher", "filters/workload"),
    "dhcp": ("filters/dhcp",),
}
# Also held against the rows' calls: what holds here holds before a role has its own filter.
EVERYBODY = {"every process": (_F0,)}

Forms = Mapping[str, tuple[Form, ...]]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a role can reach.

    Attributes:
        role: a name of STACKS or EVERYBODY.
        ways: all ways to the execution of a call.
        steps: instructions that were followed to find them.
        problem: why they could not be found, or "".
    """

    role: str
    ways: tuple[Way, ...]
    steps: int
    problem: str = ""

    @property
    def calls(self) -> Mapping[str, tuple[str, ...]]:
        """What arguments every reachable call may go with, by its name: one text for each way, "" for any."""
        found: dict[str, set[str]] = {}
        for way in self.ways:
            where = describe(way)
            for name in names_of(way):
                found.setdefault(name, set()).add(where)
        return {name: ("",) if "" in texts else tuple(sorted(texts)) for name, texts in sorted(found.items())}


def find_reaches(image: UnpackedImage) -> tuple[Reach, ...]:
    """Return what each role of an image can reach; a filter that is no program is a problem, not an error."""
    regular = (entry for entry in image.entries if stat.S_ISREG(entry.mode))
    files = {entry.path.decode("ascii", "backslashreplace"): entry.data for entry in regular}
    return tuple(
        _find_reach(role, tuple((path, files.get(path)) for path in stack))
        for role, stack in (STACKS | EVERYBODY).items()
    )


def check_filters(image: UnpackedImage, reaches: Sequence[Reach]) -> Check:
    """Check that each role reaches nothing but what the allow list says, and by x86-64's numbers only."""
    findings = [finding for reach in reaches for finding in _judge_reach(reach)]
    steps = sum(reach.steps for reach in reaches)
    return Check("system-call-filters", image.archive, steps, tuple(dict.fromkeys(findings)))


def check_calls(image: UnpackedImage, reaches: Sequence[Reach], lines: Sequence[str]) -> Check:
    """Check that no role reaches one of these calls, except in the forms that are given for it.

    Args:
        lines: as `parse_form` reads them; a name alone means that the call is never harmless.
    """
    harmless: dict[str, list[Form]] = {}
    for form in map(parse_form, lines):
        harmless.setdefault(form.name, []).extend([form] if form.conditions else [])
    findings = [
        finding
        for reach in reaches
        for way in reach.ways
        for where in [describe(way)]
        for name, forms in harmless.items()
        if way.number.admits(load_numbers()[name]) and not any(form.covers(way) for form in forms)
        for finding in [_say(reach.role, name, where)]
    ]
    looked_at = len(harmless) * sum(1 for reach in reaches if not reach.problem)
    return Check("refused-calls", image.archive, looked_at, tuple(dict.fromkeys(findings)))


@functools.lru_cache(maxsize=1)
def load_allowed() -> Mapping[str, Forms]:
    """Return the allow list that comes with blindbuild: by role, by name."""
    return parse_allowed(ALLOWED_FILE.read_text("ascii"))


def parse_allowed(text: str) -> Mapping[str, Forms]:
    """Return the forms of an allow list by role and name.

    Raises:
        PolicyError: an unknown role or call, a form that is there twice, or a role without calls.
    """
    allowed: dict[str, dict[str, tuple[Form, ...]]] = {role: {} for role in STACKS}
    for number, line in enumerate(text.splitlines(), start=1):
        roles, _, rest = line.partition("#")[0].strip().partition(" ")
        if not roles:
            continue
        for role in roles.removesuffix(":").split(","):
            if role not in allowed or not rest:
                raise PolicyError(f"filters.txt:{number}: expected roles and calls, got {line[:80]!r}")
            for call in rest.split() if roles.endswith(":") else [rest]:
                form = parse_form(call)
                known = allowed[role].get(form.name, ())
                if form in known:
                    raise PolicyError(f"filters.txt:{number}: {role} {call} is there twice")
                allowed[role][form.name] = (*known, form)
    if not all(allowed.values()):
        raise PolicyError("filters.txt: expected calls for every role")
    return allowed


@functools.lru_cache(maxsize=32)  # images of one version have the same filters
def _find_reach(role: str, stack: tuple[tuple[str, bytes | None], ...]) -> Reach:
    programs = []
    for path, data in stack:
        program = _read_program(path, data)
        if isinstance(program, str):
            return Reach(role, (), 0, program)
        programs.append(program)
    try:
        ways, steps = find_ways(programs)
    except FormatError as error:
        return Reach(role, (), 0, f"{role}: {error.message}")
    return Reach(role, ways, steps)


def _read_program(path: str, data: bytes | None) -> tuple[Instruction, ...] | str:
    """Return a filter's program, or what is wrong with it."""
    if data is None:
        return f"{path}: missing"
    try:
        return parse_filter(data)
    except FormatError as error:
        return f"{path}: {error.message}"


def _judge_reach(reach: Reach) -> Iterator[str]:
    if reach.problem:
        yield reach.problem
        return
    for way in reach.ways:
        yield from _judge_numbers(reach.role, way)
    if reach.role in EVERYBODY:
        return
    allowed = load_allowed()[reach.role]
    over = dict.fromkeys(
        (name, where)
        for way in reach.ways
        for where in [describe(way)]
        for name in names_of(way)
        if not any(form.covers(way) for form in allowed.get(name, ()))
    )
    yield from (_say(reach.role, name, where) for name, where in list(over)[:MAX_NAMED])
    if len(over) > MAX_NAMED:
        yield f"{reach.role}: {len(over) - MAX_NAMED} more calls are reachable that it should not have"


def _judge_numbers(role: str, way: Way) -> Iterator[str]:
    if way.arch.admits(ARCH_I386):
        yield f"{role}: i386 calls are reachable"
    if way.arch.value != ARCH_X86_64:
        yield f"{role}: calls by numbers of another architecture than x86-64 are reachable"
    if way.number.high >= X32_BIT:
        yield f"{role}: x32 calls are reachable"
    if way.number.high > LARGEST_NUMBER:
        yield f"{role}: calls by numbers above {LARGEST_NUMBER} are reachable"


def _say(role: str, name: str, where: str) -> str:
    return f"{role}: {name} is reachable" + (f" where {where}" if where else "")
