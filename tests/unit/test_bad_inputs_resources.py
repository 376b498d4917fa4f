"""Bad input 126: what costs the sender little and the reader much. Limits of size stop it, and no clock."""

from __future__ import annotations

import ast
import base64
import dataclasses
import gzip
import http.server
import importlib
import inspect
import json
import pkgutil
import re
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as sre  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any

import pytest

from blindbuild.client.http1 import read_response
from blindbuild.client.web import fetch
from blindbuild.errors import (
    BlindbuildError,
    CanonicalError,
    ChannelError,
    EventLogError,
    FormatError,
    ManifestError,
)
from blindbuild.formats.canonical import MAX_DEPTH, parse_json
from blindbuild.formats.cbor import decode_cbor
from blindbuild.formats.certificate import trim_padding
from blindbuild.formats.certificate_chain import parse_pem_chain
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.manifest import parse_trust
from blindbuild.verify import parse_endorsement, parse_evidence, parse_session, session_bytes
from tests.bad_inputs import record, refused, refusing
from tests.fakes.published import Event, honest_boot, log_bytes
from tests.fakes.world import authority, judge, publisher, session, tpm, with_evidence

pytestmark = pytest.mark.bad_input(126)
MANY = 1_000_000


def bounded(
    work: Callable[[], object], error: type[BlindbuildError], saying: str, *, peak_bytes: int
) -> None:
    """The work ends in this error, having taken no more memory than that."""
    tracemalloc.start()
    try:
        with refusing(saying, error):
            work()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < peak_bytes


# --- compression


BOMB = gzip.compress(bytes(64 << 20), 9)


@pytest.fixture
def bomb_server() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(BOMB)))
            self.end_headers()
            self.wfile.write(BOMB)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/entries"
        server.shutdown()
        thread.join()


def test_a_gzip_bomb_instead_of_a_file_of_a_log(bomb_server: str) -> None:
    bounded(
        lambda: fetch(bomb_server, limit_bytes=1 << 20),
        ChannelError,
        "expected one gzip stream of at most 1048576 bytes",
        peak_bytes=8 << 20,
    )


@pytest.mark.parametrize("header", ["Content-Encoding: gzip", "Transfer-Encoding: gzip, chunked"])
def test_a_gzip_bomb_instead_of_evidence(header: str) -> None:
    answer = f"HTTP/1.1 200 X\r\n{header}\r\nContent-Length: {len(BOMB)}\r\n\r\n".encode() + BOMB
    parts = iter([answer])
    bounded(
        lambda: read_response(lambda: next(parts), max_body=4 << 20),
        ChannelError,
        "expected a body as it is, got an encoded one",
        peak_bytes=1 << 20,
    )


# --- very many of something


def test_a_million_events() -> None:
    one = struct.pack("<IIIH32sI", 1, 5, 1, 0x0B, b"", 0)
    head = log_bytes([honest_boot()[0]], ("sha256",))
    log = head[: 32 + struct.unpack_from("<I", head, 28)[0]] + one * MANY
    bounded(lambda: parse_event_log(log), EventLogError, "expected at most 1048576 bytes", peak_bytes=1 << 20)
    # and below the limit of bytes, that of events
    many = log[: 1 << 20]
    saying = "expected at most 4096 events"
    bounded(lambda: parse_event_log(many), EventLogError, saying, peak_bytes=16 << 20)
    refused(judge(with_evidence(session(), event_log=many)), "E4:log-malformed", saying=saying)


def test_an_event_log_that_grows_inside_of_a_session() -> None:
    value = json.loads(session_bytes(session()))
    value["evidence"]["eventLog"] = base64.b64encode(bytes((1 << 20) + 1)).decode()
    with refusing("Q10:malformed"):
        parse_session(json.dumps(value).encode())
    with refusing("Q10:malformed"):
        parse_evidence(json.dumps(value["evidence"]).encode())


def test_a_million_certificates() -> None:
    endorsement = json.loads(session_bytes(session()))["endorsement"]
    endorsement["ekCertificates"] = [{"nvIndex": "0x01c00002", "certificate": ""}] * MANY
    with refusing("Q10:malformed"):  # more bytes than an answer may have
        parse_endorsement(json.dumps(endorsement).encode())
    endorsement["ekCertificates"] = endorsement["ekCertificates"][:9]
    with refusing("Q10:malformed"):  # more than a TPM has
        parse_endorsement(json.dumps(endorsement).encode())
    trust = json.loads(publisher().trust(tpm_roots=[authority().root_pem]))
    for count in (65, MANY):
        trust["tpmRoots"] = [authority().root_pem if count == 65 else "x"] * count
        saying = "expected 0 to 64 entries" if count == 65 else "expected at most 1048576 bytes"
        with refusing(saying, ManifestError):
            parse_trust(json.dumps(trust).encode())
    chain = authority().root_pem * 1000
    with refusing("expected 1 to 8 PEM certificates", FormatError):
        parse_pem_chain(chain)


@pytest.mark.parametrize("size", [8193, 1 << 20])
def test_a_certificate_that_has_no_end(size: int) -> None:
    der = tpm().ek_certificate
    with refusing("expected a certificate of at most 8192 bytes", FormatError):
        trim_padding(der + bytes(size - len(der)))


