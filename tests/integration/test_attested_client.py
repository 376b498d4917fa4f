"""Client and attester over TLS on loopback: nothing is sent before the verdict, and no lie gets one."""

from __future__ import annotations

import base64
import dataclasses
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from blindbuild.client import (
    AttestedConnection,
    Connection,
    Expectation,
    StateStore,
    attest,
    open_attested,
    transport,
)
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.manifest import parse_trust
from blindbuild.verify import Policy, parse_session, session_bytes
from tests.fakes.attester import Attester, Server, TlsKey, plain_answer
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.published import NOW, Publisher, command_line, honest_boot, log_bytes
from tests.fakes.software_tpm import SoftwareTpm
from tests.fakes.world import TEST_POLICY, authority, boot_of, judge, pinned_trust, publisher, tpm

LOG = log_bytes(honest_boot())
EVIDENCE = "/.well-known/blindbuild/evidence"


def honest(**changes) -> Attester:
    return Attester(**{"tpm": tpm(), "event_log": LOG, **changes})


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


def reasons(server: Server, **changes) -> frozenset[str]:
    attempt = attest(server.url, expectation(**changes))
    with pytest.raises(VerificationError):
        attempt.accept()
    return attempt.appraisal.reasons


def test_an_honest_server_is_verified_then_asked_on_the_same_connection() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        with open_attested(server.url, expectation()) as connection:
            assert connection.post("/v1/hello", b"one") == b"hello, one"
            assert connection.post("/v1/hello", b"two") == b"hello, two"
        assert server.connections == 1
    assert [path for _, path, _ in attester.requests] == [
        "/.well-known/blindbuild/endorsement",
        EVIDENCE,
        "/v1/hello",
        "/v1/hello",
    ]


def test_a_program_can_require_closed_channels_too() -> None:
    attester, ledger = honest(), ledger_bytes(closed_ledger())
    published = publisher_of(ledger)

    def connect(*required: str, data: bytes | None = ledger) -> AttestedConnection:
        policy = dataclasses.replace(TEST_POLICY, required_closed=frozenset(required))
        judged_by = expectation(
            envelope=published.envelope, release=published.release, policy=policy, ledger=data
        )
        return open_attested(server.url, judged_by)

    with Server(attester.handle, attester.key) as server:
        with connect("disk", "egress") as connection:
            assert connection.post("/v1/hello", b"one") == b"hello, one"
        asked = server.connections
        for required, data, step, reason in (
            (("memory",), ledger, "P3", "channel-not-closed"),
            (("disk",), None, "P2", "ledger-missing"),
            (("disk",), ledger + b" ", "P2", "other-ledger"),
        ):
            with pytest.raises(VerificationError) as refused:
                connect(*required, data=data)
            assert (refused.value.step, refused.value.reason) == (step, reason)
        assert server.connections == asked


def test_two_exchanges_share_nothing_that_was_random() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        sessions = [attest(server.url, expectation()).session for _ in range(2)]
    assert sessions[0].nonce != sessions[1].nonce
    assert sessions[0].credential_secret != sessions[1].credential_secret
    asked = [json.loads(body) for _, path, body in attester.requests if path == EVIDENCE]
    assert asked[0]["credentialBlob"] != asked[1]["credentialBlob"]
    assert asked[0]["encryptedSecret"] != asked[1]["encryptedSecret"]


def test_a_session_can_be_saved_and_judged_again() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        made = attest(server.url, expectation()).session
    assert made.live
    appraisal = judge(parse_session(session_bytes(made)))
    appraisal.accepted()
    assert any("nothing about now" in warning for warning in appraisal.warnings)


def test_a_pinned_key_is_verified_without_a_credential() -> None:
    attester = honest()
    trust = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    with Server(attester.handle, attester.key) as server:
        connection = open_attested(server.url, expectation(trust=trust, policy=Policy()))
        assert connection.post("/v1/hello", b"x") == b"hello, x"
    assert all("credentialBlob" not in json.loads(b) for _, p, b in attester.requests if p == EVIDENCE)


# --- lies


