"""What an operator or somebody on the way tries, on loopback, and what the person in front of it reads.

Each is stopped before data goes out, and says what happened, what it means and what to do.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from blindbuild.cli import judging
from blindbuild.cli.main import run
from blindbuild.client import Connection, Expectation, attest
from blindbuild.client import advice as sentences
from blindbuild.client.advice import Advice
from blindbuild.client.attested_pool import AttestedPool
from blindbuild.errors import BlindbuildError, ChannelError, VerificationError
from blindbuild.verify import Policy
from tests.bad_inputs import record
from tests.fakes.attester import Attester, TlsKey
from tests.fakes.in_between import man_in_the_middle
from tests.fakes.published import NOW, command_line, honest_boot, log_bytes
from tests.fakes.recording_server import RecordingServer, Request, answer
from tests.fakes.software_tpm import SoftwareTpm
from tests.fakes.world import TEST_POLICY, authority, boot_of, pinned_trust, publisher, tpm

LOG = log_bytes(honest_boot())
SECRET = "the patient's name"
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


def honest(**changes) -> Attester:
    return Attester(**{"tpm": tpm(), "event_log": LOG, **changes})


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


@dataclasses.dataclass
class Person:
    """Somebody with the program, a release and a trust file."""

    place: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def calls(self, url: str, *more: str) -> tuple[int, str]:
        """Run `blindbuild call`; return the exit code and what is on the screen."""
        words = ["call", f"{url}/v1/hello", "-d", SECRET, "--manifest", str(self.place), "--allow-test-tpm"]
        trust = ["--trust", str(self.place / "trust.json")]
        self.monkeypatch.setattr(sys, "argv", ["blindbuild", *words, *trust, *more])
        with pytest.raises(SystemExit) as left:
            run()
        read = self.capsys.readouterr()
        return int(left.value.code or 0), read.out + read.err


@pytest.fixture
def person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Person:
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "manifest.dsse.json").write_bytes(publisher().envelope)
    (tmp_path / "release.dsse.json").write_bytes(publisher().release)
    (tmp_path / "trust.json").write_bytes(publisher().trust(**ROOTS))
    return Person(tmp_path, monkeypatch, capsys)


def assert_three_sentences(screen: str, *words: str) -> None:
    """What happened, what it means, what to do, in this order, with these words."""
    places = [screen.find(start) for start in ("what happened: ", "what it means: ", "what to do: ")]
    assert -1 not in places
    assert places == sorted(places)
    for word in words:
        assert word in screen, screen


def test_an_honest_server_is_answered_without_advice(person: Person) -> None:
    with RecordingServer(honest()) as server:
        code, screen = person.calls(server.url)
        assert code == 0
        assert f"hello, {SECRET}" in screen
        assert "what happened" not in screen


# --- somebody in between


def test_verify_says_the_same_as_call(person: Person) -> None:
    with RecordingServer(honest(), key=TlsKey()) as server:
        words = ["verify", server.url, "--manifest", str(person.place), "--allow-test-tpm"]
        person.monkeypatch.setattr(
            sys, "argv", ["blindbuild", *words, "--trust", f"{person.place}/trust.json"]
        )
        with pytest.raises(SystemExit) as left:
            run()
        assert left.value.code == 3
        assert_three_sentences(person.capsys.readouterr().err, "something in between passes its answers on")


@pytest.mark.bad_input(125)
def test_a_relay_is_stopped(person: Person) -> None:
    """A machine of the operator's answers with the evidence of a genuine one, which it asks itself."""
    with RecordingServer(honest()) as genuine, Connection.open(genuine.url) as upstream:

        def pass_on(request: Request, _data: bytes) -> bytes:
            body = request.body if request.method == "POST" else None
            got = upstream.request(
                request.method, request.target, body=body, content_type="application/json", max_body=1 << 22
            )
            return answer(got.status, got.body)

        with RecordingServer(honest(), key=TlsKey(), tamper=pass_on) as relay:
            code, screen = person.calls(relay.url)
            assert code == 3, screen
            assert_three_sentences(
                screen,
                "the machine that was asked is genuine and answered just now",
                "something in between passes its answers on",
                "Nothing of your data was sent",
                "an inspecting firewall or proxy, a load balancer, a CDN",
                "take it for an attack",
            )
            assert "C3 other-tls-key" in screen
            assert SECRET.encode() not in relay.received + genuine.received
            record("C3:other-tls-key")


