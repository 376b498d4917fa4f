"""What waits in a repository's directory for signatures: read, checked, and put into words."""

from __future__ import annotations

from dataclasses import dataclass

from tuf.api.metadata import Metadata, Root, Targets

from blindbuild.publish.tuf_content import Content
from blindbuild.publish.tuf_files import RepositoryFiles, State
from blindbuild.publish.tuf_metadata import describe_changes
from blindbuild.publish.tuf_review import (
    Review,
    check_staged_root,
    check_staged_targets,
    heading,
    signed_digest,
)


@dataclass(frozen=True, slots=True)
class Staged:
    """What is staged and not served yet."""

    root: Metadata[Root] | None
    targets: Metadata[Targets] | None

    @property
    def both(self) -> list[Metadata[Root] | Metadata[Targets]]:
        """What there is of the two."""
        return [item for item in (self.root, self.targets) if item is not None]


def read_staged(files: RepositoryFiles, state: State | None, *, now: int) -> Staged:
    """Return what is staged, if blindbuild would have written it.

    Raises:
        BuildError: it would not.
    """
    root, targets = files.staged(Root), files.staged(Targets)
    served = (None, None) if state is None else (state.root.signed, state.targets.signed)
    root = None if is_served(root, served[0]) else root
    targets = None if is_served(targets, served[1]) else targets
    if root is not None:
        check_staged_root(root, served[0], now=now)
    if targets is not None:
        roots = [signed for signed in (served[0], None if root is None else root.signed) if signed]
        check_staged_targets(targets, served[1], roots=roots, now=now)
    return Staged(root, targets)


def describe_staged(files: RepositoryFiles, state: State | None, staged: Staged) -> tuple[str, ...]:
    """Return what the staged metadata would change, a line each."""
    lines: tuple[str, ...] = ()
    if staged.root is not None:
        lines = describe_changes(None if state is None else state.root.signed, staged.root.signed)
    if staged.targets is not None:
        served = None if state is None else state.targets.signed
        lines += Content(staged.targets.signed, files).changes(served)
    return lines


def review_staged(files: RepositoryFiles, *, now: int) -> Review:
    """Return what is staged: which files exactly, until when they would be valid, and what they change."""
    state = files.state()
    staged = read_staged(files, state, now=now)
    heads = tuple(heading(item) for item in staged.both)
    digests = {item.signed.type: signed_digest(item) for item in staged.both}
    return Review(heads + describe_staged(files, state, staged), digests)


def is_served(staged: Metadata[Root] | Metadata[Targets] | None, served: Root | Targets | None) -> bool:
    """Return whether what is staged is served already: a run was killed after it published."""
    return staged is not None and served is not None and staged.signed.version <= served.version
