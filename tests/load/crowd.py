"""Clients who do everything wrong at once, in a process of their own.

`python -m tests.load.crowd PORT ATTACK COUNT [ADDRESS]` keeps COUNT connections busy with an attack, each
opened again as soon as the server ends it. It prints `ready` once so many have got as far as the attack goes,
and when its standard input is closed how often what happened, as JSON. It imports nothing of the project:
there are many of it, and starting shall cost little.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

EVIDENCE = "/.well-known/blindbuild/evidence"
ENDORSEMENT = "/.well-known/blindbuild/endorsement"
ROUTE = "/v1/hello"

LARGE = 300_000  # bytes: what the gate of these tests takes and gives at most
AGAIN_S = 0.01  # before an ended connection is opened again: a flood, but one machine's
SMALL_WINDOW = 4096  # bytes of a receive buffer that somebody who does not read would choose
SMALL_SEGMENT = (
    536  # bytes: the sender's kernel sets aside a buffer for ten of them, not for ten of loopback's
)
BYTE_S = 0.1  # between two bytes of a client that is as slow as it can be

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def tls_context() -> ssl.SSLContext:
    """A client's context that checks nothing: attackers do not care whom they talk to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def client_hello() -> bytes:
    """The first flight of a handshake."""
    out = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        tls_context().wrap_bio(ssl.MemoryBIO(), out).do_handshake()
    return out.read()


def post(path: str, body: bytes, *, length: int | None = None) -> bytes:
    """A request, whose stated length may be a lie."""
    stated = len(body) if length is None else length
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {stated}\r\n\r\n".encode() + body


def ask_evidence() -> bytes:
    """An evidence request with a nonce of its own."""
    fields = {"version": 1, "profile": "tls-spki-quote-v1", "statement": "22" * 32, "bank": "sha256"}
    return post(EVIDENCE, json.dumps(fields | {"nonce": secrets.token_hex(32)}).encode())


class Crowd:
    """Opens connections and counts what becomes of them."""

    def __init__(self, port: int, address: str) -> None:
        self.port, self.address = port, address
        self.counts: Counter[str] = Counter()
        self.context = tls_context()
        self.hello = client_hello()

    async def plain(self) -> Streams:
        """A TCP connection."""
        streams = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(self.address, 0))
        self.counts["opened"] += 1
        return streams

    async def tls(self, *, window: int = 0) -> Streams:
        """A connection whose handshake is done."""
        raw = socket.socket()
        if window:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SMALL_SEGMENT)
        raw.bind((self.address, 0))
        raw.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
            self.counts["opened"] += 1
            streams = await asyncio.open_connection(
                sock=raw, ssl=self.context, server_hostname="x", limit=window or 2**16
            )
        except BaseException:
            raw.close()
            raise
        self.counts["shaken"] += 1
        return streams

    async def answer(self, reader: asyncio.StreamReader) -> int:
        """Read one answer and count its status."""
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
        await reader.readexactly(int(fields.get(b"Content-Length", b"0")))
        self.counts[str(status)] += 1
        return status

    async def keep(self, attack: Attack) -> None:
        """Attack again and again."""
        while True:
            writers: list[asyncio.StreamWriter] = []
            with suppress(OSError, EOFError, asyncio.LimitOverrunError):
                await attack(self, writers)
            for writer in writers:
                writer.transport.abort()
            self.counts["ended"] += 1
            await asyncio.sleep(AGAIN_S)


