"""What a refusal of a TUF repository means, in sentences for whoever runs the network."""

from __future__ import annotations

from blindbuild.client.advice import Advice
from blindbuild.errors import VerificationError

_NOBODY = "No server was asked, and nothing of your data was sent"
OLD_COPY = Advice(
    "the list of current releases that was served is out of date, or mixed from several states",
    "a cache, a CDN or a mirror holds back what is newer, or the publisher has stopped renewing it, or this "
    "computer's clock is wrong. Somebody may do it so that you go on using a release that was withdrawn. "
    f"{_NOBODY}",
    "check this computer's clock; have caches on the way let `metadata/timestamp.json` through fresh; try "
    "another network or copy (--tuf). If it stays, tell the publisher, and send nothing until it is mended",
)
OTHER_PUBLISHER = Advice(
    "the list of releases is not signed as your trust file asks for, or is not well formed",
    "it is another publisher's, or somebody changed it without having enough of the publisher's keys. "
    f"{_NOBODY}",
    "check the address; if it is the publisher's, tell him and your security team which step refused it",
)
FORK = Advice(
    "two different lists of releases carry one version number and good signatures",
    "somebody who has the publisher's keys, or made him sign twice, shows different people different "
    f"releases. {_NOBODY}",
    "keep the two files, send them to the publisher by another way, and send nothing until it is explained",
)
NOTHING_CURRENT = Advice(
    "the publisher lists no release that you could use, or not the one at hand",
    f"it was withdrawn, replaced, or not yet published. {_NOBODY}",
    "ask the publisher for the current release; do not go on with an older one",
)
CLOCK = Advice(
    "this computer's clock shows a time that is over already",
    f"with a clock that went back, an old list of releases would look current. {_NOBODY}",
    "set the clock; if nobody changed it, find out who did",
)
_BY_REASON = {
    **dict.fromkeys(("expired", "rollback", "hash-mismatch", "other-version"), OLD_COPY),
    "fork": FORK,
    **dict.fromkeys(("no-release", "withdrawn", "not-a-target"), NOTHING_CURRENT),
    "clock-went-back": CLOCK,
}


def with_advice(error: VerificationError) -> VerificationError:
    """Return the same refusal with the sentences that belong to it."""
    advice = _BY_REASON.get(error.reason, OTHER_PUBLISHER)
    hint = "\n".join(line for line in (error.hint, advice.text) if line)
    return VerificationError(error.message, step=error.step, reason=error.reason, hint=hint)
