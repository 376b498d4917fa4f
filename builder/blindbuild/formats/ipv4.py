"""IPv4 packets and the Internet checksum.

Source: RFC 791, 3.1; RFC 1071 (checksum); RFC 2474 and RFC 3168 (the service byte).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.errors import FormatError

ICMP = 1
IGMP = 2
TCP = 6
UDP = 17
MAX_OPTIONS_BYTES = 40  # the header's length has four bits, in words

_HEADER = struct.Struct(">BBHHHBBH4s4s")
_VERSION = 4
_WORD = 4  # bytes
_CHECKSUM = slice(10, 12)
_OFFSET_MASK = 0x1FFF
_MORE, _DO_NOT, _RESERVED = 0x2000, 0x4000, 0x8000


def internet_checksum(data: bytes) -> int:
    """Return the complement of the one's complement sum of the 16-bit words (RFC 1071, 1)."""
    if len(data) % 2:
        data += b"\0"
    # 2**16 is 1 modulo 0xffff, so that the number itself has the remainder of the sum of its words
    number = int.from_bytes(data, "big")
    total = number % 0xFFFF
    return 0xFFFF - (0xFFFF if total == 0 and number else total)


def pseudo_header(source: IPv4Address, destination: IPv4Address, protocol: int, length: int) -> bytes:
    """Return what UDP and TCP check besides themselves (RFC 768; RFC 9293, 3.1)."""
    return source.packed + destination.packed + struct.pack(">BBH", 0, protocol, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ipv4Packet:
    """One packet or one fragment of it.

    Attributes:
        service: DSCP in the upper six bits, ECN in the lower two.
        fragment_offset: in units of eight bytes.
        options: whole words, as they are sent.
    """

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    identification: int = 0
    ttl: int = 64
    service: int = 0
    do_not_fragment: bool = False
    more_fragments: bool = False
    fragment_offset: int = 0
    options: bytes = b""

    @property
    def is_fragment(self) -> bool:
        """Whether this is a part of a packet."""
        return self.more_fragments or self.fragment_offset > 0

    def encode(self) -> bytes:
        """Return its bytes, with the header's checksum.

        Raises:
            FormatError: options that are no whole words, or too many of them.
        """
        if len(self.options) % _WORD or len(self.options) > MAX_OPTIONS_BYTES:
            raise FormatError(f"ipv4: expected whole words of options, got {len(self.options)} bytes")
        words = (_HEADER.size + len(self.options)) // _WORD
        flags = (_DO_NOT if self.do_not_fragment else 0) | (_MORE if self.more_fragments else 0)
        fields = (
            *(_VERSION << 4 | words, self.service, words * _WORD + len(self.payload)),
            *(self.identification, flags | self.fragment_offset, self.ttl, self.protocol, 0),
            *(self.source.packed, self.destination.packed),
        )
        header = bytearray(_HEADER.pack(*fields) + self.options)
        header[_CHECKSUM] = internet_checksum(bytes(header)).to_bytes(2, "big")
        return bytes(header) + self.payload


def parse_ipv4(data: bytes) -> tuple[Ipv4Packet, bytes]:
    """Read one packet; return it and what follows it in the frame.

    Raises:
        FormatError: another version, lengths that do not fit, a reserved flag, or a wrong checksum.
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"ipv4: expected at least {_HEADER.size} bytes, got {len(data)}")
    first, service, total, identification, fragment, ttl, protocol, _, source, destination = (
        _HEADER.unpack_from(data)
    )
    size = (first & 0xF) * _WORD
    if first >> 4 != _VERSION or not _HEADER.size <= size <= total <= len(data):
        raise FormatError(f"ipv4: version {first >> 4}, header of {size}, {total} of {len(data)} bytes")
    if fragment & _RESERVED:
        raise FormatError("ipv4: the reserved flag is set")
    if internet_checksum(data[:size]) != 0:
        raise FormatError("ipv4: the header's checksum is wrong")
    packet = Ipv4Packet(
        source=IPv4Address(source),
        destination=IPv4Address(destination),
        protocol=protocol,
        payload=data[size:total],
        identification=identification,
        ttl=ttl,
        service=service,
        do_not_fragment=bool(fragment & _DO_NOT),
        more_fragments=bool(fragment & _MORE),
        fragment_offset=fragment & _OFFSET_MASK,
        options=data[_HEADER.size : size],
    )
    return packet, data[total:]
