"""Explanations of real boots: what an operator did to one is named from the log alone.

Provenance: shared vectors, boots/ (QEMU, OVMF, swtpm). The rules come from one boot, the values from another.
"""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EventLogError
from blindbuild.formats.tcglog import ReplayedLog, UnverifiedLog, parse_event_log, replay
from blindbuild.measure.classification import (
    Classification,
    Exact,
    Initial,
    PlatformReference,
    StatedEvent,
    Unconstrained,
    initial_value,
)
from blindbuild.verify.explain import Difference, explain_differences, explain_logs
from blindbuild.verify.registers import compare_registers

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "boots"
BANK = HashAlgorithm.SHA256
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no vectors in {VECTORS}")


def replayed(case: str) -> ReplayedLog:
    return replay(parse_event_log((VECTORS / case / "eventlog.bin").read_bytes()), BANK)


def quoted(case: str) -> list[Digest]:
    expected = json.loads((VECTORS / case / "expected.json").read_text())
    read = expected["pcrs_read_from_tpm_in_initramfs"]["sha256"]
    # the vectors leave some registers of dynamic launch out; nothing extends them in these boots
    return [
        Digest.from_hex(BANK, read[str(n)]) if str(n) in read else initial_value(n, BANK) for n in range(24)
    ]


def rule(register: int, log: ReplayedLog) -> Classification:
    if register in (0, 1, 5, 10, 16, 23):
        return Unconstrained("not compared here")
    events = log.events_of(register)
    if not events:
        return Initial()
    stated = [StatedEvent(event.event_type, event.digests[BANK], "event") for event in events]
    return Exact(log.values[register], tuple(stated))


def differences(stated: str, booted: str) -> dict[int, Difference]:
    log = replayed(stated)
    platform = PlatformReference(
        "q35", "uefi-tpm", Digest.sha256(b""), {BANK: tuple(rule(n, log) for n in range(24))}
    )
    match = compare_registers(platform, BANK, quoted(booted))
    return {difference.register: difference for difference in explain_differences(match, replayed(booted))}


def test_a_boot_matches_itself() -> None:
    assert differences("t257_sb", "t257_sb") == {}


def test_a_command_line_added_through_smbios_is_shown() -> None:
    found = differences("t257_sb", "t257_sb_smbios")
    assert set(found) == {9, 12}
    assert found[12].cause == "the host added a kernel command line through SMBIOS: `evil=1`"
    assert found[9].cause == "another kernel command line: the host added `evil=1` (PCR 12)"


def test_secure_boot_switched_on_is_named() -> None:
    found = differences("t257_nosb", "t257_sb")
    assert found[7].cause.startswith("Secure Boot is on, and was expected off")
    assert found[4].cause == "Secure Boot is on: the stub hides the inner kernel from PCR 4"


def test_a_kernel_handed_over_by_qemu_is_named() -> None:
    found = differences("t257_nosb", "direct612")
    assert found[4].cause.startswith("the firmware took another way")
    assert 11 in found


@pytest.mark.parametrize("case", sorted(path.parent.name for path in VECTORS.glob("*/eventlog.bin")))
def test_register_10_of_a_kernel_with_ima_is_exactly_the_boot_aggregate(case: str) -> None:
    log = replayed(case)
    rules = tuple(Initial() if n == 10 else Unconstrained("not compared here") for n in range(24))
    platform = PlatformReference("q35", "uefi-tpm", Digest.sha256(b""), {BANK: rules})
    (found,) = explain_differences(compare_registers(platform, BANK, quoted(case)), log)
    assert found.register == 10
    assert found.cause == (
        "PCR 10 has a value and no event: the kernel has IMA; it is exactly the boot aggregate of PCR 0-9"
    )


def real_logs() -> list[UnverifiedLog]:
    logs = []
    for path in sorted(VECTORS.parent.rglob("*")):
        if path.suffix in ("", ".bin") and path.is_file() and "trust" not in path.parts:
            try:
                logs.append(parse_event_log(path.read_bytes()))
            except EventLogError:
                continue
    return logs


def test_any_two_real_logs_can_be_explained_and_printed() -> None:
    logs = real_logs()
    assert len(logs) > 15
    for bank in (HashAlgorithm.SHA1, BANK):
        sides = [replay(log, bank) for log in logs if bank in log.algorithms]
        for expected, got in permutations(sides, 2):
            found = explain_logs(expected, got)
            assert [d.register for d in found] == [
                n for n in range(24) if expected.values[n] != got.values[n]
            ]
            assert all(d.cause.isprintable() and d.cause and d.action for d in found)
