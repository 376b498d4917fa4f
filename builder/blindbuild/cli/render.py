"""How things look in a terminal; the only user of rich."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from blindbuild.formats.printable import visible

OK, FAILED, SKIPPED = "[green]✓[/]", "[red]✗[/]", "[yellow]–[/]"
_MARKS = {"ok": OK, "failed": FAILED, "skipped": SKIPPED}
_SHOWN_HEX = 16  # enough digits to compare by eye; --json has all of them
_SHOWN_WHY = 60  # letters of a reason; the statement has all of it


def error_console() -> Console:
    """Return a console on stderr, for everything that is not data."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def output_console() -> Console:
    """Return a console on stdout, for reports that people read."""
    return Console(highlight=False, soft_wrap=True)


class TerminalReporter:
    """Shows stages as they happen: a live line in a terminal, one line a stage elsewhere."""

    def __init__(self) -> None:
        self._console = error_console()
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("[dim]{task.fields[detail]}[/]"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._title = ""
        self._began = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, title: str, total: int | None = None) -> None:
        """Start a stage; `total` is in the unit that `advance` counts."""
        self._title, self._began = title, time.monotonic()
        if self._console.is_terminal:
            self._task = self._progress.add_task(plain(title), total=total, detail="")
        else:
            self._console.print(f"  … {plain(title)}")

    def advance(self, done: int, detail: str = "") -> None:
        """Say how far the stage is."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, detail=plain(detail))

    def finish(self, outcome: str = "") -> None:
        """End the stage and leave one line behind."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        seconds = time.monotonic() - self._began
        tail = f" [dim]{plain(outcome)}[/]" if outcome else ""
        self._console.print(f"  {OK} {plain(self._title)}{tail} [dim]({seconds:.1f} s)[/]")

    def note(self, text: str) -> None:
        """Say something once."""
        self._console.print(f"  [yellow]![/] {plain(text)}")


@dataclass(frozen=True, slots=True)
class RegisterRow:
    """One line of the table "expected = measured"; `why` is what the statement adds for people."""

    register: int
    rule: str
    expected: str
    measured: str
    outcome: str  # "ok", "failed" or "skipped"
    why: str = ""


def print_steps(steps: Iterable[tuple[str, str, str, str]], *, console: Console) -> None:
    """Print (id, title, outcome, detail) step by step."""
    for identifier, title, outcome, detail in steps:
        tail = f" [dim]{plain(detail)}[/]" if detail else ""
        console.print(f"  {_MARKS[outcome]} [bold]{identifier:<4}[/] {plain(title)}{tail}")


def print_registers(rows: Sequence[RegisterRow], *, bank: str, console: Console) -> None:
    """Print the table "expected = measured" of one bank, in fixed columns that no terminal cuts."""
    console.print(f"\n  [bold]{'PCR':>5}  {'rule':<13} {'expected':<17}   measured[/]  (bank {bank})")
    for row in rows:
        sign = {"ok": "=", "failed": "[red]≠[/]", "skipped": " "}[row.outcome]
        expected = "" if row.outcome == "skipped" else _shorten(row.expected)
        why = row.why if len(row.why) <= _SHOWN_WHY else f"{row.why[:_SHOWN_WHY]}…"
        tail = f"  [dim]{plain(why)}[/]" if why else ""
        line = f"{row.register:>3}  {row.rule:<13} {expected:<17} {sign} {_shorten(row.measured)}{tail}"
        console.print(f"  {_MARKS[row.outcome]} {line}")
    console.print()


def _shorten(value: str) -> str:
    return f"{value[:_SHOWN_HEX]}…" if len(value) > _SHOWN_HEX else value


def print_warning(text: str) -> None:
    """Print a warning on stderr."""
    error_console().print(f"  [yellow]warning:[/] {plain(text)}")


def plain(text: str) -> str:
    """Return text that is neither markup nor able to steer the terminal, whoever wrote it."""
    return escape(visible(text))


@dataclass(frozen=True, slots=True)
class EventLine:
    """One event of a register; `sign` is same, changed, missing, added, or odd (data that was not hashed)."""

    number: str
    sign: str
    text: str  # a second line, if there is one, is what was expected


_SIGNS = {
    "same": " ",
    "changed": "[yellow]~[/]",
    "missing": "[red]-[/]",
    "added": "[green]+[/]",
    "odd": "[yellow]≠[/]",
}


def print_timeline(name: str, *, value: str, bank: str, lines: Sequence[EventLine], console: Console) -> None:
    """Print a register's value and its events, in log order."""
    tail = f" = {bank}:{value}" if value else ""
    console.print(f"\n  [bold]{plain(name)}[/]{plain(tail)}")
    _print_lines(lines, console=console)


def print_explanation(
    name: str, *, cause: str, action: str, lines: Sequence[EventLine], console: Console
) -> None:
    """Print why a register differs, what helps, and its aligned events."""
    console.print(f"\n  {FAILED} [bold]{plain(name)}[/]  {plain(cause)}")
    if action:
        console.print(f"      [cyan]do:[/] {plain(action)}")
    _print_lines(lines, console=console)


def _print_lines(lines: Sequence[EventLine], *, console: Console) -> None:
    for line in lines:
        first, *more = line.text.split("\n")
        console.print(f"    {_SIGNS[line.sign]} {line.number:>3}  {plain(first)}")
        for text in more:
            console.print(f"           [dim]expected {plain(text)}[/]")


@dataclass(frozen=True, slots=True)
class ChannelLine:
    """One row of the channel ledger."""

    number: int
    identifier: str
    state: str
    claim: str
    checks: tuple[str, ...]
    findings: tuple[str, ...]
    allowed: bool


_STATES = {
    "open": "[red]open    [/]",
    "narrowed": "[yellow]narrowed[/]",
    "stated": "[cyan]stated  [/]",
    "closed": "[green]closed  [/]",
}


def print_remarks(title: str, lines: Iterable[str], *, console: Console) -> None:
    """Print lines that inform and decide nothing, if there are any."""
    shown = list(lines)
    if shown:
        console.print(f"\n  [bold]{plain(title)}[/] (informative)")
    for line in shown:
        console.print(f"  {plain(line)}")


def print_channels(rows: Sequence[ChannelLine], *, console: Console) -> None:
    """Print the ledger in the order given: state, number, identifier, claim, checks, and what was found."""
    for row in rows:
        console.print(f"  {_STATES[row.state]} {row.number:>2} [bold]{row.identifier}[/]  {plain(row.claim)}")
        shown = ", ".join(row.checks) or "no static check"
        console.print(f"              [dim]{plain(shown)}[/]")
        if row.allowed:
            console.print("              [yellow]the recipe leaves it open[/]")
        for finding in row.findings:
            console.print(f"              {FAILED} {plain(finding)}")
    count = {state: sum(row.state == state for row in rows) for state in _STATES}
    console.print("\n  " + ", ".join(f"{number} {state}" for state, number in count.items()))