def test_a_man_in_the_middle_is_stopped_and_leaves_a_trace(person: Person) -> None:
    with RecordingServer(honest()) as server:
        with man_in_the_middle(server.port, authority="Hospital Inspection CA") as middle:
            code, screen = person.calls(middle.url)
            assert code == 3, screen
            assert_three_sentences(
                screen,
                "this encrypted connection ends somewhere else",
                "could read and change all that is sent",
                "Exempt this address from inspection, or connect directly",
                "the certificate of this connection was issued by CN=Hospital Inspection CA",
            )
            # he has read all of the exchange, and there was nothing in it
            assert b"evidence" in middle.from_client
            assert SECRET.encode() not in middle.from_client
    assert server.asked == []


def test_what_the_certificate_of_a_stranger_says_cannot_steer_the_terminal(person: Person) -> None:
    with RecordingServer(honest()) as server:
        with man_in_the_middle(server.port, authority="\x1b[2Jall is well") as middle:
            code, screen = person.calls(middle.url)
            assert code == 3, screen
            assert "\x1b" not in screen


def test_a_man_in_the_middle_is_stopped_with_a_pinned_key_too(person: Person) -> None:
    (person.place / "trust.json").write_bytes(publisher().trust(attestation_keys=[tpm().ak_public]))
    with RecordingServer(honest()) as server:
        assert person.calls(server.url)[0] == 0
        with man_in_the_middle(server.port, authority="Hospital Inspection CA") as middle:
            code, screen = person.calls(middle.url)
            assert code == 3, screen
            # without a credential nobody can tell a copy from a relay, and nobody claims to
            assert_three_sentences(screen, "it is an old one, or something in between passes on the answers")
            assert "issued by CN=Hospital Inspection CA" in screen


def test_old_answers_that_are_played_back_are_stopped(person: Person) -> None:
    kept: list[dict] = []

    def play_back(fresh: dict) -> dict:
        kept.append(fresh)
        return kept[0]

    with RecordingServer(honest(tamper=play_back)) as server:
        assert person.calls(server.url)[0] == 0
        code, screen = person.calls(server.url)
        assert code == 3, screen
        assert_three_sentences(
            screen, "it is an old one, or another machine's", "somebody plays back what it once said"
        )
        assert [request.body for request in server.asked] == [SECRET.encode()]


def test_a_machine_that_borrows_a_chip_is_stopped(person: Person) -> None:
    attester = honest(tpm=SoftwareTpm(authority(), tpm().registers))
    genuine = honest()
    attester.endorse = lambda _answer: genuine.endorsement()
    attester.tpm.activate = lambda _blob, _secret: bytes(32)  # type: ignore[method-assign]
    with RecordingServer(attester) as server:
        code, screen = person.calls(server.url)
        assert code == 3, screen
        assert_three_sentences(screen, "does not belong to the certified security chip")
        assert server.asked == []


def test_another_image_is_stopped_and_said_to_be_that(person: Person) -> None:
    events = [command_line("evil") if e.what == "command line" else e for e in honest_boot()]
    machine, log = boot_of(events)
    with RecordingServer(honest(tpm=machine, event_log=log)) as server:
        code, screen = person.calls(server.url)
        assert code == 3, screen
        assert_three_sentences(
            screen,
            "it started something else than the release you trust",
            "its operator changed the image, its settings or the firmware",
            "PCR 9: another kernel command line",
        )
        assert server.asked == []


def test_a_chip_of_software_is_stopped_and_said_to_be_that() -> None:
    with RecordingServer(honest()) as server:
        with pytest.raises(VerificationError) as caught:
            attest(server.url, expectation(policy=Policy())).accept()
        assert_three_sentences(
            caught.value.hint or "", "not one that your trust file believes", "--allow-test-tpm"
        )


def test_a_release_that_is_over_is_stopped_before_a_server_is_asked(person: Person) -> None:
    later = partial(Expectation, clock=lambda: NOW + 10 * 365 * 86400)
    person.monkeypatch.setattr(judging, "Expectation", later)
    with RecordingServer(honest()) as server:
        code, screen = person.calls(server.url)
        assert code == 3, screen
        assert_three_sentences(screen, "No server was asked", "fetch the current release", "computer's clock")
        assert server.visits == []


