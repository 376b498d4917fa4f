"""Releases: which statement is current, from when to when."""

from __future__ import annotations

from blindbuild.digest import Digest
from blindbuild.errors import UsageError
from blindbuild.manifest import Release, parse_statement


def make_release(
    statement: bytes, *, valid_from: int, valid_until: int, replaces: bytes | None = None
) -> Release:
    """Return the release of a statement.

    Args:
        statement: its bytes.
        valid_from: seconds since 1970, included.
        valid_until: seconds since 1970, not included.
        replaces: the bytes of the statement whose place it takes, or None.

    Raises:
        ManifestError: a statement that no client would accept.
        UsageError: times in the wrong order, or a replaced statement of another product or later sequence.
    """
    parsed = parse_statement(statement)
    if valid_until <= valid_from:
        raise UsageError("expected a release that ends after it begins")
    if replaces is not None:
        before = parse_statement(replaces)
        if before.name != parsed.name or before.sequence >= parsed.sequence:
            raise UsageError(
                f"expected to replace an earlier {parsed.name}, got {before.name}, "
                f"sequence {before.sequence}",
                hint="raise `sequence` in the recipe",
            )
    return Release(
        product=parsed.name,
        version=parsed.version,
        sequence=parsed.sequence,
        statement=Digest.sha256(statement),
        valid_from=valid_from,
        valid_until=valid_until,
        replaces=None if replaces is None else Digest.sha256(replaces),
    )
