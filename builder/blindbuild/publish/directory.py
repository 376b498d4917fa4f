"""A publication as files that any web server can serve, written so that nobody reads half of one.

Source: docs/distribution.md.
"""

from __future__ import annotations

from pathlib import Path

from blindbuild.client.published import (
    FILE_SUFFIX,
    LEDGER,
    LOG_PROOF,
    MANIFEST,
    PROBE,
    REBUILDS,
    RELEASE,
    Published,
    rebuild_name,
)
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, BuildError, FormatError, ManifestError, VerificationError
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.tlog_proof import parse_tlog_proof
from blindbuild.host.files import write_atomically
from blindbuild.manifest import (
    RELEASE_PAYLOAD_TYPE,
    STATEMENT_PAYLOAD_TYPE,
    Statement,
    parse_release,
    parse_statement,
)
from blindbuild.manifest.probe import parse_probe
from blindbuild.manifest.rebuild import REBUILD_PAYLOAD_TYPE, parse_rebuild
from blindbuild.verify.probe import check_subject

_MIXED = "the files are of different releases: sign the image again, or take all from one place"


def check_publishable(published: Published) -> Statement:
    """Return the statement of files that belong together; signatures are for clients to judge.

    Raises:
        BuildError: a file is malformed, or is about another statement than the manifest's: whatever keys a
            client trusts, it would refuse this.
    """
    payload = _payload(published.envelope, STATEMENT_PAYLOAD_TYPE, MANIFEST)
    digest = Digest.sha256(payload)
    try:
        statement = parse_statement(payload)
        if published.log_proof is not None:
            parse_tlog_proof(published.log_proof)
    except (FormatError, ManifestError) as error:
        raise BuildError(f"{published.source}: {error.message}") from error
    if published.release is not None:
        release = parse_release(_payload(published.release, RELEASE_PAYLOAD_TYPE, RELEASE))
        _same(RELEASE, digest, release.statement)
    if published.ledger is not None:
        _same(LEDGER, statement.ledger, Digest.sha256(published.ledger))
    for number, envelope in enumerate(published.rebuilds, 1):
        record = _payload(envelope, REBUILD_PAYLOAD_TYPE, rebuild_name(number))
        _same(rebuild_name(number), digest, parse_rebuild(record))
    if published.probe is not None:
        probe = parse_probe(_payload(published.probe, STATEMENT_PAYLOAD_TYPE, PROBE))
        _same(
            PROBE, digest, probe.statement, hint="it is of another build: probe the image again, or remove it"
        )
        try:
            check_subject(probe, statement, digest)
        except VerificationError as error:
            raise BuildError(f"{PROBE}: {error.message}") from error
    return statement


def files_of(published: Published) -> dict[str, bytes]:
    """Return the files by name, in the order in which they are to be written: the manifest last."""
    files = {rebuild_name(number): data for number, data in enumerate(published.rebuilds, 1)}
    beside = {LEDGER: published.ledger, LOG_PROOF: published.log_proof, PROBE: published.probe}
    beside[RELEASE] = published.release
    files |= {name: data for name, data in beside.items() if data is not None}
    return files | {MANIFEST: published.envelope}


def write_directory(published: Published, place: Path) -> tuple[str, ...]:
    """Write exactly the files that a client needs, and remove what an earlier publication left of these.

    Each file is replaced in one step. Between two of them a reader sees files of two releases, which it
    refuses; asking again helps.

    Returns:
        The names of the files that are there now.

    Raises:
        BlindbuildError: the system refused.
    """
    files = files_of(published)
    for name, data in files.items():
        write_atomically(place / name, data)
    stale = [place / name for name in (RELEASE, LEDGER, LOG_PROOF, PROBE)]
    stale += sorted((place / REBUILDS).glob(f"*{FILE_SUFFIX}"))
    for path in stale:
        if path.relative_to(place).as_posix() not in files:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise BlindbuildError(f"{path}: cannot remove: {error.strerror}") from error
    return tuple(sorted(files))


def _payload(envelope: bytes, payload_type: str, name: str) -> bytes:
    try:
        parsed = parse_envelope(envelope)
    except FormatError as error:
        raise BuildError(f"{name}: {error.message}", hint="sign the image again") from error
    if parsed.payload_type != payload_type:
        raise BuildError(f"{name}: expected payload type {payload_type}, got {parsed.payload_type[:80]!r}")
    return parsed.payload


def _same(name: str, expected: Digest, actual: Digest, *, hint: str = _MIXED) -> None:
    if not actual.equals(expected):
        raise BuildError(f"{name}: expected {expected}, as the manifest has it, got {actual}", hint=hint)
