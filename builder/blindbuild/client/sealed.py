"""Requests sealed to an attested key, so that whoever ends TLS on the way carries what it cannot read.

`Sealer` knows nothing of connections: any transport can carry what it seals, as a `Question` whose answer is
opened. `SealedConnection` is the one that `attest` uses; it has the methods of a TLS connection that was
judged. httpx_sealed has those of httpx.

Source: docs/spec/hpke-channel.md.
"""

from __future__ import annotations

import itertools
import secrets
import struct
from dataclasses import dataclass, field

from blindbuild.client.advice import CHANGED_ANSWER, COPIED_REQUEST, LOST, UNSEALED_ANSWER, channel_error
from blindbuild.client.exchange import Question
from blindbuild.client.forwarded import ForwardedConnection
from blindbuild.client.http1 import MAX_HEAD, Response, read_response, write_request
from blindbuild.client.transport import Peer
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, FormatError, VerificationError
from blindbuild.formats.hpke import KEY_SIZE, Sender, read_key, set_up_sender
from blindbuild.formats.printable import visible
from blindbuild.verify import RecordedSession

SEALED_PATH = "/.well-known/blindbuild/sealed"
REQUEST_LABEL = b"blindbuild/hpke-quote/v1/request"
ANSWER_LABEL = b"blindbuild/hpke-quote/v1/answer"
ROLE = b"client"
MAX_REQUEST = (256 << 20) + (64 << 10)  # bytes; the longest body that a gate takes, and a head
RESERVE = 256  # bytes of a bucket that a sealed message leaves free, for what is around it
_HOST = "gate.invalid"  # the image has no name of its own; the one in the request outside is the middle's
_BINARY = "application/octet-stream"
_AROUND = KEY_SIZE + 16  # bytes around an answer: salt and tag
_KIB = 1 << 10
_LARGEST = 64 * _KIB  # above it: its multiples
_OK, _CONFLICT = 200, 409
# what an answer without a seal may say; for people: it is shown, not believed
_WORDS = {
    b'{"version":1,"error":"session"}': "it says that the server was started anew, or that another one "
    "behind the same address was asked: attest again",
    b'{"version":1,"error":"sealed"}': "it says that the request did not reach the server as it was sent",
}


@dataclass(frozen=True, slots=True)
class SealedRequest:
    """One request as it travels, and what opens its answer.

    Attributes:
        body: to be POSTed to `SEALED_PATH`, once; a second time it is refused.
    """

    body: bytes
    _sender: Sender = field(repr=False)

    def question(self, *, max_body: int) -> Question:
        """Return what carries it to the image, whose answer has a body of at most `max_body` bytes."""
        limit = bucket(max_body + MAX_HEAD) + _AROUND
        return Question("POST", SEALED_PATH, body=self.body, content_type=_BINARY, max_body=limit)

    def answer(self, outer: Response) -> bytes:
        """Return the HTTP answer inside the one that whoever stands before the image gave.

        Raises:
            VerificationError: step C3: it was not sealed for this request (`answer-not-sealed`).
            ChannelError: it is no sealed answer.
        """
        if outer.status != _OK:
            shown = visible(outer.body[:80].decode("ascii", "replace"))
            said = _WORDS.get(outer.body, "it comes from whoever is between this client and the image")
            raise ChannelError(
                f"expected a sealed answer, got status {outer.status} {shown}".rstrip(),
                hint=f"{said}\n{UNSEALED_ANSWER.text}",
            )
        return self.open(outer.body)

    def open(self, answer: bytes) -> bytes:
        """Return the HTTP response in the body of a sealed answer.

        Raises:
            VerificationError: step C3, `answer-not-sealed`: it was not made for this request inside the
                attested image.
        """
        try:
            return self._sender.open_answer(ANSWER_LABEL, answer)
        except FormatError as error:
            raise VerificationError(
                error.message,
                step="C3",
                reason="answer-not-sealed",
                hint=CHANGED_ANSWER.text,
            ) from error


