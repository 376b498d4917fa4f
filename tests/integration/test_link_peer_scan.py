"""The neighbour's scan over a datagram link: a silent guest passes, each habit of a talkative one shows."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path

import pytest

from blindbuild.errors import MachineError
from blindbuild.formats.ethernet import parse_mac
from blindbuild.machine.probe import link, peer
from blindbuild.machine.probe.frames import Guest, classify_frames
from blindbuild.machine.probe.link import PEER_MAC, own_address
from blindbuild.machine.probe.peer import LinkPeer, PeerReport, peer_findings
from tests.fakes.link_guest import Habits, LinkGuest

GUEST = Guest(
    mac=parse_mac("52:54:00:b1:1d:01"), address=IPv4Interface("10.0.2.15/24"), router=IPv4Address("10.0.2.2")
)
FEW = range(1, 600)  # a guest in Python is slow; the boot test asks every port


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "PORTS", FEW)
    monkeypatch.setattr(peer, "SETTLE_S", 0.0)
    monkeypatch.setattr(peer, "ANSWER_S", 2.0)
    monkeypatch.setattr(link, "BARRIER_S", 1.5)


@contextlib.contextmanager
def neighbours(directory: Path, habits: Habits) -> Iterator[LinkPeer]:
    with LinkPeer(directory) as one:
        with LinkGuest(GUEST, directory / "guest", one.socket_path, habits, router_mac=link.ROUTER_MAC):
            one.connect(directory / "guest", guest=GUEST)
            yield one


def scan(directory: Path, habits: Habits) -> PeerReport:
    with neighbours(directory, habits) as one:
        return one.scan(GUEST)


def test_a_silent_guest_shows_its_service_and_nothing_else(tmp_path: Path) -> None:
    with neighbours(tmp_path, Habits()) as one:
        report = one.scan(GUEST)
        frames = tuple(frame for _, frame in one.frames())
    assert peer_findings(report, port=443) == ()
    assert report.tcp_open == {443}
    assert (report.scanned_tcp, report.scanned_udp) == (len(FEW), len(peer.UDP_PORTS))
    assert report.serves_at_end
    assert report.arp_poisoned is True
    assert report.arp_answers > 10
    assert sum(number for _, number in report.asked) > 1000
    assert classify_frames(frames, guest=GUEST, port=443) == ()
    times = [moment for moment, _ in one.frames()]
    assert times == sorted(times)


@pytest.mark.parametrize(
    ("habits", "show", "words"),
    [
        (Habits(open_ports=frozenset({22})), lambda report: report.tcp_open == {22, 443}, "1 more TCP ports"),
        (Habits(resets=True), lambda report: len(report.tcp_reset) > 500, "a TCP reset from a port that is"),
        (Habits(udp=frozenset({53})), lambda report: report.udp_answered == {53}, "UDP to 10.0.2.77 port"),
        (Habits(unreachables=True), lambda report: report.unreachables > 500, "ICMP type 3 code 3"),
        (Habits(pings=True), lambda report: report.icmp_answers > 0, "ICMP type 0 code 0"),
        (Habits(igmp=True), lambda report: report.igmp_frames > 0, "IGMP type 16"),
        (Habits(ipv6=True), lambda report: report.ipv6_frames > 0, "IPv6 to ff02::2"),
        (Habits(renews=True), lambda report: report.dhcp_frames > 0, "DHCP to 203.0.113.5 port 67"),
        (Habits(arp_for_all=True), lambda report: report.arp_answers > 0, "ARP operation 2 from 10.0.2.16"),
        (Habits(tests_link=True), lambda report: bool(report.other), "a frame of type 0x0003"),
        (Habits(answers_tags=True), lambda report: bool(report.other), "a frame with VLAN tag"),
        (
            Habits(serves=False),
            lambda report: not report.tcp_open,
            "did not answer, so the scan shows nothing",
        ),
        (Habits(ttl_of_port=True), lambda report: len(report.headers.ttls) == 2, "time to live varies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_talkative_habit_shows(
    tmp_path: Path, habits: Habits, show: Callable[[PeerReport], bool], words: str
) -> None:
    report = scan(tmp_path, habits)
    assert show(report), report
    assert any(words in finding for finding in peer_findings(report, port=443))


def test_a_guest_that_believes_no_neighbour_keeps_its_router(tmp_path: Path) -> None:
    assert scan(tmp_path, Habits(believes_arp=False)).arp_poisoned is False


def test_a_guest_that_stops_taking_frames_fails_the_scan(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="answered none of 4 ARP questions"):
        scan(tmp_path, Habits(tired_after=300))


def test_a_guest_without_arp_fails_the_scan(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="answered none of 4 ARP questions"):
        scan(tmp_path, Habits(answers_arp=False))


def test_a_scan_that_asked_too_few_ports_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = scan(tmp_path, Habits())
    monkeypatch.setattr(peer, "PORTS", range(1, 1 << 16))
    assert peer_findings(report, port=443) == (f"only {len(FEW)} TCP ports were asked",)


def test_more_frames_than_can_be_kept_fail_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MAX_FRAMES", 100)
    with pytest.raises(MachineError, match="at most 100 frames"):
        scan(tmp_path, Habits())


def test_a_link_that_is_gone_is_our_error(tmp_path: Path) -> None:
    with LinkPeer(tmp_path) as one:
        with pytest.raises(MachineError, match="not connected to a link"):
            one.send(bytes(60))
        one.connect(tmp_path / "nobody", guest=GUEST)
        with pytest.raises(MachineError, match="the link is gone"):
            one.scan(GUEST)


def test_a_path_that_is_taken_is_our_error(tmp_path: Path) -> None:
    with LinkPeer(tmp_path), pytest.raises(MachineError, match="cannot listen"):
        LinkPeer(tmp_path).__enter__()


def test_the_neighbour_leaves_no_socket_and_no_thread(tmp_path: Path) -> None:
    with LinkPeer(tmp_path) as one:
        assert one.socket_path.exists()
    assert not one.socket_path.exists()
    assert "link-peer" not in {thread.name for thread in threading.enumerate()}


def test_waiting_for_a_frame_ends_in_time(tmp_path: Path) -> None:
    with LinkPeer(tmp_path) as one:
        started = time.monotonic()
        assert one.wait_for(lambda data: True, 0.2, start=0) is None
        assert time.monotonic() - started < 20


def test_the_neighbour_has_an_address_of_the_guests_subnet() -> None:
    assert own_address(GUEST) == IPv4Address("10.0.2.77")
    assert PEER_MAC[0] & 3 == 2  # locally administered, and of one host
