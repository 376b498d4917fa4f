"""Why registers differ, in words: which events went, came or changed, what that means, and what to do.

The log is only believed as far as its events lead to the quoted values, and the text beside an event is
only a description. So everything said here is for finding the cause; nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blindbuild.digest import Digest
from blindbuild.formats.tcglog import ReplayedLog
from blindbuild.measure.classification import Exact, OneOf, initial_value
from blindbuild.verify.difference import Difference
from blindbuild.verify.explain_align import Change, Step, align
from blindbuild.verify.explain_event import Seen, seen_events, stated_events
from blindbuild.verify.explain_firmware import say_by_register
from blindbuild.verify.explain_ima import say_ima
from blindbuild.verify.explain_rules import say_steps
from blindbuild.verify.explain_text import MAX_SHOWN, describe_event, shown
from blindbuild.verify.explain_values import reconstruct
from blindbuild.verify.explain_view import Boot, Comparison, Meaning
from blindbuild.verify.registers import PlatformMatch

__all__ = [
    "MAX_SHOWN",
    "Change",
    "Difference",
    "Step",
    "describe_event",
    "explain_differences",
    "explain_logs",
    "shown",
]

_NO_LOG = Meaning(
    "there is no event log that can be replayed",
    "get the event log of the same boot: the values alone say no more",
)
_NOT_FOLLOWED = Meaning(
    "the event log does not lead to this value",
    "the log is incomplete or another boot's, or something extended the register without logging it",
)


def explain_differences(match: PlatformMatch, log: ReplayedLog | None) -> tuple[Difference, ...]:
    """Return one explanation for each register that differs from a statement.

    Args:
        match: the comparison with the statement.
        log: the replayed log, or None when there is none that can be replayed.
    """
    if log is None:
        return tuple(_plain(register, _NO_LOG) for register in match.differing)
    comparison = _compare_statement(match, log)
    return tuple(_explain_stated(register, match, log, comparison) for register in match.differing)


def explain_logs(expected: ReplayedLog, got: ReplayedLog, *, tpm: bool = True) -> tuple[Difference, ...]:
    """Return one explanation for each register in which two logs of one bank lead to other values.

    Args:
        expected: the log that is taken as the reference.
        got: the log to be explained.
        tpm: false for the registers of confidential guests, of which MRTD has no events.
    """
    sides = [_events_of(log) for log in (expected, got)]
    registers = [
        register
        for register in range(len(got.values))
        if expected.values[register] != got.values[register] and (tpm or register)
    ]
    steps = {
        register: align(sides[0].get(register, ()), sides[1].get(register, ())) for register in registers
    }
    comparison = Comparison(Boot(sides[0]), Boot(sides[1]), steps, tpm)
    return tuple(_told(register, comparison) for register in registers)


def _events_of(log: ReplayedLog) -> Mapping[int, tuple[Seen, ...]]:
    return {register: seen_events(log.events_of(register), log.algorithm) for register in sorted(log.touched)}


def _compare_statement(match: PlatformMatch, log: ReplayedLog) -> Comparison:
    got = _events_of(log)
    expected: dict[int, tuple[Seen, ...]] = {}
    for register, rule in enumerate(match.rules):
        if isinstance(rule, Exact):
            expected[register] = stated_events(register, rule.events)
        elif isinstance(rule, OneOf):
            found = reconstruct(register, rule.values, got.get(register, ()))
            if found is not None:
                expected[register] = found
    followed = [r for r in match.differing if log.values[r] == match.registers[r].actual]
    steps = {
        register: align(expected.get(register, ()), got.get(register, ()))
        for register in followed
        if register in expected or match.registers[register].rule == "initial"
    }
    return Comparison(Boot(expected), Boot(got), steps)


def _explain_stated(
    register: int, match: PlatformMatch, log: ReplayedLog, comparison: Comparison
) -> Difference:
    result = match.registers[register]
    if log.values[register] != result.actual:
        return _plain(register, _unlogged(register, match, log))
    if register in comparison.steps:
        return _told(register, comparison)
    logged = log.events_of(register)
    last = describe_event(logged[-1]) if logged else ""
    meaning = say_by_register(register)
    return Difference(register, None, shown(result.why), last, meaning.cause, meaning.action)


def _unlogged(register: int, match: PlatformMatch, log: ReplayedLog) -> Meaning:
    actual = match.registers[register].actual
    if register not in log.touched:
        values: Sequence[Digest] = [result.actual for result in match.registers]
        return say_ima(register, actual, values) or _NOT_FOLLOWED
    if actual == initial_value(register, actual.algorithm):
        return Meaning(
            "the register was never extended, but the log has events for it",
            "the log is another boot's, or was made up",
        )
    return _NOT_FOLLOWED


def _told(register: int, comparison: Comparison) -> Difference:
    steps = comparison.steps[register]
    changed = [index for index, step in enumerate(steps) if step.change is not Change.SAME]
    meanings = say_steps(register, comparison)
    if not changed:
        # both logs have the same events but start from another locality
        return _plain(
            register, Meaning("the register started from another value (locality)", _NOT_FOLLOWED.action)
        )
    first = steps[changed[0]]
    return Difference(
        register=register,
        position=sum(step.got is not None for step in steps[: changed[0]]),
        expected="" if first.expected is None else first.expected.what,
        got="" if first.got is None else first.got.what,
        cause="; ".join(dict.fromkeys(meaning.cause for meaning in meanings)),
        action="; ".join(dict.fromkeys(meaning.action for meaning in meanings)),
        steps=steps,
    )


def _plain(register: int, meaning: Meaning) -> Difference:
    return Difference(register, None, "", "", meaning.cause, meaning.action)
