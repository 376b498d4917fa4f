"""`blindbuild measure` for Intel TDX: what the firmware decides, and what the image does."""

from __future__ import annotations

from pathlib import Path

from blindbuild.cli.measure_guests import GuestPrediction, read_firmware
from blindbuild.cli.measure_options import OPTIONS, TDX, MeasureOptions, refuse_given
from blindbuild.cli.measure_uefi import (
    describe_boot,
    measure_image,
    open_image,
    read_small,
    read_state,
    trust_addons,
)
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.ccel import write_cc_event_log
from blindbuild.host.files import write_atomically
from blindbuild.measure.boot import boot_events
from blindbuild.measure.direct import Confidential
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.platforms import Platform
from blindbuild.measure.tdx import PageOrder
from blindbuild.measure.tdx_registers import (
    PlatformData,
    TdxLaunch,
    acpi_data,
    predict_tdx_launch,
    predicted_cc_log,
)
from blindbuild.measure.uki import MeasuredUki

SEPARATOR_IN_RTMR1_SINCE = 202408  # edk2 efaf8931bb
EARLY_ITEMS_SINCE = 202505  # edk2 2eac71a1ee
_FIRMWARE_ALONE = ("firmware", "page_order")  # what MRTD is from
_PASSED_ON = ("initrd", "command_line", "qemu")  # what only -kernel makes use of
_BANKS = (HashAlgorithm.SHA384,)  # the only one that TDX has


def predict_tdx(image: Path | None, options: MeasureOptions) -> GuestPrediction:
    """Predict MRTD and every RTMR that the options determine; write the log if they ask for it.

    Raises:
        BlindbuildError: an input that is malformed, or does not go with the others.
    """
    if image is None:
        boot = {option.field for option in OPTIONS if TDX in option.families} - set(_FIRMWARE_ALONE)
        refuse_given(options, boot, ": expected an image that boots, got none")
    if not options.direct:
        refuse_given(options, _PASSED_ON, ": expected --direct with it, got an image on a disk")
    firmware = read_firmware(options, "tdx")
    events, version = ((), None) if image is None else _events(image, options)
    prediction = predict_tdx_launch(
        TdxLaunch(
            firmware=firmware,
            page_order=PageOrder(options.page_order),
            memory_bytes=None if options.memory is None else options.memory << 20,
            early=None if options.edk2 >= EARLY_ITEMS_SINCE else (),
            platform=_acpi(options),
            boot_variables=_boot_variables(options.boot_variables),
            separator_in_rtmr1=options.edk2 >= SEPARATOR_IN_RTMR1_SINCE,
            stub_version=version,
        ),
        events,
    )
    if options.event_log is not None:
        write_atomically(options.event_log, write_cc_event_log(predicted_cc_log(prediction)))
    return GuestPrediction(prediction.measurements, prediction.unpredicted)


def _events(image: Path, options: MeasureOptions) -> tuple[tuple[PredictedEvent, ...], int | None]:
    """Return what the boot measures into a TPM, and the stub's version."""
    platform = Platform(
        identifier="tdx",
        secure_boot_data=_secure_boot_data(options),
        failed_exit=(),
        edk2=options.edk2,
        secure_boot=read_state(options).enabled,
    )
    with open_image(image) as source:
        boot = describe_boot(source, platform, options, _BANKS)
        measured = measure_image(source, boot, options, _BANKS, confidential=Confidential.TDX)
    version = measured.rules.version if isinstance(measured, MeasuredUki) else None
    return boot_events(measured, trust_addons(boot, measured, options)), version


def _secure_boot_data(options: MeasureOptions) -> bytes:
    if read_state(options).enabled:
        return b"\x01"
    return b"" if options.secure_boot_variable == "absent" else b"\0"


def _acpi(options: MeasureOptions) -> tuple[PlatformData, ...] | None:
    if not options.acpi:
        return None
    loader, rsdp, tables = (read_small(path) for path in options.acpi)
    return acpi_data(loader=loader, rsdp=rsdp, tables=tables)


def _boot_variables(texts: tuple[str, ...]) -> tuple[tuple[str, bytes], ...] | None:
    if not texts:
        return None
    found = []
    for text in texts:
        name, separator, path = text.partition("=")
        if not separator or not name or not Path(path).is_file():
            raise UsageError(
                f"--boot-variable: expected NAME=FILE with a file that exists, got {text[:120]!r}"
            )
        found.append((name, read_small(Path(path))))
    return tuple(found)
