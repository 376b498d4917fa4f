"""What measuring a large UKI costs, beside `openssl dgst` on the same file and systemd-measure on its parts.

openssl hashes the file once in one process for each digest. Measuring hashes most bytes twice in each bank,
for the whole file and for the section, so that twice the time of openssl is the work of one processor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from blindbuild.digest import HashAlgorithm
from blindbuild.host.file_source import FileSource
from blindbuild.measure.uki import measure_uki
from tests.fakes.pe_image import FakeSection, make_pe

MIB = 1 << 20
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)
SYSTEMD_MEASURE = Path("/usr/lib/systemd/systemd-measure")

Say = Callable[[str, str], None]
Time = Callable[[Callable[[], object]], float]


def bench_measure(place: Path, say: Say, best_of: Time, *, initrd_mib: int = 256) -> None:
    """Print what measuring takes in one bank and in three, and what its peers take."""
    sections = {
        "osrel": b"ID=bench\n",
        "cmdline": b"console=ttyS0",
        "linux": make_pe((FakeSection(b".text", os.urandom(12 * MIB)),)),
        "initrd": os.urandom(initrd_mib * MIB),
    }
    uki = place / "large.efi"
    uki.write_bytes(make_pe([FakeSection(f".{name}".encode(), data) for name, data in sections.items()]))
    for name, data in sections.items():
        (place / name).write_bytes(data)
    size = f"{uki.stat().st_size / 1e6:.0f} MB"
    for banks in ((HashAlgorithm.SHA256,), BANKS):
        names = ", ".join(bank.value for bank in banks)
        ours = best_of(lambda banks=banks: _measure(uki, banks))
        say(f"measure a UKI of {size}: {names}", f"{ours:.2f} s")
        theirs = sum(best_of(lambda bank=bank: _openssl(uki, bank)) for bank in banks)
        say("  openssl dgst of the file, a run for each digest", f"{theirs:.2f} s")
        _bench_systemd(place, tuple(sections), banks, say, best_of)


def _bench_systemd(
    place: Path, sections: tuple[str, ...], banks: tuple[HashAlgorithm, ...], say: Say, best_of: Time
) -> None:
    if not SYSTEMD_MEASURE.exists():
        say("  systemd-measure of the sections (register 11 only)", "not installed")
        return
    arguments = [str(SYSTEMD_MEASURE), "calculate", "--json=short", "--phase=:"]
    arguments += [f"--bank={bank.value}" for bank in banks]
    arguments += [f"--{name}={place / name}" for name in sections]
    taken = best_of(lambda: subprocess.run(arguments, capture_output=True, check=True))
    say("  systemd-measure of the sections (register 11 only)", f"{taken:.2f} s")


def _measure(uki: Path, banks: tuple[HashAlgorithm, ...]) -> None:
    with FileSource(uki) as source:
        measure_uki(source, banks, stub_version=257)


def _openssl(uki: Path, bank: HashAlgorithm) -> None:
    program = shutil.which("openssl") or "openssl"
    subprocess.run([program, "dgst", f"-{bank.value}", uki], capture_output=True, check=True)


def main() -> None:
    """Run this part alone."""
    from tests.benchmarks.__main__ import best_of, say

    with tempfile.TemporaryDirectory(prefix="blindbuild-bench-") as name:
        bench_measure(Path(name), say, lambda run: best_of(run, 3))


if __name__ == "__main__":
    main()
