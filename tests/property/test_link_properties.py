"""Link protocols of any fields: what is written reads back, and nothing but our error comes of any bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from hypothesis import given
from hypothesis import strategies as st

from blindbuild.errors import FormatError
from blindbuild.formats.dhcp import DhcpMessage, parse_dhcp
from blindbuild.formats.ethernet import ArpMessage, EthernetFrame, parse_arp, parse_ethernet
from blindbuild.formats.icmp import IcmpMessage, parse_icmp
from blindbuild.formats.ipv4 import Ipv4Packet, internet_checksum, parse_ipv4
from blindbuild.formats.ipv6 import Icmp6Message, Ipv6Packet, parse_icmp6, parse_ipv6
from blindbuild.formats.tcp import (
    TcpFlag,
    TcpSegment,
    UdpDatagram,
    parse_tcp,
    parse_tcp_options,
    parse_udp,
)

BYTE, WORD, LONG = st.integers(0, 255), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
MAC = st.binary(min_size=6, max_size=6)
ADDRESS = LONG.map(IPv4Address)
ADDRESS6 = st.binary(min_size=16, max_size=16).map(IPv6Address)
DATA = st.binary(max_size=80)
OPTIONS = st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words))
KIND = st.integers(0x0600, 0xFFFF).filter(lambda kind: kind != 0x8100)
FRAMES = st.builds(EthernetFrame, destination=MAC, source=MAC, kind=KIND, payload=DATA, tag=st.none() | WORD)
ARPS = st.builds(ArpMessage, operation=WORD, sender_mac=MAC, sender=ADDRESS, target_mac=MAC, target=ADDRESS)
PACKETS = st.builds(
    Ipv4Packet,
    source=ADDRESS,
    destination=ADDRESS,
    protocol=BYTE,
    payload=DATA,
    identification=WORD,
    ttl=BYTE,
    service=BYTE,
    do_not_fragment=st.booleans(),
    more_fragments=st.booleans(),
    fragment_offset=st.integers(0, 0x1FFF),
    options=OPTIONS,
)
SEGMENTS = st.builds(
    TcpSegment,
    source_port=WORD,
    destination_port=WORD,
    flags=BYTE.map(TcpFlag),
    sequence=LONG,
    acknowledgment=LONG,
    window=WORD,
    urgent=WORD,
    options=OPTIONS,
    payload=DATA,
)
DATAGRAMS = st.builds(UdpDatagram, source_port=WORD, destination_port=WORD, payload=DATA)
DHCPS = st.builds(
    DhcpMessage,
    operation=BYTE,
    transaction=LONG,
    client_mac=MAC,
    options=st.lists(st.tuples(st.integers(1, 254), DATA), max_size=6).map(tuple),
    client=ADDRESS,
    your=ADDRESS,
    server=ADDRESS,
    relay=ADDRESS,
    hops=BYTE,
    seconds=WORD,
    flags=WORD,
)
END, END6 = IPv4Address("10.0.2.15"), IPv6Address("fe80::1")
READERS: tuple[Callable[[bytes], object], ...] = (
    parse_ethernet,
    parse_arp,
    parse_ipv4,
    lambda data: parse_tcp(data, END, END),
    lambda data: parse_udp(data, END, END),
    parse_icmp,
    parse_ipv6,
    lambda data: parse_icmp6(data, END6, END6),
    parse_dhcp,
    parse_tcp_options,
)


@given(FRAMES)
def test_frames_read_back(frame: EthernetFrame) -> None:
    assert parse_ethernet(frame.encode()) == frame


@given(ARPS, DATA)
def test_arp_messages_read_back(message: ArpMessage, padding: bytes) -> None:
    assert parse_arp(message.encode() + padding) == (message, padding)


@given(PACKETS, DATA)
def test_ipv4_packets_read_back(packet: Ipv4Packet, padding: bytes) -> None:
    assert parse_ipv4(packet.encode() + padding) == (packet, padding)


@given(SEGMENTS, ADDRESS, ADDRESS)
def test_tcp_segments_read_back(segment: TcpSegment, source: IPv4Address, target: IPv4Address) -> None:
    assert parse_tcp(segment.encode(source, target), source, target) == segment


@given(DATAGRAMS, ADDRESS, ADDRESS)
def test_udp_datagrams_read_back(datagram: UdpDatagram, source: IPv4Address, target: IPv4Address) -> None:
    assert parse_udp(datagram.encode(source, target), source, target) == datagram


@given(st.builds(IcmpMessage, kind=BYTE, code=BYTE, body=st.binary(min_size=4, max_size=60)))
def test_icmp_messages_read_back(message: IcmpMessage) -> None:
    assert parse_icmp(message.encode()) == message


@given(st.builds(Icmp6Message, kind=BYTE, code=BYTE, body=DATA), ADDRESS6, ADDRESS6)
def test_icmpv6_messages_read_back(message: Icmp6Message, source: IPv6Address, target: IPv6Address) -> None:
    assert parse_icmp6(message.encode(source, target), source, target) == message


@given(
    st.builds(
        Ipv6Packet,
        source=ADDRESS6,
        destination=ADDRESS6,
        next_header=BYTE,
        payload=DATA,
        hop_limit=BYTE,
        traffic_class=BYTE,
        flow_label=st.integers(0, 0xFFFFF),
    )
)
def test_ipv6_packets_read_back(packet: Ipv6Packet) -> None:
    assert parse_ipv6(packet.encode() + b"tail") == (packet, b"tail")


@given(DHCPS)
def test_dhcp_messages_read_back(message: DhcpMessage) -> None:
    assert parse_dhcp(message.encode()) == message


@given(st.sampled_from(READERS), st.binary(max_size=300))
def test_any_bytes_give_a_value_or_our_error(read: Callable[[bytes], object], data: bytes) -> None:
    with contextlib.suppress(FormatError):
        read(data)


@given(st.binary(max_size=99))
def test_the_checksum_is_the_sum_of_the_words_one_by_one(data: bytes) -> None:
    total = 0
    for position in range(0, len(data), 2):
        total += int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    assert internet_checksum(data) == 0xFFFF - total
