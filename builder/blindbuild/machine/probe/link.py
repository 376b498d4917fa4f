"""A place on the guest's Ethernet link: sees every frame, sends any, and knows when the guest has taken them.

QEMU's hub carries one frame a datagram (`MachineConfig.link_socket`), so no privilege is needed. Frames are
let through in windows: behind each goes an ARP question, and its answer says that the guest has taken what
came before it. So what a scan does not show was asked, and not lost on the way.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from blindbuild.errors import FormatError, MachineError
from blindbuild.formats.ethernet import (
    ARP_REPLY,
    ARP_REQUEST,
    TYPE_ARP,
    ArpMessage,
    EthernetFrame,
    parse_arp,
    parse_ethernet,
    parse_mac,
)
from blindbuild.formats.pcap import Frame
from blindbuild.machine.probe.composer import Composer
from blindbuild.machine.probe.frames import Guest

PEER_MAC = parse_mac("02:00:00:00:00:4d")  # locally administered
ROUTER_MAC = parse_mac("02:00:00:00:00:52")  # the router's, where none was seen
HOST_NUMBER = 77  # of its address on the guest's subnet
BARRIER_HOST_NUMBER = 78  # of the address that asks whether the guest has taken all
WINDOW = 256  # frames in flight; a guest's receive queue has as many, and QEMU drops from 10,000 on
BARRIER_S = 3.0  # for the guest to answer, with a busy host
BARRIER_TRIES = 4
MAX_FRAMES = 1 << 20  # kept; bounds memory, a scan has some 300,000
SEND_S = 10.0
POLL_S = 0.2

_BARRIER_PREFIX = bytes.fromhex("0200b177")  # and a number of 16 bits
_MAX_FRAME_BYTES = 1 << 16
_RECEIVE_BUFFER_BYTES = 8 << 20


class Link:
    """A neighbour of the guest; a context manager that listens from entry to exit.

    Args:
        directory: where its socket is made; a short path.

    Attributes:
        socket_path: what `MachineConfig.link_socket` is given.
    """

    def __init__(self, directory: Path) -> None:
        self.socket_path = directory / "peer"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._target: str | None = None
        self._frames: list[tuple[float, Frame]] = []
        self._changed = threading.Condition()
        self._addresses: Mapping[IPv4Address, bytes] = {}
        self._stopping = False
        self._full = False
        self._barriers = 0
        self._thread = threading.Thread(target=self._read_all, name="link-peer", daemon=True)

    def __enter__(self) -> Self:
        try:
            self._socket.bind(str(self.socket_path))
        except OSError as error:
            self._socket.close()
            raise MachineError(f"{self.socket_path}: cannot listen: {error}") from error
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        self._socket.settimeout(POLL_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        self._socket.close()
        self.socket_path.unlink(missing_ok=True)

    def connect(self, path: Path, *, guest: Guest) -> None:
        """Say where the link is, and whose neighbour this is: from now on it answers ARP for its addresses.

        Args:
            path: QEMU's end, `MachineFiles.link_socket`.
            guest: the neighbour to talk to.
        """
        self._target = str(path)
        self._addresses = {own_address(guest): PEER_MAC, _barrier_address(guest): PEER_MAC}

    def stand_in_for_router(self, guest: Guest) -> bytes:
        """Answer ARP for the guest's router as it did itself; return its Ethernet address.

        A guest sends nothing beyond its subnet while nobody answers for its router.
        """
        mac = next((mac for _, frame in self.frames() if (mac := _router_mac(frame, guest))), ROUTER_MAC)
        self._addresses = {**self._addresses, guest.router: mac}
        return mac

    def frames(self) -> tuple[tuple[float, Frame], ...]:
        """Return every frame until now, sent and received, with its monotonic time."""
        with self._changed:
            return tuple(self._frames)

    def count(self) -> int:
        """Return how many frames there are until now: where to go on reading later."""
        with self._changed:
            return len(self._frames)

    def frames_since(self, start: int) -> tuple[Frame, ...]:
        """Return the frames after the first `start`."""
        with self._changed:
            return tuple(frame for _, frame in self._frames[start:])

    def send(self, data: bytes) -> None:
        """Send one frame.

        Raises:
            MachineError: nobody is at the other end, or there were more frames than can be kept.
        """
        if self._target is None:
            raise MachineError("this neighbour is not connected to a link")
        self._keep(data)
        if self._full:
            raise MachineError(f"expected at most {MAX_FRAMES} frames on the link")
        deadline = time.monotonic() + SEND_S
        while True:
            try:
                self._socket.sendto(data, self._target)
            except TimeoutError:  # QEMU is busy; its queue is the socket's buffer
                if time.monotonic() > deadline:
                    raise MachineError(f"the link took no frame within {SEND_S:g} s") from None
            except OSError as error:
                raise MachineError(f"the link is gone: {error}") from error
            else:
                return

    def send_all(self, frames: Iterable[bytes], *, composer: Composer) -> int:
        """Send frames in windows, and wait until the guest has taken the last one; return how many.

        Raises:
            MachineError: the guest no longer answers ARP questions.
        """
        sent = 0
        for sent, frame in enumerate(frames, 1):
            self.send(frame)
            if sent % WINDOW == 0:
                self.wait_until_taken(composer)
        self.wait_until_taken(composer)
        return sent

    def wait_until_taken(self, composer: Composer) -> None:
        """Wait until the guest has taken every frame sent before.

        Raises:
            MachineError: it no longer answers ARP questions.
        """
        for _ in range(BARRIER_TRIES):
            start = self.count()
            self._barriers += 1
            mac = _BARRIER_PREFIX + (self._barriers & 0xFFFF).to_bytes(2, "big")
            self.send(_barrier(composer.guest, mac))
            if self.wait_for(partial(_answers, guest=composer.guest, mac=mac), BARRIER_S, start=start):
                return
        raise MachineError(
            f"the guest at {composer.guest.address.ip} answered none of {BARRIER_TRIES} ARP questions"
        )

    def wait_for(self, wanted: Callable[[bytes], bool], timeout_s: float, *, start: int) -> bytes | None:
        """Return the first frame after the first `start` that is wanted; None if none comes in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                while start < len(self._frames):
                    data = self._frames[start][1].data
                    start += 1
                    if wanted(data):
                        return data
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    return None

    def _read_all(self) -> None:
        while not self._stopping:
            try:
                data = self._socket.recv(_MAX_FRAME_BYTES)
            except TimeoutError:
                continue
            except OSError:  # closed
                return
            self._keep(data)
            with contextlib.suppress(MachineError, FormatError):
                self._answer_arp(data)

    def _keep(self, data: bytes) -> None:
        now = time.monotonic()
        with self._changed:
            self._full = len(self._frames) >= MAX_FRAMES
            if not self._full:
                self._frames.append((now, Frame(int(now * 1e6), data)))
                self._changed.notify_all()

    def _answer_arp(self, data: bytes) -> None:
        """Tell whoever asks where this neighbour's addresses are; without that no answer would come."""
        if self._target is None or data[12:14] != TYPE_ARP.to_bytes(2, "big"):
            return
        question, _ = parse_arp(parse_ethernet(data).payload)
        if question.operation != ARP_REQUEST or question.target not in self._addresses:
            return
        answer = ArpMessage(
            operation=ARP_REPLY,
            sender_mac=self._addresses[question.target],
            sender=question.target,
            target_mac=question.sender_mac,
            target=question.sender,
        )
        self.send(
            EthernetFrame(
                destination=question.sender_mac, source=PEER_MAC, kind=TYPE_ARP, payload=answer.encode()
            ).encode()
        )