def test_a_replayed_answer_is_refused() -> None:
    attester = honest()
    saved: list[dict] = []

    def remember(answer: dict) -> dict:
        saved.append(answer)
        return saved[0]

    attester.tamper = remember
    with Server(attester.handle, attester.key) as server:
        attest(server.url, expectation()).accept()
        assert reasons(server) == {"A8:credential-mismatch", "Q7:bound-data-mismatch"}


def test_a_replayed_quote_with_a_live_credential_is_refused() -> None:
    attester = honest()
    saved: list[dict] = []

    def remember(answer: dict) -> dict:
        saved.append(answer)
        return answer | {"quote": saved[0]["quote"], "signature": saved[0]["signature"]}

    attester.tamper = remember
    with Server(attester.handle, attester.key) as server:
        attest(server.url, expectation()).accept()
        assert "Q7:bound-data-mismatch" in reasons(server)


def test_somebody_in_the_middle_who_relays_everything_is_refused() -> None:
    attester = honest()
    middle = TlsKey()
    with Server(attester.handle, attester.key) as server, Connection.open(server.url) as upstream:
        seen: list[str] = []

        def relay(method: str, path: str, body: bytes) -> tuple[int, bytes]:
            seen.append(path)
            answer = upstream.request(
                method,
                path,
                body=body if method == "POST" else None,
                content_type="application/json",
                max_body=1 << 22,
            )
            return answer.status, answer.body

        with Server(relay, middle) as hostile:
            assert reasons(hostile) == {"Q7:bound-data-mismatch", "C3:other-tls-key"}
        assert "/v1/hello" not in seen


def test_a_server_with_the_right_evidence_but_another_tls_key_is_refused() -> None:
    attester = honest()
    with Server(attester.handle, TlsKey()) as server:
        assert "C3:other-tls-key" in reasons(server)


def test_another_machine_behind_a_genuine_endorsement_is_refused() -> None:
    # the endorsement of one TPM, the quotes of another of the same maker
    other = SoftwareTpm(authority(), tpm().registers)
    attester = honest(tpm=other)
    genuine = honest()
    attester.endorse = lambda _answer: genuine.endorsement()
    attester.tpm.activate = lambda _blob, _secret: bytes(32)  # type: ignore[method-assign]
    with Server(attester.handle, attester.key) as server:
        assert reasons(server) == {"A8:credential-mismatch", "Q2:signature-invalid"}


def test_a_software_key_beside_a_genuine_endorsement_key_is_refused() -> None:  # 112
    forger = SoftwareTpm(authority(), tpm().registers)
    forger.ek, forger.ek_certificate = tpm().ek, tpm().ek_certificate
    attester = honest(tpm=forger)
    # the genuine TPM does not hold the forger's key, so it cannot activate for its name
    attester.tpm.activate = tpm().activate  # type: ignore[method-assign]
    with Server(attester.handle, attester.key) as server:
        with pytest.raises(ChannelError, match="422"):
            attest(server.url, expectation())


def test_another_boot_is_refused_with_its_cause() -> None:
    events = [command_line("evil") if e.what == "command line" else e for e in honest_boot()]
    machine, log = boot_of(events)
    attester = honest(tpm=machine, event_log=log)
    with Server(attester.handle, attester.key) as server:
        attempt = attest(server.url, expectation())
        assert attempt.appraisal.reasons == {"E1:register-mismatch"}
        assert attempt.appraisal.differences[0].cause == "another kernel command line"
        with pytest.raises(VerificationError, match="got other values in 9"):
            attempt.accept()
        with pytest.raises(ChannelError, match="attest again"):
            attempt._connection.request("GET", "/", content_type="", max_body=0)


def test_an_image_of_another_statement_is_refused() -> None:
    other = publisher().but(version="2.0.0")
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        # same measurements: the statement's digest is in the quote, so it is accepted as version 2.0.0
        accepted = attest(server.url, expectation(envelope=other.envelope, release=other.release)).accept()
        assert accepted.session.version == "2.0.0"

        def substitute(answer: dict) -> dict:
            quote, signature = attester.tpm.quote("sha256", bytes(32))
            return answer | {
                "quote": base64.b64encode(quote).decode(),
                "signature": base64.b64encode(signature).decode(),
            }

        attester.tamper = substitute
        assert "Q7:bound-data-mismatch" in reasons(server)


