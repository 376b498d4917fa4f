"""`blindbuild call`: curl for attested servers."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from blindbuild.cli.judging import expect, show_appraisal
from blindbuild.cli.options import JudgingOptions, judging_options
from blindbuild.client import attest
from blindbuild.errors import UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import read_bytes


@click.command("call")
@click.argument("url")
@click.option("-d", "--data", default="", help="The request's body; @FILE reads it from a file.")
@click.option("-v", "--verbose", is_flag=True, help="Show every step and register on stderr.")
@judging_options
def command(url: str, data: str, verbose: bool, options: JudgingOptions) -> None:
    """Verify the server of URL, then POST a body on the very connection that was judged.

    Nothing of the body is sent before the verdict, and nothing on another connection. The answer goes to
    stdout as it came.

    Example: blindbuild call https://host/v1/hello -d Ada --manifest images/hello/1.0.0 --trust trust.json
    """
    server, path = split_url(url)
    body = read_body(data)
    attempt = attest(server, expect(options))
    if verbose or not attempt.appraisal.verdict:
        show_appraisal(attempt.appraisal, bank=options.bank, to_stderr=True)
    with attempt.accept() as connection:
        for warning in connection.session.warnings:
            if not verbose:
                click.echo(f"warning: {visible(warning)}", err=True)
        answer = connection.post(path, body)
    sys.stdout.buffer.write(answer)
    sys.stdout.buffer.flush()


def split_url(url: str) -> tuple[str, str]:
    """Return the server's address and the path on it."""
    scheme, separator, rest = url.partition("://")
    server, _, path = rest.partition("/")
    # http is for images whose requests are sealed; the client refuses it for all others
    if scheme not in ("https", "http") or not separator or not server or "?" in url or "#" in url:
        raise UsageError(f"expected an address like https://host:port/v1/name, got {url}")
    return f"{scheme}://{server}", f"/{path}"


def read_body(data: str) -> bytes:
    """Return the body that -d names."""
    if data.startswith("@"):
        return read_bytes(Path(data[1:]), error=UsageError)
    return data.encode()
