"""Is the resolved kernel configuration the one that the image promises? Rules, and their judgement.

The rules are `guest/kernel/policy.txt`; what a debug image may have in spite of them is `policy-debug.txt`.
They are judged on the configuration that Kconfig made of the fragments, because defaults and selections can
turn on what no fragment names, and a symbol with an unmet dependency is dropped without a word.

The leaky image, on which the checks of a finished kernel are seen to fire, must break every rule that forbids
something, save those that `policy-leaky.txt` spares.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import Enum

from blindbuild.assemble.kernel_config import FRAGMENT_DIRECTORY, OFF
from blindbuild.errors import BuildError, PolicyError

CHANNEL_ROWS = range(1, 41)  # the rows of the channel table

_RULE = re.compile(
    r"(?P<kind>require|forbid|family|waive|spare)\s+(?P<symbol>[A-Za-z0-9_]+)(?P<optional>\??)"
    r"(?P<has_value>\s+=(?P<value>.*?))?(?:\s+@(?P<channels>[0-9]+(?:,[0-9]+)*))?\s+#\s+(?P<reason>\S.*)"
)


class RuleKind(Enum):
    """What a rule says; the value is its keyword."""

    REQUIRE = "require"
    FORBID = "forbid"
    FAMILY = "family"
    WAIVE = "waive"
    SPARE = "spare"


_JUDGING = frozenset({RuleKind.REQUIRE, RuleKind.FORBID, RuleKind.FAMILY})


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of a policy.

    `symbol` has no `CONFIG_`; for a family it is the prefix. `value` is what a require rule asks for, as
    written in a `.config`; `members` are the symbols that a family may have. `channels` are rows of the
    channel table.
    """

    kind: RuleKind
    symbol: str
    value: str
    members: tuple[str, ...]
    optional: bool
    channels: tuple[int, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules in force, and the symbols that a debug image is excused for."""

    rules: tuple[Rule, ...]
    waived: frozenset[str]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a rule found: nothing, when it holds, or one sentence for each violation."""

    rule: Rule
    violations: tuple[str, ...]


def load_policy(*, debug: bool) -> Policy:
    """Return the policy that comes with blindbuild."""
    text = (FRAGMENT_DIRECTORY / "policy.txt").read_text("ascii")
    waivers = (FRAGMENT_DIRECTORY / "policy-debug.txt").read_text("ascii") if debug else ""
    return parse_policy(text, waivers=waivers)


def parse_policy(text: str, *, waivers: str = "") -> Policy:
    """Return the policy of these two files.

    Raises:
        BuildError: a malformed line, no rule at all, two rules about one symbol, a waiver without a rule that
            it could waive.
    """
    rules = _parse_rules(text, "policy.txt", _JUDGING)
    if not rules:
        raise BuildError("policy.txt: expected at least one rule, got none")
    waived = _parse_rules(waivers, "policy-debug.txt", frozenset({RuleKind.WAIVE}))
    for waiver in waived:
        if not any(_speaks_of(rule, waiver.symbol) for rule in rules):
            raise BuildError(f"policy-debug.txt: no rule of policy.txt forbids CONFIG_{waiver.symbol}")
    return Policy(rules, frozenset(waiver.symbol for waiver in waived))


def load_spared() -> Mapping[str, str]:
    """Return the symbols that the leaky kernel leaves alone, and why."""
    text = (FRAGMENT_DIRECTORY / "policy-leaky.txt").read_text("ascii")
    return parse_spared(text, load_policy(debug=False))


def parse_spared(text: str, policy: Policy) -> Mapping[str, str]:
    """Return symbol and reason of each line.

    Raises:
        BuildError: a malformed line, or a symbol that no rule of the policy forbids by its name.
    """
    spared = _parse_rules(text, "policy-leaky.txt", frozenset({RuleKind.SPARE}))
    forbidden = {rule.symbol for rule in policy.rules if rule.kind is not RuleKind.REQUIRE}
    for rule in spared:
        if rule.symbol not in forbidden:
            raise BuildError(f"policy-leaky.txt: no rule of policy.txt is about CONFIG_{rule.symbol}")
    return {rule.symbol: rule.reason for rule in spared}


def check_leaks(policy: Policy, config: Mapping[str, str], *, spared: Set[str]) -> None:
    """Check that a configuration breaks every rule that forbids something, save the spared ones.

    Raises:
        PolicyError: naming every rule that holds, and every spared one that does not: it needs no mercy.
    """
    violations = []
    for judgement in judge_config(policy, config):
        rule, broken = judgement.rule, bool(judgement.violations)
        if rule.kind is not RuleKind.REQUIRE and not rule.optional and broken == (rule.symbol in spared):
            state = "broken, but spared" if broken else "kept, so nothing shows that it can fail"
            violations.append(f"{rule.kind.value} {rule.symbol}: {state}")
    _raise_violations("the leaky kernel must break every rule", violations)


def judge_config(policy: Policy, config: Mapping[str, str]) -> tuple[Judgement, ...]:
    """Return what each rule says about a resolved configuration, in the policy's order.

    Raises:
        BuildError: the configuration has no symbol at all.
    """
    if not config:
        raise BuildError("kernel policy: expected a configuration, got one without symbols")
    return tuple(Judgement(rule, _judge(rule, policy.waived, config)) for rule in policy.rules)


def check_policy(policy: Policy, config: Mapping[str, str]) -> None:
    """Check a resolved configuration against every rule, and that nothing is built as a module.

    Raises:
        PolicyError: naming every violated rule with its reason.
    """
    violations = [
        f"{violation} ({judgement.rule.reason})"
        for judgement in judge_config(policy, config)
        for violation in judgement.violations
    ]
    violations += [
        f"CONFIG_{symbol}=m (there are no modules)" for symbol in sorted(config) if config[symbol] == "m"
    ]
    _raise_violations("the kernel configuration breaks its policy", violations)


def check_answer(asked: Mapping[str, str], config: Mapping[str, str]) -> None:
    """Check that Kconfig took every line of the fragments, the command line among them.

    Raises:
        PolicyError: naming every symbol that has another value than asked for.
    """
    violations = [
        f"CONFIG_{symbol}: expected {value}, got {config.get(symbol, 'nothing')}"
        for symbol, value in sorted(asked.items())
        if config.get(symbol, OFF) != value
    ]
    _raise_violations("the kernel dropped or changed lines of the fragments", violations)


def check_symbols_known(policy: Policy, known: Set[str]) -> None:
    """Check that the kernel source has every symbol that a rule names: a misspelt one would always hold.

    Args:
        policy: its rules marked optional may be unknown.
        known: all symbols that the Kconfig files of the source define.

    Raises:
        PolicyError: naming every unknown symbol.
    """
    violations = []
    for rule in policy.rules:
        if rule.kind is RuleKind.FAMILY:
            unknown = [member for member in rule.members if member not in known]
            if not any(symbol.startswith(rule.symbol) for symbol in known):
                unknown.append(f"{rule.symbol}*")
        else:
            unknown = [] if rule.optional or rule.symbol in known else [rule.symbol]
        violations += [f"CONFIG_{symbol} ({rule.kind.value}: {rule.reason})" for symbol in unknown]
    _raise_violations("the policy names symbols that the kernel source does not have", violations)


def _raise_violations(title: str, violations: Sequence[str]) -> None:
    if violations:
        lines = "".join(f"\n  {violation}" for violation in violations)
        raise PolicyError(f"{title}, {len(violations)} times:{lines}")


def _judge(rule: Rule, waived: Set[str], config: Mapping[str, str]) -> tuple[str, ...]:
    if rule.kind is RuleKind.REQUIRE:
        actual = config.get(rule.symbol, OFF)
        return () if actual == rule.value else (f"CONFIG_{rule.symbol}: expected {rule.value}, got {actual}",)
    if rule.kind is RuleKind.FAMILY:
        suspects = sorted(symbol for symbol in config if symbol.startswith(rule.symbol))
        found = [symbol for symbol in suspects if config[symbol] in ("y", "m") and symbol not in rule.members]
    else:
        found = [rule.symbol] if config.get(rule.symbol, OFF) != OFF else []
    return tuple(
        f"CONFIG_{symbol}: expected it to be off, got {config[symbol]}"
        for symbol in found
        if symbol not in waived
    )


def _speaks_of(rule: Rule, symbol: str) -> bool:
    if rule.kind is RuleKind.FAMILY:
        return symbol.startswith(rule.symbol)
    return rule.kind is RuleKind.FORBID and rule.symbol == symbol


def _parse_rules(text: str, where: str, allowed: Set[RuleKind]) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    seen: set[tuple[bool, str]] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        if not line or line.startswith("#"):
            continue
        rule = _parse_rule(line, f"{where}:{number}")
        if rule.kind not in allowed:
            raise BuildError(f"{where}:{number}: no {rule.kind.value} rule may stand here")
        subject = (rule.kind is RuleKind.FAMILY, rule.symbol)
        if subject in seen:
            raise BuildError(f"{where}:{number}: a second rule about {rule.symbol}")
        seen.add(subject)
        rules.append(rule)
    return tuple(rules)


def _parse_rule(line: str, where: str) -> Rule:
    match = _RULE.fullmatch(line)
    if match is None:
        raise BuildError(
            f"{where}: expected `keyword SYMBOL [= value] [@channels]  # reason`, got {line[:80]!r}"
        )
    kind = RuleKind(match["kind"])
    value = (match["value"] or "").strip()
    takes_value = kind in (RuleKind.REQUIRE, RuleKind.FAMILY)
    if bool(match["has_value"]) != takes_value or (kind is RuleKind.REQUIRE and not value):
        raise BuildError(f"{where}: require and family need `= value`, and nothing else has one")
    channels = tuple(int(row) for row in (match["channels"] or "").split(",") if row)
    if not set(channels).issubset(CHANNEL_ROWS):
        raise BuildError(
            f"{where}: expected rows {CHANNEL_ROWS[0]} to {CHANNEL_ROWS[-1]}, got {match['channels']}"
        )
    members = tuple(value.split()) if kind is RuleKind.FAMILY else ()
    if not all(member.startswith(match["symbol"]) for member in members):
        raise BuildError(f"{where}: expected members that begin with {match['symbol']}, got {value!r}")
    return Rule(
        kind=kind,
        symbol=match["symbol"],
        value=value if kind is RuleKind.REQUIRE else "",
        members=members,
        optional=bool(match["optional"]),
        channels=channels,
        reason=match["reason"],
    )
