"""`blindbuild measure`: predict what a root of trust will hold after a boot or a launch."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.measure_guests import SEV_PLATFORMS, GuestPrediction, predict_eif, predict_sev
from blindbuild.cli.measure_options import (
    CLOUD,
    DIRECT,
    EIF,
    SEV,
    TDX,
    UEFI,
    MeasureOptions,
    measure_options,
    refuse_foreign,
)
from blindbuild.cli.measure_tdx import predict_tdx
from blindbuild.cli.measure_uefi import CLOUDS, predict_boot, read_firmware_event
from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.render import print_warning
from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.printable import visible
from blindbuild.manifest.registers import write_platform
from blindbuild.measure.classification import Classification, Exact, Initial, OneOf, PlatformReference
from blindbuild.measure.event import PredictedEvent
from blindbuild.measure.platforms import PLATFORMS

_UEFI_PLATFORMS = tuple(platform.identifier for platform in PLATFORMS)
_PLATFORMS = (*_UEFI_PLATFORMS, *CLOUDS, *SEV_PLATFORMS, "tdx", "nitro-eif")


@click.command("measure")
@click.argument(
    "image", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="[IMAGE]"
)
@click.option(
    "--platform",
    default=PLATFORMS[-1].identifier,
    type=click.Choice(_PLATFORMS),
    show_default=True,
    help="What it boots on.",
)
@measure_options
@json_option
@click.pass_context
def command(
    context: click.Context, image: Path | None, platform: str, options: MeasureOptions, as_json: bool
) -> None:
    """Predict what the root of trust of a platform will hold after IMAGE was booted.

    IMAGE is a UKI, a kernel, or for nitro-eif an enclave image. Without one, sev, sev-es, sev-snp and tdx
    tell what the firmware alone decides.

    Behind each option stand the platforms it is for: uefi (a qemu-q35 platform), direct (the same with
    --direct), cloud, sev, tdx.

    Example: blindbuild measure images/hello/1.0.0/hello.efi --firmware OVMF_CODE_4M.fd --bank sha256
    """
    family = _family(platform, options)
    refuse_foreign(context, family, platform)
    if family in (UEFI, DIRECT, CLOUD):
        reference = predict_boot(_needed(image, platform), platform, options)
        _report_registers(reference, _firmware_event(options, reference), as_json=as_json)
        return
    if family == SEV:
        prediction = predict_sev(image, platform, options)
    elif family == TDX:
        prediction = predict_tdx(image, options)
    else:
        prediction = predict_eif(_needed(image, platform))
    _report_guest(platform, prediction, as_json=as_json)


def _family(platform: str, options: MeasureOptions) -> str:
    if platform in _UEFI_PLATFORMS:
        return DIRECT if options.direct else UEFI
    if platform in CLOUDS:
        return CLOUD
    if platform in SEV_PLATFORMS:
        return SEV
    return TDX if platform == "tdx" else EIF


def _needed(image: Path | None, platform: str) -> Path:
    if image is None:
        raise UsageError(f"platform {platform}: expected an image to measure, got none")
    return image


def _firmware_event(options: MeasureOptions, reference: PlatformReference) -> PredictedEvent | None:
    try:
        return read_firmware_event(options, tuple(reference.banks))
    except FormatError as error:
        print_warning(
            f"--firmware: expected an OVMF build, whose DXE volume is measured, got {error.message}"
        )
        return None


def _report_registers(
    reference: PlatformReference, firmware: PredictedEvent | None, *, as_json: bool
) -> None:
    if as_json:
        print_json({"platforms": [write_platform(reference)], "partialEvents": _partial_events(firmware)})
        return
    for algorithm, registers in reference.banks.items():
        click.echo(algorithm.value)
        for number, rule in enumerate(registers):
            click.echo(f"  {number:>2}  {describe_rule(rule)}")
            if firmware is not None and number == firmware.register:
                click.echo(f"      among its events {firmware.digests[algorithm].hex} ({firmware.what})")


def _partial_events(firmware: PredictedEvent | None) -> JsonValue:
    """Return the events that are known of a register whose value is not, by bank and register."""
    if firmware is None:
        return {}
    return {
        algorithm.value: {
            str(firmware.register): [
                {"type": firmware.event_type.name, "digest": digest.hex, "what": firmware.what}
            ]
        }
        for algorithm, digest in firmware.digests.items()
    }


def _report_guest(platform: str, prediction: GuestPrediction, *, as_json: bool) -> None:
    if as_json:
        print_json({"platforms": [_guest_value(platform, prediction)]})
        return
    for item in prediction.measurements:
        click.echo(f"{item.name}  {item.digest}")
        click.echo(f"  covers {visible(item.what)}")
        for need in item.needs:
            click.echo(f"  from   {visible(need)}")
    for entry in prediction.unpredicted:
        click.echo(f"{entry.name}  not predicted: {entry.reason}")
        for need in entry.needs:
            click.echo(f"  needs  {visible(need)}")


def _guest_value(platform: str, prediction: GuestPrediction) -> JsonValue:
    measurements: dict[str, JsonValue] = {
        item.name: {
            "algorithm": item.digest.algorithm.value,
            "digest": item.digest.hex,
            "what": item.what,
            "needs": list(item.needs),
        }
        for item in prediction.measurements
    }
    unpredicted: dict[str, JsonValue] = {
        item.name: {"reason": item.reason, "needs": list(item.needs)} for item in prediction.unpredicted
    }
    return {"id": platform, "kind": platform, "measurements": measurements, "unpredicted": unpredicted}


def describe_rule(rule: Classification) -> str:
    """Return one line for a classification, with whole values."""
    if isinstance(rule, Exact):
        return rule.value.hex
    if isinstance(rule, OneOf):
        return f"one of {' '.join(value.hex for value in rule.values)} ({rule.why})"
    if isinstance(rule, Initial):
        return "initial"
    return f"unconstrained ({rule.reason})"
