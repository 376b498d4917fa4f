"""The exchange without a network: what it asks, in which order, and what it makes of the answers."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blindbuild.client import Expectation
from blindbuild.client import exchange as module
from blindbuild.client.audit import AuditLog, record_decision
from blindbuild.client.exchange import Question, as_bytes, ask, prepare
from blindbuild.client.following import Following
from blindbuild.client.http1 import Response
from blindbuild.client.judge import Judge
from blindbuild.client.log_check import LogCheck
from blindbuild.client.transport import Address, Peer
from blindbuild.client.verdict import judge
from blindbuild.errors import BlindbuildError, ChannelError, UsageError, VerificationError
from blindbuild.formats.tpm2 import MAX_CRL
from blindbuild.manifest import parse_time
from blindbuild.verify import Policy, RecordedSession
from tests.fakes import log_world
from tests.fakes.ak_authority import AkAuthority, CrlShape, make_crl
from tests.fakes.attester import Attester
from tests.fakes.probed import probe_envelope
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.recording_server import answer
from tests.fakes.world import (
    SPKI,
    TEST_POLICY,
    authority,
    pinned_trust,
    publisher,
    session,
    tpm,
    with_endorsement,
)

EVIDENCE = "/.well-known/blindbuild/evidence"


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Machine:
    """An attester whose TLS key is `SPKI`, asked in whole messages or in bytes."""

    asked: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    tamper: Callable[[dict], dict] = lambda value: value

    def __post_init__(self) -> None:
        self._attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))

    def _body(self, method: str, target: str, body: bytes) -> bytes:
        self.asked.append((method, target))
        if target != EVIDENCE:
            return json.dumps(self._attester.endorsement()).encode()
        return json.dumps(self.tamper(self._attester.evidence(json.loads(body), SPKI))).encode()

    def whole(self, question: Question) -> Response:
        return Response(200, {}, self._body(question.method, question.target, question.body or b""))

    def in_bytes(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        method, target, _version = head.split(b"\r\n")[0].decode().split(" ")
        return answer(200, self._body(method, target, body))


def converse(machine: Machine, *, chunk: int, host: str = "host:8443") -> RecordedSession:
    """Answer an exchange in bytes, in pieces of some size."""
    talk = as_bytes(prepare(expectation()).exchange(SPKI), host=host)
    waiting = b""
    try:
        outgoing = next(talk)
        while True:
            if outgoing is None:
                outgoing, waiting = talk.send(waiting[:chunk]), waiting[chunk:]
            else:
                assert waiting == b""
                assert f"\r\nHost: {host}\r\n".encode() in outgoing
                waiting = machine.in_bytes(outgoing)
                outgoing = next(talk)
    except StopIteration as done:
        return done.value


def test_two_questions_lead_to_a_verdict() -> None:
    machine, prepared = Machine(), prepare(expectation())
    session = ask(prepared.exchange(SPKI), machine.whole)
    assert machine.asked == [("GET", "/.well-known/blindbuild/endorsement"), ("POST", EVIDENCE)]
    verdict = judge(prepared, session, Peer("host", SPKI))
    assert verdict.holds()
    assert session.live


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_the_same_in_bytes_however_they_arrive(chunk: int) -> None:
    prepared = prepare(expectation())
    session = converse(Machine(), chunk=chunk)
    assert judge(prepared, session, Peer("host", SPKI)).holds()


@settings(max_examples=25)
@given(st.integers(min_value=1, max_value=5000))
def test_an_answer_cut_anywhere_is_our_error(length: int) -> None:
    machine = Machine()
    cut = machine.in_bytes
    machine.in_bytes = lambda request: cut(request)[:length]  # type: ignore[method-assign]
    with pytest.raises(ChannelError, match=r"ended in the middle|expected"):
        converse(machine, chunk=4096)


def test_evidence_that_is_judged_on_another_connection_is_refused() -> None:
    prepared = prepare(expectation())
    session = ask(prepared.exchange(SPKI), Machine().whole)
    with pytest.raises(VerificationError) as caught:
        judge(prepared, session, Peer("host", b"the key of another connection"))
    assert (caught.value.step, caught.value.reason) == ("C3", "other-tls-key")


def test_answers_that_drip_are_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    talk = as_bytes(prepare(expectation()).exchange(SPKI), host="h")
    assert next(talk) is not None
    assert next(talk) is None
    now[0] = 60.0
    assert talk.send(b"HTTP/1.1 200 OK\r\n") is None
    now[0] = 121.0
    with pytest.raises(ChannelError, match="within 120 s"):
        talk.send(b"Content-Length: 0\r\n")


def test_a_nonce_is_as_young_as_the_policy_wants_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    machine = Machine()

    def slow(question: Question) -> Response:
        now[0] += 20
        return machine.whole(question)

    ask(prepare(expectation()).exchange(SPKI), slow)
    young = dataclasses.replace(TEST_POLICY, evidence_age_s=30)
    with pytest.raises(ChannelError, match="got it after 40 s"):
        ask(prepare(expectation(policy=young)).exchange(SPKI), slow)


def test_each_exchange_has_a_nonce_of_its_own() -> None:
    sessions = [ask(prepare(expectation()).exchange(SPKI), Machine().whole) for _ in range(2)]
    assert sessions[0].nonce != sessions[1].nonce


# --- what is judged by, over time


def test_a_callable_is_asked_at_each_attestation_and_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def latest() -> Expectation:
        calls.append(1)
        return expectation()

    judged_by = Judge(Address("host", 443), latest, refresh_s=1000.0)
    assert not judged_by.due
    prepared = judged_by.prepare()
    judged_by.refresh()
    assert len(calls) == 1
    verdict = judge(prepared, ask(prepared.exchange(SPKI), Machine().whole), Peer("host", SPKI))
    assert judged_by.stands(verdict)
    judged_by.prepare()
    assert len(calls) == 2
    assert judged_by.stands(verdict)  # nothing has changed


@pytest.mark.parametrize(
    "change",
    [
        {"envelope": b"another"},
        {"release": None},
        {"trust": dataclasses.replace(pinned_trust(), product="other")},
        {"policy": dataclasses.replace(TEST_POLICY, session_s=1)},
        {"ledger": b"{}"},
        {"rebuilds": (b"one",)},
        {"crls": (b"one",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_changes_in_what_is_judged_by_ends_a_verdict(change: dict) -> None:
    latest = [expectation()]
    judged_by = Judge(Address("host", 443), lambda: latest[0], refresh_s=0.0)
    prepared = judged_by.prepare()
    verdict = judge(prepared, ask(prepared.exchange(SPKI), Machine().whole), Peer("host", SPKI))
    latest[0] = expectation(clock=lambda: NOW)  # another clock is no other release
    judged_by.refresh()
    assert judged_by.stands(verdict)
    latest[0] = expectation(**change)
    judged_by.refresh()
    assert not judged_by.stands(verdict)


# --- the record


def test_a_record_says_what_was_judged_by(tmp_path: Path) -> None:
    shown = log_world.Shown()
    checked = expectation(log=LogCheck(log_world.policy(), shown.proof))
    records: list = []
    prepared = prepare(dataclasses.replace(checked, audit=records.append))
    session = ask(prepared.exchange(SPKI), Machine().whole)
    judge(prepared, session, Peer("host:8443", SPKI))
    [entry] = records
    assert entry["accepted"] is True
    assert entry["reasons"] == []
    assert entry["server"] == "host:8443"
    assert entry["checkpoint"]["origin"] == log_world.ORIGIN
    assert entry["checkpoint"]["size"] == len(shown.entries)
    assert entry["policy"]["session_s"] == TEST_POLICY.session_s
    assert parse_time(entry["time"]) == NOW
    log = AuditLog(tmp_path / "audit.jsonl")
    log(entry)
    log(entry)
    lines = (tmp_path / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [entry, entry]


def test_a_failed_exchange_is_recorded_without_an_appraisal() -> None:
    records: list = []
    record_decision(expectation(audit=records.append), server="h", appraisal=None, error=ChannelError("x"))
    assert (records[0]["accepted"], records[0]["reasons"]) == (False, ["no-exchange"])


def test_a_record_does_not_follow_a_link_to_another_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    (tmp_path / "log").symlink_to(tmp_path / "mine")
    with pytest.raises(BlindbuildError, match="cannot be recorded"):
        AuditLog(tmp_path / "log")({"version": 1})
    assert (tmp_path / "mine").read_text() == ""


def test_what_cannot_be_remembered_is_recorded_as_refused(tmp_path: Path) -> None:
    records: list = []

    class Full:
        def __getattr__(self, name: str):
            if name == "record":
                raise BlindbuildError("the disk is full")
            return lambda _domain: None

    judged_by = expectation(audit=records.append, state=Full())  # type: ignore[arg-type]
    prepared = prepare(judged_by)
    session = ask(prepared.exchange(SPKI), Machine().whole)
    with pytest.raises(BlindbuildError, match="disk is full"):
        judge(prepared, session, Peer("h", SPKI))
    assert (records[0]["accepted"], records[0]["reasons"]) == (False, ["not-remembered"])


# --- following a release


def test_following_reads_anew_what_has_changed(tmp_path: Path) -> None:
    roots = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
    (tmp_path / "trust.json").write_bytes(publisher().trust(**roots))
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    (tmp_path / "release.dsse.json").write_bytes(publisher().release)
    newer = publisher().but(version="2.0.0", sequence=43)
    following = Following(
        tmp_path / "trust.json", tmp_path, TEST_POLICY, state=tmp_path / "state", clock=lambda: NOW
    )
    first = following()
    prepared = prepare(first)
    assert judge(prepared, ask(prepared.exchange(SPKI), Machine().whole), Peer("h", SPKI)).holds()
    assert first.same_basis(following())
    (tmp_path / "manifest.dsse.json").write_bytes(newer.envelope)
    (tmp_path / "release.dsse.json").write_bytes(newer.release)
    second = following()
    assert not first.same_basis(second)
    assert second.history() is not None  # it remembers where it was told to
    with pytest.raises(UsageError, match="expected a manifest"):
        Following(tmp_path / "trust.json")()
    with pytest.raises(UsageError, match="cannot be read"):
        Following(tmp_path / "none", tmp_path)()


def test_following_holds_a_release_against_the_log_that_the_policy_wants(tmp_path: Path) -> None:
    roots = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
    (tmp_path / "trust.json").write_bytes(publisher().trust(**roots))
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    (tmp_path / "release.dsse.json").write_bytes(publisher().release)
    policy = dataclasses.replace(TEST_POLICY, required_log=log_world.policy())
    following = Following(
        tmp_path / "trust.json", tmp_path, policy, state=tmp_path / "state", clock=lambda: NOW
    )
    with pytest.raises(VerificationError) as caught:
        prepare(following())
    assert caught.value.step == "M12"
    (tmp_path / "manifest.tlog-proof").write_bytes(log_world.Shown().proof)
    prepare(following())


def test_following_reads_the_probe_that_the_policy_wants(tmp_path: Path) -> None:
    roots = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
    (tmp_path / "trust.json").write_bytes(publisher().trust(**roots))
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    (tmp_path / "release.dsse.json").write_bytes(publisher().release)
    policy = dataclasses.replace(TEST_POLICY, require_probe=True)
    following = Following(
        tmp_path / "trust.json", tmp_path, policy, state=tmp_path / "state", clock=lambda: NOW
    )
    without = following()
    with pytest.raises(VerificationError) as caught:
        prepare(without)
    assert (caught.value.step, caught.value.reason) == ("P5", "probe-missing")
    (tmp_path / "probe.dsse.json").write_bytes(probe_envelope())
    prepare(following())
    assert not without.same_basis(following())


def test_following_reads_revocation_lists_anew(tmp_path: Path) -> None:
    authority = AkAuthority()
    issuer, root = (authority.issuer_name, authority.issuer_key), (authority.root_name, authority.root_key)
    (tmp_path / "trust.json").write_bytes(publisher().trust(**authority.pems))
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    (tmp_path / "release.dsse.json").write_bytes(publisher().release)
    path = tmp_path / "issuer.crl"
    following = Following(
        tmp_path / "trust.json",
        tmp_path,
        Policy(require_crls=True),
        state=tmp_path / "state",
        clock=lambda: NOW,
        crls=(path, make_crl(*root)),
    )
    certificate = authority.issue(tpm().ak.public_key(), serial=77)
    made = with_endorsement(session(credential=False), ak_certificate=certificate)

    def reasons() -> frozenset[str]:
        return following().appraise(made, now=NOW, log=None).reasons

    path.write_bytes(make_crl(*issuer))
    before = following()
    assert before.appraise(made, now=NOW, log=None).accepted().expires == NOW + 3600
    assert before.same_basis(following())
    path.write_bytes(make_crl(*issuer, CrlShape(revoked=(77,))))
    assert reasons() == {"A7:certificate-revoked"}
    assert not before.same_basis(following())  # connections that are open are judged again
    path.write_bytes(make_crl(*issuer, CrlShape(end=NOW)))
    assert reasons() == {"A7:crl-expired"}
    path.write_bytes(bytes(MAX_CRL + 1))
    with pytest.raises(UsageError, match=f"expected at most {MAX_CRL} bytes"):
        following()
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        following()


def test_both_questions_have_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Question] = []
    machine = Machine()

    def answering(question: Question) -> Response:
        asked.append(question)
        return machine.whole(question)

    began = time.monotonic()
    ask(prepare(expectation()).exchange(SPKI), answering)
    assert [question.deadline for question in asked] == [asked[0].deadline] * 2
    assert began < asked[0].deadline - module.MAX_NONCE_AGE_S < time.monotonic()
