"""Reference values: all 24 registers of one image on one platform, in every bank asked for."""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.measure.bank import exact, extend_all, one_of
from blindbuild.measure.classification import (
    REGISTER_COUNT,
    Classification,
    Initial,
    OneOf,
    PlatformReference,
    Unconstrained,
)
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.pcr04 import predict_pcr04
from blindbuild.measure.pcr05 import predict_pcr05
from blindbuild.measure.pcr07 import predict_pcr07
from blindbuild.measure.pcr09 import predict_pcr09
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.platforms import Platform, find_platform
from blindbuild.measure.recorded import classify_pcr00
from blindbuild.measure.separator import predict_separator
from blindbuild.measure.uki import MeasuredUki, measure_uki

# What only the machine decides; the image cannot promise it, and says why.
_UNCONSTRAINED = {
    1: "ACPI tables, boot entries and machine configuration, which the operator chooses",
    16: "debug register, which anyone can reset",
    23: "application register, which anyone can reset",
}


def reference_values(
    uki: bytes, *, firmware_code: bytes, platform_id: str, algorithms: Sequence[HashAlgorithm]
) -> PlatformReference:
    """Return the classification of every register for a boot of this UKI.

    Args:
        uki: the file that the firmware starts as its first boot option.
        firmware_code: the content of the firmware's code flash, such as OVMF_CODE_4M.fd.
        platform_id: a platform of `platforms.PLATFORMS`.
        algorithms: the banks, at least one.

    Raises:
        PeError: the UKI is malformed.
        MeasureError: something that cannot be predicted, or a firmware that belongs to another platform.
    """
    platform = find_platform(platform_id)
    measured = measure_uki(uki, algorithms)
    return predict_platform(measured, platform=platform, firmware=Digest.sha256(firmware_code))


def predict_platform(measured: MeasuredUki, *, platform: Platform, firmware: Digest) -> PlatformReference:
    """Return what `reference_values` does, from digests of the UKI and of the firmware."""
    algorithms = tuple(measured.authenticode)
    events = predict_events(measured, platform)
    banks = {
        algorithm: tuple(
            _classify(register, events.get(register), algorithm, platform=platform, firmware=firmware)
            for register in range(REGISTER_COUNT)
        )
        for algorithm in algorithms
    }
    return PlatformReference(
        identifier=platform.identifier, kind=platform.kind, firmware=firmware, banks=banks
    )


def predict_events(measured: MeasuredUki, platform: Platform) -> dict[int, tuple[PredictedEvent, ...]]:
    """Return the events of every register with an exact value, by register; no retry in PCR 5."""
    algorithms = tuple(measured.authenticode)
    inner = measured.kernel_authenticode if measured.rules.loads_kernel_through_firmware else None
    return {
        **{register: (predict_separator(register, algorithms),) for register in (2, 3, 6)},
        4: predict_pcr04(image=measured.authenticode, inner_kernel=inner),
        5: predict_pcr05(algorithms),
        7: predict_pcr07(algorithms, secure_boot_data=platform.secure_boot_data),
        9: predict_pcr09(options=measured.load_options, initrd=measured.initrd, algorithms=algorithms),
        11: predict_pcr11(measured.sections, measured.rules),
    }


def _classify(
    register: int,
    events: tuple[PredictedEvent, ...] | None,
    algorithm: HashAlgorithm,
    *,
    platform: Platform,
    firmware: Digest,
) -> Classification:
    if register == 0:
        return classify_pcr00(firmware, algorithm, platform=platform)
    if register in _UNCONSTRAINED:
        return Unconstrained(_UNCONSTRAINED[register])
    if events is None:
        return Initial()
    if register == 5:
        return _classify_pcr05(platform, algorithm)
    return exact(register, events, algorithm)


def _classify_pcr05(platform: Platform, algorithm: HashAlgorithm) -> OneOf:
    at_once = predict_pcr05((algorithm,))
    retried = predict_pcr05((algorithm,), failed_exit=platform.failed_exit)
    return one_of(
        (extend_all(5, events, algorithm) for events in (at_once, retried)),
        why="the kernel left boot services at the first or at the second call",
    )
