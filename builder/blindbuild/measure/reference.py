"""Reference values: all 24 registers of one image on one platform, in every bank asked for."""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.measure.bank import exact, extend_all, one_of
from blindbuild.measure.boot import MeasuredImage, UefiBoot, boot_events, events_by_register
from blindbuild.measure.classification import (
    REGISTER_COUNT,
    Classification,
    Initial,
    OneOf,
    PlatformReference,
    Unconstrained,
)
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.platforms import Platform, find_platform
from blindbuild.measure.recorded import classify_pcr00
from blindbuild.measure.uki import measure_uki

# What anyone can reset at any time says nothing about a boot.
_RESETTABLE = {
    16: "debug register, which anyone can reset",
    23: "application register, which anyone can reset",
}


def reference_values(
    uki: bytes,
    *,
    firmware_code: bytes,
    platform_id: str,
    algorithms: Sequence[HashAlgorithm],
    partition_table: bytes | None = None,
) -> PlatformReference:
    """Return the classification of every register for a boot of this UKI from a disk.

    Args:
        uki: the file that the firmware starts as its first boot option.
        firmware_code: the content of the firmware's code flash, such as OVMF_CODE_4M.fd.
        platform_id: a platform of `platforms.PLATFORMS` with Secure Boot off.
        algorithms: the banks, at least one.
        partition_table: UEFI_GPT_DATA of the disk; None for an unpartitioned one.

    Raises:
        PeError: the UKI is malformed.
        MeasureError: something that cannot be predicted, or a firmware that belongs to another platform.
    """
    platform = find_platform(platform_id)
    boot = UefiBoot(platform=platform, partition_table=partition_table)
    measured = measure_uki(uki, algorithms)
    return predict_platform(measured, platform=platform, firmware=Digest.sha256(firmware_code), boot=boot)


def predict_platform(
    measured: MeasuredImage, *, platform: Platform, firmware: Digest | None, boot: UefiBoot | None = None
) -> PlatformReference:
    """Return what `reference_values` does, from digests of the image and of the firmware.

    Args:
        measured: the image that is booted.
        platform: machine and firmware.
        firmware: SHA-256 of the firmware's code flash; None leaves register 0 open.
        boot: the rest of the boot; by default from an unpartitioned disk, with Secure Boot off.

    Raises:
        MeasureError: inputs that do not go together, or are missing.
    """
    boot = _boot_on(platform, boot)
    events = predict_events(measured, platform, boot=boot)
    banks = {
        algorithm: tuple(
            _classify(register, events.get(register), algorithm, firmware=firmware, boot=boot)
            for register in range(REGISTER_COUNT)
        )
        for algorithm in measured.authenticode
    }
    return PlatformReference(
        identifier=platform.identifier, kind=platform.kind, firmware=firmware, banks=banks
    )


def predict_events(
    measured: MeasuredImage, platform: Platform, *, boot: UefiBoot | None = None
) -> dict[int, tuple[PredictedEvent, ...]]:
    """Return the events of every register whose events are all known, by register; no retry in PCR 5."""
    boot = _boot_on(platform, boot)
    events = events_by_register(boot_events(measured, boot))
    return {register: found for register, found in events.items() if register not in boot.unpredictable}


def _boot_on(platform: Platform, boot: UefiBoot | None) -> UefiBoot:
    if boot is None:
        return UefiBoot(platform=platform)
    if boot.platform != platform:
        raise MeasureError(f"expected a boot on {platform.identifier}, got {boot.platform.identifier}")
    return boot


def _classify(
    register: int,
    events: tuple[PredictedEvent, ...] | None,
    algorithm: HashAlgorithm,
    *,
    firmware: Digest | None,
    boot: UefiBoot,
) -> Classification:
    if register == 0:
        return classify_pcr00(firmware, algorithm, platform=boot.platform)
    reasons = {**_RESETTABLE, **boot.unpredictable}
    if register in reasons:
        return Unconstrained(reasons[register])
    if events is None:
        return Initial()
    if register == 5:
        return _classify_pcr05(boot, algorithm)
    return exact(register, events, algorithm)


def _classify_pcr05(boot: UefiBoot, algorithm: HashAlgorithm) -> OneOf:
    table = boot.partition_table
    at_once = predict_pcr05((algorithm,), partition_table=table)
    retried = predict_pcr05((algorithm,), failed_exit=boot.platform.failed_exit, partition_table=table)
    return one_of(
        (extend_all(5, events, algorithm) for events in (at_once, retried)),
        why="the kernel left boot services at the first or at the second call",
    )
