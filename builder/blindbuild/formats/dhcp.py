"""Messages of the Dynamic Host Configuration Protocol.

Source: RFC 2131, 2 (layout), RFC 2132 (options).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address

from blindbuild.errors import FormatError

SERVER_PORT = 67
CLIENT_PORT = 68
REQUEST = 1
REPLY = 2

_HEADER = struct.Struct(">BBBBIHH4s4s4s4s16s64s128s4s")
_ETHERNET = (1, 6)
_COOKIE = bytes((99, 130, 83, 99))
_PAD, _END = 0, 255
_UNSET = IPv4Address(0)
_MAC_PADDING = bytes(10)


class DhcpOption:
    """Option codes of RFC 2132 and their like."""

    MASK = 1
    ROUTER = 3
    RESOLVER = 6
    HOST_NAME = 12
    NTP_SERVERS = 42
    REQUESTED_ADDRESS = 50
    LEASE_TIME = 51
    MESSAGE_TYPE = 53
    SERVER = 54
    PARAMETERS = 55
    ROUTES = 121
    PROXY = 252


class DhcpType:
    """Values of the option that says what a message is."""

    DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM, FORCE_RENEW = range(1, 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpMessage:
    """One message for Ethernet; its fields for a server's name and a boot file are zero.

    Attributes:
        options: code and data of each, in the order sent, without padding and end mark.
    """

    operation: int
    transaction: int
    client_mac: bytes
    options: tuple[tuple[int, bytes], ...]
    client: IPv4Address = _UNSET
    your: IPv4Address = _UNSET
    server: IPv4Address = _UNSET
    relay: IPv4Address = _UNSET
    hops: int = 0
    seconds: int = 0
    flags: int = 0

    def option(self, code: int) -> bytes | None:
        """Return the data of the first option with this code."""
        return next((data for found, data in self.options if found == code), None)

    def encode(self) -> bytes:
        """Return its bytes, ended by the end mark."""
        fields = (
            *(self.operation, *_ETHERNET, self.hops, self.transaction, self.seconds, self.flags),
            *(self.client.packed, self.your.packed, self.server.packed, self.relay.packed),
            *(self.client_mac + _MAC_PADDING, bytes(64), bytes(128), _COOKIE),
        )
        options = b"".join(bytes((code, len(data))) + data for code, data in self.options)
        return _HEADER.pack(*fields) + options + bytes((_END,))


def parse_dhcp(data: bytes) -> DhcpMessage:
    """Read one message.

    Raises:
        FormatError: it is cut short, not for Ethernet, without end mark, or has something in the fields
            for names or behind the end mark.
    """
    if len(data) < _HEADER.size:
        raise FormatError(f"dhcp: expected at least {_HEADER.size} bytes, got {len(data)}")
    operation, kind, size, hops, transaction, seconds, flags, *rest = _HEADER.unpack_from(data)
    client, your, server, relay, mac, name, file, cookie = rest
    if (kind, size) != _ETHERNET or cookie != _COOKIE:
        raise FormatError("dhcp: expected a message for Ethernet with options, got another one")
    if any(name) or any(file) or any(mac[size:]):
        raise FormatError("dhcp: expected zeros in the fields for names, got something")
    return DhcpMessage(
        operation=operation,
        transaction=transaction,
        client_mac=mac[:size],
        options=_parse_options(data[_HEADER.size :]),
        client=IPv4Address(client),
        your=IPv4Address(your),
        server=IPv4Address(server),
        relay=IPv4Address(relay),
        hops=hops,
        seconds=seconds,
        flags=flags,
    )


def _parse_options(data: bytes) -> tuple[tuple[int, bytes], ...]:
    options: list[tuple[int, bytes]] = []
    position = 0
    while position < len(data) and data[position] != _END:
        if data[position] == _PAD:
            position += 1
            continue
        size = data[position + 1] if position + 1 < len(data) else 0
        end = position + 2 + size
        if end > len(data):
            raise FormatError(f"dhcp: option {data[position]} is cut short")
        options.append((data[position], data[position + 2 : end]))
        position = end
    if position >= len(data):
        raise FormatError("dhcp: expected an end mark behind the options")
    if any(data[position + 1 :]):
        raise FormatError("dhcp: something follows the end of the options")
    return tuple(options)
