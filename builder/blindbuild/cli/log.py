"""`blindbuild log`: a transparency log as static files, its witnesses, and those who watch it."""

from __future__ import annotations

import click

from blindbuild.cli.verbs import LazyGroup, Verb

LOG_VERBS = {
    "init": Verb("log_append", "Begin an empty log in a directory.", "init_command"),
    "append": Verb("log_append", "Log manifests, and write the proof beside each.", "append_command"),
    "key": Verb("log_append", "Print a key as others name it: a vkey.", "key_command"),
    "verify": Verb("log_verify", "Judge whether a manifest is in the log.", "verify_command"),
    "monitor": Verb(
        "log_monitor", "Tell releases of a product that its owner did not make.", "monitor_command"
    ),
    "witness": Verb("log_witness", "Run a witness: cosign logs that only grow.", "witness_command"),
}


@click.group("log", cls=LazyGroup, verbs=LOG_VERBS)
def command() -> None:
    """Keep, prove and watch a transparency log of releases.

    A release that is in the log was shown to everybody: its owner sees what was released in his name, and
    nobody is served a version of his own. The log is a directory of static files for any web server.

    Example: blindbuild log append log/ images/hello/1.0.0 --key log.key --policy log-policy.txt
    """
