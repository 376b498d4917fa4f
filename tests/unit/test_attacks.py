"""The table of attacks, what each on the boot changes, and that it changes nothing else."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindbuild.assemble.disk import BOOT_PATH, build_disk, build_gpt_disk, read_uki
from blindbuild.audit.files import check_file_list, render_listing
from blindbuild.audit.image import unpack_image
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import BuildError, MachineError, UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.cpio import CpioEntry, write_newc
from blindbuild.formats.efivars import read_variables
from blindbuild.formats.fat import read_fat, write_fat
from blindbuild.formats.gpt import parse_gpt
from blindbuild.formats.pe import append_sections, read_pe
from blindbuild.machine.attack import ATTACKS, NOT_PLAYED, attacks_on, find_attack
from blindbuild.machine.attack_acpi import FOUND_AT, MAGIC, ram_writing_table
from blindbuild.machine.attack_disk import (
    LISTING,
    add_file,
    flip_byte,
    lengthen_section,
    make_addon,
    restamp_kernel,
    restamp_stub,
    returning_program,
    write_disk,
)
from blindbuild.machine.attack_hostile import judge_report
from blindbuild.machine.attack_model import (
    Attack,
    AttackInputs,
    BootAttack,
    BytesAttack,
    HostileAttack,
    Outcome,
    RunningAttack,
    Seen,
)
from blindbuild.machine.attack_play import Played, _allowed
from blindbuild.machine.config import MachineConfig
from blindbuild.verify.session import SEALED_PROFILE
from tests.fakes.pe_image import FakeSection, make_pe
from tests.fakes.variable_store import empty_store

SHA256 = HashAlgorithm.SHA256
KERNEL = make_pe((FakeSection(b".text", b"kernel"),))
UKI = make_pe(
    (
        FakeSection(b".osrel", b"ID=x\n"),
        FakeSection(b".initrd", b"initramfs" * 90),
        FakeSection(b".linux", KERNEL),
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
    assert config.disk is not None
    return attack.apply(config, AttackInputs(config.disk.parent, other_uki))


def uki_of(config: MachineConfig) -> bytes:
    assert config.disk is not None
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
    assert config.disk is not None
    before = config.disk.read_bytes()
    assert attacked("initrd-byte", config).disk != config.disk
    assert config.disk.read_bytes() == before


def test_an_attacked_disk_with_a_partition_table_keeps_it(config: MachineConfig, tmp_path: Path) -> None:
    disk = tmp_path / "partitioned.raw"
    disk.write_bytes(build_gpt_disk(UKI))
    changed = attacked("initrd-flip", replace(config, disk=disk)).disk
    assert changed is not None
    assert parse_gpt(changed.read_bytes()).event_data == parse_gpt(disk.read_bytes()).event_data
    assert read_uki(changed.read_bytes()) == flip_byte(UKI, ".initrd")


def test_a_disk_that_boots_nothing_has_no_image() -> None:
    with pytest.raises(BuildError, match=r"expected a file EFI/BOOT/BOOTX64\.EFI"):
        read_uki(write_fat({"A": b"a"}, volume_id=1, label="TEST"))


def test_another_image_takes_the_place_of_the_image(config: MachineConfig) -> None:
    other = make_pe()
    assert uki_of(attacked("other-kernel", config, other)) == other


def test_another_build_of_the_kernel_differs_in_its_time_stamp_only(config: MachineConfig) -> None:
    changed = uki_of(attacked("other-kernel", config))
    (position,) = (index for index, (a, b) in enumerate(zip(UKI, changed, strict=True)) if a != b)
    section = read_pe(UKI).sections[2]
    assert section.raw_offset < position < section.raw_offset + section.raw_size
    before, after = (
        authenticode_digests(read_pe(uki).section_data(".linux"), (SHA256,)) for uki in (UKI, changed)
    )
    assert before != after, "the firmware measures it into register 4"
    assert restamp_kernel(changed) == UKI


def test_another_build_of_the_stub_leaves_every_section_as_it_is(config: MachineConfig) -> None:
    changed = uki_of(attacked("other-stub", config))
    assert authenticode_digests(changed, (SHA256,)) != authenticode_digests(UKI, (SHA256,))
    for section in read_pe(UKI).sections:
        assert read_pe(changed).section_data(section.name) == read_pe(UKI).section_data(section.name)
    assert restamp_stub(changed) == UKI


def packed_image() -> bytes:
    """A boot image whose initramfs has a listing, as the assembler's has."""
    entries = (
        CpioEntry(b"init", 0o100500, b"program"),
        CpioEntry(b"~blindbuild.end", 0o100400, b"blindbuild end\n"),
    )
    listing = CpioEntry(LISTING, 0o100400, render_listing(entries))
    stub = make_pe()
    from blindbuild.formats.pe import NewSection

    parts = (
        NewSection(".osrel", b"ID=x\n"),
        NewSection(".cmdline", b"quiet"),
        NewSection(".initrd", write_newc((listing, *entries))),
        NewSection(".linux", KERNEL),
    )
    return append_sections(stub, parts)


