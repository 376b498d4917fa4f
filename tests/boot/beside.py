"""Boot images with profiles, and disks with files beside the boot image, made by tools that are not ours."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from blindbuild.assemble.disk import BOOT_PATH
from blindbuild.cli.booting import READY_TIMEOUT_S
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.formats.efivars import (
    EFI_GLOBAL_VARIABLE,
    EfiVariable,
    pack_boot_order,
    pack_load_option,
    set_variables,
)
from blindbuild.formats.pe import NewSection, append_sections
from blindbuild.machine import attack_disk
from blindbuild.machine.attack_disk import UKI_DIRECTORY
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.machine.transcript import Extend, read_extends
from blindbuild.measure.boot import MeasuredImage, UefiBoot, boot_events
from blindbuild.measure.pcr05 import EXIT_SUCCESS
from blindbuild.measure.stub_inputs import Addon, StubInputs
from tests.fakes.pe_image import FakeSection, make_pe

_POLL_S = 0.5  # reading the transcript takes a good part of it
_NUMBER = 0x0B1D  # of the boot option: any


def files_beside(inputs: StubInputs) -> dict[str, bytes]:
    """Return where on the disk the stub finds these inputs (systemd-stub(7), version 257)."""
    files = {
        f"{'loader/addons' if addon.everywhere else UKI_DIRECTORY}/{addon.name}": addon.image
        for addon in inputs.addons
    }
    for directory, group in (
        (UKI_DIRECTORY, (*inputs.credentials, *inputs.sysexts, *inputs.confexts)),
        ("loader/credentials", inputs.global_credentials),
    ):
        files |= {f"{directory}/{name}": data for name, data in group}
    return files


def write_disk(path: Path, uki: bytes, files: Mapping[str, bytes]) -> None:
    """Write an unpartitioned FAT file system with the boot image and files of long names, by mtools."""
    attack_disk.write_disk(path, {BOOT_PATH: uki, **files})


def make_addon(name: str, *sections: tuple[str, bytes], everywhere: bool = False) -> Addon:
    """Return an addon of these sections, which no code under test has assembled."""
    image = make_pe([FakeSection(section.encode(), data) for section, data in sections])
    return Addon(name=name, image=image, everywhere=everywhere)


def add_profiles(uki: bytes, profiles: Sequence[Mapping[str, bytes]]) -> bytes:
    """Return the boot image with profiles at its end: each a mapping whose first section is `.profile`."""
    added, names = [], {}
    for number, profile in enumerate(profiles):
        for index, (name, data) in enumerate(profile.items()):
            stand_in = f".p{number}s{index}"  # a name can be appended once only
            names[stand_in] = name
            added.append(NewSection(stand_in, data))
    image = append_sections(uki, added)
    for stand_in, name in names.items():
        before, after = (text.encode().ljust(8, b"\0") for text in (stand_in, name))
        head, found, tail = image.partition(before)
        assert found, stand_in
        image = head + after + tail
    return image


def with_load_options(config: MachineConfig, text: str) -> MachineConfig:
    """Return the machine with a boot option of these LoadOptions before all others."""
    option = pack_load_option("test", "\\" + BOOT_PATH.replace("/", "\\"), (text + "\0").encode("utf-16-le"))
    variables = [
        EfiVariable(EFI_GLOBAL_VARIABLE, f"Boot{_NUMBER:04X}", option),
        EfiVariable(EFI_GLOBAL_VARIABLE, "BootOrder", pack_boot_order([_NUMBER])),
    ]
    changed = set_variables(config.firmware_vars, variables)
    return replace(config, firmware_vars=changed, disk_first=False)


def extends_until_handover(config: MachineConfig) -> tuple[Extend, ...]:
    """Run the machine until its kernel leaves the firmware's services; return what was measured by then.

    After that no part of the boot measures anything, and an init may refuse what it finds.
    """
    left = Digest.of(HashAlgorithm.SHA256, EXIT_SUCCESS)
    deadline = time.monotonic() + READY_TIMEOUT_S
    with Machine(replace(config, tpm_transcript=True)) as machine:
        while time.monotonic() < deadline:
            extends: tuple[Extend, ...] = ()
            with contextlib.suppress(MachineError):  # the TPM has not started up yet
                extends = read_extends(machine.files.tpm_log.read_bytes())
            if any(extend.in_bank(HashAlgorithm.SHA256) == left for extend in extends):
                return extends
            assert machine.ending() is None, machine.last_words()
            time.sleep(_POLL_S)
        raise AssertionError(machine.last_words())


def predicted_order(
    measured: MeasuredImage, boot: UefiBoot, registers: frozenset[int]
) -> list[tuple[int, Digest]]:
    """Return what is predicted to be measured into some registers, in the order of the log."""
    return [
        (event.register, event.digests[HashAlgorithm.SHA256])
        for event in boot_events(measured, boot)
        if event.register in registers
    ]


def extended_order(extends: Iterable[Extend], registers: frozenset[int]) -> list[tuple[int, Digest | None]]:
    """Return what the TPM was told to measure into some registers, in its order."""
    return [
        (extend.register, extend.in_bank(HashAlgorithm.SHA256))
        for extend in extends
        if extend.register in registers
    ]
