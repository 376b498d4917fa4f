"""`blindbuild publish`: hand out a release so that clients find it, and only the current one."""

from __future__ import annotations

import click

from blindbuild.cli.verbs import LazyGroup, Verb

PUBLISH_VERBS = {
    "init": Verb(
        "publish_tuf", "Begin a TUF repository: what is current, and whose keys count.", "init_command"
    ),
    "add": Verb("publish_tuf", "List releases in it; they take the place of earlier ones.", "add_command"),
    "withdraw": Verb("publish_tuf", "List a release as withdrawn: clients refuse it.", "withdraw_command"),
    "renew": Verb("publish_tuf", "Sign what is listed for another period.", "renew_command"),
    "rotate": Verb("publish_tuf", "Change keys or thresholds, or renew the root.", "rotate_command"),
    "sign": Verb("publish_tuf", "Add signatures to what others have staged.", "sign_command"),
    "refresh": Verb("publish_tuf", "Sign timestamp and snapshot anew: a daily job.", "refresh_command"),
    "status": Verb("publish_tuf", "Say what is published, until when, and what waits.", "status_command"),
    "directory": Verb("publish_oci", "Copy what clients need, for any web server.", "directory_command"),
    "oci": Verb("publish_oci", "Push what clients need to an OCI registry.", "oci_command"),
}


@click.group("publish", cls=LazyGroup, verbs=PUBLISH_VERBS)
def command() -> None:
    """Hand out what clients judge a server by.

    Whatever the way, clients verify the same files in the same steps: a place can withhold a release or show
    an old one, and neither gets past what clients check.

    Example: blindbuild publish directory images/hello/1.0.0 public/hello
    """