# --- a server that changes


def test_a_key_that_is_switched_after_the_attestation_is_stopped() -> None:
    records: list = []
    with RecordingServer(honest()) as server:
        pool = AttestedPool(server.url, expectation(audit=records.append))
        with pool.lend() as connection:
            assert connection.post("/v1/hello", b"one") == b"hello, one"
        server.use_key(TlsKey())  # the genuine machine's evidence is passed on from here
        with pool.lend() as connection:  # the judged connection goes on: its keys are in the image
            assert connection.post("/v1/hello", b"two") == b"hello, two"
        server.hang_up()
        time.sleep(0.05)
        with pytest.raises(VerificationError) as caught, pool.lend():
            pass
        pool.close()
        assert "C3 other-tls-key" in caught.value.message
        assert_three_sentences(caught.value.hint or "", "something in between")
        assert [request.body for request in server.asked] == [b"one", b"two"]
    assert [entry["accepted"] for entry in records] == [True, False]


def test_a_session_that_expires_between_two_requests_is_not_used() -> None:
    now = [NOW]
    with RecordingServer(honest()) as server:
        connection = attest(server.url, expectation(clock=lambda: now[0])).accept()
        assert connection.post("/v1/hello", b"one") == b"hello, one"
        now[0] += 3600
        with pytest.raises(ChannelError, match="expired; attest again") as caught:
            connection.post("/v1/hello", b"two")
        assert_three_sentences(
            caught.value.hint or "",
            "the time for which this server was believed is over",
            "the server is judged anew",
        )
        assert [request.body for request in server.asked] == [b"one"]


# --- a server that does not keep to the protocol


def refused_at(path: str, how: Callable[[bytes], bytes | None]) -> tuple[BlindbuildError, RecordingServer]:
    """Ask a server that breaks one answer; return the error."""

    def tamper(request: Request, data: bytes) -> bytes | None:
        return how(data) if request.target.endswith(path) else data

    with RecordingServer(honest(), tamper=tamper) as server:
        with pytest.raises(BlindbuildError) as caught:
            attest(server.url, expectation(), timeout_s=5)
        return caught.value, server


@pytest.mark.parametrize("path", ["/endorsement", "/evidence"])
def test_a_redirect_during_the_exchange_is_stopped(path: str) -> None:
    with RecordingServer(honest()) as other:
        to = {"Location": f"{other.url}/.well-known/blindbuild{path}"}
        error, server = refused_at(path, lambda _data: answer(307, b"", **to))
        assert "a redirect (307)" in error.message
        assert_three_sentences(
            error.hint or "",
            "redirect to another address",
            "has proven nothing, and is not asked",
            "a login page",
        )
        assert other.visits == []
        assert server.asked == []


def test_a_redirect_of_a_request_is_stopped(person: Person) -> None:
    with RecordingServer(honest()) as other:
        to = {"Location": f"{other.url}/v1/hello"}
        with RecordingServer(honest(), lambda _r: answer(308, b"", **to)) as server:
            code, screen = person.calls(server.url)
            assert code == 1
            assert_three_sentences(screen, "redirect to another address")
        assert other.visits == []


def test_an_answer_before_the_verdict_is_stopped() -> None:
    lie = answer(200, b"what you wanted to hear")
    error, server = refused_at("/evidence", lambda data: data + lie)
    assert isinstance(error, ChannelError)
    assert_three_sentences(
        error.hint or "", "sent an answer before it was asked", "The connection was closed"
    )
    assert server.asked == []


def test_an_answer_after_the_verdict_and_before_the_request_is_stopped() -> None:
    lie = answer(200, b"what you wanted to hear")

    with RecordingServer(honest()) as server:
        with attest(server.url, expectation()).accept() as connection:
            server.streams[0].sendall(lie)
            time.sleep(0.1)
            with pytest.raises(ChannelError) as caught:
                connection.post("/v1/hello", SECRET.encode())
        assert_three_sentences(caught.value.hint or "", "sent an answer before it was asked")
        assert server.asked == []


