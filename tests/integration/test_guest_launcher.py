"""The launcher on this machine's kernel: a test in the gate's place; real filters, users and limits."""

from __future__ import annotations

import array
import json
import os
import shutil
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.guest_filters import filter_directory
from tests.fakes.guest_init import PROBE, ROOT, plain_harness, spawn, static_program, status_of

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the launcher takes other users' ids")

HELLO = ROOT / "recipes" / "hello" / "files" / "hello.c"
PROBER = (PROBE / "prober.c", PROBE / "attempts.c")
CONF = (
    "blindbuild-init 1\nnetwork dhcp\nport 443\n"
    "memory 67108864\nseconds 1\nconcurrency 2\narg /program\nend\n"
)
FIRST_SLOT = 300
# What a hostile program may be told instead of EPERM: there is nothing of that name, or no such call.
HARMLESS = {"ENOENT", "ENOSYS", "EFAULT"}
# The launcher's rights by the contract. sendmsg with an address goes nowhere: it has AF_UNIX sockets only.
LAUNCHER_MAY = {"sendmsg:address", "chroot", "setuid:gate", "setgroups"}


@dataclass(frozen=True, slots=True)
class Gate:
    """The gate's end, and the launcher's process."""

    connection: socket.socket
    launcher: int

    def request(self) -> socket.socket | None:
        """Ask for a process; None if all slots are busy."""
        self.connection.sendall(b"R")
        answer, control, _, _ = self.connection.recvmsg(2, socket.CMSG_SPACE(4))
        if answer == b"B":
            assert control == []
            return None
        assert answer == b"S"
        descriptors = array.array("i")
        descriptors.frombytes(control[0][2])
        end = socket.socket(fileno=descriptors[0])
        end.settimeout(20)
        return end

    def ask(self, body: bytes) -> bytes:
        """Return all that a fresh process sends."""
        end = self.request()
        assert end is not None
        with end:
            return self.talk(end, body)

    @staticmethod
    def talk(end: socket.socket, body: bytes) -> bytes:
        end.sendall(struct.pack(">I", len(body)) + body)
        end.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: end.recv(65536), b""))


def start(directory: Path, program: Path, *, probe: bool = False) -> Gate:
    root = directory / "root"
    root.mkdir(mode=0o755)
    shutil.copy(program, root / "program")
    (root / "program").chmod(0o555)
    (directory / "init.conf").write_text(CONF)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = [str(plain_harness(probe=probe)), "launch", str(root), str(directory / "init.conf")]
    argv.append(str(filter_directory()))
    launcher = spawn(argv, theirs)
    theirs.close()
    ours.settimeout(20)
    return Gate(ours, launcher)


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A directory that other users can reach: the launcher enters it with its own user's rights."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def hello(reachable: Path) -> Iterator[Gate]:
    yield from serve(reachable, static_program(HELLO))


@pytest.fixture
def prober(reachable: Path) -> Iterator[Gate]:
    yield from serve(reachable, static_program(*PROBER))


@pytest.fixture
def probing_launcher(reachable: Path) -> Iterator[Gate]:
    yield from serve(reachable, static_program(HELLO), probe=True)


def serve(directory: Path, program: Path, *, probe: bool = False) -> Iterator[Gate]:
    gate = start(directory, program, probe=probe)
    with gate.connection:
        yield gate
    assert status_of(gate.launcher) > 0  # it ends when the gate does


