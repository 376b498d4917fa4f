"""Boots whose registers are predicted before power-on: the machine, and what its TPM must hold afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from blindbuild.client import Attempt, Expectation
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.deb import read_deb
from blindbuild.formats.pe import read_pe
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.enrol import SecureBootKeys, enrol_keys
from blindbuild.machine.firmware import SECURE_CODE_MEMBER
from blindbuild.machine.machine import Machine
from blindbuild.manifest import statement_bytes
from blindbuild.measure.boot import MeasuredImage, UefiBoot
from blindbuild.measure.classification import Exact, Initial, OneOf, PlatformReference, initial_value
from blindbuild.measure.platforms import Platform, find_platform
from blindbuild.measure.reference import predict_platform
from blindbuild.measure.secure_boot import SecureBootState
from blindbuild.publish import (
    load_certificates,
    load_rsa_key,
    make_release,
    sign_boot_image,
    sign_release,
    sign_statement,
)
from tests.boot.lab import ROOT, Lab, statement_of
from tests.fakes.secure_boot import SecureBootKey, make_key

SHA256 = HashAlgorithm.SHA256
DAY_S = 86400
KEYS = SecureBootKeys(pk=make_key("pk").esl, kek=make_key("kek").esl, db=make_key("db").esl)


@dataclass(frozen=True, slots=True)
class Release:
    """An image of the lab and the recipe it is from: stub and firmware of one Debian."""

    recipe: str
    directory: Path

    @property
    def uki(self) -> bytes:
        """The boot image."""
        return (self.directory / f"{self.recipe}.efi").read_bytes()

    @property
    def platform(self) -> Platform:
        """The platform of its statement."""
        return find_platform(statement_of(self.directory).platforms[0].identifier)

    @property
    def secure_platform(self) -> Platform:
        """The same machine with Secure Boot."""
        return find_platform(f"{self.platform.identifier}-secboot")

    def section(self, name: str) -> bytes:
        """One part of the boot image."""
        return read_pe(self.uki).section_data(name)


@dataclass(frozen=True, slots=True)
class PredictedBoot:
    """A machine, and what its registers will hold."""

    config: MachineConfig
    reference: PlatformReference


def predict(config: MachineConfig, measured: MeasuredImage, boot: UefiBoot) -> PredictedBoot:
    """Predict the registers of a machine that was not started yet."""
    firmware = Digest.sha256(config.firmware_code)
    reference = predict_platform(measured, platform=boot.platform, firmware=firmware, boot=boot)
    return PredictedBoot(replace(config, tpm_transcript=True), reference)


def secure_machine(lab: Lab, release: Release, disk: Path, *, keys: SecureBootKeys = KEYS) -> MachineConfig:
    """A machine that starts what the lab's `db` key signed, and nothing else."""
    config = lab.machine(release.directory)
    return replace(
        config,
        disk=disk,
        firmware_code=secure_code(lab, release.recipe),
        firmware_vars=enrol_keys(config.firmware_vars, keys),
        secure_flash=True,
    )


def secure_state(image: bytes) -> SecureBootState:
    """The state of such a machine when it starts this signed image."""
    return SecureBootState(enabled=True, pk=KEYS.pk, kek=KEYS.kek, db=KEYS.db).trusting(image)


def sign_uki(uki: bytes, key: SecureBootKey | None = None) -> bytes:
    """The boot image as the lab's machines take it, or as they refuse it: signed by another key."""
    key = key or make_key("db")
    signed = sign_boot_image(uki, load_rsa_key(key.pem), load_certificates(key.der))
    assert authenticode_digests(signed, (SHA256,)) == authenticode_digests(uki, (SHA256,))
    return signed


_CODE: dict[str, bytes] = {}


def secure_code(lab: Lab, recipe: str) -> bytes:
    """The Secure Boot build in the package of firmware that the recipe has locked."""
    if recipe not in _CODE:
        (package,) = lab.request(ROOT / "recipes" / recipe).lock.groups["firmware"]
        entries = read_deb(lab.store.read(package.digest)).entries
        _CODE[recipe] = next(item.data for item in entries if item.path == SECURE_CODE_MEMBER.encode())
    return _CODE[recipe]


def expect(
    lab: Lab, release: Release, machine: Machine, reference: PlatformReference, bank: HashAlgorithm
) -> Expectation:
    """What a client judges by whose statement is about this boot."""
    statement = statement_bytes(replace(statement_of(release.directory), platforms=(reference,)))
    believed = lab.expect(release.directory, machine, bank=bank, product=release.recipe)
    now = believed.now()
    return replace(
        believed,
        envelope=sign_statement(lab.key, statement),
        release=sign_release(
            lab.key, make_release(statement, valid_from=now - DAY_S, valid_until=now + DAY_S)
        ),
    )


def judge(lab: Lab, release: Release, machine: Machine, boot: PredictedBoot, bank: HashAlgorithm) -> Attempt:
    """Have the gate's quote judged by what was predicted."""
    attempt = lab.judge(machine.url, expect(lab, release, machine, boot.reference, bank))
    attempt.close()
    return attempt


def differing(
    reference: PlatformReference, algorithm: HashAlgorithm, held: Mapping[int, Digest] | tuple[Digest, ...]
) -> set[int]:
    """Return the registers that do not hold what was predicted."""
    found = set()
    for register, classified in enumerate(reference.banks[algorithm]):
        match classified:
            case Exact(value=value):
                allowed = {value}
            case OneOf(values=values):
                allowed = set(values)
            case Initial():
                allowed = {initial_value(register, algorithm)}
            case _:
                continue
        if held[register] not in allowed:
            found.add(register)
    return found


def promised(reference: PlatformReference, algorithm: HashAlgorithm) -> set[int]:
    """Return the registers about which something was predicted."""
    kinds = (Exact, OneOf, Initial)
    return {number for number, item in enumerate(reference.banks[algorithm]) if isinstance(item, kinds)}
