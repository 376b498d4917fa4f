"""`blindbuild key`: look at release keys, and pin those that a token or a service holds."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.signing import ask_pin
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.publish import (
    KeyFile,
    check_signer,
    load_public_key,
    open_signer,
    read_public,
    require_uri,
    write_key_file,
)

MAX_PUBLIC = 1 << 14  # bytes; a public key in PEM has 180


@click.group("key")
def command() -> None:
    """Look at release keys, and pin those that a token or a key service holds.

    Example: blindbuild key show release.key
    """


@command.command("show")
@click.argument("reference", metavar="REF")
@json_option
def show(reference: str, as_json: bool) -> None:
    """Print the key id of a key: a .pub file, a private key, a key file, or a pkcs11: URI.

    The key id is SHA-256 of the public key; two people can read it to each other. A token is asked for its
    public key, and for its PIN.

    Example: blindbuild key show release.key.pub
    """
    public = read_public(reference, ask_pin=ask_pin)
    if as_json:
        kind = "p256" if public.is_p256 else "ed25519"
        print_json({"keyid": public.key_id, "kind": kind})
    else:
        click.echo(public.key_id)


@command.command("pin")
@click.argument("uri")
@click.option(
    "--public",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The public key, PEM or DER, as the service's own tool exports it; a token may give it itself.",
)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@click.option("--no-check", is_flag=True, help="Do not have a test message signed.")
@json_option
def pin(uri: str, public: Path | None, output: Path, no_check: bool, as_json: bool) -> None:
    """Write a key file: which key of a token or service is meant, and its public key.

    `sign --key OUTPUT` then signs with it, and refuses an answer by any other key. URI is pkcs11:, or one of
    securesystemslib: awskms:, azurekms:, gcpkms:, hv:, hsm:. To learn whether both belong together, a message
    that vouches for nothing is signed. OUTPUT holds no secret; OUTPUT.pub is for the trust file.

    Example: blindbuild key pin awskms:alias/releases --public releases.pem -o release.key
    """
    require_uri(uri)
    target = output.with_name(output.name + ".pub")
    for path in (output, target):
        if path.exists():
            raise UsageError(f"{path}: there already", hint="choose another name")
    key = _pinned(uri, public, check=not no_check)
    write_atomically(output, write_key_file(KeyFile(uri, key)))
    write_atomically(target, key.spki)
    if as_json:
        print_json({"key": str(output), "public": str(target), "keyid": key.key_id})
    else:
        click.echo(key.key_id)


def _pinned(uri: str, public: Path | None, *, check: bool) -> SignerKey:
    known = None
    if public is not None:
        known = load_public_key(read_bytes(public, error=UsageError, limit_bytes=MAX_PUBLIC))
        if not check:
            return known
    with open_signer(uri, ask_pin=ask_pin, public=known) as signer:
        if check:
            check_signer(signer)
        return signer.public
