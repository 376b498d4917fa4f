"""A proxy on loopback: any program or page asks it in plain HTTP, and it asks an attested server.

A request is read no further than its head until the server behind was judged; when it is refused, the answer
is a 502 in words and nothing is passed on. Answers are passed on whole, since a gate answers whole bodies.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol

from blindbuild.client.attested_pool import AttestedPool
from blindbuild.client.http1 import Response
from blindbuild.client.http1_request import METHODS, RequestHead, write_forwarded
from blindbuild.client.proxy_access import TOKEN_HEADER, Access, Refusal
from blindbuild.errors import BlindbuildError, ChannelError, VerificationError
from blindbuild.formats.printable import visible

MAX_REQUEST_BODY = 64 << 20  # bytes; as many are held as there are connections to the server
_NOT_PASSED_ON = frozenset({"connection", "content-length", "keep-alive", "set-cookie", "transfer-encoding"})


class ClientGoneError(Exception):
    """The local program hung up or was too slow; there is nobody to answer."""


class Incoming(Protocol):
    """What a local program sends on one connection."""

    @property
    def done(self) -> bool:
        """Whether all of the request was read."""
        ...

    def body(self, head: RequestHead) -> bytes | None:
        """Return the request's body, or None when the program hung up."""
        ...


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to a local program.

    Attributes:
        closing: the connection ends after it, with what was not read of the request.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    closing: bool = False


class Proxy:
    """Answers local requests from one attested server.

    Args:
        pool: lends connections that were judged.
        access: who may ask.
        max_body: bytes of a request.
    """

    def __init__(self, pool: AttestedPool, access: Access, *, max_body: int = MAX_REQUEST_BODY) -> None:
        self._pool = pool
        self.access = access
        self._max_body = max_body

    def answer(self, head: RequestHead, incoming: Incoming) -> Reply:
        """Return the answer to one request, whose body is read only when the server was judged."""
        refusal = self.access.refuse_origin(head)
        if refusal is None and head.method == "OPTIONS" and head.get("access-control-request-method"):
            return self._preflight(head)
        refusal = refusal or self.access.refuse(head) or self._refuse(head)
        if refusal is not None:
            return self._with_cors(head, _in_words(head, refusal))
        return self._with_cors(head, self._forward(head, incoming))

    def _forward(self, head: RequestHead, incoming: Incoming) -> Reply:
        try:
            with self._pool.lend() as connection:
                body = incoming.body(head)
                if body is not None:
                    message = write_forwarded(head, body, host=connection.host, without=self._own(head))
                    self._pool.check(connection)  # the program may have taken its time
                    return _passed_on(connection.transmit(message))
        except BlindbuildError as error:
            return _failed(head, error, closing=not incoming.done)
        except Exception as error:
            # a fault of the proxy is a refusal too; its text may quote the request, so it is not shown
            broken = BlindbuildError(f"the proxy itself broke: {type(error).__name__}")
            return _failed(head, broken, closing=not incoming.done)
        raise ClientGoneError  # with the connection to the server as it was

    def _own(self, head: RequestHead) -> tuple[str, ...]:
        """Return the headers that are for the proxy."""
        return (TOKEN_HEADER, "authorization") if self.access.in_authorization(head) else (TOKEN_HEADER,)

    def _refuse(self, head: RequestHead) -> Refusal | None:
        if head.method not in METHODS:
            return Refusal(405, f"expected one of {', '.join(sorted(METHODS))}, got {head.method}", "")
        try:
            length = head.length
        except ChannelError as error:
            return Refusal(411, error.message, "chunked bodies are not taken: send it with its length")
        if length > self._max_body:
            return Refusal(413, f"expected at most {self._max_body} bytes of body, got {length}", "")
        return None

    def _preflight(self, head: RequestHead) -> Reply:
        """Answer a browser that asks whether a page may ask."""
        headers = (
            ("Access-Control-Allow-Methods", ", ".join(sorted(METHODS))),
            ("Access-Control-Allow-Headers", head.get("access-control-request-headers") or "content-type"),
            ("Access-Control-Allow-Private-Network", "true"),
            ("Access-Control-Max-Age", "600"),
        )
        return self._with_cors(head, Reply(204, headers, b""))

    def _with_cors(self, head: RequestHead, reply: Reply) -> Reply:
        if not self.access.allows_page(head):
            return reply
        cors = (("Access-Control-Allow-Origin", head.get("origin")), ("Vary", "Origin"))
        return Reply(reply.status, (*reply.headers, *cors), reply.body, reply.closing)


def _passed_on(response: Response) -> Reply:
    headers = tuple(
        (name, value)
        for name, value in response.headers.items()
        if name not in _NOT_PASSED_ON and not name.startswith(("padding", "access-control-"))
    )
    return Reply(response.status, headers, response.body)


def _failed(head: RequestHead, error: BlindbuildError, *, closing: bool) -> Reply:
    """Return a 502 in words: JSON for programs that ask for it, text for people."""
    kind = "attestation" if isinstance(error, VerificationError) else "connection"
    code = f"{error.step}:{error.reason}" if isinstance(error, VerificationError) else kind
    if "json" in head.get("accept"):
        return _json(502, kind, code, error.message, error.hint, closing=closing)
    return in_text(502, error.message, error.hint, closing=closing)


def _in_words(head: RequestHead, refusal: Refusal) -> Reply:
    if "json" in head.get("accept"):
        return _json(refusal.status, "proxy", "refused", refusal.message, refusal.hint, closing=True)
    return in_text(refusal.status, refusal.message, refusal.hint, closing=True)


def _json(status: int, kind: str, code: str, message: str, hint: str | None, *, closing: bool) -> Reply:
    # the shape that programs made for the OpenAI API show to their users
    value = {"error": {"message": message, "type": kind, "code": code, "hint": hint or ""}}
    body = json.dumps(value, indent=2).encode() + b"\n"
    return Reply(status, (("Content-Type", "application/json"),), body, closing)


def in_text(status: int, message: str, hint: str | None, *, closing: bool = True) -> Reply:
    """Return an answer of the proxy's own, for people."""
    # curl prints it as it comes, and it may quote a server
    lines = [f"blindbuild: {visible(message)}", *(visible(line) for line in (hint or "").split("\n"))]
    body = "\n".join(lines).rstrip().encode() + b"\n"
    headers = (("Content-Type", "text/plain; charset=utf-8"), ("X-Content-Type-Options", "nosniff"))
    return Reply(status, headers, body, closing)
