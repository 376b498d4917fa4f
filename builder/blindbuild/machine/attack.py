"""What the operator of a machine can try, by name; tests play each, and `run --attack` lets people play.

An attack on the boot changes the machine's configuration before power-on. Attacks on a running machine are in
`interception` (between client and machine) and `forgery` (no machine at all).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from blindbuild.assemble.disk import BOOT_PATH, read_uki, replace_uki
from blindbuild.errors import MachineError, UsageError
from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    EfiVariable,
    pack_boot_order,
    pack_load_option,
    set_variables,
)
from blindbuild.formats.pe import PeImage, PeSection, read_pe
from blindbuild.machine.config import MachineConfig

INJECTED = "evil=1"  # what the operator would like to see on the kernel's command line

_BOOT_NUMBER = 0x0B1D
_SECTION_HEADER_BYTES = 40  # PE/COFF specification, section table
_VIRTUAL_SIZE = 8
_INITRD_ALIGNMENT = 4  # systemd src/boot/initrd.c, combine_initrds


class Outcome(Enum):
    """How an attack must end."""

    REFUSED = "the client refuses the evidence"
    NEVER_READY = "the machine powers off, or never answers"
    ACCEPTED_ON_TEST_TPM = "succeeds on an operator-run TPM"
    HARMLESS = "accepted, and data reaches the attested image only"


@dataclass(frozen=True, slots=True)
class AttackInputs:
    """What an attack on the boot may need besides the machine.

    Attributes:
        directory: where an altered disk may be written.
        other_uki: the image to boot instead, for the attack that swaps it.
    """

    directory: Path
    other_uki: bytes | None = None


@dataclass(frozen=True, slots=True)
class BootAttack:
    """An attack that changes what is booted, or with what.

    Attributes:
        name: what people type.
        summary: what the operator does.
        outcome: how it must end.
        registers: those promised registers that must differ; empty if it never comes to evidence.
        apply: the configuration of the attacked machine.
    """

    name: str
    summary: str
    outcome: Outcome
    registers: frozenset[int]
    apply: Callable[[MachineConfig, AttackInputs], MachineConfig]


@dataclass(frozen=True, slots=True)
class NetworkAttack:
    """An attack on the way to the machine, or instead of it; `interception` and `forgery` play it."""

    name: str
    summary: str
    outcome: Outcome


Attack = BootAttack | NetworkAttack


def find_attack(name: str) -> Attack:
    """Return the attack of this name; UsageError if there is none."""
    if name not in ATTACKS:
        raise UsageError(f"unknown attack {name!r}", hint=f"one of: {', '.join(ATTACKS)}")
    return ATTACKS[name]


def _inject_by_smbios(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    # systemd-stub >= 254 appends this OEM string to the command line, Secure Boot or not
    text = f"io.systemd.stub.kernel-cmdline-extra={INJECTED}"
    return replace(config, smbios=(*config.smbios, text))


def _inject_by_load_options(config: MachineConfig, _: AttackInputs) -> MachineConfig:
    options = f"{INJECTED}\0".encode("utf-16-le")
    path = "\\" + BOOT_PATH.replace("/", "\\")
    variables = [
        EfiVariable(
            EFI_GLOBAL_VARIABLE, f"Boot{_BOOT_NUMBER:04X}", pack_load_option("operator", path, options)
        ),
        EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([_BOOT_NUMBER])),
    ]
    changed = set_variables(config.firmware_vars, variables)
    return replace(config, firmware_vars=changed, disk_first=False)


def _lengthen_initrd(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, lengthen_section(_read_uki(config), ".initrd"))


def _flip_initrd_byte(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    return _with_uki(config, inputs, flip_byte(_read_uki(config), ".initrd"))


def _swap_uki(config: MachineConfig, inputs: AttackInputs) -> MachineConfig:
    if inputs.other_uki is None:
        raise UsageError("this attack needs another image to boot")
    return _with_uki(config, inputs, inputs.other_uki)


def lengthen_section(uki: bytes, name: str) -> bytes:
    """Return the image with a section up to four zero bytes longer: padding behind it now counts.

    Nothing else of the file changes, and an initramfs may end in zeros, so that the machine boots. The stub
    fills an initramfs up to a multiple of four bytes by itself; the new size is the first one beyond.
    """
    image = read_pe(uki)
    index, section = _find_section(image, name)
    size = _round_up(section.virtual_size, _INITRD_ALIGNMENT) + 1
    if size > _round_up(section.virtual_size, image.section_alignment):
        raise MachineError(f"{name}: expected a section with padding behind it")
    position = image.section_table + index * _SECTION_HEADER_BYTES + _VIRTUAL_SIZE
    return uki[:position] + struct.pack("<I", size) + uki[position + 4 :]


def _round_up(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment


def flip_byte(uki: bytes, name: str) -> bytes:
    """Return the image with the middle byte of a section inverted."""
    _, section = _find_section(read_pe(uki), name)
    position = section.raw_offset + min(section.virtual_size, section.raw_size) // 2
    return uki[:position] + bytes([uki[position] ^ 0xFF]) + uki[position + 1 :]


def _find_section(image: PeImage, name: str) -> tuple[int, PeSection]:
    for index, section in enumerate(image.sections):
        if section.name == name and section.raw_size:
            return index, section
    raise MachineError(f"{name}: expected a section with content")


def _read_uki(config: MachineConfig) -> bytes:
    return read_uki(_disk_of(config).read_bytes())


def _disk_of(config: MachineConfig) -> Path:
    if config.disk is None:
        raise UsageError("this attack needs a machine with a disk")
    return config.disk


def _with_uki(config: MachineConfig, inputs: AttackInputs, uki: bytes) -> MachineConfig:
    path = inputs.directory / "attacked.raw"
    path.write_bytes(replace_uki(_disk_of(config).read_bytes(), uki))
    return replace(config, disk=path)


_ALL: tuple[Attack, ...] = (
    BootAttack(
        "smbios-cmdline",
        "appends to the kernel's command line through an SMBIOS string",
        Outcome.REFUSED,
        frozenset({9, 12}),
        _inject_by_smbios,
    ),
    BootAttack(
        "load-options",
        "replaces the kernel's command line through a Boot#### variable",
        Outcome.REFUSED,
        frozenset({9, 12}),
        _inject_by_load_options,
    ),
    BootAttack(
        "initrd-byte",
        "makes the initramfs longer by a zero byte, or as many as reach the kernel",
        Outcome.REFUSED,
        frozenset({4, 9, 11}),
        _lengthen_initrd,
    ),
    BootAttack(
        "initrd-flip",
        "inverts one byte of the initramfs",
        Outcome.NEVER_READY,
        frozenset(),
        _flip_initrd_byte,
    ),
    BootAttack(
        "other-kernel",
        "boots another image",
        Outcome.REFUSED,
        frozenset({4, 11}),
        _swap_uki,
    ),
    NetworkAttack(
        "fresh-tpm",
        "boots nothing: replays a genuine event log into a fresh TPM of his and answers with its quotes",
        Outcome.ACCEPTED_ON_TEST_TPM,
    ),
    NetworkAttack(
        "relay",
        "passes the connection on to another machine that runs the image",
        Outcome.HARMLESS,
    ),
    NetworkAttack(
        "tls-mitm",
        "ends TLS himself and passes requests and evidence on to the machine",
        Outcome.REFUSED,
    ),
)

ATTACKS: Mapping[str, Attack] = {attack.name: attack for attack in _ALL}