def test_an_initramfs_of_another_build_lists_the_file_that_was_added() -> None:
    uki = packed_image()
    changed = unpack_image(add_file(uki, b"operator", b"was here\n"))
    assert [entry.path for entry in changed.entries] == [LISTING, b"init", b"operator", b"~blindbuild.end"]
    findings = check_file_list(changed).findings
    assert any("operator" in finding for finding in findings)
    assert not any(finding.startswith(".blindbuild.tree") for finding in findings), (
        "init finds the list right"
    )
    for name in (".osrel", ".cmdline", ".linux", ".text"):
        assert changed.pe.section_data(name) == read_pe(uki).section_data(name)


def test_a_section_that_is_not_there_is_an_error() -> None:
    for change in (flip_byte, lengthen_section):
        with pytest.raises(MachineError, match=r"\.absent: expected a section"):
            change(UKI, ".absent")


def test_a_section_without_room_behind_it_is_an_error() -> None:
    full = make_pe((FakeSection(b".initrd", bytes(4096)),))
    with pytest.raises(MachineError, match="padding"):
        lengthen_section(full, ".initrd")


@pytest.mark.parametrize("name", ["esp-addon", "esp-credential", "esp-extension"])
def test_files_beside_the_image_leave_the_image_as_it_is(config: MachineConfig, name: str) -> None:
    changed = attacked(name, config)
    assert changed.disk is not None
    assert changed == replace(config, disk=changed.disk)
    assert UKI in changed.disk.read_bytes()


def test_a_disk_with_long_names_has_the_files(tmp_path: Path) -> None:
    write_disk(tmp_path / "disk.raw", {BOOT_PATH: UKI, "loader/credentials/everywhere.cred": b"credential"})
    image = (tmp_path / "disk.raw").read_bytes()
    assert b"credential" in image
    assert "cred".encode("utf-16-le") in image


def test_the_kernel_by_fw_cfg_is_the_boot_image_with_a_command_line(
    config: MachineConfig,
) -> None:
    direct = attacked("fw-cfg-kernel", config).direct
    assert direct is not None
    assert direct.kernel.read_bytes() == UKI
    assert direct.command_line == "evil=1"


def test_a_program_of_the_operators_stands_before_the_image(config: MachineConfig) -> None:
    changed = attacked("program-first", config)
    assert changed.disk is not None
    program = read_fat(changed.disk.read_bytes())[BOOT_PATH]
    assert program == returning_program()
    assert read_pe(program).section_data(".text").endswith(b"\xc3")
    line = " ".join(changed.more_devices)
    assert "drive=image,disable-legacy=on,bootindex=1" in line
    assert f"filename={config.disk},file.read-only=on" in line, "the honest disk is not written to"
    assert changed.disk_first


