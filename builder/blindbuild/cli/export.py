"""`blindbuild export`: the same reference values, in the formats of other verifiers."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from blindbuild.cli.judging import expect
from blindbuild.cli.options import JudgingOptions, judging_options
from blindbuild.cli.signing import ask_pin
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import write_atomically
from blindbuild.publish.exporters import FORMATS, Exported, ExportRequest, export, verify_release
from blindbuild.publish.signers import open_signer

_LINES = "; ".join(f"{name}: {form.line}" for name, form in FORMATS.items())


@click.command("export")
@click.option("--format", "kind", required=True, type=click.Choice(list(FORMATS)), help=f"{_LINES}.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of stdout.")
@click.option(
    "--platform", metavar="ID", help="Whose registers, for formats that hold those of one platform."
)
@click.option("--key", metavar="REF", help="Signs formats that carry a signature of their own.")
@judging_options
def command(
    kind: str, output: Path | None, platform: str | None, key: str | None, options: JudgingOptions
) -> None:
    """Write a release that you trust in the format of another verifier.

    The release is judged first, as a client judges it before it asks a server, and refused with exit code 3;
    what is written comes from the bytes that were verified. What a format cannot say goes to stderr.

    Example: blindbuild export --format sigstore --manifest images/hello/1.0.0 --trust trust.json -o h.json
    """
    _check_options(kind, platform=platform, key=key)
    release = verify_release(expect(options))
    with contextlib.ExitStack() as stack:
        signer = None if key is None else stack.enter_context(open_signer(key, ask_pin=ask_pin))
        made = export(kind, ExportRequest(release, HashAlgorithm(options.bank), platform, signer))
    _write(made, output)
    for line in (*release.warnings, *made.notes):
        click.echo(f"note: {visible(line)}", err=True)


def _check_options(kind: str, *, platform: str | None, key: str | None) -> None:
    form = FORMATS[kind]
    if platform is not None and not form.of_platform:
        raise UsageError(f"--platform: {kind} holds the whole statement, with all its platforms")
    if form.signed != (key is not None):
        raise UsageError(
            f"{kind}: expected --key, which signs it, got none"
            if form.signed
            else f"--key: {kind} has the release's own signatures"
        )


def _write(made: Exported, output: Path | None) -> None:
    if output is not None:
        write_atomically(output, made.data)
        click.echo(output)
        return
    sys.stdout.buffer.write(made.data)
    sys.stdout.buffer.flush()
