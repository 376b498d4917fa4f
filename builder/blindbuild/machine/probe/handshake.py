"""What the gate shows to a stranger who speaks TLS and HTTP: versions, tickets, names, headers, lengths.

Source: CHANNELS rows 27, 28 and 30; guest-abi, "Gate and workload"; RFC 8446; RFC 9112.
"""

from __future__ import annotations

import contextlib
import re
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import ChannelError
from blindbuild.machine.probe.http_corpus import HEALTH_PATH, ProbeRequest, make_requests
from blindbuild.machine.probe.tls_stream import MAX_ANSWER_BYTES, TlsStream, client_context

KIB = 1 << 10
SMALL_BUCKETS = (KIB, 4 * KIB, 16 * KIB)
LARGEST_BUCKET = 64 * KIB  # beyond it: its multiples
UNASKED_S = 0.3  # for a ticket to come by itself; a later one is found in the session
AT_ONCE = 4  # connections; the gate has room for 64
SERVER_NAMES = ("gate.invalid", "example.com", "localhost", "a" * 60 + ".example")
PROTOCOLS = (("http/1.1",), ("h2", "http/1.1"), ("h2",), ("acme-tls/1",), ("h3", "spdy/3", "http/1.0"))
OLD_VERSIONS = {
    "TLS 1.0": ssl.TLSVersion.TLSv1,
    "TLS 1.1": ssl.TLSVersion.TLSv1_1,
    "TLS 1.2": ssl.TLSVersion.TLSv1_2,
}
EXPECTED_HEADERS: Mapping[str, re.Pattern[str]] = {
    "cache-control": re.compile("no-store"),
    "content-length": re.compile("0|[1-9][0-9]*"),
    "content-type": re.compile("application/json|application/octet-stream"),
    "connection": re.compile("close"),
}
EXPECTED_CERTIFICATE = (  # guest/gate/certificate.go; it says nothing of when and where it was made
    "version 3",
    "serial 1",
    "issuer ",
    "subject ",
    "from 2000-01-01T00:00:00+00:00",
    "until 9999-12-31T23:59:59+00:00",
    "names gate.invalid",
)
_HEALTH = f"GET {HEALTH_PATH} HTTP/1.1\r\nHost: probe.invalid\r\n\r\n".encode()
_PADDING = re.compile("padding(-[0-9]+)?")
_STATUS = re.compile(rb"HTTP/[0-9]\.[0-9] ([0-9]{3})(?: .*)?")
_BODILESS = frozenset({204, 304})
_MAX_NAMED = 5  # requests that one finding names


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back to one request.

    Attributes:
        request: what was sent, in words.
        allowed: the statuses it may have.
        status: None if the connection ended without an answer, or with something that is none.
        headers: names in lower case and values, in order.
        length: bytes of head and body.
        digest: of all of it.
        records: lengths of the TLS records that carried it.
    """

    request: str
    allowed: frozenset[int]
    status: int | None
    headers: tuple[tuple[str, str], ...]
    length: int
    digest: Digest
    records: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeReport:
    """What a stranger saw.

    Attributes:
        version: the negotiated version of TLS.
        old_versions: how the server refused each older one; None if it took it.
        tickets: records that came unasked after the handshake, or 1 for a ticket found in a session. Without
            one nobody can resume, so there is no early data either (RFC 8446, 4.2.10).
        resumed: whether a second handshake went on from the first.
        protocols: what ALPN chose, by what was offered.
        certificates: digests of all certificates seen under any server name.
        certificate_fields: what the certificate says besides key and signature, in words.
        certificate_frame: digest of the certificate's signed part without the key.
        answers: to every request of the corpus.
    """

    version: str
    old_versions: Mapping[str, str | None]
    tickets: int
    resumed: bool
    protocols: Mapping[str, str | None]
    certificates: frozenset[Digest]
    certificate_fields: tuple[str, ...]
    certificate_frame: Digest
    answers: tuple[Answer, ...]

    @property
    def answer_lengths(self) -> frozenset[int]:
        """The lengths of all answers."""
        return frozenset(answer.length for answer in self.answers if answer.status is not None)


def observe_handshake(
    host: str, port: int, *, routes: Iterable[str] = (), sealed: bool = False
) -> HandshakeReport:
    """Look at a serving gate from outside.

    Args:
        host, port: where it is.
        routes: the recipe's paths, which are asked, too.
        sealed: they are there for sealed requests only.

    Raises:
        ChannelError: it does not speak TLS 1.3 or HTTP at all.
    """
    with TlsStream(host, port, context=client_context()) as stream:
        version = stream.tls.version() or ""
        certificate = _certificate(stream)
    tickets, resumed = _observe_tickets(host, port)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = tuple(
            pool.map(lambda request: ask(host, port, request), make_requests(routes, sealed=sealed))
        )
    fields, frame = _read_certificate(certificate)
    return HandshakeReport(
        version=version,
        old_versions={name: _refusal(host, port, old) for name, old in OLD_VERSIONS.items()},
        tickets=tickets,
        resumed=resumed,
        protocols={", ".join(offer): _chosen(host, port, offer) for offer in PROTOCOLS},
        certificates=frozenset({_digest(certificate), *_certificates(host, port)}),
        certificate_fields=fields,
        certificate_frame=frame,
        answers=answers,
    )


def ask(host: str, port: int, request: ProbeRequest) -> Answer:
    """Send one request on a connection of its own, and read its answer; none if it does not come in time."""
    message = b""
    records: tuple[int, ...] = ()
    with contextlib.suppress(ChannelError), TlsStream(host, port, context=client_context()) as stream:
        before = len(stream.data_records())
        stream.send(request.data)
        message = _read_answer(stream, bodiless=request.data.startswith(b"HEAD "))
        records = stream.data_records()[before:]
    status, headers, _ = _parse_head(message)
    return Answer(
        request=request.name,
        allowed=request.allowed,
        status=status,
        headers=headers,
        length=len(message),
        digest=_digest(message),
        records=records,
    )


def _observe_tickets(host: str, port: int) -> tuple[int, bool]:
    """Return how many tickets came, and whether a session can be resumed."""
    context = client_context()
    with TlsStream(host, port, context=context) as stream:
        shaken = len(stream.data_records())
        stream.listen(UNASKED_S)
        unasked = len(stream.data_records()) - shaken
        stream.send(_HEALTH)
        _read_answer(stream, bodiless=False)
        session = stream.tls.session
    if session is None:
        return unasked, False
    with TlsStream(host, port, context=context, session=session) as stream:
        resumed = bool(stream.tls.session_reused)
    return max(unasked, int(session.has_ticket)), resumed


def _refusal(host: str, port: int, version: ssl.TLSVersion) -> str | None:
    """Offer one old version only; return why it was refused, None if it was taken."""
    try:
        with TlsStream(host, port, context=client_context(newest=version, oldest=version)):
            return None
    except ChannelError as error:
        return error.message


def _chosen(host: str, port: int, protocols: tuple[str, ...]) -> str | None:
    """Return what ALPN chose; a server may also refuse to go on (RFC 7301, 3.2)."""
    try:
        with TlsStream(host, port, context=client_context(protocols=protocols)) as stream:
            return stream.tls.selected_alpn_protocol()
    except ChannelError:
        return None


def _certificates(host: str, port: int) -> Iterator[Digest]:
    for name in SERVER_NAMES:
        with TlsStream(host, port, context=client_context(), server_name=name) as stream:
            yield _digest(_certificate(stream))


def _certificate(stream: TlsStream) -> bytes:
    certificate = stream.tls.getpeercert(binary_form=True)
    if certificate is None:
        raise ChannelError("expected a certificate")
    return certificate


def _read_certificate(data: bytes) -> tuple[tuple[str, ...], Digest]:
    """Return what a certificate says in words, and the digest of all that is signed but the key."""
    try:
        certificate = x509.load_der_x509_certificate(data)
        return _certificate_fields(certificate), _certificate_frame(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ChannelError("expected a certificate that can be read") from error


def _certificate_fields(certificate: x509.Certificate) -> tuple[str, ...]:
    names = [
        name
        for extension in certificate.extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value.get_values_for_type(x509.DNSName)
    ]
    return (
        f"version {certificate.version.value + 1}",
        f"serial {certificate.serial_number}",
        f"issuer {certificate.issuer.rfc4514_string()}",
        f"subject {certificate.subject.rfc4514_string()}",
        f"from {certificate.not_valid_before_utc.isoformat()}",
        f"until {certificate.not_valid_after_utc.isoformat()}",
        f"names {', '.join(names)}",
    )


def _certificate_frame(certificate: x509.Certificate) -> Digest:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _digest(certificate.tbs_certificate_bytes.replace(key, b""))


def _read_answer(stream: TlsStream, *, bodiless: bool) -> bytes:
    """Return head and body; what there is if the connection ends before."""
    message = b""
    while (data := stream.receive()) != b"":
        message += data
        if len(message) > MAX_ANSWER_BYTES:
            raise ChannelError(f"expected an answer of at most {MAX_ANSWER_BYTES} bytes")
        _, headers, body_at = _parse_head(message)
        if body_at is not None and (bodiless or len(message) - body_at >= _body_length(message, headers)):
            return message
    return message


def _parse_head(message: bytes) -> tuple[int | None, tuple[tuple[str, str], ...], int | None]:
    """Return status, headers and where the body begins, as far as they are there."""
    head, end, _ = message.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    found = _STATUS.fullmatch(lines[0])
    if not end or found is None:
        return None, (), None
    pairs = (line.decode("latin-1").partition(":") for line in lines[1:])
    headers = tuple((name.lower(), value.strip()) for name, _, value in pairs)
    return int(found[1]), headers, len(head) + len(end)


def _body_length(message: bytes, headers: Sequence[tuple[str, str]]) -> int:
    """Return how long the body is; without a length it goes on to the end of the connection."""
    found = _STATUS.match(message)
    if found is not None and int(found[1]) in _BODILESS:
        return 0
    text = dict(headers).get("content-length", "")
    return int(text) if text.isdecimal() else MAX_ANSWER_BYTES


def is_bucket(length: int) -> bool:
    """Whether an answer may have this length: 1, 4, 16 KiB or a multiple of 64 KiB."""
    return length in SMALL_BUCKETS or (length > 0 and length % LARGEST_BUCKET == 0)


def handshake_findings(report: HandshakeReport) -> tuple[str, ...]:
    """Return in words what the gate should not have shown, or what the look failed to show."""
    taken = [name for name, reason in report.old_versions.items() if reason is None]
    chosen = sorted({one for one in report.protocols.values() if one is not None} - {"http/1.1"})
    differing = sorted(set(report.certificate_fields) ^ set(EXPECTED_CERTIFICATE))
    checks = (
        (report.version != "TLSv1.3", f"the server speaks {report.version}"),
        (bool(taken), f"the server takes {', '.join(taken)}"),
        (report.tickets > 0, f"the server gives session tickets: {report.tickets} on one connection"),
        (report.resumed, "the server resumes a session"),
        (bool(chosen), f"the server chooses {', '.join(chosen)} by ALPN"),
        (len(report.certificates) > 1, "the certificate depends on the server name that is asked for"),
        (bool(differing), f"the certificate has other fields: {'; '.join(differing)}"),
    )
    return (*(words for found, words in checks if found), *_answer_findings(report.answers))


def _answer_findings(answers: Sequence[Answer]) -> Iterator[str]:
    answered = [answer for answer in answers if answer.status is not None]
    silent = [answer.request for answer in answers if answer.status is None]
    if silent:
        first = ", ".join(silent[:_MAX_NAMED])
        yield f"{len(silent)} requests were not answered, so nothing is known of them: {first}"
    yield from _grouped(
        "status {}", answered, lambda answer: () if answer.status in answer.allowed else (answer.status,)
    )
    yield from _grouped("header {}", answered, _odd_headers)
    yield from _grouped(
        "a length of {} bytes, which is no bucket's",
        answered,
        lambda answer: () if is_bucket(answer.length) else (answer.length,),
    )
    for status in (400, 404, 413):
        different = {answer.digest for answer in answered if answer.status == status}
        if len(different) > 1:
            yield f"{len(different)} different answers with status {status}"
    for length in sorted({answer.length for answer in answered}):
        shapes = {answer.records for answer in answered if answer.length == length}
        if len(shapes) > 1:
            yield f"answers of {length} bytes come in different TLS records: {sorted(shapes)[:_MAX_NAMED]}"


def _odd_headers(answer: Answer) -> Iterable[str]:
    for name, value in answer.headers:
        if _PADDING.fullmatch(name):
            if value.strip("0"):
                yield f"{name} with something in it"
        elif name not in EXPECTED_HEADERS:
            yield name
        elif not EXPECTED_HEADERS[name].fullmatch(value):
            yield f"{name}: {value[:40]}"


def _grouped(
    words: str, answers: Sequence[Answer], odd: Callable[[Answer], Iterable[object]]
) -> Iterator[str]:
    """Yield one line for each odd thing, with the first requests that show it."""
    found: dict[str, list[str]] = {}
    for answer in answers:
        for one in odd(answer):
            found.setdefault(str(one), []).append(answer.request)
    for one, requests in sorted(found.items()):
        more = f" and {len(requests) - _MAX_NAMED} more" if len(requests) > _MAX_NAMED else ""
        yield f"{words.format(one)}, in answer to {', '.join(requests[:_MAX_NAMED])}{more}"


def certificate_findings(first: HandshakeReport, second: HandshakeReport) -> tuple[str, ...]:
    """Return in words what differs in the certificates of two boots besides key and signature."""
    findings = []
    if first.certificate_frame != second.certificate_frame:
        findings.append("the certificate says something different at each boot besides its key")
    if first.certificates & second.certificates:
        findings.append("two boots have the same certificate, so the same key")
    return tuple(findings)


def _digest(data: bytes) -> Digest:
    return Digest.of(HashAlgorithm.SHA256, data)
