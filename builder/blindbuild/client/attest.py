"""Ask a server to prove what it is, and only then give a connection that data may be sent on."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from blindbuild.client.http1 import Response
from blindbuild.client.state import StateStore
from blindbuild.client.transport import DEFAULT_TIMEOUT_S, Connection
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import ChannelError, EnvelopeError, TpmStructureError, VerificationError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.formats.credential import Credential, make_credential
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.fields import encode_base64
from blindbuild.formats.tpmkey import parse_sized_public
from blindbuild.manifest import TrustRoots
from blindbuild.verify import (
    AcceptedSession,
    Appraisal,
    Endorsement,
    History,
    Policy,
    RecordedSession,
    appraise,
    check_publication,
    parse_endorsement,
    parse_evidence,
)
from blindbuild.verify.session import MAX_ANSWER, NONCE_SIZE, PROFILE, SECRET_SIZE

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.client.log_check import LogCheck
    from blindbuild.verify.tlog import RequiredLog

ENDORSEMENT_PATH = "/.well-known/blindbuild/endorsement"
EVIDENCE_PATH = "/.well-known/blindbuild/evidence"
MAX_NONCE_AGE_S = 120.0  # from drawing the nonce to the verdict; an emulated machine takes seconds
MAX_RESPONSE = 64 << 20  # bytes of a workload's answer
_OK = 200
_JSON = "application/json"
_BINARY = "application/octet-stream"


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

    def now(self) -> int:
        """Return the whole seconds since 1970."""
        return int(self.clock())

    def history(self) -> History | None:
        """Return what was accepted before in this trust domain."""
        return None if self.state is None else self.state.read(self.trust.domain)

    def required_log(self, now: int) -> RequiredLog | None:
        """Return what the log is judged by; its files are read when it shows something new.

        What is refused at this time has no memory beside it: it must be judged at the same time, or earlier.
        """
        return None if self.log is None else self.log.require(now=now, skew_s=self.policy.clock_skew_s)

    def record(self, accepted: AcceptedSession) -> None:
        """Remember an accepted session, if that is wanted."""
        if self.log is not None and self.remember:
            self.log.record(accepted.checkpoint)
        if self.state is not None and self.remember:
            self.state.record(self.trust.domain, accepted.history)


class AttestedConnection:
    """A connection whose other end has proven what it is; it can only come from `Attempt.accept`.

    Attributes:
        session: what was accepted, and until when.
    """

    def __init__(
        self, connection: Connection, session: AcceptedSession, *, clock: Callable[[], float], judged_s: float
    ) -> None:
        if connection.spki != session.spki:
            raise VerificationError(
                "expected the attested TLS key, got another", step="C3", reason="other-tls-key"
            )
        self.session = session
        self._connection = connection
        self._clock = clock
        self._judged = session.history.time
        self._deadline_s = judged_s + (session.expires - self._judged)

    def request(
        self, path: str, body: bytes, *, content_type: str = _BINARY, max_body: int = MAX_RESPONSE
    ) -> Response:
        """POST a body on this very connection and return the whole answer.

        Raises:
            ChannelError: the connection was lost, or the verdict is too old; nothing is sent a second time.
        """
        # the wall clock counts while the machine sleeps, the other one when somebody sets the wall clock back
        in_time = self._judged <= self._clock() < self.session.expires
        if not in_time or time.monotonic() >= self._deadline_s:
            self.close()
            raise ChannelError("the verdict about this server has expired; attest again")
        return self._connection.request("POST", path, body=body, content_type=content_type, max_body=max_body)

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
        connection: Connection,
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
            accepted = self.appraisal.accepted()
            self._expectation.record(accepted)
            return AttestedConnection(
                self._connection, accepted, clock=self._expectation.clock, judged_s=self._judged_s
            )
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def open_attested(
    url: str,
    *,
    envelope: bytes,
    release: bytes | None,
    trust: TrustRoots,
    policy: Policy,
    bank: HashAlgorithm = HashAlgorithm.SHA256,
    state: StateStore | None = None,
    clock: Callable[[], float] = time.time,
    ledger: bytes | None = None,
    timeout_s: float = DEFAULT_TIMEOUT_S,
) -> AttestedConnection:
    """Connect to a server, have it prove what it is, and return a connection for data.

    Args:
        url: `https://host[:port]`.
        envelope: a DSSE envelope over the statement to judge by.
        release: a DSSE envelope over the release, or None.
        trust: whom to believe.
        policy: how much to accept.
        bank: the bank of registers to ask for.
        state: where accepted sessions are remembered, or None.
        clock: gives seconds since 1970.
        ledger: the bytes of channels.json, or None; a policy that wants channels closed needs them.
        timeout_s: for connecting, and for each wait after it.

    Raises:
        VerificationError: a step failed; nothing but the exchange was sent.
        ChannelError: the server cannot be reached or broke the protocol.
    """
    expectation = Expectation(envelope, release, trust, policy, bank, state, clock, ledger=ledger)
    return attest(url, expectation, timeout_s=timeout_s).accept()


def attest(url: str, expectation: Expectation, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Attempt:
    """Have the exchange with a server and judge it.

    What was published is judged first: when that fails, no server is asked.

    Raises:
        VerificationError: what was published is refused, or the answer is malformed.
        ChannelError: the server cannot be reached or broke the protocol.
    """
    now = expectation.now()
    log = expectation.required_log(now)
    statement = _statement_digest(expectation, log, now)
    connection = Connection.open(url, timeout_s=timeout_s)
    try:
        session = _timed_exchange(connection, expectation, statement)
        appraisal = appraise(
            session,
            envelope=expectation.envelope,
            release=expectation.release,
            trust=expectation.trust,
            now=expectation.now(),
            policy=expectation.policy,
            history=expectation.history(),
            ledger=expectation.ledger,
            log=log,
        )
        return Attempt(connection, session, appraisal, expectation)
    except BaseException:
        connection.close()
        raise


def _statement_digest(expectation: Expectation, log: RequiredLog | None, now: int) -> Digest:
    published = check_publication(
        expectation.envelope,
        release=expectation.release,
        trust=expectation.trust,
        now=now,
        policy=expectation.policy,
        history=expectation.history(),
        ledger=expectation.ledger,
        log=log,
    )
    if published.failed:
        _refuse(published, expectation, log)
    try:
        return Digest.sha256(parse_envelope(expectation.envelope).payload)
    except EnvelopeError as error:
        raise VerificationError(error.message, step="M4", reason="envelope-refused") from error


def _refuse(published: Appraisal, expectation: Expectation, log: RequiredLog | None) -> None:
    try:
        published.accepted()
    except VerificationError as error:
        if expectation.log is None or log is None:
            raise
        kept = expectation.log.keep_evidence(log, published.reasons)
        hint = "\n".join(line for line in (error.hint, kept) if line)
        raise VerificationError(error.message, step=error.step, reason=error.reason, hint=hint) from error


def _timed_exchange(connection: Connection, expectation: Expectation, statement: Digest) -> RecordedSession:
    started = time.monotonic()
    session = _exchange(connection, expectation, statement)
    elapsed = time.monotonic() - started
    # Q1: a nonce is only good for a while; the longer it is out, the more there is to try with it
    if elapsed > MAX_NONCE_AGE_S:
        raise ChannelError(f"expected evidence within {MAX_NONCE_AGE_S:.0f} s, got it after {elapsed:.0f} s")
    return session


def _exchange(connection: Connection, expectation: Expectation, statement: Digest) -> RecordedSession:
    answer = connection.request("GET", ENDORSEMENT_PATH, content_type=_JSON, max_body=MAX_ANSWER)
    endorsement = parse_endorsement(_body_of(answer, "endorsement"))
    secret, credential = _challenge(endorsement, expectation.trust)
    nonce = secrets.token_bytes(NONCE_SIZE)
    request: dict[str, JsonValue] = {
        "version": 1,
        "profile": PROFILE,
        "nonce": nonce.hex(),
        "statement": statement.hex,
        "bank": expectation.bank.value,
    }
    if credential is not None:
        request["credentialBlob"] = encode_base64(credential.blob)
        request["encryptedSecret"] = encode_base64(credential.encrypted_secret)
    answer = connection.request(
        "POST",
        EVIDENCE_PATH,
        body=canonical_bytes(request),
        content_type=_JSON,
        max_body=MAX_ANSWER,
    )
    return RecordedSession(
        profile=PROFILE,
        nonce=nonce,
        statement=statement,
        bank=expectation.bank,
        spki=connection.spki,
        credential_secret=secret,
        endorsement=endorsement,
        evidence=parse_evidence(_body_of(answer, "evidence")),
        live=True,
    )


def _challenge(endorsement: Endorsement, trust: TrustRoots) -> tuple[bytes | None, Credential | None]:
    if trust.attestation_keys:
        return None, None
    secret = secrets.token_bytes(SECRET_SIZE)
    try:
        endorsement_key = parse_sized_public(endorsement.ek_public)
        name = parse_sized_public(endorsement.ak_public).name()
        size = HashAlgorithm.SHA256.size
        credential = make_credential(
            endorsement_key,
            name,
            secret=secret,
            seed=secrets.token_bytes(size),
            oaep_seed=secrets.token_bytes(size),
        )
    except TpmStructureError as error:
        raise VerificationError(error.message, step="A8", reason="malformed") from error
    return secret, credential


def _body_of(response: Response, what: str) -> bytes:
    if response.status != _OK:
        # the gate's one-word reasons are for people; they are shown, not believed
        word = response.body[:80].decode("ascii", "replace")
        shown = "".join(char if char.isprintable() else "?" for char in word)
        raise ChannelError(f"{what}: expected status {_OK}, got {response.status} {shown}".rstrip())
    return response.body
