"""What a software TPM keeps: a real one, changed in each way a machine could change it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.machine.probe.tpm_state import read_kept
from blindbuild.machine.swtpm import SoftwareTpm, TpmAuthority, manufacture_tpm
from blindbuild.machine.tpm_attester import TpmAttester
from blindbuild.machine.tpm_connection import TpmConnection, password_sessions

OWNER, INDEX, KEY = 0x40000001, 0x01800001, 0x81000001
EXISTING = {"NV index 0x01c00002", "NV index 0x01c00016", "passwords and switches"} | {
    "persistent key 0x81010001",
    "persistent key 0x81010016",
}


def define(tpm: TpmConnection) -> None:
    """TPM2_NV_DefineSpace: 8 bytes, read and written with the index's own empty password."""
    public = struct.pack(">IHIHH", INDEX, 0x000B, 0x00040004, 0, 8)
    tpm.execute(
        0x12A,
        handles=struct.pack(">I", OWNER),
        authorization=password_sessions(1),
        parameters=struct.pack(">HH", 0, len(public)) + public,
    )


def write(tpm: TpmConnection, text: bytes) -> None:
    """TPM2_NV_Write."""
    tpm.execute(
        0x137,
        handles=struct.pack(">II", INDEX, INDEX),
        authorization=password_sessions(1),
        parameters=struct.pack(">H", len(text)) + text + bytes(2),
    )


def keep_key(tpm: TpmConnection) -> None:
    """TPM2_EvictControl: a key that outlives a power cycle."""
    key = TpmAttester(tpm).attestation_key.handle
    tpm.execute(
        0x120,
        handles=struct.pack(">II", OWNER, key),
        authorization=password_sessions(1),
        parameters=struct.pack(">I", KEY),
    )


def set_password(tpm: TpmConnection) -> None:
    """TPM2_HierarchyChangeAuth of the owner."""
    tpm.execute(
        0x129,
        handles=struct.pack(">I", OWNER),
        authorization=password_sessions(1),
        parameters=struct.pack(">H", 4) + b"pass",
    )


def only_use(tpm: TpmConnection) -> None:
    """What an honest machine does: extend, quote."""
    tpm.extend_register(11, {HashAlgorithm.SHA256: Digest.sha256(b"measured")})
    TpmAttester(tpm).quote(HashAlgorithm.SHA256, bytes(32))


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A new TPM that is off."""
    manufacture_tpm(tmp_path / "tpm", TpmAuthority(tmp_path / "authority"), banks=(HashAlgorithm.SHA256,))
    return tmp_path / "tpm"


def use(state: Path, *acts: Callable[[TpmConnection], None]) -> dict[str, Digest]:
    """Power the TPM on, let something happen, power it off, and return what it keeps."""
    with SoftwareTpm(state, state.parent / "control", state.parent / "log") as software:
        with software.connect() as tpm:
            tpm.power_on()
            for act in acts:
                act(tpm)
            tpm.shut_down()
    return read_kept(state)


def test_a_new_tpm_keeps_its_certificates_and_reading_changes_nothing(state: Path) -> None:
    files = {path.name: path.read_bytes() for path in state.iterdir()}
    kept = read_kept(state)
    assert kept.keys() == EXISTING
    assert read_kept(state) == kept
    assert {path.name: path.read_bytes() for path in state.iterdir()} == files


def test_what_an_honest_machine_does_leaves_nothing(state: Path) -> None:
    before = read_kept(state)
    assert use(state, only_use) == before


def test_an_index_that_is_defined_and_written_shows(state: Path) -> None:
    name = "NV index 0x01800001"
    defined = use(state, define)
    assert defined.keys() == EXISTING | {name}
    written = use(state, lambda tpm: write(tpm, b"a secret"))
    rewritten = use(state, lambda tpm: write(tpm, b"b secret"))
    assert len({defined[name], written[name], rewritten[name]}) == 3


def test_a_key_that_stays_shows(state: Path) -> None:
    assert use(state, keep_key).keys() == EXISTING | {"persistent key 0x81000001"}


def test_a_password_that_is_set_shows(state: Path) -> None:
    before, after = read_kept(state), use(state, set_password)
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"passwords and switches"}
