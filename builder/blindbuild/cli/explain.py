"""`blindbuild explain`: say in words why registers differ."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.explain_inputs import (
    FORMATS,
    NamedLog,
    choose_bank,
    choose_match,
    read_log,
    read_statement,
)
from blindbuild.cli.explain_page import explain_page
from blindbuild.cli.explain_report import Report
from blindbuild.cli.options import json_option, print_json
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import EventLogError, UsageError, VerificationError
from blindbuild.formats.tcglog import ReplayedLog
from blindbuild.host.files import write_atomically
from blindbuild.verify.explain import explain_differences, explain_logs

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("explain")
@click.argument("log", type=_FILE)
@click.argument("other", required=False, type=_FILE)
@click.option(
    "--statement",
    type=click.Path(exists=True, path_type=Path),
    help="What is expected: a statement.json, a manifest, or an image directory. No signature is checked.",
)
@click.option("--platform", help="The platform of the statement [default: the one that fits best].")
@click.option("--bank", type=click.Choice(["sha1", "sha256", "sha384", "sha512"]), help="The bank to show.")
@click.option("--register", "registers", type=int, multiple=True, help="Only this register; repeatable.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="auto", help="The format of the logs.")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with a timeline here; it needs nothing else.",
)
@json_option
def command(
    log: Path,
    other: Path | None,
    *,
    statement: Path | None,
    platform: str | None,
    bank: str | None,
    registers: tuple[int, ...],
    form: str,
    html: Path | None,
    as_json: bool,
) -> None:
    """Explain LOG: an event log (TCG, CCEL, canonical TLV or JSON), or a session that verify --save wrote.

    With --statement, or with a second log OTHER that is explained against the first, the events are aligned
    and each difference is put into words; exit code 3 if any register differs. A log is only a claim: nothing
    is judged here, that is what verify does.

    Example: blindbuild explain eventlog.bin --statement images/hello/1.0.0
    """
    if other is not None and statement is not None:
        raise UsageError("expected either a second log or --statement, got both")
    chosen = frozenset(registers)
    if statement is not None:
        report = _against_statement(
            read_log(log, form=form), statement, bank=bank, platform=platform, registers=chosen
        )
    elif other is not None:
        report = _against_log(
            read_log(log, form=form), read_log(other, form=form), str(log), bank=bank, registers=chosen
        )
    else:
        report = _alone(read_log(log, form=form), bank=bank, registers=chosen)
    _show(report, html=html, as_json=as_json)
    if report.differences:
        names = ", ".join(report.log.names[difference.register] for difference in report.differences)
        raise VerificationError(
            f"expected the registers of {report.against}, got other values in {names}",
            step="E1",
            reason="register-mismatch",
        )


def _alone(log: NamedLog, *, bank: str | None, registers: frozenset[int]) -> Report:
    _check_registers(log, registers)
    return Report(log, choose_bank(bank, log.log.algorithms), registers=registers)


def _against_statement(
    log: NamedLog, path: Path, *, bank: str | None, platform: str | None, registers: frozenset[int]
) -> Report:
    _check_registers(log, registers)
    match, chosen = choose_match(read_statement(path), log, bank=bank, platform=platform)
    differences = explain_differences(match, _replayable(log, chosen))
    return Report(
        log=log,
        bank=chosen,
        against=str(path),
        platform=match.platform.identifier,
        differences=tuple(d for d in differences if not registers or d.register in registers),
        registers=registers,
    )


def _replayable(log: NamedLog, bank: HashAlgorithm) -> ReplayedLog | None:
    try:
        return log.replayed(bank)
    except EventLogError:
        return None


def _against_log(
    expected: NamedLog, got: NamedLog, name: str, *, bank: str | None, registers: frozenset[int]
) -> Report:
    if expected.tpm != got.tpm:
        raise UsageError("expected two logs of the same registers, got a TPM's and a confidential guest's")
    _check_registers(got, registers)
    chosen = choose_bank(bank, expected.log.algorithms, got.log.algorithms)
    differences = explain_logs(expected.replayed(chosen), got.replayed(chosen), tpm=got.tpm)
    return Report(
        log=got,
        bank=chosen,
        against=name,
        differences=tuple(d for d in differences if not registers or d.register in registers),
        registers=registers,
    )


def _check_registers(log: NamedLog, registers: frozenset[int]) -> None:
    if any(not 0 <= register < len(log.names) for register in registers):
        raise UsageError(f"expected registers 0 to {len(log.names) - 1}, got {sorted(registers)}")


def _show(report: Report, *, html: Path | None, as_json: bool) -> None:
    if html is not None:
        write_atomically(html, explain_page(report).encode("utf-8"))
    if as_json:
        print_json(report.to_json())
        return
    from blindbuild.cli.explain_table import print_report  # rich costs a tenth of a second

    print_report(report)
