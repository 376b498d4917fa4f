"""`blindbuild verify`: the client's decision, step by step."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.judging import expect, show_appraisal
from blindbuild.cli.options import JudgingOptions, json_option, judging_options
from blindbuild.client import attest
from blindbuild.errors import UsageError
from blindbuild.formats.printable import visible
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.verify import appraise, parse_session, session_bytes
from blindbuild.verify.session import MAX_SESSION


@click.command("verify")
@click.argument("server")
@judging_options
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the session here, to judge it again.",
)
@click.option("--recorded", is_flag=True, help="SERVER is a session that --save wrote.")
@json_option
def command(server: str, options: JudgingOptions, save: Path | None, recorded: bool, as_json: bool) -> None:
    """Judge SERVER: an address such as https://host:port, or with --recorded a session that --save wrote.

    Exit code 3 and a reason for each failed step if it is not what the manifest says. A recorded session
    proves nothing about now: whoever wrote the file knew nonce and secret.

    Example: blindbuild verify https://127.0.0.1:8443 --manifest images/hello/1.0.0 --trust trust.json
    """
    _check_kind(server, recorded=recorded)
    expectation = expect(options)
    if not recorded:
        attempt = attest(server, expectation)
        attempt.close()
        session, appraisal = attempt.session, attempt.appraisal
    else:
        session = parse_session(read_bytes(Path(server), error=UsageError, limit_bytes=MAX_SESSION))
        now = expectation.now()
        log = expectation.required_log(now)
        appraisal = appraise(
            session,
            envelope=expectation.envelope,
            release=expectation.release,
            trust=expectation.trust,
            now=now,
            policy=expectation.policy,
            history=expectation.history(),
            ledger=expectation.ledger,
            log=log,
        )
        if expectation.log is not None and log is not None:
            kept = expectation.log.keep_evidence(log, appraisal.reasons)
            click.echo(visible(kept), err=True, nl=bool(kept))
    if save is not None:
        write_atomically(save, session_bytes(session))
    show_appraisal(appraisal, bank=session.bank.value, as_json=as_json)
    accepted = appraisal.accepted()
    if session.live:
        expectation.record(accepted)


def _check_kind(server: str, *, recorded: bool) -> None:
    address = server.startswith("https://")
    if address and recorded:
        raise UsageError(
            "expected a file with --recorded, got an address",
            hint="leave --recorded out to judge the server itself",
        )
    if not address and not recorded:
        raise UsageError(
            f"expected an address that starts with https://, got {server}",
            hint="if it is a file that --save wrote, pass --recorded: it proves nothing about now",
        )
