"""Ask a server to prove what it is, and only then give a connection that data may be sent on."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from blindbuild.client.exchange import Prepared, ask, prepare
from blindbuild.client.expectation import Expectation, Expecting, current
from blindbuild.client.http1 import Response
from blindbuild.client.transport import DEFAULT_TIMEOUT_S, Connection
from blindbuild.client.verdict import Verdict, accept, expired, recorded
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.verify import Appraisal, RecordedSession

if TYPE_CHECKING:  # loaded for images whose requests are sealed
    from blindbuild.client.sealed import SealedConnection

MAX_RESPONSE = 64 << 20  # bytes of a workload's answer
_OK = 200
_BINARY = "application/octet-stream"


class AttestedConnection:
    """A connection whose other end has proven what it is; it can only come from `Attempt.accept`.

    Attributes:
        session: what was accepted, and until when.
    """

    def __init__(self, connection: Connection | SealedConnection, verdict: Verdict) -> None:
        if connection.peer.spki != verdict.session.spki:
            raise VerificationError(
                "expected the attested TLS key, got another", step="C3", reason="other-tls-key"
            )
        self.session = verdict.session
        self.verdict = verdict
        self._connection = connection

    def request(
        self, path: str, body: bytes, *, content_type: str = _BINARY, max_body: int = MAX_RESPONSE
    ) -> Response:
        """POST a body on this very connection and return the whole answer.

        Raises:
            ChannelError: the connection was lost, or the verdict is too old; nothing is sent a second time.
        """
        self._check()
        return self._connection.request("POST", path, body=body, content_type=content_type, max_body=max_body)

    def transmit(self, message: bytes, *, max_body: int = MAX_RESPONSE) -> Response:
        """Send the bytes of one request on this very connection and return the whole answer.

        Raises:
            ChannelError: as `request`.
        """
        self._check()
        return self._connection.transmit(message, max_body=max_body)

    @property
    def host(self) -> str:
        """What a request's Host header says."""
        return str(self._connection.address)

    def alive(self) -> bool:
        """Return whether the other end is still there and has said nothing that was not asked for."""
        return self._connection.alive()

    def post(
        self, path: str, body: bytes, *, content_type: str = _BINARY, max_body: int = MAX_RESPONSE
    ) -> bytes:
        """POST a body and return the answer's; any status but 200 is an error."""
        response = self.request(path, body, content_type=content_type, max_body=max_body)
        if response.status != _OK:
            raise ChannelError(f"POST {path}: expected status {_OK}, got {response.status}")
        return response.body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _check(self) -> None:
        if not self.verdict.holds():
            self.close()
            raise expired()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Attempt:
    """One exchange with a server and what came of it; no data can be sent on it.

    Attributes:
        session: the exchange, to be saved or looked at.
        appraisal: every step and its outcome.
    """

    def __init__(
        self,
        connection: Connection | SealedConnection,
        session: RecordedSession,
        appraisal: Appraisal,
        expectation: Expectation,
    ) -> None:
        self.session = session
        self.appraisal = appraisal
        self._connection = connection
        self._expectation = expectation
        self._judged_s = time.monotonic()

    def accept(self) -> AttestedConnection:
        """Return the connection for data, and remember what was accepted.

        Raises:
            VerificationError: the appraisal failed; the connection is closed.
        """
        try:
            verdict = accept(
                self._expectation,
                self.session,
                self.appraisal,
                self._connection.peer,
                judged_s=self._judged_s,
            )
            return AttestedConnection(self._connection, verdict)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_attested(
    url: str, expectation: Expecting, *, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AttestedConnection:
    """Connect to a server, have it prove what it is, and return a connection for data.

    Args:
        url, expectation, timeout_s: as for `attest`.

    Raises:
        VerificationError: a step failed; nothing but the exchange was sent.
        ChannelError: the server cannot be reached or broke the protocol.
    """
    return attest(url, expectation, timeout_s=timeout_s).accept()


def attest(url: str, expectation: Expecting, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Attempt:
    """Have the exchange with a server and judge it.

    What was published is judged first: when that fails, no server is asked.

    Args:
        url: `https://host[:port]`; also `http://` for an image whose requests are sealed.
        expectation: what to judge by, or what gives it.
        timeout_s: for connecting, and for each wait after it.

    Raises:
        VerificationError: what was published is refused, or the answer is malformed.
        ChannelError: the server cannot be reached or broke the protocol.
    """
    judged_by = current(expectation)
    prepared = prepare(judged_by)
    if prepared.sealed:
        return _attest_through(url, prepared, timeout_s=timeout_s)
    connection = Connection.open(url, timeout_s=timeout_s)
    try:
        with recorded(judged_by, str(connection.address)):
            session = ask(prepared.exchange(connection.spki), connection.ask)
        return Attempt(connection, session, prepared.appraise(session), judged_by)
    except BaseException:
        connection.close()
        raise


def _attest_through(url: str, prepared: Prepared, *, timeout_s: float) -> Attempt:
    """Have the exchange with an image behind somebody who ends TLS."""
    from blindbuild.client.forwarded import ForwardedConnection
    from blindbuild.client.sealed import SealedConnection

    connection = ForwardedConnection.open(url, timeout_s=timeout_s)
    try:
        with recorded(prepared.expectation, str(connection.address)):
            session = ask(prepared.exchange(None), connection.ask)
        appraisal = prepared.appraise(session)
        return Attempt(SealedConnection(connection, session), session, appraisal, prepared.expectation)
    except BaseException:
        connection.close()
        raise
