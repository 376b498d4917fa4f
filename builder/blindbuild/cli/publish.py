"""`blindbuild publish`: hand out a release so that clients find it, and only the current one."""

from __future__ import annotations

import importlib

import click

# verb -> (module below blindbuild.cli, its command, one line of help); imported only when it is called
PUBLISH_VERBS = {
    "init": ("publish_tuf", "init_command", "Begin a TUF repository: what is current, and whose keys count."),
    "add": ("publish_tuf", "add_command", "List releases in it; they take the place of earlier ones."),
    "withdraw": ("publish_tuf", "withdraw_command", "List a release as withdrawn: clients refuse it."),
    "renew": ("publish_tuf", "renew_command", "Sign what is listed for another period."),
    "rotate": ("publish_tuf", "rotate_command", "Change keys or thresholds, or renew the root."),
    "sign": ("publish_tuf", "sign_command", "Add signatures to what others have staged."),
    "refresh": ("publish_tuf", "refresh_command", "Sign timestamp and snapshot anew: a daily job."),
    "status": ("publish_tuf", "status_command", "Say what is published, until when, and what waits."),
    "directory": ("publish_oci", "directory_command", "Copy what clients need, for any web server."),
    "oci": ("publish_oci", "oci_command", "Push what clients need to an OCI registry."),
}


class PublishGroup(click.Group):
    """The verbs of `publish`, imported one at a time."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table."""
        return list(PUBLISH_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command."""
        if cmd_name not in PUBLISH_VERBS:
            return None
        module, name, _line = PUBLISH_VERBS[cmd_name]
        found = getattr(importlib.import_module(f"blindbuild.cli.{module}"), name)
        if not isinstance(found, click.Command):
            raise TypeError(f"blindbuild.cli.{module} has no {name}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, line) for verb, (_module, _name, line) in PUBLISH_VERBS.items()])


@click.group("publish", cls=PublishGroup)
def command() -> None:
    """Hand out what clients judge a server by.

    Whatever the way, clients verify the same files in the same steps: a place can withhold a release or show
    an old one, and neither gets past what clients check.

    Example: blindbuild publish directory images/hello/1.0.0 public/hello
    """
