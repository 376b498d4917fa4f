"""The readers of what a guest sends on its link, for `targets`; a hostile guest chooses every byte."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv6Address

from blindbuild.formats.dhcp import parse_dhcp
from blindbuild.formats.ethernet import parse_mac
from blindbuild.formats.icmp import IcmpMessage, parse_icmp
from blindbuild.formats.ipv6 import Icmp6Message, parse_icmp6
from blindbuild.formats.pcap import Frame
from blindbuild.formats.tcp import parse_tcp_options
from blindbuild.machine.probe.composer import Composer
from blindbuild.machine.probe.frames import Guest, classify_frames
from blindbuild.machine.probe.headers import header_findings, observe_headers
from blindbuild.machine.probe.stimuli import dhcp_answers, make_stimuli
from blindbuild.machine.probe.tls_stream import RecordLog

GUEST = Guest(
    mac=parse_mac("52:54:00:b1:1d:01"),
    address=IPv4Interface("10.0.2.15/24"),
    router=IPv4Address("10.0.2.2"),
    asks_dhcp=True,
)
COMPOSER = Composer(
    guest=GUEST, mac=parse_mac("02:00:00:00:00:4d"), address=IPv4Address("10.0.2.77"), port=443
)


ENDS = IPv6Address("fe80::1"), IPv6Address("ff02::1")


def _judge(data: bytes, *, sender: bytes) -> None:
    frames = [Frame(0, COMPOSER.syn(443, source_port=50_000)), Frame(0, data[:6] + sender + data[12:])]
    classify_frames(frames, guest=GUEST, port=443)
    header_findings(observe_headers(frames, guest=GUEST))


def _frames() -> list[bytes]:
    stimuli = make_stimuli(COMPOSER)
    return [frame for stimulus in stimuli for frame in stimulus.frames[:8]]


def _records() -> list[bytes]:
    return [bytes.fromhex("1603030001ff") + bytes.fromhex("1703030002abcd")]


LINK_TARGETS: tuple[tuple[str, Callable[[bytes], object], Callable[[], list[bytes]]], ...] = (
    ("frame-of-the-guest", partial(_judge, sender=GUEST.mac), _frames),
    ("frame-of-another", partial(_judge, sender=COMPOSER.mac), _frames),
    ("dhcp", parse_dhcp, lambda: [message.encode() for message in dhcp_answers(GUEST)]),
    ("mac", lambda data: parse_mac(data.decode("latin-1")), lambda: [b"52:54:00:b1:1d:01"]),
    ("icmp", parse_icmp, lambda: [IcmpMessage(kind=8, code=0, body=b"\0\1\0\1ping").encode()]),
    (
        "icmp6",
        lambda data: parse_icmp6(data, *ENDS),
        lambda: [Icmp6Message(kind=128, body=b"\0\1\0\1ping").encode(*ENDS)],
    ),
    ("tcp-options", parse_tcp_options, lambda: [bytes.fromhex("020405b40402080a000000010000000001030307")]),
    ("tls-records", lambda data: RecordLog().take(data), _records),
)
