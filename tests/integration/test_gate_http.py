"""The gate as a stranger on the network meets it: TLS, HTTP, sizes, limits, and clients who hold it up."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.fakes.gate_launcher import FakeLauncher, answer_with, echo, read_request
from tests.integration.gate_harness import CONFIG, ENDORSEMENT, Client, RunningGate, running_gate

GateMaker = Callable[..., AbstractContextManager[RunningGate]]
SPARE_BODIES, MAX_WAITING = 2, 16  # guest/gate: requests beside those that run, and those in line for a place
BUCKETS = (1 << 10, 4 << 10, 16 << 10, 64 << 10)


def in_a_bucket(size: int) -> bool:
    return size in BUCKETS or (size > 0 and size % (64 << 10) == 0)


@pytest.mark.parametrize(
    "request_line",
    [
        "GET / HTTP/1.1",
        "GET /healthz? HTTP/1.1",
        "GET //healthz HTTP/1.1",
        "GET /healthz/ HTTP/1.1",
        "GET /HEALTHZ HTTP/1.1",
        "GET /%68ealthz HTTP/1.1",
        "GET /./healthz HTTP/1.1",
        "GET https://x/healthz HTTP/1.1",
        "HEAD /healthz HTTP/1.1",
        "OPTIONS * HTTP/1.1",
        "POST /healthz HTTP/1.1",
        "GET /v1/hello HTTP/1.1",
        "POST /v1/other HTTP/1.1",
        "DELETE /v1/hello HTTP/1.1",
        "GET /metrics HTTP/1.1",
        "GET /debug/pprof HTTP/1.1",
        "GET /.well-known/blindbuild/probe HTTP/1.1",
        "CONNECT x:443 HTTP/1.1",
    ],
)
def test_everything_else_is_one_constant_404(gate: RunningGate, request_line: str) -> None:
    client, other = gate.client(), gate.client()
    client.send(f"{request_line}\r\nHost: x\r\n\r\n".encode())
    answer = client.read()
    assert answer.status == 404
    assert answer == other.get("/nothing")
    assert answer.body == b""
    assert client.at_end()


def test_health_is_an_answer_without_content(gate: RunningGate) -> None:
    client = gate.client()
    for _ in range(3):
        answer = client.get("/healthz")
        assert (answer.status, answer.body, answer.size) == (204, b"", 1024)
        assert [name for name, _ in answer.headers] == ["Padding"]


@pytest.mark.parametrize(
    "head",
    [
        "GET /healthz HTTP/1.0\r\nHost: x",
        "GET /healthz HTTP/1.1",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1",
        "POST /v1/hello HTTP/1.1\r\nHost: x",
        "POST /v1/hello HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked",
        "POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 3",
        "POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
        "PRI * HTTP/2.0",
        "GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + "a" * 9000,
        "GET /healthz HTTP/1.1\r\n" + "X: a\r\n" * 40 + "Host: x",
    ],
)
def test_every_malformed_request_gets_the_same_answer(gate: RunningGate, head: str) -> None:
    client = gate.client()
    client.send(head.encode() + b"\r\n\r\n")
    answer = client.read()
    assert (answer.status, answer.body, answer.size) == (400, b"", 1024)
    assert client.at_end()


def test_no_answer_tells_time_or_program(gate: RunningGate) -> None:
    client = gate.client()
    answers = [
        client.get("/healthz"),
        client.get(ENDORSEMENT),
        client.evidence(),
        client.post("/v1/hello", b"x"),
    ]
    answers.append(client.get("/x"))
    seen = {name for answer in answers for name, _ in answer.headers if not name.startswith("Padding-")}
    assert seen == {"Cache-Control", "Content-Length", "Content-Type", "Connection", "Padding"}
    assert all(in_a_bucket(answer.size) for answer in answers)


@pytest.mark.parametrize("size", [0, 1, 700, 1100, 5000, 20_000, 65_000, 70_000, 131_000, 299_999])
def test_answers_come_back_whole_and_padded(gate: RunningGate, size: int) -> None:
    body = (b"0123456789" * 30_000)[:size]
    answer = gate.client().post("/v1/hello", body)
    assert (answer.status, answer.body) == (200, body)
    assert in_a_bucket(answer.size)
    assert dict(answer.headers)["Content-Type"] == "application/octet-stream"


def test_answers_of_one_bucket_look_the_same_on_the_wire(gate: RunningGate) -> None:
    lengths = {tuple(record_lengths(gate.port, b"a" * size)) for size in (5_000, 9_000, 15_000)}
    assert len(lengths) == 1


def record_lengths(port: int, body: bytes) -> list[int]:
    """Return the lengths of the TLS records of the answer to one request, as an observer sees them."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = context.wrap_bio(incoming, outgoing)
    with socket.create_connection(("127.0.0.1", port), timeout=20) as plain:
        while True:
            try:
                stream.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(65536))
        head = (
            f"POST /v1/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        stream.write(head.encode() + body)
        plain.sendall(outgoing.read())
        seen = b""
        while piece := plain.recv(65536):
            seen += piece
    lengths = []
    while seen:
        lengths.append(int.from_bytes(seen[3:5], "big"))
        seen = seen[5 + lengths[-1] :]
    return lengths


def test_json_answers_are_named_so(gate: RunningGate) -> None:
    client = gate.client()
    for body, kind in (
        (b'{"a":1}', "application/json"),
        (b"[1]", "application/json"),
        (b"<a>", "application/octet-stream"),
    ):
        assert dict(client.post("/v1/hello", body).headers)["Content-Type"] == kind


def test_a_body_over_the_limit_is_refused_before_it_is_read(gate: RunningGate) -> None:
    client = gate.client()
    client.send(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 300001\r\n\r\n")
    assert client.read().status == 413


def test_a_client_still_sending_gets_to_read_its_413(gate: RunningGate) -> None:
    client = gate.client()
    body = b"a" * 600_000
    client.send(f"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    assert client.read().status == 413


def test_a_client_that_asks_first_is_told_to_go_on(gate: RunningGate) -> None:
    client = gate.client()
    client.send(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    first = client.read()
    assert (first.status, first.size) == (100, 1024)
    client.send(b"abc")
    assert client.read().body == b"abc"


def test_requests_sent_together_are_answered_in_order(gate: RunningGate) -> None:
    client = gate.client()
    one = b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    client.send(
        one + b"abc" + one + b"def" + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert [client.read().body for _ in range(3)] == [b"abc", b"def", b""]
    assert client.at_end()


def test_only_tls_13_without_tickets_or_alpn_is_spoken(gate: RunningGate) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(socket.create_connection(("127.0.0.1", gate.port), timeout=20)) as stream:
        assert stream.version() == "TLSv1.3"
        assert stream.selected_alpn_protocol() is None
        stream.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert stream.recv(100).startswith(b"HTTP/1.1 204 ")
        assert not stream.session.has_ticket
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as plain:
        with pytest.raises(ssl.SSLError, match="alert protocol version"):
            context.wrap_socket(plain)


def test_plain_http_gets_no_http_back(gate: RunningGate) -> None:
    with socket.create_connection(("127.0.0.1", gate.port), timeout=20) as plain:
        plain.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(1000)


def test_a_hundred_stalled_connections_do_not_keep_an_honest_client_out(gate: RunningGate) -> None:
    silent = [socket.create_connection(("127.0.0.1", gate.port), timeout=20) for _ in range(100)]
    halfway = [gate.client() for _ in range(60)]
    for client in halfway:
        client.send(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
    honest = gate.client(timeout_s=5)
    assert honest.evidence().status == 200
    assert honest.post("/v1/hello", b"x").body == b"x"
    for other in silent:
        other.close()


def test_a_head_that_never_ends_is_cut_off(gate: RunningGate) -> None:
    client = gate.client()
    client.send(b"GET /healthz HT")
    start = time.monotonic()
    assert client.at_end()
    assert 8 < time.monotonic() - start < 19


def test_clients_that_leave_at_any_moment_do_no_harm(gate: RunningGate) -> None:
    whole = b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"a" * 200_000
    for cut in (0, 1, 30, 70, 5_000, 150_000, len(whole)):
        client = Client(gate.port)
        client.send(whole[:cut])
        client.stream.close()
    assert gate.client().get("/healthz").status == 204


@pytest.fixture
def own_gate(gate_binary: Path, tmp_path: Path) -> GateMaker:
    """Runs gates with a launcher of the test's choice, and without a TPM."""

    def run(launcher: FakeLauncher, **changes: object) -> AbstractContextManager[RunningGate]:
        return running_gate(gate_binary, tmp_path, None, launcher=launcher, config=CONFIG | changes)

    return run


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\x00",
        b"\x00\x00\x00",
        b"\x00\x00\x00\x05four",
        b"\x00\x00\x00\x04four+",
        b"\xff\xff\xff\xff",
        (300_001).to_bytes(4, "big") + b"a" * 300_001,
    ],
    ids=["nothing", "one byte", "three bytes", "short", "longer", "4 GiB", "over the limit"],
)
def test_a_workload_that_breaks_its_framing_is_a_502(own_gate: GateMaker, answer: bytes) -> None:
    launcher = FakeLauncher(answer_with(answer))
    with own_gate(launcher) as gate:
        client = gate.client()
        refused = client.post("/v1/hello", b"x")
        assert (refused.status, refused.body, refused.size) == (502, b"", 1024)
        launcher.workload = echo
        assert client.post("/v1/hello", b"again").body == b"again"


def test_a_workload_that_hangs_is_cut_off_after_its_time(own_gate: GateMaker) -> None:
    def hang(stream: socket.socket) -> None:
        read_request(stream)
        stream.sendall(b"\x00\x00\x00\x01a")  # a whole answer, but no end
        stream.recv(1)
        time.sleep(30)

    with own_gate(FakeLauncher(hang), seconds=1) as gate:
        start = time.monotonic()
        assert gate.client().post("/v1/hello", b"x").status == 502
        assert 1 <= time.monotonic() - start < 20


def test_a_workload_may_answer_before_it_has_read_everything(own_gate: GateMaker) -> None:
    def early(stream: socket.socket) -> None:
        stream.sendall(b"\x00\x00\x00\x05early")

    with own_gate(FakeLauncher(early)) as gate:
        assert gate.client().post("/v1/hello", b"a" * 299_000).body == b"early"


def test_a_launcher_that_stays_busy_is_a_503_and_one_that_reaps_soon_is_not(own_gate: GateMaker) -> None:
    launcher = FakeLauncher()
    with own_gate(launcher) as gate:
        client = gate.client()
        launcher.busy = 3
        assert client.post("/v1/hello", b"x").body == b"x"
        launcher.busy = 10_000
        refused = client.post("/v1/hello", b"x")
        assert (refused.status, refused.body) == (503, b"")
        launcher.busy = 0
        assert client.post("/v1/hello", b"x").body == b"x"


def test_requests_wait_for_a_slot_and_too_many_are_a_503(own_gate: GateMaker) -> None:
    finish = threading.Event()

    def held(stream: socket.socket) -> None:
        body = read_request(stream)
        finish.wait(20)
        stream.sendall(len(body).to_bytes(4, "big") + body)

    places = 2 + SPARE_BODIES + MAX_WAITING
    with own_gate(FakeLauncher(held), concurrency=2) as gate, ThreadPoolExecutor(places + 3) as pool:
        asked = [pool.submit(gate.client().post, "/v1/hello", b"x") for _ in range(places + 3)]
        refused = [answer.result().status for _, answer in zip(range(3), as_completed(asked), strict=False)]
        finish.set()
        served = sorted(answer.result().status for answer in asked)
    assert refused == [503] * 3
    assert served == [200] * places + refused


@pytest.mark.parametrize("reply", [b"X", b"S", b"SS", b"BB"])
def test_a_launcher_that_breaks_the_protocol_ends_the_gate(own_gate: GateMaker, reply: bytes) -> None:
    launcher = FakeLauncher()
    launcher.raw_reply = reply
    with own_gate(launcher) as gate:
        gate.client().send(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert gate.process.wait(10) == 30


def test_a_dead_launcher_ends_the_gate_at_the_next_request(own_gate: GateMaker) -> None:
    launcher = FakeLauncher()
    with own_gate(launcher) as gate:
        launcher.close()
        gate.client().send(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert gate.process.wait(10) == 30


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        json.dumps(CONFIG | {"extra": 1}),
        json.dumps(CONFIG | {"routes": ["/healthz"]}),
        json.dumps(CONFIG | {"concurrency": 0}),
        json.dumps(CONFIG).replace("seconds", "Seconds"),
    ],
)
def test_a_configuration_that_is_not_exact_ends_the_gate(
    gate_binary: Path, tmp_path: Path, text: str
) -> None:
    with running_gate(gate_binary, tmp_path, None, config=text) as gate:
        assert gate.process.wait(10) == 11
