"""Attacks on images of the lab, played as `run --attack` plays them; run it to write docs/attacks.md anew.

`.venv/bin/python -m tests.boot.attacks` builds recipes/hello and its probe image and plays every attack.
"""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from blindbuild.cli.attacking import Report, client_of, find_route, outcome_text, play_on_image
from blindbuild.cli.booting import gate_answers
from blindbuild.cli.outputs import STATEMENT
from blindbuild.cli.render import TerminalReporter
from blindbuild.host.process import Tool, run
from blindbuild.machine.accelerator import QEMU, choose_accelerator
from blindbuild.machine.attack import NOT_PLAYED
from blindbuild.machine.attack_play import Scene
from tests.boot.lab import ROOT, Lab

PAGE = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- attacks: begin (generated; the text above says how) -->\n", "<!-- attacks: end -->\n"
HEAD = ("attack", "the operator", "must end so", "was seen to end so", "s")
_GIT = Tool(name="git", package="git")


def scene_of(lab: Lab, product: Path, directory: Path) -> Scene:
    """What attacks on an image of the lab are played on."""
    return Scene(
        config=lab.machine(product),
        expect=client_of((product / STATEMENT).read_bytes()),
        route=find_route((product / "hello.efi").read_bytes()),
        ready=gate_answers,
        directory=directory,
    )


def render_rows(report: Report) -> str:
    """The table of docs/attacks.md."""
    rows = [HEAD, tuple("---" for _ in HEAD)]
    rows += [
        (
            f"`{played.attack.name}`",
            played.attack.summary,
            outcome_text(played.attack),
            outcome_text(played.seen),
            f"{played.seconds:.1f}",
        )
        for played in report.played
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def render_about(report: Report) -> str:
    """When, of what and on what the table was made."""
    commit = run(_GIT, ["-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]).stdout.decode().strip()
    version = run(QEMU, ["--version"]).stdout.decode().split()[3]
    expected = len(report.played) - len(report.unexpected)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, QEMU {version} ({choose_accelerator().name}): "
        f"{expected} of {len(report.played)} attacks ended as they must, in {report.seconds:.0f} s.\n\n"
    )


def render_unplayed() -> str:
    """What cannot be played in a virtual machine."""
    lines = "".join(f"* {name}: {why}\n" for name, why in NOT_PLAYED.items())
    return f"\nNot played here:\n\n{lines}"


def main() -> int:
    """Play everything and write the page; 1 if an attack did not end as it must."""
    with tempfile.TemporaryDirectory() as directory, TerminalReporter() as reporter:
        lab = Lab(Path(directory))
        product, hostile = lab.build(), lab.build(variant="probe")
        report = play_on_image(
            product, "all", config=lab.machine(product), hostile=lab.machine(hostile), reporter=reporter
        )
    before, rest = PAGE.read_text().split(BEGIN)
    content = render_about(report) + render_rows(report) + render_unplayed()
    PAGE.write_text(before + BEGIN + content + END + rest.split(END)[1])
    for played in report.unexpected:
        sys.stderr.write(f"{played.attack.name}: {played.seen}\n")
    return 1 if report.unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
