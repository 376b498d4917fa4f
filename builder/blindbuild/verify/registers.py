"""Steps E2 and E1: which platform this is, and whether every register holds what the statement says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.manifest import Statement
from blindbuild.measure.classification import (
    REGISTER_COUNT,
    Classification,
    Exact,
    Initial,
    OneOf,
    PlatformReference,
    Unconstrained,
    initial_value,
)
from blindbuild.verify.checklist import refuse
from blindbuild.verify.policy import Policy

KNOWN_KINDS = ("uefi-tpm",)
FIRMWARE_REGISTER = 0


@dataclass(frozen=True, slots=True)
class RegisterResult:
    """One register against its rule.

    Attributes:
        rule: `exact`, `oneOf`, `initial` or `unconstrained`.
        matches: always true for `unconstrained`.
        expected: the values that would match; empty for `unconstrained`.
        actual: the quoted value.
        why: what the statement says about the rule, for people.
    """

    register: int
    rule: str
    matches: bool
    expected: tuple[Digest, ...]
    actual: Digest
    why: str


@dataclass(frozen=True, slots=True)
class PlatformMatch:
    """The platform that fits best, and how each register compares with it."""

    platform: PlatformReference
    rules: tuple[Classification, ...]
    registers: tuple[RegisterResult, ...]

    @property
    def differing(self) -> tuple[int, ...]:
        """The registers that do not match."""
        return tuple(result.register for result in self.registers if not result.matches)


def match_platform(
    statement: Statement,
    bank: HashAlgorithm,
    values: Sequence[Digest],
    policy: Policy,
    *,
    operator_run: bool,
) -> tuple[PlatformMatch, str]:
    """Step E2: choose the platform, and see that its rules say something about every register.

    Args:
        statement: what was promised.
        bank: the bank of the values.
        values: the 24 quoted ones.
        policy: may name platforms.
        operator_run: A4 led to a test root; only then the firmware need not be pinned.

    Raises:
        VerificationError: no platform of that name, kind or bank, or rules that leave out too much.
    """
    named = [p for p in statement.platforms if not policy.platforms or p.identifier in policy.platforms]
    if not named:
        raise refuse(
            "E2",
            "platform-unknown",
            f"expected platform {' or '.join(sorted(policy.platforms))}, got a statement about "
            + ", ".join(p.identifier for p in statement.platforms),
        )
    usable = [p for p in named if p.kind in KNOWN_KINDS and bank in p.banks]
    if not usable:
        raise refuse(
            "E2",
            "platform-unknown",
            f"expected a platform of kind {' or '.join(KNOWN_KINDS)} with bank {bank.value}, got none",
        )
    # Each is tried and the closest is reported; only one that matches in every register passes E1.
    matches = [compare_registers(platform, bank, values) for platform in usable]
    best = min(matches, key=lambda match: (len(match.differing), match.platform.identifier))
    _check_rules(best, operator_run)
    return best, best.platform.identifier


def compare_registers(
    platform: PlatformReference, bank: HashAlgorithm, values: Sequence[Digest]
) -> PlatformMatch:
    """Compare 24 quoted values with one platform's rules."""
    rules = platform.banks[bank]
    results = tuple(_compare(register, rule, values[register]) for register, rule in enumerate(rules))
    return PlatformMatch(platform, rules, results)


def check_registers(match: PlatformMatch) -> tuple[None, str]:
    """Step E1: every register matches."""
    if match.differing:
        numbers = ", ".join(str(register) for register in match.differing)
        raise refuse(
            "E1",
            "register-mismatch",
            f"expected the registers of {match.platform.identifier}, got other values in {numbers}",
        )
    checked = sum(result.rule != "unconstrained" for result in match.registers)
    return None, f"{checked} registers as stated, {REGISTER_COUNT - checked} say nothing about the image"


def _check_rules(match: PlatformMatch, operator_run: bool) -> None:
    if len(match.rules) != REGISTER_COUNT:
        raise refuse("E2", "rules-incomplete", f"expected {REGISTER_COUNT} rules, got {len(match.rules)}")
    if not any(isinstance(rule, Exact) for rule in match.rules):
        raise refuse("E2", "rules-empty", "expected at least one exact value, got none")
    if not operator_run and not isinstance(match.rules[FIRMWARE_REGISTER], OneOf | Exact):
        raise refuse(
            "E2",
            "firmware-not-pinned",
            f"expected recorded values for PCR {FIRMWARE_REGISTER}, got none: the firmware could be any",
        )


def _compare(register: int, rule: Classification, actual: Digest) -> RegisterResult:
    match rule:
        case Exact(value, _events):
            return RegisterResult(register, "exact", actual.equals(value), (value,), actual, "")
        case OneOf(values, why):
            matches = any(actual.equals(value) for value in values)
            return RegisterResult(register, "oneOf", matches, values, actual, why)
        case Initial():
            value = initial_value(register, actual.algorithm)
            return RegisterResult(register, "initial", actual.equals(value), (value,), actual, "")
        case Unconstrained(reason):
            return RegisterResult(register, "unconstrained", True, (), actual, reason)
        case _:
            assert_never(rule)
