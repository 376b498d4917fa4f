"""A guest at the other end of a link, in Python: silent as it must be, or talkative in one way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

from blindbuild.errors import FormatError
from blindbuild.formats import icmp, ipv6
from blindbuild.formats.ethernet import (
    ARP_REPLY,
    ARP_REQUEST,
    TYPE_ARP,
    TYPE_IPV4,
    TYPE_IPV6,
    ArpMessage,
    EthernetFrame,
    parse_arp,
    parse_ethernet,
)
from blindbuild.formats.ipv4 import ICMP, IGMP, TCP, UDP, Ipv4Packet, parse_ipv4
from blindbuild.formats.tcp import TcpFlag, TcpSegment, UdpDatagram, parse_tcp, parse_udp
from blindbuild.machine.probe.frames import Guest

EVERYWHERE = IPv4Address("255.255.255.255")
SYN_ACK = TcpFlag.SYN | TcpFlag.ACK
RESET = TcpFlag.RST | TcpFlag.ACK


@dataclass(frozen=True)
class Habits:
    """What it does besides answering ARP and the service's port."""

    port: int = 443
    serves: bool = True
    answers_arp: bool = True
    open_ports: frozenset[int] = frozenset()
    resets: bool = False
    udp: frozenset[int] = frozenset()
    unreachables: bool = False
    pings: bool = False
    igmp: bool = False
    ipv6: bool = False
    arp_for_all: bool = False
    believes_arp: bool = True
    tests_link: bool = False
    answers_tags: bool = False
    renews: bool = False
    ttl_of_port: bool = False
    tired_after: int | None = None


@dataclass
class LinkGuest:
    """Listens at `path`; a context manager."""

    guest: Guest
    path: Path
    peer: Path
    habits: Habits
    router_mac: bytes = bytes(6)
    _seen: int = 0
    _socket: socket.socket = field(default_factory=lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))

    def __enter__(self) -> Self:
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.1)
        self._running = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._running = False
        self._thread.join()
        self._socket.close()

    def _run(self) -> None:
        while self._running:
            with contextlib.suppress(TimeoutError, FormatError, OSError):
                frame = parse_ethernet(self._socket.recv(1 << 16))
                self._seen += 1
                if self.habits.tired_after is not None and self._seen > self.habits.tired_after:
                    continue
                if frame.tag is None or self.habits.answers_tags:
                    for answer in self._answers(frame):
                        self._socket.sendto(answer, str(self.peer))

    def _frame(self, kind: int, payload: bytes, to: bytes, tag: int | None = None) -> bytes:
        frame = EthernetFrame(destination=to, source=self.guest.mac, kind=kind, payload=payload, tag=tag)
        return frame.encode()

    def _answers(self, frame: EthernetFrame) -> Iterator[bytes]:
        if frame.kind == TYPE_ARP:
            yield from self._arp(frame)
        elif frame.kind == TYPE_IPV4:
            packet, _ = parse_ipv4(frame.payload)
            for answer in self._ipv4(packet):
                to = frame.source if packet.source in self.guest.address.network else self.router_mac
                yield self._frame(TYPE_IPV4, answer.encode(), to, frame.tag)
        elif frame.kind == TYPE_IPV6 and self.habits.ipv6:
            mine, group = ipv6.link_local(self.guest.mac), ipv6.ALL_ROUTERS
            message = ipv6.router_solicitation(self.guest.mac).encode(mine, group)
            packet6 = ipv6.Ipv6Packet(source=mine, destination=group, next_header=58, payload=message)
            yield self._frame(TYPE_IPV6, packet6.encode(), ipv6.multicast_mac(group))
        elif frame.kind == 3 and self.habits.tests_link:
            yield self._frame(frame.kind, frame.payload, frame.source)

    def _arp(self, frame: EthernetFrame) -> Iterator[bytes]:
        message, _ = parse_arp(frame.payload)
        if message.sender == self.guest.router and (self.habits.believes_arp or not any(self.router_mac)):
            self.router_mac = message.sender_mac
        mine = message.sender != self.guest.address.ip and message.target == self.guest.address.ip
        if message.operation == ARP_REQUEST and self.habits.answers_arp and (mine or self.habits.arp_for_all):
            answer = ArpMessage(
                operation=ARP_REPLY,
                sender_mac=self.guest.mac,
                sender=message.target,
                target_mac=message.sender_mac,
                target=message.sender,
            )
            yield self._frame(TYPE_ARP, answer.encode(), message.sender_mac, frame.tag)

    def _ipv4(self, packet: Ipv4Packet) -> Iterator[Ipv4Packet]:
        here = self.guest.address.ip
        back = Ipv4Packet(source=here, destination=packet.source, protocol=packet.protocol, payload=b"")
        if packet.protocol == IGMP and self.habits.igmp:
            report = icmp.IcmpMessage(kind=0x16, code=0, body=bytes((224, 0, 0, 251)))
            yield replace(back, payload=report.encode())
        if (
            packet.protocol == UDP
            and packet.destination == IPv4Address("255.255.255.255")
            and self.habits.renews
        ):
            question = UdpDatagram(source_port=68, destination_port=67, payload=b"renew")
            yield replace(back, payload=question.encode(here, packet.source))
        if packet.destination != here or packet.is_fragment:
            return
        if packet.protocol == ICMP:
            yield from self._ping(packet, back)
        elif packet.protocol == TCP:
            yield from self._tcp(parse_tcp(packet.payload, packet.source, here), packet, back)
        elif packet.protocol == UDP:
            yield from self._udp(parse_udp(packet.payload, packet.source, here), packet, back)

    def _ping(self, packet: Ipv4Packet, back: Ipv4Packet) -> Iterator[Ipv4Packet]:
        message = icmp.parse_icmp(packet.payload)
        if message.kind == icmp.ECHO and self.habits.pings:
            yield replace(back, payload=replace(message, kind=icmp.ECHO_REPLY).encode())

    def _tcp(self, asked: TcpSegment, packet: Ipv4Packet, back: Ipv4Packet) -> Iterator[Ipv4Packet]:
        answer = TcpSegment(
            source_port=asked.destination_port,
            destination_port=asked.source_port,
            flags=SYN_ACK,
            sequence=7,
            acknowledgment=asked.sequence + 1 & 0xFFFFFFFF,
        )
        serving = self.habits.open_ports | ({self.habits.port} if self.habits.serves else set())
        if asked.flags == TcpFlag.SYN and asked.destination_port in serving:
            ttl = 64 - (asked.source_port % 2 if self.habits.ttl_of_port else 0)
            yield replace(back, ttl=ttl, payload=answer.encode(back.source, packet.source))
        elif self.habits.resets and not asked.flags & TcpFlag.RST:
            yield replace(back, payload=replace(answer, flags=RESET).encode(back.source, packet.source))

    def _udp(self, asked: UdpDatagram, packet: Ipv4Packet, back: Ipv4Packet) -> Iterator[Ipv4Packet]:
        if asked.destination_port in self.habits.udp:
            answer = UdpDatagram(
                source_port=asked.destination_port, destination_port=asked.source_port, payload=b"yes"
            )
            yield replace(back, payload=answer.encode(back.source, packet.source))
        elif self.habits.unreachables:
            error = icmp.error(icmp.UNREACHABLE, 3, packet.encode())
            yield replace(back, protocol=ICMP, payload=error.encode())
