"""What is beside a boot image on its disk, a chosen profile, signed addons: predicted, then booted.

The image's own init may refuse to go on with files that it does not know: the transcript of the TPM tells, up
to where the kernel leaves the firmware's services.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.formats.cpio import CpioEntry, write_newc
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.transcript import replay_extends
from blindbuild.measure.boot import UefiBoot, find_addon_authorities
from blindbuild.measure.stub_inputs import Addon, StubInputs
from blindbuild.measure.uki import MeasuredUki, measure_uki
from tests.boot.beside import (
    add_profiles,
    extended_order,
    extends_until_handover,
    files_beside,
    make_addon,
    predicted_order,
    with_load_options,
    write_disk,
)
from tests.boot.lab import ROOT, Lab
from tests.boot.measured import (
    KEYS,
    Release,
    differing,
    predict,
    secure_machine,
    secure_state,
    sign_uki,
)
from tests.boot.test_measured_boots import BANKS, BOOKWORM, TRIXIE
from tests.fakes.secure_boot import make_key

pytestmark = pytest.mark.boot

BOOT_REGISTERS = frozenset({4, 7, 9, 11, 12, 13})
PROFILES = (
    {".profile": b"ID=main\nTITLE=Main\n"},
    {".profile": b"ID=other\nTITLE=Other\n", ".cmdline": b"console=ttyS1 profile=other\n"},
)


@pytest.fixture(scope="module")
def bookworm(lab: Lab) -> Path:
    """The image of recipes/hello-bookworm, with stub 252."""
    return lab.build(ROOT / "recipes" / BOOKWORM)


# Devicetree Specification, 5.2: the header of an empty tree, which nothing on x86 looks at
DEVICE_TREE = struct.pack(">10I", 0xD00DFEED, 72, 56, 72, 40, 17, 16, 0, 0, 16) + bytes(32)


def archive(name: str) -> bytes:
    """An initramfs of one file; the kernel unpacks what addons bring."""
    return write_newc([CpioEntry(name.encode(), 0o100444, b"data of an addon")])


def everything() -> StubInputs:
    """At least one of all that stub 257 looks for, and two where it has to put them in order."""
    return StubInputs(
        profile=1,
        smbios_command_line="smbios=1",
        addons=(
            make_addon("b.addon.efi", (".cmdline", b"local=b"), (".initrd", archive("b"))),
            make_addon("A.addon.efi", (".cmdline", b" local=A\n"), (".initrd", archive("a"))),
            make_addon(
                "b.addon.efi", (".cmdline", b"everywhere=1"), (".ucode", archive("g")), everywhere=True
            ),
            make_addon("u1.addon.efi", (".ucode", archive("u1"))),
            make_addon("u2.addon.efi", (".ucode", archive("u2"))),
            make_addon("tree.addon.efi", (".dtb", DEVICE_TREE)),
            make_addon("uname.addon.efi", (".uname", b"another kernel"), (".cmdline", b"never=1")),
        ),
        credentials=(("b.cred", b"b"), ("A.cred", b"capital letters come first")),
        global_credentials=(("everywhere.cred", bytes(5)),),
        sysexts=(("one.sysext.raw", b"no extension that anything would mount"), ("other.raw", b"two")),
        confexts=(("one.confext.raw", b"nor this"),),
    )


def test_all_that_is_beside_a_boot_image_is_measured_as_predicted(
    lab: Lab, product: Path, tmp_path: Path
) -> None:
    release, inputs = Release(TRIXIE, product), everything()
    uki, disk = add_profiles(release.uki, PROFILES), tmp_path / "beside.raw"
    write_disk(disk, uki, files_beside(inputs))
    machine = with_load_options(lab.machine(product), f"@{inputs.profile}")
    measured, situation = measure_uki(uki, BANKS, inputs=inputs), UefiBoot(platform=release.platform)
    assert_agreement(replace(machine, disk=disk, smbios=(smbios(inputs),)), measured, situation)


def test_an_old_stub_looks_at_some_of_it_and_the_rest_has_no_effect(
    lab: Lab, bookworm: Path, tmp_path: Path
) -> None:
    """Stub 252 has neither addons nor SMBIOS nor configuration extensions, which it takes for the others."""
    release, given = Release(BOOKWORM, bookworm), everything()
    disk = tmp_path / "beside.raw"
    write_disk(disk, release.uki, files_beside(given))
    machine = with_load_options(lab.machine(bookworm), "console=ttyS0 options=1\t ")
    inputs = StubInputs(
        load_options="console=ttyS0 options=1\t ",
        smbios_command_line=given.smbios_command_line,
        addons=given.addons,
        credentials=given.credentials,
        global_credentials=given.global_credentials,
        sysexts=(*given.sysexts, *given.confexts),
    )
    measured, situation = measure_uki(release.uki, BANKS, inputs=inputs), UefiBoot(platform=release.platform)
    assert_agreement(replace(machine, disk=disk, smbios=(smbios(inputs),)), measured, situation)


def assert_agreement(machine: MachineConfig, measured: MeasuredUki, situation: UefiBoot) -> None:
    """Boot the machine; compare every extend of the registers of the image, and all that is promised."""
    boot = predict(machine, measured, situation)
    extends = extends_until_handover(boot.config)
    assert extended_order(extends, BOOT_REGISTERS) == predicted_order(measured, situation, BOOT_REGISTERS)
    for bank in BANKS:
        assert differing(boot.reference, bank, replay_extends(extends, bank)) == set()


def smbios(inputs: StubInputs) -> str:
    return f"io.systemd.stub.kernel-cmdline-extra={inputs.smbios_command_line}"


def test_addons_are_loaded_if_db_vouches_for_them_and_measured_with_who_does(
    lab: Lab, product: Path, tmp_path: Path
) -> None:
    release, keys = Release(TRIXIE, product), replace(KEYS, db=KEYS.db + make_key("db2").esl)
    signed, disk = sign_uki(release.uki), tmp_path / "addons.raw"
    unsigned = make_addon("0.addon.efi", (".cmdline", b"unsigned=1"))
    same = signed_addon("1.addon.efi", "db", b"same=1")
    other = signed_addon("2.addon.efi", "db2", b"other=1")
    stranger = signed_addon("3.addon.efi", "stranger", b"stranger=1")
    present = StubInputs(secure_boot=True, addons=(unsigned, same, other, stranger))
    write_disk(disk, signed, files_beside(present))
    state = replace(secure_state(signed), db=keys.db).trusting(signed)
    measured = measure_uki(signed, BANKS, inputs=replace(present, addons=(same, other)))
    situation = UefiBoot(
        platform=release.secure_platform,
        secure_boot=state,
        addon_authorities=find_addon_authorities(measured, state, (same.image, other.image)),
    )
    assert_agreement(secure_machine(lab, release, disk, keys=keys), measured, situation)


def signed_addon(name: str, key: str, command_line: bytes) -> Addon:
    addon = make_addon(name, (".cmdline", command_line))
    return replace(addon, image=sign_uki(addon.image, make_key(key)))
