"""Clouds whose firmware nobody outside can build, and what their vTPM's registers can promise all the same.

The model is that of `boot.py`; a profile says where a firmware departs from it and which registers only the
operator decides. Nothing here was read from a machine of ours: the sources stand beside each profile, and
docs/platforms/ says which of them are logs and which are documents only.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.siglist import (
    EFI_CERT_SHA256,
    SignatureEntry,
    SignatureList,
    write_signature_lists,
)
from blindbuild.formats.tcgevent import EFI_GLOBAL_VARIABLE, EventType
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
from blindbuild.measure.event import PredictedEvent, measured_event
from blindbuild.measure.pcr05 import EXIT_FAILURE, predict_exit
from blindbuild.measure.platforms import Platform
from blindbuild.measure.secure_boot import SECURE_BOOT_OFF, SecureBootState
from blindbuild.measure.separator import predict_separator
from blindbuild.measure.uki import MeasuredUki

_GCE_HOST_INFORMATION_BYTES = 32  # "GCE NonHostInfo", NUL, technology, 15 zeros
_RESETTABLE = {
    16: "debug register, which anyone can reset",
    23: "application register, which anyone can reset",
}
_TABLE_NOT_GIVEN = "the partition table of the disk, which was not given"
_KEYS_NOT_GIVEN = "the Secure Boot keys of the machine, which were not given"


class GceTechnology(enum.IntEnum):
    """What protects a Compute Engine VM's memory, by the byte in the event GCE NonHostInfo.

    Source: Google, "Confidential VM measurement register contents".
    """

    NONE = 0
    SEV = 1
    SEV_ES = 2
    TDX = 3
    SEV_SNP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """How one cloud's firmware fills the registers.

    Attributes:
        identifier: names the instance in statements; with Secure Boot on, `-secboot` is added.
        failed_exit: what is logged into PCR 5 for a call of ExitBootServices that fails.
        moved: register by event type, where this firmware measures a type of event elsewhere than PFP says.
        unconstrained: the registers that cannot be promised, with the reason.
        separator_only: registers that hold a separator and nothing else.
        secure_boot_by_key: Secure Boot is on exactly if there is a platform key.
        technologies: for Compute Engine, what PCR 0 may say; empty where PCR 0 cannot be predicted.
    """

    identifier: str
    failed_exit: tuple[bytes, ...] = ()
    moved: Mapping[EventType, int] = field(default_factory=lambda: MappingProxyType({}))
    unconstrained: Mapping[int, str]
    separator_only: frozenset[int] = frozenset()
    secure_boot_by_key: bool = False
    technologies: frozenset[GceTechnology] = frozenset()


@dataclass(frozen=True, slots=True)
class UnknownKeys:
    """Secure Boot is on or off with keys that the caller does not have, such as a cloud's own.

    What the stub does depends on `enabled` alone; PCR 7 stays unconstrained.
    """

    enabled: bool


# Logs: of a quoted Container-Optimized OS, tpm2-tools event-gce-ubuntu-2104, and eleven of
# google/go-tpm-tools internal/test/eventlogs (commit 67670e5c): firmware v1 and v2; none, SEV and SEV-SNP. A
# failed exit is in ubuntu-2404-amd-sevsnp.bin there.
_GCE_UNCONSTRAINED = {
    1: "boot entries and, since firmware v2, ACPI tables, which the operator chooses",
    **_RESETTABLE,
}
GCP = Profile(
    identifier="gcp",
    failed_exit=(EXIT_FAILURE,),
    unconstrained=MappingProxyType(_GCE_UNCONSTRAINED),
    technologies=frozenset(GceTechnology) - {GceTechnology.TDX},
)
# One log, of a UKI on a TDX guest: Dstack-TEE/dstack dstack/cc-eventlog/samples/tpm_eventlog.bin (commit
# 312dc605).
GCP_TDX = Profile(
    identifier="gcp-tdx",
    failed_exit=(EXIT_FAILURE,),
    moved=MappingProxyType(
        {EventType.EV_EFI_GPT_EVENT: 2, EventType.EV_EFI_BOOT_SERVICES_APPLICATION: 2},
    ),
    unconstrained=MappingProxyType(_GCE_UNCONSTRAINED),
    technologies=frozenset({GceTechnology.TDX}),
)
# No log. Registers 4, 7 and 12: aws/NitroTPM-Tools nitro-tpm-pcr-compute/src/main.rs (commit c598a106). 0 and
# 1: AWS, "NitroTPM Attestation Document contents". The others are measured by stub and kernel, not by EC2.
_EC2 = "what EC2's firmware measures, which is not published"
NITRO_TPM = Profile(
    identifier="nitro-tpm",
    unconstrained=MappingProxyType(
        {
            0: "a constant that AWS does not publish, and that does not change with the firmware",
            1: "a constant that AWS does not publish, and that does not change with the firmware",
            2: _EC2,
            3: _EC2,
            5: _EC2,
            6: _EC2,
            **_RESETTABLE,
        }
    ),
    secure_boot_by_key=True,
)
# No log. Registers 1, 2, 3 and 17-22: the quote of a confidential VM in confidential-containers/trustee#1565
# (2026-08); 4 and 6: edgelesssys/constellation docs/docs/architecture/attestation.md (commit 7cb5b83b).
AZURE = Profile(
    identifier="azure",
    unconstrained=MappingProxyType(
        {
            0: "Azure's firmware, which is not published as a file",
            5: "what Azure's firmware measures of the disk, which was not seen in a log",
            6: "the unique identifier of the virtual machine",
            7: "the Secure Boot policy of Azure's firmware, whose events were not seen in a log",
            **_RESETTABLE,
        }
    ),
    separator_only=frozenset({1, 2, 3}),
)
PROFILES = (GCP, GCP_TDX, NITRO_TPM, AZURE)


def find_profile(identifier: str) -> Profile:
    """Return the profile of this name.

    Raises:
        MeasureError: there is none.
    """
    for profile in PROFILES:
        if profile.identifier == identifier:
            return profile
    known = ", ".join(profile.identifier for profile in PROFILES)
    raise MeasureError(f"unknown platform {identifier!r}", hint=f"known clouds: {known}")


def predict_profile(
    measured: MeasuredImage,
    profile: Profile,
    *,
    secure_boot: SecureBootState | UnknownKeys,
    partition_table: bytes | None = None,
    technology: GceTechnology | None = None,
    firmware_versions: Sequence[int] = (1, 2),
    addon_authorities: tuple[bytes, ...] = (),
) -> PlatformReference:
    """Return the classification of every register of a VM of this cloud that boots this image.

    Args:
        measured: the image that is booted, measured for the same Secure Boot state.
        profile: one of `PROFILES`.
        secure_boot: the keys of the VM, which clouds let the owner of an image choose; or that they are not
            known, which leaves PCR 7 unconstrained.
        partition_table: the event data of the disk's GPT (`formats.gpt`); without it PCR 5 stays
            unconstrained. On `gcp-tdx` it is needed: it shares a register with the image, and without that
            register any program could boot and extend the others as the image would.
        technology: on Compute Engine, what protects the VM's memory.
        firmware_versions: on Compute Engine, which versions PCR 0 may name; the newest known is 2.
        addon_authorities: with keys that are known, the entry of db that validates each addon of the UKI.

    Raises:
        MeasureError: inputs that do not go together, or are missing.
    """
    _check_inputs(profile, secure_boot, technology)
    _check_partition_table(profile, partition_table)
    state = secure_boot
    if isinstance(state, UnknownKeys):
        state = _stand_in(state)
        addon_authorities = tuple((state.authority or b"",) * _addon_count(measured, state))
    boot = UefiBoot(
        platform=_platform(profile, state),
        secure_boot=state,
        partition_table=partition_table,
        addon_authorities=addon_authorities,
    )
    algorithms = tuple(measured.authenticode)
    events = events_by_register(_place(boot_events(measured, boot), profile))
    events |= {register: (predict_separator(register, algorithms),) for register in profile.separator_only}
    reasons = _open_registers(profile, secure_boot, partition_table)
    banks = {
        algorithm: _classify_bank(profile, events, reasons, algorithm, technology, firmware_versions)
        for algorithm in algorithms
    }
    return PlatformReference(
        identifier=boot.platform.identifier,
        kind=boot.platform.kind,
        firmware=None,
        banks=banks,
    )


def predict_gce_firmware(
    algorithms: Iterable[HashAlgorithm], *, version: int, technology: GceTechnology
) -> tuple[PredictedEvent, ...]:
    """Return the events of PCR 0 on Compute Engine: names of the firmware and of the VM's kind, no code.

    Args:
        algorithms: the banks.
        version: of the virtual firmware, 1 or 2 so far.
        technology: what protects the VM's memory.

    Raises:
        MeasureError: a version below 1.

    Source: Google, "Confidential VM measurement register contents"; the logs named above.
    """
    if version < 1:
        raise MeasureError(f"GCE firmware: expected a version from 1 on, got {version}")
    algorithms = tuple(algorithms)
    name = f"GCE Virtual Firmware v{version}"
    information = b"GCE NonHostInfo\0" + bytes((technology,))
    return (
        measured_event(
            0, EventType.EV_S_CRTM_VERSION, (name + "\0").encode("utf-16-le"), name, algorithms=algorithms
        ),
        measured_event(
            0,
            EventType.EV_NONHOST_INFO,
            information.ljust(_GCE_HOST_INFORMATION_BYTES, b"\0"),
            f"memory protection: {technology.name}",
            algorithms=algorithms,
        ),
        predict_separator(0, algorithms),
    )


def _platform(profile: Profile, secure_boot: SecureBootState) -> Platform:
    return Platform(
        identifier=profile.identifier + ("-secboot" if secure_boot.enabled else ""),
        secure_boot_data=b"\x01" if secure_boot.enabled else b"\0",
        failed_exit=profile.failed_exit,
        edk2=0,  # not known, and nothing here depends on it
        secure_boot=secure_boot.enabled,
        kind=profile.identifier,
    )


def _stand_in(unknown: UnknownKeys) -> SecureBootState:
    """Return any state of this kind: the model wants keys where Secure Boot is on; only PCR 7 shows them."""
    if not unknown.enabled:
        return SECURE_BOOT_OFF
    entry = SignatureEntry(EFI_GLOBAL_VARIABLE, bytes(HashAlgorithm.SHA256.size))
    lists = write_signature_lists([SignatureList(EFI_CERT_SHA256, (entry,))])
    return SecureBootState(enabled=True, pk=lists, db=lists, authority=entry.encoded)


def _addon_count(measured: MeasuredImage, state: SecureBootState) -> int:
    """Return how many addons the firmware verifies."""
    return len(measured.addons) if state.enabled and isinstance(measured, MeasuredUki) else 0


def _check_inputs(
    profile: Profile, secure_boot: SecureBootState | UnknownKeys, technology: GceTechnology | None
) -> None:
    if (
        profile.secure_boot_by_key
        and isinstance(secure_boot, SecureBootState)
        and secure_boot.enabled != bool(secure_boot.pk)
    ):
        raise MeasureError(
            f"{profile.identifier}: expected Secure Boot to be on exactly with a platform key, got "
            f"{'on without' if secure_boot.enabled else 'off with'} one"
        )
    if not profile.technologies:
        if technology is not None:
            raise MeasureError(f"{profile.identifier}: expected no memory protection of Compute Engine")
        return
    if technology not in profile.technologies:
        expected = ", ".join(item.name for item in sorted(profile.technologies))
        got = "none" if technology is None else technology.name
        raise MeasureError(
            f"{profile.identifier}: expected a memory protection of {expected}, got {got}",
            hint="gcp-tdx is a platform of its own",
        )


def _check_partition_table(profile: Profile, partition_table: bytes | None) -> None:
    if EventType.EV_EFI_GPT_EVENT in profile.moved and partition_table is None:
        register = profile.moved[EventType.EV_EFI_GPT_EVENT]
        raise MeasureError(
            f"{profile.identifier}: expected the disk's partition table, got none",
            hint=f"--disk DISK, with a GPT: PCR {register} holds it together with the image, which"
            " nothing binds without it",
        )


def _open_registers(
    profile: Profile, secure_boot: SecureBootState | UnknownKeys, partition_table: bytes | None
) -> Mapping[int, str]:
    """Return the registers that these inputs cannot promise; the profile's own reasons come first."""
    not_given = {
        **({5: _TABLE_NOT_GIVEN} if partition_table is None else {}),
        **({7: _KEYS_NOT_GIVEN} if isinstance(secure_boot, UnknownKeys) else {}),
    }
    return {**not_given, **profile.unconstrained}


