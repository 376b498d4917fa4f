"""Whoever attacks the gate, and however: honest clients are served, memory is bounded, and all is well after.

Nothing here is judged by the clock: an honest client that is refused tries again, up to `ATTEMPTS` times.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.gate_launcher import FakeLauncher, answer_with
from tests.integration.gate_harness import CONFIG, ENDORSEMENT, Client, RunningGate, running_gate
from tests.load.crowd import SMALL_SEGMENT, SMALL_WINDOW

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
# guest/gate/main.go: 48 MiB, and the largest body five times for each request there may be. Beside it is the
# program itself, of which the kernel may drop every page.
MEMORY_BYTES = 48 * MIB + 5 * 300_000 * (2 + 2) + 8 * MIB
ATTEMPTS = 30
BODY = b"an honest request " * 5_000
TIMEOUT_S = 10
ELSEWHERE = "127.0.0.2"

Case = tuple[str, int, int]  # the attack, its exchanges beside it, and its connections
CASES: tuple[Case, ...] = (
    ("silent", 3, 1000),
    ("half_a_handshake", 3, 300),
    ("large_hello", 2, 300),
    ("head_by_the_byte", 2, 300),
    ("half_a_body", 1, 40),
    ("oversized", 2, 40),
    ("half_closed", 2, 300),
    ("slow_reader", 2, 40),
    ("evidence_loop", 2, 64),
    ("evidence_unread", 2, 40),
    ("request_loop", 2, 40),
    ("health_loop", 2, 270),
)
FULL_CASES: tuple[Case, ...] = (
    *((name, 5, 1000) for name in ("silent", "half_a_handshake", "handshake_by_the_byte", "large_hello")),
    *((name, 5, 1000) for name in ("idle", "head_by_the_byte", "half_closed")),
    *((name, 3, 1000) for name in ("handshakes", "long_head", "oversized", "request_loop", "health_loop")),
    *((name, 3, 1000) for name in ("evidence_loop", "evidence_anew", "endorsement_loop")),
    *((name, 1, 1000) for name in ("body_by_the_byte", "half_a_body", "slow_reader", "evidence_unread")),
)


@contextlib.contextmanager
def attacked(port: int, name: str, count: int, address: str = "127.0.0.1") -> Iterator[dict[str, int]]:
    """Attack as long as the block runs; after it the value says how often what happened."""
    arguments = [sys.executable, "-m", "tests.load.crowd", str(port), name, str(count), address]
    process = subprocess.Popen(arguments, cwd=ROOT, stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    counts: dict[str, int] = {}
    try:
        assert process.stdout.readline() == "ready\n"
        yield counts
        counts |= json.loads(process.communicate()[0])
    finally:
        process.kill()
        process.wait()


def exchange(port: int) -> str:
    """One honest exchange: who are you, prove it, here is my request. Says what went wrong, or nothing."""
    asked = "connect"
    try:
        with contextlib.closing(Client(port, timeout_s=TIMEOUT_S)) as client:
            for asked, ask in (
                ("endorsement", lambda: client.get(ENDORSEMENT)),
                ("evidence", client.evidence),
                ("request", lambda: client.post("/v1/hello", BODY)),
            ):
                answer = ask()
                if answer.status != 200:
                    return f"{asked}: {answer.status} {answer.body[:60]!r}"
            assert answer.body == BODY
    except (OSError, EOFError, ssl.SSLError) as error:
        return f"{asked}: {error!r}"
    return ""


def refusals_of(port: int, exchanges: int) -> list[str]:
    """Have exchanges as somebody does who tries again when refused, and say what refused them."""
    refusals: list[str] = []
    for _ in range(exchanges):
        for _ in range(ATTEMPTS):
            if not (refusal := exchange(port)):
                break
            refusals.append(refusal)
        else:
            pytest.fail(f"refused {ATTEMPTS} times in a row: {refusals[-ATTEMPTS:]}")
    return refusals


def peak_bytes(gate: RunningGate) -> int:
    """The most memory the gate ever had resident."""
    lines = Path(f"/proc/{gate.process.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024


def open_descriptors(gate: RunningGate, *, at_most: int = 0) -> int:
    """How many descriptors the gate has open, once it has noticed that others are gone."""
    for _ in range(300):
        if (found := len(list(Path(f"/proc/{gate.process.pid}/fd").iterdir()))) <= at_most:
            break
        time.sleep(0.1 if at_most else 0)
    return found


@contextlib.contextmanager
def unharmed(gate: RunningGate) -> Iterator[None]:
    """After the block the gate is as before it, and serves at once; its memory never went over the bound."""
    with contextlib.closing(gate.client()) as client:
        assert client.evidence().status == 200
        before = open_descriptors(gate)
    yield
    assert gate.alive()
    assert open_descriptors(gate, at_most=before) <= before
    assert exchange(gate.port) == ""
    assert peak_bytes(gate) <= MEMORY_BYTES


def check_served(gate: RunningGate, case: Case, address: str = "127.0.0.1") -> list[str]:
    """Attack, and have honest exchanges meanwhile; returns what refused some of them."""
    name, exchanges, count = case
    with unharmed(gate):
        with attacked(gate.port, name, count, address) as counts:
            refusals = refusals_of(gate.port, exchanges)
        assert counts["attacks"] >= count, counts
    return refusals


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_honest_clients_are_served_whatever_others_do(gate: RunningGate, case: Case) -> None:
    check_served(gate, case)


@pytest.mark.full
@pytest.mark.parametrize("case", FULL_CASES, ids=lambda case: case[0])
def test_honest_clients_are_served_whatever_a_thousand_others_do(gate: RunningGate, case: Case) -> None:
    check_served(gate, case)


@pytest.mark.parametrize("name", ["silent", "idle"])
def test_a_crowd_at_another_address_displaces_nobody_but_itself(gate: RunningGate, name: str) -> None:
    assert check_served(gate, (name, 3, 300), ELSEWHERE) == []


def test_a_client_that_has_evidence_is_not_displaced_by_any_number_of_strangers(gate: RunningGate) -> None:
    with contextlib.closing(gate.client()) as client:
        assert client.evidence().status == 200
        with attacked(gate.port, "idle", 300):
            assert client.post("/v1/hello", BODY).body == BODY


LONG = 3 * MIB


@pytest.fixture
def gate_with_long_answers(gate_binary: Path, tmp_path: Path) -> Iterator[RunningGate]:
    """A gate without a TPM, whose answers are longer than what a kernel keeps for who does not read."""
    launcher = FakeLauncher(answer_with(LONG.to_bytes(4, "big") + bytes(LONG)))
    config = CONFIG | {"maxResponseBytes": LONG}
    with running_gate(gate_binary, tmp_path, None, launcher=launcher, config=config) as running:
        yield running


def reader_of_long_answers(port: int) -> ssl.SSLSocket:
    """A client who asked for a long answer, and of whose answer the kernel keeps little."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_WINDOW)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
    raw.settimeout(TIMEOUT_S)
    raw.connect(("127.0.0.1", port))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    stream = context.wrap_socket(raw)
    stream.sendall(b"POST /v1/hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx")
    return stream


