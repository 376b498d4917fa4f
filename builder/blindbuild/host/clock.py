"""The door to time: everything else gets its time as an argument."""

from __future__ import annotations

import time


def unix_time() -> int:
    """Return the seconds since 1970 by the machine's clock, which an operator may have set."""
    return int(time.time())


def monotonic_s() -> float:
    """Return seconds that only ever grow, for durations and time limits."""
    return time.monotonic()


def sleep_s(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)
