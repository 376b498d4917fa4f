"""The command line: each verb lives in its own file and is imported only when it is called."""

from __future__ import annotations

import os
import sys

import click

from blindbuild import __version__
from blindbuild.cli.verbs import LazyGroup, Verb
from blindbuild.errors import BlindbuildError
from blindbuild.formats.printable import visible

VERBS = {
    "lock": Verb("lock", "Resolve every input to name, version, size and SHA-256."),
    "fetch": Verb("fetch", "Fill the store with every locked input."),
    "build": Verb("build", "Turn a recipe into an image with its expected measurements."),
    "measure": Verb("measure", "Predict what a TPM, SEV, TDX or an enclave will measure."),
    "channels": Verb("channels", "Recompute the channel ledger from an image's outputs, and compare."),
    "eif": Verb("eif", "Write an AWS Nitro Enclave image and its PCRs."),
    "keygen": Verb("keygen", "Make a release key, in a file or in a token."),
    "key": Verb("key", "Show release keys, and pin those of tokens and key services."),
    "trust": Verb("trust", "Write the file that tells a client whom to believe."),
    "sign": Verb("sign", "Sign an image's statement and release, or the image for Secure Boot."),
    "publish": Verb("publish", "Hand a release out: TUF repository, web server, OCI registry."),
    "export": Verb("export", "Write a trusted release in the formats of other verifiers."),
    "log": Verb("log", "Keep, prove and watch a transparency log of releases."),
    "run": Verb("run", "Boot an image in QEMU with OVMF and a software TPM."),
    "verify": Verb("verify", "Judge a running server, or a recorded session."),
    "evidence": Verb("evidence", "Judge saved evidence of SEV-SNP, TDX or a Nitro Enclave."),
    "explain": Verb("explain", "Say in words why registers differ."),
    "call": Verb("call", "Verify a server, then send it a request on the same connection."),
    "proxy": Verb("proxy", "Let any program on this machine talk to a verified server."),
    "demo": Verb("demo", "Everything once: lock, build, sign, boot, verify, ask."),
}
BAD_USAGE = 2
INTERRUPTED = 130


@click.group(cls=LazyGroup, verbs=VERBS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="blindbuild")
def main() -> None:
    """Build, measure and verify stripped, RAM-only images whose operator cannot look inside.

    Start with `blindbuild demo`. Data goes to stdout, everything else to stderr; every verb that reports
    takes --json. Exit codes: 0 done, 1 could not do it, 2 wrong usage, 3 evidence does not match,
    4 it would have been accepted at the time of an offline audit.
    """


def run() -> None:
    """Entry point of the `blindbuild` script."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        # not standalone, click catches its own Exit and returns the code
        code = main.main(prog_name="blindbuild", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return BAD_USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        return INTERRUPTED
    except BlindbuildError as error:
        _show(error)
        return error.exit_code
    return code if isinstance(code, int) else 0


def _show(error: BlindbuildError) -> None:
    # a message may quote a server; only the indentation of its further lines tells them from ours
    first, *more = error.message.split("\n")
    _say(f"{click.style('error:', fg='red', bold=True)} {visible(first)}")
    for line in more:
        _say(f"  {visible(line)}")
    for line in error.hint.split("\n") if error.hint else ():
        _say(f"{click.style('hint:', fg='cyan')} {visible(line)}")


def _say(line: str) -> None:
    # https://no-color.org: present and not empty, whatever its value
    click.echo(line, err=True, color=False if os.environ.get("NO_COLOR") else None)