def _place(events: Iterable[PredictedEvent], profile: Profile) -> tuple[PredictedEvent, ...]:
    """Return the events with the registers that this firmware measures them into."""
    return tuple(
        replace(event, register=profile.moved.get(event.event_type, event.register)) for event in events
    )


def _classify_bank(
    profile: Profile,
    events: Mapping[int, tuple[PredictedEvent, ...]],
    reasons: Mapping[int, str],
    algorithm: HashAlgorithm,
    technology: GceTechnology | None,
    firmware_versions: Sequence[int],
) -> tuple[Classification, ...]:
    rules: list[Classification] = []
    for register in range(REGISTER_COUNT):
        if register in reasons:
            rules.append(Unconstrained(reasons[register]))
        elif register == 0 and technology is not None:
            rules.append(_classify_gce_firmware(algorithm, technology, firmware_versions))
        elif register not in events:
            rules.append(Initial())
        elif register == 5:
            rules.append(_classify_exit(events[5], profile, algorithm))
        else:
            rules.append(exact(register, events[register], algorithm))
    return tuple(rules)


def _classify_gce_firmware(
    algorithm: HashAlgorithm, technology: GceTechnology, versions: Sequence[int]
) -> OneOf:
    events = (
        predict_gce_firmware((algorithm,), version=version, technology=technology) for version in versions
    )
    names = ", ".join(f"v{version}" for version in versions)
    return one_of(
        (extend_all(0, found, algorithm) for found in events),
        why=f"the names GCE Virtual Firmware {names} with {technology.name}; no code is measured",
    )


def _classify_exit(events: tuple[PredictedEvent, ...], profile: Profile, algorithm: HashAlgorithm) -> OneOf:
    at_once = predict_exit((algorithm,))
    before = events[: len(events) - len(at_once)]
    retried = predict_exit((algorithm,), failed_exit=profile.failed_exit)
    return one_of(
        (extend_all(5, (*before, *found), algorithm) for found in (at_once, retried)),
        why="the kernel left boot services at the first or at the second call",
    )