def read_to_the_end(stream: ssl.SSLSocket, *, pause_s: float = 0) -> int:
    """Read an answer in pieces of 300 kB with pauses between; returns how long it was."""
    taken = 0
    with stream, contextlib.suppress(ssl.SSLError, OSError):
        while piece := stream.recv(16384):
            taken += len(piece)
            if taken // 300_000 != (taken - len(piece)) // 300_000:
                time.sleep(pause_s)
    return taken


def test_a_long_answer_is_not_cut_for_newcomers(gate_with_long_answers: RunningGate) -> None:
    """More newcomers than places, and others who want the same; the client pauses, but keeps the pace."""
    port = gate_with_long_answers.port
    stream = reader_of_long_answers(port)
    taken: list[int] = []
    reading = threading.Thread(target=lambda: taken.append(read_to_the_end(stream, pause_s=0.7)))
    reading.start()
    with attacked(port, "silent", 600), attacked(port, "request_loop", 20):
        reading.join()
    assert taken == [(LONG + 65536) // 65536 * 65536]


def test_who_reads_nothing_of_long_answers_loses_the_place_to_who_does(
    gate_with_long_answers: RunningGate,
) -> None:
    port = gate_with_long_answers.port
    unread = [reader_of_long_answers(port) for _ in range(4)]  # all the places there are
    for _ in range(2):
        assert read_to_the_end(reader_of_long_answers(port)) > LONG
    cut = [read_to_the_end(stream) for stream in unread]
    assert min(cut) < LONG
    assert peak_bytes(gate_with_long_answers) <= 48 * MIB + 5 * LONG * (2 + 2) + 8 * MIB


def test_the_bound_is_that_of_this_gate() -> None:
    assert (CONFIG["maxRequestBytes"], CONFIG["concurrency"]) == (300_000, 2)
