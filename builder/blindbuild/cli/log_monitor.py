"""`blindbuild log monitor`: tell the owner of a product what was released in its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click

from blindbuild.cli.log_files import log_memory, read_log_policy
from blindbuild.cli.log_options import (
    DAY_S,
    place_option,
    policy_option,
    require_passed,
    show_steps,
    state_option,
    steps_json,
)
from blindbuild.cli.options import json_option, print_json
from blindbuild.cli.outputs import find_manifest
from blindbuild.client.log_files import open_log, read_checkpoint, read_consistency
from blindbuild.client.log_memory import LogMemory
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, UsageError
from blindbuild.formats.checkpoint import UnverifiedCheckpoint, parse_checkpoint
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.tlog_policy import NO_QUORUM, LogPolicy
from blindbuild.formats.tlog_tiles import ReadFile, read_entries
from blindbuild.host.clock import unix_time
from blindbuild.host.files import read_bytes
from blindbuild.manifest.words import NAME
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.tlog import NO_WITNESS, AcceptedCheckpoint, accept_checkpoint, check_history
from blindbuild.verify.tlog_monitor import (
    MAX_ENTRIES,
    MONITOR_TITLES,
    MonitorReport,
    PlacedEntry,
    judge_entries,
)

MAX_LIST = 1 << 24  # bytes of a list of digests; 200,000 lines
_DIGEST_LINE = re.compile(r"[0-9a-f]{64}(?:[ \t].*)?")


@click.command("monitor")
@policy_option
@place_option
@click.option("--product", required=True, help="The recipe's name.")
@click.option(
    "--known",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A release of yours: an image directory, or a manifest; repeatable.",
)
@click.option(
    "--known-list",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="SHA-256 of your statements or manifests, one a line; text after a space is yours.",
)
@click.option("--max-age-days", type=click.IntRange(1, 36600), help="Oldest cosignatures that count.")
@state_option
@json_option
def monitor_command(
    policy: Path,
    place: str | None,
    product: str,
    known: tuple[Path, ...],
    known_list: Path | None,
    max_age_days: int | None,
    state: Path | None,
    as_json: bool,
) -> None:
    """Read the whole log and compare the releases of a product with those that you made.

    Exit code 3, with each entry, if there is one that you did not make: somebody else used a release key or
    can write to the log. Also if the log forked, or its entries are not those that it signed. To be run
    often, by somebody who would act on it; nothing on the list means that every release is unknown.

    Example: blindbuild log monitor --policy log-policy.txt --product hello --known images/hello/1.0.0
    """
    if not NAME.fullmatch(product):
        raise UsageError(f"expected the name of a product, got {product[:80]!r}")
    rules = read_log_policy(policy)
    digests = {*_of_manifests(known), *_of_list(known_list)}
    read = open_log(place if place is not None else _address(rules))
    signed = read_checkpoint(read)
    memory = log_memory(state)
    steps = Checklist(MONITOR_TITLES)
    max_age_s = None if max_age_days is None else max_age_days * DAY_S
    for unseen in _unseen(rules, signed.checkpoint.origin, max_age_s):
        steps.warn(unseen)
    accepted = steps.run("M12", lambda: _accept(signed, rules, max_age_s))
    _compare(steps, accepted, memory, read)
    size = signed.checkpoint.size
    entries = read_entries(read, min(size, MAX_ENTRIES)) if accepted else iter(())
    report = judge_entries(steps, _reported(entries), signed.checkpoint, product=product, known=digests)
    _show(steps, report, as_json)
    require_passed(steps, more=_evidence(steps, memory, accepted))


def _unseen(rules: LogPolicy, origin: str, max_age_s: int | None) -> Iterator[str]:
    """Yield what a client of this policy may be shown, and this monitor would not see."""
    others = sorted({log.key.name for log in rules.logs} - {origin})
    if others:
        yield (
            f"clients also accept releases from {', '.join(others)}, which is not read here: "
            "run a monitor for each log of the policy"
        )
    if rules.quorum == NO_QUORUM:
        yield NO_WITNESS
    if max_age_s is None:
        yield "cosignatures of any age count: whoever serves an old copy hides the rest; --max-age-days"


def _accept(
    signed: UnverifiedCheckpoint, rules: LogPolicy, max_age_s: int | None
) -> tuple[AcceptedCheckpoint, str]:
    accepted = accept_checkpoint(signed, rules, now=unix_time(), max_age_s=max_age_s)
    return accepted, f"{accepted.checkpoint.size} entries in {accepted.in_words}"


def _compare(
    steps: Checklist, accepted: AcceptedCheckpoint | None, memory: LogMemory, read: ReadFile
) -> None:
    remembered = None if accepted is None else memory.read(accepted.checkpoint.origin)
    if accepted is not None and remembered is None:
        steps.skip("M13", "first use: nothing is remembered about this log")
        memory.record(accepted.note)
        return
    steps.run("M13", lambda: _check(found(accepted), found(remembered), read), needs=("M12",))
    if accepted is not None and steps.passed("M13"):
        memory.record(accepted.note)


def _check(accepted: AcceptedCheckpoint, remembered: bytes, read: ReadFile) -> tuple[None, str]:
    before = parse_checkpoint(remembered).checkpoint
    new = accepted.checkpoint
    if new.size < before.size:
        raise refuse(
            "M13",
            "log-shrank",
            f"log {new.origin}: expected at least the {before.size} entries of before, got {new.size}",
            hint="its address serves an old copy, or hides what was released since",
        )
    try:
        path = read_consistency(read, before, new)
    except BlindbuildError as error:
        raise refuse("M13", "log-unreachable", error.message, hint=error.hint) from error
    check_history(accepted, before, path)
    return None, f"{new.size} entries, {before.size} before"


def _reported(entries: Iterator[bytes]) -> Iterator[bytes]:
    """Yield entries; a file that cannot be read fails step L1."""
    try:
        yield from entries
    except BlindbuildError as error:
        raise refuse("L1", "log-unreachable", f"expected every entry: {error.message}") from error


def _show(steps: Checklist, report: MonitorReport | None, as_json: bool) -> None:
    if as_json:
        releases = [] if report is None else [_json(placed, report) for placed in report.releases]
        unreadable = [] if report is None else list(report.unreadable)
        size = None if report is None else report.size
        print_json({**steps_json(steps), "size": size, "releases": releases, "unreadable": unreadable})
        return
    if report is not None:
        for placed in report.releases:
            click.echo(f"{'unknown' if placed in report.strangers else 'known  '} {placed.in_words}")
    show_steps(steps)


def _json(placed: PlacedEntry, report: MonitorReport) -> dict[str, object]:
    entry = placed.entry
    return {
        "index": placed.index,
        "channel": entry.channel,
        "sequence": entry.sequence,
        "statementSha256": entry.statement.hex,
        "envelopeSha256": entry.envelope.hex,
        "known": placed not in report.strangers,
    }


def _evidence(steps: Checklist, memory: LogMemory, accepted: AcceptedCheckpoint | None) -> str:
    if accepted is None or not any(step.reason == "log-forked" for step in steps.failed()):
        return ""
    before, kept = memory.keep_conflict(accepted.checkpoint.origin, accepted.note)
    return f"both checkpoints are kept: {before} and {kept}"


def _address(rules: LogPolicy) -> str:
    addresses = [log.url for log in rules.logs if log.url is not None]
    if len(addresses) != 1:
        raise UsageError("expected --log, or a policy with the address of one log")
    return addresses[0]


def _of_manifests(paths: tuple[Path, ...]) -> Iterator[Digest]:
    for path in paths:
        manifest = find_manifest(path)[0]
        yield Digest.sha256(read_bytes(manifest, error=UsageError, limit_bytes=MAX_ENVELOPE))


def _of_list(path: Path | None) -> Iterator[Digest]:
    if path is None:
        return
    data = read_bytes(path, error=UsageError, limit_bytes=MAX_LIST)
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if not _DIGEST_LINE.fullmatch(line):
            raise UsageError(f"{path}:{number}: expected a SHA-256 in hex, got {line[:80]!r}")
        yield Digest.from_hex(HashAlgorithm.SHA256, line[:64])
