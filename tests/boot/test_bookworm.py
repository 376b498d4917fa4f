"""The tested variant: Debian 12's stub 252 on OVMF 2022.11."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.machine.attack import ATTACKS
from blindbuild.machine.attack_model import AttackInputs, BootAttack
from blindbuild.machine.machine import Machine
from tests.boot.lab import ROOT, Lab

pytestmark = pytest.mark.boot
RECIPE = ROOT / "recipes" / "hello-bookworm"


@pytest.fixture(scope="module")
def variant(lab: Lab) -> Path:
    """recipes/hello-bookworm, built and signed."""
    return lab.build(RECIPE)


@pytest.fixture(scope="module")
def variant_machine(lab: Lab, variant: Path) -> Iterator[Machine]:
    """The variant, running with an SMBIOS string for the kernel, which stub 252 does not read."""
    attack = ATTACKS["smbios-cmdline"]
    assert isinstance(attack, BootAttack)
    with lab.running(attack.apply(lab.machine(variant), AttackInputs(Path("/nowhere")))) as running:
        yield running


@pytest.mark.parametrize("bank", [HashAlgorithm.SHA256, HashAlgorithm.SHA384])
def test_an_smbios_command_line_has_no_effect_on_stub_252_and_the_verdict_is_unchanged(
    lab: Lab, variant: Path, variant_machine: Machine, bank: HashAlgorithm
) -> None:
    attempt = lab.judge(
        variant_machine.url, lab.expect(variant, variant_machine, product="hello-bookworm", bank=bank)
    )
    attempt.close()
    assert attempt.appraisal.reasons == frozenset()


def test_load_options_are_refused_on_stub_252_too(lab: Lab, variant: Path, tmp_path: Path) -> None:
    attack = ATTACKS["load-options"]
    assert isinstance(attack, BootAttack)
    with lab.running(attack.apply(lab.machine(variant), AttackInputs(tmp_path))) as attacked:
        attempt = lab.judge(attacked.url, lab.expect(variant, attacked, product="hello-bookworm"))
    attempt.close()
    differing = {result.register for result in attempt.appraisal.registers if not result.matches}
    assert differing == attack.registers
