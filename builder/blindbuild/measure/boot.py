"""A whole boot as one model: which events firmware, shim, stub and kernel measure, in the order of the log.

Sources: PFP 3.3.4; edk2 Tcg2Dxe.c for the order, and for direct boot OvmfPkg PlatformBootManagerLib, which
loads the kernel before it says that it is ready to boot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.measure.event import Digests, PredictedEvent
from blindbuild.measure.kernel import MeasuredKernel, predict_kernel_inputs
from blindbuild.measure.pcr04 import predict_application, predict_calling
from blindbuild.measure.pcr05 import predict_exit, predict_partition_table
from blindbuild.measure.pcr07 import predict_authority, predict_pcr07
from blindbuild.measure.pcr09 import predict_pcr09
from blindbuild.measure.pcr11 import predict_pcr11
from blindbuild.measure.pcr12 import order_stub_events
from blindbuild.measure.platforms import Platform
from blindbuild.measure.secure_boot import SECURE_BOOT_OFF, SecureBootState, find_authority
from blindbuild.measure.separator import predict_separator
from blindbuild.measure.shim import Shim, predict_shim
from blindbuild.measure.uki import MeasuredUki

MeasuredImage = MeasuredUki | MeasuredKernel

# What only the machine decides: events are missing from these registers, whatever the image is.
MACHINE_REGISTERS = {
    0: "the firmware's early volume as it is in memory, which depends on the machine",
    1: "ACPI tables, boot entries and machine configuration, which the operator chooses",
}


class BootPath(Enum):
    """Where the firmware gets the first image from."""

    DISK = "disk"
    DIRECT = "direct"


@dataclass(frozen=True, slots=True, kw_only=True)
class UefiBoot:
    """Everything that the registers of a boot depend on besides the image.

    Attributes:
        platform: machine and firmware.
        secure_boot: the keys, and the entry of db that validates the first image.
        partition_table: UEFI_GPT_DATA of the disk that the image is on; None without a partition table.
        shim: the first image, if the UKI is started by shim.
        path: from a disk, or from QEMU's -kernel.
        firmware: the events of PCR 0 that `pcr00.predict_firmware` gives, or none.
        addon_authorities: with Secure Boot, the entry of db that validates each addon of the UKI, in their
            order.
    """

    platform: Platform
    secure_boot: SecureBootState = SECURE_BOOT_OFF
    partition_table: bytes | None = None
    shim: Shim | None = None
    path: BootPath = BootPath.DISK
    firmware: tuple[PredictedEvent, ...] = ()
    addon_authorities: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if self.secure_boot.enabled != self.platform.secure_boot:
            on = "on" if self.platform.secure_boot else "off"
            raise MeasureError(
                f"{self.platform.identifier}: expected Secure Boot to be {on}, got the other state",
                hint="a platform that ends in -secboot needs --variables of a machine with keys,"
                " or --secure-boot with --pk, --kek and --db; the others need it off",
            )
        if self.path is BootPath.DIRECT and self.partition_table is not None:
            raise MeasureError("direct boot: expected no partition table, got one")
        if self.shim is not None and self.shim.variables is not None:
            validated = self.shim.authority is not None
            if validated != self.secure_boot.enabled:
                raise MeasureError("shim: expected an authority of its second stage with Secure Boot only")

    @property
    def unpredictable(self) -> dict[int, str]:
        """The registers whose events are not all known, with the reason."""
        return {**MACHINE_REGISTERS, **({} if self.shim is None else self.shim.unpredictable)}


def boot_events(measured: MeasuredImage, boot: UefiBoot) -> tuple[PredictedEvent, ...]:
    """Return every event of the boot that can be predicted, in the order of the log.

    Registers of `boot.unpredictable` have events here too, but not all of theirs. Leaving boot services is
    taken to succeed at the first call.

    Raises:
        MeasureError: the image was measured for another Secure Boot state, the authority is missing, or no
            signature holds.
    """
    algorithms = tuple(measured.authenticode)
    state = boot.secure_boot
    _check_state(measured, state)
    separators = tuple(predict_separator(register, algorithms) for register in range(7))
    ready = (predict_calling(algorithms), *separators)
    first = _first_image(measured, boot, algorithms)
    policy = predict_pcr07(algorithms, secure_boot_data=boot.platform.secure_boot_data, state=state)
    return (
        *boot.firmware,
        *policy,
        *((*first, *ready) if boot.path is BootPath.DIRECT else (*ready, *first)),
        *_second_stage(measured, boot, algorithms),
        *_image_events(measured, boot),
        *predict_exit(algorithms),
    )


def events_by_register(events: Iterable[PredictedEvent]) -> dict[int, tuple[PredictedEvent, ...]]:
    """Return the events of each register that has any, in order."""
    found: dict[int, list[PredictedEvent]] = {}
    for event in events:
        found.setdefault(event.register, []).append(event)
    return {register: tuple(found[register]) for register in sorted(found)}


def _first_image(
    measured: MeasuredImage, boot: UefiBoot, algorithms: tuple[HashAlgorithm, ...]
) -> tuple[PredictedEvent, ...]:
    """Return what the firmware measures when it loads the first image."""
    events: list[PredictedEvent] = []
    if boot.partition_table is not None:
        events.append(predict_partition_table(boot.partition_table, algorithms))
    if boot.secure_boot.enabled:
        if boot.secure_boot.authority is None:
            raise MeasureError(
                "Secure Boot: expected the entry of db that validates the image, got none",
                hint="find it with SecureBootState.trusting(image)",
            )
        events.append(predict_authority(boot.secure_boot.authority, algorithms))
    if boot.shim is None:
        events.append(predict_application(measured.authenticode, "Authenticode digest of the image"))
    else:
        events.append(predict_application(boot.shim.authenticode, "Authenticode digest of shim"))
    return tuple(events)


def _second_stage(
    measured: MeasuredImage, boot: UefiBoot, algorithms: tuple[HashAlgorithm, ...]
) -> tuple[PredictedEvent, ...]:
    if boot.shim is None:
        return ()
    image = predict_application(measured.authenticode, "Authenticode digest of the image, by shim")
    return (*predict_shim(boot.shim, algorithms), image)


def _image_events(measured: MeasuredImage, boot: UefiBoot) -> tuple[PredictedEvent, ...]:
    """Return what the image itself causes: the stub's events, then those of the kernel."""
    if isinstance(measured, MeasuredKernel):
        return predict_kernel_inputs(measured)
    inner = _inner_kernel(measured)
    kernel = (
        ()
        if inner is None
        else (predict_application(inner, "Authenticode digest of the kernel in the image"),)
    )
    return (
        *order_stub_events(
            predict_pcr11(measured.sections, measured.rules),
            measured.pcr12,
            measured.pcr13,
            _addon_events(measured, boot),
        ),
        *kernel,
        *predict_pcr09(
            options=measured.load_options,
            initrd=measured.initrd,
            algorithms=tuple(measured.authenticode),
        ),
    )


