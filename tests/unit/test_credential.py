"""MakeCredential against the independent ActivateCredential of the software TPM."""

from __future__ import annotations

import dataclasses

import pytest

from blindbuild.errors import TpmStructureError
from blindbuild.formats.credential import make_credential
from blindbuild.formats.tpmkey import parse_sized_public
from tests.fakes.software_tpm import SoftwareTpm
from tests.fakes.world import authority, tpm

EK = parse_sized_public(tpm().ek_public)
SEED, OAEP = b"\x01" * 32, b"\x02" * 32


def make(name: bytes = tpm().ak_name, secret: bytes = b"s" * 32, ek=EK, seed=SEED, oaep=OAEP):
    return make_credential(ek, name, secret=secret, seed=seed, oaep_seed=oaep)


@pytest.mark.parametrize("size", [1, 16, 30, 31, 32])
def test_the_tpm_with_both_keys_reads_the_secret(size: int) -> None:
    credential = make(secret=bytes(range(size)))
    assert tpm().activate(credential.blob, credential.encrypted_secret) == bytes(range(size))


def test_a_credential_for_another_name_is_not_activated() -> None:  # 118
    credential = make(name=b"\x00\x0b" + bytes(32))
    with pytest.raises(ValueError, match="integrity"):
        tpm().activate(credential.blob, credential.encrypted_secret)


def test_another_tpm_cannot_read_the_secret() -> None:
    other = SoftwareTpm(authority(), tpm().registers)
    credential = make()
    with pytest.raises(ValueError):
        other.activate(credential.blob, credential.encrypted_secret)


def test_the_same_randomness_gives_the_same_credential() -> None:
    assert make() == make()
    assert make(seed=b"\x03" * 32).blob != make().blob
    assert make(oaep=b"\x03" * 32).encrypted_secret != make().encrypted_secret


@pytest.mark.parametrize("secret", [b"", b"s" * 33])
def test_a_secret_of_another_length_is_refused(secret: bytes) -> None:
    with pytest.raises(TpmStructureError, match="a secret of 1 to 32 bytes"):
        make(secret=secret)


@pytest.mark.parametrize("changes", [{"seed": b"x"}, {"oaep": b"x" * 33}])
def test_seeds_of_another_length_are_refused(changes: dict) -> None:
    with pytest.raises(TpmStructureError, match="seeds of 32 bytes"):
        make(**changes)


BAD_KEYS = {
    "an ECC key": parse_sized_public(tpm().ak_public),
    "no symmetric algorithm": dataclasses.replace(EK, symmetric=None),
    "another mode": dataclasses.replace(EK, symmetric=dataclasses.replace(EK.symmetric, mode=0x0042)),
    "an unknown name algorithm": dataclasses.replace(EK, name_algorithm=0x0012),
    "a short modulus": dataclasses.replace(EK, key=dataclasses.replace(EK.key, modulus=b"\xff" * 32)),
    "an even-length lie": dataclasses.replace(EK, key=dataclasses.replace(EK.key, key_bits=1024)),
    "an empty modulus": dataclasses.replace(EK, key=dataclasses.replace(EK.key, modulus=b"")),
    "a zero modulus": dataclasses.replace(EK, key=dataclasses.replace(EK.key, modulus=bytes(256))),
    "a symmetric key of 13 bits": dataclasses.replace(
        EK, symmetric=dataclasses.replace(EK.symmetric, key_bits=13)
    ),
    "a symmetric key of 0 bits": dataclasses.replace(
        EK, symmetric=dataclasses.replace(EK.symmetric, key_bits=0)
    ),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_an_endorsement_key_of_another_kind_gives_our_error(name: str) -> None:
    with pytest.raises(TpmStructureError):
        make(ek=BAD_KEYS[name])
