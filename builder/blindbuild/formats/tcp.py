"""TCP segments and UDP datagrams, over IPv4.

Source: RFC 9293, 3.1 (TCP), RFC 3168, 6.1 (its two ECN flags); RFC 768 (UDP).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import IPv4Address

from blindbuild.errors import FormatError
from blindbuild.formats.ipv4 import TCP, UDP, internet_checksum, pseudo_header

MAX_OPTIONS_BYTES = 40  # the data offset has four bits, in words
OPTION_END, OPTION_NOTHING, OPTION_TIMESTAMPS = 0, 1, 8  # IANA, "TCP Option Kind Numbers"

_TCP = struct.Struct(">HHIIHHHH")
_UDP = struct.Struct(">HHHH")
_WORD = 4  # bytes
_TCP_CHECKSUM = slice(16, 18)
_UDP_CHECKSUM = slice(6, 8)
_OFFSET_SHIFT = 12
_RESERVED = 0x0F00
_FLAGS = 0x00FF


class TcpFlag(IntFlag):
    """The control bits."""

    FIN = 1
    SYN = 2
    RST = 4
    PSH = 8
    ACK = 16
    URG = 32
    ECE = 64
    CWR = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class TcpSegment:
    """One segment; `options` are whole words as they are sent."""

    source_port: int
    destination_port: int
    flags: TcpFlag
    sequence: int = 0
    acknowledgment: int = 0
    window: int = 0
    urgent: int = 0
    options: bytes = b""
    payload: bytes = b""

    def encode(self, source: IPv4Address, destination: IPv4Address) -> bytes:
        """Return its bytes with the checksum for these two ends.

        Raises:
            FormatError: options that are no whole words, or too many of them.
        """
        if len(self.options) % _WORD or len(self.options) > MAX_OPTIONS_BYTES:
            raise FormatError(f"tcp: expected whole words of options, got {len(self.options)} bytes")
        words = (_TCP.size + len(self.options)) // _WORD
        fields = (
            *(self.source_port, self.destination_port, self.sequence, self.acknowledgment),
            *(words << _OFFSET_SHIFT | self.flags, self.window, 0, self.urgent),
        )
        segment = bytearray(_TCP.pack(*fields) + self.options + self.payload)
        checked = pseudo_header(source, destination, TCP, len(segment)) + segment
        segment[_TCP_CHECKSUM] = internet_checksum(checked).to_bytes(2, "big")
        return bytes(segment)


def parse_tcp(data: bytes, source: IPv4Address, destination: IPv4Address) -> TcpSegment:
    """Read one segment between these two ends.

    Raises:
        FormatError: lengths that do not fit, reserved bits, or a wrong checksum.
    """
    if len(data) < _TCP.size:
        raise FormatError(f"tcp: expected at least {_TCP.size} bytes, got {len(data)}")
    source_port, destination_port, sequence, acknowledgment, bits, window, _, urgent = _TCP.unpack_from(data)
    size = (bits >> _OFFSET_SHIFT) * _WORD
    if not _TCP.size <= size <= len(data):
        raise FormatError(f"tcp: a header of {size} bytes, got {len(data)}")
    if bits & _RESERVED:
        raise FormatError("tcp: reserved bits are set")
    if internet_checksum(pseudo_header(source, destination, TCP, len(data)) + data) != 0:
        raise FormatError("tcp: the checksum is wrong")
    return TcpSegment(
        source_port=source_port,
        destination_port=destination_port,
        sequence=sequence,
        acknowledgment=acknowledgment,
        flags=TcpFlag(bits & _FLAGS),
        window=window,
        urgent=urgent,
        options=data[_TCP.size : size],
        payload=data[size:],
    )


def parse_tcp_options(data: bytes) -> tuple[tuple[int, bytes], ...]:
    """Read the options of a segment: kind and data of each, without what only fills.

    Raises:
        FormatError: a length that does not fit, or something behind the end mark.
    """
    options: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data):
        kind = data[position]
        if kind == OPTION_END:
            if any(data[position:]):
                raise FormatError("tcp: something follows the end of the options")
            break
        if kind == OPTION_NOTHING:
            position += 1
            continue
        size = data[position + 1] if position + 1 < len(data) else 0
        if size < 2 or position + size > len(data):
            raise FormatError(f"tcp: option {kind} is cut short")
        options.append((kind, data[position + 2 : position + size]))
        position += size
    return tuple(options)


@dataclass(frozen=True, slots=True, kw_only=True)
class UdpDatagram:
    """One datagram."""

    source_port: int
    destination_port: int
    payload: bytes = b""

    def encode(self, source: IPv4Address, destination: IPv4Address) -> bytes:
        """Return its bytes with the checksum for these two ends."""
        size = _UDP.size + len(self.payload)
        datagram = bytearray(_UDP.pack(self.source_port, self.destination_port, size, 0) + self.payload)
        checked = pseudo_header(source, destination, UDP, size) + datagram
        # RFC 768: zero means no checksum, so a sum of zero is sent as its other form
        datagram[_UDP_CHECKSUM] = (internet_checksum(checked) or 0xFFFF).to_bytes(2, "big")
        return bytes(datagram)


def parse_udp(data: bytes, source: IPv4Address, destination: IPv4Address) -> UdpDatagram:
    """Read one datagram between these two ends; it may be without a checksum.

    Raises:
        FormatError: a length that is not that of the data, or a wrong checksum.
    """
    if len(data) < _UDP.size:
        raise FormatError(f"udp: expected at least {_UDP.size} bytes, got {len(data)}")
    source_port, destination_port, size, checksum = _UDP.unpack_from(data)
    if size != len(data):
        raise FormatError(f"udp: expected {size} bytes, got {len(data)}")
    if checksum and internet_checksum(pseudo_header(source, destination, UDP, size) + data) != 0:
        raise FormatError("udp: the checksum is wrong")
    return UdpDatagram(source_port=source_port, destination_port=destination_port, payload=data[_UDP.size :])
