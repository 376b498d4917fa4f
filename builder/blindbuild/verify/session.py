"""One exchange with an attester, as data: what was asked, on which connection, and what was answered.

Source: docs/spec/evidence.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, VerificationError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json
from blindbuild.formats.fields import Fields, encode_base64
from blindbuild.formats.tpm2 import MAX_CERTIFICATE, MAX_STRUCTURE
from blindbuild.measure.classification import REGISTER_COUNT

PROFILE = "tls-spki-quote-v1"
SEALED_PROFILE = "hpke-quote-v1"
MAX_ANSWER = 4 << 20  # bytes; docs/spec/evidence.md
MAX_SESSION = 8 << 20  # bytes; a whole recorded session
NONCE_SIZE = 32  # bytes
SECRET_SIZE = 32  # bytes of a credential
SESSION_SIZE = 16  # bytes of a session's id; docs/spec/hpke-channel.md
_MAX_EVENT_LOG = 1 << 20  # bytes; as the event log parser's own limit
_MAX_SPKI = 1024  # bytes; a P-256 key has 91
_MAX_EK_CERTIFICATES = 8  # RSA-2048 and P-384 of swtpm, and a few more
_NV_INDEX = re.compile(r"0x[0-9a-f]{8}")
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_HEX_16 = re.compile(r"[0-9a-f]{32}")
_BANKS = ("sha256", "sha384", "sha512")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StoredCertificate:
    """A certificate as an NV index holds it, padding included."""

    nv_index: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The attester's keys: certificates, TPM2B_PUBLIC of endorsement key and attestation key.

    Attributes:
        ak_certificate: that of the attestation key as an NV index holds it, padding included, where somebody
            certified it; None elsewhere.
    """

    ek_certificates: tuple[StoredCertificate, ...]
    ek_public: bytes
    ak_public: bytes
    ak_certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class Sealing:
    """To whom requests are sealed, in profile hpke-quote-v1.

    Attributes:
        spki: DER SubjectPublicKeyInfo of the attester's HPKE key.
        session: the attester's own name for what follows this exchange; it proves nothing.
    """

    spki: bytes
    session: bytes


@dataclass(frozen=True, slots=True)
class Evidence:
    """The attester's answer to one nonce.

    Attributes:
        quote: TPMS_ATTEST, as signed.
        signature: TPMT_SIGNATURE.
        registers: the 24 values that the quote is said to be over.
        sealing: there exactly in profile hpke-quote-v1.
    """

    profile: str
    bank: HashAlgorithm
    quote: bytes
    signature: bytes
    registers: tuple[Digest, ...]
    event_log: bytes
    activated_secret: bytes | None
    sealing: Sealing | None = None


@dataclass(frozen=True, slots=True)
class RecordedSession:
    """Everything that one appraisal of an attester needs to know about the exchange.

    Attributes:
        statement: the SHA-256 that the client sent: what it judges by.
        spki: DER SubjectPublicKeyInfo of the key that data is for: that of the server's certificate on the
            client's own connection, or in profile hpke-quote-v1 the one that requests are sealed to.
        credential_secret: what the client put into the credential; None when it sent none.
        live: set by the client that just had this exchange; a session read from a file never is.
    """

    profile: str
    nonce: bytes
    statement: Digest
    bank: HashAlgorithm
    spki: bytes
    credential_secret: bytes | None
    endorsement: Endorsement
    evidence: Evidence
    live: bool = False


def parse_endorsement(data: bytes) -> Endorsement:
    """Parse the answer to `GET /.well-known/blindbuild/endorsement`.

    Raises:
        VerificationError: step Q10, reason `malformed`.
    """
    return _strict(lambda: _read_endorsement(parse_json(data, max_bytes=MAX_ANSWER)))


def parse_evidence(data: bytes) -> Evidence:
    """Parse the answer to `POST /.well-known/blindbuild/evidence`.

    Raises:
        VerificationError: step Q10, reason `malformed`.
    """
    return _strict(lambda: _read_evidence(parse_json(data, max_bytes=MAX_ANSWER)))


def parse_session(data: bytes) -> RecordedSession:
    """Parse a recorded session; it says nothing about now.

    Raises:
        VerificationError: step Q10, reason `malformed`.
    """
    return _strict(lambda: _read_session(parse_json(data, max_bytes=MAX_SESSION)))


def session_bytes(session: RecordedSession) -> bytes:
    """Return the session as one JSON object; `live` is not part of it."""
    value: dict[str, JsonValue] = {
        "version": 1,
        "profile": session.profile,
        "nonce": session.nonce.hex(),
        "statement": session.statement.hex,
        "bank": session.bank.value,
        "endorsement": _write_endorsement(session.endorsement),
        "evidence": _write_evidence(session.evidence),
    }
    if session.profile == PROFILE:
        value["spki"] = encode_base64(session.spki)
    if session.credential_secret is not None:
        value["credentialSecret"] = encode_base64(session.credential_secret)
    return canonical_bytes(value)


def _strict(read: Callable[[], _T]) -> _T:
    try:
        return read()
    except FormatError as error:
        raise VerificationError(error.message, step="Q10", reason="malformed") from error


def _read_session(value: JsonValue) -> RecordedSession:
    fields = Fields(
        value,
        "session",
        required=("version", "profile", "nonce", "statement", "bank", "endorsement", "evidence"),
        optional=("credentialSecret", "spki"),
    )
    fields.integer("version", minimum=1, maximum=1)
    evidence = _read_evidence(fields.raw("evidence"))
    return RecordedSession(
        profile=fields.word("profile", (PROFILE, SEALED_PROFILE)),
        nonce=bytes.fromhex(fields.token("nonce", _HEX_32)),
        statement=fields.digest("statement", HashAlgorithm.SHA256),
        bank=HashAlgorithm(fields.word("bank", _BANKS)),
        spki=_read_spki(fields, evidence),
        credential_secret=_optional_secret(fields, "credentialSecret"),
        endorsement=_read_endorsement(fields.raw("endorsement")),
        evidence=evidence,
    )


