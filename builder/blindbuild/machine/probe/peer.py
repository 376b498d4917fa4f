"""The neighbour's questions to a guest, and what came back: a scan of its one link.

Every TCP port is asked, the UDP ports of known services, and all else that makes a talkative host talk;
see `stimuli`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.errors import FormatError, MachineError
from blindbuild.formats.ethernet import ARP_REPLY, TYPE_ARP, TYPE_IPV4, parse_arp, parse_ethernet
from blindbuild.formats.ipv4 import TCP, parse_ipv4
from blindbuild.formats.pcap import Frame
from blindbuild.formats.tcp import TcpFlag, TcpSegment, parse_tcp
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.composer import Composer
from blindbuild.machine.probe.frames import (
    FrameKind,
    Guest,
    Unexpected,
    classify_frames,
    in_words,
    judge_frames,
)
from blindbuild.machine.probe.headers import HeaderReport, header_findings, observe_headers
from blindbuild.machine.probe.link import PEER_MAC, Link, own_address
from blindbuild.machine.probe.stimuli import OFF_LINK, UDP_PORTS, make_stimuli, move_address, udp_question

__all__ = ["Guest", "LinkPeer", "PeerReport", "classify_frames", "peer_findings", "scan_machine"]

PORTS = range(1, 1 << 16)
SCAN_PORT = 40_000  # the source port of the scan; the second round has the next one
LAST_PORT = 40_900  # of the question whether the service still answers
POISON_PORT = 40_910  # of the connections that show where the guest thinks its router is
ANSWER_S = 5.0  # for one answer, with a busy host
SETTLE_S = 1.2  # Linux Documentation/networking/ip-sysctl: an ARP entry is not changed again within a second
REPAIRS = 3  # tries to give the guest its router back


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerReport:
    """What a neighbour saw of the guest.

    Attributes:
        tcp_open: ports that answered SYN with SYN, ACK; without the service's the scan shows nothing.
        tcp_reset: ports besides the service's that sent a reset.
        udp_answered: ports that sent a datagram.
        icmp_answers, unreachables: ICMP messages that are no errors, and errors.
        ipv6_frames, igmp_frames, dhcp_frames: of these protocols.
        arp_answers: ARP answers of the guest.
        other: all that the guest should not have sent, the above included, one line a kind of frame.
        scanned_tcp, scanned_udp: ports that were asked and whose question the guest has taken.
        asked: frames sent, by what they are.
        serves_at_end: whether the service answered after all of it.
        arp_poisoned: whether the guest believes a neighbour where its router is; None without a router.
        headers: what varies in the headers of what it sent.
        seconds: how long it took.
    """

    tcp_open: frozenset[int]
    tcp_reset: frozenset[int]
    udp_answered: frozenset[int]
    icmp_answers: int
    unreachables: int
    ipv6_frames: int
    igmp_frames: int
    dhcp_frames: int
    arp_answers: int
    other: tuple[str, ...]
    scanned_tcp: int
    scanned_udp: int
    asked: tuple[tuple[str, int], ...]
    serves_at_end: bool
    arp_poisoned: bool | None
    headers: HeaderReport
    seconds: float


def peer_findings(report: PeerReport, *, port: int) -> tuple[str, ...]:
    """Return in words what the guest should not have shown, or what the scan failed to show."""
    more = sorted(report.tcp_open - {port})
    checks = (
        (port not in report.tcp_open, f"port {port} did not answer, so the scan shows nothing"),
        (bool(more), f"{len(more)} more TCP ports are open, the first is {more[0] if more else 0}"),
        (report.scanned_tcp < len(PORTS), f"only {report.scanned_tcp} TCP ports were asked"),
        (report.scanned_udp < len(UDP_PORTS), f"only {report.scanned_udp} UDP ports were asked"),
        (
            not report.arp_answers,
            "the guest answered no ARP question, so nothing is known to have reached it",
        ),
        (not report.serves_at_end, f"port {port} no longer answers after the scan"),
    )
    return (*(words for found, words in checks if found), *report.other, *header_findings(report.headers))


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was sent, and what the neighbour saw at once."""

    stimuli: tuple[tuple[str, int], ...]
    tcp: int
    udp: int
    poisoned: bool | None
    serves: bool


