"""The exchange with an attester without any input or output: questions go out, answers come in.

Every transport uses it: the connection of `attest`, and the streams of httpx, sync and async. First what was
published is judged (`prepare`), then a generator asks for endorsement and evidence, then all of it is judged.

Source: docs/spec/evidence.md.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from blindbuild.client.advice import accepted_or_advice
from blindbuild.client.audit import record_decision
from blindbuild.client.expectation import Expectation
from blindbuild.client.http1 import Response, reading, write_request
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import (
    ChannelError,
    EnvelopeError,
    ManifestError,
    TpmStructureError,
    VerificationError,
)
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.formats.credential import Credential, make_credential
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.fields import encode_base64
from blindbuild.formats.tpmkey import parse_sized_public
from blindbuild.manifest import TrustRoots, parse_statement
from blindbuild.verify import Appraisal, Endorsement, RecordedSession, parse_endorsement, parse_evidence
from blindbuild.verify.session import MAX_ANSWER, NONCE_SIZE, PROFILE, SEALED_PROFILE, SECRET_SIZE

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.verify.tlog import RequiredLog

ENDORSEMENT_PATH = "/.well-known/blindbuild/endorsement"
EVIDENCE_PATH = "/.well-known/blindbuild/evidence"
MAX_NONCE_AGE_S = 120.0  # from drawing the nonce to the verdict; an emulated machine takes seconds
_OK = 200
_JSON = "application/json"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Question:
    """One request of the exchange, or a sealed one.

    Attributes:
        body: None for GET.
        deadline: until when it may take, by the clock that nobody can set.
    """

    method: str
    target: str
    body: bytes | None = None
    content_type: str = _JSON
    max_body: int = MAX_ANSWER
    deadline: float = math.inf

    def written(self, *, host: str) -> bytes:
        """Return its bytes; `host` is for the Host header."""
        return write_request(
            self.method, self.target, host=host, body=self.body, content_type=self.content_type
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was published has been judged, so that servers may be asked; `prepare` is the way to it.

    Attributes:
        statement: the SHA-256 of the statement that is judged by.
        log: what the transparency log is judged by, or None.
        profile: what the image's evidence is bound to, as the statement says.
    """

    expectation: Expectation
    statement: Digest
    log: RequiredLog | None
    profile: str = PROFILE

    @property
    def sealed(self) -> bool:
        """Whether data is sealed to an HPKE key, so that TLS may end before the image."""
        return self.profile == SEALED_PROFILE

    def exchange(self, spki: bytes | None) -> Generator[Question, Response, RecordedSession]:
        """Ask one server; each question is answered by sending the response into the generator.

        Args:
            spki: DER SubjectPublicKeyInfo that the server has shown on the connection that is used, or None
                if data will be sealed to the HPKE key of the evidence.

        Raises:
            VerificationError: an answer is malformed.
            ChannelError: an answer is none, or came too late; or the image takes data in the other way.
        """
        if self.sealed is not (spki is None):
            raise ChannelError(f"expected a client for images of profile {self.profile}")
        started = time.monotonic()
        deadline = started + MAX_NONCE_AGE_S
        answer = yield Question("GET", ENDORSEMENT_PATH, deadline=deadline)
        endorsement = parse_endorsement(_body_of(answer, "endorsement"))
        secret, credential = _challenge(endorsement, self.expectation.trust)
        nonce = secrets.token_bytes(NONCE_SIZE)
        body = self._evidence_request(nonce, credential)
        answer = yield Question("POST", EVIDENCE_PATH, body=body, deadline=deadline)
        elapsed = time.monotonic() - started
        # Q1: a nonce is only good for a while; the longer it is out, the more there is to try with it
        limit = min(MAX_NONCE_AGE_S, self.expectation.policy.evidence_age_s)
        if elapsed > limit:
            raise _late(elapsed, limit)
        evidence = parse_evidence(_body_of(answer, "evidence"))
        if spki is None and evidence.sealing is not None:
            spki = evidence.sealing.spki
        return RecordedSession(
            profile=self.profile,
            nonce=nonce,
            statement=self.statement,
            bank=self.expectation.bank,
            spki=spki or b"",  # none: C1 refuses evidence of another profile
            credential_secret=secret,
            endorsement=endorsement,
            evidence=evidence,
            live=True,
        )

    def appraise(self, session: RecordedSession) -> Appraisal:
        """Judge the session that the exchange gave."""
        return self.expectation.appraise(session, now=self.expectation.now(), log=self.log)

    def _evidence_request(self, nonce: bytes, credential: Credential | None) -> bytes:
        request: dict[str, JsonValue] = {
            "version": 1,
            "profile": self.profile,
            "nonce": nonce.hex(),
            "statement": self.statement.hex,
            "bank": self.expectation.bank.value,
        }
        if credential is not None:
            request["credentialBlob"] = encode_base64(credential.blob)
            request["encryptedSecret"] = encode_base64(credential.encrypted_secret)
        return canonical_bytes(request)


def prepare(expectation: Expectation) -> Prepared:
    """Judge what was published; when that fails, no server is asked.

    Raises:
        VerificationError: what was published is refused.
    """
    now = expectation.now()
    log = expectation.required_log(now)
    published = expectation.check_publication(now=now, log=log)
    if published.failed:
        record_decision(expectation, server="", appraisal=published)
        _refuse(published, expectation, log)
    try:
        payload = parse_envelope(expectation.envelope).payload
        profile = parse_statement(payload).channel_binding
    except (EnvelopeError, ManifestError) as error:
        raise VerificationError(error.message, step="M4", reason="envelope-refused") from error
    return Prepared(expectation, Digest.sha256(payload), log, profile)


def ask(questions: Generator[Question, Response, _T], answer: Callable[[Question], Response]) -> _T:
    """Have an exchange with somebody who takes questions and returns whole answers."""
    try:
        question = next(questions)
        while True:
            question = questions.send(answer(question))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def as_bytes(
    questions: Generator[Question, Response, _T], *, host: str
) -> Generator[bytes | None, bytes, _T]:
    """Turn an exchange into bytes: it yields what is to be sent, or None to be sent what has arrived.

    Args:
        host: for the Host header.

    Raises:
        ChannelError: the answers are not plain HTTP/1.1, or take too long.
    """
    deadline = time.monotonic() + MAX_NONCE_AGE_S
    try:
        question = next(questions)
        while True:
            yield question.written(host=host)
            question = questions.send((yield from _answer(question.max_body, deadline)))
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _answer(max_body: int, deadline: float) -> Generator[None, bytes, Response]:
    reader = reading(max_body=max_body)
    next(reader)
    while True:
        data = yield None
        if time.monotonic() > deadline:
            raise _late(MAX_NONCE_AGE_S)
        try:
            reader.send(data)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def _late(elapsed_s: float, limit_s: float = MAX_NONCE_AGE_S) -> ChannelError:
    return ChannelError(f"expected evidence within {limit_s:.0f} s, got it after {elapsed_s:.0f} s")


def _refuse(published: Appraisal, expectation: Expectation, log: RequiredLog | None) -> None:
    try:
        accepted_or_advice(published)
    except VerificationError as error:
        if expectation.log is None or log is None:
            raise
        kept = expectation.log.keep_evidence(log, published.reasons)
        hint = "\n".join(line for line in (error.hint, kept) if line)
        raise VerificationError(error.message, step=error.step, reason=error.reason, hint=hint) from error


def _challenge(endorsement: Endorsement, trust: TrustRoots) -> tuple[bytes | None, Credential | None]:
    if trust.attestation_keys or trust.ak_roots:
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
