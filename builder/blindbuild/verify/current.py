"""Steps M1, M3 and M11: what a TUF repository says is current, withdrawn, and whose keys count.

The refresh itself is `client.tuf`; here its result is held against the trust file, the time and the manifest.

Source: TUF specification 1.0.33, 5; docs/spec/publication.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from blindbuild.digest import Digest
from blindbuild.formats.dsse import SignerKey, parse_envelope
from blindbuild.manifest import TrustRoots, format_time, parse_statement
from blindbuild.manifest.revoked import REASONS, Revocation
from blindbuild.manifest.tuf import ReleaseName, release_of
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import Basis

ROLES = ("root", "timestamp", "snapshot", "targets")
# further steps of those whose trust file pins a TUF root
CURRENT_TITLES = {
    "M1": "the repository is the pinned one, and it is up to date",
    "M3": "the manifest is the one that the repository lists",
    "M11": "the statement was not withdrawn",
}


@dataclass(frozen=True, slots=True)
class RoleState:
    """One verified role: its version, and the seconds since 1970 at which it expires."""

    version: int
    expires: int


@dataclass(frozen=True, slots=True)
class Target:
    """What a target must be: its length in bytes and its SHA-256."""

    length: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class CurrentView:
    """What one refresh of a TUF repository has established; every signature and version was checked.

    Attributes:
        pinned: SHA-256 of the root metadata that the refresh began with.
        channel: whose releases are looked for.
        refreshed: when, in seconds since 1970.
        issued: when the timestamp was signed, by its own account, or None if it does not say.
        roles: root, timestamp, snapshot and targets.
        release_keys: the keys of the targets role: those whose signatures on manifests count.
        threshold: how many of them must have signed.
        targets: every target, by name.
        revoked: what was withdrawn.
    """

    pinned: Digest
    channel: str
    refreshed: int
    issued: int | None
    roles: Mapping[str, RoleState]
    release_keys: tuple[SignerKey, ...]
    threshold: int
    targets: Mapping[str, Target]
    revoked: tuple[Revocation, ...]

    @property
    def expires(self) -> int:
        """When the first of the roles expires: until then this view may be relied upon."""
        return min(state.expires for state in self.roles.values())

    @property
    def meaning(self) -> tuple[object, ...]:
        """What verdicts rest upon: two views that differ only in when they were made mean the same."""
        return self.pinned, self.channel, self.release_keys, self.threshold, self.targets, self.revoked

    def latest(self, product: str) -> ReleaseName | None:
        """Return the release of the highest sequence that a product has on this channel."""
        names = (release_of(target) for target in self.targets)
        mine = [name for name in names if name and (name.product, name.channel) == (product, self.channel)]
        return max(mine, key=lambda name: name.sequence, default=None)


def judge_current(steps: Checklist, basis: Basis) -> Basis:
    """Run M1; return the basis with the keys that count, which are none when M1 failed."""
    view = steps.run("M1", lambda: _check_view(basis))
    if view is None:
        return basis
    return replace(
        basis, trust=replace(basis.trust, release_keys=view.release_keys, threshold=view.threshold)
    )


def judge_target(steps: Checklist, basis: Basis) -> None:
    """Run M3, M9 and M11 over a manifest whose signatures were verified."""
    view = basis.current
    steps.run("M3", lambda: _is_target(basis.envelope, found(view), basis.trust), needs=("M1", "M6"))
    steps.run("M9", lambda: _check_validity(basis, found(view)), needs=("M1", "M6"))
    steps.run("M11", lambda: _not_withdrawn(basis.envelope, found(view)), needs=("M1", "M6"))


def _check_validity(basis: Basis, view: CurrentView) -> tuple[None, str]:
    now, policy, history = basis.now, basis.policy, basis.history
    seen = max([view.refreshed, view.issued or 0, *([] if history is None else [history.time])])
    if now + policy.clock_skew_s < seen:
        raise refuse(
            "M9",
            "clock-went-back",
            f"expected a time after {format_time(seen)}, which was seen already, got {format_time(now)}",
            hint="check this machine's clock",
        )
    if policy.release_age_s is not None and (view.issued is None or now - view.issued > policy.release_age_s):
        said = "at no stated time" if view.issued is None else f"at {format_time(view.issued)}"
        raise refuse(
            "M9",
            "release-too-old",
            f"expected the repository to say within {policy.release_age_s} s what is current, got it {said}",
            hint="the publisher, or who serves his files, has not renewed them",
        )
    return None, f"valid until {format_time(view.expires)}"


def _check_view(basis: Basis) -> tuple[CurrentView, str]:
    view, pinned = basis.current, basis.trust.tuf_root
    if pinned is None:
        raise refuse("M1", "no-pinned-root", "expected a trust file with a TUF root, got one without")
    if view is None:
        raise refuse(
            "M1",
            "not-refreshed",
            "expected a refresh of the TUF repository that the trust file pins, got none",
            hint="say where the repository is: --tuf https://… or a directory",
        )
    if view.pinned != Digest.sha256(pinned):
        raise refuse(
            "M1",
            "other-root",
            f"expected a refresh from root {Digest.sha256(pinned)}, got one from {view.pinned}",
        )
    if view.channel != basis.policy.channel:
        raise refuse(
            "M1", "other-channel", f"expected channel {basis.policy.channel}, got a view of {view.channel}"
        )
    _check_expiry(view, basis.now)
    versions = ", ".join(f"{name} {view.roles[name].version}" for name in ROLES)
    return view, versions


def _check_expiry(view: CurrentView, now: int) -> None:
    if set(view.roles) != set(ROLES):
        raise refuse("M1", "role-missing", f"expected {', '.join(ROLES)}, got {', '.join(view.roles)}")
    for name in ROLES:
        if now >= view.roles[name].expires:
            raise refuse("M1", "expired", expired_message(name, view.roles[name].expires, now))


def expired_message(role: str, until: int, now: int) -> str:
    """Return what is said about expired metadata: who serves it, who signs it, or the clock is to blame."""
    return (
        f"expected {role}.json to be valid at {format_time(now)}, got one until {format_time(until)}: either "
        "an old copy is served, or the publisher stopped renewing it, or this machine's clock is wrong"
    )


def _is_target(envelope: bytes, view: CurrentView, trust: TrustRoots) -> tuple[None, str]:
    statement = parse_statement(parse_envelope(envelope).payload)
    name = ReleaseName(trust.product, view.channel, statement.sequence).manifest
    target = view.targets.get(name)
    if target is None:
        latest = view.latest(trust.product)
        there = "none" if latest is None else f"sequence {latest.sequence} as the latest"
        raise refuse(
            "M3",
            "not-a-target",
            f"expected the repository to list {name}, got {there}",
            hint="this manifest is no longer, or not yet, current: use the one that the repository has",
        )
    if target != Target(len(envelope), Digest.sha256(envelope)):
        raise refuse(
            "M3",
            "other-manifest",
            f"expected {target.length} bytes with digest {target.digest}, got {len(envelope)} with "
            f"{Digest.sha256(envelope)}",
        )
    return None, name


def _not_withdrawn(envelope: bytes, view: CurrentView) -> tuple[None, str]:
    digest = Digest.sha256(parse_envelope(envelope).payload)
    for entry in view.revoked:
        if entry.statement == digest:
            raise refuse(
                "M11",
                "withdrawn",
                f"expected a release in use, got {entry.product} sequence {entry.sequence}, withdrawn at "
                f"{format_time(entry.withdrawn)}: {REASONS[entry.reason]}",
                hint="send it nothing; ask the publisher for the release that takes its place",
            )
    return None, f"{len(view.revoked)} withdrawn, this one not"
