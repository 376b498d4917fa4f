"""The forgery that no evidence from an operator-run TPM can exclude: nothing of the image is booted.

The operator owns the TPM's power switch. He takes the event log of one genuine boot, extends a fresh TPM with
its digests, and answers the client's questions himself: the endorsement certificate is genuine, the registers
are right, the quote is fresh, and the key is his: of TLS, or the one that requests are sealed to. Only a TPM
that he can neither reset nor impersonate helps.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import struct
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from blindbuild.client.exchange import ENDORSEMENT_PATH, EVIDENCE_PATH
from blindbuild.client.sealed import SEALED_PATH
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import MachineError
from blindbuild.formats.tcgevent import EventType
from blindbuild.formats.tcglog import UnverifiedLog, parse_event_log, replay
from blindbuild.machine.http_listener import http_answer, read_request
from blindbuild.machine.interception import Listener, make_identity
from blindbuild.machine.key_swap import KeyThief
from blindbuild.machine.swtpm import SoftwareTpm
from blindbuild.machine.tpm_attester import TpmAttester
from blindbuild.machine.tpm_connection import TpmConnection
from blindbuild.verify.quote import LABELS
from blindbuild.verify.session import PROFILE, SEALED_PROFILE, SESSION_SIZE

ANSWER = b"Your data is with the operator now.\n"

_ROLE = b"server"


def replay_into(tpm: TpmConnection, log: UnverifiedLog) -> None:
    """Extend a TPM that was just powered on with every event of a log, in all banks of the log.

    Raises:
        MachineError: the log starts from a locality that needs more than commands.
    """
    for algorithm in log.algorithms:
        if replay(log, algorithm).startup_locality:
            raise MachineError("expected a log that starts from locality 0")
    for event in log.events:
        if event.event_type != EventType.EV_NO_ACTION:
            tpm.extend_register(event.register, event.digests)


class ForgedServer(Listener):
    """A server that looks like an attested image and is none; a context manager.

    Args:
        tpm: a fresh software TPM, running, with nobody connected.
        event_log: of one genuine boot, as its evidence carried it.
        profile: what the image's evidence is bound to.

    Attributes:
        stolen: what clients have sent to routes of the recipe: bodies, or whole requests that were sealed.
    """

    def __init__(self, tpm: SoftwareTpm, event_log: bytes, *, profile: str = PROFILE) -> None:
        super().__init__(self._answer_all)
        self._profile = profile
        self._thief = KeyThief() if profile == SEALED_PROFILE else None
        self._event_log = event_log
        self._connection = tpm.connect()
        self._connection.power_on()
        replay_into(self._connection, parse_event_log(event_log))
        self._attester = TpmAttester(self._connection)
        self._tpm_lock = threading.Lock()
        self._identity = make_identity()
        self.stolen: list[bytes] = []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._connection.close()

    def _answer_all(self, plain: socket.socket) -> None:
        with self._identity.context.wrap_socket(plain, server_side=True) as stream:
            with stream.makefile("rb") as reader:
                while (request := read_request(reader)) is not None:
                    stream.sendall(self._answer(request.target, request.body))

    def _answer(self, target: str, body: bytes) -> bytes:
        """Return the whole HTTP answer to one request."""
        if target == ENDORSEMENT_PATH:
            return http_answer("application/json", json.dumps(self._endorsement()).encode())
        if target == EVIDENCE_PATH:
            return http_answer("application/json", json.dumps(self._evidence(json.loads(body))).encode())
        binary, answer = "application/octet-stream", ANSWER
        if self._thief is not None and target == SEALED_PATH:
            body, answer = self._thief.open(body, http_answer(binary, ANSWER))
        self.stolen.append(body)
        return http_answer(binary, answer)

    def _endorsement(self) -> Mapping[str, object]:
        with self._tpm_lock:
            certificates = self._attester.read_certificates()
        return {
            "version": 1,
            "ekCertificates": [
                {"nvIndex": f"0x{index:08x}", "certificate": _base64(content)}
                for index, content in certificates
            ],
            "ekPublic": _base64(self._attester.endorsement_key.public),
            "akPublic": _base64(self._attester.attestation_key.public),
        }

    def _evidence(self, request: Mapping[str, Any]) -> Mapping[str, object]:
        bank = HashAlgorithm.from_name(request["bank"])
        key = self._identity.spki if self._thief is None else self._thief.spki
        extra_data = bind_session(
            nonce=bytes.fromhex(request["nonce"]),
            spki=key,
            statement=bytes.fromhex(request["statement"]),
            profile=self._profile,
        )
        with self._tpm_lock:
            quote, signature = self._attester.quote(bank, extra_data)
            registers = self._connection.read_registers(bank)
            secret = self._activate(request)
        evidence = {
            "version": 1,
            "profile": self._profile,
            "bank": bank.value,
            "quote": _base64(quote),
            "signature": _base64(signature),
            "pcrs": [register.hex for register in registers],
            "eventLog": _base64(self._event_log),
        }
        if self._thief is not None:
            evidence |= self._thief.name_key(request, session=secrets.token_bytes(SESSION_SIZE))
        return evidence if secret is None else evidence | {"activatedSecret": _base64(secret)}

    def _activate(self, request: Mapping[str, Any]) -> bytes | None:
        if "credentialBlob" not in request:
            return None
        blob, secret = (base64.b64decode(request[name]) for name in ("credentialBlob", "encryptedSecret"))
        return self._attester.activate_credential(blob, secret)


def bind_session(*, nonce: bytes, spki: bytes, statement: bytes, profile: str = PROFILE) -> bytes:
    """Return the extraData of a quote (docs/spec/evidence.md and hpke-channel.md, "Evidence")."""
    fields = (LABELS[profile], nonce, hashlib.sha256(spki).digest(), statement, _ROLE)
    return hashlib.sha256(b"".join(struct.pack(">H", len(field)) + field for field in fields)).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
