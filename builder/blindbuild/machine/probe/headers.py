"""What the headers of a guest's frames could carry: every field that need not be what it is.

Source: RFC 791, 3.1; RFC 9293, 3.1; RFC 7323 (timestamps); RFC 7413 (fast open).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blindbuild.errors import FormatError
from blindbuild.formats.ethernet import TYPE_IPV4, parse_ethernet
from blindbuild.formats.ipv4 import TCP, Ipv4Packet, parse_ipv4
from blindbuild.formats.pcap import Frame
from blindbuild.formats.tcp import OPTION_TIMESTAMPS, TcpSegment, parse_tcp, parse_tcp_options
from blindbuild.machine.probe.frames import Guest

# RFC 9293 and RFC 7323, RFC 2018: segment size, window scale, SACK permitted, SACK, timestamps
EXPECTED_OPTIONS = frozenset({2, 3, 4, 5, OPTION_TIMESTAMPS})


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderReport:
    """The values that were seen in the guest's IPv4 and TCP headers.

    Attributes:
        packets: how many were looked at.
        ttls: values of the time to live.
        services: values of the byte with DSCP and ECN.
        identifications: how many different ones besides zero.
        ip_options: packets with options; one that nobody asked for is judged with the frames.
        tcp_options: kinds of options of segments.
        urgent: segments with an urgent pointer.
        timestamps: segments with the clock of the guest's kernel, which starts at a secret value for each
            pair of addresses, but shows how fast it goes.
    """

    packets: int
    ttls: frozenset[int]
    services: frozenset[int]
    identifications: int
    ip_options: int
    tcp_options: frozenset[int]
    urgent: int
    timestamps: int


def observe_headers(frames: Iterable[Frame], *, guest: Guest) -> HeaderReport:
    """Return what the guest's IPv4 packets have in their headers; what cannot be read is judged elsewhere."""
    packets = [packet for frame in frames if (packet := _packet_of(frame, guest)) is not None]
    segments = [segment for packet in packets if (segment := _segment_of(packet)) is not None]
    kinds = [kind for segment in segments for kind in _option_kinds(segment)]
    return HeaderReport(
        packets=len(packets),
        ttls=frozenset(packet.ttl for packet in packets),
        services=frozenset(packet.service for packet in packets),
        identifications=len({packet.identification for packet in packets} - {0}),
        ip_options=sum(bool(packet.options) for packet in packets),
        tcp_options=frozenset(kinds),
        urgent=sum(bool(segment.urgent) for segment in segments),
        timestamps=kinds.count(OPTION_TIMESTAMPS),
    )


def header_findings(report: HeaderReport) -> tuple[str, ...]:
    """Return in words what carries something that an answer does not need."""
    unknown = sorted(report.tcp_options - EXPECTED_OPTIONS)
    checks = (
        (report.packets == 0, "no packet of the guest was seen, so nothing is known of its headers"),
        (len(report.ttls) > 1, f"the time to live varies: {_listed(report.ttls)}"),
        (len(report.services) > 1, f"the service byte varies: {_listed(report.services)}"),
        (bool(unknown), f"TCP options of kind {_listed(unknown)}"),
        (report.urgent > 0, f"{report.urgent} segments with an urgent pointer"),
    )
    return tuple(words for found, words in checks if found)


def _packet_of(frame: Frame, guest: Guest) -> Ipv4Packet | None:
    if frame.source != guest.mac:
        return None
    try:
        ethernet = parse_ethernet(frame.data)
        return parse_ipv4(ethernet.payload)[0] if ethernet.kind == TYPE_IPV4 else None
    except FormatError:
        return None


def _segment_of(packet: Ipv4Packet) -> TcpSegment | None:
    if packet.protocol != TCP or packet.is_fragment:
        return None
    try:
        return parse_tcp(packet.payload, packet.source, packet.destination)
    except FormatError:
        return None


def _option_kinds(segment: TcpSegment) -> tuple[int, ...]:
    try:
        return tuple(kind for kind, _ in parse_tcp_options(segment.options))
    except FormatError:
        return (-1,)  # no kind that anybody expects


def _listed(values: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(values)))
