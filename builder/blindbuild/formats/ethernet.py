"""Ethernet frames and the Address Resolution Protocol.

Source: IEEE 802.3-2022, 3.2.6 (type or length) and IEEE 802.1Q-2022, 9.6 (tags); RFC 826.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.errors import FormatError

ADDRESS_BYTES = 6
BROADCAST = bytes.fromhex("ffffffffffff")
MIN_TYPE = 0x0600  # IEEE 802.3, 3.2.6: smaller values are lengths
MAX_LENGTH = 1500  # of the data behind a length field
TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806
TYPE_VLAN = 0x8100
TYPE_IPV6 = 0x86DD
TYPE_EAPOL = 0x888E
TYPE_LLDP = 0x88CC
ARP_REQUEST = 1
ARP_REPLY = 2

_ETHERNET = struct.Struct(">6s6sH")
_TAG = struct.Struct(">HH")
_ARP = struct.Struct(">HHBBH6s4s6s4s")
_ARP_KIND = (1, TYPE_IPV4, ADDRESS_BYTES, 4)  # RFC 826: Ethernet, IPv4, lengths of their addresses


def parse_mac(text: str) -> bytes:
    """Read `52:54:00:b1:1d:01`.

    Raises:
        FormatError: anything but six groups of two hex digits.
    """
    parts = text.split(":")
    if len(parts) != ADDRESS_BYTES or any(len(part) != 2 or not _is_hex(part) for part in parts):
        raise FormatError(f"expected an Ethernet address such as 52:54:00:b1:1d:01, got {text[:40]!r}")
    return bytes.fromhex("".join(parts))


@dataclass(frozen=True, slots=True, kw_only=True)
class EthernetFrame:
    """One frame without preamble and checksum.

    Attributes:
        destination, source: six bytes each.
        kind: the EtherType; below `MIN_TYPE` the length of the data, and then LLC follows.
        payload: the rest, what pads it to the shortest frame included.
        tag: the sixteen bits of an 802.1Q tag, if there is one.
    """

    destination: bytes
    source: bytes
    kind: int
    payload: bytes
    tag: int | None = None

    def encode(self) -> bytes:
        """Return the frame as it is sent; nothing pads it."""
        if self.tag is None:
            return _ETHERNET.pack(self.destination, self.source, self.kind) + self.payload
        head = _ETHERNET.pack(self.destination, self.source, TYPE_VLAN)
        return head + _TAG.pack(self.tag, self.kind) + self.payload


def parse_ethernet(data: bytes) -> EthernetFrame:
    """Read one frame.

    Raises:
        FormatError: it is too short, its length field is no length, or it has a second tag.
    """
    if len(data) < _ETHERNET.size:
        raise FormatError(f"ethernet: expected at least {_ETHERNET.size} bytes, got {len(data)}")
    destination, source, kind = _ETHERNET.unpack_from(data)
    payload, tag = data[_ETHERNET.size :], None
    if kind == TYPE_VLAN:
        if len(payload) < _TAG.size:
            raise FormatError("ethernet: a tag is cut short")
        tag, kind = _TAG.unpack_from(payload)
        payload = payload[_TAG.size :]
        if kind == TYPE_VLAN:
            raise FormatError("ethernet: expected one tag, got two")
    if MAX_LENGTH < kind < MIN_TYPE:
        raise FormatError(f"ethernet: expected a type or a length, got {kind:#06x}")
    if kind <= MAX_LENGTH and kind > len(payload):
        raise FormatError(f"ethernet: expected {kind} bytes of data, got {len(payload)}")
    return EthernetFrame(destination=destination, source=source, kind=kind, payload=payload, tag=tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArpMessage:
    """A question for the Ethernet address of an IPv4 address, or its answer."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address

    def encode(self) -> bytes:
        """Return its 28 bytes."""
        ends = (self.sender_mac, self.sender.packed, self.target_mac, self.target.packed)
        return _ARP.pack(*_ARP_KIND, self.operation, *ends)


def parse_arp(data: bytes) -> tuple[ArpMessage, bytes]:
    """Read a message for Ethernet and IPv4; return it and what pads the frame behind it.

    Raises:
        FormatError: it is too short, or for other kinds of addresses.
    """
    if len(data) < _ARP.size:
        raise FormatError(f"arp: expected {_ARP.size} bytes, got {len(data)}")
    *kind, operation, sender_mac, sender, target_mac, target = _ARP.unpack_from(data)
    if tuple(kind) != _ARP_KIND:
        raise FormatError("arp: expected addresses of Ethernet and IPv4, got other ones")
    message = ArpMessage(
        operation=operation,
        sender_mac=sender_mac,
        sender=IPv4Address(sender),
        target_mac=target_mac,
        target=IPv4Address(target),
    )
    return message, data[_ARP.size :]


def _is_hex(text: str) -> bool:
    return all(letter in "0123456789abcdefABCDEF" for letter in text)
