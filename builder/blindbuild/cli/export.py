"""`blindbuild export`: the same reference values, in the formats of other verifiers."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import click

from blindbuild.cli.judging import expect
from blindbuild.cli.options import JudgingOptions, judging_options
from blindbuild.cli.signing import ask_pin
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.publish.exporters import (
    FORMATS,
    Exported,
    ExportRequest,
    SignedBy,
    export,
    verify_release,
)
from blindbuild.publish.policy_key import MAX_KEY, load_policy_key
from blindbuild.publish.signers import open_signer

_LINES = "; ".join(f"{name}: {form.line}" for name, form in FORMATS.items())


@click.command("export")
@click.option("--format", "kind", required=True, type=click.Choice(list(FORMATS)), help=f"{_LINES}.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Instead of stdout.")
@click.option(
    "--platform", metavar="ID", help="Whose registers, for formats that hold those of one platform."
)
@click.option(
    "--key", metavar="REF", help="Signs corim (as a release key does) and pcrsig (a PEM file, RSA)."
)
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
    request = ExportRequest(release, HashAlgorithm(options.bank), platform)
    with contextlib.ExitStack() as stack:
        made = export(kind, request if key is None else _with_key(request, kind, key, stack))
    _write(made, output)
    for line in (*release.warnings, *made.notes):
        click.echo(f"note: {visible(line)}", err=True)


def _with_key(request: ExportRequest, kind: str, key: str, stack: contextlib.ExitStack) -> ExportRequest:
    if FORMATS[kind].signed_by is SignedBy.RSA_KEY:
        pem = read_bytes(Path(key), error=UsageError, limit_bytes=MAX_KEY)
        return replace(request, policy_key=load_policy_key(pem))
    return replace(request, signer=stack.enter_context(open_signer(key, ask_pin=ask_pin)))


def _check_options(kind: str, *, platform: str | None, key: str | None) -> None:
    form = FORMATS[kind]
    if platform is not None and not form.of_platform:
        raise UsageError(f"--platform: {kind} holds the whole statement, with all its platforms")
    if form.signed_by is not None and key is None:
        raise UsageError(f"{kind}: expected --key with {form.signed_by.value}, which signs it, got none")
    if form.signed_by is None and key is not None:
        raise UsageError(f"--key: {kind} has no signature of its own")


def _write(made: Exported, output: Path | None) -> None:
    if output is not None:
        write_atomically(output, made.data)
        click.echo(output)
        return
    sys.stdout.buffer.write(made.data)
    sys.stdout.buffer.flush()
