"""`blindbuild keygen`: make a release key, in a file or in a token."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.signing import ask_pin
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.host.files import write_atomically
from blindbuild.publish import (
    KeyFile,
    KeyKind,
    generate_release_key,
    generate_token_key,
    parse_key_uri,
    token_pin,
    write_key_file,
)

PRIVATE_MODE = 0o600


@click.command("keygen")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the private key goes; with --token, what `sign --key` takes in its place.",
)
@click.option(
    "--kind",
    type=click.Choice([kind.value for kind in KeyKind]),
    help="The algorithm [default: ed25519; in a token always p256].",
)
@click.option("--token", metavar="URI", help="Make it in the PKCS#11 token of this pkcs11: URI.")
@json_option
def command(output: Path, kind: str | None, token: str | None, as_json: bool) -> None:
    """Make a release key: OUTPUT (private, mode 0600) and OUTPUT.pub (for the trust file).

    With --token the private key is made in a token, such as an HSM or a smart card, and never leaves it:
    OUTPUT then names token and key, holds no secret, and pins the public key. The PIN comes from pin-source
    in the URI, from BLINDBUILD_PIN, or is asked for.

    Example: blindbuild keygen -o release.key;
    blindbuild keygen --token 'pkcs11:token=releases;object=hello?module-path=/usr/lib/softhsm/libsofthsm2.so'
    -o release.key
    """
    public = output.with_name(output.name + ".pub")
    for path in (output, public):
        if path.exists():
            raise UsageError(f"{path}: there already", hint="choose another name; a key is never overwritten")
    if token is not None and kind not in (None, KeyKind.P256.value):
        raise UsageError("--token makes P-256 keys: expected no other --kind")
    output.parent.mkdir(parents=True, exist_ok=True)
    key = _in_file(output, KeyKind(kind or "ed25519")) if token is None else _in_token(output, token)
    write_atomically(public, key.spki)
    if as_json:
        print_json({"private": str(output), "public": str(public), "keyid": key.key_id})
    else:
        click.echo(key.key_id)


def _in_file(output: Path, kind: KeyKind) -> SignerKey:
    key = generate_release_key(kind)
    write_atomically(output, key.to_pem(), PRIVATE_MODE)
    return key.public


def _in_token(output: Path, token: str) -> SignerKey:
    uri = parse_key_uri(token)
    public = generate_token_key(uri, pin=token_pin(uri, ask_pin))
    write_atomically(output, write_key_file(KeyFile(token, public)))
    return public
