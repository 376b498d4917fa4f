"""What a client judges servers by, in one value that can be asked for anew at each attestation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blindbuild.client.state import StateStore
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.canonical import JsonValue
from blindbuild.manifest import TrustRoots
from blindbuild.verify import (
    AcceptedSession,
    Appraisal,
    History,
    Policy,
    RecordedSession,
    appraise,
    check_publication,
)

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.client.log_check import LogCheck
    from blindbuild.verify.current import CurrentView
    from blindbuild.verify.tlog import RequiredLog

Audit = Callable[[Mapping[str, JsonValue]], None]
"""Takes one record for each decision; audit.py says what is in it."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """What the client judges a server by.

    Attributes:
        envelope: a DSSE envelope over the statement.
        release: a DSSE envelope over the release, or None.
        state: where accepted sessions are remembered, or None to judge as if at first use.
        clock: gives seconds since 1970.
        remember: record what is accepted; if not, what was recorded before still counts.
        ledger: the bytes of channels.json, or None; a policy that wants channels closed needs them.
        log: the transparency log that must have the release, or None when none is asked for.
        rebuilds: DSSE envelopes over rebuild records; they count when the trust file names rebuilders.
        current: what a refresh of the trust file's TUF repository has established; None where none is pinned.
        crls: certificate revocation lists, DER or PEM, of the authorities that the trust file pins.
        probe: a DSSE envelope over the probe of the image, or None; a policy may want one.
        audit: told of each decision, before data may be sent; what it raises refuses the server.
    """

    envelope: bytes
    release: bytes | None
    trust: TrustRoots
    policy: Policy
    bank: HashAlgorithm = HashAlgorithm.SHA256
    state: StateStore | None = None
    clock: Callable[[], float] = time.time
    remember: bool = True
    ledger: bytes | None = None
    log: LogCheck | None = None
    rebuilds: Sequence[bytes] = ()
    current: CurrentView | None = None
    crls: Sequence[bytes] = ()
    probe: bytes | None = None
    audit: Audit | None = None

    def now(self) -> int:
        """Return the whole seconds since 1970."""
        return int(self.clock())

    def history(self) -> History | None:
        """Return what was accepted before in this trust domain, on this channel."""
        return None if self.state is None else self.state.read(self._domain())

    def required_log(self, now: int) -> RequiredLog | None:
        """Return what the log is judged by; its files are read when it shows something new.

        What is refused at this time has no memory beside it: it must be judged at the same time, or earlier.
        """
        return None if self.log is None else self.log.require(now=now, skew_s=self.policy.clock_skew_s)

    def check_publication(self, *, now: int, log: RequiredLog | None) -> Appraisal:
        """Judge what was published, before any server is asked."""
        return check_publication(
            self.envelope,
            release=self.release,
            trust=self.trust,
            now=now,
            policy=self.policy,
            history=self.history(),
            ledger=self.ledger,
            log=log,
            rebuilds=self.rebuilds,
            current=self.current,
            probe=self.probe,
        )

    def appraise(self, session: RecordedSession, *, now: int, log: RequiredLog | None) -> Appraisal:
        """Judge one session."""
        return appraise(
            session,
            envelope=self.envelope,
            release=self.release,
            trust=self.trust,
            now=now,
            policy=self.policy,
            history=self.history(),
            ledger=self.ledger,
            log=log,
            rebuilds=self.rebuilds,
            current=self.current,
            crls=self.crls,
            probe=self.probe,
        )

    def record(self, accepted: AcceptedSession) -> None:
        """Remember an accepted session, if that is wanted."""
        if self.log is not None and self.remember:
            self.log.record(accepted.checkpoint)
        if self.state is not None and self.remember:
            self.state.record(self._domain(), accepted.history)

    def _domain(self) -> Digest:
        return self.trust.domain_of(self.policy.channel)

    def same_basis(self, other: Expectation) -> bool:
        """Return whether a server that was judged by one of them need not be judged by the other."""
        return self._basis() == other._basis()

    def _basis(self) -> tuple[object, ...]:
        return (
            self.envelope,
            self.release,
            self.trust,
            self.policy,
            self.bank,
            self.ledger,
            self.log is None,
            tuple(self.rebuilds),
            None if self.current is None else self.current.meaning,
            tuple(self.crls),
            self.probe if self.policy.require_probe else None,  # anybody can put a file there
        )


Expecting = Expectation | Callable[[], Expectation]
"""An expectation, or what gives a fresh one; it is called again at each attestation."""


def current(expecting: Expecting) -> Expectation:
    """Return the expectation of this moment.

    Raises:
        BlindbuildError: whatever keeps the callable from giving one; nothing is sent then.
    """
    return expecting if isinstance(expecting, Expectation) else expecting()
