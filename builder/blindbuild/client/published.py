"""What a release's owner hands out, from wherever it lies: a directory, a web server, an OCI registry.

Nothing is judged here, and nothing is believed because of where it came from: whichever way, the same bytes
go to the same steps. What a place can still do is withhold, serve what was current before, or serve too much;
the first two are the business of release times, sequence, TUF and the log, the last one is bounded here.
"""

from __future__ import annotations

import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client.log_files import read_log_file
from blindbuild.errors import BlindbuildError, ChannelError, UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.tlog_proof import MAX_TLOG_PROOF
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.rebuild import MAX_REBUILD_ENVELOPE, MAX_REBUILDS

MANIFEST, RELEASE, LEDGER = "manifest.dsse.json", "release.dsse.json", "channels.json"
LOG_PROOF, PROBE, REBUILDS = "manifest.tlog-proof", "probe.dsse.json", "rebuilds"
FILE_SUFFIX = ".dsse.json"
MAX_PUBLICATION_S = 120.0  # for all files of one release from a network: some hundred KiB
_MAX_ADDRESS = 2000  # characters

ReadFile = Callable[[str, int], bytes | None]
"""(name, limit in bytes) -> content, or None when there is no such file."""


@dataclass(frozen=True, slots=True)
class Published:
    """The files of one release, unjudged.

    Attributes:
        envelope: the manifest, a DSSE envelope over the statement.
        release: a DSSE envelope that says the statement is current, or None.
        ledger: channels.json, or None.
        log_proof: that the manifest is in a transparency log, or None.
        rebuilds: envelopes of rebuilders.
        probe: a DSSE envelope over the probe of the image, or None.
        source: where it came from, for people and for the record; a tag is resolved to its digest.
    """

    envelope: bytes
    release: bytes | None
    ledger: bytes | None
    log_proof: bytes | None
    rebuilds: tuple[bytes, ...]
    source: str
    probe: bytes | None = None


def is_address(place: str | Path) -> bool:
    """Whether a place is an address, not a path."""
    return isinstance(place, str) and "://" in place


def read_published(
    place: str | Path, *, plain_http: bool = False, environ: Mapping[str, str] | None = None
) -> Published:
    """Return what was published at a place.

    Args:
        place: a directory, a manifest file, `https://HOST/PATH/`, or `oci://HOST/REPOSITORY:TAG`. The other
            files are beside the manifest. An address of a manifest itself ends in `.dsse.json`.
        plain_http: speak http to other machines than this one.
        environ: where docker's configuration is found if a registry wants a login; without it there is none.

    Raises:
        UsageError: no such place, or a file of a directory cannot be read or is too large.
        ChannelError: the server has no manifest, cannot be reached in time, or breaks the protocol.
    """
    text = str(place)
    if not is_address(place):
        return _read_local(Path(place))
    if text.startswith("oci://"):
        from blindbuild.client.oci import pull_published  # whoever asks no registry need not load it

        return pull_published(text, plain_http=plain_http, environ=environ or {})
    if text.startswith(("https://", "http://")):
        return _read_web(text, plain_http=plain_http)
    raise UsageError(
        f"expected a directory, a manifest, or an address with https:// or oci://, got {text[:200]!r}"
    )


def gather(read: ReadFile, source: str, *, manifest: str = MANIFEST) -> Published | None:
    """Return the files that a reader finds beside each other, or None when there is no manifest."""
    envelope = read(manifest, MAX_ENVELOPE)
    if envelope is None:
        return None
    return Published(
        envelope,
        release=read(RELEASE, MAX_ENVELOPE),
        ledger=read(LEDGER, MAX_LEDGER),
        log_proof=read(LOG_PROOF, MAX_TLOG_PROOF),
        rebuilds=_numbered_rebuilds(read),
        probe=read(PROBE, MAX_ENVELOPE),
        source=source,
    )


def rebuild_name(number: int) -> str:
    """Return the name under which a rebuilder's envelope is served; the first one has number 1."""
    return f"{REBUILDS}/{number}{FILE_SUFFIX}"


def _numbered_rebuilds(read: ReadFile) -> tuple[bytes, ...]:
    # by number, since a web server lists nothing
    found = []
    for number in range(1, MAX_REBUILDS + 1):
        envelope = read(rebuild_name(number), MAX_REBUILD_ENVELOPE)
        if envelope is None:
            break
        found.append(envelope)
    return tuple(found)


def _read_local(path: Path) -> Published:
    manifest = path / MANIFEST if path.is_dir() else path
    names = _local_rebuilds(manifest.parent)

    def read(name: str, limit_bytes: int) -> bytes | None:
        try:
            return read_log_file(manifest.parent, names.get(name, name), limit_bytes)
        except BlindbuildError as error:
            raise UsageError(error.message, hint=error.hint) from error

    found = gather(read, str(manifest), manifest=manifest.name)
    if found is None:
        raise UsageError(
            f"{manifest}: not there", hint=f"sign the image first: blindbuild sign {path} --key KEY"
        )
    return found


def _local_rebuilds(folder: Path) -> dict[str, str]:
    """Return the rebuilders' files, which may have any names here, by the names they are served under."""
    try:
        paths = sorted((folder / REBUILDS).glob(f"*{FILE_SUFFIX}"))
    except OSError:  # no directory, or not ours to see: then there are none
        paths = []
    return {rebuild_name(number): f"{REBUILDS}/{path.name}" for number, path in enumerate(paths, 1)}


def _read_web(url: str, *, plain_http: bool) -> Published:
    from blindbuild.client.registry import require_plain_http_allowed
    from blindbuild.client.web import fetch_plain

    parts = _check_address(url)
    if parts.scheme == "http":
        require_plain_http_allowed(parts.hostname or "", plain_http=plain_http)
    folder, _, last = url.rpartition("/")
    if not last.endswith(FILE_SUFFIX):
        folder, last = url.rstrip("/"), MANIFEST
    deadline_s = time.monotonic() + MAX_PUBLICATION_S

    def read(name: str, limit_bytes: int) -> bytes | None:
        rest_s = deadline_s - time.monotonic()
        if rest_s <= 0:
            raise ChannelError(f"{url}: expected all files within {MAX_PUBLICATION_S:.0f} s")
        return fetch_plain(f"{folder}/{name}", limit_bytes=limit_bytes, within_s=rest_s)

    found = gather(read, f"{folder}/{last}", manifest=last)
    if found is None:
        raise ChannelError(
            f"{folder}/{last}: not there", hint=f"name the address below which {MANIFEST} is served"
        )
    return found


def _check_address(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port  # noqa: B018  raises if it is no number
    except ValueError as error:
        raise UsageError(f"expected an address, got {url[:200]!r}") from error
    if len(url) > _MAX_ADDRESS or not parts.hostname or "@" in parts.netloc or "?" in url or "#" in url:
        # the other files are named by their place beside the manifest, and a login would end up in messages
        raise UsageError(f"expected https://HOST/PATH/ without user, query and fragment, got {url[:200]!r}")
    return parts
