"""Who may use the local proxy: programs of this user, and pages that he named; nobody else on this machine.

The proxy speaks plain HTTP on loopback, where three kinds of strangers can come by: other users' programs,
web pages of any origin in this user's browser, and pages that make a name of theirs mean 127.0.0.1 (DNS
rebinding).
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import re
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client.http1_request import RequestHead
from blindbuild.errors import UsageError

TOKEN_HEADER = "blindbuild-token"  # noqa: S105 the name of a header
_ORIGIN = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?")
_BEARER = "bearer "
_HTTP_PORT = 80
_ORPHAN = "0"  # the inode of a socket that no process has any more; it is said to be root's


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not taken."""

    status: int
    message: str
    hint: str


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask.

    Attributes:
        host: the address that is listened at; empty for a socket in the file system.
        port: of that address.
        token: what each request must carry, or None.
        origins: pages that may ask, such as `https://app.example`.
        remote: whether the address is one that other machines reach.
    """

    host: str
    port: int
    token: str | None = None
    origins: frozenset[str] = frozenset()
    remote: bool = False

    @property
    def endpoint(self) -> str:
        """The address for people and programs."""
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}"

    def refuse(self, head: RequestHead) -> Refusal | None:
        """Return why a request is refused, or None when it may go on."""
        return self._refuse_host(head) or self.refuse_origin(head) or self._refuse_token(head)

    def refuse_origin(self, head: RequestHead) -> Refusal | None:
        """Return why a page may not ask, or None; a program that is no browser says nothing of pages."""
        origin = head.get("origin")
        if not origin:
            # a browser asks for images without an origin, but says that they are for another site
            foreign = head.get("sec-fetch-site") in ("cross-site", "same-site")
            return _foreign("unnamed") if foreign else None
        if origin in self.origins or (self.host and origin == self.endpoint):
            return None
        return _foreign(origin)

    def allows_page(self, head: RequestHead) -> bool:
        """Return whether a page that was named asks."""
        return head.get("origin") in self.origins

    def _refuse_host(self, head: RequestHead) -> Refusal | None:
        if not self.host or self.remote:
            return None
        names = ("localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host)
        known = {f"{name}:{self.port}" for name in names} | (set(names) if self.port == _HTTP_PORT else set())
        if head.get("host").lower() in known:
            return None
        return Refusal(
            421,
            f"expected a request for {self.endpoint}, got one for {head.get('host')[:80]!r}",
            "a page in a browser may have made its own name mean this machine; use the address as printed",
        )

    def _refuse_token(self, head: RequestHead) -> Refusal | None:
        if self.token is None or self._has_token(head.get(TOKEN_HEADER)) or self.in_authorization(head):
            return None
        return Refusal(
            401,
            "expected the token of this proxy",
            "send it as `Authorization: Bearer TOKEN`, or as `Blindbuild-Token: TOKEN`",
        )

    def in_authorization(self, head: RequestHead) -> bool:
        """Return whether the Authorization header is for the proxy, and so not for the server."""
        value = head.get("authorization")
        return value.lower().startswith(_BEARER) and self._has_token(value[len(_BEARER) :].strip())

    def _has_token(self, value: str) -> bool:
        expected = self.token or ""
        return bool(expected) and hmac.compare_digest(value.encode(), expected.encode())


def check_origin(text: str) -> str:
    """Return an origin that a page can have.

    Raises:
        UsageError: it is none; `*` and `null` would be everybody.
    """
    if not _ORIGIN.fullmatch(text):
        raise UsageError(
            f"expected an origin such as https://app.example or http://localhost:3000, got {text[:80]!r}"
        )
    return text


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def same_user(connection: socket.socket, tables: Path = Path("/proc/net")) -> bool:
    """Return whether a process of this user opened the other end of a connection on this machine.

    Linux says it in its tables of TCP connections; without them, as where /proc is hidden, nobody passes.
    Other systems have no such table, and everybody passes.

    Source: proc(5), /proc/net/tcp; the kernel's Documentation/networking/proc_net_tcp.rst.
    """
    if not (tables / "tcp").exists():
        return sys.platform != "linux"
    theirs, ours = connection.getpeername(), connection.getsockname()
    return _owner(tables, theirs[:2], ours[:2]) == os.geteuid()


def _owner(tables: Path, local: tuple[str, int], remote: tuple[str, int]) -> int | None:
    """Return the user whose socket has this local and this remote end."""
    for name, mapped in (("tcp", False), ("tcp6", False), ("tcp6", True)):
        wanted = (_entry(*local, mapped=mapped), _entry(*remote, mapped=mapped))
        path = tables / name
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if (fields[1], fields[2]) == wanted and fields[9] != _ORPHAN:
                return int(fields[7])
    return None


def _entry(host: str, port: int, *, mapped: bool) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    packed = address.packed
    if mapped and len(packed) == 4:
        packed = bytes(10) + b"\xff\xff" + packed
    # each 32-bit word as this machine stores it
    words = struct.unpack(f"{'<' if sys.byteorder == 'little' else '>'}{len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def _foreign(origin: str) -> Refusal:
    return Refusal(
        403,
        f"expected no request of a web page, or of a page that was allowed, got one of {origin[:80]!r}",
        "if the page is yours, start the proxy with --allow-origin and its origin",
    )
