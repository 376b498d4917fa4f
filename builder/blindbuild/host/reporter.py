"""How a long run speaks to the person in front of it; the command line implements it."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """What a long run tells the person in front of it."""

    def begin(self, title: str, total: int | None = None) -> None:
        """Start a stage; `total` is in the unit that `advance` counts."""

    def advance(self, done: int, detail: str = "") -> None:
        """Say how far the stage is."""

    def finish(self, outcome: str = "") -> None:
        """End the stage."""

    def note(self, text: str) -> None:
        """Say something once."""
