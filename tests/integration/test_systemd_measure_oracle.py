"""Register 11 as systemd-measure computes it from the same sections, in every bank."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.measure.bank import extend_all
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.stub import NEWEST, OLDEST
from blindbuild.measure.uki import measure_uki
from tests.fakes.pe_image import FakeSection, make_pe

PROGRAM = Path("/usr/lib/systemd/systemd-measure")
KERNEL = make_pe((FakeSection(b".text", b"kernel" * 999),))
# By the version that knows them. No .hwids: 257.13 takes that option for .dtbauto, unlike the stub.
SECTIONS = {
    ".osrel": (252, b"ID=test\n"),
    ".cmdline": (252, b"console=ttyS0 quiet"),
    ".initrd": (252, bytes(range(256)) * 700),
    ".splash": (252, b"BM"),
    ".dtb": (252, b"\xd0\x0d\xfe\xed"),
    ".pcrpkey": (252, b"-----BEGIN PUBLIC KEY-----\n"),
    ".uname": (254, b"6.12.0"),
    ".sbat": (254, b"sbat,1,SBAT Version\n"),
    ".ucode": (256, b"microcode"),
}


def tool_version() -> int:
    """Return the version of the tool that is installed, 0 if there is none."""
    if not PROGRAM.exists():
        return 0
    done = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True)
    match = re.match(r"systemd ([0-9]+)", done.stdout)
    return int(match[1]) if match else 0


VERSION = tool_version()
pytestmark = pytest.mark.skipif(
    not OLDEST <= VERSION <= NEWEST, reason="needs systemd-measure of a version whose rules are known"
)


def oracle(sections: dict[str, bytes], directory: Path) -> dict[str, str]:
    """Return register 11 by bank, without the phases that systemd in the guest would add."""
    arguments = [str(PROGRAM), "calculate", "--json=short", "--phase=:"]
    arguments += [f"--bank={algorithm.value}" for algorithm in HashAlgorithm]
    for name, data in sections.items():
        (directory / name).write_bytes(data)
        arguments.append(f"--{name.removeprefix('.')}={directory / name}")
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return {bank: entries[0]["hash"] for bank, entries in json.loads(done.stdout).items()}


@pytest.mark.parametrize("left_out", ["", ".initrd", ".cmdline", ".osrel"])
def test_register_11_is_what_systemd_measure_computes(left_out: str, tmp_path: Path) -> None:
    known = {name: data for name, (since, data) in SECTIONS.items() if since <= VERSION and name != left_out}
    sections = {**known, ".linux": KERNEL}
    uki = make_pe(
        [FakeSection(name.encode(), data) for name, data in reversed(sections.items())], size_of_headers=2048
    )
    measured = measure_uki(uki, tuple(HashAlgorithm), stub_version=min(VERSION, 260))
    events = predict_pcr11(measured.sections, measured.rules)
    ours = {algorithm.value: extend_all(11, events, algorithm).hex for algorithm in HashAlgorithm}
    assert ours == oracle(sections, tmp_path)
