"""A TLS connection whose records are seen as they are on the wire, from outside.

Source: RFC 8446, 5.1 and 5.2 (records), 4.6.1 (tickets come after the handshake, unasked).
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
import warnings
from types import TracebackType
from typing import Self

from blindbuild.errors import ChannelError

TIMEOUT_S = 15.0  # for each wait; an emulated machine answers a hundred requests in four seconds
MAX_ANSWER_BYTES = 4 << 20  # bounds memory; the longest answer to a probe has some kilobytes
APPLICATION_DATA = 23

_CHUNK = 1 << 16  # bytes
_RECORD_HEADER = struct.Struct(">BHH")
_MAX_RECORD = (1 << 14) + 256  # RFC 8446, 5.2
_ALERT_RECORD = _RECORD_HEADER.size + 2 + 1 + 16  # an alert, its type and the tag


class RecordLog:
    """Splits what a server sends into records: type and length on the wire of each."""

    def __init__(self) -> None:
        self.records: list[tuple[int, int]] = []
        self._rest = b""

    def take(self, data: bytes) -> None:
        """Read on.

        Raises:
            ChannelError: a record is longer than TLS allows: these are no records.
        """
        self._rest += data
        while len(self._rest) >= _RECORD_HEADER.size:
            kind, _, length = _RECORD_HEADER.unpack_from(self._rest)
            if length > _MAX_RECORD:
                raise ChannelError(f"expected TLS records, got one of {length} bytes")
            size = _RECORD_HEADER.size + length
            if len(self._rest) < size:
                return
            self.records.append((kind, size))
            self._rest = self._rest[size:]


class TlsStream:
    """A connection; shakes hands on entry.

    Args:
        host, port: the server.
        context: what to offer.
        server_name: the name to ask for; none if None.
        session: the session to go on with, if the server lets us.

    Attributes:
        tls: the state of the connection: version, cipher, certificate, session.

    Raises:
        ChannelError: from every method, when the other side does not go on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        context: ssl.SSLContext,
        server_name: str | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._log = RecordLog()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=server_name, session=session
        )
        try:
            self._socket = socket.create_connection((host, port), timeout=TIMEOUT_S)
        except OSError as error:
            raise ChannelError(f"cannot connect: {error}") from error

    def __enter__(self) -> Self:
        try:
            self._shake_hands()
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def data_records(self) -> tuple[int, ...]:
        """Return the lengths of the records with data until now, without the alert that closes."""
        return tuple(
            size for kind, size in self._log.records if kind == APPLICATION_DATA and size != _ALERT_RECORD
        )

    def send(self, data: bytes) -> None:
        """Send data, all at once."""
        try:
            self.tls.write(data)
            self._flush()
        except OSError as error:  # ssl.SSLError is one
            raise ChannelError(f"cannot send: {error}") from error

    def receive(self) -> bytes:
        """Return the next data; empty at the end of the connection, however it ended."""
        while True:
            try:
                return self.tls.read(_CHUNK)
            except ssl.SSLWantReadError:
                if not self._fill_in_time():
                    return b""
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""
            except ssl.SSLError as error:
                raise ChannelError(f"TLS broke: {error.reason}") from error

    def listen(self, seconds: float) -> None:
        """Read what comes unasked for this long; a ticket would."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if not self._fill():
                    break
                self.tls.read(_CHUNK)
            except (TimeoutError, ssl.SSLWantReadError):
                continue
            except ssl.SSLError:
                break
        self._socket.settimeout(TIMEOUT_S)

    def _shake_hands(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
                self._flush()
            except ssl.SSLWantReadError:
                self._flush()
                if not self._fill_in_time():
                    raise ChannelError("the server ended the handshake") from None
            except ssl.SSLError as error:
                raise ChannelError(f"no handshake: {error.reason}") from error
            else:
                return

    def _flush(self) -> None:
        data = self._outgoing.read()
        if data:
            try:
                self._socket.sendall(data)
            except (BrokenPipeError, ConnectionResetError):  # then the next read says what was said
                return

    def _fill_in_time(self) -> bool:
        try:
            return self._fill()
        except TimeoutError:
            raise ChannelError(f"the server said nothing for {TIMEOUT_S:g} s") from None

    def _fill(self) -> bool:
        """Read from the wire; say whether there was anything."""
        try:
            data = self._socket.recv(_CHUNK)
        except ConnectionResetError:
            data = b""
        if not data:
            self._incoming.write_eof()
            return False
        self._log.take(data)
        self._incoming.write(data)
        return True


def client_context(
    *,
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    protocols: tuple[str, ...] = (),
) -> ssl.SSLContext:
    """Return a client that takes any certificate and any cipher: it looks, and trusts nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # OpenSSL's security level would keep us from offering what a server might wrongly take
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():  # that nobody should speak an old version is why we ask
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = oldest
        context.maximum_version = newest
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context
