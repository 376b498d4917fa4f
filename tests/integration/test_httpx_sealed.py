"""httpx, httpx2 and the OpenAI SDK on top of them through a middle that ends TLS, before the real gate."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client import Expectation, exchange, following
from blindbuild.errors import ChannelError, VerificationError
from tests.bad_inputs import record, refusing
from tests.fakes.gate_launcher import read_request
from tests.fakes.middle import Middle, Passing, Play
from tests.integration.gate_harness import ENDORSEMENT, EVIDENCE
from tests.integration.httpx_driver import DRIVERS, LIBRARIES, Driver, failing, post
from tests.integration.sealed_machine import LATER, SEALED, SealedMachine, sealed_machine
from tests.integration.test_scenario_client_page import BALANCER, PYTHON, SEALED_PYTHON

CANARY = b"canary-8d1e-the-patient-is-called-Ada"
CHAT = "/v1/chat/completions"
NOT_SEALED = "C3:answer-not-sealed"


@pytest.fixture(scope="module")
def machine(gate_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedMachine]:
    directory = tmp_path_factory.mktemp("sealed")
    with sealed_machine(gate_binary, directory, routes=["/v1/hello", CHAT]) as running:
        yield running


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    return Driver.named(request.param)


@pytest.fixture
def expectation(machine: SealedMachine) -> Expectation:
    return machine.expectation


def on_sealed(play: Play) -> Play:
    """Return a middle that is honest until the first sealed request."""
    return lambda passing: play(passing) if passing.path == SEALED else passing.on()


def made(driver: Driver, count: int = 1) -> tuple[list[bytes], Any]:
    """Return a list that fills as a body is read, and the body: its length is known, its parts are not."""
    read: list[bytes] = []

    def parts() -> Iterator[bytes]:
        for number in range(count):
            read.append(CANARY[number : number + 1])
            yield read[-1]

    async def awaited() -> Any:
        for part in parts():
            yield part

    return read, awaited() if driver.awaited else parts()


# --- the good case


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
def test_data_passes_through_any_middle_and_shows_it_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver, how: dict
) -> None:
    with Middle(machine.gate.port, **how) as middle:
        own = {"Authorization": "Bearer own-secret", "Cookie": "session=own-secret", "X-Own": "own-secret"}
        client = driver.client(middle.url, expectation, headers=own)
        answers = driver.run(
            client, post(CANARY), post(CANARY[::-1]), post(CANARY, path="/v1/nothing?own-secret"), post(b"{}")
        )
        assert [reply.status_code for reply in answers] == [200, 200, 404, 200]
        assert [reply.content for reply in answers] == [CANARY, CANARY[::-1], b"", b"{}"]
        assert answers[3].headers["content-type"] == "application/json"
        # one session, whatever becomes of the connection
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, SEALED, SEALED, SEALED]
        seen = middle.seen
    for spelling in (CANARY, CANARY[::-1], base64.b64encode(CANARY), CANARY.hex().encode(), b"own-secret"):
        assert spelling not in seen
    for name in (b"v1/hello", b"v1/nothing", b"python-httpx"):
        assert name not in seen


@pytest.mark.parametrize("name", ["httpx", "httpx2 async"])
def test_bodies_of_any_size_come_back_whole_and_show_a_bucket(
    machine: SealedMachine, expectation: Expectation, name: str
) -> None:
    driver = Driver.named(name)
    bodies = [(CANARY * 9_000)[:size] for size in (0, 1, 5_000, 70_000, 300_000)]
    with Middle(machine.gate.port) as middle:
        answers = driver.run(driver.client(middle.url, expectation), *map(post, bodies))
        assert [reply.content for reply in answers] == bodies
        for asked, answered in middle.sizes[2:]:
            for travelled, around in ((asked, 16 + 32 + 16), (answered, 32 + 16)):
                whole = travelled - around + 256
                assert whole in (1 << 10, 4 << 10, 16 << 10) or whole % (64 << 10) == 0


def test_several_requests_at_once_have_sessions_of_their_own(
    machine: SealedMachine, expectation: Expectation
) -> None:
    driver = Driver.named("httpx2 async")

    async def all_at_once(url: str) -> list[bytes]:
        async with driver.client(url, expectation) as client:
            asked = [client.post("/v1/hello", content=b"%d" % number) for number in range(6)]
            return [reply.content for reply in await asyncio.gather(*asked)]

    with Middle(machine.gate.port) as middle:
        assert asyncio.run(all_at_once(middle.url)) == [b"%d" % number for number in range(6)]
        assert 1 <= middle.paths.count(EVIDENCE) <= 6
        assert middle.paths.count(SEALED) == 6


def test_a_request_that_was_cancelled_leaves_nothing_for_the_next(
    machine: SealedMachine, expectation: Expectation
) -> None:
    driver, held = Driver.named("httpx async"), threading.Event()

    def hold(passing: Passing) -> tuple[int, bytes]:
        reply = passing.on()
        if middle.paths.count(SEALED) == 1:
            held.wait(10)
        return reply

    async def cancel(url: str) -> bytes:
        async with driver.client(url, expectation) as client:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.post("/v1/hello", content=b"first"), 1.5)
            reply = await client.post("/v1/hello", content=b"second")
            held.set()
            return reply.content

    with Middle(machine.gate.port, on_sealed(hold)) as middle:
        assert asyncio.run(cancel(middle.url)) == b"second"
        assert middle.paths.count(EVIDENCE) == 2


def test_a_body_whose_length_is_not_said_is_refused_inside_the_seal(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    started = machine.launcher.started
    with Middle(machine.gate.port) as middle:
        client = driver.client(middle.url, expectation)
        [reply] = driver.run(client, lambda c: c.post("/v1/hello", content=made(driver, 3)[1]))
        assert (reply.status_code, middle.sizes[-1][1]) == (400, 1024 - 256 + 48)
    assert machine.launcher.started == started


# --- before the verdict


def with_own_key(passing: Passing) -> tuple[int, bytes]:
    """Put a key of the middle's own into the evidence."""
    status, reply = passing.on()
    if passing.path != EVIDENCE:
        return status, reply
    own = X25519PrivateKey.generate().public_key()
    spki = base64.b64encode(own.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    return status, json.dumps(json.loads(reply) | {"hpkeKey": spki}).encode()


@pytest.mark.bad_input(125)
def test_a_key_that_the_middle_put_in_gets_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    read, body = made(driver)
    decisions: list[Any] = []
    judged_by = dataclasses.replace(expectation, audit=decisions.append)
    with Middle(machine.gate.port, with_own_key) as middle:
        with pytest.raises(VerificationError, match="C3 other-hpke-key") as caught:
            driver.run(
                driver.client(middle.url, judged_by), lambda client: client.post("/v1/hello", content=body)
            )
        assert middle.paths == [ENDORSEMENT, EVIDENCE]
    record("C3:other-hpke-key")
    assert "put a key of its own in the place of the machine's" in (caught.value.hint or "")
    assert [decision["accepted"] for decision in decisions] == [False]
    assert read == []  # of the body not even the client has read anything


@pytest.mark.bad_input(125)
def test_evidence_that_was_replayed_gets_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    first: list[tuple[int, bytes]] = []

    def again(passing: Passing) -> tuple[int, bytes]:
        reply = passing.on()
        if passing.path != EVIDENCE:
            return reply
        first.append(reply)
        return first[0]

    with Middle(machine.gate.port, again) as middle:
        driver.run(driver.client(middle.url, expectation), post(CANARY))
        with pytest.raises(VerificationError, match="Q7 bound-data-mismatch"):
            driver.run(driver.client(middle.url, expectation), post(CANARY))
        assert middle.paths.count(SEALED) == 1
    record("Q7:bound-data-mismatch")


@pytest.mark.parametrize("status", [302, 404, 502])
def test_a_middle_that_answers_the_exchange_itself_gets_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver, status: int
) -> None:
    with Middle(machine.gate.port, lambda _passing: (status, b"<html>")) as middle:
        with pytest.raises(ChannelError, match=r"got a redirect|expected status 200"):
            driver.run(driver.client(middle.url, expectation), post(CANARY))
        assert middle.paths == [ENDORSEMENT]


