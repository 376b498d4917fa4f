"""Everything that is in an initramfs, as docs/spec/guest-abi.md says, and nothing else."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from blindbuild.assemble.tree import Kind, Tree, TreeEntry, device_entry, directory_entry, file_entry
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, PolicyError
from blindbuild.manifest.statement import CHANNEL_BINDINGS

LISTING = b".blindbuild.tree"
SENTINEL = b"~blindbuild.end"
SENTINEL_CONTENT = b"blindbuild-end\n"
WORKLOAD = b"workload"
INIT_FILTERS = ("child", "dhcp", "init", "launcher", "socket-rule", "workload")  # init installs these
GATE_FILTER = "gate"

MAX_CONCURRENCY = 16
MAX_ARGUMENTS = 16
MAX_INIT_CONF = 4095  # bytes; init reads it into a buffer of 4096
MIN_MEMORY = 1 << 20  # bytes of a request's address space
MAX_MEMORY = 1 << 46  # half of x86-64's user address space
MAX_SECONDS = 24 * 3600
MAX_BODY = 256 << 20  # bytes; the gate holds a request or an answer in RAM as a whole
MAX_ROUTES = 16

_SPECIAL_BITS = 0o7000  # set-user-id, set-group-id, sticky
_WRITE_BITS = 0o222
_ARGUMENT = re.compile(r"[ -~]+")
_ROUTE = re.compile(r"/v1/[a-z0-9_/-]+")


@dataclass(frozen=True, slots=True)
class StaticNetwork:
    """A fixed IPv4 address, measured with the image like everything else in `init.conf`."""

    address: str
    prefix_length: int
    router: str

    def __post_init__(self) -> None:
        addresses = {name: _parse_unicast(name, getattr(self, name)) for name in ("address", "router")}
        if not 1 <= self.prefix_length <= 32:
            raise BuildError(f"init.conf: prefix length: expected 1 to 32, got {self.prefix_length}")
        if addresses["address"] == addresses["router"]:
            raise BuildError(f"init.conf: expected a router other than the machine itself, got {self.router}")


@dataclass(frozen=True, slots=True)
class InitConf:
    """What init reads; `network` is None for DHCP, memory in bytes, `arguments[0]` the program's path."""

    network: StaticNetwork | None
    port: int
    memory: int
    seconds: int
    concurrency: int
    arguments: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_range("init.conf: port", self.port, 1, 65535)
        _check_range("init.conf: memory", self.memory, MIN_MEMORY, MAX_MEMORY)
        _check_range("init.conf: seconds", self.seconds, 1, MAX_SECONDS)
        _check_range("init.conf: concurrency", self.concurrency, 1, MAX_CONCURRENCY)
        _check_range("init.conf: number of arguments", len(self.arguments), 1, MAX_ARGUMENTS)
        for argument in self.arguments:
            if not _ARGUMENT.fullmatch(argument):
                raise BuildError(f"init.conf: expected an argument of printable ASCII, got {argument!r}")
        if not self.arguments[0].startswith("/"):
            raise BuildError(f"init.conf: expected an absolute path as program, got {self.arguments[0]!r}")
        if len(self.render()) > MAX_INIT_CONF:
            raise BuildError(f"init.conf: expected at most {MAX_INIT_CONF} bytes, got {len(self.render())}")

    def render(self) -> bytes:
        """Return the content of `init.conf`.

        Source: docs/spec/guest-abi.md, "init.conf".
        """
        network = "network dhcp"
        if self.network is not None:
            fixed = self.network
            network = f"network static {fixed.address} {fixed.prefix_length} {fixed.router}"
        lines = [
            "blindbuild-init 1",
            network,
            f"port {self.port}",
            f"memory {self.memory}",
            f"seconds {self.seconds}",
            f"concurrency {self.concurrency}",
            *(f"arg {argument}" for argument in self.arguments),
            "end",
        ]
        return "".join(f"{line}\n" for line in lines).encode("ascii")


