"""Predictions against boots of others: from digests of the inputs to the registers that the TPM held.

Provenance: vectors/README.md, `boots/`. The images themselves are not there, so predictions start from the
digests in inputs.json; Secure Boot keys are those of Debian's package (golden/secureboot). Three things
cannot be computed from these inputs, and are taken from elsewhere:

- the initrd of stubs since 257, which is combined with a generated archive and so needs its bytes: its
  digest is that of another boot of the same initrd, which must be the same;
- the kernel of the direct boot, which QEMU changed: the log's digest (by hand it was computed from the file
  in Debian's package: 4965a040… is what `patch_kernel` gives for 2 GiB and an initrd of 1,028,483 bytes);
- the partition table of uki61_gpt: the log's event, parsed and checked as the sectors of a disk.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.gpt import parse_gpt
from blindbuild.formats.siglist import x509_entries
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import LogEvent, parse_event_log, replay, write_event_log
from blindbuild.measure.addons import AddonEffects
from blindbuild.measure.bank import extend_all
from blindbuild.measure.boot import BootPath, MeasuredImage, UefiBoot, boot_events
from blindbuild.measure.classification import (
    Classification,
    Exact,
    Initial,
    OneOf,
    Unconstrained,
    initial_value,
)
from blindbuild.measure.command_line import encode_options, settle_command_line
from blindbuild.measure.direct import direct_load_options
from blindbuild.measure.event import Digests, PredictedEvent
from blindbuild.measure.kernel import MeasuredKernel
from blindbuild.measure.log import predicted_log
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.pcr09 import load_options
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.pcr12 import predict_pcr12_and_13
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.recorded import RECORDED
from blindbuild.measure.reference import predict_events, predict_platform
from blindbuild.measure.secure_boot import SecureBootState
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.stub_inputs import StubInputs
from blindbuild.measure.uki import MeasuredUki

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BOOTS = SHARED / "vectors" / "boots"
KEYS = Path(__file__).resolve().parents[1] / "golden" / "secureboot"
pytestmark = pytest.mark.skipif(not BOOTS.is_dir(), reason="needs the vectors beside the repository")

KERNEL_61 = "vmlinuz-6.1.0-50-cloud-amd64"
KERNEL_612 = "vmlinuz-6.12.117+deb12-cloud-amd64"
PREDICTED_CONSTANTS = ("EV_SEPARATOR", "Calling EFI", "Exit Boot Services", "DRIVER_CONFIG", "section name")
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
OVMF_2022, OVMF_2025 = "qemu-q35-ovmf-2022.11", "qemu-q35-ovmf-2025.02"


def digests(values: dict[str, str]) -> Digests:
    """Turn the vectors' form into ours."""
    return {HashAlgorithm(name): Digest.from_hex(HashAlgorithm(name), text) for name, text in values.items()}


def inputs() -> dict[str, Any]:
    """Return what is known of the images that were booted."""
    loaded: dict[str, Any] = json.loads((BOOTS / "inputs.json").read_bytes())
    return loaded


def command_line() -> bytes:
    """Return the command line of every boot."""
    return (BOOTS / "cmdline.txt").read_bytes()


@dataclass(frozen=True, slots=True)
class Case:
    """One boot of a UKI: the image, and what was different from the simplest one."""

    uki: str
    kernel: str
    version: int
    platform: str
    initrd_of: str | None = None
    gpt: bool = False
    injected: str = ""

    @property
    def secure_boot(self) -> bool:
        return self.platform.endswith("-secboot")


CASES = {
    "uki61_nosb": Case("uki61.efi", KERNEL_61, 252, OVMF_2022),
    "uki61_gpt": Case("uki61.efi", KERNEL_61, 252, OVMF_2022, gpt=True),
    "t257_nosb": Case("uki257.efi", KERNEL_612, 257, OVMF_2025, "t257_sb"),
    "f262_ovmf2025_nosb": Case("uki262.efi", KERNEL_612, 262, OVMF_2025, "t257_sb"),
    "t257_sb": Case("uki257.signed.efi", KERNEL_612, 257, OVMF_2025 + "-secboot", "t257_nosb"),
    "t257_sb_smbios": Case(
        "uki257.signed.efi", KERNEL_612, 257, OVMF_2025 + "-secboot", "t257_nosb", injected="evil=1"
    ),
}
ALL_CASES = (*CASES, "direct612")


def measured(uki: str, kernel: str, version: int) -> MeasuredUki:
    """Return a UKI as far as its digests say; the initrd is right for stubs before 257 only."""
    image, rules = inputs()[uki], stub_rules(version)
    sections = {name: digests(section["digest"]) for name, section in image["sections"].items()}
    return MeasuredUki(
        rules=rules,
        authenticode=digests(image["authenticode"]),
        kernel_authenticode=digests(inputs()[kernel]["authenticode"]),
        sections={name: value for name, value in sections.items() if name in rules.measured_sections},
        load_options=load_options(command_line(), rules),
        initrd=sections[".initrd"],
    )


