"""Explanations of pairs of real boots that differ in a few known things: one line a pair.

Provenance: `golden/...` are boots of our own (golden/boots/README.md), the others the shared vectors
(vectors/README.md, boots/). Each pair is explained from the two logs alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.tcglog import ReplayedLog, parse_event_log, replay
from blindbuild.verify.explain import explain_logs

GOLDEN = Path(__file__).parent / "boots"
VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "boots"


class Pair(NamedTuple):
    """Two logs, and for each register that differs words that its explanation must have."""

    expected: str
    got: str
    words: dict[int, str]


STUB_252, STUB_257 = "golden/stub-252-ovmf-2022.11", "golden/stub-257-ovmf-2025.02"
ENTRIES, TABLES = "other boot entries", "other ACPI tables"
PAIRS = (
    Pair(
        "uki61_nosb", "uki61_gpt", {1: "'Boot0001' \"UEFI Misc Device\"", 5: "the disk has a partition table"}
    ),
    Pair("uki61_gpt", "uki61_nosb", {1: ENTRIES, 5: "the disk has no partition table"}),
    Pair(
        "t257_nosb",
        "t257_sb",
        {
            0: "another firmware build of the same version",
            1: TABLES,
            4: "Secure Boot is on: the stub hides the inner kernel from PCR 4",
            7: "Secure Boot is on, and was expected off; PK differs (+: CN=SnakeOil Test Key",
        },
    ),
    Pair(
        "t257_sb",
        "t257_nosb",
        {
            0: "another firmware build",
            1: "'Boot0002' \"EFI Internal Shell\"",
            4: "Secure Boot is off: the firmware measures the inner kernel too",
            7: "Secure Boot is off, and was expected on",
        },
    ),
    Pair(
        "t257_sb",
        "t257_sb_smbios",
        {
            9: "another kernel command line: the host added `evil=1` (PCR 12)",
            12: "the host added a kernel command line through SMBIOS: `evil=1`",
        },
    ),
    Pair(
        "t257_nosb",
        "f262_ovmf2025_nosb",
        {
            1: "SMBIOS type 1 record",
            4: "another systemd-stub build (.sbat); kernel, initrd and command line are the expected ones; "
            "the inner kernel has no event: systemd-stub 258 and later",
            11: "another systemd-stub build (.sbat); kernel, initrd and command line are the expected ones",
        },
    ),
    Pair(
        "f262_ovmf2025_nosb",
        "t257_nosb",
        {1: "does not measure SMBIOS type 1", 4: "systemd-stub before 258 starts it", 11: ".sbat"},
    ),
    Pair(
        "uki61_nosb",
        "t257_nosb",
        {
            0: "another firmware version: '2025.02-8+deb13u1' instead of none",
            1: TABLES,
            4: "another image was started (other: .linux, .sbat)",
            7: "another firmware build: its variable SecureBoot does not exist",
            9: "stub 257 adds /.extra/os-release to the initrd",
            11: "another kernel (.linux) in the image; an image with other measured sections: .sbat came "
            "(systemd-stub 254 or later)",
        },
    ),
    Pair(
        "uki61_nosb",
        "direct612",
        {
            1: ENTRIES,
            4: "it was handed over by QEMU (-kernel)",
            9: "another kernel command line",
            11: "no unified kernel image was started",
        },
    ),
    Pair(
        "direct612",
        "uki61_nosb",
        {
            1: ENTRIES,
            4: "a boot option, where a kernel handed over by QEMU (-kernel) was expected",
            9: "another kernel command line",
            11: "a unified kernel image was started, where none was expected",
        },
    ),
    Pair(
        STUB_252,
        STUB_257,
        {
            0: "another firmware version: '2025.02-8+deb13u1' instead of none",
            1: TABLES,
            4: "another image, with the same kernel inside",
            7: "its variable SecureBoot does not exist",
            9: "stub 257 adds /.extra/os-release to the initrd",
            11: "(systemd-stub 254 or later)",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-other-kernel",
        {
            4: "a different kernel; the initrd and command line are the expected ones",
            11: "a different kernel; the initrd and command line are the expected ones",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-stub-252",
        {
            4: "another image, with the same kernel inside",
            9: "a stub before 257 adds no /.extra/os-release to the initrd; that in the image (.initrd) is "
            "the expected one",
            11: "(systemd-stub 254 or later was expected)",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-longer-initrd",
        {
            4: "another image, with the same kernel inside (other: .initrd)",
            9: "another initrd: that in the image (.initrd) differs",
            11: "another initramfs (.initrd) in the image",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-gpt",
        {
            1: "'Boot0001' \"UEFI Misc Device\"",
            5: "the disk has a partition table (GPT), and none was expected",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-smbios",
        {
            9: "another kernel command line: the host added `evil=1` (PCR 12)",
            12: "the host added a kernel command line through SMBIOS: `evil=1`",
        },
    ),
    Pair(
        "golden/hello",
        "golden/hello-load-options",
        {
            1: "'Boot0B1D' \"operator\"",
            9: "LoadOptions of the boot option replaced it by `evil=1` (PCR 12)",
            12: "LoadOptions of the boot option replaced the kernel command line: `evil=1`",
        },
    ),
    Pair("golden/hello", "golden/hello-512-mib", {1: "memory size, processors or devices differ"}),
    Pair(
        "golden/hello-bookworm",
        "golden/hello-bookworm-512-mib",
        {0: "only the early firmware (PEI) differs: another memory size or number of processors"},
    ),
    Pair(
        "golden/hello",
        "golden/hello-secure-boot",
        {
            0: "another firmware build of the same version",
            1: TABLES,
            4: "Secure Boot is on: the stub hides the inner kernel from PCR 4",
            7: "Secure Boot is on, and was expected off; PK differs (+: CN=pk)",
        },
    ),
)


def replayed(name: str) -> ReplayedLog:
    folder, _, rest = name.rpartition("/")
    path = GOLDEN / f"{rest}.eventlog.bin" if folder else VECTORS / name / "eventlog.bin"
    if not folder and not VECTORS.is_dir():
        pytest.skip(f"no vectors in {VECTORS}")
    return replay(parse_event_log(path.read_bytes()), HashAlgorithm.SHA256)


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: f"{pair.expected}-{pair.got}")
def test_what_differs_between_two_boots_is_named(pair: Pair) -> None:
    found = {d.register: d for d in explain_logs(replayed(pair.expected), replayed(pair.got))}
    assert found.keys() == pair.words.keys()
    for register, words in pair.words.items():
        assert words in found[register].cause, register
        assert found[register].action


@pytest.mark.parametrize("name", sorted({pair.expected for pair in PAIRS}))
def test_a_boot_has_no_difference_from_itself(name: str) -> None:
    assert explain_logs(replayed(name), replayed(name)) == ()
