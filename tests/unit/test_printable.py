"""Nothing that a server says can steer the terminal of whoever reads it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from blindbuild.cli import main, render
from blindbuild.errors import BlindbuildError, FormatError
from blindbuild.formats.fields import Fields
from blindbuild.formats.printable import visible

EVIL = "\x1b[2J\x1b[H\x1b[32mall is well\r\x9b1A\u202e\u2028"


def drawn(text: str) -> bool:
    return all(char.isprintable() or char == "\n" for char in text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("PCR 9 é ✓", "PCR 9 é ✓"),
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\u202e", "\\x202e"),
        ("\udc80", "\\xdc80"),
    ],
)
def test_what_is_not_printable_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_unknown_keys_are_quoted_and_not_all_of_them_are_named() -> None:
    with pytest.raises(FormatError) as caught:
        Fields({f"{EVIL}{number:03}": 1 for number in range(500)}, "evidence", required=())
    assert drawn(caught.value.message)
    assert caught.value.message.endswith("' and 492 more")
    assert caught.value.message.count("all is well") == 8


def test_an_error_cannot_steer_the_terminal_nor_pass_for_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    main._show(BlindbuildError(f"got {EVIL}\nhint: all is well", hint=f"one {EVIL}\ntwo"))
    lines = capsys.readouterr().err.splitlines()
    assert all(drawn(line) for line in lines)
    assert [line.split(" ")[0] for line in lines] == ["error:", "", "hint:", "hint:"]


@pytest.mark.parametrize(("no_color", "coloured"), [("1", False), ("", True)])
def test_errors_obey_no_color(no_color: str, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("NO_COLOR", no_color)
    main._show(BlindbuildError("no", hint="try"))
    assert ("\x1b[" in terminal.getvalue()) is coloured


def test_reports_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    console = Console(file=written, highlight=False, soft_wrap=True)
    monkeypatch.setattr(render, "error_console", lambda: console)
    render.print_steps([("Q7", EVIL, "failed", f"{EVIL} [red] \\")], console=console)
    row = render.RegisterRow(0, "oneOf", "00" * 32, "11" * 32, "failed", EVIL)
    render.print_registers([row], bank="sha256", console=console)
    render.print_warning(EVIL)
    assert drawn(written.getvalue())
    assert "[red]" in written.getvalue()
