"""The release: which statement of a product is current, from when to when."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.manifest.rfc3339 import format_time, parse_time
from blindbuild.manifest.words import DEFAULT_CHANNEL, MAX_SEQUENCE, NAME, VERSION

RELEASE_PAYLOAD_TYPE = "application/vnd.blindbuild.release+json"
RELEASE_TYPE = "urn:blindbuild:release:v1"
MAX_RELEASE = 4096  # bytes; a release has nine short fields


@dataclass(frozen=True, slots=True)
class Release:
    """What is signed beside a statement, so that the statement itself needs no time.

    Attributes:
        statement: SHA-256 of the statement's bytes.
        valid_from: seconds since 1970, included.
        valid_until: seconds since 1970, not included.
        replaces: SHA-256 of the statement that this one takes the place of, or None.
        channel: the line of releases it belongs to; written only when it is not the default.
    """

    product: str
    version: str
    sequence: int
    statement: Digest
    valid_from: int
    valid_until: int
    replaces: Digest | None = None
    channel: str = DEFAULT_CHANNEL


def release_bytes(release: Release) -> bytes:
    """Return the release as the bytes that are signed.

    Raises:
        ManifestError: the release breaks a rule that `parse_release` checks.
    """
    value: dict[str, JsonValue] = {
        "_type": RELEASE_TYPE,
        "product": release.product,
        "version": release.version,
        "sequence": release.sequence,
        "statement": {release.statement.algorithm.value: release.statement.hex},
        "validFrom": format_time(release.valid_from),
        "validUntil": format_time(release.valid_until),
    }
    if release.replaces is not None:
        value["replaces"] = {release.replaces.algorithm.value: release.replaces.hex}
    if release.channel != DEFAULT_CHANNEL:
        value["channel"] = release.channel
    try:
        data = canonical_bytes(value)
    except FormatError as error:
        raise ManifestError(f"release: cannot be written: {error.message}") from error
    parse_release(data)
    return data


def parse_release(data: bytes) -> Release:
    """Parse the bytes of a release.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, an unknown or missing field, or a rule broken.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_RELEASE)
    except FormatError as error:
        raise ManifestError(f"release: {error.message}") from error
    fields = Fields(
        value,
        "release",
        required=("_type", "product", "version", "sequence", "statement", "validFrom", "validUntil"),
        optional=("replaces", "channel"),
        error=ManifestError,
    )
    fields.word("_type", (RELEASE_TYPE,))
    release = Release(
        product=fields.token("product", NAME),
        version=fields.token("version", VERSION),
        sequence=fields.integer("sequence", minimum=0, maximum=MAX_SEQUENCE),
        statement=_digest(fields, "statement"),
        valid_from=parse_time(fields.text("validFrom")),
        valid_until=parse_time(fields.text("validUntil")),
        replaces=_digest(fields, "replaces") if "replaces" in fields else None,
        channel=_channel(fields),
    )
    if release.valid_until <= release.valid_from:
        raise fields.fail("validUntil", "expected a time after validFrom")
    if release.replaces == release.statement:
        raise fields.fail("replaces", "expected another statement than the released one")
    return release


def _channel(fields: Fields) -> str:
    if "channel" not in fields:
        return DEFAULT_CHANNEL
    channel = fields.token("channel", NAME)
    if channel == DEFAULT_CHANNEL:
        raise fields.fail("channel", "expected another channel than the default, which is never written")
    return channel


def _digest(fields: Fields, key: str) -> Digest:
    inner = Fields(fields.raw(key), fields.at(key), required=("sha256",), error=ManifestError)
    return inner.digest("sha256", HashAlgorithm.SHA256)
