"""The page that `explain --html` writes: a timeline as inline SVG, and all that the table says.

Everything in it that a log said went through `html.escape`, and the page forbids itself to load or run
anything; it reads in print and in the dark, and every mark has a shape as well as a colour.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from blindbuild.cli.explain_report import Report
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType, event_type_name
from blindbuild.formats.tcgrecord import LogEvent
from blindbuild.verify.explain import Change, Difference, Step, describe_event

_LANE, _LEFT, _TOP, _BOX = 26, 76, 24, 14  # SVG units
_WIDTH = 1100  # of the events; more than some 60 make the page scroll
_LEAST_SPACING, _MOST_SPACING = 17, 34
_WORDS = {
    Change.SAME: "as expected",
    Change.CHANGED: "changed",
    Change.MISSING: "missing",
    Change.ADDED: "added",
}
_MARKS = {Change.SAME: "", Change.CHANGED: "~", Change.MISSING: "−", Change.ADDED: "+"}

_STYLE = """
:root { --ink: #1b1b1f; --paper: #fff; --soft: #6a6a75; --line: #d9d9e0; --same: #8fa3bf; --none: #e4e4ea;
  --changed: #b26a00; --added: #b3261e; --missing: #6b4fa0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6ea; --paper: #16161a; --soft: #9a9aa6;
  --line: #34343c; --same: #54688a; --none: #2c2c34; --changed: #ffb74d; --added: #ff8a80;
  --missing: #b9a3e8; } }
@media print { :root { --ink: #000; --paper: #fff; --soft: #444; --line: #bbb; --same: #c5cede; --none: #eee;
  --changed: #8a5200; --added: #8f1d17; --missing: #4c3677; } .scroll { overflow: visible; }
  svg { max-width: 100%; height: auto; }
  section { break-inside: avoid; } }
body { color: var(--ink); background: var(--paper); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 78rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.soft { color: var(--soft); } .scroll { overflow-x: auto; }
code, td.hex { font-family: ui-monospace, monospace; font-size: .85em; overflow-wrap: anywhere; }
td.hex { min-width: 34ch; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; vertical-align: top;
  padding: .2rem .5rem; border-bottom: 1px solid var(--line); } th { font-weight: 600; }
tr.changed td:first-child { color: var(--changed); } tr.added td:first-child { color: var(--added); }
tr.missing td:first-child { color: var(--missing); } tr.missing td + td { text-decoration: line-through; }
.cause { font-size: 1.05rem; margin: .2rem 0; } .verdict { font-weight: 600; }
svg text { fill: var(--ink); font: 11px system-ui, sans-serif; } svg .lane { stroke: var(--line); }
svg rect { fill: var(--same); stroke: none; } svg rect.none { fill: var(--none); }
svg rect.changed { fill: var(--changed); } svg rect.added { fill: var(--added); }
svg rect.missing { fill: none; stroke: var(--missing); stroke-dasharray: 3 2; }
svg .mark { fill: var(--paper); font-weight: 700; text-anchor: middle; }
svg .mark.missing { fill: var(--missing); }
"""
_LEGEND = (
    '<p class="soft">One lane a register, one box an event, in the order of the log. Filled: as expected · ~ '
    "changed · + added · − dashed: expected and not there · pale: logged, never extended. What stands beside "
    "an event is what the log claims; only its digest was measured.</p>\n"
)
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_HEAD = (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
)


def explain_page(report: Report) -> str:
    """Return the whole page as HTML."""
    title = "What was measured" if not report.against else "Why the registers differ"
    parts = [
        f"{_HEAD}<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
        f"<p>{_summary(report)}</p>\n",
        f'<div class="scroll">{_timeline(report)}</div>\n',
        _LEGEND,
        *(_section(difference, report) for difference in report.differences),
        "<h2>All events</h2>\n",
        _event_table(report),
        "</body>\n</html>\n",
    ]
    return "".join(parts)


def _summary(report: Report) -> str:
    bank = f"bank <code>{report.bank.value}</code>, {len(report.log.log.events)} events"
    if not report.against:
        return bank
    against = f"against <code>{escape(report.against)}</code>"
    if report.platform:
        against += f", platform <code>{escape(report.platform)}</code>"
    names = ", ".join(report.log.names[difference.register] for difference in report.differences)
    verdict = f"differs in {names}" if names else "equal"
    return f'<span class="verdict">{escape(verdict)}</span> — {against}; {bank}'


def _marks(report: Report) -> dict[int, list[Step]]:
    """Return for each differing register its steps in the order of its events."""
    return {d.register: list(d.steps) for d in report.differences if d.steps}


def _timeline(report: Report) -> str:
    events = report.events()
    steps = _marks(report)
    lanes = sorted({event.register for _, event in events} | steps.keys())
    spacing = max(_LEAST_SPACING, min(_MOST_SPACING, _WIDTH // max(1, len(events))))
    width, height = _LEFT + spacing * (len(events) + 1), _TOP + _LANE * len(lanes) + 8
    shapes = [_lane(report.log.names[register], row, width) for row, register in enumerate(lanes)]
    position = dict.fromkeys(lanes, _LEFT)
    for number, (_, event) in enumerate(events):
        x, y = _LEFT + spacing * number, _TOP + _LANE * lanes.index(event.register)
        change = Change.SAME
        if event.event_type != EventType.EV_NO_ACTION:
            change = _next_change(steps, event.register, shapes, position[event.register], y)
            position[event.register] = x + spacing // 2
        shapes.append(
            _box(x, y, change, describe_event(event), none=event.event_type == EventType.EV_NO_ACTION)
        )
    for register in lanes:
        y = _TOP + _LANE * lanes.index(register)
        _draw_missing(steps.get(register, []), shapes, position[register], y)
    label = "timeline of measured events"
    return (
        f'<svg role="img" aria-label="{label}" width="{width}" viewBox="0 0 {width} {height}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
    )


def _next_change(steps: dict[int, list[Step]], register: int, shapes: list[str], x: int, y: int) -> Change:
    """Draw the expected events that are missing here, and return what became of the next logged one."""
    waiting = steps.get(register, [])
    _draw_missing(waiting, shapes, x, y)
    return waiting.pop(0).change if waiting else Change.SAME


def _draw_missing(waiting: list[Step], shapes: list[str], x: int, y: int) -> None:
    while waiting and waiting[0].change is Change.MISSING:
        shapes.append(_box(x, y, Change.MISSING, waiting.pop(0).event.what, none=False))


def _lane(name: str, row: int, width: int) -> str:
    y = _TOP + _LANE * row
    return (
        f'<text x="4" y="{y + 4}">{escape(name)}</text>'
        f'<line class="lane" x1="{_LEFT - 14}" y1="{y}" x2="{width}" y2="{y}"/>'
    )


def _box(x: int, y: int, change: Change, what: str, *, none: bool) -> str:
    shape = "none" if none else change.value
    title = f"<title>{escape(f'{what} ({_WORDS[change]})' if not none else what)}</title>"
    place = f'x="{x - _BOX // 2}" y="{y - _BOX // 2}" width="{_BOX}" height="{_BOX}" rx="3"'
    box = f'<rect class="{shape}" {place}>'
    mark = _MARKS[change]
    text = f'<text class="mark {shape}" x="{x}" y="{y + 4}">{mark}</text>' if mark else ""
    return f"{box}{title}</rect>{text}"


def _section(difference: Difference, report: Report) -> str:
    name = escape(report.log.names[difference.register])
    rows = "".join(_step_row(step) for step in difference.steps)
    table = f"<table><tr><th></th><th>event</th><th>digest</th></tr>{rows}</table>" if rows else ""
    return (
        f'<section><h2>{name}</h2>\n<p class="cause">{escape(difference.cause)}</p>\n'
        f'<p class="soft">What to do: {escape(difference.action)}</p>\n{table}</section>\n'
    )


def _step_row(step: Step) -> str:
    event = step.event
    what, digest = escape(event.what), escape(event.digest.hex)
    if step.change is Change.CHANGED and step.expected is not None:
        what += f'<br><span class="soft">expected: {escape(step.expected.what)}</span>'
        digest += f'<br><span class="soft">{escape(step.expected.digest.hex)}</span>'
    mark = f"{_MARKS[step.change]} {_WORDS[step.change]}".strip()
    return f'<tr class="{step.change.value}"><td>{mark}</td><td>{what}</td><td class="hex">{digest}</td></tr>'


def _event_table(report: Report) -> str:
    rows = "".join(_event_row(index, event, report) for index, event in report.events())
    head = "<tr><th>#</th><th>register</th><th>type</th><th>what the log says</th><th>digest</th></tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>\n{_values(report)}'


def _event_row(index: int, event: LogEvent, report: Report) -> str:
    cells: Sequence[str] = (
        str(index),
        report.log.names[event.register],
        event_type_name(event.event_type),
        describe_event(event).removeprefix(event_type_name(event.event_type)).strip(),
    )
    digest = event.digests[report.bank].hex
    return f'<tr>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}<td class="hex">{digest}</td></tr>'


def _values(report: Report) -> str:
    try:
        replayed = report.log.replayed(report.bank)
    except EventLogError as error:
        return f"<p>The log cannot be replayed: {escape(error.message)}</p>\n"
    rows = "".join(
        f'<tr><td>{escape(report.log.names[register])}</td><td class="hex">{value.hex}</td></tr>'
        for register, value in enumerate(replayed.values)
        if register in replayed.touched and report.shows(register)
    )
    return f"<h2>Replayed values</h2>\n<table>{rows}</table>\n"
