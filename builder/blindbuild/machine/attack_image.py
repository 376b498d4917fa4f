"""What the operator can make of the boot image, and put beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blindbuild.assemble.disk import BOOT_PATH, read_uki, replace_uki
from blindbuild.errors import UsageError
from blindbuild.formats.pe import read_pe
from blindbuild.machine.attack_disk import (
    UKI_DIRECTORY,
    add_file,
    flip_byte,
    lengthen_section,
    make_addon,
    restamp_kernel,
    restamp_stub,
    write_disk,
)
from blindbuild.machine.attack_model import AttackInputs, BootAttack, Outcome
from blindbuild.machine.config import DirectBoot, MachineConfig

INJECTED = "evil=1"  # what the operator would like to see on the kernel's command line
MISMATCH = frozenset({"E1:register-mismatch"})


def disk_of(config: MachineConfig) -> Path:
    """Return the machine's disk; UsageError if it has none."""
    if config.disk is None:
        raise UsageError("this attack needs a machine with a disk")
    return config.disk


def uki_of(config: MachineConfig) -> bytes:
    """Return what the machine's disk boots."""
    return read_uki(disk_of(config).read_bytes())


def _lengthen_initrd(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, lengthen_section(uki_of(config), ".initrd"))


def _flip_initrd_byte(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, flip_byte(uki_of(config), ".initrd"))


def _swap_initrd(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, add_file(uki_of(config), b"workload/operator", b"was here\n"))


def _swap_kernel(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, inputs.other_uki or restamp_kernel(uki_of(config)))


def _swap_stub(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, restamp_stub(uki_of(config)))


def _put_addon_beside(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    files = {f"{UKI_DIRECTORY}/operator.addon.efi": make_addon(INJECTED.encode())}
    return _with_files(config, inputs, files)


def _put_credential_beside(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    files = {
        f"{UKI_DIRECTORY}/operator.cred": b"ssh key of the operator",
        "loader/credentials/everywhere.cred": b"and another",
    }
    return _with_files(config, inputs, files)


def _put_extension_beside(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    files = {
        f"{UKI_DIRECTORY}/operator.sysext.raw": b"an extension for /usr",
        f"{UKI_DIRECTORY}/operator.confext.raw": b"an extension for /etc",
    }
    return _with_files(config, inputs, files)


def _hand_over_kernel(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    # QEMU takes an initrd besides for a plain kernel only, not for a boot image (hw/i386/x86.c)
    kernel = inputs.directory / "operator.efi"
    kernel.write_bytes(uki_of(config))
    return _started_directly(config, DirectBoot(kernel=kernel, command_line=INJECTED))


def _hand_over_parts(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    image = read_pe(uki_of(config))
    kernel, initrd = inputs.directory / "kernel", inputs.directory / "initrd"
    kernel.write_bytes(image.section_data(".linux"))
    initrd.write_bytes(image.section_data(".initrd"))
    return _started_directly(config, DirectBoot(kernel=kernel, initrd=initrd, command_line=INJECTED))


def _started_directly(config: MachineConfig, direct: DirectBoot) -> MachineConfig:
    # QEMU gives its own kernel the first place, which the disk must not have then
    return replace(config, direct=direct, disk_first=False)


def _with_uki(config: MachineConfig, inputs: AttackInputs, uki: bytes) -> MachineConfig:
    path = inputs.directory / "attacked.raw"
    path.write_bytes(replace_uki(disk_of(config).read_bytes(), uki))
    return replace(config, disk=path)


def _with_files(config: MachineConfig, inputs: AttackInputs, files: dict[str, bytes]) -> MachineConfig:
    path = inputs.directory / "beside.raw"
    write_disk(path, {BOOT_PATH: uki_of(config), **files})
    return replace(config, disk=path)


IMAGE_ATTACKS: tuple[BootAttack, ...] = (
    BootAttack(
        name="initrd-byte",
        summary="makes the initramfs longer by a zero byte, or as many as reach the kernel",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 9, 11}),
        reasons=MISMATCH,
        apply=_lengthen_initrd,
    ),
    BootAttack(
        name="initrd-flip",
        summary="inverts one byte of the initramfs",
        outcome=Outcome.STOPS,
        apply=_flip_initrd_byte,
    ),
    BootAttack(
        name="other-initrd",
        summary="boots the initramfs of another build: one file more, and listed",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 9, 11}),
        reasons=MISMATCH,
        apply=_swap_initrd,
    ),
    BootAttack(
        name="other-kernel",
        summary="boots the kernel of another build",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 11}),
        reasons=MISMATCH,
        apply=_swap_kernel,
    ),
    BootAttack(
        name="other-stub",
        summary="boots the stub of another build around the same sections",
        outcome=Outcome.REFUSED,
        registers=frozenset({4}),
        reasons=MISMATCH,
        apply=_swap_stub,
    ),
    BootAttack(
        name="esp-addon",
        summary="puts an addon with a command line beside the boot image",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 9, 12}),
        reasons=MISMATCH,
        apply=_put_addon_beside,
    ),
    BootAttack(
        name="esp-credential",
        summary="puts credentials beside the boot image",
        outcome=Outcome.STOPS,
        apply=_put_credential_beside,
    ),
    BootAttack(
        name="esp-extension",
        summary="puts system and configuration extensions beside the boot image",
        outcome=Outcome.STOPS,
        apply=_put_extension_beside,
    ),
    BootAttack(
        name="fw-cfg-kernel",
        summary="hands the boot image to the firmware himself, with a command line of his",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 9, 12}),
        reasons=MISMATCH,
        apply=_hand_over_kernel,
    ),
    BootAttack(
        name="fw-cfg-parts",
        summary="hands kernel and initramfs to the firmware apart, with a command line of his",
        outcome=Outcome.REFUSED,
        registers=frozenset({4, 9, 11}),
        reasons=MISMATCH,
        apply=_hand_over_parts,
    ),
)
