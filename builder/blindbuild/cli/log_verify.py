"""`blindbuild log verify`: is this manifest in the log that everybody sees?"""

from __future__ import annotations

import os
from pathlib import Path

import click

from blindbuild.cli.log_files import LOG_PROOF, log_memory, read_log_policy, read_log_proof
from blindbuild.cli.log_options import (
    DAY_S,
    channel_option,
    place_option,
    policy_option,
    require_passed,
    show_steps,
    state_option,
)
from blindbuild.cli.options import json_option, plain_http_option, read_place
from blindbuild.client.log_check import LogCheck
from blindbuild.client.published import read_published
from blindbuild.host.clock import unix_time
from blindbuild.manifest.log_entry import log_entry_of
from blindbuild.verify.checklist import LOG_TITLES, Checklist
from blindbuild.verify.tlog import judge_logged


@click.command("verify")
@click.argument("image", callback=read_place)
@policy_option
@click.option(
    "--proof",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help=f"The proof [default: {LOG_PROOF} beside the manifest].",
)
@place_option
@channel_option
@click.option("--max-age-days", type=click.IntRange(1, 36600), help="Oldest cosignatures that count.")
@state_option
@click.option("--no-remember", "remember", flag_value=False, default=True, help="Record nothing.")
@plain_http_option
@json_option
def verify_command(
    image: Path | str,
    policy: Path,
    proof: Path | None,
    place: str | None,
    channel: str,
    max_age_days: int | None,
    state: Path | None,
    remember: bool,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Judge whether the manifest of IMAGE is in a log that the policy names.

    Exit code 3 and a reason if it is not, if too few witnesses have seen the log, or if the log is not the
    one that was seen before: then both checkpoints are kept, as evidence. The manifest's own signatures are
    judged by `verify`. IMAGE is a directory, a manifest, or an address with https:// or oci://.

    Example: blindbuild log verify images/hello/1.0.0 --policy log-policy.txt
    """
    published = read_published(image, plain_http=plain_http, environ=os.environ)
    envelope = published.envelope
    check = LogCheck(
        policy=read_log_policy(policy),
        proof=read_log_proof(proof, published.log_proof),
        channel=channel,
        place=place,
        memory=log_memory(state),
        remember=remember,
        max_age_s=None if max_age_days is None else max_age_days * DAY_S,
    )
    now = unix_time()
    required = check.require(now=now)
    steps = Checklist({"M6": "the manifest is one that can be logged", **LOG_TITLES})
    steps.run("M6", lambda: (None, f"sequence {log_entry_of(envelope, channel=channel).sequence}"))
    note = judge_logged(steps, required, envelope, now=now)
    show_steps(steps, as_json=as_json)
    reasons = {f"{step.id}:{step.reason}" for step in steps.failed()}
    require_passed(steps, more=check.keep_evidence(required, reasons))
    check.record(note)