def test_a_statement_by_another_signer_is_refused_before_any_server_is_asked() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        with pytest.raises(VerificationError) as caught:
            attest(server.url, expectation(envelope=Publisher().envelope))
        assert (caught.value.step, caught.value.reason) == ("M4", "envelope-refused")
        assert server.connections == 0


def test_a_test_tpm_is_refused_and_nothing_is_sent() -> None:
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        assert reasons(server, policy=Policy()) == {"A11:test-tpm"}
    assert all(path != "/v1/hello" for _, path, _ in attester.requests)


# --- the connection


def test_a_lost_connection_is_never_replaced() -> None:
    attester = honest()
    with Server(attester.handle, attester.key, requests_per_connection=3) as server:
        connection = attest(server.url, expectation()).accept()
        assert connection.post("/v1/hello", b"one") == b"hello, one"
        for _ in range(2):
            with pytest.raises(ChannelError):
                connection.post("/v1/hello", b"two")
        assert server.connections == 1
    assert [body for _, path, body in attester.requests if path == "/v1/hello"] == [b"one"]


def test_an_expired_verdict_sends_nothing() -> None:
    attester = honest()
    now = [NOW]
    with Server(attester.handle, attester.key) as server:
        connection = attest(server.url, expectation(clock=lambda: now[0])).accept()
        now[0] = NOW + 3600
        with pytest.raises(ChannelError, match="expired; attest again"):
            connection.post("/v1/hello", b"x")
    assert all(path != "/v1/hello" for _, path, _ in attester.requests)


@pytest.mark.parametrize("step", [-1, -(10**6), 3600])
def test_a_wall_clock_that_left_the_verdicts_time_sends_nothing(step: int) -> None:
    attester = honest()
    now = [NOW]
    with Server(attester.handle, attester.key) as server:
        connection = attest(server.url, expectation(clock=lambda: now[0])).accept()
        now[0] = NOW + step
        with pytest.raises(ChannelError, match="expired; attest again"):
            connection.post("/v1/hello", b"x")
    assert all(path != "/v1/hello" for _, path, _ in attester.requests)


def test_a_verdict_ends_also_while_the_wall_clock_stands_still() -> None:
    attester = honest()
    policy = dataclasses.replace(TEST_POLICY, session_s=1)
    with Server(attester.handle, attester.key) as server:
        connection = attest(server.url, expectation(policy=policy)).accept()
        time.sleep(1.05)
        with pytest.raises(ChannelError, match="expired; attest again"):
            connection.post("/v1/hello", b"x")
    assert all(path != "/v1/hello" for _, path, _ in attester.requests)


def test_a_server_that_takes_a_request_drop_by_drop_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "MAX_SEND_S", 0.2)
    ours, theirs = socket.socketpair()

    class Slow:
        def send(self, data: memoryview) -> int:
            time.sleep(0.05)
            return ours.send(data[:1])

    with ours, theirs, pytest.raises(ChannelError, match="sent a request within"):
        transport.send_whole(Slow(), bytes(1000))  # type: ignore[arg-type]


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example", "." + "a"])
def test_a_host_name_that_cannot_be_asked_for_is_our_error(host: str) -> None:
    with pytest.raises(ChannelError, match="expected https://HOST"):
        Connection.open(f"https://{host}")


