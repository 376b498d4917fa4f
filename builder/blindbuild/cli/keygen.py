"""`blindbuild keygen`: make a release key."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.errors import UsageError
from blindbuild.host.files import write_atomically
from blindbuild.publish import generate_key

PRIVATE_MODE = 0o600


@click.command("keygen")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the private key goes.",
)
@json_option
def command(output: Path, as_json: bool) -> None:
    """Make an Ed25519 release key: OUTPUT (private, mode 0600) and OUTPUT.pub (for the trust file).

    Example: blindbuild keygen -o release.key
    """
    if output.exists():
        raise UsageError(f"{output}: there already", hint="choose another name; a key is never overwritten")
    output.parent.mkdir(parents=True, exist_ok=True)
    key = generate_key()
    write_atomically(output, key.to_pem(), PRIVATE_MODE)
    write_atomically(output.with_name(output.name + ".pub"), key.public.spki)
    if as_json:
        print_json({"private": str(output), "public": f"{output}.pub", "keyid": key.public.key_id})
    else:
        click.echo(key.public.key_id)
