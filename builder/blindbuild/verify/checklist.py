"""The numbered steps of an appraisal: what each is called, and how its outcome is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

from blindbuild.errors import FormatError, ManifestError, VerificationError

# docs/spec/verification.md has the same list with the attack that each step stops
TITLES = {
    "M2": "release keys are different keys",
    "M4": "enough release keys signed the statement",
    "M6": "the statement is strict, canonical and complete",
    "M7": "the statement is about the image at hand",
    "M8": "the statement is about the expected product",
    "M9": "a signed release says that the statement is current",
    "M10": "nothing newer was accepted before",
    "P1": "the image is not a debug image",
    "P2": "the channel ledger is the one that the statement pins",
    "P3": "the channels that must be closed are closed",
    "P4": "the memory is as confidential as it must be",
    "C1": "the statement judged by is the one that was asked for",
    "A1": "one way to believe the TPM",
    "A2": "the attestation key cannot leave its TPM and signs nothing else",
    "A3": "the attestation key is a P-256 key on its curve",
    "A6": "the key's certificate is one certificate",
    "A9": "the key's certificate follows its profile",
    "A4": "the key's certificate leads to a pinned root",
    "A7": "no certificate on the way was revoked",
    "A5": "the certified key is the key at hand",
    "A11": "the TPM is not a test TPM",
    "A8": "the TPM holds both keys now",
    "A10": "the machine is one of those that are allowed",
    "Q1": "the nonce is long enough to be unique",
    "Q3": "the signature scheme is the key's own",
    "Q4": "the signature is well formed",
    "Q2": "the attestation key signed the quote",
    "Q5": "a TPM made the quote",
    "Q6": "the quote is a quote",
    "Q10": "the quote is well formed to its last byte",
    "Q8": "the quote covers all registers of the bank, and nothing else",
    "Q9": "the register values are the quoted ones",
    "Q11": "the attestation key is where it should be",
    "Q12": "the TPM's clock did not go back",
    "Q14": "the TPM's firmware is new enough",
    "Q7": "the quote was made for this nonce, key and statement",
    "C3": "this connection ends inside the attested image",
    "E2": "the statement has rules for every register of the platform",
    "E1": "every register holds what the statement says",
    "E4": "the event log is well formed",
    "E5": "the event log can be replayed",
    "E3": "the event log leads to every quoted value",
    "E8": "each firmware register has one separator",
    "E7": "the described data is the measured data",
    "E6": "every event is of the stated type",
    "E10": "every event is the stated one, in order, and none is extra",
    "E11": "the firmware said that Secure Boot is on",
}
# what is called otherwise where requests are sealed to a key; docs/spec/hpke-channel.md
SEALED_TITLES = {"C3": "what is sent opens inside the attested image only"}
# further steps of those whose policy asks for a transparency log; docs/spec/transparency-log.md
LOG_TITLES = {
    "M12": "the release is in the log, signed by the log and seen by its witnesses",
    "M13": "the log is the one that was seen before, and only grew",
}
# a further step of those whose policy asks for a probe; docs/spec/probe.md
PROBE_TITLES = {"P5": "a probe showed that the machine does no more than it should"}
FAULT = "save the session with --save and report it: this is a fault of blindbuild"
_T = TypeVar("_T")


class Outcome(Enum):
    """How a step ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the checklist.

    Attributes:
        detail: one line for people: what was found, or expected and got.
        reason: a stable word for machines; empty unless the step failed.
    """

    id: str
    title: str
    outcome: Outcome
    detail: str
    reason: str = ""


def refuse(step: str, reason: str, message: str, *, hint: str | None = None) -> VerificationError:
    """Return (not raise) the error that fails a step."""
    return VerificationError(message, step=step, reason=reason, hint=hint)


class Checklist:
    """Runs checks one after the other and keeps every outcome; nothing that failed is built upon.

    Args:
        titles: what each step is called; a step without a title cannot be run.
    """

    def __init__(self, titles: Mapping[str, str] = TITLES) -> None:
        self._titles = titles
        self._steps: dict[str, Step] = {}
        self._warnings: list[str] = []
        self._hints: list[str] = []

    @property
    def steps(self) -> tuple[Step, ...]:
        """All outcomes so far, in order."""
        return tuple(self._steps.values())

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the relying party should know even when all is well."""
        return tuple(self._warnings)

    @property
    def hints(self) -> tuple[str, ...]:
        """What may help, one line a failed step that knows."""
        return tuple(self._hints)

    def passed(self, *steps: str) -> bool:
        """Return whether all these steps ended well."""
        return all(s in self._steps and self._steps[s].outcome is Outcome.OK for s in steps)

    def failed(self) -> tuple[Step, ...]:
        """Return the steps that failed."""
        return tuple(step for step in self._steps.values() if step.outcome is Outcome.FAILED)

    def warn(self, text: str) -> None:
        """Add a line that is part of the appraisal."""
        self._warnings.append(text)

    def skip(self, step: str, detail: str) -> None:
        """Record that a step does not apply."""
        self._record(step, Outcome.SKIPPED, detail)

    def run(self, step: str, check: Callable[[], tuple[_T, str]], *, needs: Sequence[str] = ()) -> _T | None:
        """Run one check.

        Args:
            step: its number.
            check: returns a value and a line of detail, or raises; any exception fails the step.
            needs: the steps whose results it reads; unless all of them passed it is skipped.

        Returns:
            The check's value, or None when it failed or was skipped.
        """
        missing = [need for need in needs if not self.passed(need)]
        if missing:
            self.skip(step, f"not reached: needs {', '.join(missing)}")
            return None
        try:
            value, detail = check()
        except VerificationError as error:
            self._fail(step, error.reason, error.message, error.hint)
        except (FormatError, ManifestError) as error:
            self._fail(step, "malformed", error.message, error.hint)
        except Exception as error:
            # a check that breaks has not passed; the text may quote what broke it, so it is not shown
            self._fail(step, "internal-error", f"the check itself broke: {type(error).__name__}", FAULT)
        else:
            self._record(step, Outcome.OK, detail)
            return value
        return None

    def _fail(self, step: str, reason: str, detail: str, hint: str | None) -> None:
        self._record(step, Outcome.FAILED, detail, reason)
        if hint:
            self._hints.append(hint)

    def _record(self, step: str, outcome: Outcome, detail: str, reason: str = "") -> None:
        if step in self._steps:
            raise AssertionError(f"step {step} was run twice")
        self._steps[step] = Step(step, self._titles[step], outcome, detail, reason)


def found(value: _T | None) -> _T:
    """Return a value that an earlier step, which this one needs, has produced."""
    if value is None:
        raise AssertionError("a step was run without the step it needs")
    return value
