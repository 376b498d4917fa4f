"""The rtnetlink requests that give the guest its address, its routes and its only rule."""

from __future__ import annotations

import ipaddress
import struct

from tests.fakes.guest_init import harness

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h, linux/fib_rules.h
REQUEST, ACK, CREATE_NEW = 0x1, 0x4, 0x400 | 0x200
NEW_ADDRESS, NEW_ROUTE, NEW_RULE, DELETE_RULE = 20, 24, 32, 33
INET, TABLE, MAIN, DEFAULT = 2, 100, 254, 253


def requests(
    address: str, prefix: int, router: str, port: int, index: int
) -> list[tuple[int, int, bytes, dict[int, bytes]]]:
    """Return type, flags, fixed part and attributes of each request."""
    mask = ipaddress.IPv4Network((0, prefix)).netmask.packed
    lease = ipaddress.IPv4Address(address).packed + mask + ipaddress.IPv4Address(router).packed
    data = harness("network").ask(lease + struct.pack(">HB", port, index))
    result = []
    while data:
        length, kind, flags, _, _ = struct.unpack_from("=IHHII", data)
        fixed = 8 if kind == NEW_ADDRESS else 12
        attributes, at = {}, 16 + fixed
        while at < length:
            size, code = struct.unpack_from("=HH", data, at)
            attributes[code] = data[at + 4 : at + size]
            at += (size + 3) // 4 * 4
        assert at == length
        result.append((kind, flags, data[16 : 16 + fixed], attributes))
        data = data[length:]
    return result


def number(value: int) -> bytes:
    return struct.pack("=I", value)


def test_the_requests_are_those_of_rtnetlink_and_no_more() -> None:
    address, network, router = (
        ipaddress.IPv4Address(t).packed for t in ("10.0.2.15", "10.0.2.0", "10.0.2.2")
    )
    rule = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, reserved, reserved, action, flags
    assert requests("10.0.2.15", 24, "10.0.2.2", 443, 2) == [
        (DELETE_RULE, REQUEST | ACK, rule.pack(INET, 0, 0, 0, MAIN, 0, 0, 1, 0), {6: number(32766)}),
        (DELETE_RULE, REQUEST | ACK, rule.pack(INET, 0, 0, 0, DEFAULT, 0, 0, 1, 0), {6: number(32767)}),
        # IFA_LOCAL; IFA_FLAGS: no route of its own in the main table
        (
            NEW_ADDRESS,
            REQUEST | ACK | CREATE_NEW,
            struct.pack("=BBBBI", INET, 24, 0, 0, 2),
            {2: address, 8: number(0x200 | 0x80)},
        ),
        # on the link: scope 253; RTA_DST, RTA_OIF
        (
            NEW_ROUTE,
            REQUEST | ACK | CREATE_NEW,
            rule.pack(INET, 24, 0, 0, TABLE, 3, 253, 1, 0),
            {1: network, 4: number(2)},
        ),
        # everything else: RTA_GATEWAY, RTA_OIF, RTNH_F_ONLINK
        (
            NEW_ROUTE,
            REQUEST | ACK | CREATE_NEW,
            rule.pack(INET, 0, 0, 0, TABLE, 3, 0, 1, 4),
            {5: router, 4: number(2)},
        ),
        # FRA_PRIORITY, FRA_SPORT_RANGE, FRA_IP_PROTO: TCP from the served port, and nothing else
        (
            NEW_RULE,
            REQUEST | ACK | CREATE_NEW,
            rule.pack(INET, 0, 0, 0, TABLE, 0, 0, 1, 0),
            {6: number(100), 23: struct.pack("=HH", 443, 443), 22: b"\6"},
        ),
    ]


def test_a_host_route_address_keeps_its_router_outside() -> None:
    sent = requests("192.0.2.7", 32, "198.51.100.1", 8443, 3)
    assert sent[3][3][1] == ipaddress.IPv4Address("192.0.2.7").packed
    assert sent[4][3] == {5: ipaddress.IPv4Address("198.51.100.1").packed, 4: number(3)}
    assert sent[5][3][23] == struct.pack("=HH", 8443, 8443)


def test_a_network_without_a_router_gets_no_route_away_from_the_link() -> None:
    sent = requests("10.0.2.15", 24, "0.0.0.0", 443, 2)  # noqa: S104
    assert [kind for kind, *_ in sent] == [DELETE_RULE, DELETE_RULE, NEW_ADDRESS, NEW_ROUTE, NEW_RULE]
    assert sent[3][3] == {1: ipaddress.IPv4Address("10.0.2.0").packed, 4: number(2)}
