"""A software TPM from nothing: endorsement chain, banks, registers, transcript, and its end."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MachineError, UsageError
from blindbuild.formats.certificate import trim_padding
from blindbuild.machine.swtpm import DEFAULT_BANKS, SoftwareTpm, TpmAuthority, manufacture_tpm
from blindbuild.machine.tpm_attester import TpmAttester
from blindbuild.machine.tpm_connection import TpmConnection

pytestmark = pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed")


@dataclass(frozen=True)
class Made:
    """A manufactured TPM's directory and who endorsed it."""

    state: Path
    authority: TpmAuthority


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    directory = tmp_path_factory.mktemp("made")
    authority = TpmAuthority(directory / "authority")
    manufacture_tpm(directory / "tpm", authority, banks=DEFAULT_BANKS)
    return Made(directory / "tpm", authority)


@pytest.fixture
def tpm(made: Made, tmp_path: Path) -> Iterator[SoftwareTpm]:
    with SoftwareTpm(made.state, tmp_path / "control", tmp_path / "log", transcript=True) as running:
        yield running


def test_openssl_accepts_the_chain_from_the_tpm_to_the_root(
    made: Made, tpm: SoftwareTpm, tmp_path: Path
) -> None:
    with tpm.connect() as connection:
        connection.power_on()
        attester = TpmAttester(connection)
        (index, stored), *_ = attester.read_certificates()
        public = attester.endorsement_key.public
    certificate = x509.load_der_x509_certificate(trim_padding(stored))
    modulus = certificate.public_key().public_numbers().n.to_bytes(256, "big")  # type: ignore[union-attr]
    assert index == 0x01C00002
    assert modulus in public
    files = {"root.pem": made.authority.root_certificate, "issuer.pem": made.authority.issuer_certificate}
    for name, data in {**files, "ek.der": trim_padding(stored)}.items():
        (tmp_path / name).write_bytes(data)
    verdict = subprocess.run(
        # swtpm's subject alternative name is critical and of a kind that openssl does not know
        [
            "openssl",
            "verify",
            "-ignore_critical",
            "-CAfile",
            "root.pem",
            "-untrusted",
            "issuer.pem",
            "ek.der",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert verdict.stdout == "ek.der: OK\n", verdict.stderr


def test_one_authority_endorses_several_tpms(made: Made, tmp_path: Path) -> None:
    root, issuer = made.authority.root_certificate, made.authority.issuer_certificate
    manufacture_tpm(tmp_path / "second", made.authority, banks=DEFAULT_BANKS)
    assert (made.authority.root_certificate, made.authority.issuer_certificate) == (root, issuer)


def test_a_tpm_keeps_its_identity(made: Made, tpm: SoftwareTpm) -> None:
    before = (made.state / "tpm2-00.permall").read_bytes()
    manufacture_tpm(made.state, made.authority, banks=DEFAULT_BANKS)
    assert (made.state / "tpm2-00.permall").read_bytes() == before


def test_registers_start_as_the_profile_says_and_extend(tpm: SoftwareTpm) -> None:
    digests = {bank: Digest.of(bank, b"event") for bank in DEFAULT_BANKS}
    with tpm.connect() as connection:
        connection.power_on()
        for bank in DEFAULT_BANKS:
            expected = [
                Digest.ones(bank) if 17 <= number <= 22 else Digest.zero(bank) for number in range(24)
            ]
            assert list(connection.read_registers(bank)) == expected
        connection.extend_register(4, digests)
        for bank in DEFAULT_BANKS:
            assert connection.read_registers(bank)[4] == Digest.zero(bank).extend(digests[bank])


def test_registers_outlive_a_connection_and_not_a_power_cycle(tpm: SoftwareTpm) -> None:
    bank = HashAlgorithm.SHA256
    with tpm.connect() as connection:
        connection.power_on()
        connection.extend_register(9, {bank: Digest.of(bank, b"event")})
    with tpm.connect() as connection:
        assert connection.read_registers(bank)[9] == Digest.zero(bank).extend(Digest.of(bank, b"event"))
        connection.power_on()
        assert connection.read_registers(bank)[9] == Digest.zero(bank)


def test_a_bank_that_is_not_allocated_is_an_error(tpm: SoftwareTpm) -> None:
    with tpm.connect() as connection:
        connection.power_on()
        with pytest.raises(MachineError, match="no sha1 bank"):
            connection.read_registers(HashAlgorithm.SHA1)


def test_the_tpms_refusal_is_an_error_with_its_code(tpm: SoftwareTpm) -> None:
    with tpm.connect() as connection:
        connection.power_on()
        with pytest.raises(
            MachineError, match=r"TPM command 0x1ff: response code 0x143"
        ):  # TPM_RC_COMMAND_CODE
            connection.execute(0x1FF)


def test_the_transcript_has_every_command(tpm: SoftwareTpm) -> None:
    with tpm.connect() as connection:
        connection.power_on()
        connection.read_registers(HashAlgorithm.SHA256)
    transcript = tpm.log.read_text()
    assert "80 01 00 00 00 0C 00 00 01 44" in transcript  # TPM2_Startup
    assert "80 01 00 00 00 14 00 00 01 7E" in transcript  # TPM2_PCR_Read


def test_the_end_is_an_end(made: Made, tmp_path: Path) -> None:
    tpm = SoftwareTpm(made.state, tmp_path / "control", tmp_path / "log")
    assert tpm.running
    tpm.stop()
    tpm.stop()
    assert not tpm.running
    assert not tpm.control.exists()
    with pytest.raises(MachineError, match="has ended"):
        tpm.connect()


def test_it_can_be_told_to_end(tpm: SoftwareTpm) -> None:
    with tpm.connect() as connection:
        connection.shut_down()
    tpm.stop()
    assert not tpm.running


def test_nobody_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="no software TPM answers"):
        TpmConnection(tmp_path / "nothing")


@pytest.mark.parametrize(
    "path", [Path("relative"), Path("/with,comma"), Path("/with$dollar"), Path("/with\nline")]
)
def test_a_path_that_swtpm_would_misread_is_refused(path: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="absolute path without"):
        manufacture_tpm(path, TpmAuthority(tmp_path), banks=DEFAULT_BANKS)
    with pytest.raises(UsageError, match="absolute path without"):
        manufacture_tpm(tmp_path, TpmAuthority(path), banks=DEFAULT_BANKS)


def test_a_tpm_without_banks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one bank"):
        manufacture_tpm(tmp_path / "tpm", TpmAuthority(tmp_path), banks=())


def test_an_authority_without_tpms_has_no_certificates(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="endorsed no TPM yet"):
        _ = TpmAuthority(tmp_path).root_certificate
