"""Every attack on the product, played for real: each ends as the table says, and a wrong table would show."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.machine.attack import ATTACKS
from blindbuild.machine.attack_model import BootAttack, BytesAttack, HostileAttack, Outcome, RunningAttack
from blindbuild.machine.attack_play import Played, play_all
from tests.boot.attacks import scene_of
from tests.boot.lab import Lab

pytestmark = pytest.mark.boot

# One of each way by which a boot can be attacked; the others differ in bytes and are played in test-full
SHORT_BOOTS = (
    *("smbios-cmdline", "load-options", "initrd-byte", "initrd-flip", "esp-addon"),
    *("fw-cfg-kernel", "program-first", "acpi-code", "fw-cfg-files", "hostile-disks", "clock-back"),
)
SERVING = tuple(name for name, a in ATTACKS.items() if isinstance(a, RunningAttack | BytesAttack))
FULL_BOOTS = tuple(n for n, a in ATTACKS.items() if isinstance(a, BootAttack) and n not in SHORT_BOOTS)
INSIDE = tuple(name for name, attack in ATTACKS.items() if isinstance(attack, HostileAttack))
CAUSES = {
    "smbios-cmdline": "evil=1",
    "load-options": "evil=1",
    "esp-addon": "evil=1",
    "initrd-byte": "initramfs",
}


def play(lab: Lab, product: Path, names: tuple[str, ...], directory: Path) -> Mapping[str, Played]:
    """Play these attacks, as many machines at a time as there are processors."""
    scene, jobs = scene_of(lab, product, directory), len(os.sched_getaffinity(0))
    return {p.attack.name: p for p in play_all([ATTACKS[name] for name in names], scene, jobs=jobs)}


@pytest.fixture(scope="module")
def short(lab: Lab, product: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Played]:
    """The attacks of every test run."""
    return play(lab, product, (*SHORT_BOOTS, *SERVING), tmp_path_factory.mktemp("attacks"))


@pytest.mark.parametrize("name", [*SHORT_BOOTS, *SERVING])
def test_an_attack_ends_as_it_must(short: Mapping[str, Played], name: str) -> None:
    assert short[name].expected, short[name].seen
    assert CAUSES.get(name, "") in short[name].seen.words


def test_every_attack_is_played_somewhere() -> None:
    assert {*SHORT_BOOTS, *SERVING, *FULL_BOOTS, *INSIDE} == set(ATTACKS)


def test_an_attack_of_which_the_opposite_is_said_is_not_as_expected(short: Mapping[str, Played]) -> None:
    for played in short.values():
        for outcome in set(Outcome) - {played.seen.outcome}:
            assert not replace(played.attack, outcome=outcome).expects(played.seen)


@pytest.mark.full
def test_the_other_attacks_on_the_boot_end_as_they_must(lab: Lab, product: Path, tmp_path: Path) -> None:
    found = play(lab, product, FULL_BOOTS, tmp_path)
    assert {name: played.seen for name, played in found.items() if not played.expected} == {}
    assert found.keys() == set(FULL_BOOTS)


@pytest.mark.full
def test_attacks_from_inside_end_as_they_must(lab: Lab, product: Path, tmp_path: Path) -> None:
    scene = replace(scene_of(lab, product, tmp_path), hostile=lab.machine(lab.build(variant="probe")))
    for played in play_all([ATTACKS[name] for name in INSIDE], scene):
        assert played.expected, played.seen
