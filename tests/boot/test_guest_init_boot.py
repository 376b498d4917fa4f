"""init on a real (emulated) machine: what it lets run, and when it powers off instead."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.disk import build_disk
from blindbuild.assemble.guest import BuiltGuest, build_guest
from blindbuild.assemble.rootfs import GateConf, InitConf, StaticNetwork, assemble_rootfs
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.assemble.tree import Tree, file_entry
from blindbuild.cli.booting import READY_TIMEOUT_S, gate_answers
from blindbuild.formats.cpio import CpioEntry, write_newc
from blindbuild.formats.deb import read_deb
from blindbuild.formats.pe import NewSection, append_sections, read_pe
from blindbuild.host.sandbox import run_in_sandbox
from blindbuild.machine.machine import Machine
from blindbuild.pipeline import STUB_PATH
from tests.boot.lab import ROOT, ROUTE, Lab
from tests.fakes.guest_init import static_program

pytestmark = pytest.mark.boot

HELLO = ROOT / "recipes" / "hello" / "files" / "hello.c"
PROGRAM = "/app/hello"
PROBE = "/.well-known/blindbuild/probe"
GUEST = bytes.fromhex("525400b11d01")
POWERED_OFF = "the guest powered off"
STATIC = StaticNetwork("10.0.2.15", 24, "10.0.2.2")
SECONDS = 3
# Ends as soon as somebody connects; the other one has the launcher end, and stays itself.
GATE_THAT_ENDS = "int main(void) { accept(3, 0, 0); return 0; }"
GATE_THAT_MISLEADS = 'int main(void) { accept(3, 0, 0); send(6, "x", 1, 0); for (;;) pause(); }'

Entries = list[CpioEntry]


@dataclass(frozen=True, slots=True)
class Bench:
    """Makes disks out of the product's kernel and any initramfs."""

    lab: Lab
    product: Path
    directory: Path

    def guest(self, variant: str) -> BuiltGuest:
        """The compiled programs of a variant."""
        lab, groups = self.lab, self.lab.request().lock.groups
        return build_guest(
            lab.store,
            toolchain=prepare_toolchain(lab.store, groups["toolchain"]),
            toolchain_key=toolchain_key(groups["toolchain"]),
            variant=variant,
            workload_sources={PROGRAM: HELLO.read_bytes()},
        )

    def tree(
        self,
        *,
        variant: str = "product",
        gate: bytes | None = None,
        network: StaticNetwork | None = STATIC,
        files: Mapping[bytes, bytes] | None = None,
    ) -> Tree:
        """The root file system, with another gate or more files if asked for."""
        guest = self.guest(variant)
        workload = {PROGRAM.lstrip("/").encode(): file_entry(guest.workload[PROGRAM], 0o555)}
        workload |= {name: file_entry(data) for name, data in (files or {}).items()}
        return assemble_rootfs(
            init=guest.init,
            gate=gate or guest.gate,
            filters=guest.filters,
            init_conf=InitConf(network, 443, 64 << 20, SECONDS, 2, (PROGRAM,)),
            gate_conf=GateConf((ROUTE,), 1 << 20, 1 << 20, 10, 2),
            workload=Tree(workload),
        )

    @contextlib.contextmanager
    def booted(
        self, tree: Tree, *, change: Callable[[Entries], Entries] = list, compressed: bool = False
    ) -> Iterator[Machine]:
        """A machine with this initramfs, changed behind the assembler's back."""
        archive = write_newc(change(entries_of(tree)))
        initrd = self.compress(archive) if compressed else archive
        image = read_pe((self.product / "hello.efi").read_bytes())
        kept = [NewSection(name, image.section_data(name)) for name in (".osrel", ".cmdline", ".uname")]
        kernel = NewSection(".linux", image.section_data(".linux"))
        disk = self.directory / "disk.raw"
        disk.write_bytes(
            build_disk(append_sections(self.stub(), (*kept, NewSection(".initrd", initrd), kernel)))
        )
        with Machine(self.lab.machine(self.product, disk=disk)) as machine:
            yield machine

    def compress(self, archive: bytes) -> bytes:
        toolchain = prepare_toolchain(self.lab.store, self.lab.request().lock.groups["toolchain"])
        argv = ["zstd", "-1", "-q", "-c"]
        return run_in_sandbox(
            toolchain, argv, binds=(), cwd="/", env={}, timeout_s=120.0, stdin=archive
        ).stdout

    def stub(self) -> bytes:
        package = self.lab.request().lock.groups["stub"][0]
        entries = read_deb(self.lab.store.read(package.digest)).entries
        return next(entry.data for entry in entries if entry.path == STUB_PATH)


