"""Real firmware logs pass every step about the log, in every bank that was read from the TPM.

Provenance: shared vectors, boots/ (QEMU, OVMF 2022.11 and 2025.02, systemd-stub 252, 257 and 262, swtpm).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcglog import ReplayedLog, parse_event_log, replay
from blindbuild.measure.classification import (
    Classification,
    Exact,
    Initial,
    OneOf,
    PlatformReference,
    StatedEvent,
    Unconstrained,
    initial_value,
)
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.registers import check_registers, compare_registers
from blindbuild.verify.replay import judge_log
from blindbuild.verify.session import Evidence

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "boots"
CASES = sorted(path.parent.name for path in VECTORS.glob("*/eventlog.bin"))
pytestmark = pytest.mark.skipif(not CASES, reason=f"no vectors in {VECTORS}")


def rule(register: int, log: ReplayedLog) -> Classification:
    # as decision 9, but for register 10: these kernels have IMA, which logs elsewhere
    if register in (1, 10, 16, 23):
        return Unconstrained("says nothing about the image")
    if register in (0, 5):
        return OneOf((log.values[register],), "")
    events = log.events_of(register)
    if not events:
        return Initial()
    stated = tuple(StatedEvent(event.event_type, event.digests[log.algorithm], "event") for event in events)
    return Exact(log.values[register], stated)


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
@pytest.mark.parametrize("case", CASES)
def test_a_real_log_passes_every_step(case: str, bank: str) -> None:
    algorithm = HashAlgorithm(bank)
    raw = (VECTORS / case / "eventlog.bin").read_bytes()
    read = json.loads((VECTORS / case / "expected.json").read_text())["pcrs_read_from_tpm_in_initramfs"]
    values = tuple(
        Digest.from_hex(algorithm, read[bank][str(n)])
        if str(n) in read[bank]
        else initial_value(n, algorithm)
        for n in range(24)
    )
    log = replay(parse_event_log(raw), algorithm)
    rules = tuple(rule(register, log) for register in range(24))
    platform = PlatformReference("q35", "uefi-tpm", Digest.sha256(b""), {algorithm: rules})
    match = compare_registers(platform, algorithm, values)
    steps = Checklist()
    for passed in ("Q9", "E2"):
        steps.run(passed, lambda: (None, ""))
    steps.run("E1", lambda: check_registers(match))
    evidence = Evidence("tls-spki-quote-v1", algorithm, b"", b"", values, raw, None)
    judge_log(steps, evidence, match)
    assert [(step.id, step.detail) for step in steps.failed()] == []
    assert steps.passed("E1", "E3", "E4", "E5", "E6", "E7", "E8", "E10")
