"""Connections to one server, each judged before it is used, for programs that have no httpx."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from blindbuild.client.advice import BUSY, channel_error
from blindbuild.client.attest import AttestedConnection, attest
from blindbuild.client.expectation import Expecting
from blindbuild.client.judge import DEFAULT_REFRESH_S, IDLE_S, MAX_CONNECTIONS, Judge
from blindbuild.client.transport import DEFAULT_TIMEOUT_S, Address

MAX_WAIT_S = 60.0  # for one of the connections to be free


class AttestedPool:
    """Lends connections that were judged; one that ended is replaced by one that is judged anew.

    Args:
        url: `https://host[:port]`, the only server there is; also `http://` for an image whose requests are
            sealed.
        expecting: what to judge by, or what gives it; see `Judge`.
        timeout_s: for connecting, and for each wait after it.
        refresh_s: seconds; see `Judge`.
        max_connections: at once.
    """

    def __init__(
        self,
        url: str,
        expecting: Expecting,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        refresh_s: float = DEFAULT_REFRESH_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._url = url
        self._timeout_s = timeout_s
        self._judge = Judge(Address.parse(url, plain=True), expecting, refresh_s=refresh_s)
        self._free = threading.BoundedSemaphore(max_connections)
        self._guard = threading.Lock()
        self._idle: list[tuple[float, AttestedConnection]] = []
        self._closed = False

    @contextlib.contextmanager
    def lend(self) -> Iterator[AttestedConnection]:
        """Lend a connection for one request at a time; whatever is raised while it is lent ends it.

        Raises:
            VerificationError: the server is refused.
            ChannelError: it cannot be reached, broke the protocol, or all connections are in use.
        """
        if not self._free.acquire(timeout=MAX_WAIT_S):
            raise channel_error(f"{self._judge.address}: all connections are in use", BUSY)
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                connection.close()
                raise
            self._give_back(connection)
        finally:
            self._free.release()

    def check(self, connection: AttestedConnection) -> None:
        """Refuse to begin a request on a lent connection that was judged by what is no longer current.

        Raises:
            ChannelError: it was.
        """
        self._judge.check(connection.verdict)

    def close(self) -> None:
        """Close all connections that are not lent, and the others when they come back."""
        with self._guard:
            self._closed = True
            idle, self._idle = self._idle, []
        for _since, connection in idle:
            connection.close()

    def _take(self) -> AttestedConnection:
        self._judge.refresh()
        while (connection := self._take_idle()) is not None:
            if self._judge.stands(connection.verdict) and connection.alive():
                return connection
            connection.close()
        return attest(self._url, self._judge.ask, timeout_s=self._timeout_s).accept()

    def _take_idle(self) -> AttestedConnection | None:
        with self._guard:
            while self._idle:
                since, connection = self._idle.pop()
                if time.monotonic() < since + IDLE_S:
                    return connection
                connection.close()
        return None

    def _give_back(self, connection: AttestedConnection) -> None:
        with self._guard:
            if not self._closed:
                self._idle.append((time.monotonic(), connection))
                return
        connection.close()
