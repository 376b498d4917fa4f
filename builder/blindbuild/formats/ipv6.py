"""IPv6 packets and those ICMPv6 messages that a neighbour can use to make a host speak.

Source: RFC 8200, 3 and 4.3; RFC 4443; RFC 4861, 4; RFC 2710 and RFC 2711 (MLD); RFC 8106 (DNS in RA).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from blindbuild.errors import FormatError
from blindbuild.formats.ipv4 import internet_checksum

HOP_BY_HOP = 0
ICMP6 = 58
ECHO = 128
LISTENER_QUERY = 130
ROUTER_SOLICITATION = 133
ROUTER_ADVERTISEMENT = 134
NEIGHBOUR_SOLICITATION = 135
ALL_NODES = IPv6Address("ff02::1")
ALL_ROUTERS = IPv6Address("ff02::2")

_HEADER = struct.Struct(">IHBB16s16s")
_MESSAGE = struct.Struct(">BBH")
_VERSION = 6
_FLOW_MASK = 0xFFFFF
_LOCAL_HOPS = 255  # RFC 4861, 4: only a neighbour can have sent it
_DAY_S = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv6Packet:
    """One packet; `next_header` says what the payload begins with."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    payload: bytes
    hop_limit: int = _LOCAL_HOPS
    traffic_class: int = 0
    flow_label: int = 0

    def encode(self) -> bytes:
        """Return its bytes."""
        first = _VERSION << 28 | self.traffic_class << 20 | self.flow_label
        ends = (self.source.packed, self.destination.packed)
        return _HEADER.pack(first, len(self.payload), self.next_header, self.hop_limit, *ends) + self.payload


def parse_ipv6(data: bytes) -> tuple[Ipv6Packet, bytes]:
    """Read one packet; return it and what follows it in the frame.

    Raises:
        FormatError: another version, or a length that does not fit.
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"ipv6: expected at least {_HEADER.size} bytes, got {len(data)}")
    first, length, next_header, hop_limit, source, destination = _HEADER.unpack_from(data)
    end = _HEADER.size + length
    if first >> 28 != _VERSION or end > len(data):
        raise FormatError(f"ipv6: version {first >> 28}, expected {end} bytes, got {len(data)}")
    packet = Ipv6Packet(
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        next_header=next_header,
        payload=data[_HEADER.size : end],
        hop_limit=hop_limit,
        traffic_class=first >> 20 & 0xFF,
        flow_label=first & _FLOW_MASK,
    )
    return packet, data[end:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Icmp6Message:
    """One message: type, code, and everything behind the checksum."""

    kind: int
    code: int = 0
    body: bytes

    def encode(self, source: IPv6Address, destination: IPv6Address) -> bytes:
        """Return its bytes with the checksum for these two ends."""
        plain = _MESSAGE.pack(self.kind, self.code, 0) + self.body
        checksum = internet_checksum(_pseudo_header(source, destination, len(plain)) + plain)
        return _MESSAGE.pack(self.kind, self.code, checksum) + self.body


def parse_icmp6(data: bytes, source: IPv6Address, destination: IPv6Address) -> Icmp6Message:
    """Read one message between these two ends.

    Raises:
        FormatError: it is too short, or its checksum is wrong.
    """
    if len(data) < _MESSAGE.size:
        raise FormatError(f"icmpv6: expected at least {_MESSAGE.size} bytes, got {len(data)}")
    kind, code, _ = _MESSAGE.unpack_from(data)
    if internet_checksum(_pseudo_header(source, destination, len(data)) + data) != 0:
        raise FormatError("icmpv6: the checksum is wrong")
    return Icmp6Message(kind=kind, code=code, body=data[_MESSAGE.size :])


def multicast_mac(group: IPv6Address) -> bytes:
    """Return the Ethernet address of a group (RFC 2464, 7)."""
    return b"\x33\x33" + group.packed[-4:]


def solicited_node(address: IPv6Address) -> IPv6Address:
    """Return the group in which an address is asked for (RFC 4291, 2.7.1)."""
    return IPv6Address(IPv6Address("ff02::1:ff00:0").packed[:13] + address.packed[-3:])


def link_local(mac: bytes) -> IPv6Address:
    """Return the address that a host makes from its Ethernet address (RFC 4291, 2.5.6 and appendix A)."""
    identifier = bytes((mac[0] ^ 2, *mac[1:3], 0xFF, 0xFE, *mac[3:]))
    return IPv6Address(bytes.fromhex("fe80000000000000") + identifier)


def echo6(identifier: int, sequence: int, data: bytes = b"") -> Icmp6Message:
    """Return a question for the same data back."""
    return Icmp6Message(kind=ECHO, body=struct.pack(">HH", identifier, sequence) + data)


def router_solicitation(mac: bytes) -> Icmp6Message:
    """Return a question for routers, from a host with this Ethernet address."""
    return Icmp6Message(kind=ROUTER_SOLICITATION, body=bytes(4) + _option(1, mac))


def neighbour_solicitation(target: IPv6Address, mac: bytes) -> Icmp6Message:
    """Return the question who has `target`, from a host with this Ethernet address."""
    return Icmp6Message(kind=NEIGHBOUR_SOLICITATION, body=bytes(4) + target.packed + _option(1, mac))


def router_advertisement(
    prefix: IPv6Network, mac: bytes, *, resolver: IPv6Address | None = None
) -> Icmp6Message:
    """Return what would make a host give itself an address, a router and a resolver.

    Source: RFC 4861, 4.2, 4.6.1, 4.6.2 and 4.6.4; RFC 8106, 5.1.
    """
    flags = 0xC0  # managed addresses and other configuration: ask by DHCPv6, too
    head = struct.pack(">BBHII", 64, flags, 1800, 0, 0)
    on_link = struct.pack(">BBIII", prefix.prefixlen, 0xC0, _DAY_S, _DAY_S, 0)
    options = _option(1, mac) + _option(5, bytes(2) + struct.pack(">I", 1500))
    options += _option(3, on_link + prefix.network_address.packed)
    if resolver is not None:
        options += _option(25, bytes(2) + struct.pack(">I", 1800) + resolver.packed)
    return Icmp6Message(kind=ROUTER_ADVERTISEMENT, body=head + options)


def listener_query(source: IPv6Address) -> Ipv6Packet:
    """Return the packet that asks all nodes which groups they listen to (RFC 2710, 3; RFC 2711, 2.1)."""
    answer_within_ms = 1000
    message = Icmp6Message(kind=LISTENER_QUERY, body=struct.pack(">HH", answer_within_ms, 0) + bytes(16))
    router_alert = bytes((ICMP6, 0, 5, 2, 0, 0, 1, 0))
    payload = router_alert + message.encode(source, ALL_NODES)
    return Ipv6Packet(
        source=source, destination=ALL_NODES, next_header=HOP_BY_HOP, payload=payload, hop_limit=1
    )


def _option(kind: int, data: bytes) -> bytes:
    # RFC 4861, 4.6: the length counts units of eight bytes
    return bytes((kind, (len(data) + 2) // 8)) + data


def _pseudo_header(source: IPv6Address, destination: IPv6Address, length: int) -> bytes:
    return source.packed + destination.packed + struct.pack(">IHBB", length, 0, 0, ICMP6)
