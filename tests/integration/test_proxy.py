"""The local proxy on loopback: any program asks it, and only a server that was judged gets anything."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest

from blindbuild.client import Expectation
from blindbuild.client import proxy_server as server_module
from blindbuild.client.attested_pool import AttestedPool
from blindbuild.client.proxy import Proxy
from blindbuild.client.proxy_access import Access
from blindbuild.client.proxy_server import listen, listen_at_path, serving
from blindbuild.errors import ChannelError, VerificationError
from tests.fakes.attester import Attester, TlsKey
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.recording_server import RecordingServer, Request, answer
from tests.fakes.world import TEST_POLICY, authority, pinned_trust, publisher, tpm

LOG = log_bytes(honest_boot())
SECRET = b"the patient's name"
CURL = shutil.which("curl")
PAGE = "https://app.example"


def honest(**changes) -> Attester:
    return Attester(**{"tpm": tpm(), "event_log": LOG, **changes})


def expectation(**changes) -> Expectation:
    base = Expectation(
        publisher().envelope, publisher().release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
    )
    return dataclasses.replace(base, **changes)


@dataclass
class Running:
    """A proxy that runs, and how a program asks it."""

    port: int
    pool: AttestedPool

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, method: str = "POST", target: str = "/v1/hello", body: bytes = SECRET, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, target, body=body, headers=named)
            got = connection.getresponse()
            return got.status, {k.lower(): v for k, v in got.getheaders()}, got.read()

    def say(self, data: bytes, *, wait_s: float = 5.0) -> bytes:
        """Send bytes as they are and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait_s) as stream:
            stream.sendall(data)
            return b"".join(iter(lambda: stream.recv(65536), b""))


@contextlib.contextmanager
def proxy(
    server: RecordingServer, expecting: Any = None, *, max_body: int = 1 << 20, **access
) -> Iterator[Running]:
    pool = AttestedPool(server.url, expecting or expectation(), timeout_s=5, refresh_s=0.0)
    with contextlib.closing(pool):
        listener = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        made = Proxy(pool, Access("127.0.0.1", port, **access), max_body=max_body)
        with serving(made, listener, same_user_only=True):
            yield Running(port, pool)


# --- the good case


def test_a_program_is_answered_by_a_server_that_was_judged_first() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        status, headers, body = running.ask(X_Own="kept", Authorization="Bearer key", Cookie="of another")
        assert (status, body) == (200, b"hello, " + SECRET)
        assert "padding" not in headers
        [request] = server.asked
        assert request.headers["x-own"] == "kept"
        assert request.headers["authorization"] == "Bearer key"
        assert request.headers["host"] == f"127.0.0.1:{server.port}"
        assert "cookie" not in request.headers
        assert [r.of_the_exchange for r in server.visits[0].requests] == [True, True, False]


def test_method_and_query_are_passed_on() -> None:
    def echo(request: Request) -> bytes:
        return answer(201, f"{request.method} {request.target}".encode(), Content_Type="text/plain")

    with RecordingServer(honest(), echo) as server, proxy(server) as running:
        status, headers, body = running.ask("PUT", "/v1/x?a=b%20c", b"")
        assert (status, headers["content-type"], body) == (201, "text/plain", b"PUT /v1/x?a=b%20c")
        assert running.ask("GET", "/v1/y", b"")[2] == b"GET /v1/y"


def test_many_programs_are_answered_over_few_judged_connections() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        got: list[bytes] = []

        def ask(number: int) -> None:
            got.append(running.ask(body=b"%d" % number)[2])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == sorted(b"hello, %d" % number for number in range(40))
        assert len(server.visits) <= 8
        assert all(visit.requests[1].of_the_exchange for visit in server.visits)


def test_one_connection_carries_several_requests() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        one = b"POST /v1/hello HTTP/1.1\r\nHost: %s\r\nContent-Length: 3\r\n%s\r\none"
        host = f"127.0.0.1:{running.port}".encode()
        said = running.say(one % (host, b"") + one % (host, b"Connection: close\r\n"))
        assert said.count(b"hello, one") == 2
        assert len(server.asked) == 2


