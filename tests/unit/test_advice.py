"""Which sentences are said for which refusal; what the checklist decides is not theirs to change."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from blindbuild.client import advice
from blindbuild.client.advice import Advice, accepted_or_advice, advise
from blindbuild.client.exchange import ask, prepare
from blindbuild.client.httpx_streams import (
    AsyncAttestedStream,
    AsyncAttestingBackend,
    AttestedStream,
    AttestingBackend,
)
from blindbuild.client.judge import Judge
from blindbuild.client.transport import Address, Peer
from blindbuild.client.verdict import Verdict, judge
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.verify import Appraisal
from blindbuild.verify.checklist import Outcome, Step
from tests.fakes.published import NOW
from tests.fakes.world import SPKI, session
from tests.fakes.world import judge as appraise
from tests.unit.test_exchange import Machine, expectation

HONEST = appraise(session())


def failing(*reasons: str) -> Appraisal:
    """An appraisal in which exactly these steps failed."""
    failed = tuple(
        Step(step, "a title", Outcome.FAILED, "expected one, got another", reason)
        for step, _, reason in (text.partition(":") for text in reasons)
    )
    others = tuple(step for step in HONEST.steps if step.id not in {f.id for f in failed})
    return dataclasses.replace(HONEST, steps=(*others, *failed), verdict=None)


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (("Q7:bound-data-mismatch", "C3:other-tls-key"), advice.MIDDLE),
        (("A8:credential-mismatch", "Q7:bound-data-mismatch"), advice.OLD_ANSWER),
        (("Q7:bound-data-mismatch",), advice.MIDDLE_OR_OLD),
        (("A8:credential-mismatch", "Q2:signature-invalid"), advice.OTHER_MACHINE),
        (("A2:key-attributes",), advice.OTHER_MACHINE),
        (("A11:test-tpm",), advice.UNKNOWN_CHIP),
        (("A4:certificate-path",), advice.UNKNOWN_CHIP),
        (("A10:machine-not-allowed",), advice.UNKNOWN_CHIP),
        (("A7:certificate-revoked",), advice.UNKNOWN_CHIP),
        (("A7:key-pinned",), advice.PINNED_CHIP),
        (("A5:key-not-pinned", "A7:key-pinned"), advice.UNKNOWN_CHIP),
        (("C1:profile-not-allowed",), advice.OTHER_PROFILE),
        (("E1:register-mismatch",), advice.OTHER_SOFTWARE),
        (("E10:event-mismatch",), advice.OTHER_SOFTWARE),
        (("Q12:clock-went-back",), advice.CHIP_STATE),
        (("M10:rollback", "E1:register-mismatch"), advice.BAD_RELEASE),
        (("P3:channel-not-closed",), advice.OPEN_RELEASE),
        (("P5:probe-missing",), advice.NOT_PROBED),
        (("P3:channel-not-closed", "P5:check-not-shown"), advice.OPEN_RELEASE),
        (("E4:malformed",), advice.BROKEN_EVIDENCE),
        # somebody in between with another image behind him: he comes first
        (("Q7:bound-data-mismatch", "C3:other-tls-key", "E1:register-mismatch"), advice.MIDDLE),
    ],
)
def test_a_refusal_has_its_sentences(reasons: tuple[str, ...], expected: Advice) -> None:
    appraisal = failing(*reasons)
    assert advise(appraisal) == expected
    with pytest.raises(VerificationError) as caught:
        accepted_or_advice(appraisal)
    assert expected.text in (caught.value.hint or "")
    assert f"{caught.value.step}:{caught.value.reason}" in reasons


def test_what_is_accepted_has_none() -> None:
    assert advise(HONEST) is None
    assert accepted_or_advice(HONEST) is HONEST.verdict


def test_an_issuer_is_named_only_where_somebody_stands_in_between() -> None:
    for reasons, named in ((("C3:other-tls-key",), True), (("E1:register-mismatch",), False)):
        with pytest.raises(VerificationError) as caught:
            accepted_or_advice(failing(*reasons), issuer="CN=Inspection\x1b[2J")
        assert ("issued by CN=Inspection\\x1b[2J" in (caught.value.hint or "")) is named


# --- the streams that httpx's pool is given


class Wire:
    """What is written, for a pool that does not ask before it writes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes, _timeout: float | None) -> None:
        self.written.append(data)

    def get_extra_info(self, info: str) -> Any:
        return None if info == "ssl_object" else False


class AsyncWire(Wire):
    async def write(self, data: bytes, _timeout: float | None) -> None:  # type: ignore[override]
        self.written.append(data)


def verdict(now: list[float]) -> tuple[Verdict, Judge]:
    judged_by = Judge(Address("host", 443), expectation(clock=lambda: now[0]), refresh_s=0.0)
    prepared = prepare(judged_by.ask())
    return judge(prepared, ask(prepared.exchange(SPKI), Machine().whole), Peer("host", SPKI)), judged_by


@pytest.mark.parametrize("step", [3600, -1])
def test_a_stream_whose_verdict_ended_writes_nothing_whoever_asks(step: int) -> None:
    now: list[float] = [NOW]
    made, judged_by = verdict(now)
    wire = Wire()
    stream = AttestedStream(wire, made, judged_by)
    assert not stream.get_extra_info("is_readable")
    now[0] += step
    assert stream.get_extra_info("is_readable")  # so the pool throws it away
    with pytest.raises(ChannelError, match="expired; attest again"):
        stream.write(b"data")
    waiting = AsyncAttestedStream(wire, made, judged_by).write(b"data")
    with pytest.raises(ChannelError, match="expired; attest again"):
        waiting.send(None)
    assert wire.written == []


def test_a_verdict_ends_by_the_clock_that_nobody_can_set(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _judged_by = verdict([NOW])
    later = time.monotonic() + 3601
    monkeypatch.setattr("blindbuild.client.verdict.time.monotonic", lambda: later)
    assert not made.holds()


def test_the_backend_connects_to_the_one_server_alone() -> None:
    judged_by = Judge(Address("host", 443), expectation(), refresh_s=0.0)
    for host, port in (("other", 443), ("host", 8443)):
        with pytest.raises(ChannelError, match="expected to connect to host"):
            AttestingBackend(Wire(), judged_by).connect_tcp(host, port)
        with pytest.raises(ChannelError, match="expected to connect to host"):
            AsyncAttestingBackend(AsyncWire(), judged_by).connect_tcp(host, port).send(None)
    with pytest.raises(ChannelError, match="expected a server with an address"):
        AttestingBackend(Wire(), judged_by).connect_unix_socket("/run/other")


def test_no_second_tls_goes_over_an_attested_stream() -> None:
    made, judged_by = verdict([NOW])
    with pytest.raises(ChannelError, match="no second TLS"):
        AttestedStream(Wire(), made, judged_by).start_tls(None)
    with pytest.raises(ChannelError, match="no second TLS"):
        AsyncAttestedStream(AsyncWire(), made, judged_by).start_tls(None).send(None)
