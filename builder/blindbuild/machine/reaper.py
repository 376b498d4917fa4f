"""Remove a directory when the process that made it is gone, however it went.

Run as a program by the system's Python, without this package: `python3 -I -S reaper.py DESCRIPTOR DIRECTORY`.
The descriptor is the reading end of a pipe whose writing end only the maker holds: its end of file is the
maker's end.
"""

from __future__ import annotations

import os
import shutil
import sys
import time

SETTLE_S = 0.5  # programs that die with the maker may still be writing


def main(arguments: list[str]) -> None:
    """Go to the background, wait for the end of the pipe, remove."""
    descriptor, directory = int(arguments[1]), arguments[2]
    if os.fork() != 0:
        os._exit(0)
    os.setsid()
    os.read(descriptor, 1)
    if os.path.exists(directory):  # noqa: PTH110  # pathlib takes longer to load than all the rest
        time.sleep(SETTLE_S)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv)
