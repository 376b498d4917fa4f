"""What the rules of an explanation look at: one register's comparison, and both boots around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blindbuild.verify.explain_align import Change, Step
from blindbuild.verify.explain_event import Kind, Seen, secure_boot_state


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a difference means and what helps against it; both are for people."""

    cause: str
    action: str


@dataclass(frozen=True, slots=True)
class Boot:
    """The events of one side, by register; of a statement only those behind exact values are known."""

    registers: Mapping[int, Sequence[Seen]]

    def find(self, kind: Kind, name: str = "") -> tuple[Seen, ...]:
        """Return the events of this kind, with this name if one is given, in log order a register."""
        return tuple(
            event
            for register in sorted(self.registers)
            for event in self.registers[register]
            if event.slot.kind is kind and name in ("", event.slot.name)
        )

    def first(self, kind: Kind, name: str = "") -> Seen | None:
        """Return the first of `find`, or None."""
        return next(iter(self.find(kind, name)), None)

    @property
    def secure_boot(self) -> str:
        """`on`, `off` or `empty`; an empty text when it is not known."""
        event = self.first(Kind.VARIABLE, "SecureBoot")
        return "" if event is None else secure_boot_state(event.digest)

    def sections(self) -> dict[str, Seen]:
        """Return the sections of the UKI that the stub measured, by name."""
        return {event.slot.name: event for event in self.find(Kind.SECTION)}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Both sides, and the aligned events of each register whose expected events are known."""

    expected: Boot
    got: Boot
    steps: Mapping[int, tuple[Step, ...]]
    tpm: bool = True  # false: registers of a confidential guest, which hold what a TPM has in several

    def changed_sections(self) -> set[str] | None:
        """Return the names of sections that differ, went or came; None if a side has none at all."""
        expected, got = self.expected.sections(), self.got.sections()
        if not expected or not got:
            return None
        names = expected.keys() | got.keys()
        return {
            name
            for name in names
            if name not in expected or name not in got or expected[name].digest != got[name].digest
        }

    def same_image(self) -> bool | None:
        """Return whether the first started application is the expected one; None if a side has none."""
        expected, got = self.expected.first(Kind.APPLICATION), self.got.first(Kind.APPLICATION)
        return None if expected is None or got is None else expected.digest == got.digest


@dataclass(frozen=True, slots=True)
class View:
    """One register: all its steps, those that one rule is about, and what is around them."""

    register: int
    all_steps: tuple[Step, ...]
    steps: tuple[Step, ...]
    comparison: Comparison

    @property
    def pcr(self) -> int | None:
        """The number of the register if it is a TPM's, else None."""
        return self.register if self.comparison.tpm else None

    def of(self, change: Change, kind: Kind | None = None, name: str = "") -> tuple[Step, ...]:
        """Return the steps of this change, kind and name."""
        return tuple(
            step
            for step in self.steps
            if step.change is change
            and kind in (None, step.event.slot.kind)
            and name in ("", step.event.slot.name)
        )


def listed(items: Sequence[str], limit: int = 6) -> str:
    """Return items as a list in words, not too long."""
    more = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {more} more" if more > 0 else "")
