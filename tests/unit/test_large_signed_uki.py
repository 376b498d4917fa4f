"""A signed UKI that does not fit into the memory it may use: its signature is read, its content streamed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.image_signature import read_signatures, signed_content, write_signed_data
from blindbuild.formats.source import BytesSource, Source
from blindbuild.host.file_source import FileSource
from blindbuild.measure.secure_boot import SecureBootState, find_authority
from blindbuild.publish import load_certificates, load_rsa_key, sign_boot_image
from tests.fakes.pe_image import make_pe
from tests.fakes.secure_boot import OWNER, make_key
from tests.unit.test_large_uki import MIB, write_uki

SHA256 = HashAlgorithm.SHA256
DIRECTORY = 64 + 24 + 112 + 8 * 4

CHILD = """
import json, re, sys, pathlib
from blindbuild.cli.measure import command
try:
    command(sys.argv[1:], standalone_mode=False)
finally:
    status = pathlib.Path("/proc/self/status").read_text()
    print(re.search(r"VmHWM:[^0-9]*([0-9]+) kB", status)[1], file=sys.stderr)
"""


def sign_large(path: Path) -> None:
    """Append a signature by the key `owner` to a UKI whose size is a multiple of eight."""
    with FileSource(path) as source:
        digest = authenticode_digests(source, (SHA256,))[SHA256]
        size = source.size
    blob = write_signed_data(signed_content(digest), (make_key("owner").der,), b"value")
    entry = struct.pack("<IHH", 8 + len(blob), 0x0200, 2) + blob
    table = entry + bytes(-len(entry) % 8)
    with path.open("r+b") as file:
        file.seek(DIRECTORY)
        file.write(struct.pack("<II", size, len(table)))
        file.seek(size)
        file.write(table)


def state() -> SecureBootState:
    lists = make_key("owner").esl
    return SecureBootState(enabled=True, pk=lists, kek=lists, db=lists)


def measure_in_a_process(tmp_path: Path, platform: str, *options: str) -> tuple[dict[str, object], int]:
    """Return what `measure` printed for the image in this directory, and the KiB that it held at most."""
    lists = tmp_path / "keys.esl"
    lists.write_bytes(make_key("owner").esl)
    keys = [word for name in ("pk", "kek", "db") for word in (f"--{name}", str(lists))]
    named = [str(tmp_path / "large.efi"), "--platform", platform, "--stub-version", "257", "--secure-boot"]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, *named, *keys, "--json", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["platforms"]
    return found, int(done.stderr.split()[-1])


class CountingSource:
    """A source that remembers how much was read of it at once."""

    def __init__(self, data: bytes) -> None:
        self._source = BytesSource(data)
        self.largest = 0
        self.total = 0

    @property
    def size(self) -> int:
        return self._source.size

    def read(self, offset: int, size: int) -> bytes:
        self.largest = max(self.largest, size)
        self.total += size
        return self._source.read(offset, size)


def test_signatures_are_read_from_headers_and_table_alone() -> None:
    key = make_key("owner")
    image = make_pe(tail=bytes(4 * MIB))
    signed = sign_boot_image(image, load_rsa_key(key.pem), load_certificates(key.der))
    source = CountingSource(signed)
    assert read_signatures(source) == read_signatures(signed)
    assert source.total < 16384
    assert find_authority(state(), source) == find_authority(state(), signed)
    assert source.largest <= MIB


def test_a_source_that_ends_early_gives_our_error() -> None:
    key = make_key("owner")
    signed = sign_boot_image(make_pe(), load_rsa_key(key.pem), load_certificates(key.der))
    source: Source = BytesSource(signed[:-8])
    with pytest.raises(Exception, match="certificate table") as caught:
        read_signatures(source)
    assert type(caught.value).__name__ == "PeError"


@pytest.mark.parametrize("platform", ["qemu-q35-ovmf-2025.02-secboot", "nitro-tpm"])
def test_a_signed_image_is_measured_without_holding_it(tmp_path: Path, platform: str) -> None:
    write_uki(tmp_path / "large.efi", 300 * MIB)
    sign_large(tmp_path / "large.efi")
    found, kib = measure_in_a_process(tmp_path, platform, "--bank", "sha256")
    events = found["banks"]["sha256"]["pcrs"]["7"]["events"]  # type: ignore[index,call-overload]
    assert events[-1]["what"] == f"authority db: {16 + len(make_key('owner').der)} bytes"
    assert OWNER.bytes_le in make_key("owner").esl
    assert kib < 150 * 1024


@pytest.mark.full
def test_two_signed_gigabytes_are_measured_within_the_promise(tmp_path: Path) -> None:
    write_uki(tmp_path / "large.efi", 2048 * MIB)
    sign_large(tmp_path / "large.efi")
    _, kib = measure_in_a_process(tmp_path, "qemu-q35-ovmf-2025.02-secboot", "--bank", "sha256")
    assert kib < 200 * 1024
