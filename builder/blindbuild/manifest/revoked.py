"""Which statements were withdrawn, and why: `revoked.json`, a target of the TUF repository.

It is bound to one state of the repository by TUF, so that it can be neither taken back nor left out.

Source: docs/spec/publication.md, "Withdrawn releases".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields
from blindbuild.manifest.rfc3339 import format_time, parse_time
from blindbuild.manifest.words import MAX_SEQUENCE, NAME

REVOKED_TYPE = "urn:blindbuild:revoked:v1"
MAX_REVOKED = 1 << 20  # bytes; an entry takes about 220
MAX_REVOCATIONS = 4096  # a product that withdrew more needs another name
REASONS = {
    "vulnerable": "it has a known vulnerability",
    "broken": "it does not work as it should",
    "key-compromised": "a key that signed it may be in other hands",
    "not-ours": "it was signed or published without the publisher's consent",
    "retired": "it is no longer supported",
}


@dataclass(frozen=True, slots=True)
class Revocation:
    """One withdrawn statement; `reason` is a word of `REASONS`, `withdrawn` is in seconds since 1970."""

    statement: Digest
    product: str
    channel: str
    sequence: int
    reason: str
    withdrawn: int


def revoked_bytes(entries: Iterable[Revocation]) -> bytes:
    """Return the list as RFC 8785 JSON, in the order of the statements' digests.

    Raises:
        ManifestError: the list breaks a rule that `parse_revoked` checks.
    """
    listed: list[JsonValue] = [
        {
            "statement": {entry.statement.algorithm.value: entry.statement.hex},
            "product": entry.product,
            "channel": entry.channel,
            "sequence": entry.sequence,
            "reason": entry.reason,
            "withdrawn": format_time(entry.withdrawn),
        }
        for entry in sorted(entries, key=lambda entry: entry.statement.hex)
    ]
    data = canonical_bytes({"_type": REVOKED_TYPE, "revoked": listed})
    parse_revoked(data)
    return data


def parse_revoked(data: bytes) -> tuple[Revocation, ...]:
    """Parse the list.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, an unknown field or reason, or statements that
            are not in order, each once.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_REVOKED)
    except FormatError as error:
        raise ManifestError(f"{REVOKED_TYPE}: {error.message}") from error
    fields = Fields(value, "revoked", required=("_type", "revoked"), error=ManifestError)
    fields.word("_type", (REVOKED_TYPE,))
    listed = fields.array("revoked", maximum=MAX_REVOCATIONS)
    entries = tuple(_entry(entry, f"revoked[{index}]") for index, entry in enumerate(listed))
    digests = [entry.statement.hex for entry in entries]
    if digests != sorted(set(digests)):
        raise fields.fail("revoked", "expected statements in order, each once")
    return entries


def _entry(value: JsonValue, where: str) -> Revocation:
    fields = Fields(
        value,
        where,
        required=("statement", "product", "channel", "sequence", "reason", "withdrawn"),
        error=ManifestError,
    )
    statement = Fields(
        fields.raw("statement"), fields.at("statement"), required=("sha256",), error=ManifestError
    )
    return Revocation(
        statement=statement.digest("sha256", HashAlgorithm.SHA256),
        product=fields.token("product", NAME),
        channel=fields.token("channel", NAME),
        sequence=fields.integer("sequence", minimum=0, maximum=MAX_SEQUENCE),
        reason=fields.word("reason", REASONS),
        withdrawn=parse_time(fields.text("withdrawn")),
    )
