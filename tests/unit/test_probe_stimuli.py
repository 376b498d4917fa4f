"""The frames that a hostile neighbour sends: always the same, well formed where they should be, complete."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address, IPv4Interface

import pytest

from blindbuild.formats.ethernet import parse_mac
from blindbuild.machine.probe.composer import Composer
from blindbuild.machine.probe.frames import Guest
from blindbuild.machine.probe.stimuli import (
    FUZZED_FRAMES,
    UDP_PORTS,
    dhcp_answers,
    fuzz,
    make_stimuli,
    move_address,
    udp_question,
)

scapy = pytest.importorskip("scapy.all", reason="scapy is missing: pip install -r requirements.lock")

GUEST = Guest(
    mac=parse_mac("52:54:00:b1:1d:01"), address=IPv4Interface("10.0.2.15/24"), router=IPv4Address("10.0.2.2")
)
COMPOSER = Composer(
    guest=GUEST, mac=parse_mac("02:00:00:00:00:4d"), address=IPv4Address("10.0.2.77"), port=443
)
STIMULI = {stimulus.name: stimulus.frames for stimulus in make_stimuli(COMPOSER)}
FUZZED = "fuzzed frames"


def read(name: str) -> list[object]:
    """What scapy sees in the frames of a stimulus."""
    return [scapy.Ether(frame) for frame in STIMULI[name]]


def test_the_frames_are_the_same_every_time() -> None:
    assert {stimulus.name: stimulus.frames for stimulus in make_stimuli(COMPOSER)} == STIMULI


def test_every_frame_reaches_the_guest_or_a_group_and_fits_the_link() -> None:
    for frames in STIMULI.values():
        for frame in frames:
            assert frame[:6] == GUEST.mac or frame[0] & 1, frame[:14].hex()
            assert 14 < len(frame) <= 1514 or (frame[12:14] == b"\x81\x00" and len(frame) <= 1518)


def test_every_neighbours_frame_has_its_own_source() -> None:
    assert {frame[6:12] for frames in STIMULI.values() for frame in frames} == {COMPOSER.mac}


def test_scapy_reads_every_flag_of_tcp_on_the_service_and_on_closed_ports() -> None:
    seen = {(str(one[scapy.TCP].flags), one[scapy.TCP].dport) for one in read("odd TCP segments")}
    for flags in ("", "A", "F", "FA", "R", "FPU", "FS", "SA", "SEC", "PA", "FSRPAUEC", "S"):
        for port in (443, 22, 80):
            assert (flags, port) in seen, (flags, port)
    assert sum(one[scapy.TCP].sport == 443 for one in read("odd TCP segments")) >= 2


def test_one_segment_of_each_port_has_a_wrong_checksum_and_no_other() -> None:
    wrong = 0
    for frame in STIMULI["odd TCP segments"]:
        packet = scapy.Ether(frame)[scapy.IP]
        stated = packet[scapy.TCP].chksum
        del packet[scapy.TCP].chksum
        wrong += scapy.IP(bytes(packet))[scapy.TCP].chksum != stated
    assert wrong == 7


def test_scapy_reads_the_icmp_types_and_their_checksums() -> None:
    kinds = Counter(bytes(one[scapy.IP].payload)[0] for one in read("ICMP"))
    assert set(kinds) == set(range(256))
    assert kinds[3] >= 17
    for frame in STIMULI["ICMP"]:
        assert scapy.checksum(frame[34:]) == 0


def test_every_ip_protocol_is_asked_once() -> None:
    assert sorted(one[scapy.IP].proto for one in read("every IP protocol")) == list(range(256))


def test_scapy_reads_the_options_of_ip() -> None:
    names = {type(option).__name__ for one in read("IP options") for option in one[scapy.IP].options}
    assert names >= {"IPOption_LSRR", "IPOption_SSRR", "IPOption_RR", "IPOption_Timestamp"}


def test_scapy_reads_the_neighbour_discovery_of_ipv6() -> None:
    seen = {type(one.lastlayer()).__name__ for one in read("IPv6")}
    text = " ".join(one.summary() for one in read("IPv6"))
    assert "ICMPv6NDOptRDNSS" in seen
    for word in ("ICMPv6ND_RA", "ICMPv6ND_RS", "ICMPv6ND_NS", "Echo Request", "ICMPv6MLQuery"):
        assert word in text, text


def test_scapy_reads_the_dhcp_types() -> None:
    kinds = [
        dict(option for option in one[scapy.DHCP].options if isinstance(option, tuple))["message-type"]
        for one in read("DHCP")
    ]
    assert {2, 5, 6, 9, 0, 255} <= set(kinds)
    assert len(kinds) == len(dhcp_answers(GUEST))


def test_the_link_layer_has_what_switches_and_port_locks_speak() -> None:
    kinds = {one.type for one in read("link layer") if hasattr(one, "type")}
    assert {0x88CC, 0x888E, 0x8100, 0x8863, 0x9000, 0x0842} <= kinds
    assert any(scapy.STP in one or scapy.LLC in one for one in read("link layer"))


def test_fragments_overlap_no_more_than_they_should_and_one_stays_alone() -> None:
    parts: dict[int, list[tuple[int, int]]] = {}
    for one in read("fragments"):
        packet = one[scapy.IP]
        parts.setdefault(packet.id, []).append((packet.frag, int(packet.flags.MF)))
    assert sum(len(found) == 1 for found in parts.values()) == 3
    assert sum(len(found) == 2 for found in parts.values()) == 7


def test_fuzzed_frames_are_damaged_and_reproducible() -> None:
    frames = STIMULI[FUZZED]
    assert len(frames) == FUZZED_FRAMES
    assert len(set(frames)) > FUZZED_FRAMES * 0.95
    seeds = (b"\x01" * 60, b"\x02" * 90)
    assert fuzz(seeds, 50) == fuzz(seeds, 50)
    assert fuzz(seeds, 50) != fuzz(seeds, 50, seed=b"another")
    for number, damaged in enumerate(fuzz(seeds, 50)):
        assert damaged[:14] == seeds[number % 2][:14]
        assert damaged != seeds[number % 2]


def test_poison_says_where_the_router_is_in_three_ways() -> None:
    said = [scapy.Ether(frame)[scapy.ARP] for frame in move_address(COMPOSER, GUEST.router, COMPOSER.mac)]
    assert [(one.op, one.psrc, one.hwsrc) for one in said] == [
        (1, "10.0.2.2", "02:00:00:00:00:4d"),
        (2, "10.0.2.2", "02:00:00:00:00:4d"),
        (2, "10.0.2.2", "02:00:00:00:00:4d"),
    ]


def test_known_udp_services_get_a_question_of_their_protocol() -> None:
    assert scapy.DNS(udp_question(53)).qd[0].qname == b"example."
    assert scapy.NTP(udp_question(123)).mode == 3
    assert scapy.SNMP(udp_question(161)).community.val == b"public"
    assert scapy.NBNSQueryRequest(udp_question(137)[12:]).QUESTION_TYPE == 0x21
    assert udp_question(9999) == b"?\r\n\r\n"
    assert len(set(UDP_PORTS)) == len(UDP_PORTS) > 1024
    assert {53, 67, 68, 123, 161, 514, 1900, 5353} <= set(UDP_PORTS)