def test_the_openai_sdk_asks_through_the_proxy() -> None:
    def chat(request: Request) -> bytes:
        said = json.loads(request.body)["messages"][0]["content"]
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
        value = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        return answer(200, json.dumps(value).encode(), Content_Type="application/json")

    messages: Any = [{"role": "user", "content": "Ada"}]
    with RecordingServer(honest(), chat) as server, proxy(server) as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="key", max_retries=0) as sdk:
            made = sdk.chat.completions.create(model="m", messages=messages)
        assert made.choices[0].message.content == "Ada"
    with RecordingServer(honest(), chat, key=TlsKey()) as server, proxy(server) as running:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="key", max_retries=0) as sdk:
            with pytest.raises(openai.InternalServerError, match="C3 other-tls-key"):
                sdk.chat.completions.create(model="m", messages=messages)
        assert b'"Ada"' not in server.received  # three letters alone occur by chance in base64


# --- refusals


@pytest.mark.parametrize("accept", ["*/*", "application/json"])
def test_a_server_that_is_refused_gets_nothing_and_the_program_reads_why(accept: str) -> None:
    with RecordingServer(honest(), key=TlsKey()) as server, proxy(server) as running:
        status, headers, body = running.ask(Accept=accept, Authorization="Bearer key")
        assert status == 502
        assert b"something in between passes its answers on" in body
        assert b"what to do: look for what opens encrypted connections on the way" in body
        if accept == "application/json":
            assert json.loads(body)["error"]["type"] == "attestation"
            # every failed step is in the message; the code is the first one's
            assert json.loads(body)["error"]["code"] == "Q7:bound-data-mismatch"
        else:
            assert headers["content-type"].startswith("text/plain")
        assert server.asked == []
        assert SECRET not in server.received
        assert b"Bearer" not in server.received


def test_the_body_is_not_even_read_before_the_server_is_judged() -> None:
    with RecordingServer(honest(), key=TlsKey()) as server, proxy(server) as running:
        head = f"POST /v1/hello HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nExpect: 100-continue\r\n"
        said = running.say(head.encode() + b"Content-Length: 1000000\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 502 ")
    with RecordingServer(honest()) as server, proxy(server) as running:
        head = f"POST /v1/hello HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nExpect: 100-continue\r\n"
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as stream:
            stream.sendall(head.encode() + b"Content-Length: 3\r\nConnection: close\r\n\r\n")
            assert stream.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert len(server.visits) == 1
            stream.sendall(b"one")
            assert b"".join(iter(lambda: stream.recv(65536), b"")).endswith(b"hello, one")


def test_a_request_is_not_sent_twice_when_the_connection_dies() -> None:
    def cut(request: Request) -> bytes | None:
        return None if request.body == b"cut" else answer(200, b"fine")

    with RecordingServer(honest(), cut) as server, proxy(server) as running:
        assert running.ask(body=b"one")[0] == 200
        status, _headers, body = running.ask(body=b"cut")
        assert status == 502
        assert b"It was not repeated" in body
        assert running.ask(body=b"two")[0] == 200
        assert [request.body for request in server.asked] == [b"one", b"cut", b"two"]


def test_a_redirect_is_not_followed_and_not_passed_on() -> None:
    with RecordingServer(honest()) as other:
        to = {"Location": f"{other.url}/v1/hello"}
        with RecordingServer(honest(), lambda _r: answer(307, b"", **to)) as server, proxy(server) as running:
            status, headers, body = running.ask()
            assert status == 502
            assert "location" not in headers
            assert b"an attested server never redirects" in body
        assert other.visits == []


def test_a_fault_of_the_proxys_own_is_a_refusal_that_quotes_nothing() -> None:
    def broken() -> Expectation:
        raise ZeroDivisionError(SECRET.decode())

    with RecordingServer(honest()) as server, proxy(server, broken) as running:
        status, _headers, body = running.ask()
        assert status == 502
        assert body == b"blindbuild: the proxy itself broke: ZeroDivisionError\n"
        assert server.visits == []


def test_nobody_there_is_said_in_words() -> None:
    with RecordingServer(honest()) as server:
        pass
    with proxy(server) as running:
        status, _headers, body = running.ask()
        assert status == 502
        assert b"nothing answers at this address" in body


def test_a_server_that_went_away_between_two_requests_is_judged_anew() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        assert running.ask(body=b"one")[0] == 200
        server.hang_up()
        time.sleep(0.05)
        assert running.ask(body=b"two")[0] == 200
        assert len(server.visits) == 2


