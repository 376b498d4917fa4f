"""Where a client's publication comes from: a place that is named, or the TUF repository of the trust file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from blindbuild.cli.options import JudgingOptions
from blindbuild.client.published import Published, read_published
from blindbuild.errors import UsageError
from blindbuild.manifest import TrustRoots
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.verify.current import CurrentView

if TYPE_CHECKING:  # loaded by those who follow a repository
    from blindbuild.client.tuf_memory import TufMemory


def read_publication(options: JudgingOptions, trust: TrustRoots) -> tuple[Published, CurrentView | None]:
    """Return what a server is judged by, and what its repository says about it if the trust file pins one.

    Whoever pins a repository asks it, whatever else is named: there is no falling back to another way.

    Raises:
        UsageError: neither a manifest nor a repository, or a repository that the trust file does not pin.
        VerificationError: the repository is refused.
        ChannelError: a place cannot be reached.
    """
    manifest = options.manifest
    if trust.tuf_root is None:
        if options.tuf is not None:
            raise UsageError(
                "--tuf: expected a trust file that pins a TUF root, got one with release keys",
                hint="make one with `blindbuild trust --tuf-root metadata/1.root.json`",
            )
        if manifest is None:
            raise UsageError("expected --manifest: this trust file pins no TUF repository that has it")
        return _read(manifest, options), None
    from blindbuild.client.tuf import TufRepository

    repository = TufRepository(
        trust,
        options.tuf,
        memory=_memory(options),
        channel=options.channel or DEFAULT_CHANNEL,
        remember=options.remember,
    )
    if manifest is None:
        followed = repository.follow()
        return followed.published, followed.view
    return _read(manifest, options), repository.refresh()


def _memory(options: JudgingOptions) -> TufMemory | None:
    from blindbuild.client.tuf_memory import TufMemory

    if not options.history:
        return None
    return TufMemory.default(os.environ) if options.state is None else TufMemory(options.state / "tuf")


def _read(manifest: object, options: JudgingOptions) -> Published:
    return read_published(str(manifest), plain_http=options.plain_http, environ=os.environ)


def record_repository(options: JudgingOptions, trust: TrustRoots, channel: str, now: int) -> dict[str, bytes]:
    """Return every file that a refresh from the pinned root needs, by its path, for an auditor's bundle.

    The repository is read again, without what is remembered of it: an auditor remembers nothing.

    Raises:
        VerificationError: the repository is refused.
        ChannelError: it cannot be reached.
    """
    from blindbuild.client.tuf import TufRepository, open_repository

    place = options.tuf or trust.tuf_repository
    if place is None:
        return {}
    read = open_repository(place)
    files: dict[str, bytes] = {}

    def kept(path: str, limit_bytes: int) -> bytes | None:
        data = read(path, limit_bytes)
        if data is not None:
            files[path] = data
        return data

    TufRepository(trust, place, channel=channel, clock=lambda: float(now), read=kept).refresh()
    return files


def replay_repository(
    files: Mapping[str, bytes], options: JudgingOptions, trust: TrustRoots, channel: str, now: int
) -> CurrentView | None:
    """Return what these files of a repository say at a time, or None when there are none: M1 refuses that.

    What is remembered of the repository counts, unless history does not; nothing is added to it.

    Raises:
        VerificationError: the repository is refused.
    """
    if not files:
        return None
    from blindbuild.client.tuf import TufRepository

    def read(path: str, limit_bytes: int) -> bytes | None:
        data = files.get(path)
        return data if data is None or len(data) <= limit_bytes else data[: limit_bytes + 1]

    return TufRepository(
        trust,
        "bundle",
        memory=_memory(options),
        channel=channel,
        clock=lambda: float(now),
        remember=False,
        read=read,
    ).refresh()
