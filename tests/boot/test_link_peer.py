"""The product as its neighbours see it: one port on its link, one kind of answer, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.formats.ethernet import TYPE_IPV4
from blindbuild.formats.ipv4 import TCP
from blindbuild.formats.pcap import parse_pcap
from blindbuild.machine.config import HOST_ADDRESS
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.frames import Guest, classify_frames
from blindbuild.machine.probe.handshake import handshake_findings, observe_handshake
from blindbuild.machine.probe.link import PEER_MAC
from blindbuild.machine.probe.peer import SCAN_PORT, LinkPeer, PeerReport, peer_findings, scan_machine
from blindbuild.machine.probe.stimuli import UDP_PORTS
from tests.boot.lab import ROUTE, Lab

pytestmark = [pytest.mark.boot, pytest.mark.full]  # the probe asks all of this of the same image, in one boot


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkPeer]:
    with LinkPeer(tmp_path_factory.mktemp("link")) as one:
        yield one


@pytest.fixture(scope="module")
def neighbour(lab: Lab, product: Path, peer: LinkPeer) -> Iterator[Machine]:
    with lab.running(lab.machine(product, link_socket=peer.socket_path)) as running:
        yield running


@pytest.fixture(scope="module")
def scan(peer: LinkPeer, neighbour: Machine) -> PeerReport:
    return scan_machine(peer, neighbour, rounds=1)


def test_the_guest_answers_at_its_service_and_nowhere_else(scan: PeerReport) -> None:
    assert peer_findings(scan, port=443) == ()
    assert scan.tcp_open == {443}
    assert (scan.scanned_tcp, scan.scanned_udp) == (65_535, len(UDP_PORTS))


def test_every_port_was_asked_at_the_guests_own_network_card(scan: PeerReport, neighbour: Machine) -> None:
    guest = Guest.of(neighbour.config)
    to_guest = guest.mac + PEER_MAC + TYPE_IPV4.to_bytes(2, "big")
    ports = SCAN_PORT.to_bytes(2, "big")
    sent = [frame.data for _, frame in neighbour.frames() if frame.data.startswith(to_guest)]
    asked = {int.from_bytes(data[36:38], "big") for data in sent if data[34:36] == ports and data[23] == TCP}
    assert asked == set(range(1, 1 << 16))


def test_headers_carry_no_more_than_an_answer_needs(scan: PeerReport) -> None:
    assert (scan.headers.ttls, scan.headers.services) == ({64}, {0})


def test_a_neighbour_can_move_the_router_which_tls_takes_care_of(scan: PeerReport) -> None:
    assert scan.arp_poisoned is True  # docs/spec/link-peer.md says so


def test_a_client_is_served_after_all_that(
    scan: PeerReport, lab: Lab, product: Path, neighbour: Machine
) -> None:
    assert scan.serves_at_end
    attempt = lab.judge(neighbour.url, lab.expect(product, neighbour))
    attempt.close()
    assert attempt.appraisal.reasons == frozenset()


def test_a_stranger_sees_one_version_no_ticket_and_padded_answers(neighbour: Machine) -> None:
    report = observe_handshake(HOST_ADDRESS, neighbour.port, routes=[ROUTE])
    assert handshake_findings(report) == ()


def test_the_whole_capture_has_nothing_but_arp_and_answers(scan: PeerReport, neighbour: Machine) -> None:
    frames = parse_pcap(neighbour.files.capture.read_bytes(), growing=True)
    assert classify_frames(frames, guest=Guest.of(neighbour.config), port=443) == ()
