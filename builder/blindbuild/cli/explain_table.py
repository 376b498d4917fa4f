"""What `explain` prints for people: the registers, their events, and what the differences mean."""

from __future__ import annotations

from blindbuild.cli.explain_report import Report
from blindbuild.cli.render import EventLine, output_console, print_explanation, print_timeline
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType
from blindbuild.verify.explain import Change, Difference, describe_event

_SIGNS = {Change.SAME: "same", Change.CHANGED: "changed", Change.MISSING: "missing", Change.ADDED: "added"}


def print_report(report: Report) -> None:
    """Print a report on stdout."""
    console = output_console()
    if not report.against:
        _print_events(report)
        return
    for difference in report.differences:
        print_explanation(
            report.log.names[difference.register],
            cause=difference.cause,
            action=difference.action,
            lines=_lines(difference),
            console=console,
        )
    platform = f" (platform {report.platform})" if report.platform else ""
    names = ", ".join(report.log.names[d.register] for d in report.differences)
    verdict = f"differs in {names}" if names else "equal"
    console.print(f"  {verdict}: bank {report.bank.value}{platform}", markup=False)


def _lines(difference: Difference) -> tuple[EventLine, ...]:
    lines = []
    for number, step in enumerate(difference.steps):
        expected = "" if step.expected is None else f"{step.expected.digest.hex[:16]}… {step.expected.what}"
        got = "" if step.got is None else f"{step.got.digest.hex[:16]}… {step.got.what}"
        text = got or expected
        if step.change is Change.CHANGED:
            text = f"{got}\n{expected}"
        lines.append(EventLine(str(number), _SIGNS[step.change], text))
    return tuple(lines)


def _print_events(report: Report) -> None:
    console = output_console()
    doubtful = report.doubtful()
    try:
        values = report.log.replayed(report.bank).values
    except EventLogError as error:
        values = ()
        console.print(f"  cannot be replayed: {error.message}", markup=False)
    for register, name in enumerate(report.log.names):
        events = [(index, event) for index, event in report.events() if event.register == register]
        if not events:
            continue
        lines = [
            EventLine(
                str(index),
                "odd" if index in doubtful else "same",
                f"{'-' * 16}  {describe_event(event)}"
                if event.event_type == EventType.EV_NO_ACTION
                else f"{event.digests[report.bank].hex[:16]}… {describe_event(event)}",
            )
            for index, event in events
        ]
        value = values[register].hex if values and (report.log.tpm or register) else ""
        print_timeline(name, value=value, bank=report.bank.value, lines=lines, console=console)
