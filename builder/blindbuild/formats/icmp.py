"""ICMP and IGMP messages of IPv4.

Source: RFC 792 (ICMP), RFC 950 (address mask), RFC 1256 (router solicitation), RFC 2236 and RFC 3376 (IGMP).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.errors import FormatError
from blindbuild.formats.ipv4 import internet_checksum

ECHO_REPLY = 0
UNREACHABLE = 3
REDIRECT = 5
ECHO = 8
ROUTER_SOLICITATION = 10
TIME_EXCEEDED = 11
TIMESTAMP = 13
INFORMATION = 15
ADDRESS_MASK = 17
MEMBERSHIP_QUERY = 0x11
ALL_SYSTEMS = IPv4Address("224.0.0.1")

_HEADER = struct.Struct(">BBH")
_ERROR_BYTES = 8  # RFC 792: of the datagram's data that an error carries behind its header
_IPV4_HEADER = 20
_QUERIER_INTERVAL_S = 125  # RFC 3376, 8.2
_ROBUSTNESS = 2  # RFC 3376, 8.1


@dataclass(frozen=True, slots=True, kw_only=True)
class IcmpMessage:
    """One message: type, code, and everything behind the checksum."""

    kind: int
    code: int
    body: bytes

    def encode(self) -> bytes:
        """Return its bytes with the checksum."""
        plain = _HEADER.pack(self.kind, self.code, 0) + self.body
        return _HEADER.pack(self.kind, self.code, internet_checksum(plain)) + self.body


def parse_icmp(data: bytes) -> IcmpMessage:
    """Read one ICMP or IGMP message, whose first eight bytes have the same layout.

    Raises:
        FormatError: it is too short, or its checksum is wrong.
    """
    if len(data) < 2 * _HEADER.size:
        raise FormatError(f"icmp: expected at least {2 * _HEADER.size} bytes, got {len(data)}")
    kind, code, _ = _HEADER.unpack_from(data)
    if internet_checksum(data) != 0:
        raise FormatError("icmp: the checksum is wrong")
    return IcmpMessage(kind=kind, code=code, body=data[_HEADER.size :])


def echo(identifier: int, sequence: int, data: bytes = b"") -> IcmpMessage:
    """Return a question for the same data back."""
    return IcmpMessage(kind=ECHO, code=0, body=struct.pack(">HH", identifier, sequence) + data)


def timestamp(identifier: int, sequence: int) -> IcmpMessage:
    """Return a question for the time of day, three 32-bit times long."""
    return IcmpMessage(kind=TIMESTAMP, code=0, body=struct.pack(">HH", identifier, sequence) + bytes(12))


def address_mask(identifier: int, sequence: int) -> IcmpMessage:
    """Return a question for the subnet's mask."""
    return IcmpMessage(kind=ADDRESS_MASK, code=0, body=struct.pack(">HH", identifier, sequence) + bytes(4))


def information(identifier: int, sequence: int) -> IcmpMessage:
    """Return a question for the network's number."""
    return IcmpMessage(kind=INFORMATION, code=0, body=struct.pack(">HH", identifier, sequence))


def error(kind: int, code: int, original: bytes, rest: bytes = bytes(4)) -> IcmpMessage:
    """Return an error about a packet: unreachable, time exceeded, redirect.

    Args:
        kind, code: which error.
        original: the packet that it is about.
        rest: the four bytes before it: a router's address in a redirect.
    """
    return IcmpMessage(kind=kind, code=code, body=rest + original[: _IPV4_HEADER + _ERROR_BYTES])


def membership_query(version: int) -> IcmpMessage:
    """Return a general query of IGMP 1, 2 or 3: who listens to any group?

    Source: RFC 1112 appendix I; RFC 2236, 2; RFC 3376, 4.1.
    """
    answer_within = 0 if version == 1 else 10  # tenths of a second
    group = bytes(4)
    sources = bytes((_ROBUSTNESS, _QUERIER_INTERVAL_S, 0, 0)) if version == 3 else b""
    return IcmpMessage(kind=MEMBERSHIP_QUERY, code=answer_within, body=group + sources)
