"""`blindbuild channels`: the static half of the channel ledger, recomputed from an image's outputs alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click

from blindbuild.assemble.kernel_policy import load_policy
from blindbuild.audit.channels import Allowance, Ledger, LedgerInputs, Row, Waiver, compute_ledger
from blindbuild.audit.image import UnpackedImage, unpack_image
from blindbuild.audit.programs import read_programs
from blindbuild.audit.python_imports import PythonFile, find_network_imports
from blindbuild.audit.telemetry import find_telemetry
from blindbuild.cli.channel_remarks import python_json, python_remarks, telemetry_remarks
from blindbuild.cli.naming import reading
from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import STATEMENT
from blindbuild.cli.probe_options import ProbeArguments, probe_options, run_probe
from blindbuild.cli.render import ChannelLine, output_console, print_channels, print_remarks
from blindbuild.digest import Digest
from blindbuild.errors import FormatError, UsageError, VerificationError
from blindbuild.formats.canonical import JsonValue, parse_canonical
from blindbuild.host.files import read_bytes
from blindbuild.manifest import Statement, parse_statement
from blindbuild.manifest.ledger import MAX_LEDGER

LEDGER, CONFIG, SYSTEM_MAP = "channels.json", "kernel.config", "System.map"
MAX_TEXT = 64 << 20  # bytes; the System.map of a distribution's kernel has 10 MB
_FIELDS = frozenset({"path", "what", "control"})


@dataclass(frozen=True, slots=True)
class _Image:
    """What an image directory promises and holds."""

    statement: Statement
    uki: bytes
    published: bytes
    debug: bool
    waivers: tuple[Waiver, ...]
    allowed: tuple[Allowance, ...]
    config: str
    system_map: str


@click.command("channels")
@click.argument("image", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--probe", is_flag=True, help="Boot it with bait around it, and look at all it shows.")
@probe_options
@json_option
def command(image: Path, probe: bool, options: ProbeArguments, as_json: bool) -> None:
    """Recompute channels.json of an image directory from kernel.config, System.map and NAME.efi.

    Exit code 3 if it differs from the published ledger, if that is not the one that the statement names, if
    the boot image is another one, or if a channel is open that should be closed. What no image can close
    stands first, then what the recipe leaves open. That kernel.config and System.map are of the kernel in the
    image is shown by rebuilding it.

    With --probe instead: probe.json, what the machine was seen to do over boot, idle, load and crash, each
    check with an image that leaks as its control (docs/spec/probe.md). Exit code 3 if a check that an image
    can satisfy is open or not proven. --recipe builds the control images.

    Example: blindbuild channels images/hello/1.0.0;
    blindbuild channels images/hello/1.0.0 --probe --recipe recipes/hello --key release.key
    """
    options.require_probe(probe)
    if probe:
        run_probe(image, options, as_json=as_json)
        return
    loaded = _load(image)
    inputs = LedgerInputs(
        config=loaded.config,
        policy=load_policy(debug=loaded.debug),
        system_map=loaded.system_map,
        uki=loaded.uki,
        debug=loaded.debug,
        waivers=loaded.waivers,
        allowed=loaded.allowed,
    )
    with reading(image):
        ledger = compute_ledger(loaded.statement.name, loaded.statement.version, inputs)
        unpacked = unpack_image(loaded.uki)
    python = find_network_imports(unpacked)
    differences = tuple(_compare(loaded, ledger))
    if as_json:
        recomputed = Digest.sha256(ledger.render()).hex
        told: dict[str, JsonValue] = {"sha256": recomputed, "differences": list(differences)}
        print_json({"ledger": ledger.document, "python": python_json(python), **told})
    else:
        _print(ledger, unpacked, python)
    if differences:
        raise VerificationError(
            f"{image}: {len(differences)} differences:\n" + "\n".join(differences),
            step="L1",
            reason="ledger-differs",
            hint="rebuild the image from its lock; what comes out has to be these bytes",
        )


def _print(ledger: Ledger, image: UnpackedImage, python: Sequence[PythonFile]) -> None:
    console = output_console()
    print_channels([_line(row) for row in ledger.rows], console=console)
    found = find_telemetry(image, read_programs(image))
    print_remarks("Packages that report home", telemetry_remarks(found, ledger), console=console)
    print_remarks("Python that could use a network", python_remarks(python), console=console)


def _load(image: Path) -> _Image:
    path = image / STATEMENT
    with reading(path):
        statement = parse_statement(
            read_bytes(path, error=UsageError, hint="name an image directory", limit_bytes=MAX_TEXT)
        )
    published = read_bytes(image / LEDGER, error=UsageError, limit_bytes=MAX_LEDGER)
    with reading(image / LEDGER):
        debug, waivers, allowed = _read_declared(published)
    return _Image(
        statement=statement,
        uki=read_bytes(image / f"{statement.name}.efi", error=UsageError),
        published=published,
        debug=debug,
        waivers=waivers,
        allowed=allowed,
        config=_read_text(image / CONFIG),
        system_map=_read_text(image / SYSTEM_MAP),
    )


def _read_text(path: Path) -> str:
    try:
        return read_bytes(path, error=UsageError, limit_bytes=MAX_TEXT).decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path}: expected ASCII text, got other bytes") from error


def _read_declared(published: bytes) -> tuple[bool, tuple[Waiver, ...], tuple[Allowance, ...]]:
    """Return what the ledger declares and no output shows: if it is a debug image's, waivers, allowances."""
    document = parse_canonical(published, max_bytes=MAX_LEDGER)
    if not isinstance(document, dict) or not isinstance(debug := document.get("debug"), bool):
        raise FormatError("expected an object with a field debug")
    listed = document.get("waivers")
    if not isinstance(listed, list) or not all(map(_is_waiver, listed)):
        raise FormatError("expected a list of waivers, each with path, what and control")
    rows = _rows_by_id(document.get("channels"))
    allowed = [
        name for name, row in rows.items() if isinstance(row, dict) and row.get("allowedByRecipe") is True
    ]
    waivers = tuple(Waiver(**cast("dict[str, str]", item)) for item in listed)
    return debug, waivers, tuple(Allowance(name) for name in allowed)


