"""The codecs of a link's protocols against scapy, which shares nothing with them, and against damage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats import icmp, ipv6
from blindbuild.formats.dhcp import DhcpMessage, parse_dhcp
from blindbuild.formats.ethernet import ArpMessage, EthernetFrame, parse_arp, parse_ethernet, parse_mac
from blindbuild.formats.ipv4 import Ipv4Packet, internet_checksum, parse_ipv4
from blindbuild.formats.tcp import (
    TcpFlag,
    TcpSegment,
    UdpDatagram,
    parse_tcp,
    parse_tcp_options,
    parse_udp,
)

scapy = pytest.importorskip("scapy.all", reason="scapy is missing: pip install -r requirements.lock")

NOBODY = "0.0.0.0"  # noqa: S104 - no address to listen at
HERE, THERE = IPv4Address("10.0.2.77"), IPv4Address("10.0.2.15")
HERE6, THERE6 = IPv6Address("fe80::ff:fe00:4d"), IPv6Address("fe80::5054:ff:feb1:1d01")
MAC, GUEST_MAC = parse_mac("02:00:00:00:00:4d"), parse_mac("52:54:00:b1:1d:01")
ARP = ArpMessage(operation=1, sender_mac=MAC, sender=HERE, target_mac=bytes(6), target=THERE)
SEGMENT = TcpSegment(
    source_port=40_000,
    destination_port=443,
    flags=TcpFlag.SYN | TcpFlag.ECE,
    sequence=0x01020304,
    acknowledgment=0x0A0B0C0D,
    window=1024,
    options=bytes.fromhex("020405b40402080a0000000100000000 01030307"),
    payload=b"odd",
)
DATAGRAM = UdpDatagram(source_port=67, destination_port=68, payload=b"hello")
PACKET = Ipv4Packet(
    source=HERE,
    destination=THERE,
    protocol=6,
    payload=SEGMENT.encode(HERE, THERE),
    identification=0x1234,
    ttl=63,
    service=0xB9,
    do_not_fragment=True,
    options=bytes.fromhex("94040000"),
)
DHCP = DhcpMessage(
    operation=2,
    transaction=0x11223344,
    client_mac=GUEST_MAC,
    options=((53, b"\x05"), (54, HERE.packed), (1, bytes((255, 255, 255, 0)))),
    your=THERE,
    server=HERE,
    seconds=3,
    flags=0x8000,
)


def the_same(made: object, ours: bytes) -> None:
    """Scapy writes the same bytes from the same fields."""
    assert bytes(made) == ours


def test_scapy_writes_the_same_ethernet_and_arp() -> None:
    made = scapy.Ether(dst="52:54:00:b1:1d:01", src="02:00:00:00:00:4d", type=0x0806) / scapy.ARP(
        op=1, hwsrc="02:00:00:00:00:4d", psrc=str(HERE), hwdst="00:00:00:00:00:00", pdst=str(THERE)
    )
    the_same(
        made, EthernetFrame(destination=GUEST_MAC, source=MAC, kind=0x0806, payload=ARP.encode()).encode()
    )


def test_scapy_writes_the_same_vlan_tag() -> None:
    ends = {"dst": "ff:ff:ff:ff:ff:ff", "src": "02:00:00:00:00:4d"}
    made = scapy.Ether(**ends, type=0x8100) / scapy.Dot1Q(prio=5, vlan=100, type=0x0800) / b"data"
    frame = EthernetFrame(
        destination=bytes.fromhex("ff" * 6), source=MAC, kind=0x0800, payload=b"data", tag=0xA064
    )
    the_same(made, frame.encode())
    assert parse_ethernet(bytes(made)) == frame


def test_scapy_writes_the_same_tcp_over_ipv4_with_its_checksums() -> None:
    made = (
        scapy.IP(
            src=str(HERE),
            dst=str(THERE),
            id=0x1234,
            ttl=63,
            tos=0xB9,
            flags="DF",
            options=[scapy.IPOption_Router_Alert()],
        )
        / scapy.TCP(
            sport=40_000,
            dport=443,
            flags="SE",
            seq=0x01020304,
            ack=0x0A0B0C0D,
            window=1024,
            options=[
                ("MSS", 1460),
                ("SAckOK", b""),
                ("Timestamp", (1, 0)),
                ("NOP", None),
                ("WScale", 7),
            ],
        )
        / b"odd"
    )
    the_same(made, PACKET.encode())


@pytest.mark.parametrize("payload", [b"", b"x", b"hello", bytes(1200)])
def test_scapy_writes_the_same_udp(payload: bytes) -> None:
    made = scapy.IP(src=str(HERE), dst=str(THERE), id=0) / scapy.UDP(sport=67, dport=68) / payload
    datagram = UdpDatagram(source_port=67, destination_port=68, payload=payload)
    packet = Ipv4Packet(source=HERE, destination=THERE, protocol=17, payload=datagram.encode(HERE, THERE))
    the_same(made, packet.encode())


def test_a_udp_checksum_of_zero_is_sent_as_its_other_form() -> None:
    for number in range(1 << 16):
        datagram = UdpDatagram(source_port=1, destination_port=number, payload=b"")
        data = datagram.encode(HERE, THERE)
        assert data[6:8] != b"\0\0"
        if data[6:8] == b"\xff\xff":
            assert parse_udp(data, HERE, THERE) == datagram
            return
    pytest.fail("no datagram had such a sum")


def test_scapy_writes_the_same_fragments() -> None:
    made = scapy.IP(src=str(HERE), dst=str(THERE), id=7, flags="MF", frag=3, proto=1) / bytes(32)
    packet = Ipv4Packet(
        source=HERE,
        destination=THERE,
        protocol=1,
        payload=bytes(32),
        identification=7,
        more_fragments=True,
        fragment_offset=3,
    )
    the_same(made, packet.encode())
    assert parse_ipv4(bytes(made)) == (packet, b"")
    assert packet.is_fragment
    assert not PACKET.is_fragment


@pytest.mark.parametrize(
    ("made", "ours"),
    [
        (lambda: scapy.ICMP(type=8, id=1, seq=2) / b"ping", icmp.echo(1, 2, b"ping")),
        (lambda: scapy.ICMP(type=13, id=1, seq=2, ts_ori=0, ts_rx=0, ts_tx=0), icmp.timestamp(1, 2)),
        (lambda: scapy.ICMP(type=17, id=1, seq=2, addr_mask=NOBODY), icmp.address_mask(1, 2)),
        (lambda: scapy.ICMP(type=15, id=1, seq=2), icmp.information(1, 2)),
        (lambda: scapy.ICMP(type=3, code=3) / PACKET.encode()[:28], icmp.error(3, 3, PACKET.encode())),
        (
            lambda: scapy.ICMP(type=5, code=1, gw=str(HERE)) / PACKET.encode()[:28],
            icmp.error(5, 1, PACKET.encode(), HERE.packed),
        ),
    ],
)
def test_scapy_writes_the_same_icmp(made: Callable[[], object], ours: icmp.IcmpMessage) -> None:
    the_same(made(), ours.encode())
    assert icmp.parse_icmp(ours.encode()) == ours


def test_scapy_writes_the_same_igmp_queries() -> None:
    igmp = pytest.importorskip("scapy.contrib.igmp")
    igmp3 = pytest.importorskip("scapy.contrib.igmpv3")
    the_same(igmp.IGMP(type=0x11, mrcode=0, gaddr=NOBODY), icmp.membership_query(1).encode())
    the_same(igmp.IGMP(type=0x11, mrcode=10, gaddr=NOBODY), icmp.membership_query(2).encode())
    query = igmp3.IGMPv3mq(mrcode=10, gaddr=NOBODY, qrv=2, qqic=125)
    the_same(query, icmp.membership_query(3).encode())


def in_ipv6(message: ipv6.Icmp6Message, target: IPv6Address) -> bytes:
    return ipv6.Ipv6Packet(
        source=HERE6, destination=target, next_header=58, payload=message.encode(HERE6, target)
    ).encode()


def test_scapy_writes_the_same_ipv6_messages() -> None:
    mac = "02:00:00:00:00:4d"
    to_all = scapy.IPv6(src=str(HERE6), dst="ff02::1", hlim=255)
    to_one = scapy.IPv6(src=str(HERE6), dst=str(THERE6), hlim=255)
    the_same(
        to_all / scapy.ICMPv6EchoRequest(id=1, seq=2, data=b"x"),
        in_ipv6(ipv6.echo6(1, 2, b"x"), ipv6.ALL_NODES),
    )
    solicitation = scapy.ICMPv6ND_NS(tgt=str(THERE6)) / scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac)
    the_same(to_one / solicitation, in_ipv6(ipv6.neighbour_solicitation(THERE6, MAC), THERE6))
    routers = scapy.ICMPv6ND_RS() / scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac)
    the_same(to_one / routers, in_ipv6(ipv6.router_solicitation(MAC), THERE6))
    advertisement = (
        scapy.ICMPv6ND_RA(chlim=64, M=1, O=1, prf=0, routerlifetime=1800)
        / scapy.ICMPv6NDOptSrcLLAddr(lladdr=mac)
        / scapy.ICMPv6NDOptMTU(mtu=1500)
        / scapy.ICMPv6NDOptPrefixInfo(
            prefix="2001:db8:77::", prefixlen=64, L=1, A=1, validlifetime=86_400, preferredlifetime=86_400
        )
        / scapy.ICMPv6NDOptRDNSS(dns=[str(HERE6)], lifetime=1800)
    )
    ours = ipv6.router_advertisement(IPv6Network("2001:db8:77::/64"), MAC, resolver=HERE6)
    the_same(to_all / advertisement, in_ipv6(ours, ipv6.ALL_NODES))


def test_scapy_writes_the_same_listener_query() -> None:
    made = (
        scapy.IPv6(src=str(HERE6), dst="ff02::1", hlim=1)
        / scapy.IPv6ExtHdrHopByHop(options=[scapy.RouterAlert(value=0), scapy.PadN(optdata=b"")])
        / scapy.ICMPv6MLQuery(mrd=1000)
    )
    the_same(made, ipv6.listener_query(HERE6).encode())


def test_addresses_are_made_as_scapy_makes_them() -> None:
    assert ipv6.link_local(GUEST_MAC) == THERE6
    assert ipv6.multicast_mac(ipv6.ALL_NODES) == parse_mac(scapy.in6_getnsmac(scapy.inet_pton(10, "ff02::1")))
    group = scapy.inet_ntop(10, scapy.in6_getnsma(THERE6.packed))
    assert ipv6.solicited_node(THERE6) == IPv6Address(group)


def test_scapy_writes_the_same_dhcp() -> None:
    made = scapy.BOOTP(
        op=2,
        xid=0x11223344,
        secs=3,
        flags=0x8000,
        yiaddr=str(THERE),
        siaddr=str(HERE),
        chaddr=GUEST_MAC + bytes(10),
    ) / scapy.DHCP(
        options=[("message-type", "ack"), ("server_id", str(HERE)), ("subnet_mask", "255.255.255.0"), "end"]
    )
    the_same(made, DHCP.encode())
    assert parse_dhcp(bytes(made)) == DHCP
    assert (DHCP.option(54), DHCP.option(12)) == (HERE.packed, None)


def test_the_checksum_is_that_of_the_example_of_rfc_1071() -> None:
    # RFC 1071, 3: the sum of these bytes is ddf2
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


READERS: tuple[tuple[str, bytes, Callable[[bytes], object]], ...] = (
    (
        "ethernet",
        EthernetFrame(destination=MAC, source=GUEST_MAC, kind=0x0800, payload=b"", tag=1).encode(),
        parse_ethernet,
    ),
    ("arp", ARP.encode(), parse_arp),
    ("ipv4", PACKET.encode(), parse_ipv4),
    ("tcp", SEGMENT.encode(HERE, THERE), lambda data: parse_tcp(data, HERE, THERE)),
    ("udp", DATAGRAM.encode(HERE, THERE), lambda data: parse_udp(data, HERE, THERE)),
    ("icmp", icmp.echo(1, 2, b"ping").encode(), icmp.parse_icmp),
    ("ipv6", in_ipv6(ipv6.echo6(1, 2), THERE6), ipv6.parse_ipv6),
    (
        "icmpv6",
        ipv6.echo6(1, 2).encode(HERE6, THERE6),
        lambda data: ipv6.parse_icmp6(data, HERE6, THERE6),
    ),
    ("dhcp", DHCP.encode(), parse_dhcp),
)


@pytest.mark.parametrize(("name", "data", "read"), READERS, ids=[name for name, _, _ in READERS])
def test_a_message_cut_short_at_any_byte_is_refused(
    name: str, data: bytes, read: Callable[[bytes], object]
) -> None:
    read(data)
    for end in range(len(data)):
        with pytest.raises(FormatError, match=f"^{name}: "):
            read(data[:end])


@pytest.mark.parametrize(
    ("name", "data", "read"),
    [reader for reader in READERS if reader[0] in ("tcp", "udp", "icmp", "icmpv6")],
    ids=["tcp", "udp", "icmp", "icmpv6"],
)
def test_one_changed_bit_anywhere_is_refused(name: str, data: bytes, read: Callable[[bytes], object]) -> None:
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        if name == "udp" and bytes(damaged[6:8]) == b"\0\0":
            continue
        with pytest.raises(FormatError, match=f"^{name}: "):
            read(bytes(damaged))


def test_one_changed_bit_of_an_ipv4_header_is_refused() -> None:
    data = PACKET.encode()
    for bit in range(8 * 24):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(FormatError, match=r"^ipv4: "):
            parse_ipv4(bytes(damaged))


def test_the_reserved_flag_of_ipv4_is_refused_with_a_right_checksum() -> None:
    header = bytearray(PACKET.encode()[:24])
    header[6] |= 0x80
    header[10:12] = b"\0\0"
    header[10:12] = internet_checksum(bytes(header)).to_bytes(2, "big")
    with pytest.raises(FormatError, match="reserved flag"):
        parse_ipv4(bytes(header) + PACKET.payload)


def test_reserved_bits_of_tcp_are_refused() -> None:
    data = bytearray(SEGMENT.encode(HERE, THERE))
    data[12] |= 1
    with pytest.raises(FormatError, match="reserved bits"):
        parse_tcp(bytes(data), HERE, THERE)


def test_what_follows_a_packet_is_given_back() -> None:
    assert parse_ipv4(PACKET.encode() + b"tail")[1] == b"tail"
    assert parse_arp(ARP.encode() + bytes(18)) == (ARP, bytes(18))
    assert ipv6.parse_ipv6(in_ipv6(ipv6.echo6(1, 2), THERE6) + b"tail")[1] == b"tail"


@pytest.mark.parametrize("options", [b"\1", b"\1" * 44])
def test_options_that_do_not_fit_are_not_written(options: bytes) -> None:
    with pytest.raises(FormatError, match="whole words"):
        replace(PACKET, options=options).encode()
    with pytest.raises(FormatError, match="whole words"):
        replace(SEGMENT, options=options).encode(HERE, THERE)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (b"\x02", "option 2 is cut short"),
        (b"\x02\x04\x05", "option 2 is cut short"),
        (b"\x08\x01\x00\x00", "option 8 is cut short"),
        (b"\x00\x01\x00\x00", "follows the end"),
    ],
)
def test_malformed_tcp_options_are_refused(options: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_tcp_options(options)


def test_tcp_options_are_read_without_what_fills() -> None:
    assert parse_tcp_options(SEGMENT.options) == (
        (2, bytes.fromhex("05b4")),
        (4, b""),
        (8, bytes.fromhex("0000000100000000")),
        (3, b"\x07"),
    )
    assert parse_tcp_options(b"\x01\x00\x00\x00") == ()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (bytes(12) + b"\x81\x00\x00\x01\x81\x00", "got two"),
        (bytes(12) + b"\x05\xff" + bytes(2000), "a type or a length"),
        (bytes(12) + b"\x00\x05abcd", "expected 5 bytes"),
    ],
)
def test_frames_that_are_no_ethernet_are_refused(frame: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_ethernet(frame)


@pytest.mark.parametrize(
    "text", ["", "52:54:00:b1:1d", "52:54:00:b1:1d:0g", "52:54:00:b1:1d:1", "5254:00:b1:1d:01"]
)
def test_texts_that_are_no_ethernet_address_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="expected an Ethernet address"):
        parse_mac(text)


def test_an_arp_message_for_other_addresses_is_refused() -> None:
    with pytest.raises(FormatError, match="addresses of Ethernet and IPv4"):
        parse_arp(b"\x00\x06" + ARP.encode()[2:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda data: b"\x02\x06" + data[2:], "for Ethernet"),
        (lambda data: data[:40] + b"\1" + data[41:], "fields for names"),
        (lambda data: data[:60] + b"\1" + data[61:], "fields for names"),
        (lambda data: data[:236] + b"\1" + data[237:], "for Ethernet with options"),
        (lambda data: data + b"\1", "follows the end"),
        (lambda data: data[:-1] + b"\x0c\x09ab", "option 12 is cut short"),
    ],
)
def test_malformed_dhcp_is_refused(change: Callable[[bytes], bytes], reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_dhcp(change(DHCP.encode()))


def test_dhcp_may_be_padded_with_zeros() -> None:
    assert parse_dhcp(DHCP.encode() + bytes(60)) == DHCP