def find_addon_authorities(
    measured: MeasuredUki, state: SecureBootState, images: Iterable[bytes]
) -> tuple[bytes, ...]:
    """Return `UefiBoot.addon_authorities` for a UKI that was measured with these addons, given in any order.

    Raises:
        MeasureError: an addon is missing, or no entry of db validates it.
    """
    if not state.enabled:
        return ()
    algorithms = tuple(measured.authenticode)[:1]
    known = {authenticode_digests(image, algorithms)[algorithms[0]]: image for image in images}
    missing = [digests for digests in measured.addons if digests[algorithms[0]] not in known]
    if missing:
        raise MeasureError(
            f"expected the images of {len(measured.addons)} addons, {len(missing)} are missing"
        )
    return tuple(find_authority(state, known[digests[algorithms[0]]]) for digests in measured.addons)


def _addon_events(measured: MeasuredUki, boot: UefiBoot) -> tuple[PredictedEvent, ...]:
    """Return the events of the addons, which the stub lets the firmware load and so verify."""
    state, given = boot.secure_boot, boot.addon_authorities
    expected = len(measured.addons) if state.enabled else 0
    if len(given) != expected or (expected and boot.shim is not None):
        raise MeasureError(
            f"expected the entries of db that validate {expected} addons, got {len(given)}",
            hint="find_addon_authorities gives them; behind shim they cannot be predicted",
        )
    events: list[PredictedEvent] = []
    measured_before = {state.authority}  # firmware measures an authority once
    for index, digests in enumerate(measured.addons):
        if expected and given[index] not in measured_before:
            measured_before.add(given[index])
            events.append(predict_authority(given[index], tuple(digests)))
        events.append(predict_application(digests, "Authenticode digest of an addon"))
    return tuple(events)


def _inner_kernel(measured: MeasuredUki) -> Digests | None:
    # With Secure Boot on, the stub's security override lets the kernel through before it is measured.
    hidden = measured.secure_boot or not measured.rules.loads_kernel_through_firmware
    return None if hidden else measured.kernel_authenticode


def _check_state(measured: MeasuredImage, state: SecureBootState) -> None:
    if isinstance(measured, MeasuredUki) and measured.secure_boot != state.enabled:
        raise MeasureError(
            f"expected a UKI that was measured with Secure Boot {'on' if state.enabled else 'off'}, "
            f"got one measured for the other state",
            hint="measure_uki(…, inputs=StubInputs(secure_boot=…))",
        )
    if isinstance(measured, MeasuredKernel) and measured.changed and state.enabled:
        # Booted: OVMF 2025.02 then runs it by another loader, and measures nothing (CVE-2025-2296).
        raise MeasureError(
            "Secure Boot: expected the kernel as it was signed, got one that QEMU changes on its way",
            hint="QEMU 10.0 with edk2 202502 hands it over as it is; a UKI is never changed",
        )