def status(process: int) -> dict[str, str]:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def children(process: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def running(launcher: int) -> int:
    """The one request's process, once it runs the program: its socket is handed out before that."""
    (process,) = children(launcher)
    for _ in range(1000):
        arguments, environment = (
            Path(f"/proc/{process}/{name}").read_bytes() for name in ("cmdline", "environ")
        )
        if arguments == b"/program\0" and environment:
            return process
        time.sleep(0.01)
    raise AssertionError(f"process {process} never ran the program")


def test_requests_are_answered_one_after_the_other(hello: Gate) -> None:
    for _ in range(20):
        assert hello.ask(b"World")[4:] == b'{"greeting":"hello, World","bytes":5}'


def test_a_third_request_is_refused_while_two_are_running(hello: Gate) -> None:
    first, second = hello.request(), hello.request()
    assert first is not None
    assert second is not None
    assert hello.request() is None
    with first, second:
        assert hello.talk(second, b"two").endswith(b'"bytes":3}')
        assert hello.talk(first, b"first").endswith(b'"bytes":5}')
    assert hello.ask(b"again").endswith(b'"bytes":5}')


def test_a_process_that_never_answers_is_killed_at_its_deadline(prober: Gate) -> None:
    for word in (b"hang", b"busy"):
        before = time.monotonic()
        assert prober.ask(word) == b""
        assert 0.9 < time.monotonic() - before < 20


def test_a_crash_ends_one_request_only(prober: Gate) -> None:
    for word in (b"segv", b"x32", b"int80"):
        assert prober.ask(word) == b""
    assert prober.ask(b"short") == b"\0\0\0\7[]"


def test_launcher_and_request_have_the_rights_of_the_contract(prober: Gate) -> None:
    end = prober.request()
    assert end is not None
    with end:
        launcher = status(prober.launcher)
        process = running(prober.launcher)
        workload = status(process)
    capabilities = 1 << 6 | 1 << 7 | 1 << 18  # SETGID, SETUID, SYS_CHROOT
    assert launcher["Uid"].split() == ["200"] * 4
    assert launcher["Gid"].split() == ["200"] * 4
    assert {int(launcher[name], 16) for name in ("CapPrm", "CapEff")} == {capabilities}
    assert workload["Uid"].split() == [str(FIRST_SLOT)] * 4
    assert workload["Gid"].split() == [str(FIRST_SLOT)] * 4
    assert {int(workload[name], 16) for name in ("CapPrm", "CapEff")} == {0}
    for both in (launcher, workload):
        assert {int(both[name], 16) for name in ("CapInh", "CapBnd", "CapAmb")} == {0}
        assert (both["NoNewPrivs"], both["Seccomp"], both["Groups"]) == ("1", "2", "")
    assert int(workload["Seccomp_filters"]) == int(launcher["Seccomp_filters"]) + 1


def test_a_request_gets_three_null_devices_and_its_socket(prober: Gate) -> None:
    end = prober.request()
    assert end is not None
    with end:
        process = running(prober.launcher)
        descriptors = {path.name: str(path.readlink()) for path in Path(f"/proc/{process}/fd").iterdir()}
        limits = Path(f"/proc/{process}/limits").read_text()
        environment = Path(f"/proc/{process}/environ").read_bytes()
        arguments = Path(f"/proc/{process}/cmdline").read_bytes()
    assert [descriptors.pop(name) for name in "012"] == ["/dev/null"] * 3
    assert list(descriptors) == ["3"]
    assert descriptors["3"].startswith("socket:")
    assert environment == b"PATH=/\0LC_ALL=C.UTF-8\0"
    assert arguments == b"/program\0"
    for name, value in (
        ("address space", 67108864),
        ("processes", 64),
        ("file size", 0),
        ("open files", 256),
    ):
        row = next(line for line in limits.splitlines() if line.startswith(f"Max {name} "))
        assert row.split()[-3:-1] == [str(value)] * 2


def test_a_hostile_request_gets_nowhere(prober: Gate) -> None:
    report = json.loads(prober.ask(b"attempts")[4:])
    worked = {name: outcome for name, outcome in report["attempts"].items() if outcome != "EPERM"}
    assert set(worked.values()) <= HARMLESS, worked
    assert report["uid"] == FIRST_SLOT
    assert report["attempts"]["mmap:page-0"] == "EPERM"
    assert report["attempts"]["execve:page-0"] == "EFAULT"
    # RLIMIT_NPROC counts the first one too, and for a moment what this uid ran before.
    assert 56 < report["threads"] < 64


def test_a_hostile_launcher_gets_no_further_than_its_contract(probing_launcher: Gate) -> None:
    report = json.loads(probing_launcher.ask(b"attempts")[4:])
    worked = {name: outcome for name, outcome in report["attempts"].items() if outcome != "EPERM"}
    assert report["context"] == "launcher"
    assert {name for name, outcome in worked.items() if outcome == "done"} == LAUNCHER_MAY
    assert set(worked.values()) <= HARMLESS | {"done", "ENOTDIR", "EACCES"}, worked
    assert probing_launcher.ask(b"World").endswith(b'"bytes":5}')


def test_the_launcher_ends_when_the_gate_says_anything_but_the_one_letter(hello: Gate) -> None:
    hello.connection.sendall(b"x")
    assert hello.connection.recv(1) == b""
