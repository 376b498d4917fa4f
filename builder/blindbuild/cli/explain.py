"""`blindbuild explain`: say in words why registers differ."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
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
from blindbuild.verify.explain import Difference, explain_differences, explain_logs

_LOG = click.Path(exists=True, path_type=Path)  # a directory is refused where it can be said what to do


@click.command("explain")
@click.argument("log", type=_LOG)
@click.argument("other", required=False, type=_LOG)
@click.option(
    "--statement",
    type=click.Path(exists=True, path_type=Path),
    help="What is expected: a statement.json, a manifest, or an image directory. No signature is checked.",
)
@click.option("--platform", help="The platform of the statement [default: the one that fits best].")
@click.option("--bank", type=click.Choice(["sha1", "sha256", "sha384", "sha512"]), help="The bank to show.")
@click.option("--register", "registers", type=int, multiple=True, help="Only this PCR or RTMR; repeatable.")
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
    if platform is not None and statement is None:
        raise UsageError("--platform: expected --statement with it, whose platforms it chooses from")
    first = read_log(log, form=form)
    choice = Choice(bank, platform, _find_registers(first, registers))
    if statement is not None:
        report = _against_statement(first, statement, choice)
    elif other is not None:
        report = _against_log(first, read_log(other, form=form), str(log), choice)
    else:
        report = Report(first, choose_bank(bank, first.log.algorithms), registers=choice.registers)
    _show(report, html=html, as_json=as_json)
    _refuse(report)


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be compared; an empty set of registers means all."""

    bank: str | None
    platform: str | None
    registers: frozenset[int]

    def of(self, differences: Iterable[Difference]) -> tuple[Difference, ...]:
        """Return the differences in the registers that were asked for."""
        return tuple(d for d in differences if not self.registers or d.register in self.registers)


def _refuse(report: Report) -> None:
    if report.differences:
        names = ", ".join(report.log.names[difference.register] for difference in report.differences)
        raise VerificationError(
            f"expected the registers of {report.against}, got other values in {names}",
            step="E1",
            reason="register-mismatch",
        )


def _against_statement(log: NamedLog, path: Path, choice: Choice) -> Report:
    match, bank = choose_match(read_statement(path), log, bank=choice.bank, platform=choice.platform)
    return Report(
        log=log,
        bank=bank,
        against=str(path),
        platform=match.platform.identifier,
        differences=choice.of(explain_differences(match, _replayable(log, bank))),
        registers=choice.registers,
    )


def _replayable(log: NamedLog, bank: HashAlgorithm) -> ReplayedLog | None:
    try:
        return log.replayed(bank)
    except EventLogError:
        return None


def _against_log(expected: NamedLog, got: NamedLog, name: str, choice: Choice) -> Report:
    if expected.tpm != got.tpm:
        raise UsageError("expected two logs of the same registers, got a TPM's and a confidential guest's")
    bank = choose_bank(choice.bank, expected.log.algorithms, got.log.algorithms)
    differences = explain_logs(expected.replayed(bank), got.replayed(bank), tpm=got.tpm)
    return Report(
        log=got,
        bank=bank,
        against=name,
        differences=choice.of(differences),
        registers=choice.registers,
    )


def _find_registers(log: NamedLog, numbers: tuple[int, ...]) -> frozenset[int]:
    """Return the registers meant, as the log counts them: that of a confidential guest counts MRTD too."""
    first = 0 if log.tpm else log.names.index("RTMR0")
    last = len(log.names) - 1 - first
    if any(not 0 <= number <= last for number in numbers):
        raise UsageError(f"expected registers 0 to {last}, got {sorted(numbers)}")
    return frozenset(number + first for number in numbers)


def _show(report: Report, *, html: Path | None, as_json: bool) -> None:
    if html is not None:
        write_atomically(html, explain_page(report).encode("utf-8"))
    if as_json:
        print_json(report.to_json())
        return
    from blindbuild.cli.explain_table import print_report  # rich costs a tenth of a second

    print_report(report)
