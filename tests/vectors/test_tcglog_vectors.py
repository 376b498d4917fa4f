"""Event logs of real machines, with register values that others computed or read from a TPM.

Provenance: vectors/README.md. The tpm2-tools logs come with what tpm2_eventlog printed for them; the boots
with what the TPM held; the keylime logs were replayed by tpm2_eventlog 5.4.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import data_mismatches, parse_event_log, replay, write_event_log

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason="needs the vectors beside the repository")

BOOTS = (
    "direct612",
    "f262_ovmf2025_nosb",
    "t257_nosb",
    "t257_sb",
    "t257_sb_smbios",
    "uki61_gpt",
    "uki61_nosb",
)
PRETTY = (
    "event-arch-linux",
    "event-bootorder",
    "event-gce-ubuntu-2104-log",
    "event-moklisttrusted",
    "event-postcode",
    "event-sd-boot-fedora37",
    "event-uefi-sha1-log",
    "event-uefiservices",
)
# tpm2_eventlog 5.4, sha256; without PCR 0 of the first, see the test.
KEYLIME = {
    "binary_bios_measurements": {
        1: "d268196b8d9585b41e6de98d7b2af9cc2fcc5b8ae5923b354105bf7c4d73b9cc",
        2: "4aa7ce1fed66fdadf81a0cf06a47f14625f72fb4ff5fb5d6aa5d0632c9407878",
        4: "a77ff9ab296e10186dd7e7082eab94e795b1ba9d84e920b09cf6272f68c2711c",
        5: "569e53aee038897b12b1a0842c1edb67435d53c831bdce67f6440dd2a903925f",
        7: "741fd028c51b4d2fbdcc7f28014cc758d17ccc1fe2ea7ca17b0e8009480a557c",
        9: "e0bde30667767849f70f6f1f5b561bc3d25d8aff186b8db0ac405d652f80e3c4",
        14: "17cdefd9548f4383b67a37a901673bf3c8ded6f619d36c8007562de1d93c81cc",
    },
    "binary_bios_measurements-secureboot": {
        0: "0d993cf4baec1dc2a47013c8bcc13e1593d5e6ba9cc4630f422e98d310212aff",
        2: "7551ef5fcd14f30f8087b631c90869ec55f71bd4e791bd370855ea1d48d2100a",
        5: "4316832e478197a3729fcaed54ec97989dcd67bc00ca2ac58230a414ff2b5277",
        7: "2f96e1f1bf7f91b6f17e1bcb823e717e43782ff75481237711f2ed7bf8a8edb1",
        14: "66c465262f16d108fd77f2f94c4ae0040f81b3168242a827fcf5efcd812de053",
    },
}


def read(name: str) -> bytes:
    """Read one vector."""
    return (VECTORS / name).read_bytes()


def pretty_values(name: str) -> dict[tuple[str, int], str]:
    """Return the `pcrs:` part of what tpm2_eventlog printed, by bank and register."""
    text = read(f"tpm2-tools/event-pretty/{name}.bin.yaml").decode()
    values: dict[tuple[str, int], str] = {}
    bank = ""
    for line in text[text.index("\npcrs:\n") :].splitlines():
        if head := re.fullmatch(r"  (sha\d+):", line):
            bank = head[1]
        elif value := re.fullmatch(r"    (\d+) *: 0x([0-9a-f]+)", line):
            values[bank, int(value[1])] = value[2]
    return values


def replayed_values(data: bytes) -> dict[tuple[str, int], str]:
    """Return what a replay of every bank gives for the registers that were touched."""
    log = parse_event_log(data)
    replays = [replay(log, algorithm) for algorithm in log.algorithms]
    return {(one.algorithm.value, i): one.values[i].hex for one in replays for i in one.touched}


@pytest.mark.parametrize("name", PRETTY)
def test_logs_of_tpm2_tools_replay_to_what_it_printed(name: str) -> None:
    expected = pretty_values(name)
    assert expected
    assert replayed_values(read(f"tpm2-tools/{name}.bin")) == expected


@pytest.mark.parametrize("case", BOOTS)
def test_logs_of_boots_replay_to_what_the_tpm_held(case: str) -> None:
    log = parse_event_log(read(f"boots/{case}/eventlog.bin"))
    recorded = json.loads(read(f"boots/{case}/expected.json"))["pcrs_read_from_tpm_in_initramfs"]
    assert {algorithm.value for algorithm in log.algorithms} == set(recorded)
    for algorithm in log.algorithms:
        replayed = replay(log, algorithm)
        differing = {
            i for i, value in recorded[algorithm.value].items() if replayed.values[int(i)].hex != value
        }
        assert differing == {"10"}  # extended by IMA of the Debian kernel, without an event
        assert data_mismatches(log, algorithm) == ()


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_the_log_of_a_shielded_vm_replays_to_the_quoted_values(bank: str) -> None:
    replayed = replay(parse_event_log(read("quotes/gce/nonce9009.eventlog.bin")), HashAlgorithm(bank))
    quoted = json.loads(read(f"quotes/gce/nonce9009.{bank}.pcrs.json"))
    values = {int(i): value for i, value in quoted["pcrs"].items()}
    assert {i for i, value in values.items() if replayed.values[i].hex != value} == {10}


@pytest.mark.parametrize("name", KEYLIME)
def test_logs_of_keylime_replay(name: str) -> None:
    replayed = replay(parse_event_log(read(f"keylime/{name}")), HashAlgorithm.SHA256)
    assert {i: replayed.values[i].hex for i in KEYLIME[name]} == KEYLIME[name]


def test_startup_locality_3_of_a_real_machine_is_the_start_and_not_an_extend() -> None:
    # tpm2_eventlog 5.4 extends EV_NO_ACTION and starts from zero, which gives the second value; the first
    # event of PCR 0 says locality 3.
    log = parse_event_log(read("keylime/binary_bios_measurements"))
    replayed = replay(log, HashAlgorithm.SHA256)
    assert replayed.startup_locality == 3
    wrong = Digest.zero(HashAlgorithm.SHA256)
    for event in log.events:
        if event.register == 0:
            wrong = wrong.extend(event.digests[HashAlgorithm.SHA256])
    assert wrong.hex == "1877eacbf0290c67521de489ae1ca5d04de12150e522f472f3fb3daeb35e8e43"
    assert replayed.values[0].hex == "0ee9a7feba8f4172f1a7451594aa5731665a4d353ac61814042ce107a00742f2"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("keylime/binary_bios_measurements-bogus", "expected at most 262144 bytes of event data"),
        ("tpm2-tools/event-uefiaction.bin", "expected 4 digests, as in the Spec ID event, got 2"),
        ("tpm2-tools/event-uefivar.bin", "expected 4 digests, as in the Spec ID event, got 2"),
        ("tpm2-tools/specid-vendordata.bin", "expected 4 bytes for the vendor information, got 0"),
    ],
)
def test_logs_that_break_the_specification_are_refused(name: str, reason: str) -> None:
    with pytest.raises(EventLogError) as caught:
        parse_event_log(read(name))
    assert reason in caught.value.message


def accepted_logs() -> list[str]:
    """Return every vector log that is well formed."""
    names = [f"tpm2-tools/{name}.bin" for name in (*PRETTY, "event")]
    return names + [f"boots/{case}/eventlog.bin" for case in BOOTS] + [f"keylime/{name}" for name in KEYLIME]


@pytest.mark.parametrize("name", accepted_logs())
def test_every_log_is_written_back_to_the_same_bytes(name: str) -> None:
    data = read(name)
    assert write_event_log(parse_event_log(data)) == data


@pytest.mark.parametrize("name", ["boots/uki61_nosb/eventlog.bin", "tpm2-tools/event-uefi-sha1-log.bin"])
def test_a_real_log_cut_anywhere_is_refused_or_only_shorter(name: str) -> None:
    data = read(name)
    whole = parse_event_log(data)
    accepted = 0
    for size in range(len(data)):
        try:
            log = parse_event_log(data[:size])
        except EventLogError:
            continue
        accepted += 1
        assert log.events == whole.events[: len(log.events)]
    assert accepted == len(whole.events) - 1  # exactly the ends of records


def test_flipped_bits_of_a_real_log_give_only_our_error() -> None:
    data = read("boots/uki61_nosb/eventlog.bin")
    for position in range(0, len(data), 3):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        try:
            log = parse_event_log(bytes(flipped))
            replay(log, log.algorithms[0])
        except EventLogError:
            continue


def test_a_file_name_logged_beside_the_hash_of_the_file_is_not_judged() -> None:
    # tpm2-tools warns about event 24 of this log: an EV_IPL of systemd-boot.
    log = parse_event_log(read("tpm2-tools/event-arch-linux.bin"))
    assert log.events[23].event_type == EventType.EV_IPL
    assert data_mismatches(log, HashAlgorithm.SHA256) == ()


def test_certificates_that_firmware_logged_in_another_form_than_it_hashed_are_found() -> None:
    log = parse_event_log(read("quotes/gce/nonce9009.eventlog.bin"))
    found = data_mismatches(log, HashAlgorithm.SHA256)
    assert {(item.event.register, item.event.event_type) for item in found} == {
        (7, EventType.EV_EFI_VARIABLE_AUTHORITY)
    }
