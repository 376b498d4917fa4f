"""What one server is judged by from one moment to the next."""

from __future__ import annotations

import threading
import time

from blindbuild.client.exchange import Prepared, prepare
from blindbuild.client.expectation import Expectation, Expecting, current
from blindbuild.client.transport import Address
from blindbuild.client.verdict import Verdict, expired

DEFAULT_REFRESH_S = 300.0  # how long a client goes on with a manifest before it asks for the current one
MAX_CONNECTIONS = 8  # at once; each costs the server a quote, and its TPM makes one after the other
IDLE_S = 110.0  # the gate ends an idle connection after two minutes


class Judge:
    """Knows one server's address and what it is judged by at this moment.

    Args:
        address: the only server that may be asked.
        expecting: what to judge by; a callable is asked at each attestation, and before a connection is used
            again when it was last asked `refresh_s` ago.
        refresh_s: seconds; how long what a callable gave counts for connections that were judged already.
    """

    def __init__(self, address: Address, expecting: Expecting, *, refresh_s: float) -> None:
        self.address = address
        self._expecting = expecting
        self._refresh_s = refresh_s
        self._guard = threading.Lock()
        self._latest: Expectation | None = None
        self._asked_s = 0.0

    def ask(self) -> Expectation:
        """Return what the next connection is judged by.

        Raises:
            BlindbuildError: there is none now; nothing may be sent then.
        """
        with self._guard:
            self._latest = current(self._expecting)
            self._asked_s = time.monotonic()
            return self._latest

    def prepare(self) -> Prepared:
        """Return what the next connection is judged by; what was published is judged here.

        Raises:
            VerificationError: what was published is refused.
        """
        return prepare(self.ask())

    @property
    def due(self) -> bool:
        """Whether it is time to ask for the expectation again; the first connection asks by itself."""
        known = self._latest is not None and callable(self._expecting)
        return known and time.monotonic() >= self._asked_s + self._refresh_s

    def refresh(self) -> None:
        """Ask for the expectation again if it is time.

        Raises:
            BlindbuildError: there is none now; nothing may be sent then.
        """
        if self.due:
            self.ask()

    def check(self, verdict: Verdict) -> None:
        """Refuse to begin a request on a connection that does not stand.

        The exchange takes as long as a server likes: what was read meanwhile may have withdrawn a release.

        Raises:
            ChannelError: it does not.
        """
        if not self.stands(verdict):
            raise expired()

    def stands(self, verdict: Verdict) -> bool:
        """Return whether a connection may be used for another request."""
        latest = self._latest
        return verdict.holds() and (latest is None or latest.same_basis(verdict.expectation))