def test_the_key_database_is_the_only_variable_that_is_written(config: MachineConfig) -> None:
    changed = attacked("key-databases", config)
    assert [variable.name for variable in read_variables(changed.firmware_vars)] == ["dbx"]


def test_hostile_disks_stand_behind_the_image_and_can_be_written_to(config: MachineConfig) -> None:
    changed = attacked("hostile-disks", config)
    assert changed.disk == config.disk
    line = " ".join(changed.more_devices)
    assert "bootindex" not in line
    assert line.count("driver=raw,node-name=hostile-") == 3
    assert line.count("file.read-only=off") == 3


@pytest.mark.parametrize(("name", "year"), [("clock-back", 1999), ("clock-ahead", 2099)])
def test_the_clock_is_all_that_a_wrong_clock_changes(config: MachineConfig, name: str, year: int) -> None:
    changed = attacked(name, config)
    assert changed.clock is not None
    assert changed.clock.year == year
    assert changed.clock.tzinfo is UTC
    assert replace(changed, clock=None) == config
    assert changed.clock != datetime.now(UTC)


def test_configuration_files_are_offered_under_the_names_that_systems_look_for(config: MachineConfig) -> None:
    changed = attacked("fw-cfg-files", config)
    assert sum(argument == "-fw_cfg" for argument in changed.more_devices) == 4
    assert any("opt/io.systemd.credentials/" in argument for argument in changed.more_devices)


def test_the_acpi_table_adds_up_to_zero_and_names_the_place_it_writes_to(config: MachineConfig) -> None:
    """The encoding was compared with what `iasl -d` (acpica-tools) makes of the table."""
    table = ram_writing_table()
    assert table[:4] == b"SSDT"
    assert int.from_bytes(table[4:8], "little") == len(table)
    assert sum(table) & 0xFF == 0
    assert b"\x5b\x80RAM_\x00\x0c" + FOUND_AT.to_bytes(4, "little") + b"\x0a\x08" in table
    assert b"\x70\x0c" + MAGIC + b"WRIT" + b"\x70WRITCOPY" in table
    (option, value) = attacked("acpi-code", config).more_devices
    assert option == "-acpitable"
    assert Path(value.removeprefix("file=")).read_bytes() == table


def test_an_addon_has_a_command_line_and_nothing_else() -> None:
    image = read_pe(make_addon(b"evil=1"))
    assert [section.name for section in image.sections] == [".cmdline"]
    assert image.section_data(".cmdline") == b"evil=1"


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=list(ATTACKS))
def test_every_attack_says_what_it_is_and_how_it_must_end(attack: Attack) -> None:
    assert ATTACKS[attack.name] is attack
    assert attack.summary
    assert attack.outcome is not Outcome.UNPLAYED
    refused = attack.outcome is Outcome.REFUSED
    assert not attack.registers or refused
    assert bool(attack.reasons) or not refused, "a refusal has a reason"


def test_the_table_has_every_kind_and_says_what_cannot_be_played() -> None:
    for kind in (BootAttack, RunningAttack, BytesAttack, HostileAttack):
        assert any(isinstance(attack, kind) for attack in ATTACKS.values())
    assert {attack.outcome for attack in ATTACKS.values()} == set(Outcome) - {Outcome.UNPLAYED}
    assert any("DMA" in name for name in NOT_PLAYED)
    assert all(
        a.outcome is Outcome.NO_EFFECT for a in ATTACKS.values() if isinstance(a, BootAttack) and a.shared
    )


def test_an_unknown_attack_lists_those_there_are() -> None:
    with pytest.raises(UsageError, match="unknown attack 'magic'") as caught:
        find_attack("magic")
    assert caught.value.hint is not None
    assert "fresh-tpm" in caught.value.hint