def test_a_verdict_that_ended_and_a_new_manifest_are_followed_by_another_attestation() -> None:
    now, newer = [NOW], publisher().but(version="2.0.0", sequence=43)
    current = [expectation(clock=lambda: now[0])]
    with RecordingServer(honest()) as server, proxy(server, lambda: current[0]) as running:
        for _ in range(2):
            assert running.ask()[0] == 200
        now[0] += 3600
        assert running.ask()[0] == 200
        current[0] = dataclasses.replace(current[0], envelope=newer.envelope, release=newer.release)
        assert running.ask()[0] == 200
        assert [len(visit.requests) for visit in server.visits] == [4, 3, 3]
        statements = [json.loads(visit.requests[1].body)["statement"] for visit in server.visits]
        assert statements[0] == statements[1] != statements[2]


def test_what_was_read_while_a_program_sent_its_body_counts_for_its_request() -> None:
    newer = publisher().but(version="2.0.0", sequence=43)
    current = [expectation()]
    with RecordingServer(honest()) as server, proxy(server, lambda: current[0]) as running:
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
            lines = (
                "POST /v1/hello HTTP/1.1",
                f"Host: 127.0.0.1:{running.port}",
                "Content-Length: 5",
                "Expect: 100-continue",
            )
            slow.sendall("\r\n".join((*lines, "", "")).encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 100 ")  # its connection was judged
            current[0] = dataclasses.replace(current[0], envelope=newer.envelope, release=newer.release)
            assert running.ask(body=b"other")[0] == 200
            slow.sendall(b"hello")
            assert slow.recv(100).startswith(b"HTTP/1.1 502 ")
        assert [request.body for request in server.asked] == [b"other"]


# --- strangers


def test_a_page_that_was_not_named_gets_nothing() -> None:
    with RecordingServer(honest()) as server, proxy(server, origins=frozenset({PAGE})) as running:
        status, headers, body = running.ask(Origin="https://evil.example")
        assert status == 403
        assert b"--allow-origin" in body
        assert "access-control-allow-origin" not in headers
        preflight = running.ask(
            "OPTIONS", "/v1/hello", b"", Origin="https://evil.example", Access_Control_Request_Method="POST"
        )
        assert preflight[0] == 403
        assert running.ask(Sec_Fetch_Site="cross-site")[0] == 403
        assert server.visits == []


def test_a_page_that_was_named_is_asked_for_by_the_browser_and_answered() -> None:
    with RecordingServer(honest()) as server, proxy(server, origins=frozenset({PAGE})) as running:
        status, headers, _body = running.ask(
            "OPTIONS",
            "/v1/hello",
            b"",
            Origin=PAGE,
            Access_Control_Request_Method="POST",
            Access_Control_Request_Headers="content-type",
        )
        assert status == 204
        assert headers["access-control-allow-origin"] == PAGE
        assert headers["access-control-allow-headers"] == "content-type"
        assert server.visits == []
        status, headers, body = running.ask(Origin=PAGE, Sec_Fetch_Site="cross-site")
        assert (status, body) == (200, b"hello, " + SECRET)
        assert headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in headers
        assert "origin" not in server.asked[0].headers


def test_a_name_that_was_made_to_mean_this_machine_gets_nothing() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        assert running.ask(Host=f"evil.example:{running.port}")[0] == 421
        assert server.visits == []


def test_a_token_is_asked_for_and_not_passed_on() -> None:
    with RecordingServer(honest()) as server, proxy(server, token="t" * 20) as running:
        assert running.ask()[0] == 401
        assert server.visits == []
        assert running.ask(Authorization="Bearer " + "t" * 20)[0] == 200
        assert running.ask(Authorization="Bearer key", Blindbuild_Token="t" * 20)[0] == 200
        assert b"t" * 20 not in server.received
        assert [request.headers.get("authorization") for request in server.asked] == [None, "Bearer key"]


def test_another_user_of_this_machine_gets_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "same_user", lambda _stream: False)
    with RecordingServer(honest()) as server, proxy(server) as running:
        status, _headers, body = running.ask()
        assert status == 403
        assert b"a program of the user who started this proxy" in body
        assert server.visits == []


# --- limits


