"""What the static checks found: a row for each channel, and the document that is made of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blindbuild.audit.check import Check
from blindbuild.audit.rules import ChannelRule
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.manifest.ledger import ChannelState


@dataclass(frozen=True, slots=True)
class Row:
    """One channel as it was found; `allowed` says that the recipe leaves open what was found."""

    rule: ChannelRule
    state: ChannelState
    checks: tuple[Check, ...]
    allowed: bool = False

    @property
    def findings(self) -> tuple[str, ...]:
        """What its checks found wrong, each once."""
        return tuple(dict.fromkeys(finding for check in self.checks for finding in check.findings))


@dataclass(frozen=True, slots=True)
class Ledger:
    """All rows in the order in which they are shown, and what was found besides.

    Attributes:
        document: the whole of `channels.json`.
    """

    rows: tuple[Row, ...]
    document: Mapping[str, JsonValue]

    @property
    def undeclared(self) -> tuple[str, ...]:
        """What was found in channels that the recipe does not leave open, each once, with those channels."""
        return _tell(row for row in self.rows if not row.allowed)

    def render(self) -> bytes:
        """Return `channels.json` in canonical form."""
        return canonical_bytes(dict(self.document))


def _tell(rows: Iterable[Row]) -> tuple[str, ...]:
    found: dict[str, list[ChannelRule]] = {}
    for row in rows:
        for finding in row.findings:
            found.setdefault(finding, []).append(row.rule)
    return tuple(_say(finding, rules) for finding, rules in found.items())


def _say(finding: str, rules: Sequence[ChannelRule]) -> str:
    first, *others = rules
    also = f" (also channels {', '.join(str(rule.number) for rule in others)})" if others else ""
    return f"channel {first.number} ({first.identifier}): {finding}{also}"
