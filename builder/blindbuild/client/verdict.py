"""What was decided about one connection, and for how long it may be relied upon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

from blindbuild.client.advice import EXPIRED, accepted_or_advice, before_data, channel_error
from blindbuild.client.audit import record_decision
from blindbuild.client.exchange import Prepared
from blindbuild.client.expectation import Expectation
from blindbuild.client.transport import Peer
from blindbuild.errors import BlindbuildError, ChannelError, VerificationError
from blindbuild.verify import AcceptedSession, Appraisal, RecordedSession


@dataclass(frozen=True, slots=True)
class Verdict:
    """An accepted session on one connection; `accept` is the way to it.

    Attributes:
        expectation: what it was judged by.
        judged_s: when, by the clock that nobody can set.
    """

    session: AcceptedSession
    expectation: Expectation
    judged_s: float

    def holds(self) -> bool:
        """Return whether data may still be sent on the connection that was judged."""
        # the wall clock counts while the machine sleeps, the other one when somebody sets the wall clock back
        judged = self.session.history.time
        in_time = judged <= self.expectation.clock() < self.session.expires
        return in_time and time.monotonic() < self.judged_s + (self.session.expires - judged)

    def check(self) -> None:
        """Refuse to go on when the verdict is too old.

        Raises:
            ChannelError: it is.
        """
        if not self.holds():
            raise expired()


def expired() -> ChannelError:
    """Return the error of a verdict that is too old."""
    return channel_error("the verdict about this server has expired; attest again", EXPIRED)


def judge(prepared: Prepared, session: RecordedSession, peer: Peer) -> Verdict:
    """Judge a session that was just had, and remember and record what comes of it.

    Raises:
        VerificationError: a step failed.
    """
    judged_s = time.monotonic()
    return accept(prepared.expectation, session, prepared.appraise(session), peer, judged_s=judged_s)


@contextlib.contextmanager
def recorded(expectation: Expectation, server: str) -> Iterator[None]:
    """Record a server that is refused during the exchange, before there is anything to appraise.

    What says that a request may have been worked on says here that none was sent.
    """
    try:
        yield
    except Exception as error:
        told = before_data(error)
        if isinstance(told, BlindbuildError):
            record_decision(expectation, server=server, appraisal=None, error=told)
        if told is error:
            raise
        raise told from error


def accept(
    expectation: Expectation,
    session: RecordedSession,
    appraisal: Appraisal,
    peer: Peer,
    *,
    judged_s: float,
) -> Verdict:
    """Turn an appraisal into a verdict, and remember and record it.

    Raises:
        VerificationError: a step failed, or another program accepted something newer meanwhile.
        BlindbuildError: it cannot be remembered or recorded.
    """
    try:
        accepted = accepted_or_advice(appraisal, issuer=peer.issuer)
        # C3 says it of the session; this says it of the connection that will carry the data
        if accepted.spki != peer.spki:
            raise VerificationError(
                "expected the attested TLS key, got another", step="C3", reason="other-tls-key"
            )
        expectation.record(accepted)
    except BlindbuildError as error:
        record_decision(expectation, server=peer.server, appraisal=appraisal, session=session, error=error)
        raise
    record_decision(expectation, server=peer.server, appraisal=appraisal, session=session)
    return Verdict(accepted, expectation, judged_s)