ATTACK = Attack(
    name="some",
    summary="does something",
    outcome=Outcome.REFUSED,
    registers=frozenset({9, 12}),
    reasons=frozenset({"E1:register-mismatch"}),
)
GOOD = Seen(
    Outcome.REFUSED, "", frozenset({9, 12}), frozenset({"E1:register-mismatch", "E3:replay-mismatch"})
)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (GOOD, True),
        (replace(GOOD, outcome=Outcome.NO_EFFECT), False),
        (replace(GOOD, outcome=Outcome.UNPLAYED), False),
        (replace(GOOD, registers=frozenset({9})), False),
        (replace(GOOD, registers=frozenset({9, 11, 12})), False),
        (replace(GOOD, reasons=frozenset({"E3:replay-mismatch"})), False),
    ],
)
def test_another_outcome_other_registers_or_another_reason_is_not_as_expected(
    seen: Seen, expected: bool
) -> None:
    assert Played(ATTACK, seen, 0.1).expected is expected


def test_a_report_from_inside_counts_what_was_not_refused() -> None:
    def report(code: int) -> bytes:
        entries = [f'{{"attempt":"accepted: {n}","errno":1}}' for n in range(20)]
        return f'[{",".join(entries)},{{"attempt":"listener: connect","errno":{code}}}]'.encode()

    assert judge_report(report(1)).outcome is Outcome.NO_EFFECT
    assert judge_report(report(0)) == Seen(Outcome.SUCCEEDS, "not refused: listener: connect")
    for body in (b"[]", b"{}", b"no json", b'[{"attempt":"accepted: one","errno":1}]'):
        with pytest.raises(MachineError):
            judge_report(body)


ADDRESSES = bytes(12)
IP = bytes([0x45]) + bytes(8) + bytes([6]) + bytes(10)


@pytest.mark.parametrize(
    ("frame", "allowed"),
    [
        (ADDRESSES + b"\x08\x06" + bytes(28), True),
        (ADDRESSES + b"\x08\x00" + IP + (443).to_bytes(2, "big") + bytes(18), True),
        (ADDRESSES + b"\x08\x00" + IP + (53).to_bytes(2, "big") + bytes(18), False),
        (ADDRESSES + b"\x08\x00" + IP.replace(b"\x06", b"\x11") + (443).to_bytes(2, "big"), False),
        (ADDRESSES + b"\x86\xdd" + bytes(40), False),
        (ADDRESSES + b"\x08\x00" + IP[:10], False),
        (ADDRESSES, False),
    ],
)
def test_only_arp_and_answers_from_the_served_port_are_no_finding(frame: bytes, allowed: bool) -> None:
    assert _allowed(frame, 443) is allowed


@pytest.mark.parametrize(("version", "closed"), [(b"252.39-1~deb12u1", True), (b"257.13-1~deb13u1", False)])
def test_an_old_stub_has_fewer_doors_and_only_those_end_otherwise(version: bytes, closed: bool) -> None:
    magic = b"#### LoaderInfo: systemd-stub " + version + b" ####\0"
    found = attacks_on(make_pe((FakeSection(b".sdmagic", magic),)))
    assert list(found) == list(ATTACKS)
    others = {name for name in ATTACKS if found[name] != ATTACKS[name]}
    assert others == ({"smbios-cmdline", "esp-addon"} if closed else set())
    assert all(found[name].outcome is Outcome.NO_EFFECT for name in others)


def test_where_requests_are_sealed_the_key_that_must_not_change_is_another() -> None:
    uki = make_pe((FakeSection(b".sdmagic", b"#### LoaderInfo: systemd-stub 257.13-1 ####\0"),))
    found = attacks_on(uki, profile=SEALED_PROFILE)
    assert list(found) == list(ATTACKS)
    assert {name for name in ATTACKS if found[name] != ATTACKS[name]} == {"tls-mitm"}
    assert found["tls-mitm"].outcome is Outcome.REFUSED
    assert found["tls-mitm"].reasons == {"Q7:bound-data-mismatch", "C3:other-hpke-key"}