class Sealer:
    """Seals requests to the key that an accepted session's evidence is bound to.

    Args:
        session: one that was accepted; it is not judged again.

    Raises:
        ChannelError: it is not of profile hpke-quote-v1.
    """

    def __init__(self, session: RecordedSession) -> None:
        sealing = session.evidence.sealing
        if sealing is None or sealing.spki != session.spki:
            raise ChannelError("expected a session with a key to seal to, got one without")
        self._info = bind_requests(nonce=session.nonce, spki=session.spki, statement=session.statement)
        self._recipient = read_key(session.spki)
        self._session = sealing.session
        self._numbers = itertools.count(1)

    def seal(self, request: bytes | bytearray) -> SealedRequest:
        """Seal one HTTP/1.1 request, padded so that its size shows only a bucket.

        Raises:
            ChannelError: the request is too long for any gate, or the image's key is one that would give the
                secret to everybody.
        """
        if len(request) > MAX_REQUEST:
            raise ChannelError(f"expected a request of at most {MAX_REQUEST} bytes, got {len(request)}")
        try:
            sender = set_up_sender(self._recipient, info=self._info, ephemeral=secrets.token_bytes(KEY_SIZE))
        except FormatError as error:
            raise ChannelError(error.message) from error
        head = struct.pack(">QI", next(self._numbers), len(request))
        length = len(head) + len(request)
        message = b"".join((head, request, bytes(bucket(length + RESERVE) - RESERVE - length)))
        del request  # a request may be long: no copy is kept longer than it is needed
        ciphertext = sender.seal(self._session, message)
        del message
        return SealedRequest(b"".join((self._session, sender.encapsulated, ciphertext)), sender)


class SealedConnection:
    """What `attest` judged, where TLS ends before the image: each request is sealed to the attested key.

    Attributes:
        address: the other end, as asked for.
        peer: that, and the key that requests are sealed to.
    """

    def __init__(self, connection: ForwardedConnection, session: RecordedSession) -> None:
        self.address = connection.address
        self.peer = Peer(str(connection.address), session.spki)
        self._connection: ForwardedConnection | None = connection
        self._session = session
        self._sealer: Sealer | None = None  # made for a session that was accepted, so not yet

    def request(
        self, method: str, target: str, *, body: bytes | None = None, content_type: str, max_body: int
    ) -> Response:
        """Send one sealed request and return the answer that was inside the sealed one.

        Raises:
            VerificationError: as `transmit`.
            ChannelError: as `transmit`.
        """
        message = write_request(method, target, host=_HOST, body=body, content_type=content_type)
        return self.transmit(message, max_body=max_body)

    def transmit(self, message: bytes, *, max_body: int) -> Response:
        """Seal and send the bytes of one HTTP/1.1 request, and return the answer inside the sealed one.

        Raises:
            VerificationError: step C3: the answer was not sealed for this request (`answer-not-sealed`), or
                its number was used up before: by a copy, or by somebody else's (`request-replayed`).
            ChannelError: there is no sealed answer; the request is not sent a second time.
        """
        connection = self._connection
        if connection is None:
            raise channel_error(f"{self.address}: connection closed; attest again", LOST)
        if self._sealer is None:
            self._sealer = Sealer(self._session)
        sealed = self._sealer.seal(message)
        try:
            outer = connection.ask(sealed.question(max_body=max_body))
            response = read_opened(sealed.answer(outer), max_body=max_body)
        except BaseException:
            self.close()
            raise
        return response

    def alive(self) -> bool:
        """Return whether a request may be sent; that the middle hung up since the last one is no matter."""
        return self._connection is not None

    def close(self) -> None:
        """Close the connection for good; closing twice is fine."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def bind_requests(*, nonce: bytes, spki: bytes, statement: Digest) -> bytes:
    """Return the `info` of every request of a session: what client and image must agree on."""
    parts = (REQUEST_LABEL, nonce, Digest.sha256(spki).value, statement.value, ROLE)
    return Digest.sha256(b"".join(struct.pack(">H", len(part)) + part for part in parts)).value


def bucket(size: int) -> int:
    """Return the smallest of 1, 4, 16, 64 KiB and the multiples of 64 KiB that holds `size` bytes."""
    for each in (_KIB, 4 * _KIB, 16 * _KIB):
        if size <= each:
            return each
    return -(-size // _LARGEST) * _LARGEST


def read_opened(answer: bytes, *, max_body: int) -> Response:
    """Read the HTTP answer that was inside a sealed one.

    Raises:
        VerificationError: step C3: the request's number was used up before: by a copy, or by somebody else's
            (`request-replayed`).
        ChannelError: it is not plain HTTP/1.1, or too long.
    """
    parts = iter((answer,))
    response = read_response(lambda: next(parts, b""), max_body=max_body)
    if response.status == _CONFLICT:
        raise VerificationError(
            "expected a request whose number was new to the image, got one whose number was used up",
            step="C3",
            reason="request-replayed",
            hint=COPIED_REQUEST.text,
        )
    return response
