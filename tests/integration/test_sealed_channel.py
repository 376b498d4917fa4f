"""Requests through somebody who ends TLS before the image: the real gate, and a middle that tries it all."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import http.client
import itertools
import json
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.cli.main import main
from blindbuild.client import Attempt, AttestedConnection, Expectation, attest
from blindbuild.client.attested_pool import AttestedPool
from blindbuild.client.proxy import Proxy
from blindbuild.client.proxy_access import Access
from blindbuild.client.proxy_server import listen, serving
from blindbuild.client.sealed import Sealer
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.verify import parse_session, session_bytes
from tests.bad_inputs import record, refused, refusing
from tests.fakes.middle import Middle, Passing, Play
from tests.fakes.world import publisher
from tests.integration.gate_harness import ENDORSEMENT, EVIDENCE
from tests.integration.sealed_machine import PROFILE, SEALED, SealedMachine, sealed_machine

CANARY = b"canary-3f9c-the-patient-is-called-Ada"
ONE_BYTE = b"Content-Length: 1\r\n\r\nx"
GENUINE = "C3:answer-not-sealed"


@pytest.fixture(scope="module")
def machine(gate_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedMachine]:
    with sealed_machine(gate_binary, tmp_path_factory.mktemp("sealed")) as running:
        yield running


def connected(machine: SealedMachine, middle: Middle, **changes: object) -> AttestedConnection:
    """Attest honestly; what the middle plays it plays from here on."""
    return attest(middle.url, dataclasses.replace(machine.expectation, **changes)).accept()


def on_sealed(play: Play) -> Play:
    """Return a middle that is honest until the first sealed request."""
    return lambda passing: play(passing) if passing.path == SEALED else passing.on()


def on_evidence(change: Callable[[dict], dict | None]) -> Play:
    """Return a middle that changes the evidence."""

    def play(passing: Passing) -> tuple[int, bytes]:
        status, answer = passing.on()
        if passing.path == EVIDENCE and status == 200:
            answer = json.dumps(change(json.loads(answer))).encode()
        return status, answer

    return play


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({}, id="TLS 1.3"),
        pytest.param({"tls": ssl.TLSVersion.TLSv1_2}, id="TLS 1.2"),
        pytest.param({"tls": None}, id="no TLS"),
        pytest.param({"chunked": True}, id="in chunks"),
        pytest.param({"hang_up": True}, id="a connection a request"),
    ],
)
def test_data_passes_through_any_middle_and_shows_it_nothing(machine: SealedMachine, how: dict) -> None:
    with Middle(machine.gate.port, **how) as middle, connected(machine, middle) as connection:
        assert connection.session.statement == connection.session.history.statement
        assert connection.post("/v1/hello", CANARY) == CANARY
        assert connection.post("/v1/hello", CANARY[::-1]) == CANARY[::-1]
        assert connection.request("/v1/nothing", CANARY).status == 404
        seen = middle.seen
    assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, SEALED, SEALED]
    for spelling in (CANARY, CANARY[::-1], base64.b64encode(CANARY), CANARY.hex().encode(), b"nothing"):
        assert spelling not in seen
    assert b"v1/hello" not in seen


@pytest.mark.parametrize("size", [0, 1, 600, 900, 5_000, 60_000, 70_000, 299_999, 300_000])
def test_bodies_of_any_size_come_back_whole(machine: SealedMachine, size: int) -> None:
    body = (CANARY * 9_000)[:size]
    with Middle(machine.gate.port) as middle, connected(machine, middle) as connection:
        assert connection.post("/v1/hello", body) == body
        asked, answered = middle.sizes[-1]
    # around them: id, key and tag; salt and tag. What is left of the bucket is for the heads outside.
    for travelled, around in ((asked, 16 + 32 + 16), (answered, 32 + 16)):
        whole = travelled - around + 256
        assert whole in (1 << 10, 4 << 10, 16 << 10) or whole % (64 << 10) == 0


def test_sizes_in_one_bucket_cannot_be_told_apart(machine: SealedMachine) -> None:
    with Middle(machine.gate.port) as middle, connected(machine, middle) as connection:
        for body in (b"yes", b"no", CANARY * 10, b"x" * 600):
            connection.post("/v1/hello", body)
        assert connection.request("/v1/other", b"").status == 404
    assert len(set(middle.sizes[2:])) == 1


def test_a_body_over_the_limit_is_refused_inside_the_seal(machine: SealedMachine) -> None:
    with Middle(machine.gate.port) as middle, connected(machine, middle) as connection:
        assert connection.request("/v1/hello", b"x" * 300_001).status == 413
        assert middle.sizes[-1][1] == 1024 - 256 + 48


def test_an_image_that_takes_sealed_requests_takes_no_others(machine: SealedMachine) -> None:
    started = machine.launcher.started
    assert machine.gate.client().post("/v1/hello", CANARY).status == 404
    assert machine.gate.client().get("/healthz").status == 204  # for load balancers
    assert machine.gate.client().evidence().status == 400
    assert machine.launcher.started == started


@pytest.mark.bad_input(125)
def test_a_key_that_the_middle_put_in_is_refused_before_anything_is_sealed(machine: SealedMachine) -> None:
    own = X25519PrivateKey.generate().public_key()
    spki = base64.b64encode(own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    with Middle(machine.gate.port, on_evidence(lambda answer: answer | {"hpkeKey": spki})) as middle:
        attempt = attest(middle.url, machine.expectation)
        with pytest.raises(VerificationError):
            attempt.accept()
    refused(attempt.appraisal, "Q7:bound-data-mismatch", "C3:other-hpke-key")
    assert SEALED not in middle.paths


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    "change",
    [
        {"hpkeKey": None},
        {"session": None},
        {"hpkeKey": base64.b64encode(b"\0" * 44).decode()},
        {"hpkeKey": ""},
        {"session": "00"},
        {"session": "AA" * 16},
        {"profile": "tls-spki-quote-v1"},
        {"profile": "hpke-quote-v2"},
    ],
    ids=str,
)
def test_evidence_says_its_key_in_one_way(machine: SealedMachine, change: dict) -> None:
    def changed(answer: dict) -> dict:
        return {name: value for name, value in (answer | change).items() if value is not None}

    with (
        Middle(machine.gate.port, on_evidence(changed)) as middle,
        refusing("Q10:malformed"),
    ):
        attest(middle.url, machine.expectation)


@pytest.mark.bad_input(125)
def test_evidence_of_the_other_profile_is_refused(machine: SealedMachine) -> None:
    def other(answer: dict) -> dict:
        kept = {name: value for name, value in answer.items() if name not in ("hpkeKey", "session")}
        return kept | {"profile": "tls-spki-quote-v1"}

    with Middle(machine.gate.port, on_evidence(other)) as middle:
        attempt = attest(middle.url, machine.expectation)
        with pytest.raises(VerificationError):
            attempt.accept()
    refused(attempt.appraisal, "C1:other-profile", "Q7:bound-data-mismatch", "C3:other-hpke-key")


@pytest.mark.bad_input(125)
def test_evidence_for_another_client_is_refused(machine: SealedMachine) -> None:
    first: list[bytes] = []

    def play(passing: Passing) -> tuple[int, bytes]:
        status, answer = passing.on()
        if passing.path == EVIDENCE:
            first.append(answer)
            return status, first[0]
        return status, answer

    with Middle(machine.gate.port, play) as middle:
        attest(middle.url, machine.expectation).accept().close()
        attempt = attest(middle.url, machine.expectation)
        with pytest.raises(VerificationError):
            attempt.accept()
    refused(attempt.appraisal, "A8:credential-mismatch", "Q7:bound-data-mismatch")
    assert SEALED not in middle.paths


def play_swapped_sessions(machine: SealedMachine) -> Play:
    """Return a middle that gives each client another session than its own."""
    other = machine.gate.client().evidence(profile=PROFILE).json()["session"]
    return on_evidence(lambda answer: answer | {"session": other})


def test_another_clients_session_opens_nothing(machine: SealedMachine) -> None:
    started = machine.launcher.started
    with (
        Middle(machine.gate.port, play_swapped_sessions(machine)) as middle,
        connected(machine, middle) as connection,
        pytest.raises(ChannelError, match=r"got status 422 .*sealed"),
    ):
        connection.post("/v1/hello", CANARY)
    assert machine.launcher.started == started


def test_a_session_of_another_boot_says_that_it_must_be_attested_again(machine: SealedMachine) -> None:
    play = on_evidence(lambda answer: answer | {"session": "5a" * 16})
    with Middle(machine.gate.port, play) as middle, connected(machine, middle) as connection:
        with pytest.raises(ChannelError, match='"error":"session"') as raised:
            connection.post("/v1/hello", CANARY)
        assert "attest again" in (raised.value.hint or "")
        with pytest.raises(ChannelError, match="attest again"):
            connection.post("/v1/hello", CANARY)


@pytest.mark.bad_input(125)
def test_a_request_that_is_sent_twice_runs_once(machine: SealedMachine) -> None:
    answers: list[tuple[int, bytes]] = []

    def twice(passing: Passing) -> tuple[int, bytes]:
        answers.extend(passing.on() for _ in range(3))
        return answers[-3]

    started = machine.launcher.started
    with Middle(machine.gate.port, on_sealed(twice)) as middle, connected(machine, middle) as connection:
        assert connection.post("/v1/hello", CANARY) == CANARY
        assert connection.post("/v1/hello", b"second") == b"second"
    assert machine.launcher.started == started + 2
    assert {len(answer) for _, answer in answers} == {1024 - 256 + 48}
    record("C3:request-replayed")


@pytest.mark.bad_input(125)
def test_a_client_is_told_that_a_copy_of_its_request_came_first(machine: SealedMachine) -> None:
    def copy_first(passing: Passing) -> tuple[int, bytes]:
        passing.on()
        return passing.on()

    started = machine.launcher.started
    with Middle(machine.gate.port, on_sealed(copy_first)) as middle, connected(machine, middle) as connection:
        with refusing("C3:request-replayed"):
            connection.post("/v1/hello", CANARY)
    assert machine.launcher.started == started + 1


@pytest.mark.bad_input(125)
@pytest.mark.parametrize("number", [1, 2**64 - 1], ids=["its number", "all numbers"])
def test_a_client_is_not_told_that_it_was_done_when_the_middle_used_its_number_up(
    machine: SealedMachine, number: int
) -> None:
    attempts: list[Attempt] = []

    def use_up(passing: Passing) -> tuple[int, bytes]:
        own = Sealer(attempts[0].session)  # a middle has seen all that this takes
        own._numbers = itertools.count(number)
        passing.forward("POST", SEALED, own.seal(b"POST /v1/hello HTTP/1.1\r\nHost: a\r\n" + ONE_BYTE).body)
        return passing.on()

    started = machine.launcher.started
    with Middle(machine.gate.port, on_sealed(use_up)) as middle:
        attempts.append(attest(middle.url, machine.expectation))
        with attempts[0].accept() as connection, pytest.raises(VerificationError) as raised:
            connection.post("/v1/hello", CANARY)
    record(f"{raised.value.step}:{raised.value.reason}")
    assert raised.value.reason == "request-replayed"
    assert "else it was not done" in (raised.value.hint or "")
    assert machine.launcher.started == started + 1  # the middle's own


def test_of_copies_at_the_same_moment_one_runs(machine: SealedMachine) -> None:
    with Middle(machine.gate.port) as middle:
        attempt = attest(middle.url, machine.expectation)
        attempt.close()
    sealed = Sealer(attempt.session).seal(b"POST /v1/hello HTTP/1.1\r\nHost: a\r\n" + ONE_BYTE)
    started = machine.launcher.started
    with ThreadPoolExecutor(8) as middles:
        copies = [middles.submit(machine.gate.client().post, SEALED, sealed.body) for _ in range(48)]
        said = [sealed.open(copy.result().body)[9:12] for copy in copies]
    assert sorted(said) == [b"200"] + [b"409"] * 47
    assert machine.launcher.started == started + 1


def test_a_kept_request_is_refused_long_after(machine: SealedMachine) -> None:
    kept: list[bytes] = []

    def keep(passing: Passing) -> tuple[int, bytes]:
        kept.append(passing.body)
        return passing.on()

    with Middle(machine.gate.port, on_sealed(keep)) as middle, connected(machine, middle) as connection:
        for number in range(70):
            assert connection.post("/v1/hello", b"%d" % number) == b"%d" % number
    started = machine.launcher.started
    for body in (kept[0], kept[5], kept[-2], kept[-1]):
        answer = machine.gate.client().post(SEALED, body)
        assert (answer.status, len(answer.body)) == (200, 1024 - 256 + 48)  # refused inside the seal
    assert machine.launcher.started == started


def flipped(data: bytes, bit: int) -> bytes:
    bits = bytearray(data)
    bits[bit // 8] ^= 1 << bit % 8
    return bytes(bits)


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda body: body[:-1], id="cut"),
        pytest.param(lambda body: body[:-16], id="without its tag"),
        pytest.param(lambda body: body[:100], id="without its padding"),
        pytest.param(lambda body: body + b"\0", id="longer"),
        pytest.param(lambda body: b"", id="empty"),
        pytest.param(lambda body: body[16:] + body[:16], id="turned"),
        *(
            pytest.param(lambda body, at=at: flipped(body, at * 8), id=f"flip {at}")
            for at in (16, 47, 48, 300)
        ),
        pytest.param(lambda body: flipped(body, len(body) * 8 - 1), id="flip last"),
    ],
)
def test_a_changed_request_runs_nothing(machine: SealedMachine, change: Callable[[bytes], bytes]) -> None:
    started = machine.launcher.started
    play = on_sealed(lambda passing: passing.forward("POST", SEALED, change(passing.body)))
    with (
        Middle(machine.gate.port, play) as middle,
        connected(machine, middle) as connection,
        refusing("expected a sealed answer, got status 422", ChannelError),
    ):
        connection.post("/v1/hello", CANARY)
    assert machine.launcher.started == started


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _asked, answer: answer[:-1], id="cut"),
        pytest.param(lambda _asked, answer: answer[:40], id="cut in its tag"),
        pytest.param(lambda _asked, answer: answer[:400], id="without its padding"),
        pytest.param(lambda _asked, answer: b"", id="empty"),
        pytest.param(lambda _asked, answer: answer + b"\0", id="longer"),
        pytest.param(lambda asked, _answer: asked, id="the request reflected"),
        pytest.param(lambda asked, _answer: asked[48:], id="what was sealed reflected"),
        pytest.param(lambda _asked, _answer: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", id="no seal"),
        *(
            pytest.param(lambda _asked, answer, at=at: flipped(answer, at * 8), id=f"flip {at}")
            for at in (0, 31, 32, 500)
        ),
        pytest.param(lambda _asked, answer: flipped(answer, len(answer) * 8 - 1), id="flip last"),
    ],
)
def test_an_answer_that_the_image_did_not_seal_is_refused(
    machine: SealedMachine, change: Callable[[bytes, bytes], bytes]
) -> None:
    def play(passing: Passing) -> tuple[int, bytes]:
        status, answer = passing.on()
        return status, change(passing.body, answer)

    with (
        Middle(machine.gate.port, on_sealed(play)) as middle,
        connected(machine, middle) as connection,
        refusing(GENUINE),
    ):
        connection.post("/v1/hello", CANARY)


@pytest.mark.bad_input(125)
def test_the_answer_to_another_request_is_refused(machine: SealedMachine) -> None:
    answers: list[tuple[int, bytes]] = []

    def first_again(passing: Passing) -> tuple[int, bytes]:
        answers.append(passing.on())
        return answers[0]

    with Middle(machine.gate.port, on_sealed(first_again)) as middle:
        with connected(machine, middle) as connection:
            assert connection.post("/v1/hello", CANARY) == CANARY
            with refusing(GENUINE):
                connection.post("/v1/hello", CANARY)
            assert not connection._connection.alive()
        with connected(machine, middle) as other, refusing(GENUINE):
            other.post("/v1/hello", CANARY)


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    ("status", "saying"),
    [(301, "expected an answer, got a redirect"), (404, "got status 404"), (502, "got status 502")],
)
def test_what_the_middle_says_is_no_answer(machine: SealedMachine, status: int, saying: str) -> None:
    with (
        Middle(machine.gate.port, on_sealed(lambda _passing: (status, b"<html>"))) as middle,
        connected(machine, middle) as connection,
        refusing(saying, ChannelError),
    ):
        connection.post("/v1/hello", CANARY)


@pytest.mark.parametrize("word", ["session", "sealed"])
def test_a_request_that_ran_is_not_said_to_be_lost_because_the_middle_says_so(
    machine: SealedMachine, word: str
) -> None:
    def deny(passing: Passing) -> tuple[int, bytes]:
        passing.on()
        return 422, b'{"version":1,"error":"%s"}' % word.encode()

    started = machine.launcher.started
    with Middle(machine.gate.port, on_sealed(deny)) as middle, connected(machine, middle) as connection:
        with pytest.raises(ChannelError, match="got status 422") as raised:
            connection.post("/v1/hello", CANARY)
    assert machine.launcher.started == started + 1
    assert "may have done what was asked or not" in (raised.value.hint or "")


def test_a_verdict_that_has_expired_seals_nothing(machine: SealedMachine) -> None:
    now = [machine.expectation.clock()]
    with (
        Middle(machine.gate.port) as middle,
        connected(machine, middle, clock=lambda: now[0]) as connection,
    ):
        assert connection.post("/v1/hello", b"x") == b"x"
        now[0] += 3601
        with pytest.raises(ChannelError, match="has expired"):
            connection.post("/v1/hello", b"x")
    assert middle.paths.count(SEALED) == 1


def test_a_sealed_session_can_be_saved_and_judged_again(machine: SealedMachine) -> None:
    with Middle(machine.gate.port) as middle:
        attempt = attest(middle.url, machine.expectation)
        attempt.close()
    saved = session_bytes(attempt.session)
    assert "spki" not in json.loads(saved)
    again = parse_session(saved)
    assert again == dataclasses.replace(attempt.session, live=False)
    expectation: Expectation = machine.expectation
    appraisal = expectation.appraise(again, now=expectation.now(), log=None)
    assert appraisal.accepted().spki == attempt.session.spki
    moved = dataclasses.replace(again, spki=attempt.session.spki[:-1] + b"\0")
    assert "C3:other-hpke-key" in expectation.appraise(moved, now=expectation.now(), log=None).reasons


@pytest.mark.bad_input(125)
def test_plain_http_is_for_sealed_requests_only(machine: SealedMachine) -> None:
    tls = dataclasses.replace(
        machine.expectation,
        envelope=publisher().envelope,
        release=publisher().but(release={"validUntil": "2037-01-01T00:00:00Z"}).release,
    )
    with Middle(machine.gate.port, tls=None) as middle:
        with refusing("expected https://HOST or https://HOST:PORT", ChannelError):
            attest(middle.url, tls)
        with refusing("expected https://HOST or https://HOST:PORT", ChannelError):
            with AttestedPool(middle.url, tls).lend():
                pass
    assert middle.paths == []


@pytest.fixture
def published(machine: SealedMachine, tmp_path: Path) -> list[str]:
    """What a user has on disk, as options."""
    image = tmp_path / "image"
    image.mkdir()
    judged_by = machine.expectation
    assert judged_by.release is not None
    (image / "manifest.dsse.json").write_bytes(judged_by.envelope)
    (image / "release.dsse.json").write_bytes(judged_by.release)
    trust = image / "trust.json"
    trust.write_bytes(machine.trust)
    state = tmp_path / "state"
    return ["--manifest", str(image), "--trust", str(trust), "--state", str(state), "--allow-test-tpm"]


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_3, None], ids=["https", "http"])
def test_the_command_line_talks_through_a_middle(
    machine: SealedMachine, published: list[str], tmp_path: Path, tls: ssl.TLSVersion | None
) -> None:
    saved = tmp_path / "session.json"
    with Middle(machine.gate.port, tls=tls) as middle:
        called = CliRunner().invoke(
            main, ["call", f"{middle.url}/v1/hello", "-d", CANARY.decode(), *published]
        )
        assert (called.exit_code, called.stdout) == (0, CANARY.decode())
        assert CANARY not in middle.seen
        words = ["verify", middle.url, *published, "--save", str(saved), "--json"]
        done = CliRunner().invoke(main, words)
        assert (done.exit_code, json.loads(done.stdout)["accepted"]) == (0, True)
    again = CliRunner().invoke(main, ["verify", str(saved), "--recorded", *published])
    assert again.exit_code == 0, again.output
    assert "what is sent opens inside the attested image only" in again.stdout


@pytest.mark.bad_input(125)
def test_the_command_line_says_that_somebody_put_in_a_key(
    machine: SealedMachine, published: list[str]
) -> None:
    own = X25519PrivateKey.generate().public_key()
    spki = base64.b64encode(own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    with Middle(machine.gate.port, on_evidence(lambda answer: answer | {"hpkeKey": spki})) as middle:
        called = CliRunner().invoke(main, ["call", f"{middle.url}/v1/hello", "-d", "Ada", *published])
    assert isinstance(called.exception, VerificationError)
    assert "put a key of its own in the place of the machine's" in (called.exception.hint or "")
    record("C3:other-hpke-key")


@pytest.mark.parametrize("tls", [ssl.TLSVersion.TLSv1_3, None], ids=["https", "http"])
def test_programs_that_know_nothing_of_it_go_through_the_local_proxy(
    machine: SealedMachine, tls: ssl.TLSVersion | None
) -> None:
    listener = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    with (
        Middle(machine.gate.port, tls=tls) as middle,
        contextlib.closing(AttestedPool(middle.url, machine.expectation, timeout_s=20)) as pool,
        serving(Proxy(pool, Access("127.0.0.1", port)), listener, same_user_only=True),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as program,
    ):
        for body in (CANARY, b"again"):
            program.request("POST", "/v1/hello", body, {"Authorization": "Bearer secret-of-the-program"})
            answer = program.getresponse()
            assert (answer.status, answer.read()) == (200, body)
        assert CANARY not in middle.seen
        assert b"secret-of-the-program" not in middle.seen
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, SEALED]
