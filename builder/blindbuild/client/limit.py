"""How long one thing may take, however often its parts arrive in time."""

from __future__ import annotations

import time

from blindbuild.client.advice import SLOW, channel_error


class Limit:
    """A time by which something must be done, whatever comes first: so many seconds, or a deadline."""

    def __init__(self, expected: str, seconds: float, deadline: float) -> None:
        now = time.monotonic()
        self._until = min(now + seconds, deadline)
        self._words = f"expected {expected} within {max(0.0, self._until - now):.0f} s"

    def check(self) -> None:
        """Go on, if there is time.

        Raises:
            ChannelError: there is none.
        """
        if time.monotonic() > self._until:
            raise channel_error(self._words, SLOW)
