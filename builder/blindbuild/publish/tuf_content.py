"""What a repository's targets.json lists: releases, and what was withdrawn."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tuf.api.metadata import Root, TargetFile, Targets

from blindbuild.client.published import RELEASE, Published, is_address
from blindbuild.client.tuf_keys import check_unique_keys, keys_of_role, release_keys
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, FormatError, ManifestError, UsageError, VerificationError
from blindbuild.formats.dsse import SignerKey, parse_envelope, verify_envelope
from blindbuild.manifest import RELEASE_PAYLOAD_TYPE, STATEMENT_PAYLOAD_TYPE, parse_release, parse_statement
from blindbuild.manifest.probe import parse_probe
from blindbuild.manifest.revoked import Revocation, parse_revoked, revoked_bytes
from blindbuild.manifest.tuf import LOG_POLICY, REVOKED, ReleaseName, release_of
from blindbuild.publish.directory import check_publishable
from blindbuild.publish.tuf_files import RepositoryFiles
from blindbuild.verify.probe import check_subject

IMAGES = "images/"


@dataclass(frozen=True, slots=True)
class NewRelease:
    """A release, and what may be listed with it: the image itself, and the policy about logs."""

    published: Published
    image: bytes | None = None
    log_policy: bytes | None = None


class Content:
    """The targets of a repository while they are edited.

    Args:
        targets: what is listed; changed in place.
        files: where the bytes are.
    """

    def __init__(self, targets: Targets, files: RepositoryFiles) -> None:
        self._targets = targets
        self._files = files

    @property
    def revoked(self) -> tuple[Revocation, ...]:
        """What was withdrawn."""
        entry = self._targets.targets.get(REVOKED)
        return () if entry is None else parse_revoked(self._bytes(entry))

    def releases(self) -> dict[ReleaseName, TargetFile]:
        """Return the manifests that are listed, by their release."""
        named = ((release_of(name), entry) for name, entry in self._targets.targets.items())
        return {name: entry for name, entry in named if name is not None}

    def begin(self) -> None:
        """List that nothing was withdrawn: a repository that says nothing about it is refused by clients."""
        self._put(REVOKED, revoked_bytes(()))

    def add(
        self, release: NewRelease, *, channel: str, keep_older: bool, keys: Sequence[SignerKey]
    ) -> ReleaseName:
        """List a release; those of the same channel that it replaces are no longer listed.

        Args:
            release: what it consists of.
            channel: whose clients are to get it.
            keep_older: leave the earlier ones listed.
            keys: the release keys, one of which must have signed what says the channel.

        Raises:
            UsageError: another statement has this sequence, a later one was published, or it was withdrawn.
            BuildError: files that do not belong together.
        """
        check_publishable(release.published)
        _check_channel(release.published, channel, keys)
        name, statement = _name(release.published.envelope, channel)
        self._check_new(name, statement)
        self._remove(name)
        for other in self.releases():
            if (other.product, other.channel) == (name.product, name.channel) and not keep_older:
                self._remove(other)
        self._put_release(name, release)
        return name

    def withdraw(self, name: ReleaseName, statement: Digest | None, *, reason: str, now: int) -> None:
        """List a release as withdrawn, and no longer as a release.

        Args:
            name: the release.
            statement: of a release that is no longer listed; None for one that is.
            reason: a word of `manifest.revoked.REASONS`.
            now: seconds since 1970.

        Raises:
            UsageError: it is not listed and no statement is given, or it was withdrawn before.
        """
        listed = self.releases().get(name)
        if statement is None and listed is None:
            raise UsageError(
                f"{name.manifest}: not listed",
                hint="name the manifest's file to withdraw what is no longer listed",
            )
        if listed is not None:
            found = Digest.sha256(parse_envelope(self._bytes(listed)).payload)
            if statement is not None and statement != found:
                raise UsageError(f"{name.manifest}: expected the statement that is listed, got another")
            statement = found
        if statement is None or any(entry.statement == statement for entry in self.revoked):
            raise UsageError(f"{name.manifest}: withdrawn before")
        entry = Revocation(statement, name.product, name.channel, name.sequence, reason, now)
        self._put(REVOKED, revoked_bytes((*self.revoked, entry)))
        self._remove(name)

    def changes(self, served: Targets | None) -> tuple[str, ...]:
        """Return what is listed and what was withdrawn anew, a line each, for those who are asked to sign."""
        old = {} if served is None else served.targets
        before = () if served is None else Content(served, self._files).revoked
        added = [entry for entry in self.revoked if entry not in before]
        gone = [entry for entry in before if entry not in self.revoked]
        lines = [f"{REVOKED}: withdraws {_line(entry)}: {entry.reason}" for entry in added]
        lines += [f"{REVOKED}: no longer withdraws {_line(entry)}" for entry in gone]
        return (*listed_changes(old, self._targets.targets), *lines)

    def forgotten(self, served: Targets) -> tuple[str, ...]:
        """Return which withdrawals are no longer listed, a line each: what was withdrawn once stays so."""
        kept = {entry.statement for entry in self.revoked}
        before = Content(served, self._files).revoked
        return tuple(
            f"{REVOKED}: expected {entry.product} {entry.sequence} to stay withdrawn, got it no longer listed"
            for entry in before
            if entry.statement not in kept
        )

    def problems(self, root: Root) -> tuple[str, ...]:
        """Return what keeps clients from accepting what is listed under a root, a line each."""
        try:
            check_unique_keys(root)
            keys, threshold = release_keys(root)
        except VerificationError as error:
            return (error.message,)
        lines = [
            line
            for name, entry in sorted(self.releases().items(), key=lambda item: item[0].manifest)
            for line in self._problems_of(name, entry, keys, threshold)
        ]
        return (*lines, *self._lengths())

    def _problems_of(
        self, name: ReleaseName, manifest: TargetFile, keys: Sequence[SignerKey], threshold: int
    ) -> Iterator[str]:
        try:
            payload = self._signed(manifest, keys, threshold)
            statement = parse_statement(payload)
        except (FormatError, ManifestError) as error:
            yield f"{name.manifest}: {error.message}: sign it, and add it again"
            return
        if (statement.name, statement.sequence) != (name.product, name.sequence):
            yield (
                f"{name.manifest}: expected the manifest of {name.product} {name.sequence}, "
                f"got {statement.name} {statement.sequence}"
            )
        probe = self._targets.targets.get(name.probe)
        try:
            if probe is not None:
                seen = parse_probe(self._signed(probe, keys, threshold))
                check_subject(seen, statement, Digest.sha256(payload))
        except (FormatError, ManifestError, VerificationError) as error:
            yield f"{name.probe}: {error.message}: sign it, and add it again"

    def _signed(self, entry: TargetFile, keys: Sequence[SignerKey], threshold: int) -> bytes:
        envelope = parse_envelope(self._bytes(entry))
        return verify_envelope(
            envelope, keys=keys, threshold=threshold, payload_type=STATEMENT_PAYLOAD_TYPE
        ).payload

    def _lengths(self) -> list[str]:
        # a client reads no byte more than this, and an image nobody but people
        small = {name: entry for name, entry in self._targets.targets.items() if not name.startswith(IMAGES)}
        return [
            f"{name}: expected a length of {len(data)}, got {entry.length}"
            for name, entry in sorted(small.items())
            if len(data := self._bytes(entry)) != entry.length
        ]

    def _check_new(self, name: ReleaseName, statement: Digest) -> None:
        if any(entry.statement == statement for entry in self.revoked):
            raise UsageError(f"{name.manifest}: its statement was withdrawn", hint="build a later one")
        same = self.releases().get(name)
        if same is not None and Digest.sha256(parse_envelope(self._bytes(same)).payload) != statement:
            raise UsageError(
                f"{name.manifest}: expected the statement that is listed under this sequence, got another",
                hint="raise `sequence` in the recipe: clients would call it a forgery",
            )
        line = (name.product, name.channel)
        sequences = [other.sequence for other in self.releases() if (other.product, other.channel) == line]
        withdrawn = [entry.sequence for entry in self.revoked if (entry.product, entry.channel) == line]
        if name.sequence < max(sequences, default=0) or name.sequence <= max(withdrawn, default=-1):
            raise UsageError(
                f"{name.manifest}: expected a sequence after those that clients have seen, "
                f"{max((*sequences, *withdrawn))}",
                hint="raise `sequence` in the recipe: clients never go back",
            )

    def _put_release(self, name: ReleaseName, release: NewRelease) -> None:
        custom: Mapping[str, object] = {
            "product": name.product,
            "channel": name.channel,
            "sequence": name.sequence,
        }
        parts: list[tuple[str, bytes | None]] = [
            (name.manifest, release.published.envelope),
            (name.ledger, release.published.ledger),
            (name.log_proof, release.published.log_proof),
            (name.probe, release.published.probe),
            *((name.rebuild(number), data) for number, data in enumerate(release.published.rebuilds, 1)),
        ]
        for target, data in parts:
            if data is not None:
                self._put(target, data, custom)
        if release.image is not None:
            self._put(f"{IMAGES}{Digest.sha256(release.image).hex}.efi", release.image, custom)
        if release.log_policy is not None:
            self._put(LOG_POLICY, release.log_policy)

    def _remove(self, name: ReleaseName) -> None:
        custom = {"product": name.product, "channel": name.channel, "sequence": name.sequence}
        mine = [target for target, entry in self._targets.targets.items() if entry.custom == custom]
        for target in mine:
            del self._targets.targets[target]

    def _put(self, target: str, data: bytes, custom: Mapping[str, object] | None = None) -> None:
        self._files.write_target(target, data)
        entry = TargetFile.from_data(target, data, ["sha256"])
        if custom is not None:
            entry.unrecognized_fields["custom"] = dict(custom)
        self._targets.targets[target] = entry

    def _bytes(self, entry: TargetFile) -> bytes:
        return self._files.read_target(entry.path, entry.hashes["sha256"])


def _line(entry: Revocation) -> str:
    return f"{entry.product}/{entry.channel}/{entry.sequence}"


def _check_channel(published: Published, channel: str, keys: Sequence[SignerKey]) -> None:
    # clients that follow a repository do not read it; but whoever signed it meant one line of releases, and
    # who only serves it could leave it out, or write another one, to have a test release listed for everybody
    if published.release is None:
        if is_address(published.source):
            raise UsageError(
                f"{published.source}: expected {RELEASE}, which says the channel, got none",
                hint="fetch it and sign it again, or name the image directory",
            )
        return
    envelope = parse_envelope(published.release)
    try:
        signed = verify_envelope(envelope, keys=keys, threshold=1, payload_type=RELEASE_PAYLOAD_TYPE)
    except FormatError as error:
        raise UsageError(
            f"{published.source}: {RELEASE}: {error.message}",
            hint="it was signed with other keys: sign it again",
        ) from error
    meant = parse_release(signed.payload).channel
    if meant != channel:
        raise UsageError(
            f"{published.source}: expected a release signed for channel {channel}, got one for {meant}",
            hint=f"pass --channel {meant}, or sign it for {channel}",
        )


def _name(manifest: bytes, channel: str) -> tuple[ReleaseName, Digest]:
    payload = parse_envelope(manifest).payload
    statement = parse_statement(payload)
    return ReleaseName(statement.name, channel, statement.sequence), Digest.sha256(payload)


def listed_changes(old: Mapping[str, TargetFile], new: Mapping[str, TargetFile]) -> Sequence[str]:
    """Return what is new, gone, or other among targets, a line each."""
    lines = [f"{name}: new" for name in sorted(new.keys() - old.keys())]
    lines += [f"{name}: no longer listed" for name in sorted(old.keys() - new.keys())]
    lines += [f"{name}: changed" for name in sorted(old.keys() & new.keys()) if old[name] != new[name]]
    return lines


def release_named(name: str) -> ReleaseName:
    """Return the release that `PRODUCT/CHANNEL/SEQUENCE` names.

    Raises:
        UsageError: another form.
    """
    found = release_of(f"manifests/{name}.dsse.json")
    if found is None:
        raise UsageError(f"expected PRODUCT/CHANNEL/SEQUENCE such as hello/stable/42, got {name[:200]!r}")
    return found


def withdrawn_name(manifest: bytes, channel: str, roots: Sequence[Root]) -> tuple[ReleaseName, Digest]:
    """Return which release a manifest is, and its statement's digest.

    Args:
        manifest: of a release that a client may have accepted once.
        channel: of which line of releases it was.
        roots: every root of the repository.

    Raises:
        BuildError: it is no manifest, or no release key of any time signed it: no client accepted it, and its
            sequence would be one that later releases must exceed.
    """
    keys = {spki: SignerKey.from_spki(spki) for root in roots for spki in keys_of_role(root, Targets.type)}
    try:
        envelope = parse_envelope(manifest)
        verify_envelope(envelope, keys=list(keys.values()), threshold=1, payload_type=STATEMENT_PAYLOAD_TYPE)
        return _name(manifest, channel)
    except FormatError as error:
        raise BuildError(f"expected a manifest that a release key signed: {error.message}") from error
