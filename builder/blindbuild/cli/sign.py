"""`blindbuild sign`: the envelopes over an image's statement and release, or a signature for Secure Boot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.secure_boot import SignedFiles, sign_for_secure_boot
from blindbuild.cli.signing import (
    DAY_S,
    Signed,
    add_to_release_of,
    sign_as_rebuilder,
    sign_image,
    sign_release_of,
)
from blindbuild.cli.signing_probe import sign_probe_of
from blindbuild.errors import UsageError
from blindbuild.manifest import format_time
from blindbuild.manifest.words import DEFAULT_CHANNEL

__all__ = ["DAY_S", "command", "sign_image"]

DEFAULT_DAYS = 90
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Options:
    """What was asked for, as the command line says it; None where an option was not given."""

    keys: tuple[str, ...]
    days: int | None
    channel: str | None
    add: bool
    as_rebuilder: bool
    probe: bool
    published: Path | None
    secureboot: str | None
    certificate: Path | None
    output: Path | None
    replace: bool


@click.command("sign")
@click.argument("image", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--key",
    "keys",
    metavar="REF",
    multiple=True,
    help="Sign IMAGE's statement and release: a file from keygen, or a pkcs11: URI; repeatable.",
)
@click.option(
    "--days", type=click.IntRange(1, 3660), help=f"Validity of the release [default: {DEFAULT_DAYS}]."
)
@click.option("--channel", help=f"Which line of releases it belongs to [default: {DEFAULT_CHANNEL}].")
@click.option("--add", is_flag=True, help="Add to the signatures of others, for a threshold above one.")
@click.option(
    "--as-rebuilder", is_flag=True, help="Vouch that your own build gave this very statement, no more."
)
@click.option("--probe", is_flag=True, help="Sign what `channels --probe` saw, and no release.")
@click.option(
    "--published",
    type=click.Path(exists=True, path_type=Path),
    help="The publisher's manifest, for --as-rebuilder: its statement must be the same.",
)
@click.option(
    "--secureboot", metavar="KEY", help="Sign the boot image for UEFI: an RSA key in PEM, or a pkcs11: URI."
)
@click.option("--certificate", type=_FILE, help="Of the Secure Boot key; PEM, chain allowed, or DER.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of NAME.signed.efi.")
@click.option("--replace", is_flag=True, help="Drop the signatures that the boot image has.")
@json_option
def command(
    image: Path,
    keys: tuple[str, ...],
    days: int | None,
    channel: str | None,
    add: bool,
    as_rebuilder: bool,
    probe: bool,
    published: Path | None,
    secureboot: str | None,
    certificate: Path | None,
    output: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Sign an image.

    With --key: what IMAGE's statement says (manifest.dsse.json), and that it is current (release.dsse.json).
    Every file is checked against SHA256SUMS first, and what is signed is shown. Where clients ask for more
    than one signature, give --key several times, or have the next person run it with --add. REF is a file, a
    pkcs11: URI, or a key file of `blindbuild key pin` for a key of a service; docs/keys.md. A PIN comes from
    pin-source in the URI, from BLINDBUILD_PIN, or is asked for.

    With --as-rebuilder: a record in IMAGE/rebuilds/ that somebody who is not the publisher built the same.

    With --probe: what IMAGE/probe.json says its machine was seen to do (probe.dsse.json), for clients that
    ask for it. Whoever adds a signature believes the one who looked, or has looked himself.

    With --secureboot: the boot image itself, for firmware that starts signed images only. IMAGE is a UKI, or
    an image directory, which gets NAME.signed.efi and NAME.signed.raw beside the files it has. The statement
    stays: it is about Secure Boot off, where a signature changes no register. With it on, 4 and 7 differ.

    Example: blindbuild sign images/hello/1.0.0 --key release.key --days 30;
    blindbuild sign images/hello/1.0.0 --add --key second.key;
    blindbuild sign images/hello/1.0.0 --secureboot db.key --certificate db.crt
    """
    options = _Options(
        keys, days, channel, add, as_rebuilder, probe, published, secureboot, certificate, output, replace
    )
    _check_options(options)
    report: dict[str, object] = {}
    if secureboot is not None and certificate is not None:
        signed = sign_for_secure_boot(
            image, key=secureboot, certificate=certificate, output=output, replace=replace
        )
        report |= _describe(signed)
        _say(f"{signed.image} over Authenticode {signed.authenticode}", as_json)
    if keys:
        result = _sign(image, options)
        report |= _report(result, probe=probe)
        until = "" if result.release is None else f", valid until {format_time(result.release.valid_until)}"
        for path in result.paths if result.release is None else result.paths[:1]:
            _say(f"{path} over statement {result.statement.hex}{until}", as_json)
    if as_json:
        print_json(report)


def _sign(image: Path, options: _Options) -> Signed:
    if options.as_rebuilder:
        return sign_as_rebuilder(image, options.keys, published=options.published)
    if options.probe:
        return sign_probe_of(image, options.keys, add=options.add)
    if options.add:
        return add_to_release_of(image, options.keys)
    days = DEFAULT_DAYS if options.days is None else options.days
    channel = DEFAULT_CHANNEL if options.channel is None else options.channel
    return sign_release_of(image, options.keys, days=days, channel=channel)


def _check_options(options: _Options) -> None:
    """Refuse combinations of which one half would silently do nothing."""
    if not options.keys and options.secureboot is None:
        raise UsageError("expected --key or --secureboot, got neither")
    _check_release_options(options)
    if (options.secureboot is None) != (options.certificate is None):
        raise UsageError("expected --secureboot and --certificate together, got one")
    if options.secureboot is None and (options.output is not None or options.replace):
        raise UsageError("--output and --replace belong to --secureboot")


def _check_release_options(options: _Options) -> None:
    if not options.keys and (options.add or options.as_rebuilder or options.probe):
        raise UsageError("--add, --as-rebuilder and --probe belong to --key")
    if options.as_rebuilder and (options.add or options.probe):
        raise UsageError(f"expected {'--add' if options.add else '--probe'} or --as-rebuilder, got both")
    _check_release_time(options)
    if options.published is not None and not options.as_rebuilder:
        raise UsageError("--published belongs to --as-rebuilder")


def _check_release_time(options: _Options) -> None:
    if options.days is None and options.channel is None:
        return
    if options.add or options.as_rebuilder:
        raise UsageError("--days and --channel are the first signer's to say")
    if options.probe:
        raise UsageError("--days and --channel are a release's, and --probe signs none")


def _describe(signed: SignedFiles) -> dict[str, str]:
    disk = {} if signed.disk is None else {"signedDisk": str(signed.disk)}
    return {"signedImage": str(signed.image), **disk, "authenticodeSha256": signed.authenticode.hex}


def _report(signed: Signed, *, probe: bool) -> dict[str, object]:
    report: dict[str, object] = {"statementSha256": signed.statement.hex, "signers": list(signed.signers)}
    if probe:
        return report | {"probe": str(signed.paths[0])}
    if signed.release is None:
        return report | {"rebuilds": [str(path) for path in signed.paths]}
    return report | {
        "manifest": str(signed.paths[0]),
        "channel": signed.release.channel,
        "validUntil": format_time(signed.release.valid_until),
    }


def _say(line: str, as_json: bool) -> None:
    if not as_json:
        click.echo(line)
