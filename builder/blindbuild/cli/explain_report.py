"""What `explain` found, as one value that the table, --json and the page are made of."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from blindbuild.cli.explain_inputs import NamedLog
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.tcgevent import EventType, event_type_name
from blindbuild.formats.tcglog import data_mismatches
from blindbuild.formats.tcgrecord import LogEvent
from blindbuild.verify.explain import Difference, Step, describe_event
from blindbuild.verify.explain_event import Seen


@dataclass(frozen=True, slots=True)
class Report:
    """One explanation.

    Attributes:
        log: the log that was explained.
        bank: the bank that is shown.
        against: what it was compared with, for people; empty for a log alone.
        platform: the platform of the statement, or None.
        differences: of the registers asked for.
        registers: the numbers asked for; empty for all.
    """

    log: NamedLog
    bank: HashAlgorithm
    against: str = ""
    platform: str | None = None
    differences: tuple[Difference, ...] = ()
    registers: frozenset[int] = frozenset()

    def shows(self, register: int) -> bool:
        """Return whether this register was asked for."""
        return not self.registers or register in self.registers

    def events(self) -> tuple[tuple[int, LogEvent], ...]:
        """Return the events of the registers asked for, with their numbers in the log."""
        return tuple((i, e) for i, e in enumerate(self.log.log.events) if self.shows(e.register))

    def doubtful(self) -> frozenset[int]:
        """Return the numbers of events whose data should be what was hashed, and is not."""
        return frozenset(item.index for item in data_mismatches(self.log.log, self.bank))

    def to_json(self) -> dict[str, JsonValue]:
        """Return the report as plain data with stable names."""
        value: dict[str, JsonValue] = {
            "version": 1,
            "format": self.log.form,
            "bank": self.bank.value,
            "replayed": _replayed(self),
            "events": [_event(i, e, self.doubtful()) for i, e in self.events()],
        }
        if self.log.quoted is not None:
            bank, quoted = self.log.quoted
            value["quoted"] = {bank.value: {str(number): item.hex for number, item in enumerate(quoted)}}
        if self.against:
            value["against"] = self.against
            value["platform"] = self.platform
            value["equal"] = not self.differences
            value["differences"] = [_difference(d, self.log.names) for d in self.differences]
        return value


def _replayed(report: Report) -> JsonValue:
    banks: dict[str, JsonValue] = {}
    for bank in report.log.log.algorithms:
        try:
            values = report.log.replayed(bank).values
        except EventLogError:
            continue  # a startup locality that must not be there; the table says so
        banks[bank.value] = {
            register_key(report.log, register): value.hex
            for register, value in enumerate(values)
            if report.shows(register) and (report.log.tpm or register)
        }
    return banks


def register_key(log: NamedLog, register: int) -> str:
    """Return what a register is called in JSON: `4`, or `RTMR1`."""
    return str(register) if log.tpm else log.names[register]


def _event(index: int, event: LogEvent, doubtful: Collection[int]) -> JsonValue:
    return {
        "index": index,
        "register": event.register,
        "type": event_type_name(event.event_type),
        "digests": {algorithm.value: digest.hex for algorithm, digest in event.digests.items()},
        "data": event.data.hex(),
        "what": describe_event(event),
        "extended": event.event_type != EventType.EV_NO_ACTION,
        "dataMatches": index not in doubtful,
    }


def _difference(difference: Difference, names: tuple[str, ...]) -> JsonValue:
    return {
        "register": difference.register,
        "name": names[difference.register],
        "position": difference.position,
        "expected": difference.expected,
        "got": difference.got,
        "cause": difference.cause,
        "action": difference.action,
        "steps": [_step(step) for step in difference.steps],
    }


def _step(step: Step) -> JsonValue:
    return {"change": step.change.value, "expected": _seen(step.expected), "got": _seen(step.got)}


def _seen(event: Seen | None) -> JsonValue:
    if event is None:
        return None
    return {"type": event_type_name(event.event_type), "digest": event.digest.hex, "what": event.what}
