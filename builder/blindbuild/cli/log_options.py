"""What the verbs of `log` share."""

from __future__ import annotations

from pathlib import Path

import click

from blindbuild.cli.options import print_json
from blindbuild.cli.render import output_console, print_steps, print_warning
from blindbuild.errors import UsageError, VerificationError
from blindbuild.host.files import read_bytes
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.publish.sign import SigningKey, load_key
from blindbuild.verify.checklist import Checklist

MAX_KEY = 1 << 16  # bytes; an Ed25519 key in PEM has 120
DAY_S = 86400

channel_option = click.option(
    "--channel", default=DEFAULT_CHANNEL, show_default=True, help="Which line of releases it belongs to."
)
policy_option = click.option(
    "--policy",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Which log and witnesses count (C2SP tlog-policy).",
)
place_option = click.option(
    "--log", "place", metavar="DIR|URL", help="The log's files [default: the address in the policy]."
)
state_option = click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the log's last checkpoint is remembered [default: the user's state directory].",
)


def load_signing_key(path: Path) -> SigningKey:
    """Read a private key that `keygen` wrote."""
    return load_key(read_bytes(path, error=UsageError, limit_bytes=MAX_KEY))


def show_steps(steps: Checklist, *, as_json: bool = False) -> None:
    """Print steps and warnings, for people or for machines."""
    if as_json:
        print_json(steps_json(steps))
        return
    print_steps(((s.id, s.title, s.outcome.value, s.detail) for s in steps.steps), console=output_console())
    for warning in steps.warnings:
        print_warning(warning)


def steps_json(steps: Checklist) -> dict[str, object]:
    """Return steps and warnings as plain data with stable names."""
    return {
        "version": 1,
        "accepted": not steps.failed(),
        "warnings": list(steps.warnings),
        "hints": list(steps.hints),
        "steps": [
            {"id": s.id, "title": s.title, "outcome": s.outcome.value, "detail": s.detail, "reason": s.reason}
            for s in steps.steps
        ],
    }


def require_passed(steps: Checklist, *, more: str = "") -> None:
    """Raise what failed, if anything did.

    Args:
        steps: after they were run.
        more: a further line for the hint.

    Raises:
        VerificationError: step and reason of the first that failed; the message lists all.
    """
    failed = steps.failed()
    if failed:
        listed = "; ".join(f"{step.id} {step.reason}: {step.detail}" for step in failed)
        raise VerificationError(
            f"{len(failed)} of {len(steps.steps)} steps failed: {listed}",
            step=failed[0].id,
            reason=failed[0].reason,
            hint="\n".join(line for line in (*steps.hints, more) if line) or None,
        )
