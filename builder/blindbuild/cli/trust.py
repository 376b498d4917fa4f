"""`blindbuild trust`: write the one file that a client is given out of band."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from blindbuild.cli.options import Function, json_option, print_json
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.manifest.trust import MAX_TRUST
from blindbuild.manifest.tuf import MAX_ROOT
from blindbuild.publish import TrustContent, load_public_key, make_trust, replace_trust
from blindbuild.publish.signers import MAX_KEY_FILE

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


def _files(name: str, parameter: str, text: str) -> Callable[[Function], Function]:
    return click.option(name, parameter, multiple=True, type=_file, help=text)


@click.command("trust")
@click.option("--product", help="The recipe's name; with --rotate that of the old file.")
@_files("--release-key", "keys", "Of who may release: a .pub file, or a public key in PEM; repeatable.")
@click.option("--threshold", type=click.IntRange(1, 16), help="How many of them must sign [default: 1].")
@_files("--rebuilder", "rebuilders", "The public key of an independent rebuilder; repeatable.")
@click.option(
    "--rebuilders-needed",
    type=click.IntRange(1, 16),
    help="How many of them must have found the same [default: all].",
)
@click.option("--tuf-root", type=_file, help="root.json of a TUF repository, in place of release keys.")
@click.option("--tuf-repository", metavar="URL", help="Where that repository is.")
@_files("--tpm-root", "roots", "A TPM maker's root certificate, PEM.")
@_files("--tpm-issuer", "issuers", "An issuer below such a root, PEM.")
@_files("--test-tpm-root", "test_roots", "The root of a software TPM, PEM.")
@_files("--test-tpm-issuer", "test_issuers", "Its issuer, PEM.")
@_files("--ak-root", "ak_roots", "The root of who certifies attestation keys, as clouds do, PEM.")
@_files("--ak-issuer", "ak_issuers", "An issuer below such a root, PEM.")
@_files("--attestation-key", "aks", "A pinned AK, TPM2B_PUBLIC.")
@click.option("--rotate", type=_file, help="The trust file that this one takes the place of.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
@json_option
def command(output: Path, rotate: Path | None, as_json: bool, **given: Any) -> None:
    """Write a trust file: whose release keys count, and which TPM makers.

    Hand it to clients on a way you trust; everything else they fetch is checked against it. Roots of software
    TPMs are kept apart: a client believes them only with --allow-test-tpm. A rebuilder builds the image on
    his own and signs with `sign --as-rebuilder`; no release key may be one.

    With --rotate: OUTPUT takes the place of an older trust file, such as one with a lost key in it. Name the
    keys that count from now on; what is not named stays, and clients forget nothing that they accepted.

    Example: blindbuild trust --product hello --release-key release.pub --tpm-root maker.pem -o trust.json;
    blindbuild trust --rotate trust.json --release-key new.pub -o trust-2.json
    """
    old = None if rotate is None else read_bytes(rotate, error=UsageError, limit_bytes=MAX_TRUST)
    product, before = given.pop("product"), None if old is None else parse_trust(old)
    if product is None:
        if before is None:
            raise UsageError("expected --product, the recipe's name, or --rotate")
        product = before.product
    content = _content(product, given)
    data = make_trust(content) if old is None else replace_trust(old, content)
    write_atomically(output, data)
    _report(output, before, parse_trust(data), as_json)


def _content(product: str, given: dict[str, Any]) -> TrustContent:
    root = given["tuf_root"]
    if root is None and given["tuf_repository"] is not None:
        raise UsageError("--tuf-repository belongs to --tuf-root")
    return TrustContent(
        product=product,
        release_keys=_public_keys(given["keys"]),
        threshold=given["threshold"],
        tpm_roots=_texts(given["roots"]),
        tpm_intermediates=_texts(given["issuers"]),
        test_tpm_roots=_texts(given["test_roots"]),
        test_tpm_intermediates=_texts(given["test_issuers"]),
        attestation_keys=[read_bytes(path, error=UsageError) for path in given["aks"]],
        ak_roots=_texts(given["ak_roots"]),
        ak_intermediates=_texts(given["ak_issuers"]),
        rebuilders=_public_keys(given["rebuilders"]),
        rebuilders_needed=given["rebuilders_needed"],
        tuf_root=None if root is None else read_bytes(root, error=UsageError, limit_bytes=MAX_ROOT),
        tuf_repository=given["tuf_repository"],
    )


def _report(output: Path, before: TrustRoots | None, after: TrustRoots, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "trust": str(output),
                "releaseKeys": [key.key_id for key in after.release_keys],
                "threshold": after.threshold,
                "rebuilders": [key.key_id for key in after.rebuilders],
                "rebuildersNeeded": after.rebuilder_threshold,
                "domain": after.domain.hex,
            }
        )
        return
    if before is not None:
        _say_changes("release key", before.release_keys, after.release_keys)
        _say_changes("rebuilder", before.rebuilders, after.rebuilders)
        _say_numbers("release keys", (before.threshold, after.threshold))
        _say_numbers("rebuilders", (before.rebuilder_threshold, after.rebuilder_threshold))
    click.echo(str(output))


def _say_changes(what: str, before: Sequence[SignerKey], after: Sequence[SignerKey]) -> None:
    old, new = ({key.key_id for key in keys} for keys in (before, after))
    for word, ids in (("added", new - old), ("removed", old - new), ("kept", old & new)):
        for key_id in sorted(ids):
            click.echo(f"{what} {word}: {key_id}", err=True)


def _say_numbers(what: str, needed: tuple[int, int]) -> None:
    # fewer keys can mean that fewer are needed: nobody should have to work that out
    if needed[0] != needed[1]:
        click.echo(f"{what} needed: {needed[1]}, before {needed[0]}", err=True)


def _public_keys(paths: Sequence[Path]) -> list[SignerKey]:
    return [load_public_key(read_bytes(path, error=UsageError, limit_bytes=MAX_KEY_FILE)) for path in paths]


def _texts(paths: Sequence[Path]) -> list[str]:
    try:
        return [read_bytes(path, error=UsageError).decode("ascii") for path in paths]
    except UnicodeDecodeError as error:
        raise UsageError("expected certificates in PEM, got bytes that are no ASCII text") from error
