"""`blindbuild sign`: the envelopes over an image's statement and release."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT, check_image
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, UsageError
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import format_time, parse_statement
from blindbuild.publish import SigningKey, load_key, make_release, sign_release, sign_statement

DAY_S = 86400
MAX_KEY = 1 << 16  # bytes; an Ed25519 key in PEM has 120
DEFAULT_DAYS = 90


@click.command("sign")
@click.argument("image", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="From keygen."
)
@click.option(
    "--days", default=DEFAULT_DAYS, type=click.IntRange(1, 3660), show_default=True, help="Validity."
)
@json_option
def command(image: Path, key: Path, days: int, as_json: bool) -> None:
    """Sign what IMAGE's statement says (manifest.dsse.json), and that it is current (release.dsse.json).

    Every file is checked against SHA256SUMS first.

    Example: blindbuild sign images/hello/1.0.0 --key release.key --days 30
    """
    statement, until = sign_image(
        image, load_key(read_bytes(key, error=UsageError, limit_bytes=MAX_KEY)), days=days
    )
    if as_json:
        print_json({"manifest": str(image / MANIFEST), "statementSha256": statement.hex, "validUntil": until})
    else:
        click.echo(f"{image / MANIFEST} over statement {statement.hex}, valid until {until}")


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
