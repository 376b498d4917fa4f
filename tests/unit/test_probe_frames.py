"""What a guest may send on its link, and that each frame it may not send is found and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

import pytest

from blindbuild.formats import icmp, ipv6
from blindbuild.formats.dhcp import DhcpMessage
from blindbuild.formats.ethernet import ArpMessage, EthernetFrame, parse_mac
from blindbuild.formats.ipv4 import Ipv4Packet
from blindbuild.formats.pcap import Frame
from blindbuild.formats.tcp import TcpFlag, TcpSegment, UdpDatagram
from blindbuild.machine.probe.frames import (
    MAX_FINDINGS,
    FrameKind,
    Guest,
    Unexpected,
    classify_frames,
    in_words,
    judge_frames,
)
from blindbuild.machine.probe.headers import header_findings, observe_headers

MAC, PEER = parse_mac("52:54:00:b1:1d:01"), parse_mac("02:00:00:00:00:4d")
GUEST = Guest(mac=MAC, address=IPv4Interface("10.0.2.15/24"), router=IPv4Address("10.0.2.2"))
HERE, THERE = GUEST.address.ip, IPv4Address("10.0.2.77")
BROADCAST = bytes.fromhex("ff" * 6)
S, A, F, R, P = TcpFlag.SYN, TcpFlag.ACK, TcpFlag.FIN, TcpFlag.RST, TcpFlag.PSH


def ethernet(kind: int, payload: bytes, *, out: bool = True, to: bytes | None = None) -> Frame:
    ends = (PEER, MAC) if out else (MAC, PEER)
    return Frame(
        0,
        EthernetFrame(destination=to or ends[0], source=ends[1], kind=kind, payload=payload).encode(),
    )


def ip(packet: Ipv4Packet, *, out: bool = True, behind: bytes = b"") -> Frame:
    return ethernet(0x0800, packet.encode() + behind, out=out)


def packet(protocol: int, payload: bytes, *, out: bool = True) -> Ipv4Packet:
    source, destination = (HERE, THERE) if out else (THERE, HERE)
    return Ipv4Packet(source=source, destination=destination, protocol=protocol, payload=payload)


def segment(
    flags: TcpFlag, *, out: bool = True, ack: int = 0, sequence: int = 0, **more: object
) -> TcpSegment:
    fields: dict[str, object] = {
        "source_port": 443 if out else 50_000,
        "destination_port": 50_000 if out else 443,
        "flags": flags,
        "sequence": sequence,
        "acknowledgment": ack,
    }
    return TcpSegment(**(fields | more))


def tcp(
    flags: TcpFlag, *, out: bool = True, options: bytes = b"", behind: bytes = b"", **more: object
) -> Frame:
    made = segment(flags, out=out, **more)
    ends = (HERE, THERE) if out else (THERE, HERE)
    whole = replace(packet(6, made.encode(*ends), out=out), options=options)
    return ip(whole, out=out, behind=behind)


def arp(operation: int, target: IPv4Address, *, out: bool = True, **more: object) -> Frame:
    fields: dict[str, object] = {
        "operation": operation,
        "sender_mac": MAC if out else PEER,
        "sender": HERE if out else THERE,
        "target_mac": PEER if operation == 2 else bytes(6),
        "target": target,
    }
    return ethernet(0x0806, ArpMessage(**(fields | more)).encode(), out=out)


SYN = tcp(S, out=False, sequence=100)
SYN_ACK = tcp(S | A, sequence=700, ack=101)
ACK = tcp(A, out=False, sequence=101, ack=701)
HANDSHAKE = (SYN, SYN_ACK, ACK)
DATA = tcp(P | A, sequence=701, ack=101, payload=b"an answer")


def findings(*frames: Frame, guest: Guest = GUEST) -> tuple[str, ...]:
    return classify_frames(frames, guest=guest, port=443)


def test_a_conversation_with_the_service_is_as_it_must_be() -> None:
    frames = (
        arp(1, HERE, out=False),
        arp(2, THERE),
        arp(1, THERE),
        arp(1, GUEST.router),
        *HANDSHAKE,
        tcp(P | A, out=False, sequence=101, ack=701, payload=b"a question"),
        DATA,
        tcp(F | A, sequence=710, ack=111),
        tcp(R, sequence=711),
    )
    assert findings(*frames) == ()


def test_what_others_send_is_not_judged() -> None:
    others = (ip(packet(1, icmp.echo(1, 2).encode(), out=False), out=False), Frame(0, bytes(20)))
    assert findings(*others) == ()


def udp(port: int = 123, payload: bytes = b"time?", source_port: int = 40_000) -> Frame:
    datagram = UdpDatagram(source_port=source_port, destination_port=port, payload=payload)
    return ip(packet(17, datagram.encode(HERE, THERE)))


def icmp_frame(kind: int, code: int = 0) -> Frame:
    return ip(packet(1, icmp.IcmpMessage(kind=kind, code=code, body=bytes(8)).encode()))


def ipv6_frame() -> Frame:
    mine, group = ipv6.link_local(MAC), IPv6Address("ff02::2")
    message = ipv6.router_solicitation(MAC).encode(mine, group)
    whole = ipv6.Ipv6Packet(source=mine, destination=group, next_header=58, payload=message)
    return ethernet(0x86DD, whole.encode())


FORBIDDEN: tuple[tuple[str, tuple[Frame, ...], FrameKind, str], ...] = (
    ("ping", (icmp_frame(0),), FrameKind.ICMP, "ICMP type 0 code 0 to 10.0.2.77"),
    ("timestamp", (icmp_frame(14),), FrameKind.ICMP, "ICMP type 14 code 0 to 10.0.2.77"),
    ("unreachable", (icmp_frame(3, 3),), FrameKind.UNREACHABLE, "ICMP type 3 code 3 to 10.0.2.77"),
    ("time exceeded", (icmp_frame(11, 1),), FrameKind.UNREACHABLE, "ICMP type 11 code 1"),
    ("igmp", (ip(packet(2, bytes.fromhex("16000000e00000fb"))),), FrameKind.IGMP, "IGMP type 16"),
    ("ipv6", (ipv6_frame(),), FrameKind.IPV6, "IPv6 to ff02::2, next header 58, first byte 133"),
    ("ntp", (udp(),), FrameKind.UDP, "UDP to 10.0.2.77 port 123"),
    ("dns", (udp(53),), FrameKind.UDP, "UDP to 10.0.2.77 port 53"),
    ("dhcp", (udp(67, source_port=68),), FrameKind.DHCP, "DHCP to 10.0.2.77 port 67"),
    ("another protocol", (ip(packet(132, bytes(16))),), FrameKind.OTHER, "IP protocol 132 to 10.0.2.77"),
    ("lldp", (ethernet(0x88CC, bytes(20)),), FrameKind.OTHER, "a frame of type 0x88cc"),
    ("llc", (ethernet(3, b"\x42\x42\x03" + bytes(40)),), FrameKind.OTHER, "a frame of type 0x0003"),
    (
        "vlan",
        (Frame(0, EthernetFrame(destination=PEER, source=MAC, kind=0x0800, payload=b"", tag=7).encode()),),
        FrameKind.OTHER,
        "a frame with VLAN tag 0x0007",
    ),
    ("cut short", (Frame(0, PEER + MAC + b"\x08"),), FrameKind.OTHER, "a malformed frame: ethernet: "),
    ("bad packet", (ethernet(0x0800, bytes(40)),), FrameKind.OTHER, "a malformed frame: ipv4: "),
    ("bad arp", (ethernet(0x0806, bytes(10)),), FrameKind.OTHER, "a malformed frame: arp: "),
    (
        "bad checksum",
        (SYN, Frame(0, SYN_ACK.data[:-1] + b"\xff")),
        FrameKind.OTHER,
        "a malformed frame: tcp: the checksum is wrong",
    ),
    ("reset elsewhere", (tcp(R | A, source_port=22),), FrameKind.TCP_RESET, "from a port that is not served"),
    ("other port", (SYN, tcp(S | A, source_port=22)), FrameKind.TCP, "TCP SYN, ACK from a port that is not"),
    ("unasked", (tcp(S | A),), FrameKind.TCP, "TCP SYN, ACK to 10.0.2.77, which never connected"),
    ("unasked reset", (tcp(R),), FrameKind.TCP, "TCP RST to 10.0.2.77, which never connected"),
    ("opens itself", (SYN, tcp(S)), FrameKind.TCP, "TCP SYN: the guest opens a connection to 10.0.2.77"),
    ("no syn", (ACK, SYN_ACK), FrameKind.TCP, "TCP SYN, ACK without a SYN before it"),
    ("data at once", (SYN, tcp(S | A, payload=b"x")), FrameKind.TCP, "with data before the handshake"),
    ("data too early", (SYN, SYN_ACK, DATA), FrameKind.TCP, "TCP PSH, ACK with data before the handshake"),
    (
        "data after a wrong ack",
        (SYN, SYN_ACK, tcp(A, out=False, ack=700), DATA),
        FrameKind.TCP,
        "with data before the handshake",
    ),
    (
        "data after a new syn",
        (*HANDSHAKE, tcp(R, out=False), SYN, DATA),
        FrameKind.TCP,
        "with data before the handshake",
    ),
    ("reset with data", (*HANDSHAKE, tcp(R, payload=b"x")), FrameKind.TCP, "a TCP reset with data"),
    (
        "options",
        (*HANDSHAKE, tcp(A, options=bytes.fromhex("94040000"))),
        FrameKind.TCP,
        "TCP with IP options that nobody sent",
    ),
    (
        "fragment",
        (*HANDSHAKE, ip(replace(packet(6, bytes(24)), more_fragments=True))),
        FrameKind.OTHER,
        "a fragment to 10.0.2.77 of protocol 6",
    ),
    ("tail", (SYN, tcp(S | A, behind=b"leak")), FrameKind.OTHER, "with 4 bytes behind it"),
    (
        "forged source",
        (SYN, ip(replace(packet(6, bytes(20)), source=THERE))),
        FrameKind.OTHER,
        "a packet from 10.0.2.77 to 10.0.2.77",
    ),
    ("arp probe", (arp(1, IPv4Address("10.0.2.99")),), FrameKind.ARP, "ARP operation 1 from 10.0.2.15 about"),
    ("gratuitous", (arp(1, HERE),), FrameKind.ARP, "ARP operation 1 from 10.0.2.15 about 10.0.2.15"),
    ("announcement", (arp(2, HERE),), FrameKind.ARP, "ARP operation 2 from 10.0.2.15 about 10.0.2.15"),
    (
        "its own address defended",
        (arp(2, HERE, out=False, sender=HERE), arp(2, HERE)),
        FrameKind.ARP,
        "ARP operation 2 from 10.0.2.15 about 10.0.2.15",
    ),
    ("unasked answer", (arp(2, THERE),), FrameKind.ARP, "ARP operation 2 from 10.0.2.15 about 10.0.2.77"),
    (
        "for another",
        (arp(1, HERE, out=False), arp(2, THERE, sender=IPv4Address("10.0.2.1"))),
        FrameKind.ARP,
        "ARP operation 2 from 10.0.2.1",
    ),
    (
        "other address inside",
        (arp(1, HERE, out=False), arp(2, THERE, sender_mac=PEER)),
        FrameKind.ARP,
        "ARP operation 2",
    ),
    (
        "something in a question",
        (arp(1, HERE, out=False), arp(1, THERE, target_mac=b"secret")),
        FrameKind.ARP,
        "ARP operation 1",
    ),
    (
        "arp tail",
        (arp(1, HERE, out=False), Frame(0, arp(2, THERE).data + b"leak")),
        FrameKind.ARP,
        "with 4 bytes behind it",
    ),
)


@pytest.mark.parametrize(
    ("frames", "kind", "words"), [row[1:] for row in FORBIDDEN], ids=[row[0] for row in FORBIDDEN]
)
def test_a_frame_that_should_not_be_there_is_named(
    frames: tuple[Frame, ...], kind: FrameKind, words: str
) -> None:
    (found,) = judge_frames(frames, guest=GUEST, port=443)
    assert found.kind is kind
    assert words in found.words


def test_every_kind_of_frame_has_an_example_that_is_found() -> None:
    assert {row[2] for row in FORBIDDEN} == set(FrameKind)


def test_zeros_that_pad_a_frame_are_no_finding() -> None:
    assert findings(SYN, Frame(0, SYN_ACK.data + bytes(6))) == ()


def test_the_service_may_answer_what_came_in_fragments() -> None:
    whole = packet(6, segment(S, out=False, sequence=100, payload=bytes(8)).encode(THERE, HERE), out=False)
    head = replace(whole, payload=whole.payload[:8], more_fragments=True)
    tail = replace(whole, payload=whole.payload[8:], fragment_offset=1)
    assert findings(ip(head, out=False), ip(tail, out=False), SYN_ACK) == ()
    assert len(findings(ip(tail, out=False), SYN_ACK)) == 1


def test_ip_options_are_sent_back_to_who_sent_some() -> None:
    options = bytes.fromhex("94040000")
    asked = tcp(S, out=False, sequence=100, options=options)
    assert findings(asked, tcp(S | A, sequence=700, ack=101, options=options)) == ()


def test_a_question_to_another_port_opens_nothing() -> None:
    other = tcp(S, out=False, sequence=100, destination_port=80)
    assert findings(other, SYN_ACK) == (
        "TCP SYN, ACK to 10.0.2.77, which never connected (1 frame, lowest source port 443)",
    )


def test_a_retransmitted_syn_does_not_end_a_handshake() -> None:
    assert findings(*HANDSHAKE, SYN, DATA) == ()


def dhcp(change: Callable[[DhcpMessage], DhcpMessage] = lambda message: message) -> Frame:
    message = DhcpMessage(
        operation=1,
        transaction=7,
        client_mac=MAC,
        flags=0x8000,
        options=((53, b"\x01"), (55, b"\x01\x03")),
    )
    nowhere, everywhere = IPv4Address(0), IPv4Address("255.255.255.255")
    datagram = UdpDatagram(source_port=68, destination_port=67, payload=change(message).encode())
    made = Ipv4Packet(
        source=nowhere, destination=everywhere, protocol=17, payload=datagram.encode(nowhere, everywhere)
    )
    return ethernet(0x0800, made.encode(), to=BROADCAST)


def test_a_guest_that_asks_for_its_address_may_do_so_and_say_nothing_else() -> None:
    asking = replace(GUEST, asks_dhcp=True)
    assert findings(dhcp(), guest=asking) == ()
    assert findings(dhcp()) == ("DHCP to 255.255.255.255 port 67 (1 frame)",)
    for change, words in (
        (lambda message: replace(message, options=(*message.options, (12, b"name"))), "with options 12"),
        (lambda message: replace(message, options=(*message.options, (61, b"\x01"))), "with options 61"),
        (lambda message: replace(message, client_mac=PEER), "another Ethernet address"),
        (lambda message: replace(message, options=((53, b"\x07"),)), "neither discovers nor requests"),
    ):
        (finding,) = findings(dhcp(change), guest=asking)
        assert words in finding


def test_many_frames_of_a_kind_are_one_line_with_the_lowest_port() -> None:
    resets = [tcp(R, source_port=port) for port in (8080, 22, 25)]
    assert findings(*resets, icmp_frame(0)) == (
        "ICMP type 0 code 0 to 10.0.2.77 (1 frame)",
        "a TCP reset from a port that is not served to 10.0.2.77 (3 frames, lowest source port 22)",
    )


def test_a_guest_that_says_everything_cannot_fill_memory_with_findings() -> None:
    many = [Unexpected(FrameKind.OTHER, f"kind {number:04d}") for number in range(MAX_FINDINGS + 5)]
    lines = in_words(many)
    assert len(lines) == MAX_FINDINGS + 1
    assert lines[-1] == "and 5 other kinds of frames"


def test_frames_before_the_start_are_read_but_not_reported() -> None:
    frames = (icmp_frame(0), *HANDSHAKE, DATA)
    assert judge_frames(frames, guest=GUEST, port=443, start=2) == ()


def test_headers_of_a_plain_conversation_carry_nothing() -> None:
    report = observe_headers((*HANDSHAKE, DATA), guest=GUEST)
    assert header_findings(report) == ()
    assert (report.packets, report.ttls, report.services) == (2, {64}, {0})


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (
            (SYN_ACK, ip(replace(packet(6, segment(A).encode(HERE, THERE)), ttl=63))),
            "time to live varies: 63, 64",
        ),
        (
            (SYN_ACK, ip(replace(packet(6, segment(A).encode(HERE, THERE)), service=4))),
            "service byte varies: 0, 4",
        ),
        ((tcp(A, urgent=7),), "1 segments with an urgent pointer"),
    ],
)
def test_a_header_that_varies_is_named(frames: tuple[Frame, ...], words: str) -> None:
    (found,) = header_findings(observe_headers(frames, guest=GUEST))
    assert words in found


def test_an_unknown_tcp_option_is_named() -> None:
    made = segment(S | A, options=bytes.fromhex("2204abcd"))
    found = header_findings(observe_headers([ip(packet(6, made.encode(HERE, THERE)))], guest=GUEST))
    assert found == ("TCP options of kind 34",)
    broken = segment(S | A, options=bytes.fromhex("22ffabcd"))
    found = header_findings(observe_headers([ip(packet(6, broken.encode(HERE, THERE)))], guest=GUEST))
    assert found == ("TCP options of kind -1",)


def test_clocks_and_numbers_in_headers_are_counted() -> None:
    options = bytes.fromhex("0101080a0000000100000000")
    frames = [
        ip(replace(packet(6, segment(A, options=options).encode(HERE, THERE)), identification=number))
        for number in (0, 7, 8)
    ]
    report = observe_headers(frames, guest=GUEST)
    assert (report.timestamps, report.identifications, report.ip_options) == (3, 2, 0)


def test_without_any_packet_nothing_is_known_of_headers() -> None:
    (found,) = header_findings(observe_headers([arp(2, THERE)], guest=GUEST))
    assert "nothing is known" in found
