"""How a probe is told: a table in the terminal, and the same as a page of Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from blindbuild.cli.render import FAILED, OK, SKIPPED, output_console, plain
from blindbuild.manifest.probe import CheckReport, Probe, Verdict

_MARKS = {Verdict.SHOWN: OK, Verdict.OPEN: FAILED, Verdict.NOT_PROVEN: SKIPPED}
_WORDS = {Verdict.SHOWN: "shown", Verdict.OPEN: "open", Verdict.NOT_PROVEN: "not proven"}
HOSTILE = "hostile: "
_SHOWN_FINDINGS = 8  # of one check in a terminal; probe.json has more


def print_probe(probe: Probe) -> None:
    """Print every check on stdout: what no image can close first."""
    console = output_console()
    for check in probe.checks:
        mark, word = _MARKS[check.verdict], _WORDS[check.verdict]
        console.print(f"  {mark} {word:<10} [bold]{check.name}[/]  {plain(check.claim)}")
        console.print(
            f"                 [dim]{plain(', '.join(check.channels))}; {plain(_numbers(check))}[/]"
        )
        for finding in check.findings[:_SHOWN_FINDINGS]:
            console.print(f"                 {FAILED} {plain(finding)}")
        for reason in check.reasons:
            console.print(f"                 {SKIPPED} {plain(reason)}")
        if check.control is not None and check.control.caught:
            console.print(f"                 [dim]leaky: {plain(check.control.saw[0])}[/]")
    for what, why in probe.not_looked_at:
        console.print(f"  {SKIPPED} not looked at: {plain(what)}: {plain(why)}")
    console.print(f"\n  {plain(summarize_controls(probe))}")


def summarize_controls(probe: Probe) -> str:
    """Return how many controls were caught, of those checks that an image can satisfy."""
    checks = [check for check in probe.checks if check.closable]
    caught = sum(check.control is not None and check.control.caught for check in checks)
    return f"{caught} of {len(checks)} controls caught"


def render_page(probe: Probe, *, date: str) -> str:
    """Return a page for people; it names no digest, so that it can stand beside a source tree."""
    machine = probe.machine
    seconds = sum(phase.milliseconds for phase in probe.phases) / 1000
    lines = [
        "# What a probe saw",
        "",
        f"`blindbuild channels images/{probe.name}/{probe.version} --probe`, {date}.",
        f"blindbuild {probe.tool[1]}, QEMU {machine.qemu} with {machine.accelerator},",
        f"{machine.memory_mib} MiB a machine; {seconds:.0f} s for all machines.",
        f"**{summarize_controls(probe)}.** What a verdict needs: [spec/probe.md](spec/probe.md).",
        "",
        "| check | verdict | what holds, for which channels | looked at | found | the leaky image showed |",
        "|---|---|---|---|---|---|",
        *(_row(check) for check in probe.checks),
        "",
        "Not looked at:",
        *(f"* {_cell(what)}: {_cell(why)}" for what, why in probe.not_looked_at),
        "",
        "Seconds of each phase:",
        "",
        *_phase_table(probe),
    ]
    return "\n".join(lines) + "\n"


def _row(check: CheckReport) -> str:
    control = check.control
    cells = (
        f"`{check.name}`",
        _WORDS[check.verdict],
        f"{check.claim} ({', '.join(check.channels)})",
        _numbers(check),
        "; ".join((*check.findings[:_SHOWN_FINDINGS], *check.reasons)) or "nothing",
        "was not run" if control is None else _first(control.saw),
    )
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _first(saw: tuple[str, ...]) -> str:
    if not saw:
        return "nothing"
    more = f" (and {len(saw) - 1} more)" if len(saw) > 1 else ""
    return saw[0] + more


def _numbers(check: CheckReport) -> str:
    """Return what was looked at on the product; on the hostile machine only where nothing else is."""
    own = [count for count in check.looked_at if not count.what.startswith(HOSTILE)]
    return ", ".join(f"{count.number} {count.what}" for count in own or check.looked_at) or "nothing"


def _phase_table(probe: Probe) -> Iterator[str]:
    names = list(dict.fromkeys(phase.phase for phase in probe.phases))
    yield "| machine | " + " | ".join(names) + " |"
    yield "|---" * (len(names) + 1) + "|"
    for role in dict.fromkeys(phase.role for phase in probe.phases):
        found = {
            phase.phase: f"{phase.milliseconds / 1000:.1f}" for phase in probe.phases if phase.role == role
        }
        yield f"| {role} | " + " | ".join(found.get(name, "") for name in names) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
