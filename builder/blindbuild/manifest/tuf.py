"""What the files of a TUF repository are called, and the root of one that a trust file pins.

Only names and shapes: signatures and versions are judged by `client.tuf`.

Source: TUF specification 1.0.33, 4.5 (targets), 7 (consistent snapshots); docs/spec/publication.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import parse_json
from blindbuild.manifest.words import DEFAULT_CHANNEL, MAX_SEQUENCE, NAME

METADATA, TARGETS = "metadata", "targets"  # the two directories of a repository
REVOKED = "revoked.json"
LOG_POLICY = "log/policy.txt"
MAX_ROOT = 1 << 16  # bytes; a root with a dozen keys has 10 KiB
_SEGMENT = r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}"
# relative, no segment that begins with a dot, nothing that a URL or a shell would read otherwise
_TARGET = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,7}}")
_MANIFEST = re.compile(rf"manifests/({NAME.pattern})/({NAME.pattern})/(0|[1-9][0-9]{{0,15}})\.dsse\.json")


@dataclass(frozen=True, slots=True)
class ReleaseName:
    """One release: a product, a line of releases of it, and its place in that line."""

    product: str
    channel: str
    sequence: int

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.product) or not NAME.fullmatch(self.channel):
            names = f"{self.product[:80]!r}, {self.channel[:80]!r}"
            raise ManifestError(
                f"expected names of a product and a channel such as {DEFAULT_CHANNEL}, got {names}"
            )
        if not 0 <= self.sequence <= MAX_SEQUENCE:
            raise ManifestError(f"expected a sequence from 0 to 2^53 - 1, got {self.sequence}")

    @property
    def _path(self) -> str:
        return f"{self.product}/{self.channel}/{self.sequence}"

    @property
    def manifest(self) -> str:
        """The target that is the manifest."""
        return f"manifests/{self._path}.dsse.json"

    @property
    def ledger(self) -> str:
        """The target that is the channel ledger."""
        return f"ledgers/{self._path}.json"

    @property
    def log_proof(self) -> str:
        """The target that is the proof of a transparency log."""
        return f"log/{self._path}.tlog-proof"

    @property
    def probe(self) -> str:
        """The target that is the envelope over the probe."""
        return f"probes/{self._path}.dsse.json"

    def rebuild(self, number: int) -> str:
        """The target that is the envelope of a rebuilder; they are counted from 1."""
        return f"rebuilds/{self._path}/{number}.dsse.json"


def release_of(target: str) -> ReleaseName | None:
    """Return the release whose manifest a target is, or None for any other target."""
    match = _MANIFEST.fullmatch(target)
    if match is None or int(match[3]) > MAX_SEQUENCE:
        return None
    return ReleaseName(match[1], match[2], int(match[3]))


def is_safe_target(name: str) -> bool:
    """Return whether a target's name stays below its directory, however it is read."""
    return _TARGET.fullmatch(name) is not None


def hashed_path(target: str, sha256: str) -> str:
    """Return where a target's bytes are: its path with the digest before the file name (7.1)."""
    folder, slash, name = target.rpartition("/")
    return f"{folder}{slash}{sha256}.{name}"


def check_root(data: bytes) -> None:
    """Check that bytes look like a TUF root; whether it is well signed is for `client.tuf` to say.

    Raises:
        ManifestError: not strict JSON, too long, or not root metadata.
    """
    try:
        value = parse_json(data, max_bytes=MAX_ROOT)
    except FormatError as error:
        raise ManifestError(f"TUF root: {error.message}") from error
    signed = value.get("signed") if isinstance(value, dict) else None
    if not isinstance(signed, dict) or signed.get("_type") != "root":
        raise ManifestError(
            "TUF root: expected root metadata, got something else",
            hint="it is metadata/1.root.json of the repository, or a later one that you checked",
        )
