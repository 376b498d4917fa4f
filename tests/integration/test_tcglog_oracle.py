"""tpm2_eventlog as an oracle for logs that our writer writes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.tcgevent import (
    EFI_GLOBAL_VARIABLE,
    EventType,
    VariableData,
    tagged_event_data,
    write_variable_data,
)
from blindbuild.formats.tcglog import LogEvent, SpecId, UnverifiedLog, replay, write_event_log

pytestmark = pytest.mark.skipif(shutil.which("tpm2_eventlog") is None, reason="needs tpm2-tools")

ALGORITHMS = (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512)


def event(register: int, kind: EventType, measured: bytes, data: bytes | None = None) -> LogEvent:
    """Return an event that hashes `measured`."""
    digests = {algorithm: Digest.of(algorithm, measured) for algorithm in ALGORITHMS}
    return LogEvent(register, int(kind), digests, measured if data is None else data)


SECURE_BOOT = write_variable_data(VariableData(EFI_GLOBAL_VARIABLE, "SecureBoot", b""))
LOG = UnverifiedLog(
    ALGORITHMS,
    (
        event(0, EventType.EV_S_CRTM_VERSION, "1.0\0".encode("utf-16-le")),
        event(7, EventType.EV_EFI_VARIABLE_DRIVER_CONFIG, SECURE_BOOT),
        event(7, EventType.EV_SEPARATOR, bytes(4)),
        event(9, EventType.EV_EVENT_TAG, b"initrd", tagged_event_data(0x8F3B22EC, "Linux initrd")),
        event(5, EventType.EV_EFI_ACTION, b"Exit Boot Services Invocation"),
    ),
    SpecId(),
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What tpm2_eventlog prints for our log."""
    path: Path = tmp_path_factory.mktemp("log") / "log.bin"
    path.write_bytes(write_event_log(LOG))
    done = subprocess.run(["tpm2_eventlog", path], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


def test_tpm2_eventlog_reads_every_event_of_a_log_we_write(printed: str) -> None:
    kinds = re.findall(r"EventType: (\w+)", printed)
    assert kinds == ["EV_NO_ACTION", *(EventType(item.event_type).name for item in LOG.events)]
    digests = re.findall(r'AlgorithmId: (\w+)\n *Digest: "([0-9a-f]+)"', printed)
    assert digests == [
        (algorithm.value, digest.hex) for item in LOG.events for algorithm, digest in item.digests.items()
    ]
    assert "UnicodeName: SecureBoot" in printed


def test_tpm2_eventlog_replays_a_log_we_write_to_the_same_values(printed: str) -> None:
    ours = {}
    for algorithm in ALGORITHMS:
        replayed = replay(LOG, algorithm)
        ours |= {(algorithm.value, register): replayed.values[register].hex for register in replayed.touched}
    theirs = {}
    bank = ""
    for line in printed[printed.index("\npcrs:") :].splitlines():
        if head := re.fullmatch(r"  (sha\d+):", line):
            bank = head[1]
        elif value := re.fullmatch(r"    (\d+) *: 0x([0-9a-f]+)", line):
            theirs[bank, int(value[1])] = value[2]
    assert theirs == ours
