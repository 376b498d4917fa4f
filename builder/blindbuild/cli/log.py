"""`blindbuild log`: a transparency log as static files, its witnesses, and those who watch it."""

from __future__ import annotations

import importlib

import click

# verb -> (module below blindbuild.cli, its command, one line of help); imported only when it is called
LOG_VERBS = {
    "init": ("log_append", "init_command", "Begin an empty log in a directory."),
    "append": ("log_append", "append_command", "Log manifests, and write the proof beside each."),
    "key": ("log_append", "key_command", "Print a key as others name it: a vkey."),
    "verify": ("log_verify", "verify_command", "Judge whether a manifest is in the log."),
    "monitor": ("log_monitor", "monitor_command", "Tell releases of a product that its owner did not make."),
    "witness": ("log_witness", "witness_command", "Run a witness: cosign logs that only grow."),
}


class LogGroup(click.Group):
    """The verbs of `log`, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order in which a log's owner meets them."""
        return list(LOG_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command."""
        if cmd_name not in LOG_VERBS:
            return None
        module, name, _line = LOG_VERBS[cmd_name]
        found = getattr(importlib.import_module(f"blindbuild.cli.{module}"), name)
        if not isinstance(found, click.Command):
            raise TypeError(f"blindbuild.cli.{module} has no {name}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_module, _name, line) in LOG_VERBS.items()])


@click.group("log", cls=LogGroup)
def command() -> None:
    """Keep, prove and watch a transparency log of releases.

    A release that is in the log was shown to everybody: its owner sees what was released in his name, and
    nobody is served a version of his own. The log is a directory of static files for any web server.

    Example: blindbuild log append log/ images/hello/1.0.0 --key log.key --policy log-policy.txt
    """
