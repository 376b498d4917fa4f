"""The clients against the real gate on a real swtpm: its padding, its limits, its small grammar."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from blindbuild.client import Expectation
from blindbuild.client.attested_pool import AttestedPool
from blindbuild.client.httpx2_transport import attested_client as attested_client2
from blindbuild.client.httpx_transport import attested_client
from blindbuild.client.proxy import Proxy
from blindbuild.client.proxy_access import Access
from blindbuild.client.proxy_server import listen, serving
from tests.fakes.world import TEST_POLICY, pinned_trust, publisher
from tests.integration.sealed_machine import LATER, SealedMachine, sealed_machine

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def machine(gate_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedMachine]:
    directory = tmp_path_factory.mktemp("machine")
    profile = {"profile": "tls-spki-quote-v1", "routes": ["/v1/hello", CHAT]}
    with sealed_machine(gate_binary, directory, **profile) as running:
        yield running


@pytest.fixture
def expectation(machine: SealedMachine) -> Expectation:
    published = publisher().but(release={"validUntil": "2037-01-01T00:00:00Z"})
    trust = dataclasses.replace(machine.expectation.trust, release_keys=pinned_trust().release_keys)
    return Expectation(published.envelope, published.release, trust, TEST_POLICY, clock=lambda: LATER)


def test_answers_of_every_bucket_come_whole(machine: SealedMachine, expectation: Expectation) -> None:
    url = f"https://127.0.0.1:{machine.gate.port}"
    for make in (attested_client, attested_client2):
        with make(url, expectation) as client:
            for size in (0, 1, 900, 1024, 4096, 17_000, 64 << 10, 130_000, 300_000):
                body = bytes(size)
                assert client.post("/v1/hello", content=body).content == body
            assert client.get("/").status_code == 404  # ends the connection; the next one is judged anew
            assert client.post("/v1/hello", content=b"again").content == b"again"


def test_a_model_behind_the_gate_is_asked_with_all_the_headers_of_the_sdk(
    machine: SealedMachine, expectation: Expectation
) -> None:
    url = f"https://127.0.0.1:{machine.gate.port}"
    with attested_client2(url, expectation) as client:
        sdk = openai.OpenAI(base_url=f"{url}/v1", api_key="key", http_client=client, max_retries=0)
        # the launcher's echo is the request itself: it is no answer of a model, but it is JSON that came back
        made = sdk.chat.completions.with_raw_response.create(
            model="small", messages=[{"role": "user", "content": "Ada"}]
        )
        assert '"content":"Ada"' in made.text.replace(": ", ":")


def test_the_proxy_passes_on_what_the_gate_takes(machine: SealedMachine, expectation: Expectation) -> None:
    pool = AttestedPool(f"https://127.0.0.1:{machine.gate.port}", expectation)
    with contextlib.closing(pool):
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        with serving(Proxy(pool, Access("127.0.0.1", port)), listener, same_user_only=True):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            for size in (1, 5000, 200_000):
                connection.request("POST", "/v1/hello", body=bytes(size))
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, bytes(size))
                assert "padding" not in {name.lower() for name, _ in answer.getheaders()}
            connection.request("GET", "/elsewhere")
            assert connection.getresponse().read() == b""
            connection.close()
