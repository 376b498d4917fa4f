"""What a statement can say about one register, and about all 24 of a platform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError

KIND_UEFI_TPM = "uefi-tpm"  # a platform whose firmware and boot are measured into a TPM
REGISTER_COUNT = 24  # TCG PC Client Platform TPM Profile 1.05, 3.6: PCR 0-23
RESET_TO_ONES = range(17, 23)  # same table: dynamic-launch registers start at all ones


@dataclass(frozen=True, slots=True)
class StatedEvent:
    """One event behind a predicted value.

    `event_type` is the TCG event type number, `digest` what is extended, `what` a phrase for people.
    """

    event_type: int
    digest: Digest
    what: str


@dataclass(frozen=True, slots=True)
class Exact:
    """The register must have this value, reached by these events in this order."""

    value: Digest
    events: tuple[StatedEvent, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    """The register must have one of these values (sorted, unique, at least one); `why` says what they are."""

    values: tuple[Digest, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Initial:
    """The register must never have been extended."""


@dataclass(frozen=True, slots=True)
class Unconstrained:
    """The register says nothing about the image, for the reason given."""

    reason: str


Classification = Exact | OneOf | Initial | Unconstrained


def initial_value(register: int, algorithm: HashAlgorithm) -> Digest:
    """Return what a register holds after power-on, before any extend."""
    return Digest.ones(algorithm) if register in RESET_TO_ONES else Digest.zero(algorithm)


@dataclass(frozen=True, slots=True)
class PlatformReference:
    """Reference values of one image on one platform.

    Attributes:
        identifier: the instance, such as `qemu-q35-ovmf-2025.02`.
        kind: the family of rules, such as `uefi-tpm`.
        firmware: SHA-256 of the firmware code file the values were computed for; None where there is no
            such file, as in clouds, or it was not given.
        banks: for each bank exactly 24 classifications, by register number; empty for a kind of
            `measure.launch_kinds`.
        measurements: the named values of such a kind; empty for all others.
    """

    identifier: str
    kind: str
    firmware: Digest | None
    banks: Mapping[HashAlgorithm, tuple[Classification, ...]]
    measurements: Mapping[str, OneOf | Unconstrained] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for algorithm, registers in self.banks.items():
            if len(registers) != REGISTER_COUNT:
                raise MeasureError(
                    f"{self.identifier}, bank {algorithm.value}: "
                    f"expected {REGISTER_COUNT} registers, got {len(registers)}"
                )