Attack = Callable[[Crowd, list[asyncio.StreamWriter]], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(run: Attack) -> Attack:
    """Name an attack by its function."""
    ATTACKS[run.__name__] = run
    return run


@attack
async def silent(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Connect and say nothing."""
    reader, writer = await crowd.plain()
    writers.append(writer)
    crowd.counts["attacks"] += 1
    await reader.read()


@attack
async def half_a_handshake(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Have the gate sign, and never answer it."""
    reader, writer = await crowd.plain()
    writers.append(writer)
    writer.write(crowd.hello)
    await reader.read(100)
    crowd.counts["attacks"] += 1
    await reader.read()


@attack
async def handshake_by_the_byte(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Send the handshake one byte at a time."""
    _reader, writer = await crowd.plain()
    writers.append(writer)
    crowd.counts["attacks"] += 1
    for position in range(len(crowd.hello)):
        writer.write(crowd.hello[position : position + 1])
        await writer.drain()
        await asyncio.sleep(BYTE_S)


@attack
async def large_hello(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Begin a handshake message that has no end."""
    reader, writer = await crowd.plain()
    writers.append(writer)
    for _ in range(4):  # records of 16 KiB, of a message of 64 KiB
        writer.write(b"\x16\x03\x01\x40\x00" + b"\x01\x00\xff\xff" + bytes(0x4000 - 4))
    crowd.counts["attacks"] += 1
    await reader.read()


@attack
async def handshakes(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Shake hands and leave, as fast as it goes."""
    _reader, writer = await crowd.tls()
    writers.append(writer)
    crowd.counts["attacks"] += 1


@attack
async def idle(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Shake hands and say nothing."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    crowd.counts["attacks"] += 1
    await reader.read()


@attack
async def head_by_the_byte(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Send a request's head one byte at a time."""
    _reader, writer = await crowd.tls()
    writers.append(writer)
    crowd.counts["attacks"] += 1
    for byte in post(ROUTE, b"x" * 100):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(BYTE_S)


@attack
async def long_head(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Send as much of a head as is taken, and not its end."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 8000)
    crowd.counts["attacks"] += 1
    await reader.read()


@attack
async def body_by_the_byte(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Announce a long body and send it one byte at a time."""
    _reader, writer = await crowd.tls()
    writers.append(writer)
    writer.write(post(ROUTE, b"", length=LARGE))
    crowd.counts["attacks"] += 1
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(BYTE_S)


@attack
async def half_a_body(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Announce a long body, send half of it, and wait."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    writer.write(post(ROUTE, b"x" * (LARGE // 2), length=LARGE))
    crowd.counts["attacks"] += 1
    await crowd.answer(reader)


@attack
async def oversized(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Send bodies that are too long, whatever the answer."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    writer.write(post(ROUTE, b"x" * LARGE, length=10 * LARGE))
    await crowd.answer(reader)
    crowd.counts["attacks"] += 1
    while True:
        writer.write(b"x" * 16384)
        await writer.drain()


@attack
async def half_closed(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Close one's own half in the middle of a request, and keep the other open."""
    reader, writer = await crowd.plain()
    writers.append(writer)
    crowd.counts["attacks"] += 1
    writer.write(crowd.hello[:-1])
    writer.write_eof()
    await reader.read()


@attack
async def slow_reader(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Have a long answer made, and read next to nothing of it."""
    reader, writer = await crowd.tls(window=SMALL_WINDOW)
    writers.append(writer)
    writer.write(post(ROUTE, b"x" * LARGE))
    crowd.counts["attacks"] += 1
    while await reader.read(1):
        crowd.counts["bytes read"] += 1
        await asyncio.sleep(BYTE_S)


@attack
async def evidence_loop(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Have the TPM quote nonce after nonce on one connection."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    while True:
        writer.write(ask_evidence())
        await crowd.answer(reader)
        crowd.counts["attacks"] += 1


@attack
async def evidence_anew(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Ask for evidence once on each of many connections."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    writer.write(ask_evidence())
    await crowd.answer(reader)
    crowd.counts["attacks"] += 1


@attack
async def evidence_unread(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Ask for evidence time and again, and read none."""
    reader, writer = await crowd.tls(window=SMALL_WINDOW)
    writers.append(writer)
    writer.write(ask_evidence() * 20)
    crowd.counts["attacks"] += 1
    await asyncio.sleep(60)
    await reader.read(1)


@attack
async def request_loop(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Keep the workload busy."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    while True:
        writer.write(post(ROUTE, b"x" * 1000))
        await crowd.answer(reader)
        crowd.counts["attacks"] += 1


@attack
async def health_loop(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Keep a connection busy with what costs nothing, several requests ahead."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    while True:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 8)
        crowd.counts["attacks"] += 1
        for _ in range(8):
            await crowd.answer(reader)


@attack
async def endorsement_loop(crowd: Crowd, writers: list[asyncio.StreamWriter]) -> None:
    """Ask who the TPM is, again and again."""
    reader, writer = await crowd.tls()
    writers.append(writer)
    while True:
        writer.write(f"GET {ENDORSEMENT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await crowd.answer(reader)
        crowd.counts["attacks"] += 1


async def run(port: int, name: str, count: int, address: str) -> Counter[str]:
    """Attack until standard input ends."""
    crowd = Crowd(port, address)
    tasks = [asyncio.create_task(crowd.keep(ATTACKS[name])) for _ in range(count)]
    while crowd.counts["attacks"] < count:
        await asyncio.sleep(AGAIN_S)
    print("ready", flush=True)  # noqa: T201
    await asyncio.to_thread(sys.stdin.read)
    assert not any(task.done() for task in tasks), "an attacker gave up"
    return crowd.counts


def main() -> None:
    """Read the arguments, attack, report."""
    port, name, count, address = [*sys.argv[1:], "127.0.0.1"][:4]

    async def attack_and_report() -> None:
        print(json.dumps(await run(int(port), name, int(count), address)), flush=True)  # noqa: T201
        os._exit(0)  # an orderly end of a thousand TLS connections would take seconds

    asyncio.run(attack_and_report())


if __name__ == "__main__":
    main()