def test_a_body_over_the_limit_or_of_unknown_length_is_refused_unread() -> None:
    with RecordingServer(honest()) as server, proxy(server, max_body=10) as running:
        assert running.ask(body=b"x" * 10)[0] == 200
        assert running.ask(body=b"x" * 11)[0] == 413
        host = f"Host: 127.0.0.1:{running.port}\r\n".encode()
        chunked = b"POST / HTTP/1.1\r\n" + host + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        assert running.say(chunked).startswith(b"HTTP/1.1 411 ")
        assert running.say(b"TRACE / HTTP/1.1\r\n" + host + b"\r\n").startswith(b"HTTP/1.1 405 ")
        assert running.say(b"GET http://other/ HTTP/1.1\r\n" + host + b"\r\n").startswith(b"HTTP/1.1 400 ")
        assert running.say(b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 9000).startswith(b"HTTP/1.1 400 ")
        assert len(server.asked) == 1


def test_a_length_that_says_nothing_is_not_taken_for_none() -> None:
    smuggled = b"POST /v1/second HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
    with RecordingServer(honest()) as server, proxy(server) as running:
        host = f"127.0.0.1:{running.port}".encode()
        first = b"POST /v1/hello HTTP/1.1\r\nHost: " + host + b"\r\nContent-Length:\r\n\r\n"
        answer = running.say(first + smuggled.replace(b"Host: h", b"Host: " + host))
        assert answer.startswith(b"HTTP/1.1 411 ")
        assert answer.count(b"HTTP/1.1 ") == 1
        assert server.asked == []


def test_words_of_a_refusal_do_not_steer_a_terminal() -> None:
    def refuse() -> Expectation:
        raise VerificationError("named \x1b[2J", step="A4", reason="x", hint="one\x1b[31m\ntwo")

    with RecordingServer(honest()) as server, proxy(server, refuse) as running:
        assert running.ask()[2] == b"blindbuild: named \\x1b[2J\none\\x1b[31m\ntwo\n"


def test_who_drips_a_request_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_S", 0.3)
    with RecordingServer(honest()) as server, proxy(server) as running:
        began = time.monotonic()
        assert running.say(b"POST /v1/hello HTTP/1.1\r\n") == b""
        assert time.monotonic() - began < 9
        assert running.ask()[0] == 200


def test_more_programs_than_there_is_room_for_are_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MAX_CLIENTS", 2)
    with RecordingServer(honest()) as server, proxy(server) as running:
        silent = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(2)]
        time.sleep(0.2)
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            running.ask()
        for stream in silent:
            stream.close()
        time.sleep(0.2)
        assert running.ask()[0] == 200


def test_a_program_that_hangs_up_in_its_body_costs_no_judged_connection() -> None:
    with RecordingServer(honest()) as server, proxy(server) as running:
        head = f"POST /v1/hello HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\nContent-Length: 9\r\n\r\n"
        with socket.create_connection(("127.0.0.1", running.port)) as stream:
            stream.sendall(head.encode() + b"half")
        time.sleep(0.3)
        assert running.ask(body=b"whole")[0] == 200
        assert len(server.visits) == 1
        assert [request.body for request in server.asked] == [b"whole"]


def test_what_is_being_answered_is_answered_when_the_proxy_is_stopped() -> None:
    working = threading.Event()

    def slow(_request: Request) -> bytes:
        working.set()
        time.sleep(0.5)
        return answer(200, b"done")

    got: list[tuple[int, dict[str, str], bytes]] = []
    with RecordingServer(honest(), slow) as server:
        with proxy(server) as running:
            asking = threading.Thread(target=lambda: got.append(running.ask()))
            asking.start()
            assert working.wait(10)
        asking.join(10)
        assert got[0][0] == 200
        assert got[0][1]["connection"] == "close"
        assert got[0][2] == b"done"


# --- where it listens


def test_a_socket_in_the_file_system_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    with (
        RecordingServer(honest()) as server,
        contextlib.closing(AttestedPool(server.url, expectation())) as pool,
    ):
        with serving(Proxy(pool, Access("", 0)), listen_at_path(path), same_user_only=False):
            assert path.stat().st_mode & 0o777 == 0o600
            with pytest.raises(ChannelError, match="cannot listen"):
                listen_at_path(path)
            with socket.socket(socket.AF_UNIX) as stream:
                stream.connect(str(path))
                stream.sendall(b"POST /v1/hello HTTP/1.1\r\nHost: any\r\nContent-Length: 1\r\n\r\nx")
                assert b"200 OK" in stream.recv(1000)
        listen_at_path(path).close()  # what a proxy left that was killed


