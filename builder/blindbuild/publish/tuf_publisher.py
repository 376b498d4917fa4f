"""A publisher's side of a TUF repository: change it, have it signed, publish it.

A change is staged first and signed by whoever is there; it is published as soon as enough have signed, and
only if clients would accept it. So that a kill, or a reader at any moment, sees one state or the other:
targets, then the snapshot, then what makes them count, timestamp.json. A rotated root comes after a
timestamp that the old keys signed too, where they are at hand; only without them there is a moment, between
two renames, in which clients are refused, and the next `refresh` ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import Metadata, Root, Signed, Snapshot, Targets, Timestamp

from blindbuild.client.tuf_refresh import MAX_VERSION
from blindbuild.digest import Digest
from blindbuild.errors import UsageError
from blindbuild.formats.dsse import SignerKey
from blindbuild.manifest.tuf import ReleaseName
from blindbuild.publish.sign import ReleaseSigner
from blindbuild.publish.tuf_content import Content, NewRelease
from blindbuild.publish.tuf_files import RepositoryFiles, State
from blindbuild.publish.tuf_metadata import (
    DAY_S,
    RootPlan,
    counts,
    expiry,
    has_signed,
    is_signed,
    make_root,
    make_snapshot,
    make_timestamp,
    missing,
    plan_of,
    sign,
    to_bytes,
)
from blindbuild.publish.tuf_review import Review, signed_digest
from blindbuild.publish.tuf_staged import Staged, describe_staged, is_served, read_staged, review_staged
from blindbuild.verify.current import RoleState

Signers = Sequence[ReleaseSigner]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a change.

    Attributes:
        published: clients see it.
        waiting: what is missing, a line each, if they do not.
        changes: what is different from what clients saw before, a line each.
    """

    published: bool
    waiting: tuple[str, ...]
    changes: tuple[str, ...]


