"""What an attack is, and how it ended, as values.

An attack on the boot changes the machine before power-on, one on a running machine does something to it or to
the way to it, one on evidence changes bytes that a client has kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from blindbuild.client import Expectation
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine, ReadinessProbe
from blindbuild.machine.swtpm import TpmAuthority
from blindbuild.verify import RecordedSession

NO_EVIDENCE = "no-evidence"  # the client got none, so that there was nothing to judge


class Outcome(Enum):
    """How an attack ends."""

    NO_EFFECT = "no effect"
    REFUSED = "refused by the verifier"
    STOPS = "the machine powers off or never gets ready"
    SUCCEEDS = "succeeds on this platform"
    UNPLAYED = "could not be played"  # never what is expected


@dataclass(frozen=True, slots=True)
class Seen:
    """What an attack came to.

    Attributes:
        words: what happened, for people.
        registers: the promised registers that differ.
        reasons: what the verifier gave, as `step:reason`.
    """

    outcome: Outcome
    words: str
    registers: frozenset[int] = frozenset()
    reasons: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """What every attack says of itself.

    Attributes:
        name: what people type.
        summary: what the operator does, to follow "the operator".
        outcome: how it must end.
        registers: the promised registers that must differ, those and no others.
        reasons: what the verifier must say, at least, as `step:reason`.
    """

    name: str
    summary: str
    outcome: Outcome
    registers: frozenset[int] = frozenset()
    reasons: frozenset[str] = frozenset()

    def expects(self, seen: Seen) -> bool:
        """Return whether this is the outcome that must be: registers and reasons included."""
        return (
            seen.outcome is self.outcome and seen.registers == self.registers and self.reasons <= seen.reasons
        )


@dataclass(frozen=True, slots=True)
class AttackInputs:
    """What an attack on the boot may need besides the machine.

    Attributes:
        directory: where altered disks and other files may be written; each attack its own.
        other_uki: the image to boot instead, for the attack that swaps the kernel; one made of the image's
            own bytes if None.
    """

    directory: Path
    other_uki: bytes | None = None


def seen_nothing(_machine: Machine) -> Seen | None:
    """Say that nobody but a client needs to look."""
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class BootAttack(Attack):
    """An attack that changes what is booted, or with what.

    Attributes:
        apply: the configuration of the attacked machine.
        look: asked before the client, once the machine answers: what only the operator can see. If it gives
            an outcome, that is how the attack ended, should the client find nothing.
        shared: it can be played on one machine together with others of which the same is said: each is
            expected to have no effect, and if all together have none, none of them has.
        ready_s: how long the machine may take; those that are expected to hang are not waited for that long.
    """

    apply: Callable[[MachineConfig, AttackInputs], MachineConfig]
    look: Callable[[Machine], Seen | None] = seen_nothing
    shared: bool = False
    ready_s: float | None = None


@dataclass(slots=True)
class Stage:
    """A running machine and those around it, for attacks on it.

    Attributes:
        config: what the machine was made of.
        machine: it runs, and answers.
        expect: what a client judges by, given who endorsed the machine's TPM.
        route: one of the recipe's.
        directory: where attacks may write.
        session: a genuine exchange with the machine, judged good.
        said: what the serial ports had said before any attack.
        ready: whether a gate answers there.
        watch: asked after a client has looked, with its exchange if there was one: what only the operator
            can see; words of any of them are what he got.
        serial_may_grow: the attack starts the firmware again, which speaks on the serial ports.
        parts: what an attack needs and somebody else has set up, by the name of its type.
        closing: what the attack leaves to be undone once a client has looked.
    """

    config: MachineConfig
    machine: Machine
    expect: Callable[[TpmAuthority], Expectation]
    route: str
    directory: Path
    session: RecordedSession
    said: tuple[bytes, ...]
    ready: ReadinessProbe
    watch: list[Callable[[RecordedSession | None], str | None]] = field(default_factory=list)
    serial_may_grow: bool = False
    parts: dict[str, object] = field(default_factory=dict)
    closing: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningAttack(Attack):
    """An attack on a machine that serves.

    Attributes:
        play: does it, and says what the operator got; None if a client shall look what became of the machine.
        last: the machine is of no further use afterwards.
    """

    play: Callable[[Stage], Seen | None]
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostileAttack(Attack):
    """An attack from inside, on a machine that runs the probe image.

    Attributes:
        play: does it, and says what came of it.
    """

    play: Callable[[Machine], Seen]


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesAttack(Attack):
    """An attack on evidence: judged on a session that was kept.

    Attributes:
        forge: the session that the operator makes of a genuine one.
    """

    forge: Callable[[RecordedSession], RecordedSession]


AnyAttack = BootAttack | RunningAttack | HostileAttack | BytesAttack
AttackTable = Mapping[str, AnyAttack]
