"""The DHCP messages init writes and the answers it takes; the operator's network may send anything."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.guest_init import harness

DISCOVER, OFFER, REQUEST, ACK = 1, 2, 3, 5
TRANSACTION, HARDWARE = b"\x12\x34\x56\x78", bytes.fromhex("525400123456")
ADDRESS, MASK, ROUTER, SERVER = (
    ipaddress.IPv4Address(text).packed for text in ("10.0.2.15", "255.255.255.0", "10.0.2.2", "10.0.2.1")
)


def query(kind: int, server: bytes = SERVER, address: bytes = ADDRESS) -> bytes:
    return bytes([kind]) + TRANSACTION + HARDWARE + server + address


def option(code: int, value: bytes) -> bytes:
    return bytes([code, len(value)]) + value


def message(options: bytes, *, head: bytes = b"\2\1\6\0", address: bytes = ADDRESS) -> bytes:
    """RFC 2131, figure 1, up to the options."""
    fixed = struct.pack(
        ">4s4sHH4s4s4s4s16s64s128s4s",
        *(head, TRANSACTION, 0, 0x8000, bytes(4), address, SERVER, bytes(4)),
        *(HARDWARE + bytes(10), bytes(64), bytes(128), b"\x63\x82\x53\x63"),
    )
    return fixed + options


def options(
    kind: int = OFFER, *, server: bytes = SERVER, mask: bytes = MASK, router: bytes = ROUTER
) -> bytes:
    return option(53, bytes([kind])) + option(54, server) + option(1, mask) + option(3, router)


def parse(data: bytes, asked: bytes = query(DISCOVER)) -> bytes:
    return harness("dhcp-parse").ask(asked + data)


def test_the_discovery_asks_for_mask_and_router_and_tells_nothing_else() -> None:
    sent = harness("dhcp-write").ask(query(DISCOVER))
    expected = message(b"\x35\x01\x01\x37\x02\x01\x03\xff", head=b"\1\1\6\0", address=bytes(4))
    expected = expected[:20] + bytes(4) + expected[24:]  # no server address
    assert sent == expected.ljust(300, b"\0")


def test_the_request_names_the_offered_address_and_its_server() -> None:
    sent = harness("dhcp-write").ask(query(REQUEST))
    wanted = option(53, b"\3") + option(50, ADDRESS) + option(54, SERVER) + option(55, b"\1\3") + b"\xff"
    assert sent[240:] == wanted.ljust(60, b"\0")


def test_an_offer_gives_server_address_mask_and_router() -> None:
    assert parse(message(options() + b"\xff")) == SERVER + ADDRESS + MASK + ROUTER


def test_an_acknowledgement_of_the_offer_is_taken() -> None:
    assert parse(message(options(ACK) + b"\xff"), query(REQUEST)) == SERVER + ADDRESS + MASK + ROUTER


def test_everything_else_that_a_server_says_is_ignored() -> None:
    noise = option(6, b"\x08\x08\x08\x08") + option(12, b"name") + option(121, b"\0\x0a\0\2\3") + b"\0\0"
    noise += option(42, b"\1\2\3\4") + option(252, b"http://wpad/") + option(51, b"\0\0\x0e\x10")
    assert parse(message(noise + options() + b"\xff" + b"\1\1")) == SERVER + ADDRESS + MASK + ROUTER


def test_the_first_of_several_routers_is_taken() -> None:
    data = message(options(router=ROUTER + b"\x0a\0\2\3") + b"\xff")
    assert parse(data) == SERVER + ADDRESS + MASK + ROUTER


def test_a_network_may_have_no_router() -> None:
    data = option(53, bytes([OFFER])) + option(54, SERVER) + option(1, MASK) + b"\xff"
    assert parse(message(data)) == SERVER + ADDRESS + MASK + bytes(4)


@pytest.mark.parametrize("missing", [53, 54, 1])
def test_an_answer_without_its_type_server_or_mask_is_refused(missing: int) -> None:
    given = {53: bytes([OFFER]), 54: SERVER, 1: MASK, 3: ROUTER}
    data = b"".join(option(code, value) for code, value in given.items() if code != missing)
    assert parse(message(data + b"\xff")) == b""


@pytest.mark.parametrize(
    ("data", "asked"),
    [
        (message(options()), query(DISCOVER)),  # no end mark
        (message(options(ACK) + b"\xff"), query(DISCOVER)),
        (message(options(6) + b"\xff"), query(REQUEST)),  # DHCPNAK
        (message(options(OFFER) + b"\xff"), query(REQUEST)),
        (message(options(ACK, server=b"\x0a\0\2\x09") + b"\xff"), query(REQUEST)),
        (message(options(ACK) + b"\xff", address=b"\x0a\0\2\x10"), query(REQUEST)),
        (message(options() + option(1, MASK) + b"\xff"), query(DISCOVER)),  # a mask twice
        (message(options(mask=b"\xff\0\xff\0") + b"\xff"), query(DISCOVER)),
        (message(options(mask=bytes(4)) + b"\xff"), query(DISCOVER)),
        (message(options(mask=MASK + MASK) + b"\xff"), query(DISCOVER)),
        (message(options(mask=MASK[:3]) + b"\xff"), query(DISCOVER)),
        (message(options(router=b"") + b"\xff"), query(DISCOVER)),
        (message(options(router=ROUTER + b"\1") + b"\xff"), query(DISCOVER)),
        (message(options(router=ADDRESS) + b"\xff"), query(DISCOVER)),
        (message(options(router=b"\xe0\0\0\1") + b"\xff"), query(DISCOVER)),
        (message(options(router=b"\0\0\0\1") + b"\xff"), query(DISCOVER)),
        (message(options() + b"\xff", address=bytes(4)), query(DISCOVER)),
        (message(options() + b"\xff", address=b"\x7f\0\0\1"), query(DISCOVER)),
        (message(options() + b"\xff", address=b"\xff\xff\xff\xff"), query(DISCOVER)),
        (message(options() + b"\xff", head=b"\1\1\6\0"), query(DISCOVER)),
        (message(options() + b"\xff", head=b"\2\1\7\0"), query(DISCOVER)),
        (message(options() + b"\x0c\x05ab\xff"), query(DISCOVER)),  # longer than what is left
        (message(options() + b"\x0c"), query(DISCOVER)),
        (message(b"\xff" + options()), query(DISCOVER)),
    ],
)
def test_an_answer_that_is_not_right_in_every_field_is_refused(data: bytes, asked: bytes) -> None:
    assert parse(data, asked) == b""


@pytest.mark.parametrize("offset", [0, 1, 2, *range(4, 8), *range(28, 34), *range(236, 240)])
def test_a_bit_flipped_in_a_field_that_counts_is_refused(offset: int) -> None:
    good = message(options() + b"\xff")
    for bit in range(8):
        data = bytearray(good)
        data[offset] ^= 1 << bit
        assert parse(bytes(data)) == b""


def test_every_truncation_is_refused() -> None:
    good = message(options() + b"\xff")
    assert all(parse(good[:size]) == b"" for size in range(len(good)))


@settings(deadline=None)
@given(data=st.binary(max_size=80))
def test_options_at_random_never_reach_outside_the_message(data: bytes) -> None:
    assert len(parse(message(data))) in (0, 16)


@settings(deadline=None)
@given(data=st.binary(max_size=600))
def test_bytes_at_random_are_refused(data: bytes) -> None:
    assert parse(data) == b""
