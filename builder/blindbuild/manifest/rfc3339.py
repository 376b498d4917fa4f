"""Times as they are signed: RFC 3339, UTC, whole seconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from blindbuild.errors import ManifestError

_FORM = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
MIN_TIME = 0
MAX_TIME = 253402300799  # 9999-12-31T23:59:59Z, the last that four digits of a year can say


def parse_time(text: str) -> int:
    """Return seconds since 1970 of a time such as `2026-12-31T23:59:59Z`.

    Raises:
        ManifestError: another form, an offset, a leap second, or a day that does not exist.

    Source: RFC 3339, 5.6, with the upper-case letters and the Z that ISO 8601 readers share.
    """
    if not _FORM.fullmatch(text):
        raise ManifestError(f"expected a time such as 2026-12-31T23:59:59Z, got {text[:40]!r}")
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise ManifestError(f"expected a time that exists, got {text!r}") from error
    seconds = int(moment.timestamp())
    # strptime takes 60 and 61 as seconds on some platforms; written back they are another time
    if seconds < MIN_TIME or format_time(seconds) != text:
        raise ManifestError(f"expected a time from 1970 on without leap seconds, got {text!r}")
    return seconds


def format_time(seconds: int) -> str:
    """Return the RFC 3339 form of seconds since 1970.

    Raises:
        ManifestError: before 1970 or after 9999.
    """
    if not MIN_TIME <= seconds <= MAX_TIME:
        raise ManifestError(f"expected a time from 1970 to 9999, got {seconds} seconds")
    moment = datetime.fromtimestamp(seconds, tz=UTC)
    return f"{moment.year:04d}-" + moment.strftime("%m-%dT%H:%M:%SZ")
