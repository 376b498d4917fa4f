"""`blindbuild measure`: predict the registers of a UKI."""

from __future__ import annotations

import json
from pathlib import Path

import click

from blindbuild.cli.options import json_option
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.host.files import read_bytes
from blindbuild.manifest.registers import write_platform
from blindbuild.measure.classification import Classification, Exact, Initial, OneOf
from blindbuild.measure.platforms import PLATFORMS
from blindbuild.measure.reference import reference_values

_BANKS = ("sha256", "sha384", "sha512")


@click.command("measure")
@click.argument("uki", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--platform",
    default=PLATFORMS[-1].identifier,
    type=click.Choice([platform.identifier for platform in PLATFORMS]),
    show_default=True,
)
@click.option(
    "--firmware",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The firmware's code file, such as OVMF_CODE_4M.fd.",
)
@click.option("--bank", "banks", multiple=True, type=click.Choice(_BANKS), help="Only this bank; repeatable.")
@json_option
def command(uki: Path, platform: str, firmware: Path, banks: tuple[str, ...], as_json: bool) -> None:
    """Predict what each of the 24 registers will hold after UKI booted from an unpartitioned FAT disk.

    Example: blindbuild measure images/hello/1.0.0/hello.efi --firmware OVMF_CODE_4M.fd --bank sha256
    """
    reference = reference_values(
        read_bytes(uki, error=UsageError),
        firmware_code=read_bytes(firmware, error=UsageError),
        platform_id=platform,
        algorithms=tuple(HashAlgorithm(name) for name in banks or _BANKS),
    )
    if as_json:
        click.echo(json.dumps({"platforms": [write_platform(reference)]}, indent=2, sort_keys=True))
        return
    for algorithm, registers in reference.banks.items():
        click.echo(algorithm.value)
        for number, rule in enumerate(registers):
            click.echo(f"  {number:>2}  {describe_rule(rule)}")


def describe_rule(rule: Classification) -> str:
    """Return one line for a classification, with whole values."""
    if isinstance(rule, Exact):
        return rule.value.hex
    if isinstance(rule, OneOf):
        return f"one of {' '.join(value.hex for value in rule.values)} ({rule.why})"
    if isinstance(rule, Initial):
        return "initial"
    return f"unconstrained ({rule.reason})"