def test_proxies_of_the_environment_get_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Middle(machine.gate.port, tls=None) as trap, Middle(machine.gate.port, tls=None) as middle:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
            monkeypatch.setenv(name.lower(), trap.url)
        [reply] = driver.run(driver.client(middle.url, expectation), post(CANARY))
        assert reply.content == CANARY
        assert trap.paths == []


@pytest.mark.parametrize(
    "target", ["https://127.0.0.1:{port}/x", "http://127.0.0.1/x", "http://localhost:{port}/x"]
)
def test_a_request_to_another_server_is_refused(
    machine: SealedMachine, expectation: Expectation, driver: Driver, target: str
) -> None:
    with Middle(machine.gate.port, tls=None) as middle:
        port = middle.url.rpartition(":")[2]
        with pytest.raises(VerificationError) as caught:
            driver.run(driver.client(middle.url, expectation), post(CANARY, path=target.format(port=port)))
        assert (caught.value.step, caught.value.reason) == ("C5", "other-server")
        assert middle.paths == []


# --- sealed requests and their answers


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda _asked, reply: reply[:-1], id="cut"),
        pytest.param(lambda _asked, reply: bytes([reply[0] ^ 1]) + reply[1:], id="flip first"),
        pytest.param(lambda _asked, reply: reply[:-1] + bytes([reply[-1] ^ 1]), id="flip last"),
        pytest.param(lambda asked, _reply: asked, id="the request reflected"),
        pytest.param(lambda _asked, _reply: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", id="no seal"),
    ],
)
def test_an_answer_that_the_image_did_not_seal_is_refused(
    machine: SealedMachine, expectation: Expectation, driver: Driver, change: Callable[[bytes, bytes], bytes]
) -> None:
    def play(passing: Passing) -> tuple[int, bytes]:
        status, reply = passing.on()
        return status, change(passing.body, reply)

    with Middle(machine.gate.port, on_sealed(play)) as middle:
        with refusing(NOT_SEALED):
            driver.run(driver.client(middle.url, expectation), post(CANARY))
        assert middle.paths.count(SEALED) == 1


