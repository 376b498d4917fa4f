"""Frames that make a talkative guest talk: what a hostile neighbour on its link would send, by name.

Pure: the same guest and neighbour give the same frames. Numbers that fuzz come from SHA-256 of a fixed seed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from blindbuild.formats import icmp, ipv6
from blindbuild.formats.dhcp import (
    CLIENT_PORT,
    REPLY,
    SERVER_PORT,
    DhcpMessage,
    DhcpOption,
    DhcpType,
)
from blindbuild.formats.ethernet import (
    ARP_REPLY,
    ARP_REQUEST,
    BROADCAST,
    TYPE_ARP,
    TYPE_EAPOL,
    TYPE_IPV4,
    TYPE_IPV6,
    TYPE_LLDP,
    ArpMessage,
)
from blindbuild.formats.ipv4 import ICMP, IGMP, TCP, UDP, Ipv4Packet
from blindbuild.formats.tcp import TcpFlag, TcpSegment, UdpDatagram
from blindbuild.machine.probe.composer import Composer
from blindbuild.machine.probe.frames import Guest

FUZZED_FRAMES = 512
FUZZ_SEED = b"blindbuild probe 1"
# the numbers that IANA calls system ports, and those of services that answer a stranger
UDP_PORTS = (
    *range(1, 1025),
    *(1194, 1434, 1645, 1701, 1812, 1900, 2049, 2123, 2152, 3478, 3702, 4500, 4789, 5004, 5060, 5353, 5355),
    *(5632, 5683, 6081, 6343, 8125, 8472, 9987, 10161, 11211, 17185, 27015, 30718, 32414, 33434, 44818),
    *(47808, 49152, 51820, 65535),
)
CLOSED_PORTS = (1, 22, 53, 80, 8080, 65535)  # for probes that are not sent to every port
OFF_LINK = IPv4Address("198.51.100.77")  # RFC 5737: belongs to nobody
SERVER_OF_LIES = IPv4Address("203.0.113.5")  # RFC 5737

_EVERYWHERE = IPv4Address("255.255.255.255")
_LOOPBACK = IPv4Address("127.0.0.1")
_NOWHERE = IPv4Address(0)
_MDNS = IPv4Address("224.0.0.251")
_PREFIX = IPv6Network("2001:db8:77::/64")  # RFC 3849: belongs to nobody
_NO_MAC = bytes(6)
_WINDOW = 1024  # bytes
# RFC 9293, RFC 2018, RFC 7323: segment size, SACK permitted, timestamps, window scale
_USUAL_OPTIONS = bytes.fromhex("020405b4 0402 080a 00000001 00000000 01 030307")
_OPTIONS = {  # RFC 791, 3.1: each with room for the addresses that routers would write
    "loose source route": bytes.fromhex("8307040a00024d00"),
    "strict source route": bytes.fromhex("8907040a00024d00"),
    "record route": bytes((7, 39, 4)) + bytes(36) + b"\0",
    "timestamp": bytes((68, 36, 5, 1)) + bytes(32),
    "router alert": bytes.fromhex("94040000"),
    "a malformed option": bytes.fromhex("8903ff00"),
}
_DNS = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + b"\x07example\x00" + struct.pack(">2H", 255, 1)
_UDP_QUESTIONS = {
    53: _DNS,
    69: b"\x00\x01init\x00octet\x00",  # RFC 1350: read a file
    111: struct.pack(">10I", 1, 0, 2, 100_000, 2, 4, 0, 0, 0, 0),  # RFC 1833: what runs here?
    123: b"\x23" + bytes(47),  # RFC 5905: a client's question
    137: struct.pack(">6H", 1, 0, 1, 0, 0, 0) + b"\x20CK" + b"A" * 30 + b"\x00" + struct.pack(">2H", 0x21, 1),
    161: bytes.fromhex("302602010104067075626c6963a019020101020100020100300e300c06082b060102010101000500"),
    1900: b'M-SEARCH * HTTP/1.1\r\nHOST:239.255.255.250:1900\r\nMAN:"ssdp:discover"\r\nST:ssdp:all\r\n\r\n',
    5353: _DNS,
    5355: _DNS,
}


@dataclass(frozen=True, slots=True)
class Stimulus:
    """What is sent at once, and what it is."""

    name: str
    frames: tuple[bytes, ...]


def make_stimuli(composer: Composer) -> tuple[Stimulus, ...]:
    """Return everything but the scans of all ports, in the order to send it."""
    guest = composer.guest
    return (
        Stimulus("fragments", tuple(_fragments(composer))),
        Stimulus("ARP for others and with other senders", tuple(_arp(composer))),
        Stimulus("odd TCP segments", tuple(_segments(composer))),
        Stimulus("TCP with forged sources and destinations", tuple(_forged(composer))),
        Stimulus("IP options", tuple(_ip_options(composer))),
        Stimulus("every IP protocol", tuple(_protocols(composer))),
        Stimulus("ICMP", tuple(_icmp(composer))),
        Stimulus("IGMP queries", tuple(_igmp(composer))),
        Stimulus("IPv6", tuple(_ipv6(composer))),
        Stimulus("link layer", tuple(_link_layer(composer))),
        Stimulus("DHCP", tuple(_dhcp(composer, dhcp) for dhcp in dhcp_answers(guest))),
        Stimulus("fuzzed frames", fuzz(tuple(_fuzz_seeds(composer)), FUZZED_FRAMES)),
    )


def _arp(composer: Composer) -> Iterator[bytes]:
    network = composer.guest.address.network
    others = (network.network_address + 1, network.broadcast_address, composer.guest.address.ip + 1)
    for target in (*others, _NOWHERE, _LOOPBACK, _EVERYWHERE, icmp.ALL_SYSTEMS, OFF_LINK):
        question = composer.who_has(target)
        yield composer.arp(question)
        yield composer.arp(question, to=composer.guest.mac)
    yield composer.arp(replace(composer.who_has(composer.guest.address.ip), operation=8))  # RFC 2390: inverse
    yield from move_address(
        composer, composer.guest.address.ip, composer.mac
    )  # its own address is elsewhere, too
    yield composer.ethernet(0x8035, replace(composer.who_has(_NOWHERE), operation=3).encode())  # RFC 903


def _segments(composer: Composer) -> Iterator[bytes]:
    flags = (
        *(TcpFlag(0), TcpFlag.ACK, TcpFlag.FIN, TcpFlag.FIN | TcpFlag.ACK, TcpFlag.RST),
        *(TcpFlag.FIN | TcpFlag.PSH | TcpFlag.URG, TcpFlag.SYN | TcpFlag.FIN, TcpFlag.SYN | TcpFlag.ACK),
        *(TcpFlag.SYN | TcpFlag.ECE | TcpFlag.CWR, TcpFlag.PSH | TcpFlag.ACK, TcpFlag(0xFF)),
    )
    plain = TcpSegment(source_port=0, destination_port=0, flags=TcpFlag.SYN, sequence=7, window=_WINDOW)
    for port in (*CLOSED_PORTS, composer.port):
        ends = replace(plain, destination_port=port)
        usual = replace(ends, source_port=41_400, options=_USUAL_OPTIONS)
        yield composer.packet(composer.segment(usual))
        for number, flag in enumerate(flags):
            yield composer.packet(composer.segment(replace(ends, source_port=41_000 + number, flags=flag)))
        yield composer.packet(composer.segment(replace(ends, source_port=41_100, payload=b"data" * 8)))
        # RFC 7413: asks for a cookie, and sends data under a forged one
        for cookie in (b"\x22\x02\x01\x01", b"\x22\x0a\x01\x02\x03\x04\x05\x06\x07\x08\x01\x01"):
            opening = replace(ends, source_port=41_200 + len(cookie), options=cookie, payload=b"data")
            yield composer.packet(composer.segment(opening))
        yield composer.packet(composer.segment(replace(ends, source_port=composer.port)))
        data = composer.segment(replace(ends, source_port=41_300)).payload
        wrong = data[:16] + bytes((data[16] ^ 1,)) + data[17:]  # RFC 9293, 3.1: the checksum
        yield composer.packet(composer.to_guest(TCP, wrong))


def _forged(composer: Composer) -> Iterator[bytes]:
    guest, network = composer.guest.address.ip, composer.guest.address.network
    sources = (guest, network.broadcast_address, icmp.ALL_SYSTEMS, _LOOPBACK, _NOWHERE, _EVERYWHERE)
    for source in (*sources, OFF_LINK):
        yield composer.syn(composer.port, source_port=42_000, source=source)
        yield composer.syn(CLOSED_PORTS[1], source_port=42_000, source=source)
    for target in (network.broadcast_address, _EVERYWHERE, icmp.ALL_SYSTEMS, _LOOPBACK, OFF_LINK):
        for port in (composer.port, CLOSED_PORTS[1]):
            segment = TcpSegment(source_port=42_001, destination_port=port, flags=TcpFlag.SYN, window=_WINDOW)
            packet = Ipv4Packet(
                source=composer.address,
                destination=target,
                protocol=TCP,
                payload=segment.encode(composer.address, target),
            )
            yield composer.packet(packet)


def _fragments(composer: Composer) -> Iterator[bytes]:
    for number, port in enumerate((composer.port, CLOSED_PORTS[1])):
        segment = TcpSegment(
            source_port=43_000, destination_port=port, flags=TcpFlag.SYN, window=_WINDOW, payload=bytes(28)
        )
        whole = composer.segment(segment)
        for first in (8, 16, 24):  # the smallest one cuts the header; RFC 1858
            identification = 100 + 10 * number + first
            head = replace(whole, identification=identification, more_fragments=True)
            yield composer.packet(replace(head, payload=whole.payload[:first]))
            tail = replace(whole, identification=identification, fragment_offset=first // 8)
            yield composer.packet(replace(tail, payload=whole.payload[first:]))
        lonely = replace(whole, identification=99 - number, more_fragments=True, payload=whole.payload[:24])
        yield composer.packet(lonely)  # RFC 792: its rest never comes, which a host may complain about
    echo = composer.to_guest(ICMP, icmp.echo(43, 0, bytes(56)).encode())
    yield composer.packet(replace(echo, identification=7, more_fragments=True, payload=echo.payload[:32]))
    yield composer.packet(replace(echo, identification=7, fragment_offset=4, payload=echo.payload[32:]))
    # the ping of death: the last fragment ends beyond the longest packet
    yield composer.packet(replace(echo, identification=8, fragment_offset=0x1FFF))


def _ip_options(composer: Composer) -> Iterator[bytes]:
    for number, options in enumerate(_OPTIONS.values()):
        for port in (composer.port, CLOSED_PORTS[1]):
            segment = TcpSegment(
                source_port=44_000 + number, destination_port=port, flags=TcpFlag.SYN, window=_WINDOW
            )
            yield composer.packet(replace(composer.segment(segment), options=options))
        echo = composer.to_guest(ICMP, icmp.echo(44, number).encode())
        yield composer.packet(replace(echo, options=options))


def _protocols(composer: Composer) -> Iterator[bytes]:
    for protocol in range(256):
        yield composer.packet(composer.to_guest(protocol, bytes(32)))


def _icmp(composer: Composer) -> Iterator[bytes]:
    guest, network = composer.guest.address.ip, composer.guest.address.network
    answer = TcpSegment(source_port=composer.port, destination_port=45_000, flags=TcpFlag.ACK)
    original = Ipv4Packet(
        source=guest,
        destination=composer.address,
        protocol=TCP,
        payload=answer.encode(guest, composer.address),
    ).encode()
    errors = [icmp.error(icmp.UNREACHABLE, code, original) for code in range(16)]
    errors += [icmp.error(icmp.REDIRECT, code, original, composer.address.packed) for code in range(4)]
    errors += [icmp.error(icmp.TIME_EXCEEDED, code, original) for code in range(2)]
    # RFC 1191: the next hop takes 68 bytes only
    errors.append(icmp.error(icmp.UNREACHABLE, 4, original, struct.pack(">HH", 0, 68)))
    questions = [icmp.echo(45, 0), icmp.echo(45, 1, bytes(1400)), icmp.timestamp(45, 0)]
    questions += [icmp.address_mask(45, 0), icmp.information(45, 0)]
    questions += [icmp.IcmpMessage(kind=kind, code=0, body=bytes(8)) for kind in range(256)]
    for message in (*questions, *errors):
        yield composer.packet(composer.to_guest(ICMP, message.encode()))
    for target in (network.broadcast_address, _EVERYWHERE, icmp.ALL_SYSTEMS, network.network_address):
        for message in (icmp.echo(45, 2), icmp.timestamp(45, 2), icmp.address_mask(45, 2)):
            packet = Ipv4Packet(
                source=composer.address, destination=target, protocol=ICMP, payload=message.encode()
            )
            yield composer.packet(packet, to=BROADCAST)
            yield composer.packet(packet)


def _igmp(composer: Composer) -> Iterator[bytes]:
    for group in (icmp.ALL_SYSTEMS, _MDNS):
        mac = b"\x01\x00\x5e" + group.packed[1:]  # RFC 1112, 6.4
        for version in (1, 2, 3):
            query = icmp.membership_query(version)
            if group != icmp.ALL_SYSTEMS:
                query = replace(query, body=group.packed + query.body[4:])
            packet = Ipv4Packet(
                source=composer.address,
                destination=group,
                protocol=IGMP,
                payload=query.encode(),
                ttl=1,
                options=_OPTIONS["router alert"],
            )
            yield composer.packet(packet, to=mac)
            yield composer.packet(packet)


def _ipv6(composer: Composer) -> Iterator[bytes]:
    mine, its = ipv6.link_local(composer.mac), ipv6.link_local(composer.guest.mac)
    guessed = IPv6Address(_PREFIX.network_address.packed[:8] + its.packed[8:])
    advertisement = ipv6.router_advertisement(_PREFIX, composer.mac, resolver=mine)
    asked = [(ipv6.ALL_NODES, message) for message in (advertisement, ipv6.echo6(46, 0))]
    asked += [(ipv6.ALL_ROUTERS, ipv6.router_solicitation(composer.mac))]
    for address in (its, guessed):
        solicitation = ipv6.neighbour_solicitation(address, composer.mac)
        asked += [(ipv6.solicited_node(address), solicitation), (address, solicitation)]
        asked += [(address, ipv6.echo6(46, 1))]
    for target, message in asked:
        packet = ipv6.Ipv6Packet(
            source=mine,
            destination=target,
            next_header=ipv6.ICMP6,
            payload=message.encode(mine, target),
        ).encode()
        if target.is_multicast:
            yield composer.ethernet(TYPE_IPV6, packet, to=ipv6.multicast_mac(target))
        yield composer.ethernet(TYPE_IPV6, packet)
    query = ipv6.listener_query(mine).encode()
    yield composer.ethernet(TYPE_IPV6, query, to=ipv6.multicast_mac(ipv6.ALL_NODES))
    yield composer.ethernet(TYPE_IPV6, query)


def _link_layer(composer: Composer) -> Iterator[bytes]:
    nearest_bridge, slow = bytes.fromhex("0180c200000e"), bytes.fromhex("0180c2000002")
    lldp = b"\x02\x07\x04" + composer.mac + b"\x04\x07\x03" + composer.mac + b"\x06\x02\x00\x78\x00\x00"
    bpdu = b"\x42\x42\x03" + bytes(32)  # IEEE 802.1D, 9: a configuration message of the root
    yield composer.ethernet(TYPE_LLDP, lldp, to=nearest_bridge)
    yield composer.ethernet(len(bpdu), bpdu, to=bytes.fromhex("0180c2000000"))
    for start in ("01010000", "0100000501010005 01"):  # EAPOL start; a request for the identity
        yield composer.ethernet(TYPE_EAPOL, bytes.fromhex(start), to=bytes.fromhex("0180c2000003"))
        yield composer.ethernet(TYPE_EAPOL, bytes.fromhex(start))
    question = composer.who_has(composer.guest.address.ip).encode()
    echo = composer.to_guest(ICMP, icmp.echo(47, 0).encode()).encode()
    for tag in (0x0001, 0x0064, 0x0FFF):
        yield composer.ethernet(TYPE_ARP, question, to=BROADCAST, tag=tag)
        yield composer.ethernet(TYPE_IPV4, echo, tag=tag)
    others = (0x8808, 0x8809, 0x8863, 0x8864, 0x8847, 0x88A2, 0x88E5, 0x88F7, 0x8906, 0x9000, 0x0842, 0x809B)
    for kind in others:  # pause, LACP, PPPoE, MPLS, AoE, MACsec, PTP, FCoE, loopback, wake-on-LAN, AppleTalk
        yield composer.ethernet(kind, bytes(64))
        yield composer.ethernet(kind, bytes(64), to=slow if kind in (0x8808, 0x8809) else BROADCAST)
    yield composer.ethernet(3, b"\x00\x01\xbf" + bytes(40))  # IEEE 802.2: XID
    yield composer.ethernet(3, b"\x00\x01\xf3" + bytes(40))  # and TEST, which a station echoes


def dhcp_answers(guest: Guest) -> tuple[DhcpMessage, ...]:
    """Return what a lying DHCP server sends unasked: addresses, names, routes, proxies, and nonsense."""
    lies = SERVER_OF_LIES.packed
    plain = DhcpMessage(
        operation=REPLY,
        transaction=0x11223344,
        client_mac=guest.mac,
        your=guest.address.ip + 50,
        server=SERVER_OF_LIES,
        options=(
            (DhcpOption.SERVER, lies),
            (DhcpOption.LEASE_TIME, struct.pack(">I", 60)),
            (DhcpOption.MASK, guest.address.netmask.packed),
            (DhcpOption.ROUTER, lies),
            (DhcpOption.RESOLVER, lies),
            (DhcpOption.NTP_SERVERS, lies),
            (DhcpOption.HOST_NAME, b"renamed"),
            (DhcpOption.ROUTES, b"\x00" + lies),
            (DhcpOption.PROXY, b"http://203.0.113.5/wpad.dat"),
        ),
    )
    kinds = (DhcpType.OFFER, DhcpType.ACK, DhcpType.NAK, DhcpType.FORCE_RENEW, 0, 255)
    answers = [_typed(plain, kind) for kind in kinds]
    answers += [
        _typed(replace(plain, your=address), DhcpType.ACK)
        for address in (_NOWHERE, _EVERYWHERE, _LOOPBACK, icmp.ALL_SYSTEMS, guest.router)
    ]
    odd = ((DhcpOption.MASK, b""), (DhcpOption.ROUTER, b"\1\2\3"), (DhcpOption.ROUTES, b"\xff"))
    answers += [_typed(replace(plain, options=(*plain.options, one)), DhcpType.ACK) for one in odd]
    return tuple(answers)


def _typed(message: DhcpMessage, kind: int) -> DhcpMessage:
    return replace(message, options=((DhcpOption.MESSAGE_TYPE, bytes((kind,))), *message.options))


def _dhcp(composer: Composer, message: DhcpMessage) -> bytes:
    datagram = UdpDatagram(
        source_port=SERVER_PORT, destination_port=CLIENT_PORT, payload=message.encode()
    ).encode(SERVER_OF_LIES, _EVERYWHERE)
    packet = Ipv4Packet(source=SERVER_OF_LIES, destination=_EVERYWHERE, protocol=UDP, payload=datagram)
    return composer.packet(packet, to=BROADCAST)


def move_address(composer: Composer, victim: IPv4Address, mac: bytes) -> tuple[bytes, ...]:
    """Return ARP messages that say unasked where an address is: as question and answer, to all and to one."""
    said = ArpMessage(
        operation=ARP_REPLY, sender_mac=mac, sender=victim, target_mac=composer.guest.mac, target=victim
    )
    asked = replace(said, operation=ARP_REQUEST, target_mac=_NO_MAC)
    to_guest = replace(said, target=composer.guest.address.ip)
    return (composer.arp(asked), composer.arp(said), composer.arp(to_guest, to=composer.guest.mac))


def udp_question(port: int) -> bytes:
    """Return what a service at this UDP port would answer: a question of its protocol, or a few bytes."""
    return _UDP_QUESTIONS.get(port, b"?\r\n\r\n")


def _fuzz_seeds(composer: Composer) -> Iterator[bytes]:
    """Frames whose headers are worth damaging: one of each protocol."""
    yield composer.syn(composer.port, source_port=48_000)
    yield from list(_ip_options(composer))[:6]
    yield from list(_ipv6(composer))[:4]
    yield from (_dhcp(composer, message) for message in dhcp_answers(composer.guest)[:4])
    yield composer.packet(composer.to_guest(ICMP, icmp.echo(48, 0, bytes(32)).encode()))
    yield composer.udp(CLIENT_PORT, bytes(64), source_port=SERVER_PORT)


def fuzz(frames: Sequence[bytes], count: int, *, seed: bytes = FUZZ_SEED) -> tuple[bytes, ...]:
    """Return `count` damaged copies, always the same: bytes behind the Ethernet header changed, some cut."""
    return tuple(_damage(frames[number % len(frames)], _numbers(seed, number)) for number in range(count))


def _damage(frame: bytes, numbers: Iterable[int]) -> bytes:
    draw = iter(numbers)
    header = 14  # the addresses stay, so that the guest takes it
    damaged = bytearray(frame)
    for _ in range(1 + next(draw) % 4):
        position = header + next(draw) % (len(damaged) - header)
        damaged[position] = next(draw) & 0xFF
    if next(draw) % 8 == 0:
        return bytes(damaged[: header + 1 + next(draw) % (len(damaged) - header)])
    return bytes(damaged)


def _numbers(seed: bytes, number: int) -> Iterator[int]:
    for block in range(4):
        digest = hashlib.sha256(seed + struct.pack(">II", number, block)).digest()
        yield from struct.unpack(">16H", digest)
