"""Attacks on images of the lab, played as `run --attack` plays them; run it to write docs/attacks.md anew.

`.venv/bin/python -m tests.boot.attacks` builds recipes/hello and its probe image and plays every attack; with
names it plays those, and leaves the other rows as they are.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from blindbuild.cli.attacking import client_of, find_route, outcome_text
from blindbuild.cli.booting import gate_answers
from blindbuild.cli.options import processors
from blindbuild.cli.outputs import STATEMENT
from blindbuild.host.process import Tool, run
from blindbuild.machine.accelerator import QEMU, choose_accelerator
from blindbuild.machine.attack import ATTACKS, NOT_PLAYED, find_attack
from blindbuild.machine.attack_play import Played, Scene, play_all
from tests.boot.lab import ROOT, Lab

PAGE = ROOT / "docs" / "attacks.md"
BEGIN, END = "<!-- attacks: begin (generated; the text above says how) -->\n", "<!-- attacks: end -->\n"
HEAD = ("attack", "the operator", "must end so", "was seen to end so")
UNEXPECTED = "**not as it must**: "
_GIT = Tool(name="git", package="git")


def scene_of(lab: Lab, product: Path, directory: Path) -> Scene:
    """What attacks on an image of the lab are played on."""
    return Scene(
        config=lab.machine(product),
        expect=client_of((product / STATEMENT).read_bytes()),
        route=find_route(next(product.glob("*.efi")).read_bytes()),
        ready=gate_answers,
        directory=directory,
    )


def render_row(played: Played) -> str:
    """One line of the table."""
    verdict = "" if played.expected else UNEXPECTED
    ended = f"{verdict}{outcome_text(played.seen)}"
    cells = (f"`{played.attack.name}`", played.attack.summary, outcome_text(played.attack), ended)
    return f"| {' | '.join(cells)} |\n"


def read_rows(generated: str) -> dict[str, str]:
    """The lines of a table, by the name of the attack."""
    lines = [line for line in generated.splitlines(keepends=True) if line.startswith("| `")]
    return {line.split("`")[1]: line for line in lines}


def render_table(rows: Mapping[str, str]) -> str:
    """When and on what the last row was made, then all of them in the order of the code."""
    commit = run(_GIT, ["-C", str(ROOT), "rev-parse", "--short=10", "HEAD"]).stdout.decode().strip()
    version = run(QEMU, ["--version"]).stdout.decode().split()[3]
    ordered = [rows[name] for name in ATTACKS if name in rows]
    expected = sum(UNEXPECTED not in row for row in ordered)
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit}, QEMU {version} ({choose_accelerator().name}): "
        f"{expected} of {len(ordered)} attacks ended as they must.\n\n"
    )
    rule = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}\n"
    return about + rule + "".join(ordered)


def render_unplayed() -> str:
    """What cannot be played in a virtual machine."""
    lines = "".join(f"* {name}: {why}\n" for name, why in NOT_PLAYED.items())
    return f"\nNot played here:\n\n{lines}"


def main(names: Sequence[str]) -> int:
    """Play these attacks, or all, and write their rows; 1 if one did not end as it must."""
    before, rest = PAGE.read_text().split(BEGIN)
    generated, after = rest.split(END)
    rows, wrong = read_rows(generated), 0
    with tempfile.TemporaryDirectory() as directory:
        lab = Lab(Path(directory))
        product, hostile = lab.build(), lab.build(variant="probe")
        scene = replace(scene_of(lab, product, Path(directory, "played")), hostile=lab.machine(hostile))
        chosen = [find_attack(name) for name in names] or [*ATTACKS.values()]
        for played in play_all(chosen, scene, jobs=processors()):
            rows[played.attack.name] = render_row(played)
            wrong += not played.expected
            print(f"{played.attack.name}: {outcome_text(played.seen)} ({played.seconds:.0f} s)", flush=True)  # noqa: T201
            content = render_table(rows) + render_unplayed()
            PAGE.write_text(before + BEGIN + content + END + after)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