# --- the program

RUN = """
from functools import partial
from blindbuild.cli import judging
from blindbuild.cli.main import run
judging.Expectation = partial(judging.Expectation, clock=lambda: {now})
run()
"""


@contextlib.contextmanager
def program(server: RecordingServer, root: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """The real program, at the time for which the release was published."""
    roots = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
    (root / "manifest.dsse.json").write_bytes(publisher().envelope)
    (root / "release.dsse.json").write_bytes(publisher().release)
    (root / "trust.json").write_bytes(publisher().trust(**roots))
    arguments = ["proxy", server.url, "--manifest", str(root), "--trust", str(root / "trust.json")]
    environment = {"PATH": os.environ["PATH"], "HOME": str(root), "XDG_STATE_HOME": str(root / "state")}
    with subprocess.Popen(
        [sys.executable, "-c", RUN.format(now=NOW), *arguments, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_asks_an_attested_server(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"
    more = ("--allow-test-tpm", "--audit-log", str(audit), "--token-file", str(tmp_path / "token"), "--json")
    with RecordingServer(honest()) as server, program(server, tmp_path, *more) as process:
        assert process.stdout is not None
        told = json.loads("".join(iter(process.stdout.readline, "}\n")) + "}")
        token = (tmp_path / "token").read_text().strip()
        assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
        words = ["--silent", "--show-error", "--data", "Ada", "--header", f"Blindbuild-Token: {token}"]
        done = subprocess.run(
            [CURL or "", *words, f"{told['endpoint']}/v1/hello"], capture_output=True, text=True, check=True
        )
        assert done.stdout == "hello, Ada"
        assert told["product"] == "hello"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert "operator-run TPM" in process.stderr.read()
    records = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(record["accepted"], record["server"]) for record in records] == [
        (True, f"127.0.0.1:{server.port}")
    ]
    assert "Ada" not in audit.read_text()
    assert audit.stat().st_mode & 0o777 == 0o600


def test_a_server_that_is_refused_is_no_proxy_to_start(tmp_path: Path) -> None:
    with RecordingServer(honest(), key=TlsKey()) as server:
        with program(server, tmp_path, "--allow-test-tpm") as process:
            said, errors = process.communicate(timeout=30)
            assert process.returncode == 3
            assert said == ""
            assert "something in between passes its answers on" in errors


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
def test_curl_asks_through_a_socket_in_the_file_system(tmp_path: Path) -> None:
    path = tmp_path / "s"
    more = ("--allow-test-tpm", "--listen", f"unix:{path}")
    with RecordingServer(honest()) as server, program(server, tmp_path, *more) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"unix:{path}\n"
        words = ["--silent", "--unix-socket", str(path), "--data", "Ada", "http://any/v1/hello"]
        done = subprocess.run([CURL or "", *words], capture_output=True, text=True, check=True)
        assert done.stdout == "hello, Ada"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not path.exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--listen", "0.0.0.0:0"), "expected an address that only this machine reaches"),
        (("--listen", "0.0.0.0:0", "--allow-remote"), "expected --token-file"),
        (("--listen", "example"), "expected HOST:PORT or unix:PATH"),
        (("--allow-origin", "*"), "expected an origin such as"),
    ],
)
def test_a_place_that_others_reach_must_be_asked_for(
    more: tuple[str, ...], words: str, tmp_path: Path
) -> None:
    with RecordingServer(honest()) as server, program(server, tmp_path, *more) as process:
        said, errors = process.communicate(timeout=30)
        assert process.returncode == 2
        assert said == ""
        assert words in errors
        assert server.visits == []


def test_leave_to_be_reached_from_elsewhere_opens_nothing_on_loopback(tmp_path: Path) -> None:
    more = ("--allow-test-tpm", "--allow-remote")
    with RecordingServer(honest()) as server, program(server, tmp_path, *more) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/v1/hello", headers={"Host": f"evil.example:{port}"})
            assert connection.getresponse().status == 421
        assert server.asked == []
