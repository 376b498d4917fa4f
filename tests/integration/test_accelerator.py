"""The probe guest really runs, and what does not run a guest is said in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from blindbuild.errors import MachineError, ToolError, UsageError
from blindbuild.host import process
from blindbuild.machine import accelerator
from blindbuild.machine.accelerator import QEMU, Accelerator, choose_accelerator, probe_rom, run_probe

pytestmark = pytest.mark.skipif(not Path("/usr/bin", QEMU.name).exists(), reason="QEMU is not installed")


@pytest.fixture(autouse=True)
def forget() -> None:
    """Choices are kept for the life of a process."""
    for function in (choose_accelerator, accelerator._kvm_problem, accelerator._sandbox_works):
        function.cache_clear()


def test_the_rom_starts_where_a_processor_starts() -> None:
    rom = probe_rom(1)
    assert len(rom) == 0x10000
    assert rom[0xFFF0] == 0xE9  # jmp rel16


def test_the_probe_guest_runs_under_emulation() -> None:
    assert run_probe("tcg", "max", sandbox=False) is None


def test_a_guest_that_does_not_come_to_its_end_in_time_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PROBE_TURNS", 0xFFFFFFFF)
    monkeypatch.setitem(accelerator.PROBE_LIMIT_S, "tcg", 0.5)
    assert run_probe("tcg", "max", sandbox=False) == "4294967295 turns of a loop took more than 0.5 s"


def test_what_qemu_says_is_the_reason() -> None:
    problem = run_probe("tcg", "no-such-cpu", sandbox=False)
    assert problem is not None
    assert "unable to find CPU model 'no-such-cpu'" in problem


def test_software_emulation_can_be_demanded() -> None:
    chosen = choose_accelerator("tcg")
    assert (chosen.name, chosen.cpu, chosen.reason) == ("tcg", "max", "software emulation, as asked")


def test_kvm_that_does_not_work_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "_KVM_DEVICE", Path("/nowhere/kvm"))
    chosen = choose_accelerator("auto")
    assert chosen.name == "tcg"
    assert chosen.reason.endswith("KVM does not run guests here: there is no /nowhere/kvm")
    with pytest.raises(MachineError, match="there is no /nowhere/kvm"):
        choose_accelerator("kvm")


def test_the_choice_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = choose_accelerator("auto")
    monkeypatch.setattr(accelerator, "run_probe", lambda *_, **__: pytest.fail("probed again"))
    assert choose_accelerator("auto") is first
    assert isinstance(first, Accelerator)


def test_another_preference_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="expected accelerator auto or kvm or tcg, got 'hvf'"):
        choose_accelerator("hvf")  # type: ignore[arg-type]


def test_a_missing_qemu_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TOOL_DIRECTORIES", ("/nowhere",))
    with pytest.raises(ToolError, match="qemu-system-x86_64 is missing") as caught:
        choose_accelerator("tcg")
    assert caught.value.hint == "apt-get install qemu-system-x86"
