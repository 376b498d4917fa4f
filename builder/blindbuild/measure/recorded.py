"""PCR 0 as it was read after real boots.

PCR 0 cannot be computed from the firmware file: the measured copy of the early firmware already holds
values that it wrote itself, and those differ with the size of the memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.measure.bank import one_of
from blindbuild.measure.classification import OneOf, Unconstrained
from blindbuild.measure.platforms import Platform


@dataclass(frozen=True, slots=True)
class RecordedValue:
    """One value of PCR 0, by bank in hexadecimal, and the memory sizes in MiB that gave it."""

    memory_mib: tuple[int, ...]
    banks: Mapping[HashAlgorithm, str]


@dataclass(frozen=True, slots=True)
class RecordedFirmware:
    """What was recorded of one firmware build.

    Attributes:
        code: SHA-256 of the code flash file, in hexadecimal.
        package: the Debian package and file it is from.
        platform: the identifier of the platform it belongs to.
        machine: what it was booted on.
    """

    code: str
    package: str
    platform: str
    machine: str
    values: tuple[RecordedValue, ...]


RECORDED: tuple[RecordedFirmware, ...] = ()


def classify_pcr00(
    firmware: Digest, algorithm: HashAlgorithm, *, platform: Platform
) -> OneOf | Unconstrained:
    """Return the values of PCR 0 that were recorded for this firmware, or say that there are none.

    Args:
        firmware: SHA-256 of the code flash file.
        algorithm: the bank.
        platform: the platform that is predicted.

    Raises:
        MeasureError: the firmware is known to be another platform's, so that PCR 5 and 7 would be wrong.
    """
    for record in RECORDED:
        if record.code == firmware.hex:
            break
    else:
        return Unconstrained(f"no boot of the firmware with {firmware} was recorded")
    if record.platform != platform.identifier:
        raise MeasureError(
            f"firmware {firmware}: expected platform {record.platform}, got {platform.identifier}",
            hint=f"use --platform {record.platform}",
        )
    values = [
        (Digest.from_hex(algorithm, value.banks[algorithm]), value.memory_mib)
        for value in record.values
        if algorithm in value.banks
    ]
    if not values:
        return Unconstrained(f"no {algorithm.value} value of the firmware with {firmware} was recorded")
    sizes = "; ".join(f"{digest.hex[:12]}… with {_list(memory)} MiB" for digest, memory in values)
    return one_of(
        (digest for digest, _ in values),
        why=f"read after boots of {record.package} on {record.machine}: {sizes} of memory",
    )


def _list(sizes: tuple[int, ...]) -> str:
    return ", ".join(str(size) for size in sizes)
