"""Releases: which statement is current, from when to when, and the envelopes that several people sign."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, UsageError, VerificationError
from blindbuild.formats.dsse import UnverifiedEnvelope, parse_envelope
from blindbuild.manifest import (
    RELEASE_PAYLOAD_TYPE,
    STATEMENT_PAYLOAD_TYPE,
    Release,
    format_time,
    parse_release,
    parse_statement,
)
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.publish.sign import (
    ReleaseSigner,
    add_signature,
    has_signed,
    sign_release,
    sign_statement,
)


@dataclass(frozen=True, slots=True)
class Envelopes:
    """What is published of a release: the DSSE envelopes over statement and release."""

    manifest: bytes
    release: bytes


def make_release(
    statement: bytes,
    *,
    valid_from: int,
    valid_until: int,
    replaces: bytes | None = None,
    channel: str = DEFAULT_CHANNEL,
) -> Release:
    """Return the release of a statement.

    Args:
        statement: its bytes.
        valid_from: seconds since 1970, included.
        valid_until: seconds since 1970, not included.
        replaces: the bytes of the statement whose place it takes, or None.
        channel: the line of releases it belongs to.

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
        channel=channel,
    )


def sign_envelopes(key: ReleaseSigner, statement: bytes, release: Release) -> Envelopes:
    """Return both envelopes with one signature each.

    Raises:
        ManifestError: no client would accept statement or release.
    """
    return Envelopes(sign_statement(key, statement), sign_release(key, release))


def cosign_envelopes(key: ReleaseSigner, envelopes: Envelopes) -> Envelopes:
    """Return both envelopes with this key's signature too; one that has it already stays as it is.

    Raises:
        EnvelopeError: malformed, or this key has signed both.
    """
    pairs = ((envelopes.manifest, STATEMENT_PAYLOAD_TYPE), (envelopes.release, RELEASE_PAYLOAD_TYPE))
    done = [has_signed(key.public, parse_envelope(envelope)) for envelope, _ in pairs]
    if all(done):
        raise EnvelopeError(f"key {key.public.key_id} has signed this release already")
    manifest, release = (
        envelope if there else add_signature(key, envelope, payload_type)
        for (envelope, payload_type), there in zip(pairs, done, strict=True)
    )
    return Envelopes(manifest, release)


def check_envelopes(envelopes: Envelopes, statement: bytes, *, now: int) -> Release:
    """Return the release that others have signed, if it is about this very statement.

    Whoever adds a signature vouches for what the others wrote: their signatures prove nothing to him, the
    bytes he built himself do.

    Args:
        envelopes: as they came.
        statement: the bytes that belong to the image at hand.
        now: seconds since 1970.

    Raises:
        EnvelopeError: malformed, or of another payload type.
        ManifestError: the release is malformed.
        VerificationError: about another statement, or no longer valid.
    """
    manifest = _typed(envelopes.manifest, STATEMENT_PAYLOAD_TYPE)
    if manifest.payload != statement:
        raise VerificationError(
            f"expected a manifest about statement {Digest.sha256(statement)}, that of the image at hand, "
            f"got one about {Digest.sha256(manifest.payload)}",
            step="M4",
            reason="other-statement",
            hint="do not sign: ask who made it which image it is about, and build that one yourself",
        )
    release = parse_release(_typed(envelopes.release, RELEASE_PAYLOAD_TYPE).payload)
    meant = make_release(statement, valid_from=release.valid_from, valid_until=release.valid_until)
    said = (release.product, release.version, release.sequence, release.statement)
    expected = (meant.product, meant.version, meant.sequence, meant.statement)
    if said != expected:
        shown = [" ".join(str(part) for part in parts) for parts in (expected, said)]
        raise VerificationError(
            f"expected a release of {shown[0]}, got one of {shown[1]}",
            step="M9",
            reason="release-of-other-statement",
            hint="do not sign: it would make another image current",
        )
    if now >= release.valid_until:
        raise VerificationError(
            f"expected a release that is still valid, got one until {format_time(release.valid_until)}",
            step="M9",
            reason="release-expired",
            hint="the first signer makes a new one: blindbuild sign IMAGE --key KEY",
        )
    return release


def _typed(envelope: bytes, payload_type: str) -> UnverifiedEnvelope:
    parsed = parse_envelope(envelope)
    if parsed.payload_type != payload_type:
        raise EnvelopeError(f"expected payload type {payload_type}, got {parsed.payload_type[:80]!r}")
    return parsed
