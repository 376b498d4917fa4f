"""The command line: each verb lives in its own file and is imported only when it is called."""

from __future__ import annotations

import importlib
import os
import sys

import click

from blindbuild import __version__
from blindbuild.errors import BlindbuildError
from blindbuild.formats.printable import visible

# verb -> (module below blindbuild.cli, one line of help); the lines stand here so that --help imports no verb
VERBS = {
    "lock": ("lock", "Resolve every input to name, version, size and SHA-256."),
    "fetch": ("fetch", "Fill the store with every locked input."),
    "build": ("build", "Turn a recipe into an image with its expected measurements."),
    "measure": ("measure", "Predict what a TPM, SEV, TDX or an enclave will measure."),
    "channels": ("channels", "Recompute the channel ledger from an image's outputs, and compare."),
    "eif": ("eif", "Write an AWS Nitro Enclave image and its PCRs."),
    "keygen": ("keygen", "Make a release key, in a file or in a token."),
    "key": ("key", "Show release keys, and pin those of tokens and key services."),
    "trust": ("trust", "Write the file that tells a client whom to believe."),
    "sign": ("sign", "Sign an image's statement and release, or the image for Secure Boot."),
    "publish": ("publish", "Hand a release out: TUF repository, web server, OCI registry."),
    "export": ("export", "Write a trusted release in the formats of other verifiers."),
    "log": ("log", "Keep, prove and watch a transparency log of releases."),
    "run": ("run", "Boot an image in QEMU with OVMF and a software TPM."),
    "verify": ("verify", "Judge a running server, or a recorded session."),
    "evidence": ("evidence", "Judge saved evidence of SEV-SNP, TDX or a Nitro Enclave."),
    "explain": ("explain", "Say in words why registers differ."),
    "call": ("call", "Verify a server, then send it a request on the same connection."),
    "proxy": ("proxy", "Let any program on this machine talk to a verified server."),
    "demo": ("demo", "Everything once: lock, build, sign, boot, verify, ask."),
}
BAD_USAGE = 2
INTERRUPTED = 130


class VerbGroup(click.Group):
    """A group that knows its verbs by name and imports one only to run it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which a release engineer meets them."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command."""
        if cmd_name not in VERBS:
            return None
        module = importlib.import_module(f"blindbuild.cli.{VERBS[cmd_name][0]}")
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"blindbuild.cli.{cmd_name} has no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_module, line) in VERBS.items()])


@click.group(cls=VerbGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
