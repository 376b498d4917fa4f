"""Predictions against boots of others: from digests of the inputs to the registers that the TPM held.

Provenance: vectors/README.md, `boots/`. The images themselves are not there, so predictions start from the
digests in inputs.json; the initrd of stubs since 257 is combined with a generated archive, which needs its
bytes, so there only the command line's event of PCR 9 is predicted.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcglog import LogEvent, parse_event_log, replay
from blindbuild.measure.bank import extend_all
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained, initial_value
from blindbuild.measure.event import Digests, PredictedEvent
from blindbuild.measure.pcr04 import predict_pcr04
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.pcr09 import load_options
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.platforms import find_platform
from blindbuild.measure.reference import predict_events, predict_platform
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.uki import MeasuredUki

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BOOTS = SHARED / "vectors" / "boots"
pytestmark = pytest.mark.skipif(not BOOTS.is_dir(), reason="needs the vectors beside the repository")

KERNEL_61 = "vmlinuz-6.1.0-50-cloud-amd64"
KERNEL_612 = "vmlinuz-6.12.117+deb12-cloud-amd64"
PREDICTED_CONSTANTS = ("EV_SEPARATOR", "Calling EFI", "Exit Boot Services", "DRIVER_CONFIG", "section name")
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)


def digests(values: dict[str, str]) -> Digests:
    """Turn the vectors' form into ours."""
    return {HashAlgorithm(name): Digest.from_hex(HashAlgorithm(name), text) for name, text in values.items()}


def inputs() -> dict[str, Any]:
    """Return what is known of the images that were booted."""
    loaded: dict[str, Any] = json.loads((BOOTS / "inputs.json").read_bytes())
    return loaded


def measured(uki: str, kernel: str, version: int) -> MeasuredUki:
    """Return a UKI as far as its digests say; the initrd is right for stubs before 257 only."""
    image, rules = inputs()[uki], stub_rules(version)
    sections = {name: digests(section["digest"]) for name, section in image["sections"].items()}
    return MeasuredUki(
        rules=rules,
        authenticode=digests(image["authenticode"]),
        kernel_authenticode=digests(inputs()[kernel]["authenticode"]),
        sections={name: value for name, value in sections.items() if name in rules.measured_sections},
        load_options=load_options((BOOTS / "cmdline.txt").read_bytes(), rules),
        initrd=sections[".initrd"],
    )


def tpm_values(case: str, algorithm: HashAlgorithm) -> dict[int, Digest]:
    """Return what the TPM held."""
    recorded = json.loads((BOOTS / case / "expected.json").read_bytes())["pcrs_read_from_tpm_in_initramfs"]
    return {int(i): Digest.from_hex(algorithm, text) for i, text in recorded[algorithm.value].items()}


def logged(case: str, register: int) -> tuple[LogEvent, ...]:
    """Return the logged events of one register."""
    log = parse_event_log((BOOTS / case / "eventlog.bin").read_bytes())
    return replay(log, HashAlgorithm.SHA256).events_of(register)


def assert_as_logged(predicted: tuple[PredictedEvent, ...], case: str) -> None:
    """Compare type, digests of every bank and, where predicted, data of every event."""
    events = logged(case, predicted[0].register)
    assert [item.event_type for item in predicted] == [item.event_type for item in events]
    assert [dict(item.digests) for item in predicted] == [dict(item.digests) for item in events]
    for ours, theirs in zip(predicted, events, strict=True):
        assert ours.data is None or ours.data == theirs.data


