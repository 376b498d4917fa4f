"""A UKI that does not fit into the memory it may use, as a sparse file made here."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.pe_image import FakeSection, make_pe

MIB = 1 << 20
MAX_RESIDENT_MIB = 200

CHILD = """
import json, sys, pathlib
from blindbuild.digest import HashAlgorithm
from blindbuild.host.file_source import FileSource
from blindbuild.measure.uki import measure_uki
with FileSource(pathlib.Path(sys.argv[1])) as source:
    result = measure_uki(source, [HashAlgorithm(name) for name in sys.argv[2:]], stub_version=257)
print(json.dumps({
    # not ru_maxrss: the kernel hands the parent's on through exec
    "kib": int(pathlib.Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]),
    "initrd": {name.value: digest.hex for name, digest in result.initrd.items()},
    "section": {name.value: digest.hex for name, digest in result.sections[".initrd"].items()},
    "image": {name.value: digest.hex for name, digest in result.authenticode.items()},
}))
"""


def write_uki(path: Path, initrd_bytes: int) -> bytes:
    """Write a UKI whose initrd is a hole in the file, and return its headers and other sections."""
    kernel = make_pe((FakeSection(b".text", b"kernel"),))
    small = make_pe(
        [FakeSection(b".cmdline", b"quiet"), FakeSection(b".linux", kernel), FakeSection(b".initrd", b"")]
    )
    head = bytearray(small)
    table = 64 + 24 + 112 + 8 * 16
    line = table + 2 * 40
    (address,) = struct.unpack_from("<I", head, line + 12)
    struct.pack_into("<IIII", head, line + 8, initrd_bytes, address, initrd_bytes, len(head))
    struct.pack_into("<I", head, 64 + 24 + 56, address + initrd_bytes)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + initrd_bytes)
    return bytes(head)


def measure_in_a_process(path: Path, *banks: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, path, *banks], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def hash_zeros(size: int, head: bytes = b"") -> str:
    hasher = hashlib.sha256(head)
    block = bytes(MIB)
    for start in range(0, size, MIB):
        hasher.update(block[: size - start])
    return hasher.hexdigest()


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    size = 300 * MIB
    head = write_uki(tmp_path / "large.efi", size)
    result = measure_in_a_process(tmp_path / "large.efi", "sha256")
    assert result["initrd"] == result["section"] == {"sha256": hash_zeros(size)}
    without = head[: 64 + 24 + 64] + head[64 + 24 + 68 : 64 + 24 + 144] + head[64 + 24 + 152 :]
    assert result["image"] == {"sha256": hash_zeros(size, without)}
    assert int(str(result["kib"])) < 100 * 1024


@pytest.mark.full
def test_two_gigabytes_are_measured_in_three_banks_within_the_promise(tmp_path: Path) -> None:
    size = 2048 * MIB
    write_uki(tmp_path / "huge.efi", size)
    result = measure_in_a_process(tmp_path / "huge.efi", "sha1", "sha256", "sha384")
    assert result["initrd"] == result["section"]
    assert int(str(result["kib"])) < MAX_RESIDENT_MIB * 1024
