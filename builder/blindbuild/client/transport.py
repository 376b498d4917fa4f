"""One TLS 1.3 connection, and the public key at its other end. The client's only door to a server; the
files of a transparency log, which prove themselves, come through web.py.

The certificate is not checked against authorities: it is self-signed by a key made in the image's RAM, and
the quote, not a CA, says whose key it is. So the key is taken from this very connection, and a connection
is never replaced by another one behind the caller's back.
"""

from __future__ import annotations

import math
import re
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client.advice import EARLY_ANSWER, LOST, NO_TLS, SLOW, UNREACHABLE, channel_error
from blindbuild.client.http1 import Response, read_response, write_request
from blindbuild.client.limit import Limit
from blindbuild.errors import ChannelError

if TYPE_CHECKING:
    from blindbuild.client.exchange import Question

DEFAULT_PORT = 443
PLAIN_PORT = 80  # of http://, for sealed requests
DEFAULT_TIMEOUT_S = 30.0  # a TPM quote takes up to a second, a slow emulated machine ten
MAX_ANSWER_S = 600.0  # for a whole answer: a server that drips bytes does not hold the client forever
MAX_SEND_S = 600.0  # for a whole request, likewise
_CHUNK = 64 << 10  # bytes
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9.-]{1,253}|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?/?"
)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is.

    Attributes:
        tls: whether TLS is spoken there; where it is not, only sealed requests may be sent.
    """

    host: str
    port: int
    tls: bool = True

    @classmethod
    def parse(cls, url: str, *, plain: bool = False) -> Address:
        """Read `https://host[:port]`, without path, user, query or fragment.

        Args:
            url: the address.
            plain: take `http://` as well, for images whose requests are sealed.

        Raises:
            ChannelError: anything else.
        """
        found = _URL.fullmatch(url)
        if found is None or not (plain or found["scheme"] == "https"):
            raise _no_address(url)
        tls = found["scheme"] == "https"
        port = int(found["port"] or default_port(tls=tls))
        if not 1 <= port <= 65535:
            raise ChannelError(f"expected a port from 1 to 65535, got {port}")
        host = found["host"].strip("[]")
        try:
            host.encode("idna")  # as sockets do, with an error of their own
        except UnicodeError as error:
            raise _no_address(url) from error
        return cls(host, port, tls)

    def check_tls(self) -> None:
        """Refuse an address without TLS, for an image whose requests are not sealed.

        Raises:
            ChannelError: it is one.
        """
        if not self.tls:
            raise _no_address(self.url)

    @property
    def scheme(self) -> str:
        """The URL's: https or http."""
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        """What `parse` reads as this address."""
        return f"{self.scheme}://{self}"

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == default_port(tls=self.tls) else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a TLS connection, as it has shown itself.

    Attributes:
        server: the address that was asked for.
        spki: DER SubjectPublicKeyInfo of its certificate.
        issuer: who issued that certificate, or empty when it was made by its own key, as a gate's is.
    """

    server: str
    spki: bytes
    issuer: str = ""


class HttpConnection(ABC):
    """One connection on which one request is asked after the other.

    Attributes:
        address: the other end, as asked for.
    """

    address: Address
    _stream: socket.socket | None

    @abstractmethod
    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        content_type: str,
        max_body: int,
        deadline: float = math.inf,
    ) -> Response:
        """Send one request and read its answer; no part of either is waited for after `deadline`.

        Raises:
            ChannelError: there is none; the request is not sent a second time.
        """

    def ask(self, question: Question) -> Response:
        """Send one request of an exchange, or a sealed one, and read its answer.

        Raises:
            ChannelError: as `request`.
        """
        return self.request(
            question.method,
            question.target,
            body=question.body,
            content_type=question.content_type,
            max_body=question.max_body,
            deadline=question.deadline,
        )

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Connection(HttpConnection):
    """A TLS connection that is used until it ends, and then never again.

    Attributes:
        address: the other end, as asked for.
        peer: the other end, as it has shown itself on this connection.
    """

    _stream: ssl.SSLSocket | None

    def __init__(self, address: Address, stream: ssl.SSLSocket) -> None:
        self.address = address
        self._stream = stream
        self.peer = read_peer(str(address), stream.getpeercert(binary_form=True), stream.version())

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo of the certificate that this connection's server has shown."""
        return self.peer.spki

    @classmethod
    def open(cls, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> Connection:
        """Connect and shake hands; nothing else is sent.

        Args:
            url: `https://host[:port]`; proxies of the environment are never used.
            timeout_s: for connecting, and for each wait after it.

        Raises:
            ChannelError: no connection, no TLS 1.3, or no certificate with a readable key.
        """
        address = Address.parse(url)
        # no server name: nothing is said about what we look for before it has proven what it is
        stream = shake_hands(connect(address, timeout_s=timeout_s), address, tls_context())
        try:
            return cls(address, stream)
        except BaseException:
            stream.close()
            raise

    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | None = None,
        content_type: str,
        max_body: int,
        deadline: float = math.inf,
    ) -> Response:
        """Send one request and read its answer.

        Raises:
            ChannelError: the connection was lost, or the server broke the protocol. Either way it is closed,
                and nothing is ever sent again: a new connection may end somewhere else.
        """
        message = write_request(method, target, host=str(self.address), body=body, content_type=content_type)
        return self.transmit(message, max_body=max_body, deadline=deadline)

    def transmit(self, message: bytes, *, max_body: int, deadline: float = math.inf) -> Response:
        """Send the bytes of one request and read its answer.

        Raises:
            ChannelError: as `request`.
        """
        stream = self._stream
        if stream is None:
            raise lost(self.address)
        try:
            refuse_early_answer(stream)
            send_whole(stream, message, deadline=deadline)
            response = read_response(_receiver(stream, deadline), max_body=max_body)
        except OSError as error:
            self.close()
            raise lost(self.address, error) from error
        except BaseException:
            self.close()
            raise
        if response.headers.get("connection", "").lower() == "close":
            self.close()
        return response

    def alive(self) -> bool:
        """Return whether a request may be sent: the other end has neither hung up nor said anything."""
        if self._stream is None:
            return False
        try:
            refuse_early_answer(self._stream)
        except (OSError, ChannelError):
            self.close()
        return self._stream is not None


