"""What each attack on the boot changes, and that it changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.disk import BOOT_PATH, build_disk, build_gpt_disk, read_uki
from blindbuild.errors import BuildError, MachineError, UsageError
from blindbuild.formats.efivars import read_variables
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.gpt import parse_gpt
from blindbuild.formats.pe import read_pe
from blindbuild.machine.attack import (
    ATTACKS,
    AttackInputs,
    BootAttack,
    Outcome,
    find_attack,
    flip_byte,
    lengthen_section,
)
from blindbuild.machine.config import MachineConfig
from tests.fakes.pe_image import FakeSection, make_pe
from tests.fakes.variable_store import empty_store

UKI = make_pe(
    (
        FakeSection(b".osrel", b"ID=x\n"),
        FakeSection(b".initrd", b"initramfs" * 90),
        FakeSection(b".linux", b"k"),
    )
)


@pytest.fixture
def config(tmp_path: Path) -> MachineConfig:
    disk = tmp_path / "honest.raw"
    disk.write_bytes(build_disk(UKI))
    return MachineConfig(disk=disk, firmware_code=b"code", firmware_vars=empty_store())


def attacked(name: str, config: MachineConfig, other_uki: bytes | None = None) -> MachineConfig:
    attack = find_attack(name)
    assert isinstance(attack, BootAttack)
    return attack.apply(config, AttackInputs(config.disk.parent, other_uki))


def uki_of(config: MachineConfig) -> bytes:
    return read_fat(config.disk.read_bytes())[BOOT_PATH]


def test_the_smbios_attack_adds_one_string(config: MachineConfig) -> None:
    honest = replace(config, smbios=("honest",))
    text = "io.systemd.stub.kernel-cmdline-extra=evil=1"
    assert attacked("smbios-cmdline", honest) == replace(honest, smbios=("honest", text))


def test_the_load_options_attack_boots_the_same_file_with_options(config: MachineConfig) -> None:
    changed = attacked("load-options", config)
    found = {variable.name: variable.data for variable in read_variables(changed.firmware_vars)}
    assert set(found) == {"Boot0B1D", "BootOrder"}
    assert found["BootOrder"] == bytes.fromhex("1d0b")
    assert found["Boot0B1D"].endswith("evil=1\0".encode("utf-16-le"))
    assert "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le") in found["Boot0B1D"]
    assert replace(changed, firmware_vars=config.firmware_vars, disk_first=True) == config


def test_one_byte_of_the_file_makes_the_initramfs_longer(config: MachineConfig) -> None:
    changed = uki_of(attacked("initrd-byte", config))
    assert sum(a != b for a, b in zip(UKI, changed, strict=True)) == 1
    # 810 bytes, which the stub fills up to 812 by itself
    assert read_pe(changed).section_data(".initrd") == read_pe(UKI).section_data(".initrd") + bytes(3)
    assert read_pe(changed).section_data(".linux") == read_pe(UKI).section_data(".linux")


def test_one_byte_of_the_initramfs_is_inverted(config: MachineConfig) -> None:
    changed = uki_of(attacked("initrd-flip", config))
    (position,) = (index for index, (a, b) in enumerate(zip(UKI, changed, strict=True)) if a != b)
    assert UKI[position] ^ changed[position] == 0xFF
    assert read_pe(changed).section_data(".initrd") != read_pe(UKI).section_data(".initrd")


def test_the_honest_disk_is_not_touched(config: MachineConfig) -> None:
    before = config.disk.read_bytes()
    assert attacked("initrd-byte", config).disk != config.disk
    assert config.disk.read_bytes() == before


def test_an_attacked_disk_with_a_partition_table_keeps_it(config: MachineConfig, tmp_path: Path) -> None:
    disk = tmp_path / "partitioned.raw"
    disk.write_bytes(build_gpt_disk(UKI))
    changed = attacked("initrd-flip", replace(config, disk=disk)).disk.read_bytes()
    assert parse_gpt(changed).event_data == parse_gpt(disk.read_bytes()).event_data
    assert read_uki(changed) == flip_byte(UKI, ".initrd")


def test_a_disk_that_boots_nothing_has_no_image() -> None:
    with pytest.raises(BuildError, match=r"expected a file EFI/BOOT/BOOTX64\.EFI"):
        read_uki(write_fat({"A": b"a"}, volume_id=1, label="TEST"))


def test_another_image_takes_the_place_of_the_image(config: MachineConfig) -> None:
    other = make_pe()
    assert uki_of(attacked("other-kernel", config, other)) == other
    with pytest.raises(UsageError, match="needs another image"):
        attacked("other-kernel", config)


def test_a_section_that_is_not_there_is_an_error() -> None:
    for change in (flip_byte, lengthen_section):
        with pytest.raises(MachineError, match=r"\.absent: expected a section"):
            change(UKI, ".absent")


def test_a_section_without_room_behind_it_is_an_error() -> None:
    full = make_pe((FakeSection(b".initrd", bytes(4096)),))
    with pytest.raises(MachineError, match="padding"):
        lengthen_section(full, ".initrd")


def test_every_attack_says_how_it_must_end() -> None:
    for name, attack in ATTACKS.items():
        assert attack.name == name
        assert attack.summary
        if isinstance(attack, BootAttack):
            assert bool(attack.registers) == (attack.outcome is Outcome.REFUSED)
    assert ATTACKS["fresh-tpm"].outcome is Outcome.ACCEPTED_ON_TEST_TPM


def test_an_unknown_attack_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="unknown attack 'magic'") as caught:
        find_attack("magic")
    assert caught.value.hint is not None
    assert "fresh-tpm" in caught.value.hint
