"""The operator between QEMU and a TPM: all is passed on, until he resets the TPM or puts in another."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.machine.attack_tpm import TpmInterposer
from blindbuild.machine.swtpm import SoftwareTpm, TpmAuthority, manufacture_tpm
from blindbuild.machine.tpm_connection import TpmConnection

pytestmark = pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed")
SHA256 = HashAlgorithm.SHA256
ZERO = Digest(SHA256, bytes(32))
MEASURED = {SHA256: Digest.sha256(b"measured")}


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory with a short path: sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="bb-") as directory:
        yield Path(directory)


@pytest.fixture
def interposer(place: Path) -> Iterator[TpmInterposer]:
    with TpmInterposer(place) as found:
        yield found


@pytest.fixture
def guest(place: Path, interposer: TpmInterposer) -> Iterator[TpmConnection]:
    """What QEMU would be: it opens the TPM through the interposer, as it would the TPM."""
    with make_tpm(place, "first") as tpm, TpmConnection(interposer.stand_before(tpm.control)) as connection:
        connection.power_on()
        yield connection


def make_tpm(place: Path, name: str) -> SoftwareTpm:
    manufacture_tpm(place / name, TpmAuthority(place / "authority"), banks=(SHA256,))
    return SoftwareTpm(place / name, place / f"{name}.sock", place / f"{name}.log")


def test_commands_of_the_guest_reach_its_tpm(guest: TpmConnection) -> None:
    guest.extend_register(11, MEASURED)
    assert guest.read_registers(SHA256)[11] != ZERO


def test_a_reset_behind_its_back_takes_the_measurements_away(
    guest: TpmConnection, interposer: TpmInterposer
) -> None:
    guest.extend_register(11, MEASURED)
    with interposer.held() as tpm:
        tpm.power_on()
    assert guest.read_registers(SHA256)[11] == ZERO


def test_another_tpm_answers_in_its_place_until_it_is_put_back(
    guest: TpmConnection, interposer: TpmInterposer, place: Path
) -> None:
    guest.extend_register(11, MEASURED)
    with make_tpm(place, "second") as tpm, tpm.connect() as other:
        other.power_on()
        first = interposer.replace_by(other)
        assert guest.read_registers(SHA256)[11] == ZERO
        interposer.replace_by(first)
        assert guest.read_registers(SHA256)[11] != ZERO


def test_nobody_holds_a_tpm_that_was_not_opened(interposer: TpmInterposer) -> None:
    with pytest.raises(MachineError, match="QEMU has not opened its TPM"), interposer.held():
        pass


def test_it_ends_when_qemu_never_came(place: Path) -> None:
    began = time.monotonic()
    with TpmInterposer(place) as interposer:
        interposer.stand_before(place / "nothing")
    assert time.monotonic() - began < 20