def snakeoil() -> SecureBootState:
    """Return the state of the variable store that the Secure Boot cases booted with."""
    lists = {
        name: (KEYS / f"debian-13-snakeoil.{name}.esl").read_bytes() for name in ("PK", "KEK", "db", "dbx")
    }
    (only,) = x509_entries(lists["db"])
    return SecureBootState(
        enabled=True,
        pk=lists["PK"],
        kek=lists["KEK"],
        db=lists["db"],
        dbx=lists["dbx"],
        authority=only.encoded,
    )


def logged_table() -> bytes:
    """Return the partition table of uki61_gpt, after it was parsed from a disk that it describes."""
    (event,) = (e for e in logged("uki61_gpt", 5) if e.event_type == EventType.EV_EFI_GPT_EVENT)
    entries = event.data[100:].ljust(128 * 128, b"\0")
    table = parse_gpt(bytes(512) + event.data[:92].ljust(512, b"\0") + entries)
    assert [partition.first_sector for partition in table.partitions] == [2048]
    return table.event_data


def boot_of(name: str) -> tuple[MeasuredImage, UefiBoot]:
    """Return image and boot of a case."""
    if name == "direct612":
        return direct_kernel(), UefiBoot(platform=find_platform(OVMF_2022), path=BootPath.DIRECT)
    case = CASES[name]
    image = replace(measured(case.uki, case.kernel, case.version), secure_boot=case.secure_boot)
    if case.initrd_of:
        image = replace(image, initrd=logged(case.initrd_of, 9)[1].digests)
    if case.injected:
        image = injected(image, case.injected)
    boot = UefiBoot(
        platform=find_platform(case.platform),
        secure_boot=snakeoil() if case.secure_boot else SecureBootState(),
        partition_table=logged_table() if case.gpt else None,
    )
    return image, boot


def injected(image: MeasuredUki, text: str) -> MeasuredUki:
    """Return a UKI on a machine whose host adds this to the command line through SMBIOS."""
    given = StubInputs(secure_boot=image.secure_boot, smbios_command_line=text)
    settled = settle_command_line(command_line(), (), given, image.rules)
    assert settled.text is not None
    events = predict_pcr12_and_13(
        profile=0, command_line=settled, addons=AddonEffects(), archives=(), algorithms=BANKS
    )
    return replace(image, pcr12=events, load_options=encode_options(settled.text))


def direct_kernel() -> MeasuredKernel:
    """Return the kernel of direct612; only its Authenticode digest is the log's."""
    text = direct_load_options(command_line().decode(), has_initrd=True, edk2=202211)
    return MeasuredKernel(
        authenticode=logged("direct612", 4)[0].digests,
        load_options=(text + "\0").encode("utf-16-le"),
        initrd=digests(inputs()["initrd.img"]["digest"]),
    )


def tpm_values(case: str, algorithm: HashAlgorithm) -> dict[int, Digest]:
    """Return what the TPM held."""
    recorded = json.loads((BOOTS / case / "expected.json").read_bytes())["pcrs_read_from_tpm_in_initramfs"]
    return {int(i): Digest.from_hex(algorithm, text) for i, text in recorded[algorithm.value].items()}


def logged(case: str, register: int) -> tuple[LogEvent, ...]:
    """Return the logged events of one register."""
    log = parse_event_log((BOOTS / case / "eventlog.bin").read_bytes())
    return replay(log, HashAlgorithm.SHA256).events_of(register)


def firmware_of(platform: str) -> Digest:
    """Return the digest of the recorded firmware of a platform, or one that nobody recorded.

    Register 0 of a build with SMM depends on more of the machine than its memory: the Secure Boot cases held
    a value that our own boots of the same build did not give, so for them nothing is promised.
    """
    if platform.endswith("-secboot"):
        return Digest.sha256(b"unknown")
    codes = [Digest.from_hex(HashAlgorithm.SHA256, r.code) for r in RECORDED if r.platform == platform]
    return codes[0] if codes else Digest.sha256(b"unknown")


def assert_as_logged(predicted: tuple[PredictedEvent, ...], case: str) -> None:
    """Compare type, digests of every bank and, where predicted, data of every event."""
    events = logged(case, predicted[0].register)
    assert [item.event_type for item in predicted] == [item.event_type for item in events]
    assert [dict(item.digests) for item in predicted] == [dict(item.digests) for item in events]
    for ours, theirs in zip(predicted, events, strict=True):
        assert ours.data is None or ours.data == theirs.data


@pytest.mark.parametrize("case", ALL_CASES)
def test_every_predicted_event_of_a_boot_was_logged_as_predicted(case: str) -> None:
    image, boot = boot_of(case)
    events = predict_events(image, boot.platform, boot=boot)
    expected = {2, 3, 4, 5, 6, 7, 9, 11, 12}
    if case == "direct612":
        expected.discard(11)
    if case != "t257_sb_smbios":
        expected.discard(12)
    assert set(events) == expected
    for predicted in events.values():
        assert_as_logged(predicted, case)


