"""What the gate's own filter lets through, seen from outside and from inside."""

from __future__ import annotations

import errno
import signal
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.fakes.guest_filters import ALLOW_ALL, made_filters
from tests.integration.gate_harness import (
    ENDORSEMENT,
    GATE_SOURCES,
    RunningGate,
    Swtpm,
    build_gate,
    go_command,
    make_tpm_state,
    need,
    running_gate,
)

PROBE = "/.well-known/blindbuild/probe"
FILTER_STATUS = 20  # of a gate that could not install it
MAX_SIZE = 7_000_000  # bytes of the stripped program
MAX_LINES = 2_800  # of everything that is in a product image


def test_the_sources_are_formatted_vetted_and_tested() -> None:
    go, environment = go_command()
    formatter = str(Path(go).with_name("gofmt"))
    done = subprocess.run(
        [formatter, "-l", "."], cwd=GATE_SOURCES, env=environment, capture_output=True, check=True
    )
    assert done.stdout == b""
    vetted = [["vet", "-tags", tag, "."] for tag in ("", "probe", "probe,leaky")]
    for arguments in (*vetted, ["test", "."]):
        done = subprocess.run(
            [go, *arguments], cwd=GATE_SOURCES, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()


def test_the_gate_is_small_enough_to_be_read_and_to_be_shipped(gate_binary: Path) -> None:
    product = [p for p in GATE_SOURCES.glob("*.go") if not p.name.endswith("_test.go")]
    texts = [p.read_text() for p in product]
    texts = [text for text in texts if not text.startswith(("//go:build probe", "//go:build leaky"))]
    lines = sum(len(text.splitlines()) for text in texts)
    assert lines <= MAX_LINES
    assert gate_binary.stat().st_size <= MAX_SIZE


def test_two_compilations_in_different_places_give_the_same_bytes(gate_binary: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "gate"
    assert build_gate(copy).read_bytes() == gate_binary.read_bytes()
    assert str(GATE_SOURCES).encode() not in copy.read_bytes()


def test_the_product_has_no_probe_in_it(gate_binary: Path) -> None:
    assert b"blindbuild/probe" not in gate_binary.read_bytes()


def calls_seen(trace: Path) -> set[str]:
    names = set()
    for line in trace.read_text().splitlines():
        call = line.split(None, 1)[1]
        if not call.startswith(("+++", "---", "<...")):
            names.add(call.partition("(")[0])
    return names


def test_no_call_makes_or_names_a_socket(gate_binary: Path, tmp_path: Path) -> None:
    need("strace")
    trace = tmp_path / "trace"
    tpm = Swtpm(make_tpm_state(tmp_path), tmp_path)
    with tpm.connect() as channel:
        prefix = ("strace", "-D", "-f", "-o", str(trace))  # -D: the process we start becomes the gate
        with running_gate(gate_binary, tmp_path, channel, prefix=prefix) as gate:
            client = gate.client()
            assert client.evidence().status == 200
            assert client.post("/v1/hello", b"x" * 200_000).status == 200
            assert client.get("/nothing").status == 404
    tpm.stop()
    seen = calls_seen(trace)
    assert {"seccomp", "accept4", "recvmsg", "read", "write"} <= seen
    forbidden = {
        "socket",
        "connect",
        "bind",
        "listen",
        "sendto",
        "sendmsg",
        "getsockname",
        "getpeername",
        "execve",
    }
    assert seen & forbidden == {"execve"}  # strace starting it
    after = trace.read_text().partition("seccomp(")[2]
    assert "openat(" not in after


def test_the_filter_holds_under_load_and_garbage_collection(gate: RunningGate) -> None:
    def talk(size: int) -> bool:
        client = gate.client()
        right = client.evidence().status == 200
        answer = client.post("/v1/hello", b"a" * size)
        client.close()
        return right and (answer.status == 503 or answer.body == b"a" * size)

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(talk, [1, 250_000, 100_000] * 60))
    assert gate.alive()


@pytest.mark.parametrize(
    "system_calls",
    [
        pytest.param(b"", id="none"),
        pytest.param(ALLOW_ALL[:-1], id="cut short"),
        pytest.param(ALLOW_ALL + b"\0", id="a byte more"),
        pytest.param(ALLOW_ALL * 4097, id="too long for a kernel"),
        pytest.param(struct.pack("<HBBI", 0x20, 0, 0, 0), id="one that runs past its end"),
    ],
)
def test_a_gate_without_a_filter_that_holds_ends_before_it_serves(
    gate_binary: Path, tmp_path: Path, system_calls: bytes
) -> None:
    with running_gate(gate_binary, tmp_path, None, system_calls=system_calls) as gate:
        assert gate.process.wait(10) == FILTER_STATUS


def test_every_thread_is_filtered_and_may_gain_no_privilege(gate: RunningGate) -> None:
    assert gate.client().get(ENDORSEMENT).status == 200
    threads = list(Path(f"/proc/{gate.process.pid}/task").iterdir())
    assert len(threads) > 2
    for thread in threads:
        status = dict(line.split(":\t", 1) for line in (thread / "status").read_text().splitlines())
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")


def test_only_the_listed_descriptors_are_open(gate: RunningGate) -> None:
    assert gate.client().get(ENDORSEMENT).status == 200
    targets = {p.name: str(p.readlink()) for p in Path(f"/proc/{gate.process.pid}/fd").iterdir()}
    assert "5" not in targets or "memfd" not in targets["5"]  # the event log is read and closed
    kinds = {target.partition(":")[0] for name, target in targets.items() if int(name) > 6}
    assert kinds <= {"socket", "anon_inode", "pipe", "/dev/null"}  # the last two are the test runner's


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that an unprivileged user can read."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def probe(directory: Path, system_calls: bytes, prefix: tuple[str, ...] = ()) -> dict[str, int]:
    binary = build_gate(directory / "probe", tags="probe")
    with running_gate(binary, directory, None, system_calls=system_calls, prefix=prefix) as gate:
        spare = gate.client()
        assert spare.get("/healthz").status == 204
        report = gate.client().get(PROBE)
        assert report.status == 200
        attempts = report.json()
    assert isinstance(attempts, list)
    return {entry["attempt"]: entry["errno"] for entry in attempts}


def test_from_inside_nothing_outside_the_list_works(open_directory: Path) -> None:
    report = probe(open_directory, made_filters(probe=True)["gate"])
    assert len(report) > 200
    assert {name: code for name, code in report.items() if code != errno.EPERM} == {}


def test_without_the_filter_the_same_attempts_get_through(open_directory: Path) -> None:
    """The control: a probe that cannot fail shows nothing. Unprivileged, for the machine's sake."""
    need("setpriv")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs")
    report = probe(open_directory, ALLOW_ALL, nobody)
    assert report["socket family 2 stream"] == 0
    assert report["socket family 2 datagram"] == 0
    assert report["accepted: connect AF_UNSPEC"] == 0
    assert report["accepted: connect elsewhere"] != errno.EPERM  # what it is depends on the machine's network
    assert report["socketpair AF_UNIX"] == 0
    assert report["clone without threads"] == 0
    assert report["memfd_create"] == 0
    assert report["mmap executable"] == 0
    assert report["open /dev/null"] == 0
    assert report["open /proc/self/mem"] in (0, errno.EACCES)


def test_with_the_products_default_the_first_attempt_is_death(open_directory: Path) -> None:
    binary = build_gate(open_directory / "probe", tags="probe")
    with running_gate(binary, open_directory, None) as gate:
        assert gate.client().get("/healthz").status == 204
        gate.client().send(f"GET {PROBE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert gate.process.wait(10) == -signal.SIGSYS
