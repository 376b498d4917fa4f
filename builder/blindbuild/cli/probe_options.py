"""The options of `channels --probe`, and what it does with them; what boots is imported only then."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any, cast

import click

from blindbuild.cli.options import Function, print_json, user_store
from blindbuild.errors import UsageError, VerificationError
from blindbuild.formats.canonical import parse_json
from blindbuild.host.clock import unix_time
from blindbuild.host.files import temporary_directory, write_atomically
from blindbuild.machine.accelerator import Preference
from blindbuild.manifest import format_time
from blindbuild.manifest.probe import MAX_PROBE, Probe, Verdict, probe_bytes

_DIRECTORY = click.Path(exists=True, file_okay=False, path_type=Path)


@dataclasses.dataclass(frozen=True, slots=True)
class ProbeArguments:
    """What was asked for, as the command line says it."""

    key: str | None = None
    recipe: Path | None = None
    hostile: Path | None = None
    control: Path | None = None
    page: Path | None = None
    accelerator: Preference | None = None

    def require_probe(self, probe: bool) -> None:
        """Refuse options that would silently do nothing."""
        given = [name for name in dataclasses.asdict(self) if getattr(self, name) is not None]
        if given and not probe:
            raise UsageError(f"--{given[0]} belongs to --probe")


_OPTIONS = (
    click.option("--key", metavar="REF", help="Sign probe.json, too: a release key, as `sign` takes it."),
    click.option(
        "--recipe", type=click.Path(exists=True, path_type=Path), help="Build the control images from this."
    ),
    click.option("--hostile", type=_DIRECTORY, help="The image of variant probe, if it is built already."),
    click.option("--control", type=_DIRECTORY, help="The image of variant leaky, if it is built already."),
    click.option(
        "--page", type=click.Path(dir_okay=False, path_type=Path), help="Write a page for people here."
    ),
    click.option(
        "--accelerator", type=click.Choice(["auto", "kvm", "tcg"]), help="Of --probe [default: auto]."
    ),
)


def probe_options(function: Function) -> Function:
    """What a probe is told; arrives as one ProbeArguments named `options`."""

    @functools.wraps(function)
    def wrapped(**values: Any) -> None:
        names = [field.name for field in dataclasses.fields(ProbeArguments)]
        options = ProbeArguments(**{name: values.pop(name) for name in names})
        function(**values, options=options)

    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return cast("Function", wrapped)


def run_probe(image: Path, arguments: ProbeArguments, *, as_json: bool) -> None:
    """Probe an image, write what was seen beside it, and print it.

    Raises:
        VerificationError: a check that an image can satisfy is open, or not proven.
    """
    # the static half, and --help, need none of these
    from blindbuild.cli.probe_table import print_probe, render_page
    from blindbuild.cli.probing import ProbeOptions, probe_image, write_probe
    from blindbuild.cli.render import TerminalReporter
    from blindbuild.cli.signing import ask_pin
    from blindbuild.publish import check_signer, open_signer

    options = ProbeOptions(
        hostile=arguments.hostile,
        control=arguments.control,
        recipe=arguments.recipe,
        accelerator=arguments.accelerator or "auto",
    )
    with contextlib.ExitStack() as stack:
        key = None
        if arguments.key is not None:  # first: what cannot sign is not told of after minutes
            key = stack.enter_context(open_signer(arguments.key, ask_pin=ask_pin))
            check_signer(key)
        with TerminalReporter() as reporter, temporary_directory() as directory:
            probe = probe_image(
                image, options, store=user_store(), build_in=directory / "images", reporter=reporter
            )
        write_probe(probe, image, key=key)
    if arguments.page is not None:
        write_atomically(arguments.page, render_page(probe, date=format_time(unix_time())[:10]).encode())
    if as_json:
        print_json(cast("dict[str, object]", parse_json(probe_bytes(probe), max_bytes=MAX_PROBE)))
    else:
        print_probe(probe)
    require_shown(probe, image)


def require_shown(probe: Probe, image: Path) -> None:
    """Raise unless every check that an image can satisfy is shown.

    Raises:
        VerificationError: some are not; all are named.
    """
    failed = [check for check in probe.checks if check.closable and check.verdict is not Verdict.SHOWN]
    if failed:
        lines = [
            f"{check.name} is {check.verdict.value}: {(*check.findings, *check.reasons)[0]}"
            for check in failed
        ]
        raise VerificationError(
            f"{image}: {len(failed)} checks are not shown:\n" + "\n".join(lines),
            step="L2",
            reason="probe-not-shown",
            hint="probe with --recipe, so that each check has its control",
        )
