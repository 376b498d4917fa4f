"""`blindbuild run`: boot an image and say where it answers."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.booting import DEFAULT_MEMORY_MIB, BootOptions, booted, configure_machine
from blindbuild.cli.options import json_option, print_json, user_store
from blindbuild.cli.render import TerminalReporter
from blindbuild.machine.accelerator import Preference

WAIT_S = 3600.0 * 24 * 365


@click.command("run")
@click.argument("image", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-p", "--port", default=0, type=click.IntRange(0, 65535), help="Port on 127.0.0.1 [default: a free one]."
)
@click.option(
    "-m",
    "--memory",
    default=DEFAULT_MEMORY_MIB,
    type=click.IntRange(128, 1 << 20),
    show_default=True,
    help="MiB of RAM.",
)
@click.option("--accelerator", default="auto", type=click.Choice(["auto", "kvm", "tcg"]), show_default=True)
@click.option("--smbios", multiple=True, metavar="TEXT", help="Play the operator: an SMBIOS type 11 string.")
@click.option(
    "--state", type=click.Path(file_okay=False, path_type=Path), help="Keep logs, capture and TPM state here."
)
@json_option
def command(
    image: Path,
    port: int,
    memory: int,
    accelerator: Preference,
    smbios: tuple[str, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Boot IMAGE in QEMU with OVMF and a software TPM; print its address when the gate answers.

    Runs until the guest powers off or you press Ctrl-C; then nothing of it is left. The TPM is endorsed by an
    authority of your own (for `trust --test-tpm-root`): good for tests, proof of nothing to others.

    Example: blindbuild run images/hello/1.0.0 --port 8443
    """
    options = BootOptions(memory_mib=memory, port=port, accelerator=accelerator, smbios=smbios, state=state)
    config = configure_machine(image, store=user_store(), options=options)
    with TerminalReporter() as reporter, booted(config, reporter=reporter) as machine:
        if as_json:
            roots = {
                "testTpmRoot": machine.authority.root_certificate.decode(),
                "testTpmIssuer": machine.authority.issuer_certificate.decode(),
            }
            print_json({"url": machine.url, "accelerator": machine.accelerator.name, **roots})
        else:
            click.echo(machine.url)
        reporter.note("press Ctrl-C to stop")
        reporter.note(machine.wait_until_ended(WAIT_S))
