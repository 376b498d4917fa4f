"""The command line; each verb lives in its own file and is imported only when it is called."""

from __future__ import annotations


def run() -> None:
    """Entry point of the `blindbuild` script."""
    raise SystemExit("no verb yet")
