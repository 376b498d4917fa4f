"""`blindbuild verify`: the client's decision, step by step."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.judging import expect, show_appraisal
from blindbuild.cli.options import JudgingOptions, json_option, judging_options
from blindbuild.client import attest
from blindbuild.errors import UsageError
from blindbuild.host.files import read_bytes, write_atomically
from blindbuild.verify import appraise, parse_session, session_bytes


@click.command("verify")
@click.argument("server")
@judging_options
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the session here, to judge it again.",
)
@json_option
def command(server: str, options: JudgingOptions, save: Path | None, as_json: bool) -> None:
    """Judge SERVER: an address such as https://host:port, or a session that --save wrote.

    Exit code 3 and a reason for each failed step if it is not what the manifest says.

    Example: blindbuild verify https://127.0.0.1:8443 --manifest images/hello/1.0.0 --trust trust.json
    """
    expectation = expect(options)
    if server.startswith("https://"):
        attempt = attest(server, expectation)
        attempt.close()
        session, appraisal = attempt.session, attempt.appraisal
    else:
        path = Path(server)
        hint = "name an address that starts with https://, or a file that --save wrote"
        session = parse_session(read_bytes(path, error=UsageError, hint=hint))
        appraisal = appraise(
            session,
            envelope=expectation.envelope,
            release=expectation.release,
            trust=expectation.trust,
            now=expectation.now(),
            policy=expectation.policy,
            history=expectation.history(),
        )
    if save is not None:
        write_atomically(save, session_bytes(session))
    show_appraisal(appraisal, bank=session.bank.value, as_json=as_json)
    accepted = appraisal.accepted()
    if session.live:
        expectation.record(accepted)
