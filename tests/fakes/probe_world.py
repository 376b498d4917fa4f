"""A machine that shows nothing it should not, and one change for each way to show something."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from blindbuild.digest import Digest
from blindbuild.machine.probe.canary import Canary, Hit
from blindbuild.machine.probe.handshake import EXPECTED_CERTIFICATE, OLD_VERSIONS, Answer, HandshakeReport
from blindbuild.machine.probe.headers import HeaderReport
from blindbuild.machine.probe.observe import (
    CANARY,
    HEALTH,
    ConsoleSeen,
    DiskSeen,
    Exchange,
    LinkSeen,
    Observation,
    Phase,
    ScreenSeen,
    SearchSeen,
    TpmSeen,
)
from blindbuild.machine.probe.peer import PeerReport

TEXT = b"canary-of-24-letters-abc"
SPOKEN = Digest.sha256(b"BdsDxe: starting\r\n")
OTHER = Digest.sha256(b"something else")
KEPT = {"NV index 0x01c00002": OTHER, "passwords and switches": SPOKEN}


def good(name: bytes = b"product") -> Observation:
    """What a machine without any leak shows; every check looks at something."""
    console = ConsoleSeen("serial0", 18, SPOKEN)
    return Observation(
        image=Digest.sha256(name),
        phases=((Phase.BOOT, 11.5), (Phase.IDLE, 8.0), (Phase.LOAD, 2.25)),
        consoles=(console, replace(console, name="virtconsole")),
        other_boot={"serial0": SPOKEN, "virtconsole": SPOKEN},
        disks=(DiskSeen("bait-nvme", 0, 0, OTHER, OTHER), DiskSeen("disk", 0, 0, OTHER, OTHER)),
        share=(OTHER, OTHER),
        bait_frames={"bait-nic": 0},
        touches={"apic-msi": 1000, "hpet": 30, "tpm-crb-mmio": 200},
        screen=ScreenSeen(OTHER, OTHER, 8),
        variables=(OTHER, OTHER),
        tpm=TpmSeen({0x17A: 104, 0x182: 44, 0x144: 1}, {0x158: 1, 0x17E: 3}, KEPT, KEPT),
        link=LinkSeen(290, ()),
        port=443,
        peer=peer(),
        handshake=handshake(name),
        other_handshake=handshake(b"another boot"),
        exchanges=(
            Exchange(Phase.LOAD, CANARY, 200),
            Exchange(Phase.CRASH, "segv", 502),
            Exchange(Phase.CRASH, "fork", 200),
            Exchange(Phase.CRASH, HEALTH, 204),
        ),
        refusals=(),
        search=SearchSeen({"network.pcap": 90000, "tpm-commands": 29000}, ()),
        memory=SearchSeen({"memory": 1 << 28}, ()),
        reporters=("workload",),
        attempts={"workload": {"socket:2:1": "EPERM", "open:/dev/null": "ENOENT", "kill:signal-0": "done"}},
        ending=None,
    )


def peer() -> PeerReport:
    """What a silent guest shows its neighbour."""
    return PeerReport(
        tcp_open=frozenset({443}),
        tcp_reset=frozenset(),
        udp_answered=frozenset(),
        icmp_answers=0,
        unreachables=0,
        ipv6_frames=0,
        igmp_frames=0,
        dhcp_frames=0,
        arp_answers=5,
        other=(),
        scanned_tcp=65535,
        scanned_udp=65535,
        asked=(("ICMP", 308),),
        serves_at_end=True,
        arp_poisoned=False,
        headers=HeaderReport(
            packets=83,
            ttls=frozenset({64}),
            services=frozenset({0}),
            identifications=0,
            ip_options=0,
            tcp_options=frozenset({2}),
            urgent=0,
            timestamps=0,
        ),
        seconds=30.0,
    )


def handshake(name: bytes) -> HandshakeReport:
    """What a gate that tells nothing shows a stranger."""
    return HandshakeReport(
        version="TLSv1.3",
        old_versions=dict.fromkeys(OLD_VERSIONS, "refused"),
        tickets=0,
        resumed=False,
        protocols={"h2": None, "http/1.1": "http/1.1"},
        certificates=frozenset({Digest.sha256(b"certificate of " + name)}),
        certificate_fields=EXPECTED_CERTIFICATE,
        certificate_frame=OTHER,
        answers=(
            Answer(
                request="a health question",
                allowed=frozenset({204}),
                status=204,
                headers=(("cache-control", "no-store"), ("padding", "000")),
                length=1024,
                digest=OTHER,
                records=(1024,),
            ),
        ),
    )


def _console(seen: Observation, **changes: object) -> Observation:
    first, *rest = seen.consoles
    return replace(seen, consoles=(replace(first, **changes), *rest))


def _disk(seen: Observation, **changes: object) -> Observation:
    first, *rest = seen.disks
    return replace(seen, disks=(replace(first, **changes), *rest))


def _kept(seen: Observation, after: dict[str, Digest]) -> Observation:
    return replace(seen, tpm=replace(seen.tpm, after=after))


def _tpm(seen: Observation, code: int, *, boot: bool) -> Observation:
    tpm = seen.tpm
    changed = replace(tpm, boot={**tpm.boot, code: 1}) if boot else replace(tpm, serving={code: 1})
    return replace(seen, tpm=changed)


def _answer(seen: Observation, **changes: object) -> Observation:
    assert seen.handshake is not None
    (answer,) = seen.handshake.answers
    return replace(seen, handshake=replace(seen.handshake, answers=(replace(answer, **changes),)))


def _found(artefact: str, spelling: str) -> SearchSeen:
    assert spelling in Canary.of(TEXT).spellings
    return SearchSeen({artefact: 100}, (Hit(artefact, spelling, 17),))


# check: [(words that its finding must have, the change)]
LEAKS: Mapping[str, tuple[tuple[str, Callable[[Observation], Observation]], ...]] = {
    "memory": (("memory", lambda o: replace(o, memory=_found("memory", "raw"))),),
    "neighbour": (("router", lambda o: replace(o, peer=replace(peer(), arp_poisoned=True))),),
    "tpm": (
        ("TPM2_NV_Write while it served", lambda o: _tpm(o, 0x137, boot=False)),
        ("TPM2_PCR_Extend while it served", lambda o: _tpm(o, 0x182, boot=False)),
        ("TPM2_NV_DefineSpace at boot", lambda o: _tpm(o, 0x12A, boot=True)),
        ("command 0x20000001", lambda o: _tpm(o, 0x20000001, boot=False)),
    ),
    "tpm-state": (
        ("new NV index 0x01800001", lambda o: _kept(o, {**KEPT, "NV index 0x01800001": OTHER})),
        (
            "else than before: NV index 0x01c00002",
            lambda o: _kept(o, {**KEPT, "NV index 0x01c00002": SPOKEN}),
        ),
        ("else than before: passwords", lambda o: _kept(o, {"NV index 0x01c00002": OTHER})),
    ),
    "evidence": (("E1:register-mismatch", lambda o: replace(o, refusals=("E1:register-mismatch",))),),
    "consoles-same": (
        ("serial0 said something else", lambda o: _console(o, digest=OTHER)),
        ("virtconsole", lambda o: replace(o, other_boot={"serial0": SPOKEN})),
    ),
    "consoles-silent": (
        ("phase idle: hello\\x0a", lambda o: _console(o, late={Phase.IDLE: b"hello\n"})),
        ("phase boot", lambda o: _console(o, late={Phase.BOOT: b"x"})),
    ),
    "screen": (("screen changed", lambda o: replace(o, screen=ScreenSeen(OTHER, SPOKEN, 8))),),
    "disks": (
        ("1 reads", lambda o: _disk(o, reads=1)),
        ("1 writes", lambda o: _disk(o, writes=1)),
        ("bait-nvme holds", lambda o: _disk(o, after=SPOKEN)),
        ("shared directory", lambda o: replace(o, share=(OTHER, SPOKEN))),
    ),
    "networks": (("3 frames on bait-nic", lambda o: replace(o, bait_frames={"bait-nic": 3})),),
    "touches": (
        ("used serial (1 ", lambda o: replace(o, touches={**o.touches, "serial": 1})),
        ("pci-config nvme", lambda o: replace(o, touches={**o.touches, "pci-config nvme": 2})),
        # allowed only to a machine that has powered itself off
        ("acpi-cnt", lambda o: replace(o, touches={**o.touches, "acpi-cnt": 1})),
    ),
    "variables": (("variables changed", lambda o: replace(o, variables=(OTHER, SPOKEN))),),
    "frames": (("UDP to 10.0.2.3", lambda o: replace(o, link=LinkSeen(9, ("UDP to 10.0.2.3",)))),),
    "scan": (
        ("1 more TCP ports", lambda o: replace(o, peer=replace(peer(), tcp_open=frozenset({443, 8443})))),
        ("ICMP type 0", lambda o: replace(o, peer=replace(peer(), other=("ICMP type 0 (1 frame)",)))),
    ),
    "stranger": (
        (
            "session tickets",
            lambda o: replace(o, handshake=replace(handshake(b"x"), tickets=2)),
        ),
        ("header date", lambda o: _answer(o, headers=(("date", "Sun"),))),
        ("1025 bytes", lambda o: _answer(o, length=1025)),
        ("same certificate", lambda o: replace(o, other_handshake=o.handshake)),
    ),
    "canary": (
        (
            "disk.raw has the request's text (base64, shifted by 2) at byte 17",
            lambda o: replace(o, search=_found("disk.raw", "base64, shifted by 2")),
        ),
    ),
    "attempts": (
        ("workload: socket:2:1 worked", lambda o: replace(o, attempts={"workload": {"socket:2:1": "done"}})),
        ("workload: setuid:root", lambda o: replace(o, attempts={"workload": {"setuid:root": "done"}})),
    ),
    "crash": (
        ("after a crash", lambda o: _console(o, late={Phase.CRASH: b"segfault"})),
        (
            "neither serves nor has powered off",
            lambda o: replace(o, exchanges=(Exchange(Phase.CRASH, HEALTH, None, "timed out"),)),
        ),
        ("segv: answered", lambda o: replace(o, exchanges=(Exchange(Phase.CRASH, "segv", 200),))),
    ),
}
