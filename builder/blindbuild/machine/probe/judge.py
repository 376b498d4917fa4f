"""The verdict on each check: from what product, hostile image and leaky image showed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from blindbuild.digest import Digest
from blindbuild.machine.probe.checks import CHECKS, ProbeCheck
from blindbuild.machine.probe.observe import Observation
from blindbuild.manifest.probe import MAX_TEXT, CheckReport, Control, Count, settle_verdict

MAX_FINDINGS = 40  # of one check in the report; more say the same


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What was seen; without the hostile or the leaky machine some or all checks stay without proof."""

    product: Observation
    hostile: Observation | None = None
    leaky: Observation | None = None


def judge_all(seen: Observations, checks: Sequence[ProbeCheck] = CHECKS) -> tuple[CheckReport, ...]:
    """Return every check's report, in the order of the checks: what no image can close first."""
    seen = _compare_boots(seen)
    return tuple(_judge(check, seen) for check in checks)


def _compare_boots(seen: Observations) -> Observations:
    """Give each machine the consoles of another boot to compare with."""
    reference = _digests(seen.product)
    other = None if seen.hostile is None else seen.hostile.handshake
    first = seen.product.handshake
    return Observations(
        product=replace(seen.product, other_boot=_digests(seen.hostile), other_handshake=other),
        hostile=seen.hostile and replace(seen.hostile, other_boot=reference, other_handshake=first),
        leaky=seen.leaky and replace(seen.leaky, other_boot=reference, other_handshake=first),
    )


def _digests(seen: Observation | None) -> dict[str, Digest]:
    return {} if seen is None else {console.name: console.digest for console in seen.consoles}


def _judge(check: ProbeCheck, seen: Observations) -> CheckReport:
    machines = [("", seen.product), ("hostile", seen.hostile)]
    if check.hostile_only:
        del machines[0]
    elif not check.closable:
        del machines[1]
    looked_at: list[Count] = []
    findings: list[str] = []
    for role, machine in machines:
        if machine is None:
            continue
        prefix = f"{role}: " if role else ""
        looked_at += (Count(f"{prefix}{what}", number) for what, number in check.count(machine).items())
        findings += (f"{prefix}{finding}" for finding in check.findings(machine))
    control = _control(check, seen.leaky)
    verdict, reasons = settle_verdict(
        closable=check.closable, findings=findings, looked_at=looked_at, control=control
    )
    return CheckReport(
        name=check.name,
        claim=check.claim,
        channels=check.channels,
        closable=check.closable,
        looked_at=tuple(looked_at),
        findings=shorten(findings),
        control=control,
        verdict=verdict,
        reasons=reasons,
    )


def _control(check: ProbeCheck, leaky: Observation | None) -> Control | None:
    if leaky is None:
        return None
    # where there was nothing to look at, what it says is no catch
    blind = not any(check.count(leaky).values())
    return Control(leaky.image, () if blind else shorten(check.findings(leaky)))


def shorten(texts: Sequence[str]) -> tuple[str, ...]:
    """Return the first findings, each short enough for the report, and how many more there are."""
    kept = tuple(text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…" for text in texts)
    if len(kept) <= MAX_FINDINGS:
        return kept
    return (*kept[: MAX_FINDINGS - 1], f"and {len(kept) - MAX_FINDINGS + 1} more")
