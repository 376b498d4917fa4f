"""Predicted before power-on, read afterwards: both Debians, Secure Boot, disks, direct boots and banks.

Where an agent answers, its quote is judged by a statement about exactly this boot, and the TPM is read from
outside as well. Where none can, the transcript of the TPM says what was measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.disk import build_disk, build_gpt_disk
from blindbuild.cli.booting import READY_TIMEOUT_S
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.gpt import parse_gpt
from blindbuild.host.process import run
from blindbuild.machine.accelerator import QEMU
from blindbuild.machine.attack_disk import flip_byte
from blindbuild.machine.config import DirectBoot
from blindbuild.machine.machine import Machine
from blindbuild.machine.transcript import Extend, read_extends, replay_extends
from blindbuild.measure.boot import BootPath, UefiBoot
from blindbuild.measure.direct import DirectMachine, direct_load_options, measure_direct_kernel
from blindbuild.measure.kernel import measure_kernel
from blindbuild.measure.pcr04 import CALLING_APPLICATION
from blindbuild.measure.pcr07 import predict_pcr07
from blindbuild.measure.stub_inputs import StubInputs
from blindbuild.measure.uki import measure_uki
from tests.boot.beside import extends_until_handover
from tests.boot.lab import ROOT, Lab, statement_of
from tests.boot.measured import (
    PredictedBoot,
    Release,
    differing,
    judge,
    predict,
    promised,
    secure_machine,
    secure_state,
    sign_uki,
)
from tests.fakes.secure_boot import make_key

pytestmark = pytest.mark.boot

SHA256, SHA384, SHA512 = HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512
BANKS = (SHA256, SHA384, SHA512)
SECURE = StubInputs(secure_boot=True)
REFUSED = b"Access Denied"  # edk2 UefiBootManagerLib, BmBoot.c prints the status of LoadImage
TRIXIE, BOOKWORM = "hello", "hello-bookworm"


@pytest.fixture(scope="module")
def releases(lab: Lab, product: Path) -> dict[str, Release]:
    """Stub 257 with OVMF 2025.02, and stub 252 with OVMF 2022.11."""
    variant = lab.build(ROOT / "recipes" / BOOKWORM)
    return {TRIXIE: Release(TRIXIE, product), BOOKWORM: Release(BOOKWORM, variant)}


def secure_boot(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    signed = sign_uki(release.uki)
    disk = directory / "signed.raw"
    disk.write_bytes(build_disk(signed))
    boot = UefiBoot(platform=release.secure_platform, secure_boot=secure_state(signed))
    return predict(secure_machine(lab, release, disk), measure_uki(signed, BANKS, inputs=SECURE), boot)


def signed_but_secure_boot_off(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    disk = directory / "signed.raw"
    disk.write_bytes(build_disk(sign_uki(release.uki)))
    config = replace(lab.machine(release.directory), disk=disk)
    # measured from the unsigned image: the signature must not matter
    return predict(config, measure_uki(release.uki, BANKS), UefiBoot(platform=release.platform))


def gpt_disk_and_two_banks(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    image = build_gpt_disk(release.uki)
    disk = directory / "gpt.raw"
    disk.write_bytes(image)
    config = replace(lab.machine(release.directory), disk=disk, tpm_banks=(SHA384, SHA512))
    boot = UefiBoot(platform=release.platform, partition_table=parse_gpt(image).event_data)
    return predict(config, measure_uki(release.uki, (SHA384, SHA512)), boot)


def direct_kernel(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    kernel, initrd = release.section(".linux"), release.section(".initrd")
    line = release.section(".cmdline").decode("ascii").rstrip("\0")
    files = DirectBoot(kernel=directory / "kernel", initrd=directory / "initrd", command_line=line)
    files.kernel.write_bytes(kernel)
    (directory / "initrd").write_bytes(initrd)
    config = replace(lab.machine(release.directory), disk=None, direct=files)
    machine = DirectMachine(
        qemu=qemu_version(), edk2=release.platform.edk2, memory_bytes=config.memory_mib << 20
    )
    measured = measure_direct_kernel(
        kernel, command_line=line, initrd=initrd, machine=machine, algorithms=BANKS
    )
    return predict(config, measured, UefiBoot(platform=release.platform, path=BootPath.DIRECT))


def direct_uki(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    line = release.section(".cmdline").decode("ascii").rstrip("\0") + " evil=1"
    files = DirectBoot(kernel=directory / "uki", command_line=line)
    files.kernel.write_bytes(release.uki)
    config = replace(lab.machine(release.directory), disk=None, direct=files)
    options = direct_load_options(line, has_initrd=False, edk2=release.platform.edk2)
    measured = measure_uki(release.uki, BANKS, inputs=StubInputs(load_options=options))
    return predict(config, measured, UefiBoot(platform=release.platform, path=BootPath.DIRECT))


def direct_uki_with_secure_boot(lab: Lab, release: Release, directory: Path) -> PredictedBoot:
    signed = sign_uki(release.uki)
    files = DirectBoot(kernel=directory / "uki", command_line="ignored=1")
    files.kernel.write_bytes(signed)
    machine = replace(secure_machine(lab, release, files.kernel), disk=None, direct=files)
    boot = UefiBoot(platform=release.secure_platform, secure_boot=secure_state(signed), path=BootPath.DIRECT)
    inputs = replace(SECURE, load_options=files.command_line)
    return predict(machine, measure_uki(signed, BANKS, inputs=inputs), boot)


def qemu_version() -> tuple[int, int]:
    """Major and minor version of the QEMU that will hand the kernel over."""
    said = run(QEMU, ["--version"], timeout_s=60.0).stdout.decode()
    found = re.match(r"QEMU emulator version (\d+)\.(\d+)", said)
    assert found is not None, said
    return int(found[1]), int(found[2])


Plan = Callable[[Lab, Release, Path], PredictedBoot]
# The last column: where such a boot differs from the one that the image's own statement is about.
ANSWERING = [
    (TRIXIE, secure_boot, {0, 4, 7}),
    (BOOKWORM, secure_boot, {0, 4, 7}),
    (TRIXIE, gpt_disk_and_two_banks, {5}),
    (BOOKWORM, signed_but_secure_boot_off, set()),
    (TRIXIE, direct_kernel, {4, 9, 11}),
    (BOOKWORM, direct_kernel, {4, 9, 11}),
    (TRIXIE, direct_uki, {4, 9, 12}),
    (TRIXIE, direct_uki_with_secure_boot, {0, 4, 7}),
]


@pytest.mark.parametrize(
    ("recipe", "plan", "elsewhere"), ANSWERING, ids=[f"{r}-{p.__name__}" for r, p, _ in ANSWERING]
)
def test_every_promised_register_holds_what_was_predicted(
    lab: Lab, releases: dict[str, Release], recipe: str, plan: Plan, elsewhere: set[int], tmp_path: Path
) -> None:
    release = releases[recipe]
    boot = plan(lab, release, tmp_path)
    banks = boot.config.tpm_banks
    stated = statement_of(release.directory).platforms[0]
    with lab.running(boot.config) as machine:
        attempt = judge(lab, release, machine, boot, banks[-1])
        extends = read_extends(machine.files.tpm_log.read_bytes())
        for bank in banks:
            held = machine.read_registers(bank)
            assert differing(boot.reference, bank, held) == set()
            assert differing(stated, bank, held) == elsewhere
            assert replay_extends(extends, bank) == held
            assert promised(boot.reference, bank) >= {2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15}
    assert attempt.appraisal.reasons == frozenset()


def unsigned(release: Release) -> bytes:
    return release.uki


def signed_by_a_stranger(release: Release) -> bytes:
    return sign_uki(release.uki, make_key("stranger"))


def changed_after_signing(release: Release) -> bytes:
    return flip_byte(sign_uki(release.uki), ".initrd")


UNTRUSTED = [(TRIXIE, unsigned), (BOOKWORM, signed_by_a_stranger), (TRIXIE, changed_after_signing)]


@pytest.mark.parametrize(("recipe", "image"), UNTRUSTED, ids=[f"{r}-{f.__name__}" for r, f in UNTRUSTED])
def test_firmware_refuses_an_image_that_db_does_not_vouch_for(
    lab: Lab,
    releases: dict[str, Release],
    recipe: str,
    image: Callable[[Release], bytes],
    tmp_path: Path,
) -> None:
    release = releases[recipe]
    uki = image(release)
    disk = tmp_path / "untrusted.raw"
    disk.write_bytes(build_disk(uki))
    with Machine(replace(secure_machine(lab, release, disk), tpm_transcript=True)) as machine:
        wait_until(lambda: REFUSED in machine.serial_bytes(0), machine)
        extends = read_extends(machine.files.tpm_log.read_bytes())
        assert machine.first_guest_frame_time() is None
    policy = predict_pcr07(BANKS, secure_boot_data=b"\x01", state=secure_state(sign_uki(release.uki)))
    authenticode = authenticode_digests(uki, (SHA256,))[SHA256]
    assert extended(extends, 7) == [event.digests[SHA256] for event in policy]  # and no authority
    assert authenticode not in extended(extends, 4)
    assert not [extend for extend in extends if extend.register in (8, 9, 11, 12, 13)]


def test_a_direct_kernel_that_db_does_not_vouch_for_runs_and_register_4_is_what_tells(
    lab: Lab, releases: dict[str, Release], tmp_path: Path
) -> None:
    """CVE-2025-2296: this firmware then starts it by a loader that measures nothing, Secure Boot or not."""
    release = releases[TRIXIE]
    boot = direct_kernel(lab, release, tmp_path)
    machine = replace(secure_machine(lab, release, tmp_path), disk=None, direct=boot.config.direct)
    extends = extends_until_handover(machine)
    policy = predict_pcr07(BANKS, secure_boot_data=b"\x01", state=secure_state(sign_uki(release.uki)))
    assert extended(extends, 7) == [event.digests[SHA256] for event in policy]  # and no authority
    assert extended(extends, 4) == [Digest.sha256(CALLING_APPLICATION), Digest.sha256(bytes(4))]
    assert not [extend for extend in extends if extend.register in (8, 9, 10, 11, 12, 13)]


def test_a_kernel_without_anything_around_it_is_measured_as_one_file(
    lab: Lab, releases: dict[str, Release], tmp_path: Path
) -> None:
    """It panics for want of an init: no agent tells, the transcript of the TPM does."""
    release = releases[TRIXIE]
    kernel, disk = release.section(".linux"), tmp_path / "kernel.raw"
    disk.write_bytes(build_disk(kernel))
    config = replace(lab.machine(release.directory), disk=disk)
    boot = predict(config, measure_kernel(kernel, BANKS), UefiBoot(platform=release.platform))
    with Machine(boot.config) as machine:
        machine.wait_until_ended(READY_TIMEOUT_S)
        extends = read_extends(machine.files.tpm_log.read_bytes())
    for bank in BANKS:
        assert differing(boot.reference, bank, replay_extends(extends, bank)) == set()
    assert authenticode_digests(kernel, (SHA256,))[SHA256] in extended(extends, 4)
    assert extended(extends, 9) == []


def extended(extends: tuple[Extend, ...], register: int) -> list[Digest | None]:
    return [extend.in_bank(SHA256) for extend in extends if extend.register == register]


def wait_until(done: Callable[[], bool], machine: Machine) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not done():
        assert time.monotonic() < deadline, machine.last_words()
        time.sleep(0.2)
