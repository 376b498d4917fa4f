"""One refresh of a TUF repository: python-tuf's client workflow, and what it leaves out.

Beyond tuf.ngclient: strict JSON; no key counted twice; a version that comes with other content is refused and
kept as evidence (ngclient takes it for the one it has); versions have an end, so that nobody can use them up;
nothing is remembered before all of this was checked.

Source: TUF specification 1.0.33, 5 ("Detailed client workflow"); tuf 7.0.1, tuf/ngclient/updater.py.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, TypeVar

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from blindbuild.client.tuf_keys import check_unique_keys
from blindbuild.client.tuf_memory import FILES, HISTORY, read_type, read_workplace
from blindbuild.errors import BlindbuildError, ChannelError, FormatError, VerificationError
from blindbuild.formats.canonical import JsonValue, parse_json
from blindbuild.formats.printable import visible
from blindbuild.formats.tlog_tiles import ReadFile
from blindbuild.manifest.tuf import MAX_ROOT, METADATA
from blindbuild.verify.current import expired_message

MAX_ROTATIONS = 256  # roots between the pinned one and the latest; one a week for five years
MAX_TIMESTAMP = 1 << 14  # bytes; one has 700
MAX_SNAPSHOT = 1 << 16  # bytes; one without delegations has 700
MAX_TARGETS = 4 << 20  # bytes; a release has five targets of 300 bytes each
MAX_VERSION = 2**31 - 1  # one a second for 68 years
_MISSING = 404
Role = TypeVar("Role", Root, Timestamp, Snapshot, Targets)
_ROLES: dict[str, type[Any]] = {
    "root": Root,
    "timestamp": Timestamp,
    "snapshot": Snapshot,
    "targets": Targets,
}


class ForkError(Exception):
    """One version with two contents, both signed; `name` and `versions` are the evidence."""

    def __init__(self, name: str, version: int, versions: tuple[bytes, bytes]) -> None:
        super().__init__(name, version)
        self.name = name
        self.version = version
        self.versions = versions

    def refusal(self, kept: Sequence[Path]) -> VerificationError:
        """Return what the caller is told, and where the evidence is."""
        where = "both are kept as evidence: " + " and ".join(str(path) for path in kept) if kept else None
        return VerificationError(
            f"{self.name} version {self.version}: expected the content that was seen before, got another one "
            "with good signatures: somebody shows different clients different repositories",
            step="M1",
            reason="fork",
            hint=where,
        )


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What a refresh has verified."""

    root: Root
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets


class Refresh:
    """One refresh, on a copy of what is remembered.

    Args:
        pinned: the root metadata that the trust file has.
        read: gives the repository's files, by path.
        before: what is remembered, by path.
        work: an own directory that has these files.
        now: seconds since 1970.
    """

    def __init__(
        self, pinned: bytes, read: ReadFile, before: Mapping[str, bytes], work: Path, *, now: int
    ) -> None:
        self._pinned = pinned
        self._fetcher = _Fetcher(read)
        self._before = before
        self._work = work
        self._now = now

    def run(self) -> None:
        """Have tuf.ngclient refresh; what it has verified is then in the working directory.

        Raises:
            VerificationError: M1, with a reason for each rule of the workflow.
            ChannelError: the repository cannot be reached.
        """
        try:
            self._update()
        except BlindbuildError:
            raise
        except RepositoryError as error:
            raise self._refusal(error) from error
        except Exception as error:
            # metadata that a parser chokes on is refused like any other; its text is the attacker's
            raise VerificationError(
                f"metadata that cannot be read: {type(error).__name__}: {visible(str(error)[:200])}",
                step="M1",
                reason="malformed",
            ) from error

    def _update(self) -> None:
        updater = Updater(
            metadata_dir=str(self._work),
            metadata_base_url=METADATA,
            fetcher=self._fetcher,
            config=UpdaterConfig(
                max_root_rotations=MAX_ROTATIONS,
                root_max_length=MAX_ROOT,
                timestamp_max_length=MAX_TIMESTAMP,
                snapshot_max_length=MAX_SNAPSHOT,
                targets_max_length=MAX_TARGETS,
            ),
            bootstrap=self._pinned,
        )
        # ngclient has no parameter for the time; a client judges by one clock, its caller's
        trusted = updater._trusted_set
        if not isinstance(trusted.reference_time, datetime):
            raise TypeError("tuf.ngclient: expected a reference time")
        trusted.reference_time = datetime.fromtimestamp(self._now, UTC)
        updater.refresh()

    def verified(self) -> dict[str, bytes]:
        """Return what may be remembered, also after a refresh that failed half-way.

        Raises:
            VerificationError: a key counts twice.
            ForkError: one version has two contents.
        """
        after = read_workplace(self._work)
        if not (self._work / "root.json").exists():
            return {}  # the pinned root itself was refused
        for place in sorted(place for place in after if place.startswith(f"{HISTORY}/")):
            check_unique_keys(_load(Root, after[place]).signed)
        root = _load(Root, (self._work / "root.json").read_bytes()).signed
        self._check_fork(root, after)
        return after

    def result(self) -> Refreshed:
        """Return the four roles after a refresh that went well."""
        files = {place: (self._work / place).read_bytes() for place in ("root.json", *FILES)}
        return Refreshed(
            _load(Root, files["root.json"]).signed,
            _load(Timestamp, files["timestamp.json"]).signed,
            _load(Snapshot, files["snapshot.json"]).signed,
            _load(Targets, files["targets.json"]).signed,
        )

    def _check_fork(self, root: Root, after: Mapping[str, bytes]) -> None:
        # ngclient drops a served timestamp of the version that it has, whatever is in it
        served = self._fetcher.served
        for place in FILES:
            role = place.removesuffix(".json")
            candidates = [served.get(f"{METADATA}/{place}"), after.get(place)]
            for candidate in candidates:
                if place in self._before and candidate is not None:
                    _compare(place, role, root, (self._before[place], candidate))
        self._check_snapshot(root, after)

    def _check_snapshot(self, root: Root, after: Mapping[str, bytes]) -> None:
        # ngclient keeps the snapshot of the right version that it has, even if the timestamp's hash differs
        if "timestamp.json" not in after or "snapshot.json" not in after:
            return
        meta = _load(Timestamp, after["timestamp.json"]).signed.snapshot_meta
        snapshot = _load(Snapshot, after["snapshot.json"])
        if meta.version != snapshot.signed.version or not _is_signed(snapshot, root):
            return  # refused, or to be fetched, or of a key that was rotated since
        try:
            meta.verify_length_and_hashes(after["snapshot.json"])
        except LengthOrHashMismatchError as error:
            evidence = (self._before.get("timestamp.json", after["snapshot.json"]), after["timestamp.json"])
            raise ForkError("snapshot.json", snapshot.signed.version, evidence) from error

    def _refusal(self, error: RepositoryError) -> VerificationError:
        text = visible(str(error)[:200])
        match error:
            case UnsignedMetadataError():
                reason, message = (
                    "not-signed",
                    f"expected enough signatures of the keys that count, got: {text}",
                )
            case LengthOrHashMismatchError():
                reason, message = (
                    "hash-mismatch",
                    f"expected the files that were signed together, got: {text}",
                )
            case BadVersionNumberError():
                reason, message = self._explain_version(text)
            case ExpiredMetadataError():
                reason, message = "expired", self._explain_expiry()
            case _:
                reason, message = "malformed", f"expected TUF metadata by its rules, got: {text}"
        return VerificationError(message, step="M1", reason=reason)

    def _explain_version(self, text: str) -> tuple[str, str]:
        for place in FILES[:2]:
            old, new = self._before.get(place), self._fetcher.served.get(f"{METADATA}/{place}")
            if old is None or new is None:
                continue
            before, after = _versions(old), _versions(new)
            if after[0] < before[0] or after[1] < before[1]:
                return "rollback", (
                    f"expected {place} of version {before[0]} or later, as seen before, "
                    f"got {after[0]}: {text}"
                )
        return "other-version", f"expected the versions that were signed together, got: {text}"

    def _explain_expiry(self) -> str:
        after = read_workplace(self._work)
        roots = {"root.json": (self._work / "root.json").read_bytes()}
        served = self._fetcher.latest()
        for role in _ROLES:
            data = (roots | after | served).get(f"{role}.json")
            if data is None:
                continue
            until = int(_load(_ROLES[role], data).signed.expires.timestamp())
            if self._now >= until:
                return expired_message(role, until, self._now)
        return "expected metadata that is valid now, got some that expired"