def test_a_connection_that_dies_before_the_verdict_says_that_nothing_was_sent(person: Person) -> None:
    with RecordingServer(
        honest(), tamper=lambda request, data: data if request.method == "GET" else None
    ) as server:
        code, screen = person.calls(server.url)
        assert code == 1, screen
        assert_three_sentences(
            screen, "before the server had proven what it is", "Nothing of this request was sent"
        )
        assert "may have worked on" not in screen
        assert server.asked == []


def test_a_connection_that_dies_in_the_middle_of_an_answer_is_not_repeated(person: Person) -> None:
    def cut(_request: Request) -> bytes:
        threading.Timer(0.3, server.hang_up).start()
        return answer(200, b"x" * 100_000)[:-1]

    with RecordingServer(honest(), cut) as server:
        code, screen = person.calls(server.url)
        assert code == 1
        assert_three_sentences(
            screen,
            "ended in the middle of a request or its answer",
            "It was not repeated",
            "if it may be done twice",
        )
        assert len(server.asked) == 1
        assert len(server.visits) == 1


def test_a_connection_that_dies_in_the_middle_of_a_body_is_not_repeated() -> None:
    with RecordingServer(honest(), takes=100_000) as server:
        connection = attest(server.url, expectation()).accept()
        for _ in range(2):
            with pytest.raises(ChannelError, match="connection lost") as caught:
                connection.post("/v1/hello", bytes(8 << 20))
            assert_three_sentences(caught.value.hint or "", "It was not repeated")
        assert server.asked == []
        assert len(server.visits) == 1


def test_nobody_there_and_no_tls_are_said_in_words(person: Person) -> None:
    with RecordingServer(honest()) as server:
        pass
    code, screen = person.calls(server.url)
    assert code == 1
    assert_three_sentences(screen, "nothing answers at this address", "proxies are never used")
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def answer_plainly() -> None:
            stream, _ = plain.accept()
            with stream:
                stream.recv(1000)
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        threading.Thread(target=answer_plainly, daemon=True).start()
        code, screen = person.calls(f"https://127.0.0.1:{plain.getsockname()[1]}")
    assert code == 1
    assert_three_sentences(screen, "does not speak TLS 1.3")


def test_the_audit_log_says_what_was_judged_by_and_nothing_of_the_user(person: Person) -> None:
    log = person.place / "audit.jsonl"
    with RecordingServer(honest()) as server:
        assert person.calls(server.url, "--audit-log", str(log))[0] == 0
    with RecordingServer(honest(), key=TlsKey()) as server:
        assert person.calls(server.url, "--audit-log", str(log))[0] == 3
    accepted, refused = (json.loads(line) for line in log.read_text().splitlines())
    assert accepted["accepted"] is True
    assert accepted["attestationKey"] == tpm_name()
    assert accepted["policy"]["allow_test_tpm"] is True
    assert accepted["statement"] == refused["statement"]
    assert refused["accepted"] is False
    assert "C3:other-tls-key" in refused["reasons"]
    assert SECRET not in log.read_text()


def tpm_name() -> str:
    # TPM 2.0 Part 1, 16: nameAlg and the digest of the public area, here without its size
    return "000b" + hashlib.sha256(tpm().ak_public[2:]).hexdigest()


def test_a_decision_that_cannot_be_recorded_is_none(person: Person) -> None:
    with RecordingServer(honest()) as server:
        code, screen = person.calls(server.url, "--audit-log", str(person.place / "no such place" / "a"))
        assert code == 1
        assert "the decision cannot be recorded" in screen
        assert server.asked == []


def test_a_release_that_is_refused_is_recorded_as_well() -> None:
    records: list = []
    other = publisher().but(name="other")
    with pytest.raises(VerificationError):
        attest("https://127.0.0.1:1", expectation(envelope=other.envelope, audit=records.append))
    [entry] = records
    assert (entry["accepted"], entry["server"], entry["tlsKey"]) == (False, "", None)
    assert any(reason.startswith("M8:") for reason in entry["reasons"])


def test_every_sentence_is_one_that_a_person_can_act_on() -> None:
    found = [value for value in vars(sentences).values() if isinstance(value, Advice)]
    assert len(found) >= 15
    for one in found:
        for sentence in (one.happened, one.means, one.do):
            assert len(sentence) > 15
            # words of the protocol are for the message; the sentences are for people
            assert not any(word in sentence for word in ("SPKI", "extraData", "PCR", "quote", "nonce"))
