"""What the operator can do to firmware, devices, clock and memory before power-on."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from blindbuild.assemble.disk import BOOT_PATH, build_disk
from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    NON_VOLATILE_BOOT_RUNTIME,
    EfiVariable,
    pack_boot_order,
    pack_load_option,
    set_variables,
)
from blindbuild.machine.attack_acpi import FOUND_AT, MAGIC, ram_writing_table
from blindbuild.machine.attack_disk import (
    restamp_kernel,
    returning_program,
)
from blindbuild.machine.attack_image import INJECTED, MISMATCH, disk_of, uki_of
from blindbuild.machine.attack_model import AttackInputs, BootAttack, Outcome, Seen
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.enrol import IMAGE_SECURITY_DATABASE, TIME_BASED_AUTHENTICATED
from blindbuild.machine.machine import Machine

LONG_AGO = datetime(1999, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2099, 12, 31, 23, 59, 50, tzinfo=UTC)  # the next century begins while it boots
TOO_LITTLE_MIB = 64  # the firmware starts; with 80 the image serves
STARVED_S = 90.0  # a machine with enough is ready after 10 s, on a busy host after 60

_BOOT_NUMBER = 0x0B1D
_BOOT_FILE = "\\" + BOOT_PATH.replace("/", "\\")
_GARBAGE_BYTES = 4 << 20
# EFI_SIGNATURE_LIST of one SHA-256 (UEFI 2.10, 32.4.1): GUID, sizes, owner, and a hash of nothing that boots
_SIGNATURE_LIST = (
    bytes.fromhex("2616c4c14c509240aca941f936934328")
    + struct.pack("<III", 76, 0, 48)
    + bytes(16)
    + b"\x5a" * 32
)


def _inject_by_smbios(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    # systemd-stub >= 254 appends this OEM string to the command line, Secure Boot or not
    text = f"io.systemd.stub.kernel-cmdline-extra={INJECTED}"
    return replace(config, smbios=(*config.smbios, text))


def _inject_by_load_options(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    options = f"{INJECTED}\0".encode("utf-16-le")
    variables = [
        EfiVariable(
            EFI_GLOBAL_VARIABLE,
            f"Boot{_BOOT_NUMBER:04X}",
            pack_load_option("operator", _BOOT_FILE, options),
        ),
        EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([_BOOT_NUMBER])),
    ]
    changed = set_variables(config.firmware_vars, variables)
    return replace(config, firmware_vars=changed, disk_first=False)


def _start_program_first(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    """Let the firmware start a program of the operator's, which returns; then it starts the image."""
    disk = inputs.directory / "operator.raw"
    disk.write_bytes(build_disk(returning_program()))
    image = (
        *_drive(disk_of(config), "image", read_only=True),
        *("-device", "virtio-blk-pci,drive=image,disable-legacy=on,bootindex=1"),
    )
    return replace(config, disk=disk, more_devices=(*config.more_devices, *image))