class TufPublisher:
    """A repository in the hands of those who sign for it.

    Args:
        path: its directory.
        now: seconds since 1970.
        pinned: the signer's own copy of 1.root.json, or None to take the one that is there.
    """

    def __init__(self, path: Path, *, now: int, pinned: bytes | None = None) -> None:
        self.files = RepositoryFiles(path, pinned=pinned)
        self._now = now

    def init(self, plan: RootPlan, signers: Signers) -> Outcome:
        """Begin an empty repository.

        Raises:
            UsageError: there is something already, or a role that nobody can sign.
        """
        root = make_root(plan, version=1, now=self._now)
        self.files.create()
        with self.files.held():
            targets = Metadata(Targets(version=1, expires=expiry(self._now, plan.days.targets)))
            Content(targets.signed, self.files).begin()
            self._stage(root, signers)
            self._stage(targets, signers)
            return self._publish(signers)

    def add(
        self, releases: Sequence[NewRelease], signers: Signers, *, channel: str, keep_older: bool = False
    ) -> Outcome:
        """List releases.

        Raises:
            UsageError: one that clients would refuse.
        """

        def edit(content: Content) -> None:
            keys = self._release_keys()
            for release in releases:
                content.add(release, channel=channel, keep_older=keep_older, keys=keys)

        return self._change(edit, signers)

    def withdraw(
        self, name: ReleaseName, signers: Signers, *, reason: str, statement: Digest | None = None
    ) -> Outcome:
        """List a release as withdrawn.

        Raises:
            UsageError: it is not listed, or was withdrawn before.
        """
        return self._change(
            lambda content: content.withdraw(name, statement, reason=reason, now=self._now), signers
        )

    def renew(self, signers: Signers) -> Outcome:
        """Have the release keys sign what is listed for another period."""
        return self._change(lambda content: None, signers)

    def rotate(self, change: Callable[[RootPlan], RootPlan], signers: Signers) -> Outcome:
        """Stage the next root, with other keys, or with the same for another period.

        If the release keys change, targets.json is staged for them to sign as well.

        Raises:
            UsageError: no root is published yet, or a role that nobody could sign.
        """
        with self.files.held():
            current = self._state().root
            plan = change(plan_of(current.signed))
            root = make_root(plan, version=current.signed.version + 1, now=self._now)
            self._stage(root, signers)
            if plan.targets != plan_of(current.signed).targets:
                self._stage(self._next_targets(signers), signers)
            return self._publish(signers)

    def sign(self, signers: Signers, shown: Review | None = None) -> Outcome:
        """Add signatures to what is staged.

        Args:
            signers: whose keys count.
            shown: what the signers were shown of it; nothing else is signed. None to sign whatever is there.

        Raises:
            UsageError: nothing is staged that any of these keys counts for, or not what was shown.
        """
        with self.files.held():
            if not self._sign_staged(signers, shown):
                raise UsageError("expected something staged that these keys count for, got nothing")
            return self._publish(signers)

    def refresh(self, signers: Signers) -> Outcome:
        """Sign timestamp and snapshot for another period, and publish what is staged and complete.

        Raises:
            UsageError: these keys do not sign timestamps.
        """
        with self.files.held():
            return self._publish(signers, renew=True)

    def staged_changes(self) -> tuple[str, ...]:
        """Return what the staged metadata would change, a line each."""
        return describe_staged(self.files, state := self.files.state(), self._staged(state))

    def review(self) -> Review:
        """Return what people are to read before they `sign`."""
        with self.files.held():
            return review_staged(self.files, now=self._now)

    def _staged(self, state: State | None) -> Staged:
        return read_staged(self.files, state, now=self._now)

    def waiting(self) -> tuple[str, ...]:
        """Return what the staged metadata waits for, a line each."""
        return self._plan(self.files.state()).waiting

    def roles(self) -> dict[str, RoleState]:
        """Return version and end of validity of what clients see, by role."""
        state = self.files.state()
        if state is None:
            return {}
        roles: list[Signed] = [role.signed for role in (state.root, state.targets)]
        roles += [role.signed for role in (state.snapshot, state.timestamp)]
        return {role.type: RoleState(role.version, int(role.expires.timestamp())) for role in roles}

    def releases(self) -> tuple[str, ...]:
        """Return the releases that clients see, as `PRODUCT/CHANNEL/SEQUENCE`."""
        state = self.files.state()
        if state is None:
            return ()
        names = Content(state.targets.signed, self.files).releases()
        return tuple(sorted(f"{name.product}/{name.channel}/{name.sequence}" for name in names))

    def _state(self) -> State:
        state = self.files.state()
        if state is None:
            raise UsageError(
                f"{self.files.path}: nothing is published yet",
                hint="the others sign first: `blindbuild publish sign`, then `publish refresh`",
            )
        return state

    def _change(self, edit: Callable[[Content], None], signers: Signers) -> Outcome:
        with self.files.held():
            targets = self._next_targets(signers)
            edit(Content(targets.signed, self.files))
            self._stage(targets, signers)
            return self._publish(signers)

    def _next_targets(self, signers: Signers) -> Metadata[Targets]:
        """Return what is staged or served, unsigned and with the next version.

        Raises:
            UsageError: somebody else staged a change that a signer would sign with his own.
        """
        state = self._state()
        self._drop_published(state)
        staged = self._staged(state)
        if staged.targets is not None:
            self._check_mine(staged.targets, state, signers)
        targets = (staged.targets or state.targets).signed
        targets.version = state.targets.signed.version + 1
        # of two roots the shorter time: nobody has signed the staged one yet, perhaps
        days = [plan_of(root.signed).days.targets for root in (state.root, staged.root) if root is not None]
        targets.expires = expiry(self._now, min(days))
        return Metadata(targets)

    def _check_mine(self, staged: Metadata[Targets], state: State, signers: Signers) -> None:
        """Refuse to add a change to others' unless every signer has signed theirs, or it changes nothing."""
        if staged.signed.targets == state.targets.signed.targets:
            return
        roots = self._roots()
        if any(counts(signer, roots) and not has_signed(signer, staged, roots) for signer in signers):
            raise UsageError(
                "expected nothing staged by somebody else, got a change that you would sign unseen",
                hint="`blindbuild publish sign` shows and signs it; or remove staged/targets.json",
            )

    def _stage(self, metadata: Metadata[Root] | Metadata[Targets], signers: Signers) -> None:
        sign(metadata, signers, self._roots(metadata))
        self.files.stage(metadata)

    def _roots(self, metadata: Metadata[Root] | Metadata[Targets] | None = None) -> list[Root]:
        """Return every root whose keys may count: the served one, the staged one, and this one itself."""
        found = [self.files.root(), self.files.staged(Root)]
        roots = [root.signed for root in found if root is not None]
        if metadata is not None and isinstance(metadata.signed, Root):
            roots.append(metadata.signed)
        return roots

    def _release_keys(self) -> list[SignerKey]:
        """Return those that count now, or will: a staged root does once enough of the root keys signed it."""
        state = self._state()
        staged = self._staged(state).root
        coming = [staged] if staged is not None and is_signed(staged, state.root.signed) else []
        return [key for root in (state.root, *coming) for key in plan_of(root.signed).targets.keys]

    def _sign_staged(self, signers: Signers, shown: Review | None) -> int:
        staged = self._staged(self.files.state()).both
        digests = {item.signed.type: signed_digest(item) for item in staged}
        if shown is not None and digests != shown.digests:
            raise UsageError("what is staged changed since it was shown", hint="read it again")
        count = 0
        for item in staged:
            count += sign(item, signers, self._roots())
            self.files.stage(item)
        return count

    def _drop_published(self, state: State) -> None:
        """Forget what is staged and served already: a run was killed after it published."""
        if is_served(self.files.staged(Root), state.root.signed):
            self.files.unstage(Root)
        if is_served(self.files.staged(Targets), state.targets.signed):
            self.files.unstage(Targets)

    def _plan(self, state: State | None) -> _Plan:
        staged = self._staged(state)
        root, targets = staged.root, staged.targets
        served = None if state is None else state.root
        lines = [] if root is None else [missing(root, root.signed)]
        if root is not None and served is not None:
            lines.append(missing(root, served.signed))
        complete = root is not None and not any(lines)
        latest = root if complete else served
        if latest is None:
            return _Plan(None, None, tuple(line for line in lines if line))
        new = targets if targets is not None and is_signed(targets, latest.signed) else None
        if targets is not None and new is None:
            lines.append(missing(targets, latest.signed))
        chosen = new or (None if state is None else state.targets)
        if chosen is None or not is_signed(chosen, latest.signed):
            lines.append("" if chosen is None else missing(chosen, latest.signed))
            return _Plan(None, None, tuple(dict.fromkeys(line for line in lines if line)))
        problems = Content(chosen.signed, self.files).problems(latest.signed)
        if state is not None:
            problems += Content(chosen.signed, self.files).forgotten(state.targets.signed)
        waiting = tuple(dict.fromkeys(line for line in (*lines, *problems) if line))
        if problems:
            return _Plan(None, None, waiting)
        return _Plan(root if complete else None, new, waiting)

    def _publish(self, signers: Signers, *, renew: bool = False) -> Outcome:
        state = self.files.state()
        if state is not None:
            self._drop_published(state)
        changes = self.staged_changes()
        plan = self._plan(state)
        if plan.root is None and plan.targets is None and not (renew and state is not None):
            return Outcome(False, plan.waiting, changes)
        root = plan.root or self.files.root()
        targets = plan.targets or (None if state is None else state.targets)
        if root is None or targets is None:
            return Outcome(False, plan.waiting, changes)
        roots = [root.signed] if state is None else [root.signed, state.root.signed]
        snapshot, timestamp = self._online(root.signed, roots, targets, state, signers)
        absent = [line for line in (missing(snapshot, root.signed), missing(timestamp, root.signed)) if line]
        if absent:
            if renew:
                raise UsageError("; ".join(absent), hint="pass the key that signs snapshot and timestamp")
            return Outcome(False, (*plan.waiting, *absent), changes)
        self._write(plan, state, targets, snapshot, timestamp)
        return Outcome(True, plan.waiting, changes)

    def _online(
        self,
        root: Root,
        roots: Sequence[Root],
        targets: Metadata[Targets],
        state: State | None,
        signers: Signers,
    ) -> tuple[Metadata[Snapshot], Metadata[Timestamp]]:
        """Return the next snapshot, or the served one while it will do, and the next timestamp."""
        days = plan_of(root).days
        snapshot = None if state is None else state.snapshot
        if snapshot is None or state is None or not self._will_do(snapshot, root, targets, days.snapshot):
            snapshot = make_snapshot(
                to_bytes(targets),
                version=_after(None if state is None else state.snapshot.signed.version),
                targets_version=targets.signed.version,
                expires=expiry(self._now, days.snapshot),
            )
            sign(snapshot, signers, roots)
        timestamp = make_timestamp(
            to_bytes(snapshot),
            version=_after(None if state is None else state.timestamp.signed.version),
            snapshot_version=snapshot.signed.version,
            expires=expiry(self._now, days.timestamp),
            now=self._now,
        )
        sign(timestamp, signers, roots)
        return snapshot, timestamp

    def _will_do(
        self, snapshot: Metadata[Snapshot], root: Root, targets: Metadata[Targets], days: int
    ) -> bool:
        listed = snapshot.signed.meta["targets.json"].version == targets.signed.version
        left_s = snapshot.signed.expires.timestamp() - self._now
        return listed and is_signed(snapshot, root) and left_s >= days * DAY_S / 2

    def _write(
        self,
        plan: _Plan,
        state: State | None,
        targets: Metadata[Targets],
        snapshot: Metadata[Snapshot],
        timestamp: Metadata[Timestamp],
    ) -> None:
        if plan.targets is not None:
            self.files.write(plan.targets)
        if state is None or snapshot.signed.version != state.snapshot.signed.version:
            self.files.write(snapshot)
        old = None if state is None else state.root.signed
        both = old is not None and all(is_signed(role, old) for role in (targets, snapshot, timestamp))
        if plan.root is not None and not both:
            self.files.write(plan.root)
        self.files.write_timestamp(timestamp)
        if plan.root is not None:
            if both:
                self.files.write(plan.root)
            self.files.unstage(Root)
        if plan.targets is not None:
            self.files.unstage(Targets)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What of the staged metadata can be published now, and what the rest waits for."""

    root: Metadata[Root] | None
    targets: Metadata[Targets] | None
    waiting: tuple[str, ...]


def _after(version: int | None) -> int:
    # A thief who had the key may have used the versions up. Clients forget them with his key (5.3.11), so
    # that they begin anew; where the key was not rotated, clients refuse that.
    return 1 if version is None or version >= MAX_VERSION else version + 1
