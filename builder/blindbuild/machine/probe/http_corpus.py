"""Requests that no client of the product sends, and some that it does, each with the answers it may get.

Source: RFC 9112; guest-abi "Gate": every path but the gate's own and the recipe's is a 404.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HEALTH_PATH = "/healthz"
EVIDENCE_PATH = "/.well-known/blindbuild/evidence"
ENDORSEMENT_PATH = "/.well-known/blindbuild/endorsement"
SEALED_PATH = "/.well-known/blindbuild/sealed"
FUZZED_PATHS = 16
FUZZ_SEED = b"blindbuild paths 1"
BODY_SIZES = (0, 1, 100, 3_000, 20_000)  # bytes; below, at and above the answers' buckets

_PATHS = (
    *("/", "/index.html", "/favicon.ico", "/robots.txt", "/health", "/healthz/", "/healthz?verbose=1"),
    *(
        "//healthz",
        "/HEALTHZ",
        "/%68ealthz",
        "/./healthz",
        "/metrics",
        "/status",
        "/version",
        "/server-status",
    ),
    *("/debug/pprof/", "/debug/vars", "/.env", "/admin", "/v1", "/v1/", "/v2/", "/api", "/graphql"),
    *("/.well-known/", "/.well-known/blindbuild", "/.well-known/acme-challenge/x", "/../etc/passwd", "*"),
    *("/" + "a" * 4000, "https://127.0.0.1/healthz"),
)
_METHODS = ("HEAD", "OPTIONS", "TRACE", "CONNECT", "PUT", "DELETE", "PATCH", "PROPFIND", "get", "PRI")
_REFUSED = frozenset({400, 404, 413})


@dataclass(frozen=True, slots=True)
class ProbeRequest:
    """One request: what it is, its bytes, and the statuses it may get."""

    name: str
    data: bytes
    allowed: frozenset[int]


def make_requests(routes: Iterable[str], *, sealed: bool = False) -> tuple[ProbeRequest, ...]:
    """Return all requests, always the same.

    Args:
        routes: the recipe's paths, which are asked with bodies of several sizes.
        sealed: the image takes sealed requests only, so that its routes are not there for a stranger.
    """
    return (
        ProbeRequest("GET /healthz", _request("GET", HEALTH_PATH), frozenset({204})),
        ProbeRequest("GET endorsement", _request("GET", ENDORSEMENT_PATH), frozenset({200, 422})),
        ProbeRequest("GET evidence", _request("GET", EVIDENCE_PATH), frozenset({404})),
        ProbeRequest("POST evidence without sense", _request("POST", EVIDENCE_PATH, b"{}"), frozenset({400})),
        *_paths(),
        *_methods(),
        *_malformed(),
        *(request for route in routes for request in _recipe(route, sealed=sealed)),
        *(_sealed() if sealed else ()),
    )


def _request(method: str, path: str, body: bytes | None = None, *lines: str) -> bytes:
    head = [f"{method} {path} HTTP/1.1", "Host: probe.invalid", *lines]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode("ascii") + (body or b"")


def _paths() -> Iterator[ProbeRequest]:
    fuzzed = (
        "/" + hashlib.sha256(FUZZ_SEED + bytes((number,))).hexdigest()[: 1 + 3 * number]
        for number in range(FUZZED_PATHS)
    )
    for path in (*_PATHS, *fuzzed):
        yield ProbeRequest(f"GET {path[:40]}", _request("GET", path), frozenset({404}))


def _methods() -> Iterator[ProbeRequest]:
    for method in _METHODS:
        for path in (HEALTH_PATH, "/"):
            yield ProbeRequest(f"{method} {path}", _request(method, path), _REFUSED)
    yield ProbeRequest("POST /", _request("POST", "/", b"data"), frozenset({404}))
    yield ProbeRequest("POST /healthz", _request("POST", HEALTH_PATH, b""), frozenset({404}))


def _malformed() -> Iterator[ProbeRequest]:
    host = b"Host: probe.invalid\r\n"
    get = b"GET / HTTP/1.1\r\n"
    healthy = b"GET /healthz HTTP/1.1\r\n" + host
    texts = {
        "HTTP/1.0": b"GET /healthz HTTP/1.0\r\n" + host + b"\r\n",
        "HTTP/0.9": b"GET /healthz\r\n\r\n",
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "HTTP/3.0": b"GET / HTTP/3.0\r\n" + host + b"\r\n",
        "no HTTP": b"\x00\x01\x02\x03\r\n\r\n",
        "no words": b"\r\n\r\n",
        "no host": get + b"\r\n",
        "two hosts": get + 2 * host + b"\r\n",
        "a folded line": get + host + b"X: a\r\n b\r\n\r\n",
        "a space before a colon": get + host + b"X : a\r\n\r\n",
        "bare line feeds": b"GET / HTTP/1.1\nHost: probe.invalid\n\r\n\r\n",
        "a zero byte": get + host + b"X: \x00\r\n\r\n",
        "chunks": healthy + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "chunks and a length": healthy + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "a negative length": healthy + b"Content-Length: -1\r\n\r\n",
        "a length of 20 digits": healthy + b"Content-Length: 99999999999999999999\r\n\r\n",
        "two lengths": healthy + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n",
        "an unknown expectation": healthy + b"Expect: 200-maybe\r\n\r\n",
        "a websocket": healthy + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/2 by upgrade": healthy + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        "a line of 9,000 bytes": get + host + b"X: " + b"a" * 9_000 + b"\r\n\r\n",
        "a hundred lines": get + host + b"X: a\r\n" * 100 + b"\r\n",
    }
    for name, data in texts.items():
        yield ProbeRequest(name, data, _REFUSED)


def _recipe(route: str, *, sealed: bool) -> Iterator[ProbeRequest]:
    # what the workload makes of such a body is its own affair, so any status of the gate will do
    allowed = frozenset({404}) if sealed else frozenset({200, 413, 502, 503})
    for size in BODY_SIZES:
        data = _request("POST", route, b"a" * size, "Content-Type: application/octet-stream")
        yield ProbeRequest(f"POST {route} with {size} bytes", data, allowed)
    yield ProbeRequest(f"GET {route}", _request("GET", route), frozenset({404}))


def _sealed() -> Iterator[ProbeRequest]:
    """What nobody has sealed; docs/spec/hpke-channel.md, "An answer"."""
    for size in BODY_SIZES:
        data = _request("POST", SEALED_PATH, b"a" * size, "Content-Type: application/octet-stream")
        yield ProbeRequest(f"POST sealed with {size} bytes", data, frozenset({422}))
    yield ProbeRequest("GET sealed", _request("GET", SEALED_PATH), frozenset({404}))