def _read_spki(fields: Fields, evidence: Evidence) -> bytes:
    """Return the key that data was for; a sealed session has none but the one in the evidence, if any."""
    sealed = fields.raw("profile") == SEALED_PROFILE
    if sealed is ("spki" in fields):
        raise fields.fail("spki", f"expected it exactly with profile {PROFILE}")
    if not sealed:
        return fields.base64("spki", max_bytes=_MAX_SPKI)
    # an answer of the other profile is refused by C1, not here: it must be possible to save and show it
    return b"" if evidence.sealing is None else evidence.sealing.spki


def _read_endorsement(value: JsonValue) -> Endorsement:
    fields = Fields(
        value,
        "endorsement",
        required=("version", "ekCertificates", "ekPublic", "akPublic"),
        optional=("akCertificate",),
    )
    fields.integer("version", minimum=1, maximum=1)
    certificates = []
    for index, entry in enumerate(fields.array("ekCertificates", maximum=_MAX_EK_CERTIFICATES)):
        inner = Fields(entry, f"{fields.at('ekCertificates')}[{index}]", required=("nvIndex", "certificate"))
        nv_index = int(inner.token("nvIndex", _NV_INDEX), 16)
        certificates.append(
            StoredCertificate(nv_index, inner.base64("certificate", max_bytes=MAX_CERTIFICATE))
        )
    return Endorsement(
        ek_certificates=tuple(certificates),
        ek_public=fields.base64("ekPublic", max_bytes=MAX_STRUCTURE),
        ak_public=fields.base64("akPublic", max_bytes=MAX_STRUCTURE),
        ak_certificate=(
            fields.base64("akCertificate", max_bytes=MAX_CERTIFICATE) if "akCertificate" in fields else None
        ),
    )


def _read_evidence(value: JsonValue) -> Evidence:
    fields = Fields(
        value,
        "evidence",
        required=("version", "profile", "bank", "quote", "signature", "pcrs", "eventLog"),
        optional=("activatedSecret", "hpkeKey", "session"),
    )
    fields.integer("version", minimum=1, maximum=1)
    bank = HashAlgorithm(fields.word("bank", _BANKS))
    values = fields.texts("pcrs", minimum=REGISTER_COUNT, maximum=REGISTER_COUNT)
    try:
        registers = tuple(Digest.from_hex(bank, text) for text in values)
    except FormatError as error:
        raise fields.fail("pcrs", error.message) from error
    return Evidence(
        profile=fields.word("profile", (PROFILE, SEALED_PROFILE)),
        bank=bank,
        quote=fields.base64("quote", max_bytes=MAX_STRUCTURE),
        signature=fields.base64("signature", max_bytes=MAX_STRUCTURE),
        registers=registers,
        event_log=fields.base64("eventLog", max_bytes=_MAX_EVENT_LOG),
        activated_secret=_optional_secret(fields, "activatedSecret"),
        sealing=_read_sealing(fields),
    )


def _read_sealing(fields: Fields) -> Sealing | None:
    sealed = fields.raw("profile") == SEALED_PROFILE
    for key in ("hpkeKey", "session"):
        if sealed is not (key in fields):
            raise fields.fail(key, f"expected it exactly with profile {SEALED_PROFILE}")
    if not sealed:
        return None
    from blindbuild.formats.hpke import read_key  # loaded by those whose requests are sealed

    spki = fields.base64("hpkeKey", max_bytes=_MAX_SPKI)
    try:
        read_key(spki)
    except FormatError as error:
        raise fields.fail("hpkeKey", error.message) from error
    return Sealing(spki, bytes.fromhex(fields.token("session", _HEX_16)))


def _optional_secret(fields: Fields, key: str) -> bytes | None:
    if key not in fields:
        return None
    secret = fields.base64(key, max_bytes=SECRET_SIZE)
    if len(secret) != SECRET_SIZE:
        raise fields.fail(key, f"expected {SECRET_SIZE} bytes, got {len(secret)}")
    return secret


def _write_endorsement(endorsement: Endorsement) -> JsonValue:
    value: dict[str, JsonValue] = {
        "version": 1,
        "ekCertificates": [
            {"nvIndex": f"0x{stored.nv_index:08x}", "certificate": encode_base64(stored.data)}
            for stored in endorsement.ek_certificates
        ],
        "ekPublic": encode_base64(endorsement.ek_public),
        "akPublic": encode_base64(endorsement.ak_public),
    }
    if endorsement.ak_certificate is not None:
        value["akCertificate"] = encode_base64(endorsement.ak_certificate)
    return value


def _write_evidence(evidence: Evidence) -> JsonValue:
    value: dict[str, JsonValue] = {
        "version": 1,
        "profile": evidence.profile,
        "bank": evidence.bank.value,
        "quote": encode_base64(evidence.quote),
        "signature": encode_base64(evidence.signature),
        "pcrs": [register.hex for register in evidence.registers],
        "eventLog": encode_base64(evidence.event_log),
    }
    if evidence.sealing is not None:
        value["hpkeKey"] = encode_base64(evidence.sealing.spki)
        value["session"] = evidence.sealing.session.hex()
    if evidence.activated_secret is not None:
        value["activatedSecret"] = encode_base64(evidence.activated_secret)
    return value
