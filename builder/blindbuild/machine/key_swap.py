"""An operator's own key in the place of the one that an image's requests are sealed to."""

from __future__ import annotations

import base64
import json
import secrets
import socket
import struct
from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client import Connection
from blindbuild.client.exchange import EVIDENCE_PATH
from blindbuild.client.sealed import ANSWER_LABEL, SEALED_PATH, bind_requests
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.hpke import KEY_SIZE, set_up_recipient
from blindbuild.machine.http_listener import HttpRequest, http_answer, read_request
from blindbuild.machine.interception import CONNECT_LIMIT_S, Listener, make_identity
from blindbuild.verify.session import MAX_ANSWER, SESSION_SIZE

_HEAD = struct.Struct(">QI")  # before the request inside a sealed one: its number, its length
_OK = 200
_JSON, _BINARY = "application/json", "application/octet-stream"


class KeyThief:
    """A key to seal to, and what opens requests that were sealed to it.

    Attributes:
        spki: DER SubjectPublicKeyInfo of the key.
    """

    def __init__(self) -> None:
        self._key = X25519PrivateKey.generate()
        public = self._key.public_key()
        self.spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._infos: dict[bytes, bytes] = {}

    def name_key(self, asked: Mapping[str, Any], *, session: bytes) -> Mapping[str, str]:
        """Return the fields of evidence that name the key, and remember who asked for it.

        Args:
            asked: the client's request for evidence.
            session: what the answer calls the exchange.
        """
        self._infos[session] = bind_requests(
            nonce=bytes.fromhex(asked["nonce"]),
            spki=self.spki,
            statement=Digest(HashAlgorithm.SHA256, bytes.fromhex(asked["statement"])),
        )
        return {"hpkeKey": base64.b64encode(self.spki).decode(), "session": session.hex()}

    def open(self, body: bytes, answer: bytes) -> tuple[bytes, bytes]:
        """Return the HTTP request in a sealed one, and an HTTP answer sealed for it.

        Raises:
            FormatError: it was not sealed to this key.
        """
        session, encapsulated = body[:SESSION_SIZE], body[SESSION_SIZE : SESSION_SIZE + KEY_SIZE]
        if session not in self._infos:
            raise FormatError("expected a request of a session with this key")
        recipient = set_up_recipient(self._key, encapsulated, info=self._infos[session])
        message = recipient.open(session, body[SESSION_SIZE + KEY_SIZE :])
        if len(message) < _HEAD.size:
            raise FormatError(f"expected a number and a length, got {len(message)} bytes")
        _number, length = _HEAD.unpack_from(message)
        sealed = recipient.seal_answer(ANSWER_LABEL, answer, salt=secrets.token_bytes(KEY_SIZE))
        return message[_HEAD.size :][:length], sealed


class KeySwapper(Listener):
    """Ends TLS, passes requests on to a machine, and puts a key of its own into the evidence.

    Args:
        host, port: the machine.

    Attributes:
        stolen: the requests that clients have sealed to that key.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__(self._answer_all)
        self._machine = f"https://{host}:{port}"
        self._identity = make_identity()
        self._thief = KeyThief()
        self.stolen: list[bytes] = []

    def _answer_all(self, plain: socket.socket) -> None:
        with (
            self._identity.context.wrap_socket(plain, server_side=True) as stream,
            Connection.open(self._machine, timeout_s=CONNECT_LIMIT_S) as machine,
            stream.makefile("rb") as reader,
        ):
            while (request := read_request(reader)) is not None:
                stream.sendall(self._answer(request, machine))

    def _answer(self, request: HttpRequest, machine: Connection) -> bytes:
        if request.target == SEALED_PATH:
            opened, answer = self._thief.open(request.body, http_answer(_BINARY, b""))
            self.stolen.append(opened)
            return http_answer(_BINARY, answer)
        body = request.body if request.method == "POST" else None
        given = machine.request(
            request.method, request.target, body=body, content_type=_JSON, max_body=MAX_ANSWER
        )
        said = given.body
        if request.target == EVIDENCE_PATH and given.status == _OK:
            evidence = json.loads(said)
            session = bytes.fromhex(evidence["session"])
            said = json.dumps(
                evidence | self._thief.name_key(json.loads(request.body), session=session)
            ).encode()
        return http_answer(_JSON, said, status=given.status)
