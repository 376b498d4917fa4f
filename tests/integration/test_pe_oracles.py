"""Images that GNU ld linked, with sections appended, as lief, objdump and osslsigncode see them."""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lief
import pytest

from blindbuild.assemble.uki import read_stub_version
from blindbuild.digest import HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.pe import NewSection, append_sections, compute_checksum, read_pe

SOURCE = """
.text
.globl efi_main
efi_main: ret
.data
.fill 700, 1, 7
.section .sdmagic, "a"
.asciz "#### LoaderInfo: systemd-stub 999.1-test ####"
"""
NEW = (
    NewSection(".osrel", b"ID=test\n"),
    NewSection(".initrd", os.urandom(70_001)),
    NewSection(".linux", b"k" * 9000),
)
INSTALLED_STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
LIEF_ALGORITHMS = {
    HashAlgorithm.SHA1: lief.PE.ALGORITHMS.SHA_1,
    HashAlgorithm.SHA256: lief.PE.ALGORITHMS.SHA_256,
    HashAlgorithm.SHA384: lief.PE.ALGORITHMS.SHA_384,
    HashAlgorithm.SHA512: lief.PE.ALGORITHMS.SHA_512,
}


def run(*command: str, cwd: Path) -> str:
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(
        [program, *command[1:]], cwd=cwd, capture_output=True, env={"LC_ALL": "C", "PATH": "/usr/bin"}
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


@pytest.fixture(params=["with symbols", "stripped", "installed"])
def stub(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    """A stub linked by GNU ld, and systemd's own if the package systemd-boot-efi is installed."""
    if request.param == "installed":
        if not INSTALLED_STUB.exists():
            pytest.skip("the Debian package systemd-boot-efi is not installed")
        yield INSTALLED_STUB.read_bytes()
        return
    (tmp_path / "stub.s").write_text(SOURCE)
    run("as", "-o", "stub.o", "stub.s", cwd=tmp_path)
    run("objcopy", "-O", "pe-x86-64", "stub.o", "stub.coff", cwd=tmp_path)
    strip = ("--strip-all",) if request.param == "stripped" else ()
    arguments = ("-m", "i386pep", "--subsystem", "10", "-e", "efi_main", "-o", "stub.efi", "stub.coff")
    run("ld", *strip, *arguments, cwd=tmp_path)
    yield (tmp_path / "stub.efi").read_bytes()


def parse_with_lief(image: bytes) -> lief.PE.Binary:
    with contextlib.redirect_stderr(None):
        binary = lief.PE.parse(list(image))
    assert isinstance(binary, lief.PE.Binary)
    return binary


def test_lief_reads_the_same_sections_and_headers(stub: bytes) -> None:
    image = read_pe(append_sections(stub, NEW))
    binary = parse_with_lief(image.data)
    assert [
        (
            s.name,
            s.virtual_size,
            s.virtual_address,
            s.sizeof_raw_data,
            s.pointerto_raw_data,
            s.characteristics,
        )
        for s in binary.sections
    ] == [
        (s.name, s.virtual_size, s.virtual_address, s.raw_size, s.raw_offset, s.characteristics)
        for s in image.sections
    ]
    assert [bytes(s.content)[: s.virtual_size] for s in list(binary.sections)[-3:]] == [
        new.data for new in NEW
    ]
    header = binary.optional_header
    assert header.sizeof_image == image.size_of_image
    assert header.sizeof_headers == image.size_of_headers
    assert header.checksum == binary.compute_checksum()


def test_lief_computes_the_same_digest_for_every_algorithm(stub: bytes) -> None:
    for image in (stub, append_sections(stub, NEW)):
        binary = parse_with_lief(image)
        digests = authenticode_digests(image, LIEF_ALGORITHMS)
        assert {a: d.value for a, d in digests.items()} == {
            algorithm: bytes(binary.authentihash(theirs)) for algorithm, theirs in LIEF_ALGORITHMS.items()
        }


def test_the_linkers_checksum_is_the_one_that_is_computed(stub: bytes) -> None:
    image = read_pe(stub)
    if not image.checksum:
        pytest.skip("the linker left CheckSum zero")
    assert compute_checksum(stub, image.checksum_offset) == image.checksum


def test_objdump_lists_the_appended_sections_as_read_only_data(stub: bytes, tmp_path: Path) -> None:
    (tmp_path / "image.efi").write_bytes(append_sections(stub, NEW))
    lines = run("objdump", "--section-headers", "--wide", "image.efi", cwd=tmp_path).splitlines()
    rows = [line.split() for line in lines if re.match(r" +\d+ ", line)]
    assert [(row[1], int(row[2], 16)) for row in rows[-3:]] == [(new.name, len(new.data)) for new in NEW]
    assert all({"ALLOC,", "READONLY,", "DATA"} <= set(row) for row in rows[-3:])


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
def test_osslsigncode_signs_the_digest_and_a_signature_leaves_it_alone(
    stub: bytes, tmp_path: Path, algorithm: HashAlgorithm
) -> None:
    image = append_sections(stub, NEW)
    (tmp_path / "image.efi").write_bytes(image)
    request = (
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=test",
        "-days",
        "1",
    )
    run("openssl", *request, "-keyout", "key.pem", "-out", "cert.pem", cwd=tmp_path)
    sign = (
        "-certs",
        "cert.pem",
        "-key",
        "key.pem",
        "-h",
        algorithm.value,
        "-in",
        "image.efi",
        "-out",
        "signed.efi",
    )
    run("osslsigncode", "sign", *sign, cwd=tmp_path)
    signed = (tmp_path / "signed.efi").read_bytes()
    digest = authenticode_digests(image, [algorithm])[algorithm]
    assert authenticode_digests(signed, [algorithm])[algorithm] == digest
    report = run("osslsigncode", "verify", "-CAfile", "cert.pem", "-in", "signed.efi", cwd=tmp_path)
    assert report.lower().count(digest.hex) == 2  # the one that was signed, and the one of the file


def test_the_stub_version_is_read_from_a_linked_image(stub: bytes) -> None:
    assert re.fullmatch(r"999\.1-test|\d+[!-~]*", read_stub_version(append_sections(stub, NEW)))