class LinkPeer(Link):
    """The neighbour that asks everything; see `Link` for how it gets onto the link."""

    def scan(self, guest: Guest, *, port: int = 443, rounds: int = 2) -> PeerReport:
        """Ask everything; return what came back.

        Args:
            guest: who is asked; it must be serving.
            port: of its service.
            rounds: how often a TCP port is asked that does not answer.

        Raises:
            MachineError: the guest no longer takes frames, or the link is gone.
        """
        begin, start = time.monotonic(), self.count()
        composer = Composer(guest=guest, mac=PEER_MAC, address=own_address(guest), port=port)
        asked = self._ask_all(composer, rounds)
        unexpected = judge_frames(self.frames_since(0), guest=guest, port=port, start=start)
        return _report(self.frames_since(start), unexpected, guest, asked, time.monotonic() - begin)

    def _ask_all(self, composer: Composer, rounds: int) -> _Asked:
        router = self.stand_in_for_router(composer.guest)
        stimuli = tuple(
            (stimulus.name, self.send_all(stimulus.frames, composer=composer))
            for stimulus in make_stimuli(composer)
        )
        tcp = self._scan_tcp(composer, rounds)
        questions = (composer.udp(number, udp_question(number)) for number in UDP_PORTS)
        udp = self.send_all(questions, composer=composer)
        poisoned = self._poison(composer, router)
        return _Asked(stimuli, tcp, udp, poisoned, self._opens(composer, LAST_PORT) is not None)

    def _scan_tcp(self, composer: Composer, rounds: int) -> int:
        """Ask every port, and again each that did not answer; return how many were asked."""
        start, asked = self.count(), 0
        for number in range(rounds):
            segments = _segments(self.frames_since(start), composer.guest)
            answered = {segment.source_port for segment in segments}
            rest = (port for port in PORTS if port not in answered)
            syns = (composer.syn(port, source_port=SCAN_PORT + number) for port in rest)
            asked = max(asked, self.send_all(syns, composer=composer))
        return asked

    def _opens(
        self, composer: Composer, source_port: int, *, source: IPv4Address | None = None
    ) -> bytes | None:
        """Ask the service for a connection; return the frame that answered, if one did."""
        start = self.count()
        self.send(composer.syn(composer.port, source_port=source_port, source=source))

        def answers(data: bytes) -> bool:
            found = _segments((Frame(0, data),), composer.guest)
            return any(one.destination_port == source_port and one.flags & TcpFlag.SYN for one in found)

        return self.wait_for(answers, ANSWER_S, start=start)

    def _poison(self, composer: Composer, router: bytes) -> bool | None:
        """Say that the router is here; return whether the guest then sends its router's frames here."""
        if self._way_to_router(composer, POISON_PORT) is None:
            return None
        taken = self._teach_router(composer, PEER_MAC, POISON_PORT + 1) == PEER_MAC
        for attempt in range(REPAIRS):
            if self._teach_router(composer, router, POISON_PORT + 2 + attempt) == router:
                return taken
        raise MachineError("the guest keeps a wrong Ethernet address of its router")

    def _teach_router(self, composer: Composer, mac: bytes, source_port: int) -> bytes | None:
        """Tell the guest where its router is; return where it sends what goes there."""
        time.sleep(SETTLE_S)
        self.send_all(move_address(composer, composer.guest.router, mac), composer=composer)
        return self._way_to_router(composer, source_port)

    def _way_to_router(self, composer: Composer, source_port: int) -> bytes | None:
        answer = self._opens(composer, source_port, source=OFF_LINK)
        return None if answer is None else answer[:6]