@pytest.mark.bad_input(125)
def test_the_answer_to_another_request_is_refused(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    answers: list[tuple[int, bytes]] = []

    def first_again(passing: Passing) -> tuple[int, bytes]:
        answers.append(passing.on())
        return answers[0]

    with Middle(machine.gate.port, on_sealed(first_again)) as middle, refusing(NOT_SEALED):
        driver.run(driver.client(middle.url, expectation), post(CANARY), post(CANARY))


@pytest.mark.bad_input(125)
def test_a_request_that_is_sent_twice_runs_once(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    def copy_first(passing: Passing) -> tuple[int, bytes]:
        passing.on()
        return passing.on()

    started = machine.launcher.started
    with Middle(machine.gate.port, on_sealed(copy_first)) as middle, refusing("C3:request-replayed"):
        driver.run(driver.client(middle.url, expectation), post(CANARY))
    assert machine.launcher.started == started + 1


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    ("status", "saying"),
    [(302, "got a redirect"), (404, "got status 404"), (409, "got status 409"), (502, "got status 502")],
)
def test_what_the_middle_says_is_no_answer_and_redirects_are_not_followed(
    machine: SealedMachine, expectation: Expectation, driver: Driver, status: int, saying: str
) -> None:
    with Middle(machine.gate.port, on_sealed(lambda _passing: (status, b"<html>"))) as middle:
        with refusing(saying, ChannelError):
            driver.run(driver.client(middle.url, expectation), post(CANARY, follow_redirects=True))
        assert middle.paths.count(SEALED) == 1


def hang_up(_passing: Passing) -> tuple[int, bytes]:
    raise OSError


def test_a_request_whose_answer_was_lost_is_not_repeated_and_the_next_is_judged_anew(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    started = machine.launcher.started
    with Middle(machine.gate.port) as middle:
        client = driver.client(middle.url, expectation)

        def lose(client: Any) -> Any:
            middle.play = on_sealed(lambda passing: hang_up(passing) if passing.on() else (0, b""))
            return lost_post(client)

        def honest(client: Any) -> Any:
            middle.play = Passing.on
            return post(b"third")(client)

        async def lost_async(client: Any) -> Any:
            with pytest.raises((ChannelError, driver.library.TransportError), match=r"answer|lost|repeated"):
                await post(b"second")(client)

        def lost(client: Any) -> Any:
            with pytest.raises((ChannelError, driver.library.TransportError), match=r"answer|lost|repeated"):
                post(b"second")(client)

        lost_post = lost_async if driver.awaited else lost
        answers = driver.run(client, post(b"first"), lose, honest)
        assert [answers[0].content, answers[2].content] == [b"first", b"third"]
        assert (middle.paths.count(SEALED), middle.paths.count(EVIDENCE)) == (3, 2)
    assert machine.launcher.started == started + 3


def test_a_middle_that_leaves_during_the_exchange_is_told_to_have_got_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    with Middle(machine.gate.port, hang_up) as middle:
        with pytest.raises((ChannelError, driver.library.TransportError)) as caught:
            driver.run(driver.client(middle.url, expectation), post(CANARY))
    assert "Nothing of this request was sent" in str(caught.value) + (
        getattr(caught.value, "hint", None) or ""
    )


@pytest.mark.parametrize("path", [EVIDENCE, SEALED])
def test_a_middle_that_is_silent_meets_the_timeout(
    machine: SealedMachine, expectation: Expectation, driver: Driver, path: str
) -> None:
    done = threading.Event()

    def silent(passing: Passing) -> tuple[int, bytes]:
        if passing.path == path:
            done.wait(40)
        return passing.on()

    with Middle(machine.gate.port, silent) as middle:
        began = time.monotonic()
        with pytest.raises(driver.library.ReadTimeout) as caught:
            driver.run(driver.client(middle.url, expectation, timeout=3.0), post(CANARY))
        words = ("may have worked on the request", "Nothing of this request was sent")
        assert [word in str(caught.value) for word in words] == [path == SEALED, path == EVIDENCE]
        assert time.monotonic() - began < 30
        done.set()
        assert middle.paths.count(path) == 1


def test_a_body_that_fails_as_a_network_does_is_not_sealed(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    with Middle(machine.gate.port) as middle:
        with pytest.raises(driver.library.WriteError, match="of another stream"):
            driver.run(driver.client(middle.url, expectation), failing(driver))
        assert middle.paths == [ENDORSEMENT, EVIDENCE]


def test_a_request_whose_client_was_closed_is_not_sent(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    def parts(client: Any) -> Iterator[bytes]:
        yield CANARY[:1]
        client.close()
        yield CANARY[1:]

    async def awaited(client: Any) -> Any:
        yield CANARY[:1]
        await client.aclose()
        yield CANARY[1:]

    def half_closed(client: Any) -> Any:
        body = awaited(client) if driver.awaited else parts(client)
        return post(body, headers={"Content-Length": str(len(CANARY))})(client)  # type: ignore[arg-type]

    with Middle(machine.gate.port) as middle:
        with pytest.raises(ChannelError, match="connection closed; attest again"):
            driver.run(driver.client(middle.url, expectation), half_closed)
        assert middle.paths == [ENDORSEMENT, EVIDENCE]


def test_a_client_that_is_closed_before_the_verdict_sends_nothing_after_it(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    loops: list[asyncio.AbstractEventLoop] = []

    def close(passing: Passing) -> tuple[int, bytes]:
        if passing.path == EVIDENCE:
            if driver.awaited:
                asyncio.run_coroutine_threadsafe(client.aclose(), loops[0]).result(10)
            else:
                client.close()
        return passing.on()

    async def awaited(client: Any) -> Any:
        loops.append(asyncio.get_running_loop())
        return await post(CANARY)(client)

    with Middle(machine.gate.port, close) as middle:
        client = driver.client(middle.url, expectation)
        with pytest.raises(ChannelError, match="connection closed; attest again"):
            driver.run(client, awaited if driver.awaited else post(CANARY))
        assert middle.paths == [ENDORSEMENT, EVIDENCE]


def test_a_middle_that_drips_does_not_hold_the_client_before_the_verdict(
    machine: SealedMachine, expectation: Expectation, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "MAX_NONCE_AGE_S", -1.0)
    with Middle(machine.gate.port) as middle:
        with pytest.raises(ChannelError, match="expected to have sent a request within"):
            driver.run(driver.client(middle.url, expectation), post(CANARY))
        assert middle.paths == []


def test_a_middle_without_tls_is_said_so(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    with Middle(machine.gate.port, tls=None) as middle:
        with pytest.raises(driver.library.ConnectError, match="does not speak TLS"):
            driver.run(driver.client(middle.url.replace("http:", "https:"), expectation), post(CANARY))
        assert SEALED not in middle.paths


# --- C6: a verdict ends


def test_a_verdict_that_ended_is_followed_by_another_attestation(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    now = [LATER]
    judged_by = dataclasses.replace(expectation, clock=lambda: now[0])

    def later(client: Any) -> Any:
        now[0] = LATER + 3601
        return post(b"two")(client)

    with Middle(machine.gate.port) as middle:
        answers = driver.run(driver.client(middle.url, judged_by), post(b"one"), later)
        assert [reply.content for reply in answers] == [b"one", b"two"]
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED] * 2


def test_a_verdict_that_ends_while_a_body_is_made_seals_nothing(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    now = [LATER]
    judged_by = dataclasses.replace(expectation, clock=lambda: now[0])

    def parts() -> Iterator[bytes]:
        yield CANARY
        now[0] = LATER + 3601

    async def awaited() -> Any:
        for part in parts():
            yield part

    with Middle(machine.gate.port) as middle:
        body = awaited() if driver.awaited else parts()
        with pytest.raises(ChannelError, match="has expired"):
            driver.run(
                driver.client(middle.url, judged_by), lambda client: client.post("/v1/hello", content=body)
            )
        assert middle.paths == [ENDORSEMENT, EVIDENCE]


def test_a_policy_that_changed_is_followed_by_another_attestation(
    machine: SealedMachine, expectation: Expectation, driver: Driver
) -> None:
    other = dataclasses.replace(expectation, policy=dataclasses.replace(expectation.policy, session_s=60))
    current = [expectation]

    def change(client: Any) -> Any:
        current[0] = other
        return post(b"two")(client)

    with Middle(machine.gate.port) as middle:
        client = driver.client(middle.url, lambda: current[0], refresh_s=0.0)
        driver.run(client, post(b"one"), change, post(b"three"))
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, ENDORSEMENT, EVIDENCE, SEALED, SEALED]


# --- the OpenAI SDK


def completion(said: str) -> dict[str, Any]:
    """What a model answers."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
    return {
        "id": "c1",
        "object": "chat.completion",
        "created": LATER,
        "model": "small",
        "choices": [choice],
    }


def model(stream: socket.socket) -> None:
    """A workload that answers as a model does."""
    said = json.loads(read_request(stream))["messages"][-1]["content"]
    data = json.dumps(completion(f"you said {said}")).encode()
    stream.sendall(struct.pack(">I", len(data)) + data)


ASKED: Any = {"model": "small", "messages": [{"role": "user", "content": CANARY.decode()}]}


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_the_openai_sdk_asks_a_model_through_a_middle(
    machine: SealedMachine,
    expectation: Expectation,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    awaited: bool,
) -> None:
    monkeypatch.setattr(machine.launcher, "workload", model)
    driver = Driver(name, awaited=awaited)

    def sdk(kind: Any, http_client: Any) -> Any:
        return kind(base_url=f"{middle.url}/v1", api_key="the-key", http_client=http_client, max_retries=0)

    async def talk() -> Any:
        async with driver.client(middle.url, expectation) as http_client:
            asking = sdk(openai.AsyncOpenAI, http_client).chat.completions
            return [await asking.create(**ASKED) for _ in range(2)]

    with Middle(machine.gate.port) as middle:
        if awaited:
            answers = asyncio.run(talk())
        else:
            with driver.client(middle.url, expectation) as http_client:
                asking = sdk(openai.OpenAI, http_client).chat.completions
                answers = [asking.create(**ASKED) for _ in range(2)]
        for made in answers:
            assert made.choices[0].message.content == f"you said {CANARY.decode()}"
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, SEALED]
        for secret in (CANARY, b"the-key", b"/chat/", b'"small"', b"OpenAI"):
            assert secret not in middle.seen


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_openai_sdk_shows_why_a_middle_is_refused_and_tries_once(
    machine: SealedMachine, expectation: Expectation, name: str
) -> None:
    driver = Driver(name, awaited=False)
    with Middle(machine.gate.port, with_own_key) as middle:
        with driver.client(middle.url, expectation) as http_client:
            # even with the SDK's retries on: a refusal is no error of the network
            sdk = openai.OpenAI(base_url=f"{middle.url}/v1", api_key="key", http_client=http_client)
            with pytest.raises(VerificationError, match="C3 other-hpke-key"):
                sdk.chat.completions.create(**ASKED)
        assert middle.paths == [ENDORSEMENT, EVIDENCE]


# --- docs/client.md


def greeting_or_model(stream: socket.socket) -> None:
    """The page's two services."""
    asked = read_request(stream)
    answered = json.dumps(completion("hello, Ada")).encode() if asked[:1] == b"{" else b"hello, " + asked
    stream.sendall(struct.pack(">I", len(answered)) + answered)


def test_what_the_page_of_clients_says_about_sealed_requests_works(
    machine: SealedMachine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(following, "Following", partial(following.Following, clock=lambda: LATER))
    monkeypatch.setattr(machine.launcher, "workload", greeting_or_model)
    place = tmp_path / "images" / "hello-sealed" / "1.0.0"
    place.mkdir(parents=True)
    judged_by = machine.expectation
    assert judged_by.release is not None
    (place / "manifest.dsse.json").write_bytes(judged_by.envelope)
    (place / "release.dsse.json").write_bytes(judged_by.release)
    # as for a machine of a provider: the page's reader has no test TPM
    (tmp_path / "trust.json").write_bytes(
        machine.trust.replace(b'"testTpmRoots"', b'"tpmRoots"').replace(
            b'"testTpmIntermediates"', b'"tpmIntermediates"'
        )
    )
    lines = [line for text in PYTHON for line in text.splitlines()]
    names: dict[str, object] = {}
    exec("\n".join(line for line in lines if line.startswith(("from ", "import "))), names)  # noqa: S102 our own page
    [block] = SEALED_PYTHON
    with Middle(machine.gate.port) as middle:
        exec(block.replace(BALANCER, middle.url), names)  # noqa: S102
        # three letters alone occur by chance in what is sealed
        for plain in (b"\r\n\r\nAda", b'"Ada"', b"hello, Ada", b"/v1/hello"):
            assert plain not in middle.seen
        assert middle.paths == [ENDORSEMENT, EVIDENCE, SEALED, SEALED]
    assert capsys.readouterr().out.splitlines() == ["hello, Ada", "hello, Ada"]
