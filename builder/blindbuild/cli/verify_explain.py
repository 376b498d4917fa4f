"""`verify --explain`: what each register of a judged session means, in the words of `explain`."""

from __future__ import annotations

from blindbuild.cli.explain_inputs import PCR_NAMES, NamedLog
from blindbuild.cli.explain_report import Report
from blindbuild.errors import EventLogError
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.verify import Appraisal, RecordedSession


def explanation(session: RecordedSession, appraisal: Appraisal) -> JsonValue:
    """Return the explanation for machines, or null when there is no event log that can be read."""
    report = _report(session, appraisal)
    return None if report is None else report.to_json()


def print_explanation(session: RecordedSession, appraisal: Appraisal) -> None:
    """Print what the differing registers mean; when none differs, every event of the boot."""
    from blindbuild.cli.explain_table import print_report
    from blindbuild.cli.render import print_warning

    report = _report(session, appraisal)
    if report is None:
        print_warning("there is no event log that can be read, so that nothing can be explained")
        return
    print_report(report)


def _report(session: RecordedSession, appraisal: Appraisal) -> Report | None:
    evidence = session.evidence
    try:
        log = parse_event_log(evidence.event_log)
    except EventLogError:
        return None
    named = NamedLog("tcg", log, PCR_NAMES, quoted=(evidence.bank, evidence.registers))
    if not appraisal.differences:
        return Report(named, evidence.bank)
    return Report(
        log=named,
        bank=evidence.bank,
        against="the statement",
        platform=appraisal.platform,
        differences=appraisal.differences,
        registers=frozenset(difference.register for difference in appraisal.differences),
    )
