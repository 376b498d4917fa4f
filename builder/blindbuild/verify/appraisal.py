"""The result of judging a session: every step, every register, and what may be relied upon."""

from __future__ import annotations

from dataclasses import InitVar, dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import VerificationError
from blindbuild.formats.canonical import JsonValue
from blindbuild.manifest import format_time
from blindbuild.verify.checklist import FAULT, Outcome, Step
from blindbuild.verify.difference import Difference
from blindbuild.verify.policy import History
from blindbuild.verify.registers import RegisterResult

_PROOF = object()  # whoever holds it is this package


@dataclass(frozen=True, slots=True)
class AcceptedSession:
    """A session that passed every step; `appraise` is the only way to one.

    Attributes:
        spki: DER SubjectPublicKeyInfo of the key that was attested: of TLS, or the one that requests are
            sealed to.
        attestation_key: its TPM name.
        live: the exchange was this client's own, just now; false for a recorded one, which proves nothing
            about now.
        expires: seconds since 1970; after it the session must be attested again.
        history: what to remember, in place of what was remembered before.
        checkpoint: the transparency log's, to be remembered too; None when there is no new one.
    """

    product: str
    version: str
    sequence: int
    statement: Digest
    platform: str
    bank: HashAlgorithm
    spki: bytes
    attestation_key: bytes
    live: bool
    expires: int
    warnings: tuple[str, ...]
    history: History
    checkpoint: bytes | None
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("an accepted session comes from appraise()")


@dataclass(frozen=True, slots=True)
class Appraisal:
    """Everything that was found out about a session.

    Attributes:
        steps: in the order in which they were run.
        registers: all 24 against the statement; empty when it never came to that.
        differences: one explanation for each register that differs.
        warnings: what the relying party should know even when all is well.
        hints: what may help.
        product: name, version and sequence as stated, or None when no statement was believed.
        platform: the platform that fits best, or None.
        live: the exchange was this client's own, just now; false for a recorded one, and without any.
    """

    steps: tuple[Step, ...]
    registers: tuple[RegisterResult, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]
    hints: tuple[str, ...]
    product: tuple[str, str, int] | None
    platform: str | None
    live: bool
    verdict: AcceptedSession | None

    def accepted(self) -> AcceptedSession:
        """Return what may be relied upon.

        Raises:
            VerificationError: at least one step failed; the message lists all that did, the error's step and
                reason are those of the first.
        """
        if self.verdict is not None:
            return self.verdict
        failed = self.failed
        if not failed:
            raise VerificationError("not every step was reached", step="C7", reason="incomplete")
        listed = "; ".join(f"{step.id} {step.reason}: {step.detail}" for step in failed)
        causes = [f"PCR {d.register}: {d.cause}" for d in self.differences]
        raise VerificationError(
            f"{len(failed)} of {len(self.steps)} steps failed: {listed}",
            step=failed[0].id,
            reason=failed[0].reason,
            hint="\n".join((*causes, *self.hints)) or None,
        )

    @property
    def failed(self) -> tuple[Step, ...]:
        """The steps that failed."""
        return tuple(step for step in self.steps if step.outcome is Outcome.FAILED)

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons of all failed steps, as `step:reason`."""
        return frozenset(f"{step.id}:{step.reason}" for step in self.failed)

    def to_json(self) -> JsonValue:
        """Return the appraisal as plain data with stable names, for `--json`."""
        name, version, sequence = self.product or (None, None, None)
        return {
            "version": 1,
            "accepted": self.verdict is not None,
            "live": self.live,
            "product": name,
            "productVersion": version,
            "sequence": sequence,
            "platform": self.platform,
            "expires": None if self.verdict is None else format_time(self.verdict.expires),
            "warnings": list(self.warnings),
            "hints": list(self.hints),
            "steps": [_step_json(step) for step in self.steps],
            "registers": [_register_json(result) for result in self.registers],
            "differences": [_difference_json(difference) for difference in self.differences],
        }


def broken_appraisal(error: Exception, *, live: bool) -> Appraisal:
    """Return the refusal for a verifier that broke outside of its steps; its text may quote what broke it."""
    step = Step(
        "C7",
        "the verifier came to an end",
        Outcome.FAILED,
        f"the verifier itself broke: {type(error).__name__}",
        "internal-error",
    )
    return Appraisal((step,), (), (), (), (FAULT,), None, None, live, None)


def _step_json(step: Step) -> JsonValue:
    return {
        "id": step.id,
        "title": step.title,
        "outcome": step.outcome.value,
        "detail": step.detail,
        "reason": step.reason,
    }


def _register_json(result: RegisterResult) -> JsonValue:
    return {
        "register": result.register,
        "rule": result.rule,
        "matches": result.matches,
        "expected": [value.hex for value in result.expected],
        "actual": result.actual.hex,
        "why": result.why,
    }


def _difference_json(difference: Difference) -> JsonValue:
    return {
        "register": difference.register,
        "position": difference.position,
        "expected": difference.expected,
        "got": difference.got,
        "cause": difference.cause,
        "action": difference.action,
    }
