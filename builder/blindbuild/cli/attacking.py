"""Play the operator against an image, judge what comes of it by the image's own statement, and say so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from blindbuild.audit.image import unpack_image
from blindbuild.cli.booting import gate_answers
from blindbuild.cli.options import print_json, processors
from blindbuild.cli.outputs import STATEMENT, check_image
from blindbuild.cli.sign import DAY_S
from blindbuild.client import Expectation
from blindbuild.digest import Digest
from blindbuild.errors import UsageError, VerificationError
from blindbuild.formats.canonical import parse_json
from blindbuild.formats.printable import visible
from blindbuild.host.clock import unix_time
from blindbuild.host.files import temporary_directory
from blindbuild.host.reporter import Reporter
from blindbuild.machine.attack import ATTACKS, NOT_PLAYED, attacks_on, find_attack
from blindbuild.machine.attack_model import AnyAttack, Attack, AttackTable, HostileAttack, Outcome, Seen
from blindbuild.machine.attack_play import Played, Scene, play_all
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.swtpm import TpmAuthority
from blindbuild.manifest import parse_statement, parse_trust
from blindbuild.publish import (
    TrustContent,
    generate_key,
    make_release,
    make_trust,
    sign_release,
    sign_statement,
)
from blindbuild.verify import Policy

ALL = "all"
GATE_CONFIGURATION = b"gate/gate.json"  # docs/spec/guest-abi.md
MAX_CONFIGURATION = 1 << 16  # bytes; it has a few hundred


@dataclass(frozen=True, slots=True)
class Report:
    """What all attacks of one run came to, in the order of the table."""

    image: str
    statement: Digest
    played: tuple[Played, ...]
    left_out: tuple[str, ...]
    seconds: float

    @property
    def unexpected(self) -> tuple[Played, ...]:
        """Those that did not end as they must."""
        return tuple(played for played in self.played if not played.expected)

    def to_json(self) -> Mapping[str, object]:
        """Return the report as plain data with stable names."""
        return {
            "version": 1,
            "image": self.image,
            "statement": self.statement.hex,
            "asExpected": not self.unexpected,
            "seconds": round(self.seconds, 1),
            "attacks": [_played_json(played) for played in self.played],
            "leftOut": list(self.left_out),
            "notPlayable": dict(NOT_PLAYED),
        }


def choose_attacks(
    name: str, table: AttackTable, *, hostile: bool
) -> tuple[tuple[AnyAttack, ...], tuple[str, ...]]:
    """Return the attacks of a name, and the names of those that need a probe image and do without.

    Raises:
        UsageError: no such attack, or one alone that needs the probe image.
    """
    if name != ALL:
        attack = table[find_attack(name).name]
        if isinstance(attack, HostileAttack) and not hostile:
            raise UsageError(f"{name}: expected the probe image: --recipe, or --hostile")
        return (attack,), ()
    chosen = [a for a in table.values() if hostile or not isinstance(a, HostileAttack)]
    return tuple(chosen), tuple(name for name, a in table.items() if a not in chosen)


def play_on_image(
    image: Path, name: str, *, config: MachineConfig, hostile: MachineConfig | None, reporter: Reporter
) -> Report:
    """Play one attack, or all, on an image.

    Raises:
        UsageError: no such attack, or not an image that can be attacked.
        MachineError: the honest machine does not run.
    """
    files = check_image(image)
    uki = next(data for file, data in files.items() if file.endswith(".efi"))
    table = attacks_on(uki, profile=parse_statement(files[STATEMENT]).channel_binding)
    attacks, left_out = choose_attacks(name, table, hostile=hostile is not None)
    began, played = time.monotonic(), []
    with temporary_directory() as directory:
        scene = Scene(
            # several machines run at a time: each has a port and a place of its own
            config=replace(config, host_port=0, state_dir=None),
            expect=client_of(files[STATEMENT]),
            route=find_route(uki),
            ready=gate_answers,
            directory=directory,
            hostile=None if hostile is None else replace(hostile, host_port=0, state_dir=None),
        )
        reporter.begin(f"play {len(attacks)} attacks" if len(attacks) > 1 else f"play {name}", len(attacks))
        for item in play_all(attacks, scene, jobs=processors()):
            played.append(item)
            reporter.advance(len(played), item.attack.name)
            if not item.expected:
                reporter.note(f"{item.attack.name}: not as expected")
    reporter.finish()
    order = list(ATTACKS)
    return Report(
        image=str(image),
        statement=Digest.sha256(files[STATEMENT]),
        played=tuple(sorted(played, key=lambda item: order.index(item.attack.name))),
        left_out=left_out,
        seconds=time.monotonic() - began,
    )


def client_of(statement: bytes) -> Callable[[TpmAuthority], Expectation]:
    """Return a client that judges by this statement and believes the machine's own TPM authority.

    Who signs is not what is attacked here: the statement is signed by a key of this run, which nobody keeps.
    """
    key, now, parsed = generate_key(), unix_time(), parse_statement(statement)
    envelope = sign_statement(key, statement)
    release = sign_release(key, make_release(statement, valid_from=now, valid_until=now + DAY_S))

    def expect(authority: TpmAuthority) -> Expectation:
        trust = TrustContent(
            product=parsed.name,
            release_keys=(key.public,),
            test_tpm_roots=(authority.root_certificate.decode("ascii"),),
            test_tpm_intermediates=(authority.issuer_certificate.decode("ascii"),),
        )
        policy = Policy(allow_test_tpm=True, allow_debug=parsed.debug)
        return Expectation(envelope, release, parse_trust(make_trust(trust)), policy)

    return expect


def find_route(uki: bytes) -> str:
    """Return a route that the image's gate serves.

    Raises:
        UsageError: the image has no gate that says so.
    """
    for entry in unpack_image(uki).entries:
        if entry.path == GATE_CONFIGURATION:
            routes = parse_json(entry.data, max_bytes=MAX_CONFIGURATION)
            if isinstance(routes, dict) and isinstance(found := routes.get("routes"), list) and found:
                return str(found[0])
    raise UsageError("expected an image whose gate serves a route, got none")


def show_report(report: Report, *, as_json: bool) -> None:
    """Print what came of the attacks; a single one in words.

    Raises:
        VerificationError: an attack did not end as it must.
    """
    if as_json:
        print_json(report.to_json())
    elif len(report.played) == 1:
        click.echo("\n".join(describe(report.played[0])))
    else:
        click.echo("\n".join(render_table(report.played)))
        for name in report.left_out:
            click.echo(f"not played: {name} (it needs the probe image: --recipe, or --hostile)")
    if report.unexpected:
        names = ", ".join(played.attack.name for played in report.unexpected)
        raise VerificationError(
            f"{len(report.unexpected)} of {len(report.played)} attacks did not end as expected: {names}",
            step="X1",
            reason="unexpected-outcome",
            hint="play each alone to read what happened",
        )


def describe(played: Played) -> tuple[str, ...]:
    """Return one attack in words."""
    attack, seen = played.attack, played.seen
    lines = [
        f"{attack.name}: the operator {attack.summary}",
        f"expected  {outcome_text(attack)}",
        f"seen      {outcome_text(seen)}",
        f"          {visible(seen.words)}",
        f"as it must be: {'yes' if played.expected else 'NO'}  ({played.seconds:.1f} s)",
    ]
    return tuple(lines)


def render_table(all_played: Sequence[Played]) -> tuple[str, ...]:
    """Return all attacks as lines of a table."""
    rows = [("", "attack", "expected", "seen", "registers", "s")]
    rows += [
        (
            "ok" if played.expected else "NO",
            played.attack.name,
            outcome_id(played.attack.outcome),
            outcome_id(played.seen.outcome),
            ",".join(map(str, sorted(played.seen.registers))) or "-",
            f"{played.seconds:.1f}",
        )
        for played in all_played
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    expected = sum(played.expected for played in all_played)
    return (*(line.rstrip() for line in lines), f"{expected} of {len(all_played)} as expected")


def outcome_id(outcome: Outcome) -> str:
    """Return an outcome as `--json` and the tables name it."""
    return outcome.name.lower().replace("_", "-")


def outcome_text(what: Attack | Seen) -> str:
    """Return outcome, registers and reasons in one line."""
    text = what.outcome.value
    if what.registers:
        text += f", PCR {', '.join(map(str, sorted(what.registers)))}"
    return text + (f" ({', '.join(sorted(what.reasons))})" if what.reasons else "")


def _played_json(played: Played) -> Mapping[str, object]:
    return {
        "name": played.attack.name,
        "summary": f"the operator {played.attack.summary}",
        "expected": _outcome_json(played.attack),
        "seen": {**_outcome_json(played.seen), "words": played.seen.words},
        "asExpected": played.expected,
        "seconds": round(played.seconds, 1),
    }


def _outcome_json(what: Attack | Seen) -> dict[str, object]:
    return {
        "outcome": outcome_id(what.outcome),
        "registers": sorted(what.registers),
        "reasons": sorted(what.reasons),
    }