def test_a_certificate_of_an_unknown_version_is_our_error_and_leaves_no_socket(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[ssl.SSLSocket] = []
    wrap = ssl.SSLContext.wrap_socket

    class Stranger:
        def public_key(self) -> None:
            raise x509.InvalidVersion("version 5", 4)

    def remember(self: ssl.SSLContext, *arguments, **more) -> ssl.SSLSocket:
        stream = wrap(self, *arguments, **more)
        if not stream.server_side:
            opened.append(stream)
        return stream

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", remember)
    monkeypatch.setattr("blindbuild.client.transport.x509.load_der_x509_certificate", lambda _der: Stranger())
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        with pytest.raises(ChannelError, match="readable key"):
            Connection.open(server.url)
    assert [stream.fileno() for stream in opened] == [-1]


def test_a_server_without_tls_1_3_is_refused() -> None:
    attester = honest()
    with Server(attester.handle, attester.key, maximum_version=ssl.TLSVersion.TLSv1_2) as server:
        with pytest.raises(ChannelError, match=r"TLS 1\.3"):
            attest(server.url, expectation())
    assert attester.requests == []


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        attest(server.url, expectation()).accept()


def test_no_keys_are_written_to_a_key_log(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    attester = honest()
    with Server(attester.handle, attester.key) as server:
        attest(server.url, expectation()).accept()
    assert not log.exists()


def test_nobody_there_is_our_error() -> None:
    with Server(honest().handle, TlsKey()) as server:
        url = server.url
    with pytest.raises(ChannelError, match="cannot connect"):
        attest(url, expectation(), timeout_s=2)


ANSWERS: dict[str, Callable[[bytes], bytes]] = {
    "redirect": lambda _b: b"HTTP/1.1 307 X\r\nLocation: https://x/\r\nContent-Length: 0\r\n\r\n",
    "chunked": lambda _b: b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too long": lambda _b: b"HTTP/1.1 200 X\r\nContent-Length: 4194305\r\n\r\n",
    "cut": lambda b: plain_answer("", 200, b)[:-1],
    "nothing": lambda _b: b"",
    "not HTTP": lambda _b: b"\0" * 2000,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_that_breaks_the_protocol_ends_the_exchange(name: str) -> None:
    attester = honest()

    def raw(path: str, status: int, body: bytes) -> bytes:
        return ANSWERS[name](body) if path == EVIDENCE else plain_answer(path, status, body)

    # one request more than the exchange needs, so that a cut answer ends with the connection
    with Server(attester.handle, attester.key, raw=raw, requests_per_connection=2) as server:
        with pytest.raises(ChannelError):
            attest(server.url, expectation(), timeout_s=5)


@pytest.mark.parametrize(
    "change", [{"more": 1}, {"quote": "!"}, {"pcrs": []}, {"version": 2}, {"activatedSecret": ""}]
)
def test_an_answer_with_malformed_fields_is_refused(change: dict) -> None:
    attester = honest(tamper=lambda answer: answer | change)
    with Server(attester.handle, attester.key) as server:
        with pytest.raises(VerificationError) as caught:
            attest(server.url, expectation())
        assert caught.value.reason == "malformed"


def test_a_status_with_a_reason_is_shown() -> None:
    attester = honest(tpm=tpm().but(registers={}))
    with Server(attester.handle, attester.key) as server:
        with pytest.raises(ChannelError, match=r'got 422 \{"version":1,"error":"bank"\}'):
            attest(server.url, expectation())


# --- memory


def test_accepted_sessions_are_remembered_and_older_releases_refused(tmp_path: Path) -> None:
    attester = honest()
    state = StateStore(tmp_path)
    older = publisher().but(sequence=41)
    with Server(attester.handle, attester.key) as server:
        first = attest(server.url, expectation(state=state))
        assert any("first use" in warning for warning in first.appraisal.warnings)
        first.accept()
        second = attest(server.url, expectation(state=state))
        assert not any("first use" in warning for warning in second.appraisal.warnings)
        second.accept()
        asked = server.connections
        with pytest.raises(VerificationError) as caught:
            attest(server.url, expectation(envelope=older.envelope, release=older.release, state=state))
        assert (caught.value.step, caught.value.reason) == ("M10", "rollback")
        assert server.connections == asked


def test_a_refused_session_is_not_remembered(tmp_path: Path) -> None:
    attester = honest()
    state = StateStore(tmp_path)
    with Server(attester.handle, attester.key) as server:
        reasons(server, state=state, policy=Policy())
    assert state.read(pinned_trust().domain) is None