def own_address(guest: Guest) -> IPv4Address:
    """Return the neighbour's address on the guest's subnet."""
    return guest.address.network.network_address + HOST_NUMBER


def _barrier_address(guest: Guest) -> IPv4Address:
    return guest.address.network.network_address + BARRIER_HOST_NUMBER


def _router_mac(frame: Frame, guest: Guest) -> bytes | None:
    """Return the Ethernet address that the guest's router says it has, if this frame says it."""
    if frame.data[12:14] != TYPE_ARP.to_bytes(2, "big") or frame.source == guest.mac:
        return None
    with contextlib.suppress(FormatError):
        message, _ = parse_arp(parse_ethernet(frame.data).payload)
        return message.sender_mac if message.sender == guest.router else None
    return None


def _barrier(guest: Guest, mac: bytes) -> bytes:
    """Return a question for the guest's address, from a sender that asks for the first time."""
    question = ArpMessage(
        operation=ARP_REQUEST,
        sender_mac=mac,
        sender=_barrier_address(guest),
        target_mac=bytes(6),
        target=guest.address.ip,
    )
    return EthernetFrame(destination=guest.mac, source=mac, kind=TYPE_ARP, payload=question.encode()).encode()


def _answers(data: bytes, *, guest: Guest, mac: bytes) -> bool:
    """Whether a frame is the guest's ARP answer to this Ethernet address."""
    return data[:6] == mac and data[6:12] == guest.mac and data[12:14] == TYPE_ARP.to_bytes(2, "big")
