"""What a transparency log has of one release: its statement and its envelope, by digest.

Source: docs/spec/transparency-log.md, "The entry".
"""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import canonical_bytes, parse_canonical
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.fields import Fields
from blindbuild.manifest.statement import parse_statement
from blindbuild.manifest.words import DEFAULT_CHANNEL, MAX_SEQUENCE, NAME

LOG_ENTRY_TYPE = "blindbuild/reference-measurements"
MAX_LOG_ENTRY = 1024  # bytes; seven short fields
_VERSION = 1


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One release of a product on a channel; `envelope` is over all bytes of the manifest file."""

    product: str
    channel: str
    sequence: int
    statement: Digest
    envelope: Digest


def log_entry_of(envelope: bytes, *, channel: str = DEFAULT_CHANNEL) -> LogEntry:
    """Return what is logged of a manifest; its signatures are not looked at.

    Raises:
        EnvelopeError: the envelope is malformed.
        ManifestError: its payload is no statement, or the channel has no name that may be logged.
    """
    payload = parse_envelope(envelope).payload
    statement = parse_statement(payload)
    if not NAME.fullmatch(channel):
        raise ManifestError(f"channel: expected a name such as {DEFAULT_CHANNEL}, got {channel[:80]!r}")
    return LogEntry(
        product=statement.name,
        channel=channel,
        sequence=statement.sequence,
        statement=Digest.sha256(payload),
        envelope=Digest.sha256(envelope),
    )


def log_entry_bytes(entry: LogEntry) -> bytes:
    """Return the entry as the bytes of a leaf.

    Raises:
        ManifestError: the entry breaks a rule that `parse_log_entry` checks.
    """
    data = canonical_bytes(
        {
            "v": _VERSION,
            "type": LOG_ENTRY_TYPE,
            "product": entry.product,
            "channel": entry.channel,
            "sequence": entry.sequence,
            "statementSha256": entry.statement.hex,
            "envelopeSha256": entry.envelope.hex,
        }
    )
    parse_log_entry(data)
    return data


def parse_log_entry(data: bytes) -> LogEntry:
    """Parse the bytes of a leaf.

    Raises:
        ManifestError: not canonical JSON, another type, or an unknown or missing field.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_LOG_ENTRY)
    except FormatError as error:
        raise ManifestError(f"log entry: {error.message}") from error
    fields = Fields(
        value,
        "log entry",
        required=("v", "type", "product", "channel", "sequence", "statementSha256", "envelopeSha256"),
        error=ManifestError,
    )
    fields.integer("v", minimum=_VERSION, maximum=_VERSION)
    fields.word("type", (LOG_ENTRY_TYPE,))
    return LogEntry(
        product=fields.token("product", NAME),
        channel=fields.token("channel", NAME),
        sequence=fields.integer("sequence", minimum=0, maximum=MAX_SEQUENCE),
        statement=fields.digest("statementSha256", HashAlgorithm.SHA256),
        envelope=fields.digest("envelopeSha256", HashAlgorithm.SHA256),
    )
