"""`blindbuild run --attack`: what is played, what is printed, and that another outcome ends with status 3."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import run as verb
from blindbuild.cli.attacking import ALL, Report, choose_attacks, describe, find_route, show_report
from blindbuild.cli.main import main
from blindbuild.digest import Digest
from blindbuild.errors import UsageError, VerificationError
from blindbuild.formats.cpio import CpioEntry, write_newc
from blindbuild.formats.pe import NewSection, append_sections
from blindbuild.machine.attack import ATTACKS
from blindbuild.machine.attack_model import AnyAttack, HostileAttack, Outcome, Seen
from blindbuild.machine.attack_play import Played
from blindbuild.machine.config import MachineConfig
from tests.fakes.pe_image import make_pe

Runner = Callable[..., Result]


def as_it_must(attack: AnyAttack) -> Played:
    return Played(attack, Seen(attack.outcome, "what happened", attack.registers, attack.reasons), 1.25)


def report_of(*played: Played) -> Report:
    return Report("images/hello/1.0.0", Digest.sha256(b"statement"), played, ("accepted-socket",), 12.0)


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Runner:
    """Runs the verb on attacks that ended so."""
    config = MachineConfig(disk=tmp_path / "disk.raw", firmware_code=b"", firmware_vars=b"")

    def run(report: Report, *options: str) -> Result:
        monkeypatch.setattr(verb, "configure_machine", lambda *_, **__: config)
        monkeypatch.setattr(verb, "play_on_image", lambda *_, **__: report)
        return CliRunner().invoke(verb.command, [str(tmp_path), *options])

    return run


def test_attacks_that_ended_as_they_must_end_with_status_0(play: Runner) -> None:
    result = play(report_of(*map(as_it_must, ATTACKS.values())), "--attack", "all")
    assert result.exit_code == 0, result.output
    assert f"{len(ATTACKS)} of {len(ATTACKS)} as expected" in result.stdout
    for name in ATTACKS:
        assert any(line.split()[:2] == ["ok", name] for line in result.stdout.splitlines())
    assert "not played: accepted-socket" in result.stdout


@pytest.mark.parametrize("name", ["smbios-cmdline", "hot-nic", "initrd-flip", "memory-dump", "replay"])
@pytest.mark.parametrize("outcome", Outcome)
def test_any_other_outcome_of_one_attack_ends_with_status_3(
    play: Runner, name: str, outcome: Outcome
) -> None:
    attack = ATTACKS[name]
    wrong = replace(as_it_must(attack), seen=replace(as_it_must(attack).seen, outcome=outcome))
    result = play(report_of(as_it_must(ATTACKS["relay"]), wrong), "--attack", "all")
    if outcome is attack.outcome:
        assert result.exit_code == 0
        return
    assert isinstance(result.exception, VerificationError)
    assert (result.exception.exit_code, result.exception.reason) == (3, "unexpected-outcome")
    assert name in result.exception.message
    assert any(line.split()[:2] == ["NO", name] for line in result.stdout.splitlines())


def test_other_registers_than_those_that_must_differ_are_another_outcome() -> None:
    played = as_it_must(ATTACKS["smbios-cmdline"])
    for registers in (frozenset[int](), frozenset({9}), frozenset({9, 11, 12})):
        with pytest.raises(VerificationError, match="1 of 1 attacks did not end as expected: smbios-cmdline"):
            show_report(
                report_of(replace(played, seen=replace(played.seen, registers=registers))), as_json=True
            )


def test_a_single_attack_says_in_words_what_happened(play: Runner) -> None:
    result = play(report_of(as_it_must(ATTACKS["smbios-cmdline"])), "--attack", "smbios-cmdline")
    assert result.stdout.splitlines() == [
        "smbios-cmdline: the operator appends to the kernel's command line through an SMBIOS string",
        "expected  refused by the verifier, PCR 9, 12 (E1:register-mismatch)",
        "seen      refused by the verifier, PCR 9, 12 (E1:register-mismatch)",
        "          what happened",
        "as it must be: yes  (1.2 s)",
    ]


def test_words_of_a_machine_cannot_steer_the_terminal() -> None:
    played = as_it_must(ATTACKS["relay"])
    hostile = replace(played, seen=replace(played.seen, words="\x1b[2Jgone"))
    assert not any("\x1b" in line for line in describe(hostile))


def test_json_has_stable_names_for_all_that_is_printed(play: Runner) -> None:
    result = play(report_of(as_it_must(ATTACKS["initrd-byte"])), "--attack", "initrd-byte", "--json")
    value = json.loads(result.stdout)
    assert value["asExpected"] is True
    assert value["leftOut"] == ["accepted-socket"]
    (attack,) = value["attacks"]
    ended = {"outcome": "refused", "registers": [4, 9, 11], "reasons": ["E1:register-mismatch"]}
    assert attack["expected"] == ended
    assert attack["seen"] == {**ended, "words": "what happened"}
    assert (attack["name"], attack["asExpected"], attack["seconds"]) == ("initrd-byte", True, 1.2)


def test_all_leaves_out_what_needs_a_probe_image_and_says_so() -> None:
    chosen, left_out = choose_attacks(ALL, ATTACKS, hostile=False)
    assert left_out == tuple(name for name, attack in ATTACKS.items() if isinstance(attack, HostileAttack))
    assert {attack.name for attack in chosen} | {*left_out} == set(ATTACKS)
    assert choose_attacks(ALL, ATTACKS, hostile=True) == (tuple(ATTACKS.values()), ())
    with pytest.raises(UsageError, match="accepted-socket: expected the probe image: --recipe, or --hostile"):
        choose_attacks("accepted-socket", ATTACKS, hostile=False)


def test_an_unknown_attack_is_wrong_usage(play: Runner) -> None:
    result = play(report_of(), "--attack", "magic")
    assert result.exit_code == 2


@pytest.mark.parametrize("name", ["all", "memory-dump", "replay"])
def test_only_an_attacked_boot_can_be_left_to_another_client(play: Runner, name: str) -> None:
    result = play(report_of(), "--attack", name, "--stay")
    assert isinstance(result.exception, UsageError)
    assert "expected an attack on the boot" in result.exception.message


def image_with(entries: tuple[CpioEntry, ...]) -> bytes:
    parts = (NewSection(".cmdline", b"quiet"), NewSection(".initrd", write_newc(entries)))
    return append_sections(make_pe(), parts)


def test_the_route_is_the_first_that_the_gate_serves() -> None:
    gate = CpioEntry(b"gate/gate.json", 0o100444, b'{"version":1,"routes":["/v1/a","/v1/b"]}')
    assert find_route(image_with((gate,))) == "/v1/a"
    for data in (b'{"routes":[]}', b"[]"):
        with pytest.raises(UsageError, match="serves a route"):
            find_route(image_with((replace(gate, data=data),)))
    with pytest.raises(UsageError, match="serves a route"):
        find_route(image_with((replace(gate, path=b"other"),)))


def test_what_belongs_to_an_attack_is_refused_without_one(tmp_path: Path) -> None:
    for option in ("--hostile", "--recipe"):
        done = CliRunner().invoke(main, ["run", str(tmp_path), option, str(tmp_path)])
        assert isinstance(done.exception, UsageError)
        assert "belong to --attack" in done.exception.message
