"""Groups of verbs of which only the one that is called is imported."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb's command is.

    Attributes:
        module: below blindbuild.cli.
        line: of help; it stands here so that --help imports no verb.
        command: its name in the module.
    """

    module: str
    line: str
    command: str = "command"


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one only to run it.

    Args:
        verbs: in the order in which people meet them.
    """

    def __init__(self, *arguments: Any, verbs: Mapping[str, Verb], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in their order."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return the verb's command."""
        verb = self._verbs.get(cmd_name)
        if verb is None:
            return None
        found = getattr(importlib.import_module(f"blindbuild.cli.{verb.module}"), verb.command)
        if not isinstance(found, click.Command):
            raise TypeError(f"blindbuild.cli.{verb.module} has no {verb.command}")
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs without importing them."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, verb.line) for name, verb in self._verbs.items()])
