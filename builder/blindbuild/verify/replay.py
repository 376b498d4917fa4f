"""Steps E3 to E10: does the event log explain the quoted values, event by event, as the statement says?

The registers were compared before the log is looked at (E1): nothing that the log claims can turn a
mismatch into a match. The log only explains, and what it says about matching registers must be consistent.
"""

from __future__ import annotations

from functools import partial

from blindbuild.digest import Digest
from blindbuild.errors import EventLogError
from blindbuild.formats.tcglog import (
    EventType,
    LogEvent,
    ReplayedLog,
    UnverifiedLog,
    data_mismatches,
    parse_event_log,
    replay,
)
from blindbuild.measure.classification import Exact, OneOf, Unconstrained
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.registers import PlatformMatch
from blindbuild.verify.session import Evidence

_FIRMWARE_REGISTERS = range(8)  # PFP 3.3.4: a separator ends the firmware's part of registers 0-7
_SEPARATOR_DATA = bytes(4)  # PFP 10.4.1: 1 would say that the firmware failed
# what may follow the separator in registers that only have recorded values: PFP 3.3.4.1 and 3.3.4.6
_AFTER_SEPARATOR = {
    0: frozenset[int](),
    5: frozenset({EventType.EV_EFI_ACTION, EventType.EV_EFI_GPT_EVENT}),
}


def judge_log(steps: Checklist, evidence: Evidence, match: PlatformMatch | None) -> ReplayedLog | None:
    """Run steps E4, E5, E3, E8, E7, E6 and E10.

    Returns:
        The replayed log, for explanations; nothing of it is to be believed where it does not lead to the
        quoted value.
    """
    parsed = steps.run("E4", partial(_parse, evidence))
    replayed = steps.run("E5", lambda: _replay(found(parsed), evidence), needs=("E4",))
    # the values are the quoted ones only once Q9 has passed
    steps.run("E3", lambda: _check_replay(found(replayed), evidence, found(match)), needs=("E5", "Q9", "E2"))
    needs = ("E3", "E1")
    steps.run("E8", lambda: _check_separators(found(parsed), evidence, found(match)), needs=needs)
    steps.run("E7", lambda: _check_data(found(parsed), evidence, found(match)), needs=needs)
    steps.run("E6", lambda: _check_types(found(replayed), found(match)), needs=needs)
    steps.run("E10", lambda: _check_sequence(found(replayed), found(match)), needs=needs)
    return replayed


def _parse(evidence: Evidence) -> tuple[UnverifiedLog, str]:
    try:
        log = parse_event_log(evidence.event_log)
    except EventLogError as error:
        raise refuse("E4", "log-malformed", error.message) from error
    return log, f"{len(log.events)} events"


def _replay(log: UnverifiedLog, evidence: Evidence) -> tuple[ReplayedLog, str]:
    try:
        replayed = replay(log, evidence.bank)
    except EventLogError as error:
        raise refuse("E5", "log-not-replayable", error.message) from error
    return replayed, f"started from locality {replayed.startup_locality}"


def _check_replay(replayed: ReplayedLog, evidence: Evidence, match: PlatformMatch) -> tuple[None, str]:
    # Also registers without events: their value must be the initial one. One that says nothing about the
    # image may have been extended after the firmware stopped logging.
    wrong = [
        register
        for register, value in enumerate(evidence.registers)
        if value != replayed.values[register]
        and not (isinstance(match.rules[register], Unconstrained) and register not in replayed.touched)
    ]
    if wrong:
        numbers = ", ".join(str(register) for register in wrong)
        raise refuse(
            "E3", "log-incomplete", f"expected a log that leads to the quoted values, got others in {numbers}"
        )
    return None, f"{len(replayed.touched)} registers have events"


def _check_separators(log: UnverifiedLog, evidence: Evidence, match: PlatformMatch) -> tuple[None, str]:
    expected = Digest.of(evidence.bank, _SEPARATOR_DATA)
    for register in _FIRMWARE_REGISTERS:
        events = [e for e in log.events if e.register == register and e.event_type != EventType.EV_NO_ACTION]
        marks = [i for i, event in enumerate(events) if event.event_type == EventType.EV_SEPARATOR]
        if len(marks) != 1:
            raise refuse("E8", "separator", f"PCR {register}: expected one separator, got {len(marks)}")
        separator = events[marks[0]]
        if separator.data != _SEPARATOR_DATA or separator.digests[evidence.bank] != expected:
            raise refuse("E8", "separator", f"PCR {register}: expected a separator of four zero bytes")
        if isinstance(match.rules[register], OneOf):
            _check_after(register, events[marks[0] + 1 :])
    return None, "one each in 0-7"


def _check_after(register: int, events: list[LogEvent]) -> None:
    allowed = _AFTER_SEPARATOR.get(register, frozenset())
    if any(event.event_type not in allowed for event in events):
        raise refuse("E8", "event-after-separator", f"PCR {register}: expected nothing after its separator")


def _exact_registers(match: PlatformMatch) -> dict[int, Exact]:
    return {register: rule for register, rule in enumerate(match.rules) if isinstance(rule, Exact)}


def _check_data(log: UnverifiedLog, evidence: Evidence, match: PlatformMatch) -> tuple[None, str]:
    exact = _exact_registers(match)
    for mismatch in data_mismatches(log, evidence.bank):
        if mismatch.event.register in exact:
            raise refuse(
                "E7",
                "event-data",
                f"PCR {mismatch.event.register}, event {mismatch.index}: {mismatch.reason}",
            )
    return None, f"in {len(exact)} registers"


def _check_types(log: ReplayedLog, match: PlatformMatch) -> tuple[None, str]:
    for register, rule in _exact_registers(match).items():
        stated = [event.event_type for event in rule.events]
        logged = [event.event_type for event in log.events_of(register)]
        if stated != logged:
            raise refuse("E6", "event-type", f"PCR {register}: expected the stated event types, got others")
    return None, "types as stated"


def _check_sequence(log: ReplayedLog, match: PlatformMatch) -> tuple[None, str]:
    count = 0
    for register, rule in _exact_registers(match).items():
        stated = [event.digest for event in rule.events]
        logged = [event.digests[log.algorithm] for event in log.events_of(register)]
        if stated != logged:
            raise refuse("E10", "event-sequence", f"PCR {register}: expected the stated events, got others")
        count += len(stated)
    return None, f"{count} events as stated"
