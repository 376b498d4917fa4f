"""The rebuild record: somebody else built the same recipe, and the statement came out the same.

It names the statement by digest and is signed under a payload type of its own, so that no signature of a
rebuilder can be taken for one of a release key, nor the other way round (docs/adr/0008-rebuilders.md).
"""

from __future__ import annotations

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import canonical_bytes, parse_canonical
from blindbuild.formats.fields import Fields

REBUILD_PAYLOAD_TYPE = "application/vnd.blindbuild.rebuild+json"
REBUILD_TYPE = "urn:blindbuild:rebuild:v1"
MAX_REBUILD = 1024  # bytes; a type and a digest
MAX_REBUILD_ENVELOPE = 1 << 16  # bytes; the record in base64 and 16 signatures fit
MAX_REBUILDS = 16  # envelopes that are looked at; as many as a trust file has rebuilders


def rebuild_bytes(statement: Digest) -> bytes:
    """Return the record about a statement as the bytes that are signed.

    Raises:
        ManifestError: the digest is not SHA-256.
    """
    data = canonical_bytes({"_type": REBUILD_TYPE, "statement": {statement.algorithm.value: statement.hex}})
    parse_rebuild(data)
    return data


def parse_rebuild(data: bytes) -> Digest:
    """Return SHA-256 of the statement that a record is about.

    Raises:
        ManifestError: not strict JSON, not in RFC 8785 form, an unknown or missing field, or another type.
    """
    try:
        value = parse_canonical(data, max_bytes=MAX_REBUILD)
    except FormatError as error:
        raise ManifestError(f"rebuild: {error.message}") from error
    fields = Fields(value, "rebuild", required=("_type", "statement"), error=ManifestError)
    fields.word("_type", (REBUILD_TYPE,))
    inner = Fields(fields.raw("statement"), fields.at("statement"), required=("sha256",), error=ManifestError)
    return inner.digest("sha256", HashAlgorithm.SHA256)
