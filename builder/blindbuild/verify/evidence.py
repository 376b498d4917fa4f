"""What judging the evidence of SEV-SNP, TDX and Nitro Enclaves has in common: values, binding and verdict.

Source: docs/spec/platform-evidence.md.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass

from blindbuild.digest import Digest
from blindbuild.errors import VerificationError
from blindbuild.formats.canonical import JsonValue
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.measure.launch_kinds import LAUNCH_KINDS
from blindbuild.verify.checklist import Checklist, Outcome, Step, found, refuse

REPORT_DATA_SIZE = 64  # bytes, of SEV-SNP and of TDX
BOUND_SIZE = 32  # bytes; what `bound_data` gives
TITLES = {
    "R1": "there are reference values for this kind of platform",
    "R2": "every value is as stated",
    "R3": "the evidence was made for this nonce, key and statement",
}
NEVER_SEEN = "this kind of evidence was never seen on our hardware: it was tried on public samples only"
_PROOF = object()  # whoever holds it is this package


@dataclass(frozen=True, slots=True)
class Reference:
    """The values that a platform of one kind must report.

    Attributes:
        identifier: of the platform in the statement, or a word for values that were given by hand.
    """

    identifier: str
    kind: str
    values: Mapping[str, OneOf | Unconstrained]


@dataclass(frozen=True, slots=True)
class Expected:
    """What evidence is judged by, apart from whose signatures count.

    Attributes:
        references: each is tried; one must fit in every value.
        bound: the 32 bytes that `bound_data` gives for nonce, key and statement.
        nonce: the client's nonce, for evidence with a field of its own for it.
        public_key: DER SubjectPublicKeyInfo of the channel, likewise.
        now: seconds since 1970.
    """

    references: tuple[Reference, ...]
    bound: bytes
    now: int
    nonce: bytes | None = None
    public_key: bytes | None = None


@dataclass(frozen=True, slots=True)
class ValueResult:
    """One value against its rule, `oneOf` or `unconstrained`; `actual` is None if it was not reported."""

    name: str
    rule: str
    matches: bool
    expected: tuple[Digest, ...]
    actual: Digest | None
    why: str


@dataclass(frozen=True, slots=True)
class AcceptedEvidence:
    """Evidence that passed every step; `appraise_evidence` is the only way to one."""

    kind: str
    platform: str
    values: tuple[ValueResult, ...]
    warnings: tuple[str, ...]
    proof: InitVar[object]

    def __post_init__(self, proof: object) -> None:
        if proof is not _PROOF:
            raise TypeError("accepted evidence comes from appraise_evidence()")


@dataclass(frozen=True, slots=True)
class EvidenceAppraisal:
    """Everything that was found out about one piece of evidence.

    Attributes:
        steps: in the order in which they were run.
        values: each reported value against the reference that fits best; empty when it never came to that.
        warnings: what the relying party should know even when all is well.
        hints: what may help.
    """

    kind: str
    steps: tuple[Step, ...]
    values: tuple[ValueResult, ...]
    warnings: tuple[str, ...]
    hints: tuple[str, ...]
    verdict: AcceptedEvidence | None

    def accepted(self) -> AcceptedEvidence:
        """Return what may be relied upon.

        Raises:
            VerificationError: at least one step failed or was not reached; step and reason are those of the
                first.
        """
        if self.verdict is not None:
            return self.verdict
        failed = [step for step in self.steps if step.outcome is Outcome.FAILED]
        if not failed:
            raise VerificationError("not every step was reached", step="C7", reason="incomplete")
        listed = "; ".join(f"{step.id} {step.reason}: {step.detail}" for step in failed)
        raise VerificationError(
            f"{len(failed)} of {len(self.steps)} steps failed: {listed}",
            step=failed[0].id,
            reason=failed[0].reason,
            hint="\n".join(self.hints) or None,
        )

    @property
    def reasons(self) -> frozenset[str]:
        """The reasons of all failed steps, as `step:reason`."""
        failed = [step for step in self.steps if step.outcome is Outcome.FAILED]
        return frozenset(f"{step.id}:{step.reason}" for step in failed)

    def to_json(self) -> JsonValue:
        """Return the appraisal as plain data with stable names, for `--json`."""
        return {
            "version": 1,
            "accepted": self.verdict is not None,
            "kind": self.kind,
            "platform": None if self.verdict is None else self.verdict.platform,
            "warnings": list(self.warnings),
            "hints": list(self.hints),
            "steps": [
                {
                    "id": step.id,
                    "title": step.title,
                    "outcome": step.outcome.value,
                    "detail": step.detail,
                    "reason": step.reason,
                }
                for step in self.steps
            ],
            "values": [
                {
                    "name": value.name,
                    "rule": value.rule,
                    "matches": value.matches,
                    "expected": [digest.hex for digest in value.expected],
                    "actual": None if value.actual is None else value.actual.hex,
                    "why": value.why,
                }
                for value in self.values
            ],
        }


def judge_values(
    steps: Checklist,
    kind: str,
    expected: Expected,
    actual: Mapping[str, Digest] | None,
    *,
    needs: Sequence[str],
) -> tuple[str, tuple[ValueResult, ...]]:
    """Run steps R1 and R2; return the platform that fits best and its results.

    Args:
        actual: every value that the evidence reports, by name; None when it could not be read.
        needs: the steps that must have passed for `actual` to be there.
    """
    usable = steps.run("R1", lambda: _usable(expected.references, kind))
    compared: list[tuple[str, tuple[ValueResult, ...]]] = []
    if usable and actual is not None:
        compared = [(reference.identifier, _compare(reference, actual)) for reference in usable]
    best = min(compared, key=lambda each: (_differing(each[1]), each[0]), default=("", ()))
    steps.run("R2", lambda: _check_values(*best), needs=("R1", *needs))
    return best


def judge_report_data(
    steps: Checklist, expected: Expected, actual: bytes | None, *, needs: Sequence[str]
) -> None:
    """Run step R3 on 64 bytes: the 32 of the binding, then zeros.

    Source: docs/spec/platform-evidence.md, "Binding".
    """
    steps.run("R3", lambda: _check_report_data(found(actual), expected.bound), needs=needs)


def accept(
    steps: Checklist,
    kind: str,
    platform: str,
    values: tuple[ValueResult, ...],
    *,
    titles: Mapping[str, str],
    optional: frozenset[str],
) -> EvidenceAppraisal:
    """Return the appraisal: accepted if every step of `titles` passed, but those that may be skipped."""
    steps.warn(NEVER_SEEN)
    complete = {step.id for step in steps.steps} == titles.keys() and all(
        step.outcome is Outcome.OK or (step.outcome is Outcome.SKIPPED and step.id in optional)
        for step in steps.steps
    )
    verdict = (
        AcceptedEvidence(kind, platform, values, steps.warnings, _PROOF) if complete and values else None
    )
    return EvidenceAppraisal(kind, steps.steps, values, steps.warnings, steps.hints, verdict)


def _usable(references: tuple[Reference, ...], kind: str) -> tuple[tuple[Reference, ...], str]:
    usable = tuple(reference for reference in references if reference.kind == kind)
    if not usable:
        raise refuse("R1", "reference-missing", f"expected reference values of kind {kind}, got none")
    rules = LAUNCH_KINDS[kind]
    for reference in usable:
        missing = [name for name in rules.required if name not in reference.values]
        open_values = [name for name in rules.fixed if not isinstance(reference.values.get(name), OneOf)]
        if missing or open_values or not reference.values.keys() <= {*rules.required, *rules.optional}:
            raise refuse(
                "R1",
                "reference-incomplete",
                f"expected values for {', '.join(rules.fixed)} and rules for {', '.join(rules.required)}",
            )
    return usable, ", ".join(reference.identifier for reference in usable)


def _compare(reference: Reference, actual: Mapping[str, Digest]) -> tuple[ValueResult, ...]:
    results = []
    for name, rule in reference.values.items():
        value = actual.get(name)
        if isinstance(rule, OneOf):
            matches = value is not None and any(value.equals(candidate) for candidate in rule.values)
            results.append(ValueResult(name, "oneOf", matches, rule.values, value, rule.why))
        else:
            results.append(ValueResult(name, "unconstrained", True, (), value, rule.reason))
    return tuple(results)


def _differing(results: tuple[ValueResult, ...]) -> int:
    return sum(not result.matches for result in results)


def _check_values(identifier: str, results: tuple[ValueResult, ...]) -> tuple[None, str]:
    differing = [result.name for result in results if not result.matches]
    if differing or not any(result.expected for result in results):
        raise refuse(
            "R2",
            "measurement-mismatch",
            f"expected the values of {identifier}, got another {', '.join(differing)}",
        )
    return None, f"{identifier}: {', '.join(result.name for result in results if result.expected)}"


def check_bound(bound: bytes) -> None:
    """Refuse in step R3 what cannot be the digest over statement, nonce and key."""
    if len(bound) != BOUND_SIZE:
        raise refuse(
            "R3",
            "binding-malformed",
            f"expected {BOUND_SIZE} bytes over a statement, a random nonce and a key, got {len(bound)}",
        )


def _check_report_data(actual: bytes, bound: bytes) -> tuple[None, str]:
    check_bound(bound)
    if not hmac.compare_digest(actual, bound + bytes(REPORT_DATA_SIZE - BOUND_SIZE)):
        raise refuse(
            "R3",
            "binding-mismatch",
            f"expected report data {bound.hex()} and {REPORT_DATA_SIZE - BOUND_SIZE} zeros, "
            f"got {actual.hex()}",
        )
    return None, f"report data {bound.hex()}, then zeros"
