"""A record of each decision for whoever must answer for it later: which release, checkpoint, key and policy.

It has nothing that a user sent or got. One record is one line of JSON. Only one that is accepted and live is
about a server; the time of another may be one that an auditor chose.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Set
from pathlib import Path

from blindbuild import __version__
from blindbuild.client.expectation import Expectation
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, VerificationError
from blindbuild.formats.canonical import JsonValue, canonical_bytes
from blindbuild.manifest import format_time
from blindbuild.verify import AcceptedSession, Appraisal, RecordedSession
from blindbuild.verify.session import SEALED_PROFILE

MAX_SERVER = 300  # characters of an address


class AuditLog:
    """Appends records to a file that only its owner can read.

    Args:
        path: the file; made when the first record comes, and only ever appended to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, record: Mapping[str, JsonValue]) -> None:
        """Append one record.

        Raises:
            BlindbuildError: it cannot be written; a decision that leaves no trace is not one.
        """
        line = canonical_bytes(dict(record)) + b"\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            descriptor = os.open(self._path, flags, 0o600)
            try:
                written = os.write(descriptor, line)  # one call, so that two programs' lines do not mix
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BlindbuildError(
                f"{self._path}: the decision cannot be recorded: {error.strerror}",
                hint="make room for the audit log, or name another file",
            ) from error
        if written != len(line):
            raise BlindbuildError(f"{self._path}: the decision cannot be recorded: the disk is full")


def record_decision(
    expectation: Expectation,
    *,
    server: str,
    appraisal: Appraisal | None,
    session: RecordedSession | None = None,
    error: BlindbuildError | None = None,
) -> None:
    """Tell the expectation's audit, if it has one, what was decided about a server.

    Args:
        server: the address; empty when what was published was refused before any server was asked.
        appraisal: what was found out, or None when the exchange itself failed.
        session: the exchange, or None when there was none.
        error: what refused the server although the appraisal may have passed, or None.
    """
    if expectation.audit is None:
        return
    judged = appraisal is not None
    verdict = appraisal.verdict if appraisal is not None and error is None else None
    reasons = {*(appraisal.reasons if appraisal is not None else ()), *_reason(error, judged=judged)}
    product = None if appraisal is None else appraisal.product
    name, version, sequence = product or (None, None, None)
    expectation.audit(
        {
            "version": 1,
            "tool": f"blindbuild {__version__}",
            "time": format_time(expectation.now()),
            "server": server[:MAX_SERVER],
            "accepted": verdict is not None,
            "live": session is not None and session.live,
            "reasons": [*sorted(reasons)],
            "warnings": [] if appraisal is None else list(appraisal.warnings),
            "product": name,
            "productVersion": version,
            "sequence": sequence,
            "manifest": Digest.sha256(expectation.envelope).hex,
            "release": None if expectation.release is None else Digest.sha256(expectation.release).hex,
            "trust": expectation.trust.domain.hex,
            "policy": _plain(expectation.policy),
            "checkpoint": _checkpoint(expectation),
            **_session_json(session),
            **_verdict_json(verdict),
        }
    )


def _reason(error: BlindbuildError | None, *, judged: bool) -> tuple[str, ...]:
    if error is None:
        return ()
    if isinstance(error, VerificationError):
        return (f"{error.step}:{error.reason}",)
    return ("not-remembered",) if judged else ("no-exchange",)


def _session_json(session: RecordedSession | None) -> dict[str, JsonValue]:
    if session is None:
        return {"statement": None, "tlsKey": None, "hpkeKey": None, "bank": None}
    key = Digest.sha256(session.spki).hex if session.spki else None
    sealed = session.profile == SEALED_PROFILE
    return {
        "statement": session.statement.hex,
        "tlsKey": None if sealed else key,
        "hpkeKey": key if sealed else None,
        "bank": session.bank.value,
    }


def _verdict_json(verdict: AcceptedSession | None) -> dict[str, JsonValue]:
    if verdict is None:
        return {"attestationKey": None, "platform": None, "expires": None}
    return {
        "attestationKey": verdict.attestation_key.hex(),
        "platform": verdict.platform,
        "expires": format_time(verdict.expires),
    }


def _checkpoint(expectation: Expectation) -> JsonValue:
    """Return the checkpoint of the log that was asked for: origin, size, root."""
    if expectation.log is None or expectation.log.proof is None:
        return None
    from blindbuild.errors import TlogError  # a log is loaded by those who ask for one
    from blindbuild.formats.tlog_proof import parse_tlog_proof

    try:
        checkpoint = parse_tlog_proof(expectation.log.proof).signed.checkpoint
    except TlogError:
        return None  # M12 has refused it
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def _plain(value: object) -> JsonValue:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Digest):
        return value.hex
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Set):
        return [*sorted(str(item) for item in value)]
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value)