def test_a_million_signatures() -> None:
    envelope = json.loads(publisher().envelope)
    for count in (17, MANY):
        data = json.dumps(envelope | {"signatures": [{"sig": ""}] * count}).encode()
        saying = "signatures: expected a list of 1 to 16" if count == 17 else "expected at most 2097152 bytes"
        refused(judge.but(envelope=data)(session()), "M4:envelope-refused", saying=saying)


def test_a_million_registers() -> None:
    value = json.loads(session_bytes(session()))
    value["evidence"]["pcrs"] = ["00" * 32] * 100_000
    with refusing("Q10:malformed"):
        parse_session(json.dumps(value).encode())


# --- recursion


DEEP = 500_000  # levels; more are too many values
NESTED = (
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":[' * 1000 + b"1" + b"]}" * 1000,
)


@pytest.mark.parametrize("data", NESTED, ids=("open lists", "open objects", "lists", "both"))
def test_json_nested_without_end(data: bytes) -> None:
    with refusing(f"JSON is nested deeper than {MAX_DEPTH} levels", CanonicalError):
        parse_json(data, max_bytes=8 << 20)
    for parse in (parse_session, parse_endorsement, parse_evidence):
        with refusing("Q10:malformed"):
            parse(data)
    with pytest.raises(ManifestError):
        parse_trust(data)


@pytest.mark.parametrize("item", [b"\x81", b"\xa1\x60", b"\x9f", b"\xc1"], ids=bytes.hex)
def test_cbor_nested_without_end(item: bytes) -> None:
    with pytest.raises(FormatError) as caught:
        decode_cbor(item * 10_000)
    record(f"FormatError: {caught.value.message.partition(',')[0].partition(' at ')[0]}")


# --- regular expressions


# each iteration begins with a character that the one before cannot hold, so there is one way to divide a text
DELIMITED = {
    "blindbuild.formats.oci._REFERENCE": "a separator or a slash",
    "blindbuild.client.registry_login._PARAMETERS": "a comma outside of quotation marks",
}


def modules() -> Iterator[ModuleType]:
    """The modules of the verifying side."""
    for package in ("formats", "manifest", "measure", "verify", "client"):
        parent = importlib.import_module(f"blindbuild.{package}")
        for found in pkgutil.iter_modules(parent.__path__, f"{parent.__name__}."):
            yield importlib.import_module(found.name)


def patterns() -> Iterator[tuple[str, str | bytes]]:
    """Every regular expression of the verifying side: values of modules, and those written where used."""
    for module in modules():
        for name, value in vars(module).items():
            if isinstance(value, re.Pattern):
                yield f"{module.__name__}.{name}", value.pattern
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.startswith("re.") and called not in ("re.compile", "re.escape"):
                assert isinstance(node.args[0], ast.Constant), module.__name__
                yield f"{module.__name__}:{node.lineno}", node.args[0].value


def repetitions(parsed: sre.SubPattern, inside: bool = False) -> Iterator[str]:
    """What makes backtracking cost more than a constant times the square of a text's length."""
    for operator, argument in parsed:
        bodies, within = _bodies(operator, argument), inside
        if operator in (codes.MAX_REPEAT, codes.MIN_REPEAT):
            unbounded = argument[1] is codes.MAXREPEAT or argument[1] > 1 << 16
            if unbounded and inside:
                yield "an unbounded repetition of an unbounded repetition"
            within = inside or unbounded
        elif operator in (codes.GROUPREF, codes.GROUPREF_EXISTS):
            yield "a reference to a group"
        elif operator is codes.BRANCH and inside and not _differ(bodies):
            yield "an unbounded repetition of alternatives that begin alike"
        for body in bodies:
            yield from repetitions(body, within)


def _bodies(operator: object, argument: Any) -> list[sre.SubPattern]:
    if operator is codes.BRANCH:
        return argument[1]
    one_body = (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.SUBPATTERN, codes.ASSERT, codes.ASSERT_NOT)
    return [argument[-1]] if operator in one_body else []


def _differ(branches: list[sre.SubPattern]) -> bool:
    firsts = [branch[0] for branch in branches if len(branch)]
    literals = [argument for operator, argument in firsts if operator is codes.LITERAL]
    return len(literals) == len(branches) == len(set(literals))


def faults(pattern: str | bytes) -> list[str]:
    return list(repetitions(sre.parse(pattern)))


def test_regular_expressions_that_blow_up_are_found() -> None:
    for bad in (r"(a+)+b", r"(?:a*)*", r"(a|a)*b", r"(?:[a-z]+ ?)*x", r"(.)\1", r"(?:x(?:y*z)*)+"):
        assert faults(bad), bad
    for good in (r"[a-z]+", r"(?:[A-Za-z0-9+/]{4})*(?:[A-Z]{2}==)?", r"(?:ab|cd)*", r"(?:(?:x){1,3})*"):
        assert not faults(good), good
    record("no regular expression repeats a repetition")


def test_no_regular_expression_repeats_a_repetition() -> None:
    found = list(patterns())
    assert len(found) > 60
    bad = {name for name, pattern in found if faults(pattern)}
    assert bad == DELIMITED.keys()
    record("no regular expression repeats a repetition")


def test_the_events_of_an_honest_boot_are_far_from_the_limit() -> None:
    boot = [dataclasses.replace(event) for event in honest_boot()]
    assert isinstance(boot[0], Event)
    assert len(boot) * 10 < 4096
    record("accepted")
