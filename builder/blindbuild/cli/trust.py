"""`blindbuild trust`: write the one file that a client is given out of band."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.errors import UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.publish import TrustContent, make_trust

_file = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("trust")
@click.option("--product", required=True, help="The recipe's name.")
@click.option(
    "--release-key", "keys", required=True, multiple=True, type=_file, help="A .pub file; repeatable."
)
@click.option("--threshold", default=1, type=click.IntRange(1, 16), show_default=True)
@click.option("--tpm-root", "roots", multiple=True, type=_file, help="A TPM maker's root certificate, PEM.")
@click.option("--tpm-issuer", "issuers", multiple=True, type=_file, help="An issuer below such a root, PEM.")
@click.option(
    "--test-tpm-root", "test_roots", multiple=True, type=_file, help="The root of a software TPM, PEM."
)
@click.option("--test-tpm-issuer", "test_issuers", multiple=True, type=_file, help="Its issuer, PEM.")
@click.option("--ak-root", "ak_roots", multiple=True, type=_file, help="The root of who certifies AKs, PEM.")
@click.option("--ak-issuer", "ak_issuers", multiple=True, type=_file, help="An issuer below it, PEM.")
@click.option("--attestation-key", "aks", multiple=True, type=_file, help="A pinned AK, TPM2B_PUBLIC.")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path))
def command(
    product: str,
    keys: tuple[Path, ...],
    threshold: int,
    roots: tuple[Path, ...],
    issuers: tuple[Path, ...],
    test_roots: tuple[Path, ...],
    test_issuers: tuple[Path, ...],
    ak_roots: tuple[Path, ...],
    ak_issuers: tuple[Path, ...],
    aks: tuple[Path, ...],
    output: Path,
) -> None:
    """Write a trust file: whose release keys count, and which TPM makers.

    Hand it to clients on a way you trust; everything else they fetch is checked against it. Roots of software
    TPMs are kept apart: a client believes them only with --allow-test-tpm.

    Example: blindbuild trust --product hello --release-key release.key.pub --tpm-root maker.pem -o trust.json
    """
    content = TrustContent(
        product=product,
        release_keys=[SignerKey.from_spki(read_bytes(path, error=UsageError)) for path in keys],
        threshold=threshold,
        tpm_roots=_texts(roots),
        tpm_intermediates=_texts(issuers),
        test_tpm_roots=_texts(test_roots),
        test_tpm_intermediates=_texts(test_issuers),
        ak_roots=_texts(ak_roots),
        ak_intermediates=_texts(ak_issuers),
        attestation_keys=[read_bytes(path, error=UsageError) for path in aks],
    )
    write_atomically(output, make_trust(content))
    click.echo(str(output))


def _texts(paths: tuple[Path, ...]) -> list[str]:
    try:
        return [read_bytes(path, error=UsageError).decode("ascii") for path in paths]
    except UnicodeDecodeError as error:
        raise UsageError("expected certificates in PEM, got bytes that are no ASCII text") from error
