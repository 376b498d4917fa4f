"""The dynamic checks: each a pure function of what a machine showed, with the channels it is about.

A check that finds nothing shows little: it must also have found something on an image that leaks
(`blindbuild.machine.probe.judge`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from blindbuild.formats.printable import visible
from blindbuild.machine.probe.handshake import certificate_findings, handshake_findings
from blindbuild.machine.probe.observe import CANARY, HEALTH, WORKED, Observation, Phase
from blindbuild.machine.probe.peer import peer_findings
from blindbuild.machine.probe.tpm_commands import BOOT_COMMANDS, SERVING_COMMANDS, name_command

# Words of the hostile workload after which there can be no answer of its own; others take what there is.
CRASHING = frozenset({"segv", "stack", "abort", "trap", "x32", "int80", "short", "silent"})
MAX_SHOWN = 80  # bytes of what a console said, in a finding
OK = 200

# What a guest that only serves has to touch: the interrupt controller, a clock, and the TPM. The last one
# tells its network card of new packets, where QEMU has no file descriptor for that.
ALLOWED_TOUCHES = frozenset(
    {"apic-msi", "ioapic", "hpet", "acpi-tmr", "tpm-crb-mmio", "virtio-pci-notify-virtio-net"}
)
# And what a guest touches to power the machine off.
POWER_OFF_TOUCHES = frozenset(
    {"acpi-cnt", "acpi-evt", "acpi-gpe0", "pic", "virtio-pci-common-virtio-net", "rtc"}
)
# What may work inside the sandbox besides reading and computing, by who tries. The launcher changes to the
# slot's user and hands the gate descriptors; an address on its connected local socket the kernel ignores.
HARMLESS: Mapping[str, frozenset[str]] = {
    "launcher": frozenset(
        ("clone", "setuid", "setgid", "setgroups", "chroot", "kill", "capset", "prlimit64", "vfork")
    )
    | {"seccomp", "sendmsg"},
    "workload": frozenset({"open", "kill"}),
    "gate": frozenset(),
}

Findings = Callable[[Observation], Iterator[str]]
Numbers = Callable[[Observation], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class ProbeCheck:
    """One check.

    Attributes:
        name: stable word.
        claim: what holds when nothing is found.
        channels: the ledger's ids that it is about.
        find: what is wrong, in words; nothing if all is well.
        count: what was looked at, with numbers; if one is zero, or there is none, nothing is shown.
        closable: an image can close it; if not, a finding is what everybody must know and no failure.
        hostile_only: it looks at what the hostile workload did.
    """

    name: str
    claim: str
    channels: tuple[str, ...]
    find: Findings
    count: Numbers
    closable: bool = field(default=True, kw_only=True)
    hostile_only: bool = field(default=False, kw_only=True)

    def findings(self, seen: Observation) -> tuple[str, ...]:
        """Return what is wrong, each thing once."""
        return tuple(dict.fromkeys(self.find(seen)))


def _memory(seen: Observation) -> Iterator[str]:
    if seen.memory is not None and seen.memory.hits:
        yield f"the host read a request out of the guest's memory: {seen.memory.hits[0]}"


def _neighbour(seen: Observation) -> Iterator[str]:
    if seen.peer is not None and seen.peer.arp_poisoned:
        yield "the guest believes a neighbour that says where its router is"


def _consoles_same(seen: Observation) -> Iterator[str]:
    for console in seen.consoles:
        if seen.other_boot and seen.other_boot.get(console.name) != console.digest:
            yield f"{console.name} said something else at another boot ({console.size} bytes)"


def _consoles_silent(seen: Observation) -> Iterator[str]:
    for console in seen.consoles:
        for phase, data in console.late.items():
            if phase is not Phase.CRASH:
                said = visible(data[:MAX_SHOWN].decode("ascii", "replace"))
                yield f"{console.name} got {len(data)} bytes in phase {phase.value}: {said}"


def _disks(seen: Observation) -> Iterator[str]:
    for disk in seen.disks:
        if disk.reads or disk.writes:
            yield f"{disk.name} was used: {disk.reads} reads, {disk.writes} writes"
        if disk.before != disk.after:
            yield f"{disk.name} holds something else than before"
    if seen.share[0] != seen.share[1]:
        yield "the shared directory holds something else than before"


def _bait_networks(seen: Observation) -> Iterator[str]:
    for name, count in seen.bait_frames.items():
        if count:
            yield f"{count} frames on {name}"


def _touches(seen: Observation) -> Iterator[str]:
    allowed = ALLOWED_TOUCHES if seen.ending is None else ALLOWED_TOUCHES | POWER_OFF_TOUCHES
    for name, count in sorted(seen.touches.items()):
        if name not in allowed:
            yield f"the guest used {visible(name)} ({count} accesses)"


def _screen(seen: Observation) -> Iterator[str]:
    if seen.screen.before != seen.screen.after:
        yield f"the screen changed while {seen.screen.keys} keys were pressed and requests answered"


def _variables(seen: Observation) -> Iterator[str]:
    if seen.variables[0] != seen.variables[1]:
        yield "the firmware's variables changed while the guest served"


def _tpm(seen: Observation) -> Iterator[str]:
    for when, counts, allowed in (
        ("at boot", seen.tpm.boot, BOOT_COMMANDS),
        ("while it served", seen.tpm.serving, SERVING_COMMANDS),
    ):
        for code, count in sorted(counts.items()):
            if code not in allowed:
                yield f"the TPM got {name_command(code)} {when} ({count} times)"


def _tpm_state(seen: Observation) -> Iterator[str]:
    before, after = seen.tpm.before, seen.tpm.after
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"the TPM has a new {name}"
        elif before[name] != after.get(name):
            yield f"the TPM keeps something else than before: {name}"


def _frames(seen: Observation) -> Iterator[str]:
    yield from seen.link.unexpected


def _scan(seen: Observation) -> Iterator[str]:
    if seen.peer is not None:
        yield from peer_findings(seen.peer, port=seen.port)


def _stranger(seen: Observation) -> Iterator[str]:
    if seen.handshake is None:
        return
    yield from handshake_findings(seen.handshake)
    if seen.other_handshake is not None:
        yield from certificate_findings(seen.other_handshake, seen.handshake)


def _canary(seen: Observation) -> Iterator[str]:
    for hit in seen.search.hits:
        yield str(hit)


def _evidence(seen: Observation) -> Iterator[str]:
    for reason in seen.refusals:
        yield f"the evidence is refused: {visible(reason)}"


def _attempts(seen: Observation) -> Iterator[str]:
    for who, tried in sorted(seen.attempts.items()):
        harmless = HARMLESS.get(who, frozenset())
        for name, outcome in tried.items():
            if outcome == WORKED and name.split(":")[0] not in harmless:
                yield f"{who}: {visible(name)} worked"


def _crash(seen: Observation) -> Iterator[str]:
    for exchange in seen.exchanges:
        if exchange.phase is not Phase.CRASH:
            continue
        if exchange.request in CRASHING and exchange.status == OK:
            yield f"{exchange.request}: answered as if nothing had happened"
        if exchange.request == HEALTH and exchange.status is None and seen.ending is None:
            yield f"afterwards the machine neither serves nor has powered off: {visible(exchange.words)}"
    for console in seen.consoles:
        data = console.late.get(Phase.CRASH, b"")
        if data:
            said = visible(data[:MAX_SHOWN].decode("ascii", "replace"))
            yield f"{console.name} got {len(data)} bytes after a crash: {said}"


def _count_consoles(seen: Observation) -> Mapping[str, int]:
    return {
        "consoles": len(seen.consoles),
        "bytes before the guest's first frame": sum(console.size for console in seen.consoles),
    }


CHECKS: tuple[ProbeCheck, ...] = (
    ProbeCheck(
        "memory",
        "the host does not find a request in the guest's memory",
        ("host-reads-memory",),
        _memory,
        lambda seen: {"bytes": sum(seen.memory.sizes.values()) if seen.memory else 0},
        closable=False,
    ),
    ProbeCheck(
        "neighbour",
        "no neighbour on the link can say where the router is",
        ("arp",),
        _neighbour,
        lambda seen: {"ARP answers": seen.peer.arp_answers} if seen.peer else {},
        closable=False,
    ),
    ProbeCheck(
        "tpm",
        "the TPM gets only the commands that attesting needs",
        ("tpm", "firmware-storage"),
        _tpm,
        lambda seen: {
            "commands at boot": sum(seen.tpm.boot.values()),
            "commands while serving": sum(seen.tpm.serving.values()),
        },
    ),
    ProbeCheck(
        "tpm-state",
        "the TPM keeps what it kept before power-on, and nothing else",
        ("tpm", "firmware-storage"),
        _tpm_state,
        lambda seen: {"things kept": len(seen.tpm.before)},
    ),
    ProbeCheck(
        "evidence",
        "with all bait attached the machine measures what its statement says",
        ("command-line", "code-loading"),
        _evidence,
        lambda _: {"sessions judged": 1},
    ),
    ProbeCheck(
        "consoles-same",
        "each console gets the same bytes at every boot, whatever is asked",
        ("serial-console", "firmware-text", "kernel-log", "hypervisor-side-doors"),
        _consoles_same,
        lambda seen: {**_count_consoles(seen), "consoles of another boot": len(seen.other_boot)},
    ),
    ProbeCheck(
        "consoles-silent",
        "no console gets a byte after the guest's first frame",
        ("serial-console", "kernel-log", "standard-streams", "log-daemons", "hypervisor-side-doors"),
        _consoles_silent,
        _count_consoles,
    ),
    ProbeCheck(
        "screen",
        "keys and requests leave the screen as it is",
        ("screen-keyboard", "sysrq-debugger"),
        _screen,
        lambda seen: {"keys": seen.screen.keys, "pictures": 2},
    ),
    ProbeCheck(
        "disks",
        "no disk and no shared directory is read or written",
        ("disks-file-systems", "swap-hibernation", "core-dumps", "peripheral-buses"),
        _disks,
        lambda seen: {"disks": len(seen.disks), "shared directories": 1},
    ),
    ProbeCheck(
        "networks",
        "no further network card sends anything",
        ("peripheral-buses", "outgoing-connections"),
        _bait_networks,
        lambda seen: {"network cards": len(seen.bait_frames)},
    ),
    ProbeCheck(
        "touches",
        "while it serves, the guest touches interrupt controller, clock, TPM and its card, and no more",
        ("hypervisor-side-doors", "peripheral-buses", "serial-console", "hot-plug", "disks-file-systems"),
        _touches,
        lambda seen: {"accesses": sum(seen.touches.values()), "kinds": len(seen.touches)},
    ),
    ProbeCheck(
        "variables",
        "the firmware's variables stay as they are",
        ("firmware-storage",),
        _variables,
        lambda _: {"flash images": 1},
    ),
    ProbeCheck(
        "frames",
        "the guest sends ARP and the answers of its one service, and nothing else",
        (
            *("outgoing-connections", "name-service", "time-service", "metadata-services", "dhcp"),
            *("package-telemetry", "answers", "arp"),
        ),
        _frames,
        lambda seen: {"frames": seen.link.sent},
    ),
    ProbeCheck(
        "scan",
        "every TCP port but the service's is silent, and so are the UDP ports asked and all else",
        ("icmp-resets", "admin-entry", "arp", "dhcp"),
        _scan,
        lambda seen: (
            {"TCP ports": seen.peer.scanned_tcp, "UDP ports": seen.peer.scanned_udp} if seen.peer else {}
        ),
    ),
    ProbeCheck(
        "stranger",
        "TLS and HTTP tell a stranger nothing: no ticket, no date, one size for many answers",
        ("tls-side-channels", "debug-endpoints", "size-and-timing"),
        _stranger,
        lambda seen: {"answers": len(seen.handshake.answers)} if seen.handshake else {},
    ),
    ProbeCheck(
        "canary",
        "the text of a request is found in nothing that the machine leaves behind, in no spelling",
        ("standard-streams", "answers", "package-telemetry", "tpm", "disks-file-systems"),
        _canary,
        lambda seen: {
            "artefacts": len(seen.search.sizes),
            "bytes": sum(seen.search.sizes.values()),
            "requests with the text": sum(
                one.request == CANARY and one.status is not None for one in seen.exchanges
            ),
        },
    ),
    ProbeCheck(
        "attempts",
        "a hostile workload can do nothing but read, compute and answer",
        (
            *("outgoing-connections", "other-processes-memory", "tracing", "physical-memory"),
            *("kernel-views", "code-loading", "kexec", "between-requests"),
        ),
        _attempts,
        lambda seen: {f"attempts of the {who}": len(seen.attempts.get(who, {})) for who in seen.reporters},
        hostile_only=True,
    ),
    ProbeCheck(
        "crash",
        "a workload that crashes ends its own request and leaves nothing",
        ("crash-reports", "core-dumps"),
        _crash,
        lambda seen: {"crashes": sum(one.phase is Phase.CRASH for one in seen.exchanges)},
        hostile_only=True,
    ),
)
