"""The guest's network on this machine's kernel, in network namespaces, with `ip` as the oracle."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.guest_filters import filter_directory
from tests.fakes.guest_init import static_harness

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and ip for network namespaces"
)

PORT = 443
STATIC = "static 10.0.2.15 24 10.0.2.2"
# A DHCP server, RFC 2131 and 2132; what it adds beside address, mask and router is bait.
SERVER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"link0")
s.bind(("", 67))
print("ready", flush=True)
address, mask, router = (socket.inet_aton(text) for text in sys.argv[1:4])
while True:
    data, _ = s.recvfrom(2000)
    kind = {b"\\x01": b"\\x02", b"\\x03": b"\\x05"}[data[242:243]]
    reply = b"\\x02" + data[1:16] + address + data[20:240] + b"\\x35\\x01" + kind + b"\\x36\\x04" + router
    reply += b"\\x01\\x04" + mask + b"\\x03\\x04" + router + b"\\x06\\x04" + bytes(4)
    reply += b"\\x79\\x08\\x18\\x0a\\x09\\x09" + router + b"\\xff"
    s.sendto(b"rubbish", ("255.255.255.255", 68))
    s.sendto(reply, ("255.255.255.255", 68))
"""


@dataclass(frozen=True, slots=True)
class Wire:
    """Two namespaces and a cable: the guest's `eth0`, and `link0` where its router would be."""

    guest: str
    outside: str

    def run(self, namespace: str, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = ["ip", "netns", "exec", namespace, *argv]
        return subprocess.run(command, capture_output=True, text=True, check=check, timeout=60)

    def show(self, *argv: str) -> list[dict[str, object]]:
        shown = json.loads(self.run(self.guest, "ip", "-j", *argv).stdout or "[]")
        assert isinstance(shown, list)
        return shown

    def reach(self, port: int) -> str:
        """Say what somebody outside gets from a TCP port of the guest."""
        program = "import socket,sys;socket.create_connection(('10.0.2.15',int(sys.argv[1])),3)"
        done = self.run(self.outside, sys.executable, "-c", program, str(port), check=False)
        return done.stderr.strip().rpartition("\n")[2].partition(":")[0] or "connected"


@pytest.fixture
def wire() -> Iterator[Wire]:
    names = Wire(f"bb-guest-{os.getpid()}", f"bb-outside-{os.getpid()}")
    made = subprocess.run(["ip", "netns", "add", names.guest], capture_output=True, check=False)
    if made.returncode != 0:
        pytest.skip("needs network namespaces")
    try:
        subprocess.run(["ip", "netns", "add", names.outside], check=True)
        pair = ["ip", "-n", names.guest, "link", "add", "eth0", "type", "veth", "peer", "name", "link0"]
        subprocess.run([*pair, "netns", names.outside], check=True)
        names.run(names.outside, "ip", "address", "add", "10.0.2.2/24", "dev", "link0")
        names.run(names.outside, "ip", "link", "set", "link0", "up")
        yield names
    finally:
        for name in (names.guest, names.outside):
            subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.fixture
def root() -> Iterator[Path]:
    """A root directory with init's parts and /aside, as in the image."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "aside").mkdir()
        shutil.copy(static_harness(), Path(name) / "harness")
        shutil.copytree(filter_directory(), Path(name) / "filters")
        yield Path(name)


def serve(wire: Wire, root: Path, network: str) -> subprocess.Popen[bytes]:
    conf = f"blindbuild-init 1\nnetwork {network}\nport {PORT}\nmemory 67108864\nseconds 1\nconcurrency 1\n"
    (root / "conf").write_text(f"{conf}arg /x\nend\n")
    enter = ["ip", "netns", "exec", wire.guest, "chroot", str(root)]
    return subprocess.Popen([*enter, "/harness", "serve", "/conf", "/filters"], stdout=subprocess.PIPE)


@pytest.fixture
def served(wire: Wire, root: Path) -> Iterator[Wire]:
    process = serve(wire, root, STATIC)
    assert process.stdout is not None
    assert process.stdout.readline() == b"serving\n"
    yield wire
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_only_rule_beside_the_local_table_is_for_the_served_port(served: Wire) -> None:
    rules = served.show("rule")
    assert [(rule["priority"], rule["table"]) for rule in rules] == [(0, "local"), (100, "100")]
    assert (rules[1]["ipproto"], rules[1]["sport"]) == ("tcp", PORT)


def test_no_route_lies_outside_of_that_rule_s_table(served: Wire) -> None:
    routes = served.show("-4", "route", "show", "table", "all")
    tables = {
        str(route.get("table", "main")) for route in routes if route.get("type", "unicast") == "unicast"
    }
    assert tables == {"100"}
    assert {str(route["dst"]) for route in routes if route.get("table") == "100"} == {
        "default",
        "10.0.2.0/24",
    }


def test_the_served_port_answers_and_every_other_is_silent(served: Wire) -> None:
    assert served.reach(PORT) == "connected"
    for port in (22, 80, PORT + 1):
        assert served.reach(port) == "TimeoutError"  # no reset: there is no route for one


def test_the_guest_can_send_nothing_of_its_own(served: Wire) -> None:
    for kind in ("SOCK_STREAM", "SOCK_DGRAM"):
        program = f"import socket;s=socket.socket(socket.AF_INET,socket.{kind});s.connect(('10.0.2.2',53))"
        done = served.run(served.guest, sys.executable, "-c", program, check=False)
        assert "Network is unreachable" in done.stderr


@pytest.mark.parametrize(
    ("mask", "prefix", "routes"),
    [("255.255.255.0", 24, {"default", "10.0.2.0/24"}), ("255.255.255.255", 32, {"default", "10.0.2.15"})],
)
def test_dhcp_gives_address_mask_and_router_and_nothing_else(
    wire: Wire, root: Path, mask: str, prefix: int, routes: set[str]
) -> None:
    outside = [
        "ip",
        "netns",
        "exec",
        wire.outside,
        sys.executable,
        "-c",
        SERVER,
        "10.0.2.15",
        mask,
        "10.0.2.2",
    ]
    with subprocess.Popen(outside, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        process = serve(wire, root, "dhcp")
        assert process.stdout is not None
        assert process.stdout.readline() == b"serving\n"
        (address,) = wire.show("-4", "address", "show", "dev", "eth0")[0]["addr_info"]  # type: ignore[misc]
        assert (address["local"], address["prefixlen"]) == ("10.0.2.15", prefix)
        shown = wire.show("route", "show", "table", "100")
        assert {str(route["dst"]) for route in shown} == routes
        assert children_of(process.pid) == []
        assert wire.reach(PORT) == "connected"
        process.kill()
        process.wait()
        process.stdout.close()
        server.kill()


def children_of(process: int) -> list[str]:
    return Path(f"/proc/{process}/task/{process}/children").read_text().split()


def test_the_dhcp_child_is_confined_while_it_waits(wire: Wire, root: Path) -> None:
    process = serve(wire, root, "dhcp")
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not confined(process.pid):
            time.sleep(0.05)
        (child,) = children_of(process.pid)
        status = Path(f"/proc/{child}/status").read_text()
        for line in ("Uid:\t400\t400\t400\t400", "Gid:\t400\t400\t400\t400", "Seccomp:\t2", "NoNewPrivs:\t1"):
            assert line in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        assert Path(f"/proc/{child}/root").readlink() == root / "aside"
        descriptors = sorted(int(path.name) for path in Path(f"/proc/{child}/fd").iterdir())
        assert descriptors == [0, 1, 2, 3, 4]
        sockets = Path(f"/proc/{child}/net/udp").read_text().splitlines()[1:]
        ends = {(line.split()[9], *line.split()[1:3]) for line in sockets}  # inode, local and remote address
        inodes = [str(Path(f"/proc/{child}/fd/{n}").readlink()).strip("socket:[]") for n in (3, 4)]
        port_68 = "00000000:0044"
        assert ends == {(inodes[0], port_68, "00000000:0000"), (inodes[1], port_68, "FFFFFFFF:0043")}
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def confined(process: int) -> bool:
    return any("Seccomp:\t2" in Path(f"/proc/{child}/status").read_text() for child in children_of(process))
