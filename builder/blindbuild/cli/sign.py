"""`blindbuild sign`: the envelopes over an image's statement and release, or a signature for Secure Boot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT, check_image
from blindbuild.cli.secure_boot import SignedFiles, sign_for_secure_boot
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, UsageError
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import format_time, parse_statement
from blindbuild.publish import SigningKey, load_key, make_release, sign_release, sign_statement

DAY_S = 86400
MAX_KEY = 1 << 16  # bytes; an Ed25519 key in PEM has 120
DEFAULT_DAYS = 90
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True, slots=True)
class _Options:
    """What was asked for, as the command line says it."""

    key: Path | None
    days: int
    secureboot: str | None
    certificate: Path | None
    output: Path | None
    replace: bool


@click.command("sign")
@click.argument("image", type=click.Path(exists=True, path_type=Path))
@click.option("--key", type=_FILE, help="From keygen: sign IMAGE's statement and release.")
@click.option(
    "--days", default=DEFAULT_DAYS, type=click.IntRange(1, 3660), show_default=True, help="Validity."
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
    key: Path | None,
    days: int,
    secureboot: str | None,
    certificate: Path | None,
    output: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Sign an image.

    With --key: what IMAGE's statement says (manifest.dsse.json), and that it is current (release.dsse.json).
    Every file is checked against SHA256SUMS first.

    With --secureboot: the boot image itself, for firmware that starts signed images only. IMAGE is a UKI, or
    an image directory, which gets NAME.signed.efi and NAME.signed.raw beside the files it has. The statement
    stays: it is about Secure Boot off, where a signature changes no register. With it on, 4 and 7 differ.

    Example: blindbuild sign images/hello/1.0.0 --key release.key --days 30;
    blindbuild sign images/hello/1.0.0 --secureboot db.key --certificate db.crt
    """
    _check_options(_Options(key, days, secureboot, certificate, output, replace))
    report: dict[str, str] = {}
    if secureboot is not None and certificate is not None:
        signed = sign_for_secure_boot(
            image, key=secureboot, certificate=certificate, output=output, replace=replace
        )
        report |= _describe(signed)
        _say(f"{signed.image} over Authenticode {signed.authenticode}", as_json)
    if key is not None:
        statement, until = _sign_envelopes(image, key, days)
        report |= {
            "manifest": str(image / MANIFEST),
            "statementSha256": statement.hex,
            "validUntil": until,
        }
        _say(f"{image / MANIFEST} over statement {statement.hex}, valid until {until}", as_json)
    if as_json:
        print_json(report)


def sign_image(image: Path, key: SigningKey, *, days: int) -> tuple[Digest, str]:
    """Write both envelopes; return the statement's digest and the end of validity."""
    files = check_image(image)
    statement = files[STATEMENT]
    _check_subject(image, files)
    now = unix_time()
    release = make_release(statement, valid_from=now, valid_until=now + days * DAY_S)
    write_atomically(image / RELEASE, sign_release(key, release))
    write_atomically(image / MANIFEST, sign_statement(key, statement))
    return Digest.sha256(statement), format_time(release.valid_until)


def _check_options(options: _Options) -> None:
    """Refuse combinations of which one half would silently do nothing."""
    if options.key is None and options.secureboot is None:
        raise UsageError("expected --key or --secureboot, got neither")
    if (options.secureboot is None) != (options.certificate is None):
        raise UsageError("expected --secureboot and --certificate together, got one")
    if options.secureboot is None and (options.output is not None or options.replace):
        raise UsageError("--output and --replace belong to --secureboot")


def _describe(signed: SignedFiles) -> dict[str, str]:
    disk = {} if signed.disk is None else {"signedDisk": str(signed.disk)}
    return {"signedImage": str(signed.image), **disk, "authenticodeSha256": signed.authenticode.hex}


def _sign_envelopes(image: Path, key: Path, days: int) -> tuple[Digest, str]:
    if not image.is_dir():
        raise UsageError(f"{image}: expected an image directory for --key")
    return sign_image(image, load_key(read_bytes(key, error=UsageError, limit_bytes=MAX_KEY)), days=days)


def _say(line: str, as_json: bool) -> None:
    if not as_json:
        click.echo(line)


def _check_subject(image: Path, files: Mapping[str, bytes]) -> None:
    # SHA256SUMS is a file like the others: only the statement's own digests say which image it is about
    statement = parse_statement(files[STATEMENT])
    name = f"{statement.name}.efi"
    subjects = {subject.name: subject.digests for subject in statement.subjects}
    digests = subjects.get(name, {})
    if name not in files or not digests:
        raise BuildError(f"{image}: expected a statement about {name}", hint="build the image again")
    about_image = all(Digest.of(kind, files[name]).equals(digest) for kind, digest in digests.items())
    if not about_image or subjects.keys() != {name}:
        raise BuildError(
            f"{image / name}: not the image that the statement is about", hint="build the image again"
        )
    if not Digest.sha256(files["channels.json"]).equals(statement.ledger):
        raise BuildError(
            f"{image / 'channels.json'}: not the ledger that the statement names",
            hint="build the image again",
        )
