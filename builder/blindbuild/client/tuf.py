"""Follow the TUF repository that a trust file pins: what is current, what is withdrawn, which keys count.

`tuf` and `securesystemslib` are loaded only by a refresh.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from blindbuild.client.log_files import read_log_file
from blindbuild.client.published import Published
from blindbuild.client.tuf_advice import with_advice
from blindbuild.client.tuf_memory import TufFolder, TufMemory, workplace
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import (
    ChannelError,
    FormatError,
    ManifestError,
    ToolError,
    UsageError,
    VerificationError,
)
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.tlog_proof import MAX_TLOG_PROOF
from blindbuild.formats.tlog_tiles import ReadFile
from blindbuild.manifest import TrustRoots, format_time, parse_time
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.rebuild import MAX_REBUILD_ENVELOPE, MAX_REBUILDS
from blindbuild.manifest.revoked import MAX_REVOKED, Revocation, parse_revoked
from blindbuild.manifest.tuf import REVOKED, TARGETS, ReleaseName, hashed_path, is_safe_target
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.verify.current import CurrentView, RoleState, Target

if TYPE_CHECKING:  # tuf is loaded by those who follow a repository
    from tuf.api.metadata import Targets

    from blindbuild.client.tuf_refresh import Refreshed

MAX_REFRESH_S = 300.0  # for all files of one refresh, a dozen at most; else each could take its whole time
CLOCK_SKEW_S = 60
ISSUED = "x-blindbuild-issued"  # in timestamp.json: when it was signed
_OK, _FORBIDDEN = 200, 403


@dataclass(frozen=True, slots=True)
class Followed:
    """What a repository has of the release that is current.

    Attributes:
        view: what the refresh has established; goes into `appraise(current=…)`.
        name: the release.
        published: its files; there is no `release` among them, since the view says what is current.
    """

    view: CurrentView
    name: ReleaseName
    published: Published


@dataclass(slots=True)
class TufRepository:
    """The repository that a trust file pins, as one client follows it.

    Attributes:
        trust: a trust file with a TUF root.
        place: an https:// or http:// address, or a directory; None for the address in the trust file.
        memory: what was seen of repositories, or None to judge as if at first use.
        channel: whose releases are wanted.
        clock: gives seconds since 1970.
        remember: keep what is verified; if not, what was kept before still counts.
        clock_skew_s: how far clocks may differ.
        read: gives the repository's files instead of the place, as an auditor's bundle does; None elsewhere.
    """

    trust: TrustRoots
    place: str | None = None
    memory: TufMemory | None = None
    channel: str = DEFAULT_CHANNEL
    clock: Callable[[], float] = time.time
    remember: bool = True
    clock_skew_s: int = CLOCK_SKEW_S
    read: ReadFile | None = None
    _held: dict[Target, bytes] = field(default_factory=dict, repr=False)

    def refresh(self) -> CurrentView:
        """Refresh from the pinned root and return what is established now.

        Raises:
            VerificationError: M1, M2, M3, M9 or M11: the repository is not what it should be, or the clock.
            ChannelError: it cannot be reached.
            UsageError: nobody says where it is.
        """
        with _advised():
            return self._refresh(self._open())

    def follow(self) -> Followed:
        """Refresh, and return the current release with everything the repository has beside it.

        Raises:
            VerificationError, ChannelError, UsageError: as `refresh`; M3 when it lists no release.
        """
        with _advised():
            return self._follow(self._open())

    def _follow(self, read: ReadFile) -> Followed:
        view = self._refresh(read)
        name = view.latest(self.trust.product)
        if name is None:
            raise VerificationError(
                f"expected a release of {self.trust.product} on channel {self.channel}, got a repository "
                "that lists none",
                step="M3",
                reason="no-release",
            )
        rebuilds = [name.rebuild(number) for number in range(1, MAX_REBUILDS + 1)]
        published = Published(
            envelope=self._target(read, view, name.manifest, MAX_ENVELOPE),
            release=None,
            ledger=self._optional(read, view, name.ledger, MAX_LEDGER),
            log_proof=self._optional(read, view, name.log_proof, MAX_TLOG_PROOF),
            rebuilds=tuple(
                self._target(read, view, path, MAX_REBUILD_ENVELOPE)
                for path in rebuilds
                if path in view.targets
            ),
            probe=self._optional(read, view, name.probe, MAX_ENVELOPE),
            source=f"{self._place()} {name.manifest}",
        )
        return Followed(view, name, published)

    def _open(self) -> ReadFile:
        return open_repository(self._place()) if self.read is None else self.read

    def _place(self) -> str:
        place = self.trust.tuf_repository if self.place is None else self.place
        if self.trust.tuf_root is None:
            raise UsageError("expected a trust file that pins a TUF root, got one with release keys")
        if place is None:
            raise UsageError(
                "expected the place of the TUF repository that the trust file pins",
                hint="pass --tuf https://… or a directory",
            )
        return place

    def _refresh(self, read: ReadFile) -> CurrentView:
        pinned = self.trust.tuf_root or b""
        now = int(self.clock())
        with self._folder(Digest.sha256(pinned)) as folder:
            self._check_clock(folder, now)
            refreshed = self._run(pinned, read, folder, now)
            view = _view(refreshed, pinned, self.channel, now)
            entries = _parse_revoked(self._target(read, view, REVOKED, MAX_REVOKED))
            if folder is not None and self.remember:
                folder.record_time(now)
        self._held = {target: data for target, data in self._held.items() if target in view.targets.values()}
        return replace(view, revoked=entries)

    @contextmanager
    def _folder(self, pinned: Digest) -> Iterator[TufFolder | None]:
        if self.memory is None:
            yield None
            return
        with self.memory.opened(pinned) as folder:
            yield folder

    def _check_clock(self, folder: TufFolder | None, now: int) -> None:
        seen = None if folder is None else folder.seen()
        if seen is not None and now + self.clock_skew_s < seen:
            raise VerificationError(
                f"expected a time after {format_time(seen)}, when the repository was last refreshed, "
                f"got {format_time(now)}",
                step="M9",
                reason="clock-went-back",
            )

    def _run(self, pinned: bytes, read: ReadFile, folder: TufFolder | None, now: int) -> Refreshed:
        try:
            from blindbuild.client.tuf_refresh import ForkError, Refresh
        except ImportError as error:
            raise ToolError(
                "expected the libraries that follow a TUF repository, got none",
                hint="pip install 'blindbuild[tuf]'",
            ) from error
        before = {} if folder is None else folder.read()
        with workplace(before) as work:
            refresh = Refresh(pinned, read, before, work, now=now)
            try:
                failure = _failure_of(refresh.run)
                verified = refresh.verified()
            except ForkError as error:
                kept = () if folder is None else folder.keep_conflict(error.name, error.versions)
                raise error.refusal(kept) from error
            # what was verified is remembered also when the rest failed: a rotation cannot be hidden again
            if folder is not None and self.remember:
                folder.record(verified)
            if failure is not None:
                raise failure
            return refresh.result()

    def _optional(self, read: ReadFile, view: CurrentView, name: str, limit_bytes: int) -> bytes | None:
        return self._target(read, view, name, limit_bytes) if name in view.targets else None

    def _target(self, read: ReadFile, view: CurrentView, name: str, limit_bytes: int) -> bytes:
        target = view.targets.get(name)
        if target is None:
            raise VerificationError(
                f"expected the repository to list {name}, got none", step="M3", reason="target-missing"
            )
        if target not in self._held:
            self._held[target] = read_target(read, name, target, limit_bytes)
        return self._held[target]


@contextmanager
def _advised() -> Iterator[None]:
    try:
        yield
    except VerificationError as error:
        raise with_advice(error) from error


def open_repository(place: str) -> ReadFile:
    """Return a reader of a repository's files, below an address or a directory.

    Plain http will do: every file is signed or hashed, and a timestamp lasts a day.
    """
    if "://" in place and not place.startswith("file://"):
        prefix = place.rstrip("/")
        return _within(lambda path, limit_bytes: _fetch(f"{prefix}/{path}", limit_bytes), MAX_REFRESH_S)
    root = Path(place.removeprefix("file://"))
    return lambda path, limit_bytes: read_log_file(root, path, limit_bytes)


def read_target(read: ReadFile, name: str, target: Target, limit_bytes: int) -> bytes:
    """Return a target's bytes, which are those that the repository lists.

    Raises:
        VerificationError: M3, too long, or other bytes.
        ChannelError: the repository lists it and does not serve it.
    """
    if target.length > limit_bytes:
        raise VerificationError(
            f"{name}: expected at most {limit_bytes} bytes, got {target.length}", step="M3", reason="too-long"
        )
    path = f"{TARGETS}/{hashed_path(name, target.digest.hex)}"
    data = read(path, target.length)
    if data is None:
        raise ChannelError(f"{path}: expected what the repository lists, got nothing")
    if Target(len(data), Digest.sha256(data)) != target:
        raise VerificationError(
            f"{path}: expected {target.length} bytes with digest {target.digest}, got {len(data)} bytes with "
            f"{Digest.sha256(data)}",
            step="M3",
            reason="other-content",
        )
    return data


def _parse_revoked(data: bytes) -> tuple[Revocation, ...]:
    """Return what was withdrawn; a list that cannot be read withdraws everything.

    Raises:
        VerificationError: M11.
    """
    try:
        return parse_revoked(data)
    except ManifestError as error:
        raise VerificationError(error.message, step="M11", reason="malformed") from error


def _failure_of(run: Callable[[], None]) -> VerificationError | ChannelError | None:
    try:
        run()
    except (VerificationError, ChannelError) as error:
        return error
    return None


def _view(refreshed: Refreshed, pinned: bytes, channel: str, now: int) -> CurrentView:
    from blindbuild.client.tuf_keys import release_keys

    keys, threshold = release_keys(refreshed.root)
    if not refreshed.root.consistent_snapshot:
        raise VerificationError(
            "expected a repository with consistent snapshots", step="M1", reason="not-consistent"
        )
    roles = (refreshed.root, refreshed.timestamp, refreshed.snapshot, refreshed.targets)
    return CurrentView(
        pinned=Digest.sha256(pinned),
        channel=channel,
        refreshed=now,
        issued=_issued(refreshed.timestamp.unrecognized_fields.get(ISSUED)),
        roles={role.type: RoleState(role.version, int(role.expires.timestamp())) for role in roles},
        release_keys=keys,
        threshold=threshold,
        targets=_targets(refreshed.targets),
        revoked=(),
    )


def _issued(value: object) -> int | None:
    if value is None:
        return None
    try:
        return parse_time(str(value))
    except ManifestError as error:
        raise VerificationError(
            f"timestamp.json: {ISSUED}: {error.message}", step="M1", reason="malformed"
        ) from error


def _targets(targets: Targets) -> dict[str, Target]:
    # a delegation would be somebody else's word for a product; python-tuf would follow it, nothing here does
    delegations = targets.delegations
    if delegations is not None and (delegations.keys or delegations.roles or delegations.succinct_roles):
        raise VerificationError(
            "targets.json: expected no delegations, got some", step="M1", reason="delegations"
        )
    found = {}
    for name, entry in targets.targets.items():
        if not is_safe_target(name):
            raise VerificationError(
                f"targets.json: expected names below the directory, got {name[:80]!r}",
                step="M3",
                reason="target-name",
            )
        try:
            digest = Digest.from_hex(HashAlgorithm.SHA256, str(entry.hashes.get("sha256")))
        except FormatError as error:
            raise VerificationError(
                f"targets.json: {name}: {error.message}", step="M3", reason="target-hash"
            ) from error
        found[name] = Target(entry.length, digest)
    return found


def _fetch(url: str, limit_bytes: int) -> bytes | None:
    from blindbuild.client.web import NOT_THERE, exchange  # who has a directory needs no network

    reply = exchange("GET", url, limit_bytes=limit_bytes)
    # some stores answer 403 for what is not there; only of the next root is that a usual thing to ask
    if reply.status in NOT_THERE or (reply.status == _FORBIDDEN and url.endswith(".root.json")):
        return None
    if reply.status != _OK:
        raise ChannelError(
            f"{url}: expected status {_OK}, got {reply.status}", hint="redirects are not followed"
        )
    return reply.body


def _within(read: ReadFile, seconds: float) -> ReadFile:
    deadline_s = time.monotonic() + seconds

    def bounded(path: str, limit_bytes: int) -> bytes | None:
        if time.monotonic() > deadline_s:
            raise ChannelError(f"expected the repository's files to be read within {seconds:.0f} s")
        return read(path, limit_bytes)

    return bounded
