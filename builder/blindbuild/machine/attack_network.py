"""What the operator can do between a client and a machine that serves, or in the machine's place."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from blindbuild.client import Attempt, attest
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.machine.attack_model import AnyAttack, Outcome, RunningAttack, Seen, Stage
from blindbuild.machine.config import HOST_ADDRESS
from blindbuild.machine.forgery import ForgedServer
from blindbuild.machine.interception import Relay, TlsInterceptor
from blindbuild.machine.key_swap import KeySwapper
from blindbuild.machine.swtpm import DEFAULT_BANKS, SoftwareTpm, manufacture_tpm
from blindbuild.verify import Policy
from blindbuild.verify.session import SEALED_PROFILE

SECRET = b"data of a client"
_OK = 200


def _relay(stage: Stage) -> Seen:
    """Pass the connection on as it is: the client judges who is at its other end, and that is the image."""
    with Relay(HOST_ADDRESS, stage.machine.port) as relay:
        with _accepted(stage, relay.url) as status:
            words = f"accepted through the relay, status {status}; the relay has seen TLS records only"
            return Seen(Outcome.NO_EFFECT, words)


@contextlib.contextmanager
def _accepted(stage: Stage, url: str) -> Iterator[int]:
    with attest(url, stage.expect(stage.machine.authority)).accept() as connection:
        yield connection.request(stage.route, SECRET).status


def _intercept(stage: Stage) -> Seen:
    """End TLS; where requests are sealed that is allowed, so put in another key to seal to as well."""
    with TlsInterceptor(HOST_ADDRESS, stage.machine.port) as middle:
        if stage.session.profile == SEALED_PROFILE:
            return _swap_key(stage, middle)
        found = attest(middle.url, stage.expect(stage.machine.authority))
        try:
            _send(stage, found)
        except VerificationError:
            words = (
                f"refused: the quote is for another TLS key; he has seen {len(middle.seen)} bytes of the "
                "exchange and none of a request"
            )
            return _refused(words, found.appraisal.reasons, got=SECRET in middle.seen)
    return Seen(Outcome.SUCCEEDS, "a client has sent its request to the operator")


def _swap_key(stage: Stage, middle: TlsInterceptor) -> Seen:
    with _accepted(stage, middle.url) as status:
        if status != _OK:  # an answer that is none would have no request in it
            raise ChannelError(f"expected an answer through the interceptor, got status {status}")
        if SECRET in middle.seen or SECRET in middle.answered:
            return Seen(Outcome.SUCCEEDS, "the operator has read a request, or the answer to it")
        size = len(middle.seen) + len(middle.answered)
        seen = f"he ends TLS and has seen {size} sealed and public bytes (status {status})"
    with KeySwapper(HOST_ADDRESS, stage.machine.port) as swapper:
        found = attest(swapper.url, stage.expect(stage.machine.authority))
        try:
            _send(stage, found)
        except VerificationError:
            words = f"{seen}; refused with a key of his own in the evidence"
            return _refused(words, found.appraisal.reasons, got=bool(swapper.stolen))
    return Seen(Outcome.SUCCEEDS, "a client has sealed its request to the operator")


def _send(stage: Stage, found: Attempt) -> None:
    with found.accept() as connection:
        connection.request(stage.route, SECRET)


def sealed_interception(attack: AnyAttack) -> AnyAttack:
    """Return how the interception of TLS must end where requests are sealed: it has no effect by itself."""
    return replace(
        attack,
        summary="ends TLS himself, passes all on, and then puts a key of his own into the evidence",
        reasons=frozenset({"Q7:bound-data-mismatch", "C3:other-hpke-key"}),
    )


def _refused(words: str, reasons: frozenset[str], *, got: bool) -> Seen:
    return Seen(Outcome.SUCCEEDS if got else Outcome.REFUSED, words, reasons=reasons)


def _forge(stage: Stage) -> Seen:
    """Answer with a fresh TPM that was told what a genuine one had measured; nothing is booted."""
    directory = stage.directory / "forged"
    manufacture_tpm(directory, stage.machine.authority, banks=DEFAULT_BANKS)
    control = stage.machine.files.sockets / "forged"
    with SoftwareTpm(directory, control, stage.directory / "forged.log") as tpm:
        session = stage.session
        with ForgedServer(tpm, session.evidence.event_log, profile=session.profile) as forged:
            expectation = stage.expect(stage.machine.authority)
            strict = attest(forged.url, replace(expectation, policy=Policy()))
            strict.close()
            reasons = strict.appraisal.reasons
            found = attest(forged.url, expectation)
            try:
                _send(stage, found)
            except VerificationError:
                words = "refused even by a client that believes operator-run TPMs"
                return Seen(Outcome.REFUSED, words, reasons=found.appraisal.reasons)
            if not any(SECRET in request for request in forged.stolen):
                raise ChannelError("expected the forged server to have got the request")
    words = "a client that allows operator-run TPMs sends its request to the operator; a strict one refuses"
    return Seen(Outcome.SUCCEEDS, words, reasons=reasons)


NETWORK_ATTACKS: tuple[RunningAttack, ...] = (
    RunningAttack(
        name="relay",
        summary="passes the connection on to another machine that runs the image",
        outcome=Outcome.NO_EFFECT,
        play=_relay,
    ),
    RunningAttack(
        name="tls-mitm",
        summary="ends TLS himself and passes requests and evidence on to the machine",
        outcome=Outcome.REFUSED,
        reasons=frozenset({"Q7:bound-data-mismatch", "C3:other-tls-key"}),
        play=_intercept,
    ),
    RunningAttack(
        name="fresh-tpm",
        summary="boots nothing: replays a genuine event log into a fresh TPM and answers with its quotes",
        outcome=Outcome.SUCCEEDS,
        reasons=frozenset({"A11:test-tpm"}),
        play=_forge,
    ),
)
