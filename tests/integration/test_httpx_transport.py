"""httpx and httpx2 through attested connections on loopback, and the OpenAI SDK on top of them."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from blindbuild.client import Expectation
from blindbuild.errors import BlindbuildError, ChannelError, UsageError, VerificationError
from blindbuild.verify import Policy
from tests.bad_inputs import record
from tests.fakes.attester import Attester, TlsKey
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.recording_server import RecordingServer, Request, answer
from tests.fakes.world import TEST_POLICY, pinned_trust, publisher, sealed_publisher, tpm
from tests.integration.httpx_driver import DRIVERS, LIBRARIES, SECRET, Driver, failing, post

LOG = log_bytes(honest_boot())


def honest(**changes) -> Attester:
    return Attester(**{"tpm": tpm(), "event_log": LOG, **changes})


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> Driver:
    return Driver.named(request.param)


# --- the good case


def test_a_request_goes_over_the_very_connection_that_was_judged(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        answers = driver.run(driver.client(server.url, expectation()), post(b"one"), post(b"two"))
        assert [reply.content for reply in answers] == [b"hello, one", b"hello, two"]
        assert len(server.visits) == 1
        assert [r.target for r in server.visits[0].requests] == [
            "/.well-known/blindbuild/endorsement",
            "/.well-known/blindbuild/evidence",
            "/v1/hello",
            "/v1/hello",
        ]


def test_nothing_about_the_caller_is_said_before_the_verdict(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        by_name = f"https://localhost:{server.port}"  # an address would not be sent as a name anyway
        client = driver.client(
            by_name, expectation(), headers={"Authorization": "Bearer k"}, cookies={"session": "c"}
        )
        driver.run(client, post())
        visit = server.visits[0]
        for request in visit.requests[:2]:
            assert set(request.headers) <= {"host", "content-type", "content-length"}
            assert request.headers["host"] == f"localhost:{server.port}"
        assert visit.requests[2].headers["authorization"] == "Bearer k"
        assert visit.requests[2].headers["cookie"] == "session=c"
        assert visit.server_name is None  # SNI


def test_a_new_connection_is_judged_and_never_resumed(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        for _ in range(2):
            driver.run(driver.client(server.url, expectation()), post())
        client = driver.client(server.url, expectation())
        driver.run(client, post(), lambda c: _cut(driver, server, c), post())
        assert len(server.visits) == 4
        assert not any(visit.resumed for visit in server.visits)
        assert all(visit.requests[1].of_the_exchange for visit in server.visits)
        nonces = {json.loads(visit.requests[1].body)["nonce"] for visit in server.visits}
        assert len(nonces) == 4


def _cut(driver: Driver, server: RecordingServer, _client: Any) -> Any:
    server.hang_up()

    async def nothing() -> None:
        await asyncio.sleep(0.05)

    return nothing() if driver.awaited else time.sleep(0.05)


def test_an_answer_can_be_read_as_it_arrives(driver: Driver) -> None:
    body = bytes(range(256)) * 1000
    with RecordingServer(honest(), lambda _r: answer(200, body)) as server:

        def read(client: Any) -> Any:
            with client.stream("POST", "/v1/hello", content=b"x") as reply:
                return b"".join(reply.iter_bytes())

        async def read_async(client: Any) -> Any:
            async with client.stream("POST", "/v1/hello", content=b"x") as reply:
                return b"".join([part async for part in reply.aiter_bytes()])

        client = driver.client(server.url, expectation())
        assert driver.run(client, read_async if driver.awaited else read) == [body]


def test_several_threads_share_a_pool_of_judged_connections() -> None:
    driver = Driver("httpx2", awaited=False)
    with RecordingServer(honest()) as server, driver.client(server.url, expectation()) as client:
        got: list[bytes] = []

        def work(number: int) -> None:
            got.append(client.post("/v1/hello", content=b"%d" % number).content)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [b"hello, %d" % number for number in range(6)]
        assert all(visit.requests[1].of_the_exchange for visit in server.visits)


# --- refusals


def refused(
    driver: Driver, url: str, expecting, *calls: Callable[[Any], Any], **options
) -> BlindbuildError | Exception:
    with pytest.raises(Exception) as caught:
        driver.run(driver.client(url, expecting, **options), *(calls or (post(),)))
    return caught.value


def test_a_server_with_another_key_gets_no_byte_of_the_request(driver: Driver) -> None:
    with RecordingServer(honest(), key=TlsKey()) as server:
        error = refused(driver, server.url, expectation())
        assert isinstance(error, VerificationError)
        assert "C3 other-tls-key" in error.message
        assert "something in between passes its answers on" in (error.hint or "")
        assert server.asked == []
        assert SECRET not in server.received
        assert len(server.visits) == 1


def test_a_test_tpm_is_refused(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(policy=Policy()))
        assert isinstance(error, VerificationError)
        assert (error.step, error.reason) == ("A11", "test-tpm")
        assert server.asked == []


def test_a_release_that_is_refused_is_no_reason_to_connect(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(envelope=publisher().but(name="other").envelope))
        assert isinstance(error, VerificationError)
        assert error.step == "M8"
        assert server.visits == []


@pytest.mark.parametrize(
    "target", ["https://localhost:{port}/v1/hello", "http://127.0.0.1:{port}/x", "https://127.0.0.1:1/x"]
)
def test_a_request_to_another_server_is_refused(driver: Driver, target: str) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(), post(path=target.format(port=server.port)))
        assert isinstance(error, VerificationError)
        assert (error.step, error.reason) == ("C5", "other-server")
        assert server.visits == []


@pytest.mark.bad_input(125)
def test_a_redirect_to_another_server_is_not_followed_even_when_the_client_follows(driver: Driver) -> None:
    with RecordingServer(honest()) as other:
        to = {"Location": f"{other.url}/v1/hello"}
        with RecordingServer(honest(), lambda _r: answer(307, b"", **to)) as server:
            error = refused(driver, server.url, expectation(), post(follow_redirects=True))
            assert isinstance(error, VerificationError)
            assert (error.step, error.reason) == ("C5", "other-server")
            assert "where nobody has proven anything" in (error.hint or "")
            record("C5:other-server")
            [plain] = driver.run(driver.client(server.url, expectation()), post())
            assert plain.status_code == 307
        assert other.visits == []


def test_a_body_is_not_sent_twice_when_the_connection_dies(driver: Driver) -> None:
    def cut(request: Request) -> bytes | None:
        return None if request.body == b"cut" else answer(200, b"hello, " + request.body)

    with RecordingServer(honest(), cut) as server:
        error = refused(driver, server.url, expectation(), post(b"one"), post(b"cut"))
        assert isinstance(error, driver.library.TransportError)
        assert "It was not repeated" in str(error)
        assert [request.body for request in server.asked] == [b"one", b"cut"]


def test_an_answer_that_is_cut_is_an_error_in_words(driver: Driver) -> None:
    def half(_request: Request) -> bytes:
        threading.Timer(0.3, server.hang_up).start()
        return answer(200, b"x" * 1000)[:-1]

    with RecordingServer(honest(), half) as server:
        error = refused(driver, server.url, expectation())
        assert isinstance(error, driver.library.TransportError)
        assert "It was not repeated" in str(error)
        assert len(server.asked) == 1


def test_a_server_that_is_silent_after_the_verdict_meets_the_timeout(driver: Driver) -> None:
    def slow(_request: Request) -> bytes:
        time.sleep(10)
        return answer(200, b"late")

    with RecordingServer(honest(), slow) as server:
        began = time.monotonic()
        error = refused(driver, server.url, expectation(), post(timeout=1.0))
        assert isinstance(error, driver.library.ReadTimeout)
        assert "may have worked on the request" in str(error)
        assert "Nothing of this request was sent" not in str(error)
        assert time.monotonic() - began < 9


def test_a_server_that_is_silent_during_the_exchange_meets_the_timeout(driver: Driver) -> None:
    def slow(_request: Request, data: bytes) -> bytes:
        time.sleep(6)
        return data

    with RecordingServer(honest(), tamper=slow) as server:
        error = refused(driver, server.url, expectation(), timeout=1.5)
        assert isinstance(error, driver.library.ReadTimeout)
        assert "Nothing of this request was sent" in str(error)
        assert server.asked == []


def test_a_server_that_leaves_during_the_exchange_is_told_to_have_got_nothing(driver: Driver) -> None:
    with RecordingServer(honest(), tamper=lambda _request, _data: None) as server:
        error = refused(driver, server.url, expectation())
        assert isinstance(error, ChannelError | driver.library.TransportError)
        words = str(error) + (getattr(error, "hint", None) or "")
        assert "Nothing of this request was sent" in words
        assert "It was not repeated" not in words
        assert server.asked == []


@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "in two pieces"])
def test_an_answer_before_its_request_is_refused(driver: Driver, apart: bool) -> None:
    lie = answer(200, b"what you wanted to hear")

    def twice(request: Request, data: bytes) -> bytes:
        if request.method != "POST":
            return data
        if not apart:
            return data + lie
        server.streams[-1].sendall(data)
        return lie

    def wait(_record: object) -> None:  # until the second piece is there, too
        time.sleep(0.1)

    with RecordingServer(honest(), tamper=twice) as server:
        error = refused(driver, server.url, expectation(audit=wait))
        assert isinstance(error, ChannelError)
        assert "sent an answer before it was asked" in (error.hint or "")
        assert server.asked == []


def test_an_answer_between_verdict_and_request_is_refused(driver: Driver) -> None:
    lie = answer(200, b"what you wanted to hear")

    def speak_up(_record: object) -> None:  # the decision is recorded before the first byte is sent
        server.streams[-1].sendall(lie)
        time.sleep(0.1)

    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(audit=speak_up))
        assert isinstance(error, ChannelError)
        assert "sent an answer before it was asked" in (error.hint or "")
        assert server.asked == []


def test_a_server_that_leaves_between_verdict_and_request_is_an_error_in_words(driver: Driver) -> None:
    def leave(_record: object) -> None:
        server.hang_up()
        time.sleep(0.1)

    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(audit=leave))
        assert isinstance(error, ChannelError)
        assert "It was not repeated" in (error.hint or "")
        assert server.asked == []


@pytest.mark.parametrize("sealed", [False, True], ids=["to the end", "sealed"])
@pytest.mark.parametrize(
    "junk", [b"HTTP/1.1 502 X\r\n\r\n", b"\x17\x03\x03\x00\x40" + b"x" * 64], ids=["plain", "record"]
)
def test_what_is_no_tls_after_the_handshake_is_a_lost_connection(
    driver: Driver, junk: bytes, sealed: bool
) -> None:
    def inject(_request: Request, data: bytes) -> bytes | None:
        socket.socket.sendall(server.streams[-1], junk)
        return data

    def handle(request: Request) -> bytes:
        return inject(request, answer(200, b"")) or b""

    published = sealed_publisher() if sealed else publisher()
    judged_by = expectation(envelope=published.envelope, release=published.release)
    # before the verdict, and after it; after one about a sealed session, this server has nothing to say
    for how in [{"tamper": inject}] + [{"handle": handle}] * (not sealed):
        with RecordingServer(honest(), **how) as server:
            error = refused(driver, server.url, judged_by, post())
            assert type(error) is driver.library.ReadError
            words = "the connection ended, or" if "tamper" in how else "the connection ended in the middle"
            assert words in str(error)


def test_a_body_that_fails_as_a_network_does_is_not_sent_as_far_as_it_came(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(), failing(driver))
        assert type(error) is driver.library.WriteError
        assert server.asked == []


def test_an_answer_between_two_requests_is_not_taken_for_the_second_ones(driver: Driver) -> None:
    lie = answer(200, b"what you wanted to hear")

    def speak_up(client: Any) -> Any:
        server.streams[0].sendall(lie)
        time.sleep(0.1)
        return post(b"two")(client)

    with RecordingServer(honest()) as server:
        answers = driver.run(driver.client(server.url, expectation()), post(b"one"), speak_up)
        assert [reply.content for reply in answers] == [b"hello, one", b"hello, two"]
        assert len(server.visits) == 2


def test_a_server_that_only_speaks_older_tls_is_refused_in_words(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        server.context.maximum_version = ssl.TLSVersion.TLSv1_2
        error = refused(driver, server.url, expectation())
        assert isinstance(error, driver.library.ConnectError)
        assert "does not speak TLS 1.3" in str(error)
        assert server.asked == []


def test_nobody_there_is_said_in_words(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        pass
    error = refused(driver, server.url, expectation())
    assert isinstance(error, driver.library.ConnectError)
    assert "nothing answers at this address" in str(error)


def test_a_request_that_cannot_be_written_is_no_lost_connection(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, expectation(), post(headers={"X-Own": "a\r\nb: c"}))
        assert isinstance(error, driver.library.LocalProtocolError)
        assert "what happened" not in str(error)
        assert server.asked == []


def test_a_body_of_which_a_part_was_sent_is_not_sent_again(driver: Driver) -> None:
    with RecordingServer(honest(), takes=100_000) as server:
        error = refused(driver, server.url, expectation(), post(bytes(8 << 20)))
        assert isinstance(error, driver.library.TransportError)
        assert "It was not repeated" in str(error)
        assert len(server.visits) == 1
        assert server.asked == []


def test_malformed_evidence_is_refused_and_recorded(driver: Driver) -> None:
    records: list[Any] = []
    with RecordingServer(honest(tamper=lambda value: value | {"more": 1})) as server:
        error = refused(driver, server.url, expectation(audit=records.append))
        assert isinstance(error, VerificationError)
        assert (error.step, error.reason) == ("Q10", "malformed")
        assert server.asked == []
    assert [(entry["accepted"], entry["reasons"]) for entry in records] == [(False, ["Q10:malformed"])]


# --- proxies and other ways out


def test_proxies_of_the_environment_get_nothing(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    with RecordingServer(honest()) as trap, RecordingServer(honest()) as server:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{trap.port}")
            monkeypatch.setenv(name.lower(), f"http://127.0.0.1:{trap.port}")
        transport = (
            driver.module.AsyncAttestedTransport if driver.awaited else driver.module.AttestedTransport
        )(server.url, expectation())
        kind = driver.library.AsyncClient if driver.awaited else driver.library.Client
        by_hand = kind(transport=transport, base_url=server.url)
        for client in (driver.client(server.url, expectation()), by_hand):
            [reply] = driver.run(client, post())
            assert reply.status_code == 200
        assert trap.visits == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("proxy", "end the connection"), ("mounts", "past the attested"), ("verify", "certificate authority")],
)
def test_a_client_that_would_send_elsewhere_cannot_be_made(driver: Driver, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        driver.client("https://host", expectation(), **{name: "http://127.0.0.1:9"})
    with pytest.raises(UsageError, match="not one of the options"):
        driver.client("https://host", expectation(), proxies={})


@pytest.mark.parametrize("url", ["ftp://host", "https://user@host", "https://host/path", "host"])
def test_an_address_that_is_no_server_is_refused(driver: Driver, url: str) -> None:
    with pytest.raises(ChannelError, match="expected https://"):
        driver.client(url, expectation())


def test_plain_http_is_for_sealed_requests_only(driver: Driver) -> None:
    with RecordingServer(honest()) as server:
        error = refused(driver, server.url.replace("https:", "http:"), expectation())
        assert isinstance(error, ChannelError)
        assert "expected https://HOST or https://HOST:PORT" in error.message
        assert server.visits == []


def test_no_keys_are_written_to_a_key_log(driver: Driver, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with RecordingServer(honest()) as server:
        driver.run(driver.client(server.url, expectation()), post())
    assert not (tmp_path / "keys").exists()


# --- C6: a verdict ends


def test_a_verdict_that_ended_is_followed_by_another_attestation(driver: Driver) -> None:
    now = [NOW]
    with RecordingServer(honest()) as server:

        def later(client: Any) -> Any:
            now[0] = NOW + 3600
            return post(b"two")(client)

        answers = driver.run(
            driver.client(server.url, expectation(clock=lambda: now[0])), post(b"one"), post(b"more"), later
        )
        assert [reply.content for reply in answers][-1] == b"hello, two"
        assert [[r.body for r in v.requests[2:]] for v in server.visits] == [[b"one", b"more"], [b"two"]]


def test_a_verdict_ends_on_its_timer(driver: Driver) -> None:
    policy = dataclasses.replace(TEST_POLICY, session_s=2)
    with RecordingServer(honest()) as server:

        def later(client: Any) -> Any:
            time.sleep(2.05)
            return post()(client)

        driver.run(driver.client(server.url, expectation(policy=policy)), post(), later)
        assert len(server.visits) == 2


def test_a_new_manifest_is_followed_by_another_attestation(driver: Driver) -> None:
    newer = publisher().but(version="2.0.0", sequence=43)
    calls = []

    def latest() -> Expectation:
        calls.append(1)
        if len(calls) < 3:
            return expectation()
        return expectation(envelope=newer.envelope, release=newer.release)

    with RecordingServer(honest()) as server:
        driver.run(driver.client(server.url, latest, refresh_s=0.0), post(), post(), post(), post())
        statements = [json.loads(visit.requests[1].body)["statement"] for visit in server.visits]
        assert len(set(statements)) == 2
        assert [len(visit.requests) for visit in server.visits] == [4, 4]
        # two for the connections, three for requests on connections that were there
        assert len(calls) == 5


def test_what_was_read_during_the_exchange_counts_for_its_first_request(driver: Driver) -> None:
    newer = publisher().but(version="2.0.0", sequence=43)
    current, made = [expectation()], []

    def meanwhile(request: Request, data: bytes) -> bytes:
        current[0] = expectation(envelope=newer.envelope, release=newer.release)
        made[0]._transport._pool.judge.ask()  # as another thread's request does
        return data

    with RecordingServer(honest(), tamper=meanwhile) as server:
        made.append(driver.client(server.url, lambda: current[0]))
        with pytest.raises(ChannelError, match="attest again"):
            driver.run(made[0], post())
        assert server.asked == []


def test_an_expectation_that_cannot_be_had_sends_nothing(driver: Driver) -> None:
    calls = []

    def once() -> Expectation:
        calls.append(1)
        if len(calls) > 1:
            raise ChannelError("the repository cannot be reached")
        return expectation()

    with RecordingServer(honest()) as server:
        error = refused(driver, server.url, once, post(b"one"), post(b"two"), refresh_s=0.0)
        assert isinstance(error, ChannelError)
        assert [request.body for request in server.asked] == [b"one"]


def test_another_key_is_judged_anew_and_a_thiefs_refused(driver: Driver) -> None:
    attester = honest()
    rebooted, thief = TlsKey(), TlsKey()
    with RecordingServer(attester) as server:

        def reboot(client: Any) -> Any:
            server.use_key(rebooted)
            attester.key = rebooted
            return _cut(driver, server, client)

        def steal(client: Any) -> Any:
            server.use_key(thief)
            return _cut(driver, server, client)

        records: list[Any] = []
        error = refused(
            driver,
            server.url,
            expectation(audit=records.append),
            post(b"one"),
            reboot,
            post(b"two"),
            steal,
            post(b"three"),
        )
        assert isinstance(error, VerificationError)
        assert "C3 other-tls-key" in error.message
        assert [request.body for request in server.asked] == [b"one", b"two"]
        assert [record["accepted"] for record in records] == [True, True, False]
        assert len({record["tlsKey"] for record in records}) == 3


# --- the OpenAI SDK


def completion(text: str) -> bytes:
    value = {
        "id": "c1",
        "object": "chat.completion",
        "created": NOW,
        "model": "small",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
    }
    return json.dumps(value).encode()


def events(words: list[str]) -> bytes:
    lines = []
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "created": NOW, "model": "small"}
        lines.append(f"data: {json.dumps(chunk | {'choices': [choice]})}\n\n")
    return ("".join(lines) + "data: [DONE]\n\n").encode()


def chat(request: Request) -> bytes:
    """What a model behind the gate answers; a stream as one body, since the gate answers whole bodies."""
    if (request.method, request.target) != ("POST", "/v1/chat/completions"):
        return answer(404, b"")
    asked = json.loads(request.body)
    said = asked["messages"][-1]["content"]
    if asked.get("stream"):
        return answer(200, events(["you ", "said ", said]), Content_Type="text/event-stream")
    return answer(200, completion(f"you said {said}"), Content_Type="application/json")


MESSAGES: Any = [{"role": "user", "content": "Ada"}]


@pytest.fixture
def model() -> Iterator[RecordingServer]:
    with RecordingServer(honest(), chat) as server:
        yield server


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_openai_sdk_asks_an_attested_model(name: str, model: RecordingServer) -> None:
    driver = Driver(name, awaited=False)
    with driver.client(model.url, expectation()) as http_client:
        sdk = openai.OpenAI(base_url=f"{model.url}/v1", api_key="key", http_client=http_client, max_retries=0)
        made = sdk.chat.completions.create(model="small", messages=MESSAGES)
        assert made.choices[0].message.content == "you said Ada"
        parts = sdk.chat.completions.create(model="small", messages=MESSAGES, stream=True)
        assert "".join(part.choices[0].delta.content or "" for part in parts) == "you said Ada"
    assert len(model.visits) == 1
    assert [request.headers["authorization"] for request in model.asked] == ["Bearer key"] * 2
    assert all("authorization" not in request.headers for request in model.visits[0].requests[:2])


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_asynchronous_openai_sdk_asks_an_attested_model(name: str, model: RecordingServer) -> None:
    driver = Driver(name, awaited=True)

    async def talk() -> tuple[str | None, str]:
        async with driver.client(model.url, expectation()) as http_client:
            sdk = openai.AsyncOpenAI(
                base_url=f"{model.url}/v1", api_key="key", http_client=http_client, max_retries=0
            )
            made = await sdk.chat.completions.create(model="small", messages=MESSAGES)
            stream = await sdk.chat.completions.create(model="small", messages=MESSAGES, stream=True)
            parts = [part.choices[0].delta.content or "" async for part in stream]
            return made.choices[0].message.content, "".join(parts)

    assert asyncio.run(talk()) == ("you said Ada", "you said Ada")
    assert len(model.visits) == 1


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_openai_sdk_shows_why_a_server_is_refused_and_tries_once(name: str) -> None:
    driver = Driver(name, awaited=False)
    with RecordingServer(honest(), chat, key=TlsKey()) as server:
        with driver.client(server.url, expectation()) as http_client:
            # even with the SDK's retries on: a refusal is no error of the network
            sdk = openai.OpenAI(base_url=f"{server.url}/v1", api_key="key", http_client=http_client)
            with pytest.raises(VerificationError, match="C3 other-tls-key"):
                sdk.chat.completions.create(model="small", messages=MESSAGES)
        assert len(server.visits) == 1
        assert b'"Ada"' not in server.received  # three letters alone occur by chance in base64
        assert b"Bearer" not in server.received


def test_a_client_without_httpx_loads_none_of_it() -> None:
    code = "import sys, blindbuild.client; print([m for m in sys.modules if m.split('.')[0] in "
    code += "('httpx', 'httpx2', 'httpcore', 'httpcore2', 'anyio', 'asyncio')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
