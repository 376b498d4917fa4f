"""`blindbuild run`: boot an image and say where it answers."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from blindbuild.cli.attacking import ALL, play_on_image, show_report
from blindbuild.cli.booting import DEFAULT_MEMORY_MIB, BootOptions, booted, configure_machine
from blindbuild.cli.options import json_option, print_json, user_store
from blindbuild.cli.outputs import STATEMENT, check_image
from blindbuild.cli.render import TerminalReporter
from blindbuild.cli.variants import build_variant
from blindbuild.errors import UsageError
from blindbuild.host.files import temporary_directory
from blindbuild.host.reporter import Reporter
from blindbuild.machine.accelerator import Preference
from blindbuild.machine.attack import ATTACKS, find_attack
from blindbuild.machine.attack_model import AttackInputs, BootAttack
from blindbuild.machine.config import MachineConfig
from blindbuild.manifest import parse_statement

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
@click.option(
    "--attack",
    type=click.Choice([ALL, *ATTACKS]),
    metavar="NAME|all",
    help="Play the operator, judge what comes of it, and end: docs/attacks.md lists the names.",
)
@click.option("--stay", is_flag=True, help="With an attack on the boot: leave the machine to your client.")
@click.option(
    "--hostile",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The recipe's probe image, for the attack from inside.",
)
@click.option(
    "--recipe",
    type=click.Path(exists=True, path_type=Path),
    help="With --attack: build the probe image from this.",
)
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
    attack: str | None,
    stay: bool,
    hostile: Path | None,
    recipe: Path | None,
    smbios: tuple[str, ...],
    state: Path | None,
    as_json: bool,
) -> None:
    """Boot IMAGE in QEMU with OVMF and a software TPM; print its address when the gate answers.

    Runs until the guest powers off or you press Ctrl-C; then nothing of it is left. The TPM is endorsed by an
    authority of your own (for `trust --test-tpm-root`): good for tests, proof of nothing to others.

    With --attack it plays the operator instead, has a client judge each attack by IMAGE's own statement, and
    ends: with exit code 0 only if every attack ended as it must, which for some is that it succeeds here.

    Example: blindbuild run images/hello/1.0.0 --attack all --recipe recipes/hello
    """
    if attack is None and (hostile is not None or recipe is not None):
        raise UsageError("--hostile and --recipe belong to --attack")
    options = BootOptions(memory_mib=memory, port=port, accelerator=accelerator, smbios=smbios, state=state)
    config = configure_machine(image, store=user_store(), options=options)
    if attack is None or stay:
        _run(config, attack, as_json=as_json)
        return
    with TerminalReporter() as reporter, temporary_directory() as directory:
        if hostile is None and recipe is not None:
            hostile = _build_hostile(image, recipe, directory, reporter)
        inside = None if hostile is None else configure_machine(hostile, store=user_store(), options=options)
        report = play_on_image(image, attack, config=config, hostile=inside, reporter=reporter)
    show_report(report, as_json=as_json)


def _build_hostile(image: Path, recipe: Path, directory: Path, reporter: Reporter) -> Path:
    statement = parse_statement(check_image(image)[STATEMENT])
    return build_variant(
        "probe", recipe, beside=statement, store=user_store(), build_in=directory, reporter=reporter
    )


def _run(config: MachineConfig, attack: str | None, *, as_json: bool) -> None:
    """Boot until the guest or the user ends it."""
    with contextlib.ExitStack() as stack:
        reporter = stack.enter_context(TerminalReporter())
        if attack is not None:
            config = _attacked(attack, config, stack.enter_context(temporary_directory()), reporter)
        machine = stack.enter_context(booted(config, reporter=reporter))
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


def _attacked(name: str, config: MachineConfig, directory: Path, reporter: Reporter) -> MachineConfig:
    attack = None if name == ALL else find_attack(name)
    if not isinstance(attack, BootAttack):
        raise UsageError(f"--stay: expected an attack on the boot, got {name}")
    reporter.note(f"the operator {attack.summary}; expected: {attack.outcome.value}")
    return attack.apply(config, AttackInputs(directory))
