"""A directory that is gone when its maker is, also if the maker is killed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from blindbuild.host.files import temporary_directory
from blindbuild.host.process import Tool, start

PYTHON = Tool(name="python3", package="python3")

_REAPER = Path(__file__).with_name("reaper.py")
_START_LIMIT_S = 30.0


@contextlib.contextmanager
def disposable_directory() -> Iterator[Path]:
    """Give a fresh private directory with a short path; nobody else can enter it.

    Raises:
        ToolError: the program that would clean up after a kill cannot be started.
    """
    with temporary_directory() as directory:
        reading, writing = os.pipe()
        try:
            arguments = ["-I", "-S", str(_REAPER), str(reading), str(directory)]
            start(PYTHON, arguments, pass_fds=(reading,)).wait(_START_LIMIT_S)
            yield directory
        finally:
            os.close(reading)
            os.close(writing)
