"""One file with all that a session was judged by, so that an auditor can judge it again later, offline.

Trust file and policy are not in it: the auditor brings his own. Nothing in a bundle is believed for being in
it. Source: docs/spec/offline-bundle.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from blindbuild.errors import FormatError, ManifestError, VerificationError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.fields import Fields, decode_base64, encode_base64
from blindbuild.formats.tlog_proof import MAX_TLOG_PROOF
from blindbuild.formats.tpm2 import MAX_CRL
from blindbuild.manifest import format_time, parse_time
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.rebuild import MAX_REBUILD_ENVELOPE, MAX_REBUILDS
from blindbuild.verify.session import MAX_SESSION, RecordedSession, parse_session, session_bytes

MAX_BUNDLE = 48 << 20  # bytes; the sum of what may be in it, as base64
MAX_CRLS = 64  # one an authority
MAX_TUF_FILES = 64  # a chain of roots, three other roles, and the list of what was withdrawn
_MAX_TUF_FILE = 4 << 20  # bytes; the largest role that a client takes
_TUF_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,4}")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A recorded session and what was published, unjudged.

    Attributes:
        envelope: the manifest, a DSSE envelope over the statement.
        saved_at: seconds since 1970, as whoever saved it says.
        release: a DSSE envelope over the release, or None.
        ledger: channels.json, or None.
        log_proof: that the release is in a transparency log, or None.
        probe: a DSSE envelope over the probe of the image, or None.
        rebuilds: DSSE envelopes of rebuilders.
        crls: certificate revocation lists.
        tuf: files of the TUF repository by their name in it, when one was followed.
    """

    session: RecordedSession
    envelope: bytes
    saved_at: int
    release: bytes | None = None
    ledger: bytes | None = None
    log_proof: bytes | None = None
    rebuilds: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    tuf: Mapping[str, bytes] = field(default_factory=dict)
    probe: bytes | None = None


_ONE = {  # field -> what it is in JSON, and its limit
    "release": ("release", MAX_ENVELOPE),
    "ledger": ("ledger", MAX_LEDGER),
    "log_proof": ("logProof", MAX_TLOG_PROOF),
    "probe": ("probe", MAX_ENVELOPE),
}


def looks_like_bundle(data: bytes) -> bool:
    """Return whether a recorded file is a bundle by its first key, or a session alone."""
    return data.startswith((b'{"crls":', b'{"ledger":', b'{"logProof":', b'{"manifest":'))


def parse_bundle(data: bytes) -> Bundle:
    """Parse a bundle; it must be the very bytes that `bundle_bytes` writes.

    Raises:
        VerificationError: step Q10, reason `malformed`.
    """
    try:
        bundle = _read(parse_json(data, max_bytes=MAX_BUNDLE))
        same = bundle_bytes(bundle) == data
    except (FormatError, ManifestError) as error:
        raise VerificationError(error.message, step="Q10", reason="malformed") from error
    if not same:
        message = "bundle: expected RFC 8785 JSON, got another form of it"
        raise VerificationError(message, step="Q10", reason="malformed")
    return bundle


def bundle_bytes(bundle: Bundle) -> bytes:
    """Return the bundle as one RFC 8785 JSON object.

    Raises:
        ManifestError: a part is too large to be read back.
    """
    value: dict[str, JsonValue] = {
        "version": 1,
        "savedAt": format_time(bundle.saved_at),
        "session": parse_json(session_bytes(bundle.session), max_bytes=MAX_SESSION),
        "manifest": encode_base64(bundle.envelope),
    }
    for name, (key, _limit) in _ONE.items():
        part = getattr(bundle, name)
        if part is not None:
            value[key] = encode_base64(part)
    for key, parts in (("rebuilds", bundle.rebuilds), ("crls", bundle.crls)):
        if parts:
            value[key] = [encode_base64(part) for part in parts]
    if bundle.tuf:
        value["tuf"] = {name: encode_base64(bundle.tuf[name]) for name in sorted(bundle.tuf)}
    data = canonical_bytes(value)
    if len(data) > MAX_BUNDLE:
        raise ManifestError(f"bundle: expected at most {MAX_BUNDLE} bytes, got {len(data)}")
    return data


def _read(value: JsonValue) -> Bundle:
    optional = (*(key for key, _limit in _ONE.values()), "rebuilds", "crls", "tuf")
    fields = Fields(
        value, "bundle", required=("version", "savedAt", "session", "manifest"), optional=optional
    )
    fields.integer("version", minimum=1, maximum=1)
    parts = {
        name: fields.base64(key, max_bytes=limit) if key in fields else None
        for name, (key, limit) in _ONE.items()
    }
    return Bundle(
        session=parse_session(canonical_bytes(fields.raw("session"))),
        envelope=fields.base64("manifest", max_bytes=MAX_ENVELOPE),
        saved_at=parse_time(fields.text("savedAt")),
        release=parts["release"],
        ledger=parts["ledger"],
        log_proof=parts["log_proof"],
        probe=parts["probe"],
        rebuilds=_list(fields, "rebuilds", MAX_REBUILDS, MAX_REBUILD_ENVELOPE),
        crls=_list(fields, "crls", MAX_CRLS, MAX_CRL),
        tuf=_tuf(fields) if "tuf" in fields else {},
    )


def _list(fields: Fields, key: str, maximum: int, limit_bytes: int) -> tuple[bytes, ...]:
    if key not in fields:
        return ()
    texts = fields.texts(key, minimum=1, maximum=maximum)
    return tuple(_decode(fields, key, text, limit_bytes) for text in texts)


def _tuf(fields: Fields) -> dict[str, bytes]:
    value = fields.raw("tuf")
    if not isinstance(value, dict) or not 1 <= len(value) <= MAX_TUF_FILES:
        raise fields.fail("tuf", f"expected an object of 1 to {MAX_TUF_FILES} files")
    files = {}
    for name, text in value.items():
        if not _TUF_NAME.fullmatch(name) or not isinstance(text, str):
            raise fields.fail("tuf", f"expected names of files with their bytes, got {name[:80]!r}")
        files[name] = _decode(fields, "tuf", text, _MAX_TUF_FILE)
    return files


def _decode(fields: Fields, key: str, text: str, limit_bytes: int) -> bytes:
    if len(text) > 4 * ((limit_bytes + 2) // 3):
        raise fields.fail(key, f"expected at most {limit_bytes} bytes each")
    try:
        return decode_base64(text)
    except FormatError as error:
        raise fields.fail(key, error.message) from error