@pytest.mark.parametrize("case", ALL_CASES)
def test_events_come_in_the_order_of_the_log_over_all_registers(case: str) -> None:
    image, boot = boot_of(case)
    ours = [(event.register, event.event_type) for event in boot_events(image, boot)]
    log = parse_event_log((BOOTS / case / "eventlog.bin").read_bytes())
    separator = (EventType.EV_SEPARATOR,)
    theirs = [
        (event.register, event.event_type)
        for event in log.events
        if event.register > 1 or event.event_type in separator
    ]
    assert ours == theirs


@pytest.mark.parametrize("algorithm", BANKS)
@pytest.mark.parametrize("case", ALL_CASES)
def test_the_tpm_held_what_was_predicted(case: str, algorithm: HashAlgorithm) -> None:
    image, boot = boot_of(case)
    reference = predict_platform(
        image, platform=boot.platform, firmware=firmware_of(boot.platform.identifier), boot=boot
    )
    held = tpm_values(case, algorithm)
    assert set(held) >= set(range(16))
    for register in set(held) - {10}:  # 10: IMA of the Debian kernel, and of no event
        assert_held(reference.banks[algorithm][register], held[register], register)


def assert_held(classified: Classification, held: Digest, register: int) -> None:
    """Check one register of a TPM against its classification."""
    match classified:
        case Exact(value=value):
            assert value == held, register
        case OneOf(values=values):
            assert held in values, register
        case Initial():
            assert held == initial_value(register, held.algorithm), register
        case Unconstrained(reason=reason):
            assert reason
            assert register in (0, 1, 16, 23), register


@pytest.mark.parametrize("case", ALL_CASES)
def test_the_predicted_log_replays_to_what_the_tpm_held(case: str) -> None:
    image, boot = boot_of(case)
    data = write_event_log(predicted_log(boot_events(image, boot), BANKS, leave_out=boot.unpredictable))
    log = parse_event_log(data)
    for algorithm in BANKS:
        replayed, held = replay(log, algorithm), tpm_values(case, algorithm)
        assert replayed.touched == {2, 3, 4, 5, 6, 7, 9} | set(
            predict_events(image, boot.platform, boot=boot)
        )
        assert {i: replayed.values[i] for i in replayed.touched} == {i: held[i] for i in replayed.touched}


@pytest.mark.parametrize("case", ["uki61_nosb", "t257_nosb", "direct612"])
def test_register_0_was_recorded_for_this_firmware_by_another_machine(case: str) -> None:
    image, boot = boot_of(case)
    firmware = firmware_of(boot.platform.identifier)
    reference = predict_platform(image, platform=boot.platform, firmware=firmware, boot=boot)
    register = reference.banks[HashAlgorithm.SHA256][0]
    assert isinstance(register, OneOf)
    assert tpm_values(case, HashAlgorithm.SHA256)[0] in register.values


def test_a_command_line_from_the_host_moves_registers_9_and_12_only() -> None:
    before, after = (tpm_values(case, HashAlgorithm.SHA256) for case in ("t257_sb", "t257_sb_smbios"))
    assert {i for i in before if before[i] != after[i]} == {9, 10, 12}


def test_the_same_initrd_had_the_same_digest_in_every_boot_of_stubs_since_257() -> None:
    found = {
        logged(case, 9)[1].digests[HashAlgorithm.SHA256].hex
        for case in ("t257_nosb", "t257_sb", "t257_sb_smbios", "f262_ovmf2025_nosb")
    }
    assert [value[:8] for value in found] == ["79edc570"]


def constants() -> dict[str, tuple[str, str]]:
    """Return the table of constant digests (sha1, sha256) by the bytes hashed."""
    text = (SHARED / "MEASUREMENT.md").read_text()
    return {
        row[0]: (row[1], row[2])
        for row in re.findall(r"^\| (.+?) \| ([0-9a-f]{40}) \| ([0-9a-f]{64}) \|$", text, re.MULTILINE)
    }


def test_names_and_actions_hash_to_the_recorded_constants() -> None:
    table = constants()
    rules = stub_rules(262)
    content = {algorithm: Digest.zero(algorithm) for algorithm in BANKS}
    events = [*predict_pcr11(dict.fromkeys(rules.measured_sections, content), rules)]
    for case in ("f262_ovmf2025_nosb", "uki61_nosb", "t257_sb"):
        image, boot = boot_of(case)
        events += predict_pcr05(BANKS, failed_exit=boot.platform.failed_exit)
        events += boot_events(image, boot)
    hashed = {
        (event.digests[HashAlgorithm.SHA1].hex, event.digests[HashAlgorithm.SHA256].hex) for event in events
    }
    expected = {name for name in table if any(word in name for word in PREDICTED_CONSTANTS)}
    assert len(expected) == 26
    assert {name for name in expected if table[name] not in hashed} == set()


def test_the_short_values_of_the_paper_are_ours() -> None:
    algorithm = HashAlgorithm.SHA256
    events = predict_events(measured("uki257.efi", KERNEL_612, 257), find_platform(OVMF_2025))
    values = {
        register: extend_all(register, predicted, algorithm).hex for register, predicted in events.items()
    }
    assert values[2] == "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
    assert values[5].startswith("a5ceb755d043f324")
    assert values[7].startswith("b5710bf57d25623e")