def connect(address: Address, *, timeout_s: float) -> socket.socket:
    """Connect without TLS; proxies of the environment are never used.

    Raises:
        ChannelError: nothing answers.
    """
    try:
        return socket.create_connection((address.host, address.port), timeout=timeout_s)
    except OSError as error:
        raise channel_error(f"{address}: cannot connect: {error}", UNREACHABLE) from error


def shake_hands(
    plain: socket.socket, address: Address, context: ssl.SSLContext, *, server_name: str | None = None
) -> ssl.SSLSocket:
    """Begin TLS on a connection, which is closed if that fails.

    Raises:
        ChannelError: it fails.
    """
    try:
        return context.wrap_socket(plain, server_hostname=server_name)
    except (OSError, ValueError) as error:  # the latter for names that OpenSSL does not take
        plain.close()
        oldest = context.minimum_version.name.removeprefix("TLSv").replace("_", ".")
        raise channel_error(f"{address}: cannot speak TLS {oldest}: {error}", NO_TLS) from error
    except BaseException:
        plain.close()
        raise


def default_port(*, tls: bool) -> int:
    """Return the port of a URL that names none."""
    return DEFAULT_PORT if tls else PLAIN_PORT


def refuse_early_answer(stream: socket.socket) -> None:
    """Refuse a connection on which something has arrived that nobody asked for.

    Raises:
        ChannelError: there is; it would be read as the answer to the next request.
        OSError: the connection has ended.
    """
    wait_s = stream.gettimeout()
    stream.settimeout(0)
    try:
        data = stream.recv(1)
    except (BlockingIOError, ssl.SSLWantReadError):
        return
    finally:
        stream.settimeout(wait_s)
    if data:
        raise channel_error("expected no answer before a request, got one", EARLY_ANSWER)
    raise ConnectionError("the server has hung up")


def send_whole(stream: socket.socket, message: bytes, *, deadline: float = math.inf) -> None:
    """Send all of a message, within `MAX_SEND_S` and before `deadline`.

    Raises:
        ChannelError: it takes longer.
        OSError: the connection has ended.
    """
    # sendall() would wait anew for each part, for as long as the server takes one byte now and then
    limit = Limit("to have sent a request", MAX_SEND_S, deadline)
    rest = memoryview(message)
    while rest:
        limit.check()
        rest = rest[stream.send(rest[:_CHUNK]) :]


def _receiver(stream: ssl.SSLSocket, deadline: float) -> Callable[[], bytes]:
    limit = Limit("a whole answer", MAX_ANSWER_S, deadline)

    def receive() -> bytes:
        limit.check()
        return stream.recv(_CHUNK)

    return receive


def tls_context() -> ssl.SSLContext:
    """Return settings for TLS 1.3 only, without certificate authorities and without a file of keys."""
    # by hand: ssl.create_default_context() would write keys to the file that SSLKEYLOGFILE names
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def read_peer(server: str, certificate: bytes | None, version: str | None) -> Peer:
    """Return who is at the other end of a connection.

    Args:
        server: the address that was asked for.
        certificate: DER of what it showed.
        version: of TLS, as the connection has it.

    Raises:
        ChannelError: it is not TLS 1.3, or there is no certificate with a readable key.
    """
    if certificate is None or version != "TLSv1.3":
        raise channel_error("expected TLS 1.3 with a certificate", NO_TLS)
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        spki = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        issuer = "" if parsed.issuer == parsed.subject else parsed.issuer.rfc4514_string()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise ChannelError("expected a certificate with a readable key") from error
    return Peer(server, spki, issuer)


def _no_address(url: str) -> ChannelError:
    return ChannelError(
        f"expected https://HOST or https://HOST:PORT, got {url[:200]!r}",
        hint="paths are given with the request; http:// is for images whose requests are sealed",
    )


def lost(address: Address, error: OSError | None = None) -> ChannelError:
    """Return the error of a connection that ended, or took too long, in the middle of a request."""
    if isinstance(error, TimeoutError):
        return channel_error(f"{address}: no answer in time; attest again", SLOW)
    return channel_error(f"{address}: connection lost; attest again", LOST)
