"""The real gate in profile hpke-quote-v1, on a real swtpm with the registers of the fakes' honest boot."""

from __future__ import annotations

import hashlib
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client import Expectation
from blindbuild.manifest import parse_trust
from tests.fakes import world
from tests.fakes.gate_launcher import FakeLauncher
from tests.fakes.published import BANKS, Publisher, honest_boot, log_bytes
from tests.fakes.world import TEST_POLICY
from tests.integration.gate_harness import CONFIG, RunningGate, Swtpm, make_tpm_state, running_gate

LATER = 1_830_000_000  # swtpm_setup makes certificates that begin now
PROFILE = "hpke-quote-v1"
SEALED = "/.well-known/blindbuild/sealed"
_ALGORITHMS = {"sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}


@dataclass(frozen=True)
class SealedMachine:
    """A running gate, and what a client judges it by."""

    gate: RunningGate
    launcher: FakeLauncher
    expectation: Expectation
    trust: bytes


@contextmanager
def sealed_machine(binary: Path, directory: Path, **config: object) -> Iterator[SealedMachine]:
    """Start it in `directory`; `config` changes gate.json."""
    make_tpm_state(directory)
    launcher = FakeLauncher()
    # a short path: that of a socket may have 107 bytes
    with tempfile.TemporaryDirectory() as runtime:
        tpm = Swtpm(directory / "state", Path(runtime))
        try:
            with tpm.connect() as channel:
                for event in honest_boot():
                    _extend(channel, event.register, event.measured)
                with running_gate(
                    binary,
                    Path(runtime),
                    channel,
                    launcher=launcher,
                    config=CONFIG | {"profile": PROFILE} | config,
                    event_log=log_bytes(honest_boot()),
                ) as gate:
                    trust, published = trust_bytes(directory / "ca"), sealed_publisher()
                    judged_by = Expectation(
                        *(published.envelope, published.release, parse_trust(trust), TEST_POLICY),
                        clock=lambda: LATER,
                    )
                    yield SealedMachine(gate, launcher, judged_by, trust)
                    assert gate.alive(), f"the gate ended with {gate.process.returncode}"
        finally:
            tpm.stop()


def sealed_publisher() -> Publisher:
    """The release engineer, of an image whose requests are sealed."""
    return world.sealed_publisher().but(release={"validUntil": "2037-01-01T00:00:00Z"})


def trust_bytes(authority: Path) -> bytes:
    """Return a trust file that believes TPMs with certificates of this authority."""
    return sealed_publisher().trust(
        test_tpm_roots=[(authority / "swtpm-localca-rootca-cert.pem").read_text()],
        test_tpm_intermediates=[(authority / "issuer.pem").read_text()],
    )


def _extend(channel, register: int, data: bytes) -> None:
    """Send TPM2_PCR_Extend for all banks (TPM 2.0 Library Part 3, 22.2), with an empty password."""
    digests = b"".join(
        struct.pack(">H", _ALGORITHMS[bank]) + hashlib.new(bank, data).digest() for bank in BANKS
    )
    body = struct.pack(">II", register, 9) + bytes.fromhex("400000090000000000")
    body += struct.pack(">I", len(BANKS)) + digests
    channel.sendall(struct.pack(">HII", 0x8002, 10 + len(body), 0x182) + body)
    answer = channel.recv(4096)
    assert answer[6:10] == bytes(4), answer.hex()