CASES = {
    "uki61_nosb": ("uki61.efi", KERNEL_61, 252, "qemu-q35-ovmf-2022.11"),
    "t257_nosb": ("uki257.efi", KERNEL_612, 257, "qemu-q35-ovmf-2025.02"),
    "f262_ovmf2025_nosb": ("uki262.efi", KERNEL_612, 262, "qemu-q35-ovmf-2025.02"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_predicted_event_of_a_boot_was_logged_as_predicted(case: str) -> None:
    uki, kernel, version, platform = CASES[case]
    events = predict_events(measured(uki, kernel, version), find_platform(platform))
    assert set(events) == {2, 3, 4, 5, 6, 7, 9, 11}
    for register, predicted in events.items():
        if register == 9 and version >= 257:
            ours, theirs = predicted[0], logged(case, 9)[0]
            assert (dict(ours.digests), ours.data) == (dict(theirs.digests), theirs.data)
        else:
            assert_as_logged(predicted, case)


@pytest.mark.parametrize("algorithm", BANKS)
@pytest.mark.parametrize("case", CASES)
def test_the_tpm_held_what_was_predicted(case: str, algorithm: HashAlgorithm) -> None:
    uki, kernel, version, platform = CASES[case]
    reference = predict_platform(
        measured(uki, kernel, version), platform=find_platform(platform), firmware=Digest.sha256(b"unknown")
    )
    held = tpm_values(case, algorithm)
    skipped = {10} | ({9} if version >= 257 else set())  # 10: IMA of the Debian kernel
    for register in set(held) - skipped:
        match reference.banks[algorithm][register]:
            case Exact(value=value):
                assert value == held[register], register
            case OneOf(values=values):
                assert held[register] in values, register
            case Initial():
                assert held[register] == initial_value(register, algorithm), register
            case Unconstrained(reason=reason):
                assert reason


def test_with_secure_boot_the_firmware_does_not_measure_the_inner_kernel() -> None:
    uki = measured("uki257.signed.efi", KERNEL_612, 257)
    assert_as_logged(predict_pcr04(image=uki.authenticode, inner_kernel=None), "t257_sb")


def test_a_partition_table_is_an_event_that_we_do_not_predict() -> None:
    events = logged("uki61_gpt", 5)
    expected = [event.digests[HashAlgorithm.SHA256] for event in events]
    ours = [event.digests[HashAlgorithm.SHA256] for event in predict_pcr05(BANKS)]
    assert expected[:1] + expected[2:] == ours


def test_a_command_line_from_the_host_moves_registers_9_and_12_only() -> None:
    before, after = (tpm_values(case, HashAlgorithm.SHA256) for case in ("t257_sb", "t257_sb_smbios"))
    assert {i for i in before if before[i] != after[i]} == {9, 10, 12}
    injected = (BOOTS / "cmdline.txt").read_bytes() + b" evil=1"
    options = load_options(injected, stub_rules(257))
    assert Digest.sha256(options) == logged("t257_sb_smbios", 9)[0].digests[HashAlgorithm.SHA256]


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
    for name in ("qemu-q35-ovmf-2025.02", "qemu-q35-ovmf-2022.11"):
        platform = find_platform(name)
        events += predict_pcr05(BANKS, failed_exit=platform.failed_exit)
        for predicted in predict_events(measured("uki262.efi", KERNEL_612, 262), platform).values():
            events += predicted
    hashed = {
        (event.digests[HashAlgorithm.SHA1].hex, event.digests[HashAlgorithm.SHA256].hex) for event in events
    }
    expected = {name for name in table if any(word in name for word in PREDICTED_CONSTANTS)} - {
        "DRIVER_CONFIG SecureBoot data=01"
    }
    assert len(expected) == 25
    assert {name for name in expected if table[name] not in hashed} == set()


def test_the_short_values_of_the_paper_are_ours() -> None:
    algorithm = HashAlgorithm.SHA256
    events = predict_events(measured("uki257.efi", KERNEL_612, 257), find_platform("qemu-q35-ovmf-2025.02"))
    values = {
        register: extend_all(register, predicted, algorithm).hex for register, predicted in events.items()
    }
    assert values[2] == "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969"
    assert values[5].startswith("a5ceb755d043f324")
    assert values[7].startswith("b5710bf57d25623e")