@dataclass(frozen=True, slots=True)
class GateConf:
    """What the gate reads; sizes in bytes, `seconds` the time a request may take.

    Attributes:
        profile: how its evidence is bound to the channel; a word of the statement's `channelBinding`.
    """

    routes: tuple[str, ...]
    max_request_bytes: int
    max_response_bytes: int
    seconds: int
    concurrency: int
    profile: str = CHANNEL_BINDINGS[0]

    def __post_init__(self) -> None:
        if self.profile not in CHANNEL_BINDINGS:
            raise BuildError(f"gate.json: expected {' or '.join(CHANNEL_BINDINGS)}, got {self.profile!r}")
        _check_range("gate.json: number of routes", len(self.routes), 1, MAX_ROUTES)
        for route in self.routes:
            if not _ROUTE.fullmatch(route) or self.routes.count(route) > 1:
                raise BuildError(f"gate.json: expected unique routes like /v1/name, got {route!r}")
        _check_range("gate.json: maxRequestBytes", self.max_request_bytes, 0, MAX_BODY)
        _check_range("gate.json: maxResponseBytes", self.max_response_bytes, 0, MAX_BODY)
        _check_range("gate.json: seconds", self.seconds, 1, MAX_SECONDS)
        _check_range("gate.json: concurrency", self.concurrency, 1, MAX_CONCURRENCY)

    def render(self) -> bytes:
        """Return the content of `gate.json`.

        Source: docs/spec/guest-abi.md, "gate.json".
        """
        fields = {
            "version": 1,
            "profile": self.profile,
            "routes": list(self.routes),
            "maxRequestBytes": self.max_request_bytes,
            "maxResponseBytes": self.max_response_bytes,
            "seconds": self.seconds,
            "concurrency": self.concurrency,
        }
        return json.dumps(fields, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode("ascii")


def assemble_rootfs(
    *,
    init: bytes,
    gate: bytes,
    filters: Mapping[str, bytes],
    init_conf: InitConf,
    gate_conf: GateConf,
    workload: Tree,
    modules: Mapping[str, bytes] | None = None,
) -> Tree:
    """Return the complete content of the initramfs, with its listing first and the sentinel last.

    Args:
        init: the static program that becomes PID 1.
        gate: the static program that answers the network.
        filters: the system call filters by name: the gate's, which it installs, and init's.
        workload: the recipe's tree; it becomes the workload's root directory.
        modules: of a kernel that was not built for the image, by names that sort in the order of loading.

    Raises:
        PolicyError: a set-id bit, write bit or device in the workload's tree (all of them are named), or no
            program where `init_conf` says.
        BuildError: settings of init and gate that contradict each other, or a program or filter missing.

    Source: docs/spec/guest-abi.md, "Files in the initramfs".
    """
    if init_conf.concurrency != gate_conf.concurrency:
        raise BuildError(
            f"rootfs: init starts up to {init_conf.concurrency} requests, the gate {gate_conf.concurrency}"
        )
    if not init or not gate:
        raise BuildError("rootfs: expected the programs init and gate, got an empty one")
    if filters.keys() != {*INIT_FILTERS, GATE_FILTER} or not all(filters.values()):
        raise BuildError(f"rootfs: expected a filter for each role, got {', '.join(filters) or 'none'}")
    check_workload(workload)
    _check_program(workload, init_conf.arguments[0])
    fixed = {
        b"init": file_entry(init, 0o500),
        b"etc/blindbuild/init.conf": file_entry(init_conf.render(), 0o400),
        b"dev/null": device_entry(1, 3, 0o666),
        b"dev/zero": device_entry(1, 5, 0o666),
        b"dev/urandom": device_entry(1, 9, 0o666),
        b"aside": directory_entry(0o500),
        **{f"filters/{name}".encode(): file_entry(filters[name], 0o400) for name in INIT_FILTERS},
        b"gate/gate": file_entry(gate, 0o555),
        b"gate/filter": file_entry(filters[GATE_FILTER], 0o444),
        b"gate/gate.json": file_entry(gate_conf.render(), 0o444),
        **{f"modules/{name}".encode(): file_entry(data, 0o400) for name, data in (modules or {}).items()},
        WORKLOAD: directory_entry(),
        SENTINEL: file_entry(SENTINEL_CONTENT, 0o400),
    }
    listed = Tree(fixed).merge(workload.below(WORKLOAD))
    complete = Tree({**listed, LISTING: file_entry(render_listing(listed), 0o400)})
    paths = list(complete)
    if paths[0] != LISTING or paths[-1] != SENTINEL:
        raise PolicyError(f"rootfs: {paths[0]!r} and {paths[-1]!r} sort outside the listing and the sentinel")
    return complete


def render_listing(tree: Tree) -> bytes:
    """Return the content of `.blindbuild.tree` for all entries of a tree.

    Source: docs/spec/guest-abi.md, ".blindbuild.tree".
    """
    lines = [b"blindbuild-tree 1 %d\n" % len(tree)]
    for path, entry in tree.items():
        lines.append(_render_line(entry) + b" " + path + b"\n")
    return b"".join(lines)


def check_workload(workload: Tree) -> None:
    """Check that nothing in the workload's tree could give it more rights or a place to write to.

    Raises:
        PolicyError: names every path that breaks a rule, and the rule.
    """
    broken = [
        f"{path.decode()} ({rule})" for path, entry in workload.items() for rule in _broken_rules(entry)
    ]
    if broken:
        raise PolicyError(
            f"rootfs: the workload's tree may not have {', '.join(broken)}",
            hint="drop these paths from the recipe's tree, or give them read-only modes",
        )


def _broken_rules(entry: TreeEntry) -> Iterator[str]:
    """Yield what is wrong with an entry of the workload's tree."""
    if entry.kind is Kind.DEVICE:
        yield "a device node"
    if entry.mode & _SPECIAL_BITS:
        yield f"a set-id or sticky bit, mode {entry.mode:04o}"
    if entry.mode & _WRITE_BITS and entry.kind is not Kind.SYMLINK:
        yield f"a write bit, mode {entry.mode:04o}"


def _check_program(workload: Tree, program: str) -> None:
    """Check that the program is an executable file, through symbolic links if need be."""
    path = workload.resolve(program.encode())
    entry = workload.get(path) if path is not None else None
    if entry is None or entry.kind is not Kind.FILE or not entry.mode & 0o001:
        raise PolicyError(
            f"rootfs: expected an executable file {program} in the workload's tree, got none",
            hint="`service.command` names a path inside the image, not on this machine",
        )


def _render_line(entry: TreeEntry) -> bytes:
    """Return a line of the listing without its path; owner is always 0:0."""
    hashed = entry.kind in (Kind.FILE, Kind.SYMLINK)
    digest = Digest.sha256(entry.data).hex if hashed else "-"
    size = f"{entry.device[0]}:{entry.device[1]}" if entry.kind is Kind.DEVICE else str(len(entry.data))
    return f"{entry.kind.value} {entry.full_mode:07o} 0 0 {size} {digest}".encode("ascii")


def _parse_unicast(name: str, text: str) -> ipaddress.IPv4Address:
    """Return the IPv4 address of one host; `ipaddress` takes no leading zeros and no other notation."""
    try:
        address = ipaddress.IPv4Address(text)
    except ValueError as error:
        raise BuildError(f"init.conf: {name}: expected an IPv4 address, got {text!r}") from error
    if str(address) != text or address.packed[0] in (0, 127) or address.packed[0] >= 224:
        raise BuildError(f"init.conf: {name}: expected the address of one host, got {text!r}")
    return address


def _check_range(what: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise BuildError(f"{what}: expected {least} to {most}, got {value}")
