"""What `verify --save` writes and `verify --recorded` reads: bundles, and sessions alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blindbuild.client import Expectation
from blindbuild.client.published import Published
from blindbuild.errors import ManifestError, UsageError
from blindbuild.host.files import read_bytes
from blindbuild.manifest import format_time, parse_time
from blindbuild.verify import RecordedSession, parse_session
from blindbuild.verify.bundle import MAX_BUNDLE, Bundle, bundle_bytes, looks_like_bundle, parse_bundle
from blindbuild.verify.session import MAX_SESSION

AUDITED = 4  # exit code: it would have been accepted then; "verified" is only said of a server, now


@dataclass(frozen=True, slots=True)
class Recorded:
    """A session from a file, with what was published if the file has that too."""

    session: RecordedSession
    published: Published | None = None
    crls: tuple[bytes, ...] = ()
    tuf: Mapping[str, bytes] = field(default_factory=dict)


def read_recorded(path: Path) -> Recorded:
    """Read a bundle or a session.

    Raises:
        UsageError: the file cannot be read, or is too large.
        VerificationError: it is neither.
    """
    data = read_bytes(path, error=UsageError, limit_bytes=MAX_BUNDLE)
    if not looks_like_bundle(data):
        return Recorded(parse_session(data[: MAX_SESSION + 1]))
    bundle = parse_bundle(data)
    published = Published(
        envelope=bundle.envelope,
        release=bundle.release,
        ledger=bundle.ledger,
        log_proof=bundle.log_proof,
        rebuilds=bundle.rebuilds,
        probe=bundle.probe,
        source=f"{path}, saved {format_time(bundle.saved_at)}",
    )
    return Recorded(bundle.session, published, bundle.crls, bundle.tuf)


def make_bundle(session: RecordedSession, judged_by: Expectation, tuf: Mapping[str, bytes]) -> Bundle:
    """Return all that a session was judged by but trust and policy, which an auditor has of his own."""
    return Bundle(
        session=session,
        envelope=judged_by.envelope,
        saved_at=judged_by.now(),
        release=judged_by.release,
        ledger=judged_by.ledger,
        log_proof=None if judged_by.log is None else judged_by.log.proof,
        rebuilds=tuple(judged_by.rebuilds),
        crls=tuple(judged_by.crls),
        tuf=tuf,
        probe=judged_by.probe,
    )


def saved_bytes(bundle: Bundle) -> bytes:
    """Return what --save writes; what could not be read again is not written.

    Raises:
        ManifestError, VerificationError: a part is too large, or there are too many.
    """
    data = bundle_bytes(bundle)
    parse_bundle(data)
    return data


def read_time(text: str | None) -> int | None:
    """Return what --at-time says, in seconds since 1970."""
    try:
        return None if text is None else parse_time(text)
    except ManifestError as error:
        raise UsageError(f"--at-time: {error.message}") from error
