"""What is computed from the files of Debian's OVMF packages, against the logs of boots of the same builds."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.deb import read_deb
from blindbuild.formats.efivars import read_variables
from blindbuild.formats.siglist import x509_entries
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.measure.pcr00 import predict_firmware
from blindbuild.measure.secure_boot import read_secure_boot
from tests.fakes.pe_image import make_pe
from tests.locked import locked_inputs, user_store

ROOT = Path(__file__).resolve().parents[2]
BOOTS = ROOT.parent / "shared" / "vectors" / "boots"
KEYS = ROOT / "tests" / "golden" / "secureboot"
BOOKWORM = Path("/usr/share/OVMF")
BANKS = (HashAlgorithm.SHA1, HashAlgorithm.SHA256, HashAlgorithm.SHA384)


@functools.cache
def trixie(name: str) -> bytes:
    """Return a file of the locked firmware package (Debian 13's ovmf)."""
    (package,) = locked_inputs().groups["firmware"]
    for entry in read_deb(user_store().read(package.digest)).entries:
        if entry.path == f"usr/share/OVMF/{name}".encode():
            return entry.data
    raise AssertionError(f"{package.name} {package.version} has no {name}")


def bookworm(name: str) -> bytes:
    """Return a file of the installed package (Debian 12's ovmf)."""
    if not (BOOKWORM / name).is_file():
        pytest.skip("needs Debian's ovmf")
    return (BOOKWORM / name).read_bytes()


def logged(case: Path) -> list[dict[HashAlgorithm, Digest]]:
    """Return the digests of register 0's events up to its separator."""
    events = parse_event_log(case.read_bytes()).events
    return [
        dict(event.digests)
        for event in events
        if event.register == 0 and event.event_type != EventType.EV_SEPARATOR
    ]


@pytest.mark.parametrize(
    ("case", "code", "version"),
    [
        ("uki61_nosb", "OVMF_CODE_4M.fd", ""),
        ("t257_nosb", "OVMF_CODE_4M.fd", "2025.02-8+deb13u1"),
        ("t257_sb", "OVMF_CODE_4M.secboot.fd", "2025.02-8+deb13u1"),
    ],
)
def test_version_and_dxe_volume_are_those_that_were_measured(case: str, code: str, version: str) -> None:
    log = BOOTS / case / "eventlog.bin"
    if not log.is_file():
        pytest.skip("needs the vectors beside the repository")
    flash = trixie(code) if version else bookworm(code)
    first, last = predict_firmware(flash, BANKS, version=version)
    events = logged(log)
    assert len(events) == 3
    if events[2] != dict(last.digests) and version:
        pytest.skip(f"the locked firmware is another one than {version}")
    assert (dict(first.digests), dict(last.digests)) == (events[0], events[2])


def test_the_keys_in_golden_are_those_of_the_package() -> None:
    state = read_secure_boot(read_variables(trixie("OVMF_VARS_4M.snakeoil.fd")))
    assert state.enabled
    for name, held in (("PK", state.pk), ("KEK", state.kek), ("db", state.db), ("dbx", state.dbx)):
        assert held == (KEYS / f"debian-13-snakeoil.{name}.esl").read_bytes(), name


def test_what_sbsign_signed_with_debians_test_key_is_trusted_by_the_entry_of_that_key(tmp_path: Path) -> None:
    tool, folder = shutil.which("sbsign"), Path("/usr/share/ovmf")
    if tool is None or not (folder / "PkKek-1-snakeoil.key").is_file():
        pytest.skip("needs sbsign and the keys of Debian's ovmf")
    locked = (folder / "PkKek-1-snakeoil.key").read_bytes()
    key = load_pem_private_key(locked, password=b"snakeoil")
    opened = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    paths = {name: tmp_path / name for name in ("key", "in", "out")}
    paths["key"].write_bytes(opened)
    paths["in"].write_bytes(make_pe())
    certificate = folder / "PkKek-1-snakeoil.pem"
    arguments = ["--key", paths["key"], "--cert", certificate, "--output", paths["out"], paths["in"]]
    subprocess.run([tool, *arguments], check=True, capture_output=True)
    state = read_secure_boot(read_variables(bookworm("OVMF_VARS_4M.snakeoil.fd")))
    (entry,) = x509_entries(state.db)
    assert state.trusting(paths["out"].read_bytes()).authority == entry.encoded


def test_a_store_without_keys_boots_with_secure_boot_off() -> None:
    assert not read_secure_boot(read_variables(bookworm("OVMF_VARS_4M.fd"))).enabled
    assert read_secure_boot(read_variables(bookworm("OVMF_VARS_4M.ms.fd"))).enabled