def _is_waiver(item: JsonValue) -> bool:
    return (
        isinstance(item, dict) and item.keys() == _FIELDS and all(isinstance(v, str) for v in item.values())
    )


def _compare(loaded: _Image, ledger: Ledger) -> Iterator[str]:
    statement = loaded.statement
    subjects = {subject.name: subject.digests for subject in statement.subjects}
    digests = subjects.get(f"{statement.name}.efi", {})
    if not digests or not all(Digest.of(kind, loaded.uki).equals(value) for kind, value in digests.items()):
        yield f"{statement.name}.efi is not the image that the statement is about"
    if not Digest.sha256(loaded.published).equals(statement.ledger):
        yield f"{LEDGER} is not the ledger that the statement names"
    if loaded.debug and not statement.debug:
        yield f"{LEDGER} is of a debug image, and the statement says that it is none"
    if not loaded.debug:
        yield from ledger.undeclared
    if ledger.render() != loaded.published:
        parts = tuple(_differing_parts(loaded.published, ledger.document))
        # a row twice, null for nothing, true for 1: equal as values, and another ledger all the same
        yield from parts or (f"{LEDGER}: not the bytes that the outputs give",)


def _differing_parts(published: bytes, recomputed: Mapping[str, JsonValue]) -> Iterator[str]:
    document = cast("dict[str, JsonValue]", parse_canonical(published, max_bytes=MAX_LEDGER))
    for key in sorted({*document, *recomputed} - {"channels"}):
        if document.get(key) != recomputed.get(key):
            yield f"{LEDGER}: {key} is not what the outputs give"
    theirs, ours = (_rows_by_id(part.get("channels")) for part in (document, recomputed))
    for identifier in sorted({*theirs, *ours}):
        if theirs.get(identifier) != ours.get(identifier):
            yield f"{LEDGER}: channel {identifier} is not what the outputs give"
    if list(theirs) != list(ours):
        yield f"{LEDGER}: the channels are not in the order that the format has"


def _rows_by_id(rows: JsonValue) -> dict[str, JsonValue]:
    listed = rows if isinstance(rows, list) else []
    return {str(row.get("id") if isinstance(row, dict) else row): row for row in listed}


def _line(row: Row) -> ChannelLine:
    return ChannelLine(
        number=row.rule.number,
        identifier=row.rule.identifier,
        state=row.state.value,
        claim=row.rule.claim,
        checks=tuple(check.name for check in row.checks),
        findings=row.findings,
        allowed=row.allowed,
    )
