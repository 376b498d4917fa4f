"""`blindbuild verify`: the client's decision, step by step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from blindbuild.cli.following import record_repository
from blindbuild.cli.judging import expect, show_appraisal, verdict_json
from blindbuild.cli.options import JudgingOptions, json_option, judging_options, print_json
from blindbuild.cli.recorded import AUDITED, make_bundle, read_recorded, read_time, saved_bytes
from blindbuild.client import Expectation, attest
from blindbuild.client.advice import accepted_or_advice
from blindbuild.client.audit import record_decision
from blindbuild.errors import BlindbuildError, UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import write_atomically
from blindbuild.manifest import format_time
from blindbuild.verify import Appraisal, RecordedSession


@dataclass(frozen=True, slots=True)
class _How:
    """What is judged, and what is shown of it."""

    recorded: bool
    offline_audit: bool
    at_time: str | None
    save: Path | None
    explain: bool
    as_json: bool


@click.command("verify")
@click.argument("server")
@judging_options
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a bundle here: the session and what was published, to be judged again without a network.",
)
@click.option("--recorded", is_flag=True, help="SERVER is a file that --save wrote.")
@click.option(
    "--offline-audit",
    is_flag=True,
    help="With --recorded: would it have been accepted? Exit code 4 if so; nothing remembered counts.",
)
@click.option(
    "--at-time", metavar="TIME", help="With --offline-audit: judge at this time (2026-12-31T23:59:59Z)."
)
@click.option("--explain", is_flag=True, help="Say in words what each differing register means.")
@json_option
def command(server: str, options: JudgingOptions, **how: Any) -> None:
    """Judge SERVER: an address such as https://host:port, or with --recorded a file that --save wrote.

    Exit code 3 and a reason for each failed step if it is not what the manifest says. A recorded session
    proves nothing about now: whoever wrote the file knew nonce and secret. An auditor who judges one at
    another time gets exit code 4 where a server would have been verified.

    Example: blindbuild verify https://127.0.0.1:8443 --manifest images/hello/1.0.0 --trust trust.json
    """
    chosen = _How(**how)
    _check_kind(server, chosen)
    if chosen.recorded:
        judged_by, session, appraisal = _judge_recorded(Path(server), options, chosen)
    else:
        judged_by = expect(options)
        attempt = attest(server, judged_by)
        attempt.close()
        session, appraisal = attempt.session, attempt.appraisal
    address = "" if chosen.recorded else server
    _remember(judged_by, session, appraisal, address)
    if chosen.save is not None:
        write_atomically(chosen.save, saved_bytes(make_bundle(session, judged_by, _tuf(options, judged_by))))
    _show(appraisal, judged_by, session, chosen, address)
    accepted_or_advice(appraisal)
    if chosen.offline_audit:
        raise click.exceptions.Exit(AUDITED)


def _remember(judged_by: Expectation, session: RecordedSession, appraisal: Appraisal, address: str) -> None:
    """Remember what was accepted and record the decision, before anybody reads of it."""
    try:
        if session.live and appraisal.verdict is not None:
            judged_by.record(appraisal.verdict)
    except BlindbuildError as error:
        record_decision(judged_by, server=address, appraisal=appraisal, session=session, error=error)
        raise
    record_decision(judged_by, server=address, appraisal=appraisal, session=session)


def _tuf(options: JudgingOptions, judged_by: Expectation) -> dict[str, bytes]:
    if judged_by.trust.tuf_root is None:
        return {}
    return record_repository(options, judged_by.trust, judged_by.policy.channel, judged_by.now())


def _judge_recorded(
    path: Path, options: JudgingOptions, how: _How
) -> tuple[Expectation, RecordedSession, Appraisal]:
    recorded = read_recorded(path)
    judged_by = expect(
        replace(options, history=False) if how.offline_audit else options,
        recorded,
        now=read_time(how.at_time),
    )
    now = judged_by.now()
    log = judged_by.required_log(now)
    appraisal = judged_by.appraise(recorded.session, now=now, log=log)
    if judged_by.log is not None and log is not None:
        kept = judged_by.log.keep_evidence(log, appraisal.reasons)
        click.echo(visible(kept), err=True, nl=bool(kept))
    return judged_by, recorded.session, appraisal


def _show(
    appraisal: Appraisal, judged_by: Expectation, session: RecordedSession, how: _How, address: str
) -> None:
    audit = {"atTime": format_time(judged_by.now())} if how.offline_audit else None
    if how.as_json:
        value: dict[str, object] = {**verdict_json(appraisal, judged_by, session, server=address)}
        if audit is not None:
            value["offlineAudit"] = audit
        if how.explain:
            from blindbuild.cli.verify_explain import explanation

            value["explanation"] = explanation(session, appraisal)
        print_json(value)
        return
    show_appraisal(appraisal, bank=session.bank.value)
    if how.explain:
        from blindbuild.cli.verify_explain import print_explanation

        print_explanation(session, appraisal)
    if audit is not None and appraisal.verdict is not None:
        click.echo(f"offline audit: accepted as of {audit['atTime']}; no server was verified", err=True)


def _check_kind(server: str, how: _How) -> None:
    address = server.startswith(("https://", "http://"))  # the client takes http where requests are sealed
    if address and how.recorded:
        raise UsageError(
            "expected a file with --recorded, got an address",
            hint="leave --recorded out to judge the server itself",
        )
    if not address and not how.recorded:
        raise UsageError(
            f"expected an address that starts with https://, got {server}",
            hint="if it is a file that --save wrote, pass --recorded: it proves nothing about now",
        )
    if how.recorded and how.save is not None:
        raise UsageError("--save: expected a server, got a file that was saved already")
    if how.offline_audit and not how.recorded:
        raise UsageError("--offline-audit: expected --recorded and a file that --save wrote")
    if how.at_time is not None and not how.offline_audit:
        raise UsageError(
            "--at-time: expected --offline-audit with it",
            hint="a server is judged now, by this machine's clock",
        )