@contextlib.contextmanager
def host_network_cut(machine: Machine) -> Iterator[None]:
    """Unplug QEMU's user network from the link for a while; the guest does not notice.

    It reads every frame on the link as if it came from the guest: it would answer in the guest's name, and
    libslirp 4.7 crashes on some of the fragments.
    """
    machine.qmp.execute("set_link", {"name": "user", "up": False})
    try:
        yield
    finally:
        machine.qmp.execute("set_link", {"name": "user", "up": True})


def scan_machine(peer: LinkPeer, machine: Machine, *, asks_dhcp: bool = False, rounds: int = 2) -> PeerReport:
    """Ask a serving machine everything through its `link_socket`; nobody else reaches it meanwhile.

    Args:
        peer: entered before the machine was started with its `socket_path`.
        machine: it serves.
        asks_dhcp: whether it was built to ask for its address.
        rounds: how often a TCP port is asked that does not answer.

    Raises:
        MachineError: the guest no longer takes frames, or QEMU ended.
    """
    guest = Guest.of(machine.config, asks_dhcp=asks_dhcp)
    peer.connect(machine.files.link_socket, guest=guest)
    with host_network_cut(machine):
        return peer.scan(guest, port=machine.config.guest_port, rounds=rounds)


def _report(
    frames: Sequence[Frame],
    unexpected: Sequence[Unexpected],
    guest: Guest,
    asked: _Asked,
    seconds: float,
) -> PeerReport:
    return PeerReport(
        tcp_open=_open_ports(frames, guest),
        tcp_reset=_ports(unexpected, FrameKind.TCP_RESET),
        udp_answered=_ports(unexpected, FrameKind.UDP),
        icmp_answers=_number(unexpected, FrameKind.ICMP),
        unreachables=_number(unexpected, FrameKind.UNREACHABLE),
        ipv6_frames=_number(unexpected, FrameKind.IPV6),
        igmp_frames=_number(unexpected, FrameKind.IGMP),
        dhcp_frames=_number(unexpected, FrameKind.DHCP),
        arp_answers=_arp_answers(frames, guest),
        other=in_words(unexpected),
        scanned_tcp=asked.tcp,
        scanned_udp=asked.udp,
        asked=asked.stimuli,
        serves_at_end=asked.serves,
        arp_poisoned=asked.poisoned,
        headers=observe_headers(frames, guest=guest),
        seconds=seconds,
    )


def _segments(frames: Iterable[Frame], guest: Guest) -> Iterator[TcpSegment]:
    """Yield the TCP segments that the guest sent."""
    for frame in frames:
        if frame.source != guest.mac:
            continue
        try:
            ethernet = parse_ethernet(frame.data)
            if ethernet.kind != TYPE_IPV4 or ethernet.tag is not None:
                continue
            packet, _ = parse_ipv4(ethernet.payload)
            if packet.protocol == TCP and not packet.is_fragment:
                yield parse_tcp(packet.payload, packet.source, packet.destination)
        except FormatError:  # judged as malformed
            continue


def _open_ports(frames: Iterable[Frame], guest: Guest) -> frozenset[int]:
    both = TcpFlag.SYN | TcpFlag.ACK
    return frozenset(
        segment.source_port for segment in _segments(frames, guest) if segment.flags & both == both
    )


def _ports(unexpected: Sequence[Unexpected], kind: FrameKind) -> frozenset[int]:
    return frozenset(one.port for one in unexpected if one.kind is kind and one.port is not None)


def _number(unexpected: Sequence[Unexpected], kind: FrameKind) -> int:
    return sum(one.kind is kind for one in unexpected)


def _arp_answers(frames: Iterable[Frame], guest: Guest) -> int:
    return sum(frame.source == guest.mac and _is_arp_answer(frame.data) for frame in frames)


def _is_arp_answer(data: bytes) -> bool:
    try:
        ethernet = parse_ethernet(data)
        return ethernet.kind == TYPE_ARP and parse_arp(ethernet.payload)[0].operation == ARP_REPLY
    except FormatError:
        return False