class _Fetcher(FetcherInterface):
    """Reads metadata through the client's own door, and checks its form before python-tuf sees it."""

    def __init__(self, read: ReadFile) -> None:
        self._read = read
        self.served: dict[str, bytes] = {}

    def latest(self) -> dict[str, bytes]:
        """Return what was served last of each role, as `role.json`."""
        return {
            f"{place.split('.')[-2].rpartition('/')[2]}.json": data for place, data in self.served.items()
        }

    def _fetch(self, url: str) -> Iterator[bytes]:
        with self.download_file(url, MAX_TARGETS) as stream:
            yield stream.read()

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """Give a file's bytes; the limit holds before they are in memory.

        Raises:
            DownloadHTTPError: there is no such root.
            ChannelError: anything else that is not there.
            VerificationError: it is not metadata of the role that its name says.
        """
        data = self._read(url, max_length)
        role = url.removesuffix(".json").rpartition("/")[2].rpartition(".")[2]
        if data is None:
            if role == Root.type:  # the workflow asks for the next root until there is none (5.3.2)
                raise DownloadHTTPError(f"{url} is not there", _MISSING)
            raise ChannelError(
                f"{url}: expected the repository's metadata, got nothing there",
                hint="name the address below which metadata/ and targets/ are served",
            )
        _check_form(data, role, max_length)
        plain = f"{METADATA}/{role}.json"
        self.served[plain] = data
        yield io.BytesIO(data)


def _check_form(data: bytes, role: str, limit_bytes: int) -> None:
    """Check what python-tuf is lenient about, before anything is built from it."""
    try:
        value = parse_json(data, max_bytes=limit_bytes)
    except FormatError as error:
        raise VerificationError(f"{role}.json: {error.message}", step="M1", reason="malformed") from error
    signed = value.get("signed") if isinstance(value, dict) else None
    if not isinstance(signed, dict) or read_type(value) != role:
        raise VerificationError(
            f"{role}.json: expected metadata of role {role}, got {visible(repr(read_type(value))[:40])}",
            step="M1",
            reason="other-role",
        )
    meta = signed.get("meta")
    entries = list(meta.values()) if isinstance(meta, dict) else []
    for entry in (signed, *entries):
        _check_version(entry, role)
    if role == "snapshot" and not (isinstance(meta, dict) and "targets.json" in meta):
        raise VerificationError(
            "snapshot.json: expected it to list targets.json", step="M1", reason="targets-missing"
        )


def _check_version(entry: JsonValue, role: str) -> None:
    version = entry.get("version") if isinstance(entry, dict) else None
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise VerificationError(f"{role}.json: expected a version", step="M1", reason="malformed")
    if version > MAX_VERSION:
        raise VerificationError(
            f"{role}.json: expected a version of at most {MAX_VERSION}, got {version}: somebody uses them up",
            step="M1",
            reason="version-too-large",
        )


def _compare(place: str, role: str, root: Root, versions: tuple[bytes, bytes]) -> None:
    old = _load(_ROLES[role], versions[0])
    try:
        new = _load(_ROLES[role], versions[1])
    except BlindbuildError:
        return  # what was served is no metadata; the workflow has refused it
    if old.signed.version != new.signed.version or old.signed_bytes == new.signed_bytes:
        return
    # otherwise keys were rotated since, or nobody signed it
    if _is_signed(old, root) and _is_signed(new, root):
        raise ForkError(place, new.signed.version, versions)


def _is_signed(metadata: Metadata[Any], root: Root) -> bool:
    try:
        root.verify_delegate(metadata.signed.type, metadata.signed_bytes, metadata.signatures)
    except UnsignedMetadataError:
        return False
    return True


def _versions(data: bytes) -> tuple[int, int]:
    """Return the version of a timestamp or snapshot, and of what it lists."""
    signed = parse_json(data, max_bytes=MAX_TARGETS)
    inner = signed["signed"] if isinstance(signed, dict) else None
    if not isinstance(inner, dict) or not isinstance(inner["meta"], dict):
        return 0, 0
    listed = [entry["version"] for entry in inner["meta"].values() if isinstance(entry, dict)]
    return int(str(inner["version"])), min((int(str(version)) for version in listed), default=0)


def _load(kind: type[Role], data: bytes) -> Metadata[Role]:
    """Return metadata that was verified before it was kept.

    Raises:
        BlindbuildError: it was changed since.
    """
    try:
        metadata = Metadata[Role].from_bytes(data)
    except RepositoryError as error:
        raise BlindbuildError(f"{kind.type}.json: what is remembered is no TUF metadata any more") from error
    if not isinstance(metadata.signed, kind):
        raise VerificationError(
            f"expected {kind.__name__} metadata, got {type(metadata.signed).__name__}",
            step="M1",
            reason="other-role",
        )
    return metadata
