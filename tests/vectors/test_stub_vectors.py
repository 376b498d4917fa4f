"""Registers 10 and 12 of boots of others, from what was put into them.

Provenance: vectors/README.md, `boots/`. Register 10 has no event in the firmware's log. The kernels are
Debian cloud kernels: their IMA template is ima-sig.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcglog import LogEvent, parse_event_log, replay
from blindbuild.measure.addons import AddonEffects
from blindbuild.measure.bank import extend_all
from blindbuild.measure.command_line import encode_options, settle_command_line
from blindbuild.measure.pcr10 import predict_boot_aggregate
from blindbuild.measure.pcr12 import predict_pcr12_and_13
from blindbuild.measure.stub import stub_rules
from blindbuild.measure.stub_inputs import StubInputs

BOOTS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "boots"
pytestmark = pytest.mark.skipif(not BOOTS.is_dir(), reason="needs the vectors beside the repository")

BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
CASES = (
    "direct612",
    "f262_ovmf2025_nosb",
    "t257_nosb",
    "t257_sb",
    "t257_sb_smbios",
    "uki61_gpt",
    "uki61_nosb",
)


def held(case: str, algorithm: HashAlgorithm) -> dict[int, Digest]:
    """Return what the TPM held."""
    recorded = json.loads((BOOTS / case / "expected.json").read_bytes())["pcrs_read_from_tpm_in_initramfs"]
    return {int(i): Digest.from_hex(algorithm, text) for i, text in recorded[algorithm.value].items()}


def logged(case: str, register: int) -> tuple[LogEvent, ...]:
    """Return the logged events of one register."""
    log = parse_event_log((BOOTS / case / "eventlog.bin").read_bytes())
    return replay(log, HashAlgorithm.SHA256).events_of(register)


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("case", CASES)
def test_register_10_follows_from_registers_0_to_9(case: str, bank: HashAlgorithm) -> None:
    # Debian's 6.1 has SHA-512 as a module that is not loaded yet, 6.12 has it built in.
    hashes = not (case.startswith("uki61") and bank is HashAlgorithm.SHA384)
    predicted = predict_boot_aggregate(held(case, HashAlgorithm.SHA256), bank, kernel_hashes=hashes)
    assert held(case, bank)[10] == predicted


@pytest.mark.parametrize("algorithm", BANKS)
def test_the_smbios_command_line_of_a_boot_is_register_12_and_the_kernels_options(
    algorithm: HashAlgorithm,
) -> None:
    embedded = (BOOTS / "cmdline.txt").read_bytes()
    inputs = StubInputs(secure_boot=True, smbios_command_line="evil=1")
    settled = settle_command_line(embedded, (), inputs, stub_rules(257))
    events = predict_pcr12_and_13(
        profile=0, command_line=settled, addons=AddonEffects(), archives=(), algorithms=BANKS
    )
    (event,) = logged("t257_sb_smbios", 12)
    assert (dict(events[0].digests), events[0].data, events[0].event_type) == (
        dict(event.digests),
        event.data,
        event.event_type,
    )
    assert extend_all(12, events, algorithm) == held("t257_sb_smbios", algorithm)[12]
    assert settled.text is not None
    options = Digest.sha256(encode_options(settled.text))
    assert options == logged("t257_sb_smbios", 9)[0].digests[HashAlgorithm.SHA256]