def _change_key_databases(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    dbx = EfiVariable(
        IMAGE_SECURITY_DATABASE,
        "dbx",
        _SIGNATURE_LIST,
        NON_VOLATILE_BOOT_RUNTIME | TIME_BASED_AUTHENTICATED,
        timestamp=struct.pack("<HBBBBBxIhBx", 2010, 1, 1, 0, 0, 0, 0, 0, 0),
    )
    return replace(config, firmware_vars=set_variables(config.firmware_vars, [dbx]))


def _add_configuration_files(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    """What systemd, cloud images and firmware look for in QEMU's configuration device."""
    names = (
        "opt/io.systemd.credentials/operator",
        "opt/org.systemd.credentials/operator",
        "opt/com.coreos/config",
        "opt/org.operator/anything",
    )
    files = tuple(
        argument for name in names for argument in ("-fw_cfg", f"name={name},string=console=ttyS0 {INJECTED}")
    )
    return replace(config, more_devices=(*config.more_devices, *files))


def _add_hostile_disks(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    r"""A disk with a boot image of the operator's, one of garbage, one with a broken partition table.

    On three kinds of controller; none stands before the image's own disk.
    """
    image, garbage, broken = (inputs.directory / f"{name}.raw" for name in ("image", "garbage", "broken"))
    image.write_bytes(build_disk(restamp_kernel(uki_of(config))))
    garbage.write_bytes(bytes(range(256)) * (_GARBAGE_BYTES // 256))
    # a protective MBR that promises a GPT, a GPT header with a wrong checksum, a FAT that contradicts itself
    mbr = bytes(446) + bytes.fromhex("00000200eeffffff01000000ffffffff") + bytes(48) + b"\x55\xaa"
    header = b"EFI PART" + struct.pack("<IIII", 0x10000, 92, 0xDEADBEEF, 0) + b"\xff" * 68
    fat = b"\xeb\x3c\x90OPERATOR" + b"\xff" * 499 + b"\x55\xaa"
    broken.write_bytes((mbr + header.ljust(512, b"\0") + fat).ljust(_GARBAGE_BYTES, b"\xff"))
    devices = (
        *_drive(image, "hostile-image"),
        *("-device", "virtio-blk-pci,drive=hostile-image,disable-legacy=on"),
        *_drive(garbage, "hostile-garbage"),
        *("-device", "nvme,drive=hostile-garbage,serial=1"),
        *_drive(broken, "hostile-broken"),
        *("-device", "ide-hd,drive=hostile-broken"),
    )
    return replace(config, more_devices=(*config.more_devices, *devices))


def _look_for_writes(machine: Machine) -> Seen | None:
    """The firmware may read any disk; nobody has anything to write to one."""
    wrote = [
        name
        for entry in machine.qmp.execute("query-blockstats")
        if (name := entry.get("node-name", "")).startswith("hostile-") and entry["stats"]["wr_operations"]
    ]
    return Seen(Outcome.SUCCEEDS, f"written to: {', '.join(wrote)}") if wrote else None


def _set_clock_back(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    return replace(config, clock=LONG_AGO)


def _set_clock_ahead(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    return replace(config, clock=FAR_AHEAD)


def _starve_of_memory(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    return replace(config, more_devices=(*config.more_devices, "-m", str(TOO_LITTLE_MIB)))


def _add_acpi_table(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    table = inputs.directory / "ssdt.aml"
    table.write_bytes(ram_writing_table())
    name = str(table).replace(",", ",,")
    return replace(config, more_devices=(*config.more_devices, "-acpitable", f"file={name}"))


def _read_what_aml_wrote(machine: Machine) -> Seen | None:
    """Look at the guest's RAM from outside: the table wrote a word there and copied it."""
    path = machine.files.directory / "aml.bin"
    machine.qmp.execute("pmemsave", {"val": FOUND_AT, "size": 8, "filename": str(path)})
    if path.read_bytes() != MAGIC * 2:
        return None
    words = f"the operator's ACPI code ran in the guest's kernel: it wrote and read RAM at 0x{FOUND_AT:x}"
    return Seen(Outcome.SUCCEEDS, words)


def _drive(path: Path, name: str, *, read_only: bool = False) -> tuple[str, ...]:
    place, mode = str(path.absolute()).replace(",", ",,"), "on" if read_only else "off"
    file = f"file.driver=file,file.filename={place},file.read-only={mode}"
    return ("-blockdev", f"driver=raw,node-name={name},read-only={mode},{file}")


BOOT_ATTACKS: tuple[BootAttack, ...] = (
    BootAttack(
        name="smbios-cmdline",
        summary="appends to the kernel's command line through an SMBIOS string",
        outcome=Outcome.REFUSED,
        registers=frozenset({9, 12}),
        reasons=MISMATCH,
        apply=_inject_by_smbios,
    ),
    BootAttack(
        name="load-options",
        summary="replaces the kernel's command line through a Boot#### variable",
        outcome=Outcome.REFUSED,
        registers=frozenset({9, 12}),
        reasons=MISMATCH,
        apply=_inject_by_load_options,
    ),
    BootAttack(
        name="program-first",
        summary="has the firmware start a program of his before the image",
        outcome=Outcome.REFUSED,
        registers=frozenset({4}),
        reasons=MISMATCH,
        apply=_start_program_first,
    ),
    BootAttack(
        name="key-databases",
        summary="writes a Secure Boot database into the firmware's variables",
        outcome=Outcome.REFUSED,
        registers=frozenset({7}),
        reasons=MISMATCH,
        apply=_change_key_databases,
    ),
    BootAttack(
        name="fw-cfg-files",
        summary="offers credentials and configuration through fw_cfg",
        outcome=Outcome.NO_EFFECT,
        apply=_add_configuration_files,
        shared=True,
    ),
    BootAttack(
        name="hostile-disks",
        summary="attaches a disk with a boot image of his, one of garbage and one with broken tables",
        outcome=Outcome.NO_EFFECT,
        apply=_add_hostile_disks,
        look=_look_for_writes,
        shared=True,
    ),
    BootAttack(
        name="clock-back",
        summary="sets the machine's clock to 1999",
        outcome=Outcome.NO_EFFECT,
        apply=_set_clock_back,
        shared=True,
    ),
    BootAttack(
        name="clock-ahead",
        summary="sets the machine's clock to the end of 2099",
        outcome=Outcome.NO_EFFECT,
        apply=_set_clock_ahead,
    ),
    BootAttack(
        name="starved-memory",
        summary=f"gives the machine {TOO_LITTLE_MIB} MiB of RAM",
        outcome=Outcome.STOPS,
        apply=_starve_of_memory,
        ready_s=STARVED_S,
    ),
    BootAttack(
        name="acpi-code",
        summary="adds an ACPI table whose code writes and reads the guest's RAM",
        outcome=Outcome.SUCCEEDS,
        apply=_add_acpi_table,
        look=_read_what_aml_wrote,
    ),
)
