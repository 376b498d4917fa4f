"""A line that says that work goes on, where a file is so large that it takes seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

SHOW_FROM = 64 << 20  # bytes; less is hashed, written or signed in about two seconds


@contextlib.contextmanager
def large_work(label: str, files: Sequence[Path]) -> Iterator[None]:
    """Show a step on stderr while the block runs, if the files it works on are large.

    Args:
        label: the step, such as `sign hello.efi`.
        files: what it reads.
    """
    size = sum(path.stat().st_size for path in files if path.is_file())
    if size < SHOW_FROM:
        yield
        return
    from blindbuild.cli.render import TerminalReporter  # rich costs a tenth of a second

    with TerminalReporter() as reporter:
        reporter.begin(label)
        yield
        reporter.finish(f"{size >> 20} MiB")
