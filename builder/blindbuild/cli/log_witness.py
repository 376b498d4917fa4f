"""`blindbuild log witness`: cosign logs that only grow."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import click

from blindbuild.cli.log_options import load_signing_key
from blindbuild.client.web import Answer
from blindbuild.errors import UsageError
from blindbuild.formats.note import ED25519, parse_vkey
from blindbuild.host.clock import unix_time
from blindbuild.host.http_server import Handle, serve
from blindbuild.publish.witness import MAX_REQUEST, Witness, WitnessKey

_LISTEN = re.compile(r"(?P<host>[0-9A-Za-z.-]+|\[[0-9A-Fa-f:]+\]):(?P<port>[0-9]{1,5})")
_CHECKPOINT = re.compile(r"/([0-9a-f]{64})/checkpoint")
_STOP = frozenset({signal.SIGINT, signal.SIGTERM})
_NOT_FOUND = Answer(404, "text/plain", b"not found\n")


@click.command("witness")
@click.option(
    "--key", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path), help="From keygen."
)
@click.option("--name", required=True, help="The witness's name, as policies have it.")
@click.option("--log", "logs", required=True, multiple=True, help="The vkey of a log; repeatable.")
@click.option(
    "--state",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="What it cosigned last. Never restore it from a backup: ask it to start anew under another name.",
)
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
def witness_command(key: Path, name: str, logs: tuple[str, ...], state: Path, listen: str) -> None:
    """Run a witness: it cosigns a log's checkpoint only if the log grew from what it cosigned before.

    It speaks C2SP tlog-witness over plain HTTP; put a web server with TLS before it. The first line on stdout
    is its address. It runs until it is stopped.

    Example: blindbuild log witness --key w.key --name w.example.org --log VKEY --state witness/
    """
    keys = [parse_vkey(text) for text in logs]
    if any(log.kind != ED25519 for log in keys):
        raise UsageError("expected keys of logs, of type 0x01")
    found = _LISTEN.fullmatch(listen)
    if found is None or int(found["port"]) > 65535:
        raise UsageError(f"expected HOST:PORT, got {listen[:80]!r}")
    witness_key = WitnessKey.of(name, load_signing_key(key))
    witness = Witness(state, witness_key, keys, clock=unix_time)
    for origin in witness.begin():
        click.echo(f"first use of {origin}: what it shows first is believed", err=True)
    click.echo(f"key {witness_key.key.text}", err=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOP)  # in every thread, so that sigwait gets it
    with serve(
        found["host"].strip("[]"), int(found["port"]), route(witness), max_body=MAX_REQUEST
    ) as address:
        click.echo(address)
        signal.sigwait(_STOP)


def route(witness: Witness) -> Handle:
    """Return what answers the requests of a witness."""

    def handle(method: str, path: str, body: bytes) -> Answer:
        if method == "POST" and path == "/add-checkpoint":
            return witness.add_checkpoint(body)
        found = _CHECKPOINT.fullmatch(path)
        if method == "GET" and found is not None:
            return witness.latest(found[1])
        return _NOT_FOUND

    return handle
