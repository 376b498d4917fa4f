"""Judges every frame that a guest sent: what is neither ARP nor an answer of its one service, in words.

A frame is judged by those before it: an answer needs a question. So a capture is read from its beginning,
with the frames of everybody else on the link in it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface
from typing import Self

from blindbuild.errors import FormatError
from blindbuild.formats.dhcp import CLIENT_PORT, SERVER_PORT, DhcpOption, DhcpType, parse_dhcp
from blindbuild.formats.ethernet import (
    ARP_REPLY,
    ARP_REQUEST,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    EthernetFrame,
    parse_arp,
    parse_ethernet,
    parse_mac,
)
from blindbuild.formats.icmp import TIME_EXCEEDED, UNREACHABLE
from blindbuild.formats.ipv4 import ICMP, IGMP, TCP, UDP, Ipv4Packet, parse_ipv4
from blindbuild.formats.ipv6 import parse_ipv6
from blindbuild.formats.pcap import Frame
from blindbuild.formats.tcp import TcpFlag, TcpSegment, parse_tcp, parse_udp
from blindbuild.machine.config import GUEST_MAC, MachineConfig

MAX_FINDINGS = 100  # kinds of frames in words; a guest that sends anything at all could fill memory

_SOURCE, _TYPE, _PAYLOAD = slice(6, 12), slice(12, 14), slice(14, None)  # IEEE 802.3, 3.2
_PROTOCOL = slice(23, 24)  # RFC 791, 3.1
_SOURCE_PORT, _DESTINATION_PORT = slice(0, 2), slice(2, 4)  # RFC 9293, 3.1
_ARP, _IPV4, _TCP = TYPE_ARP.to_bytes(2, "big"), TYPE_IPV4.to_bytes(2, "big"), bytes((TCP,))
_HALF = 1 << 31  # RFC 9293, 3.4: sequence numbers are compared modulo 2**32
_DHCP_OPTIONS = {
    DhcpOption.MESSAGE_TYPE,
    DhcpOption.REQUESTED_ADDRESS,
    DhcpOption.SERVER,
    DhcpOption.PARAMETERS,
}
_DHCP_TYPES = (bytes((DhcpType.DISCOVER,)), bytes((DhcpType.REQUEST,)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """Who is judged: its addresses, its router, and whether it asks for its address by DHCP."""

    mac: bytes
    address: IPv4Interface
    router: IPv4Address
    asks_dhcp: bool = False

    @classmethod
    def of(cls, config: MachineConfig, *, asks_dhcp: bool = False) -> Self:
        """Return the guest of a machine."""
        return cls(
            mac=parse_mac(GUEST_MAC), address=config.guest_address, router=config.router, asks_dhcp=asks_dhcp
        )


class FrameKind(Enum):
    """What a frame that should not be there is."""

    ARP = "arp"
    TCP = "tcp"
    TCP_RESET = "tcp reset"
    UDP = "udp"
    DHCP = "dhcp"
    ICMP = "icmp"
    UNREACHABLE = "icmp error"
    IGMP = "igmp"
    IPV6 = "ipv6"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Unexpected:
    """One frame that should not be there: what it is, and from which port."""

    kind: FrameKind
    words: str
    port: int | None = None


@dataclass(slots=True)
class _Flow:
    """What is known of one connection to the service."""

    opened: bool = False
    first_sequence: int | None = None  # of the guest
    established: bool = False
    ended: bool = False
    options: bool = False  # it was asked with IP options, which a host sends back


@dataclass(slots=True)
class FrameJudge:
    """Reads a capture frame by frame; remembers who asked for what."""

    guest: Guest
    port: int
    _askers: set[IPv4Address] = field(default_factory=set)
    _flows: dict[tuple[IPv4Address, int], _Flow] = field(default_factory=dict)

    def judge(self, data: bytes) -> Unexpected | None:
        """Return what is wrong with a frame; None for a good one, and for all that others send."""
        if data[_SOURCE] != self.guest.mac:
            self._note(data)
            return None
        try:
            return self._judge(parse_ethernet(data))
        except FormatError as error:
            return Unexpected(FrameKind.OTHER, f"a malformed frame: {error}")

    def _note(self, data: bytes) -> None:
        """Remember what somebody else has asked; what cannot be read asks nothing."""
        with contextlib.suppress(FormatError):
            if data[_TYPE] == _ARP:
                self._note_asker(parse_arp(data[_PAYLOAD])[0].sender)
            elif data[_TYPE] == _IPV4 and data[_PROTOCOL] == _TCP:
                self._note_packet(parse_ipv4(data[_PAYLOAD])[0])

    def _note_packet(self, packet: Ipv4Packet) -> None:
        if packet.destination != self.guest.address.ip or packet.fragment_offset:
            return
        self._note_asker(packet.source)
        if packet.payload[_DESTINATION_PORT] != self.port.to_bytes(2, "big"):
            return
        if packet.more_fragments:  # the guest puts them together, and answers the whole
            port = int.from_bytes(packet.payload[_SOURCE_PORT], "big")
            self._flows.setdefault((packet.source, port), _Flow()).opened = True
            return
        segment = parse_tcp(packet.payload, packet.source, packet.destination)
        flow = self._note_segment(packet.source, segment)
        flow.options = flow.options or bool(packet.options)

    def _note_asker(self, address: IPv4Address) -> None:
        if address != self.guest.address.ip:  # others may claim it; what it tells itself stays a finding
            self._askers.add(address)

    def _note_segment(self, source: IPv4Address, segment: TcpSegment) -> _Flow:
        flow = self._flows.setdefault((source, segment.source_port), _Flow())
        if segment.flags & TcpFlag.SYN and not segment.flags & TcpFlag.ACK:
            if flow.ended or not flow.established:
                flow = self._flows[source, segment.source_port] = _Flow(opened=True, options=flow.options)
            return flow
        if segment.flags & TcpFlag.ACK and flow.first_sequence is not None:
            ahead = segment.acknowledgment - flow.first_sequence - 1 & 0xFFFFFFFF
            flow.established = flow.established or ahead < _HALF
        flow.ended = flow.ended or bool(segment.flags & (TcpFlag.FIN | TcpFlag.RST))
        return flow

    def _judge(self, frame: EthernetFrame) -> Unexpected | None:
        if frame.tag is not None:
            return Unexpected(FrameKind.OTHER, f"a frame with VLAN tag {frame.tag:#06x}")
        if frame.kind == TYPE_ARP:
            return self._judge_arp(frame)
        if frame.kind == TYPE_IPV4:
            return self._judge_ipv4(frame.payload)
        if frame.kind == TYPE_IPV6:
            packet, _ = parse_ipv6(frame.payload)
            words = f"IPv6 to {packet.destination}, next header {packet.next_header}"
            if packet.payload:
                words += f", first byte {packet.payload[0]}"
            return Unexpected(FrameKind.IPV6, words)
        return Unexpected(FrameKind.OTHER, f"a frame of type {frame.kind:#06x}")

    def _judge_arp(self, frame: EthernetFrame) -> Unexpected | None:
        message, padding = parse_arp(frame.payload)
        own = message.sender_mac == self.guest.mac and message.sender == self.guest.address.ip
        what = f"ARP operation {message.operation} from {message.sender} about {message.target}"
        if any(padding):
            return Unexpected(FrameKind.ARP, f"{what} with {len(padding)} bytes behind it")
        if own and message.operation == ARP_REPLY and message.target in self._askers:
            return None
        # RFC 826: a question has no target address yet
        asks = own and message.operation == ARP_REQUEST and not any(message.target_mac)
        if asks and (message.target in self._askers or message.target == self.guest.router):
            return None
        return Unexpected(FrameKind.ARP, what)

    def _judge_ipv4(self, payload: bytes) -> Unexpected | None:
        packet, padding = parse_ipv4(payload)
        to = f"to {packet.destination}"
        if any(padding):
            return Unexpected(FrameKind.OTHER, f"a packet {to} with {len(padding)} bytes behind it")
        if packet.protocol == ICMP and len(packet.payload) >= 2:
            kind, code = packet.payload[:2]
            error = kind in (UNREACHABLE, TIME_EXCEEDED)
            which = FrameKind.UNREACHABLE if error else FrameKind.ICMP
            return Unexpected(which, f"ICMP type {kind} code {code} {to}")
        if packet.protocol == IGMP:
            return Unexpected(FrameKind.IGMP, f"IGMP type {packet.payload[:1].hex()} {to}")
        if packet.is_fragment:
            return Unexpected(FrameKind.OTHER, f"a fragment {to} of protocol {packet.protocol}")
        if packet.protocol == UDP:
            return self._judge_udp(packet)
        if packet.source != self.guest.address.ip:
            return Unexpected(FrameKind.OTHER, f"a packet from {packet.source} {to}")
        if packet.protocol == TCP:
            return self._judge_tcp(packet)
        return Unexpected(FrameKind.OTHER, f"IP protocol {packet.protocol} {to}")

    def _judge_udp(self, packet: Ipv4Packet) -> Unexpected | None:
        datagram = parse_udp(packet.payload, packet.source, packet.destination)
        where = f"to {packet.destination} port {datagram.destination_port}"
        if (datagram.source_port, datagram.destination_port) == (CLIENT_PORT, SERVER_PORT):
            more = self._judge_dhcp(datagram.payload)
            return Unexpected(FrameKind.DHCP, f"{more} {where}") if more else None
        return Unexpected(FrameKind.UDP, f"UDP {where}", datagram.source_port)

    def _judge_dhcp(self, payload: bytes) -> str | None:
        """Return what is too much in a DHCP message: it may ask for an address and say nothing."""
        if not self.guest.asks_dhcp:
            return "DHCP"
        message = parse_dhcp(payload)
        if message.client_mac != self.guest.mac:
            return "DHCP for another Ethernet address"
        if message.option(DhcpOption.MESSAGE_TYPE) not in _DHCP_TYPES:
            return "DHCP that neither discovers nor requests"
        more = sorted({code for code, _ in message.options} - _DHCP_OPTIONS)
        return f"DHCP with options {', '.join(map(str, more))}" if more else None

    def _judge_tcp(self, packet: Ipv4Packet) -> Unexpected | None:
        segment = parse_tcp(packet.payload, packet.source, packet.destination)
        where = f"to {packet.destination}"
        if segment.source_port != self.port:
            if segment.flags & TcpFlag.RST:
                words = f"a TCP reset from a port that is not served {where}"
                return Unexpected(FrameKind.TCP_RESET, words, segment.source_port)
            return Unexpected(
                FrameKind.TCP,
                f"TCP {_names(segment.flags)} from a port that is not served {where}",
                segment.source_port,
            )
        flow = self._flows.get((packet.destination, segment.destination_port))
        if flow is None:
            words = f"TCP {_names(segment.flags)} {where}, which never connected"
            return Unexpected(FrameKind.TCP, words, self.port)
        wrong = _judge_segment(flow, segment)
        if packet.options and not flow.options:
            wrong = "TCP with IP options that nobody sent"
        return Unexpected(FrameKind.TCP, f"{wrong} {where}", self.port) if wrong else None


def _judge_segment(flow: _Flow, segment: TcpSegment) -> str | None:
    """Return what is wrong with a segment of the service on this flow, and remember what it tells."""
    if segment.flags & TcpFlag.SYN:
        if not segment.flags & TcpFlag.ACK:
            return "TCP SYN: the guest opens a connection"
        if not flow.opened:
            return "TCP SYN, ACK without a SYN before it"
        if not flow.established:
            flow.first_sequence = segment.sequence
    if segment.payload and not flow.established:
        return f"TCP {_names(segment.flags)} with data before the handshake"
    if segment.flags & TcpFlag.RST and segment.payload:
        return "a TCP reset with data"
    return None


def _names(flags: TcpFlag) -> str:
    return ", ".join(flag.name or "" for flag in TcpFlag if flags & flag) or "without flags"


def judge_frames(
    frames: Iterable[Frame], *, guest: Guest, port: int, start: int = 0
) -> tuple[Unexpected, ...]:
    """Return every frame of the guest that should not be there, in order.

    Args:
        frames: what was captured at the guest's link from its beginning, both ways.
        guest: who is judged.
        port: of its one service.
        start: how many frames at the beginning are read, but not reported.
    """
    judge = FrameJudge(guest, port)
    found = [judge.judge(frame.data) for frame in frames]
    return tuple(one for one in found[start:] if one is not None)


def classify_frames(frames: Sequence[Frame], *, guest: Guest, port: int) -> tuple[str, ...]:
    """Return in words every frame of the guest that is neither ARP nor the service's answer.

    Args:
        frames: what was captured at the guest's link from its beginning, both ways.
        guest: who is judged.
        port: of its one service.

    Returns:
        One line a kind of frame with its number; empty if all were as they must be.
    """
    return in_words(judge_frames(frames, guest=guest, port=port))


def in_words(unexpected: Iterable[Unexpected]) -> tuple[str, ...]:
    """Return one line for each kind of frame: what it is, how many, and the lowest of their ports."""
    counts: Counter[str] = Counter()
    ports: dict[str, int] = {}
    for one in unexpected:
        counts[one.words] += 1
        if one.port is not None:
            ports[one.words] = min(ports.get(one.words, one.port), one.port)
    lines = [
        f"{words} ({count} frame{'s' if count > 1 else ''}"
        + (f", lowest source port {ports[words]})" if words in ports else ")")
        for words, count in sorted(counts.items())
    ]
    if len(lines) > MAX_FINDINGS:
        return (*lines[:MAX_FINDINGS], f"and {len(lines) - MAX_FINDINGS} other kinds of frames")
    return tuple(lines)
