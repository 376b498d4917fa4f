"""init.conf as init reads it, against a description of the format that shares nothing with it."""

from __future__ import annotations

import ipaddress
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from blindbuild.assemble.rootfs import InitConf, StaticNetwork
from tests.fakes.guest_init import harness

NUMBER = r"(0|[1-9][0-9]*)"
CONF = re.compile(
    r"blindbuild-init 1\n"
    rf"network (?:dhcp|static ([0-9.]+) {NUMBER} ([0-9.]+))\n"
    rf"port {NUMBER}\nmemory {NUMBER}\nseconds {NUMBER}\nconcurrency {NUMBER}\n"
    r"arg /[ -~]*\n(?:arg [ -~]+\n){0,15}end\n"
)
GOOD = (
    b"blindbuild-init 1\nnetwork static 10.0.2.15 24 10.0.2.2\nport 443\nmemory 67108864\nseconds 30\n"
    b"concurrency 4\narg /app/hello\narg --fast\narg a b\nend\n"
)


def is_host(text: str | None) -> bool:
    try:
        address = ipaddress.IPv4Address(text or "")
    except ValueError:
        return False
    first = address.packed[0]
    return str(address) == text and first not in (0, 127) and first < 224


def should_accept(data: bytes) -> bool:
    """Say what the contract says; CONF for the form, the ranges by hand."""
    match = CONF.fullmatch(data.decode("latin-1"))
    if match is None or len(data) > 4095:
        return False
    address, prefix, router = match.group(1, 2, 3)
    if address is not None and not (is_host(address) and is_host(router) and address != router):
        return False
    port, memory, seconds, concurrency = (int(value) for value in match.group(4, 5, 6, 7))
    return (
        (prefix is None or 1 <= int(prefix) <= 32)
        and 1 <= port <= 65535
        and 1 << 20 <= memory <= 1 << 46
        and 1 <= seconds <= 86400
        and 1 <= concurrency <= 16
    )


def accepts(data: bytes) -> bool:
    answer = harness("config").ask(data)
    assert answer in (b"", data), "what was read is not what was written"
    return bool(answer)


def test_a_complete_file_is_read() -> None:
    assert accepts(GOOD)
    assert accepts(GOOD.replace(b"static 10.0.2.15 24 10.0.2.2", b"dhcp"))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"blindbuild-init 1", b"blindbuild-init 2"),
        (b"443", b"0443"),
        (b"443", b"+443"),
        (b"443", b" 443"),
        (b"443", b"443 "),
        (b"443", b"65536"),
        (b"443", b"0"),
        (b"443", b"18446744073709552059"),  # 443 + 2**64
        (b"67108864", b"1048575"),
        (b"67108864", b"70368744177665"),
        (b"seconds 30", b"seconds 0"),
        (b"seconds 30", b"seconds 86401"),
        (b"seconds 30", b"seconds -30"),
        (b"concurrency 4", b"concurrency 17"),
        (b" 24 ", b" 0 "),
        (b" 24 ", b" 33 "),
        (b" 24 ", b" 280 "),  # 24 + 256
        (b"10.0.2.15", b"10.0.2.271"),  # 15 + 256
        (b"10.0.2.15", b"10.0.2.015"),
        (b"10.0.2.15", b"10.0.2.2"),
        (b"10.0.2.15", b"127.0.0.1"),
        (b"10.0.2.15", b"224.0.0.1"),
        (b"10.0.2.15", b"0.0.0.0"),
        (b"10.0.2.2\n", b"0.0.0.0\n"),
        (b"10.0.2.2\n", b"0.0.2.2\n"),
        (b"arg /app/hello", b"arg app/hello"),
        (b"arg --fast", b"arg "),
        (b"arg --fast", b"arg \xc3\xa9"),
        (b"arg --fast", b"arg a\x00b"),
        (b"arg --fast", b"arg a\tb"),
        (b"arg --fast\n", b"arg x\n" * 15),
        (b"arg /app/hello\narg --fast\narg a b\n", b""),
        (b"end\n", b"end"),
        (b"end\n", b"end\n\n"),
        (b"end\n", b"end\nend\n"),
        (b"end\n", b"end\n\x00"),
        (b"port", b"Port"),
        (b"\nport", b"\n\nport"),
        (b"\nport", b"\r\nport"),
        (b"port 443\nmemory 67108864\n", b"memory 67108864\nport 443\n"),
        (b"a b", b"a" * 4096),
    ],
)
def test_any_other_spelling_is_refused(before: bytes, after: bytes) -> None:
    data = GOOD.replace(before, after, 1)
    assert data != GOOD
    assert not accepts(data)
    assert not should_accept(data)


def test_every_truncation_is_refused() -> None:
    assert not any(accepts(GOOD[:size]) for size in range(len(GOOD)))


def test_every_flipped_bit_gives_what_the_description_says() -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            data = bytearray(GOOD)
            data[position] ^= 1 << bit
            assert accepts(bytes(data)) == should_accept(bytes(data)), bytes(data)


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_bytes_at_random_are_refused(data: bytes) -> None:
    assert not accepts(data)


@settings(deadline=None)
@given(
    address=st.integers(1, 0xDFFFFFFF),
    prefix=st.integers(0, 40),
    router=st.integers(1, 0xDFFFFFFF),
    numbers=st.tuples(
        st.integers(0, 70000), st.integers(0, 1 << 47), st.integers(0, 90000), st.integers(0, 20)
    ),
)
@example(address=0x0A00020F, prefix=32, router=0x0A000202, numbers=(1, 1 << 20, 1, 1))
def test_numbers_are_taken_exactly_within_their_ranges(
    address: int, prefix: int, router: int, numbers: tuple[int, int, int, int]
) -> None:
    hosts = [str(ipaddress.IPv4Address(value)) for value in (address, router)]
    text = (
        f"blindbuild-init 1\nnetwork static {hosts[0]} {prefix} {hosts[1]}\nport {numbers[0]}\n"
        f"memory {numbers[1]}\nseconds {numbers[2]}\nconcurrency {numbers[3]}\narg /x\nend\n"
    ).encode()
    assert accepts(text) == should_accept(text)


@settings(deadline=None)
@given(
    arguments=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), max_size=15)
)
def test_what_the_assembler_writes_init_reads(arguments: list[str]) -> None:
    conf = InitConf(
        network=StaticNetwork(address="192.0.2.7", prefix_length=25, router="192.0.2.1"),
        port=8443,
        memory=1 << 30,
        seconds=60,
        concurrency=16,
        arguments=("/bin/serve", *arguments),
    )
    assert accepts(conf.render())
