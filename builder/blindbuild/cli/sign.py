"""`blindbuild sign`: the envelopes over an image's statement and release."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import MANIFEST, RELEASE, STATEMENT, check_image
from blindbuild.digest import Digest
from blindbuild.errors import UsageError
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import format_time
from blindbuild.publish import SigningKey, load_key, make_release, sign_release, sign_statement

DAY_S = 86400
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
    statement, until = sign_image(image, load_key(read_bytes(key, error=UsageError)), days=days)
    if as_json:
        print_json({"manifest": str(image / MANIFEST), "statementSha256": statement.hex, "validUntil": until})
    else:
        click.echo(f"{image / MANIFEST} over statement {statement.hex}, valid until {until}")


def sign_image(image: Path, key: SigningKey, *, days: int) -> tuple[Digest, str]:
    """Write both envelopes; return the statement's digest and the end of validity."""
    check_image(image)
    statement = read_bytes(image / STATEMENT, error=UsageError)
    now = unix_time()
    release = make_release(statement, valid_from=now, valid_until=now + days * DAY_S)
    write_atomically(image / RELEASE, sign_release(key, release))
    write_atomically(image / MANIFEST, sign_statement(key, statement))
    return Digest.sha256(statement), format_time(release.valid_until)
