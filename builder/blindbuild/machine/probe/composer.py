"""Writes frames from a neighbour to a guest. Pure: the same ends give the same frames."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.formats.ethernet import (
    ARP_REQUEST,
    BROADCAST,
    TYPE_ARP,
    TYPE_IPV4,
    ArpMessage,
    EthernetFrame,
)
from blindbuild.formats.ipv4 import TCP, UDP, Ipv4Packet
from blindbuild.formats.tcp import TcpFlag, TcpSegment, UdpDatagram
from blindbuild.machine.probe.frames import Guest

_NO_MAC = bytes(6)
_WINDOW = 1024  # bytes


@dataclass(frozen=True, slots=True)
class Composer:
    """Writes frames from one neighbour to the guest.

    Attributes:
        guest: who gets them.
        mac: the neighbour's Ethernet address.
        address: the neighbour's IPv4 address, on the guest's subnet.
        port: of the guest's one service.
    """

    guest: Guest
    mac: bytes
    address: IPv4Address
    port: int

    def ethernet(
        self, kind: int, payload: bytes, *, to: bytes | None = None, tag: int | None = None
    ) -> bytes:
        """Return a frame to the guest, or to another Ethernet address."""
        target = self.guest.mac if to is None else to
        return EthernetFrame(
            destination=target, source=self.mac, kind=kind, payload=payload, tag=tag
        ).encode()

    def packet(self, packet: Ipv4Packet, *, to: bytes | None = None) -> bytes:
        """Return a frame with an IPv4 packet."""
        return self.ethernet(TYPE_IPV4, packet.encode(), to=to)

    def to_guest(self, protocol: int, payload: bytes, *, source: IPv4Address | None = None) -> Ipv4Packet:
        """Return a packet to the guest's address."""
        return Ipv4Packet(
            source=self.address if source is None else source,
            destination=self.guest.address.ip,
            protocol=protocol,
            payload=payload,
        )

    def segment(self, segment: TcpSegment, *, source: IPv4Address | None = None) -> Ipv4Packet:
        """Return a packet with a TCP segment to the guest."""
        sender = self.address if source is None else source
        return self.to_guest(TCP, segment.encode(sender, self.guest.address.ip), source=sender)

    def syn(self, port: int, *, source_port: int, source: IPv4Address | None = None) -> bytes:
        """Return a frame that asks for a TCP connection."""
        segment = TcpSegment(
            source_port=source_port, destination_port=port, flags=TcpFlag.SYN, sequence=port, window=_WINDOW
        )
        return self.packet(self.segment(segment, source=source))

    def udp(self, port: int, payload: bytes = b"", *, source_port: int = 40_053) -> bytes:
        """Return a frame with a UDP datagram."""
        datagram = UdpDatagram(source_port=source_port, destination_port=port, payload=payload)
        return self.packet(self.to_guest(UDP, datagram.encode(self.address, self.guest.address.ip)))

    def arp(self, message: ArpMessage, *, to: bytes = BROADCAST) -> bytes:
        """Return a frame with an ARP message."""
        return self.ethernet(TYPE_ARP, message.encode(), to=to)

    def who_has(self, target: IPv4Address, *, sender: IPv4Address | None = None) -> ArpMessage:
        """Return the question who has an address."""
        return ArpMessage(
            operation=ARP_REQUEST,
            sender_mac=self.mac,
            sender=self.address if sender is None else sender,
            target_mac=_NO_MAC,
            target=target,
        )