@pytest.fixture
def bench(lab: Lab, product: Path, tmp_path: Path) -> Bench:
    assert kernel_command_line(debug=False).encode() in (product / "hello.efi").read_bytes()
    return Bench(lab, product, tmp_path)


def entries_of(tree: Tree) -> Entries:
    return [
        CpioEntry(path, entry.full_mode, entry.data, rdev=entry.device or (0, 0))
        for path, entry in tree.items()
    ]


def compile_gate(source: str, directory: Path) -> bytes:
    path = directory / "stand_in.c"
    path.write_text(f"#include <sys/socket.h>\n#include <unistd.h>\n{source}\n")
    return static_program(path).read_bytes()


def request(machine: Machine, method: str, path: str, body: bytes | None = None) -> http.client.HTTPResponse:
    """Ask without attesting: what runs here is no product."""
    context = ssl._create_unverified_context()  # noqa: S323
    connection = http.client.HTTPSConnection("127.0.0.1", machine.port, timeout=60, context=context)
    connection.request(method, path, body)
    return connection.getresponse()


def ends_powered_off(machine: Machine) -> bool:
    return machine.wait_until_ended(READY_TIMEOUT_S) == POWERED_OFF


@pytest.fixture(scope="module")
def hostile(lab: Lab, product: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The test image: every program in it tries to break out; its address comes by DHCP."""
    bench = Bench(lab, product, tmp_path_factory.mktemp("hostile"))
    with bench.booted(bench.tree(variant="probe", network=None)) as machine:
        machine.wait_until_ready(gate_answers, READY_TIMEOUT_S)
        yield machine


@pytest.fixture(scope="module")
def reports(hostile: Machine) -> dict[str, dict[str, str]]:
    """What each program says of its attempts: the launcher answers the first request itself."""
    found = {}
    for _ in range(2):
        answer = request(hostile, "POST", ROUTE, b"attempts")
        assert answer.status == 200
        report = json.loads(answer.read())
        found[report["context"]] = report["attempts"]
    return found


def test_nothing_a_workload_tries_works(reports: dict[str, dict[str, str]]) -> None:
    outcomes = reports["workload"]
    assert len(outcomes) > 250
    assert {name: outcome for name, outcome in outcomes.items() if outcome == "done"} == {}
    assert {outcome for name, outcome in outcomes.items() if name.startswith("socket:")} == {"EPERM"}
    others = {name: outcome for name, outcome in outcomes.items() if outcome != "EPERM"}
    assert set(others.values()) <= {"ENOENT", "ENOSYS", "EFAULT"}, others


def test_nothing_a_launcher_tries_goes_beyond_its_contract(reports: dict[str, dict[str, str]]) -> None:
    outcomes = reports["launcher"]
    done = {name for name, outcome in outcomes.items() if outcome == "done"}
    assert done == {"sendmsg:address", "chroot", "setuid:gate", "setgroups"}
    assert {outcome for name, outcome in outcomes.items() if name.startswith("socket:")} == {"EPERM"}


def test_nothing_the_gate_tries_works(hostile: Machine) -> None:
    answer = request(hostile, "GET", PROBE)
    assert answer.status == 200
    attempts = {item["attempt"]: item["errno"] for item in json.loads(answer.read())}
    assert {errno for name, errno in attempts.items() if name.startswith("socket ")} == {1}
    assert [name for name, errno in attempts.items() if errno == 0] == []


@pytest.mark.parametrize("word", [b"segv", b"x32", b"int80", b"short", b"more", b"hang"])
def test_a_request_that_goes_wrong_is_one_bad_answer_and_no_more(hostile: Machine, word: bytes) -> None:
    assert request(hostile, "POST", ROUTE, word).status == 502
    assert request(hostile, "POST", ROUTE, b"attempts").status == 200


def test_the_address_comes_from_one_exchange_and_then_only_the_service_speaks(
    hostile: Machine, reports: dict[str, dict[str, str]]
) -> None:
    sent = [frame.data for _time, frame in hostile.frames() if frame.source == GUEST]
    datagrams = [data for data in sent if data[12:14] == b"\x08\x00" and data[23] == 17]
    assert [data[34:38] for data in datagrams] == [b"\x00\x44\x00\x43"] * 2  # port 68 to 67
    assert {data[26:34] for data in datagrams} == {bytes(4) + b"\xff" * 4}
    for data in sent:
        arp, tcp = data[12:14] == b"\x08\x06", data[12:14] == b"\x08\x00" and data[23] == 6
        assert arp or tcp or data in datagrams
        assert not tcp or data[34:36] == (443).to_bytes(2, "big")


def test_the_machine_powers_off_when_the_gate_ends(bench: Bench) -> None:
    gate = compile_gate(GATE_THAT_ENDS, bench.directory)
    with bench.booted(bench.tree(gate=gate)) as machine:
        assert ends_powered_off_by_a_visitor(machine)


def test_the_machine_powers_off_when_the_launcher_ends(bench: Bench) -> None:
    gate = compile_gate(GATE_THAT_MISLEADS, bench.directory)
    with bench.booted(bench.tree(gate=gate)) as machine:
        assert ends_powered_off_by_a_visitor(machine)


def ends_powered_off_by_a_visitor(machine: Machine) -> bool:
    """Knock until the guest has spoken, so that it is known to have served; then it must end."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while machine.ending() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            connection = http.client.HTTPConnection("127.0.0.1", machine.port, timeout=1)
            connection.connect()
            time.sleep(0.2)
            connection.close()
    return machine.first_guest_frame_time() is not None and machine.ending() == POWERED_OFF


def without_the_last(entries: Entries) -> Entries:
    return entries[:-1]


def with_one_more(entries: Entries) -> Entries:
    return [*entries[:-1], CpioEntry(b"workload/more", 0o100444, b"x"), entries[-1]]


def with_another_byte(entries: Entries) -> Entries:
    return [replace(e, data=e.data[:-1] + b"\n") if e.path.endswith(b"hello") else e for e in entries]


def with_another_conf(entries: Entries) -> Entries:
    return [replace(e, data=e.data + b"\n") if e.path.endswith(b"init.conf") else e for e in entries]


@pytest.mark.parametrize("change", [without_the_last, with_one_more, with_another_byte, with_another_conf])
def test_a_tree_that_is_not_the_listed_one_is_never_started(
    bench: Bench, change: Callable[[Entries], Entries]
) -> None:
    with bench.booted(bench.tree(), change=change) as machine:
        assert ends_powered_off(machine)
        assert machine.first_guest_frame_time() is None


def test_an_initramfs_that_does_not_fit_into_memory_is_never_started(bench: Bench) -> None:
    # rootfs holds half of the 256 MiB; the kernel stops unpacking there and says nothing.
    large = {b"weights/%d" % number: bytes([number]) * (8 << 20) for number in range(20)}
    with bench.booted(bench.tree(files=large), compressed=True) as machine:
        assert ends_powered_off(machine)
        assert machine.first_guest_frame_time() is None
