"""Pull a publication from an OCI registry: its manifest by tag or digest, then the files a client needs.

docs/distribution.md has the media types. The tag is only where to look: which release is accepted, and
whether it is an older one than before, is judged from the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blindbuild.client.published import (
    LEDGER,
    LOG_PROOF,
    MANIFEST,
    MAX_PUBLICATION_S,
    PROBE,
    REBUILDS,
    RELEASE,
    Published,
    gather,
    rebuild_name,
)
from blindbuild.client.registry import Access, Registry
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, FormatError, UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.oci import (
    MANIFEST_TYPE,
    MAX_OCI_MANIFEST,
    Artifact,
    Descriptor,
    Reference,
    find_attached,
    parse_artifact,
)
from blindbuild.formats.tlog_proof import MAX_TLOG_PROOF
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.rebuild import MAX_REBUILD_ENVELOPE, MAX_REBUILDS

PUBLICATION_TYPE = "application/vnd.blindbuild.publication.v1"


@dataclass(frozen=True, slots=True)
class LayerKind:
    """A kind of file in a publication: its name in a directory, its media type, how large and how many."""

    name: str
    media_type: str
    limit_bytes: int
    most: int = 1


LAYER_KINDS = (
    LayerKind(MANIFEST, "application/vnd.in-toto+dsse", MAX_ENVELOPE),
    LayerKind(RELEASE, "application/vnd.blindbuild.release+dsse", MAX_ENVELOPE),
    LayerKind(LEDGER, "application/vnd.blindbuild.ledger+json", MAX_LEDGER),
    LayerKind(LOG_PROOF, "application/vnd.blindbuild.tlog-proof", MAX_TLOG_PROOF),
    LayerKind(PROBE, "application/vnd.blindbuild.probe+dsse", MAX_ENVELOPE),
    LayerKind(REBUILDS, "application/vnd.blindbuild.rebuild+dsse", MAX_REBUILD_ENVELOPE, MAX_REBUILDS),
)


def pull_published(place: str, *, plain_http: bool = False, environ: Mapping[str, str]) -> Published:
    """Return what was published as `oci://HOST/REPOSITORY:TAG`, or as `…@sha256:…`.

    A digest may also be that of something else, such as the image, to which one publication is attached.

    Raises:
        UsageError: no such address.
        ChannelError: not there, no publication, too large, not what its digest says, or not in time.
    """
    try:
        reference = Reference.parse(place)
    except FormatError as error:
        raise UsageError(error.message, hint=error.hint) from error
    registry = Registry(reference, Access(plain_http, environ), within_s=MAX_PUBLICATION_S)
    digest, artifact = _read_artifact(registry, reference)
    files = _name_layers(reference, artifact)

    def read(name: str, _limit_bytes: int) -> bytes | None:
        return registry.blob(files[name]) if name in files else None

    found = gather(read, str(reference.at(digest)))
    if found is None:
        raise ChannelError(f"{reference}: expected a layer of type {LAYER_KINDS[0].media_type}, got none")
    return found


def _read_artifact(registry: Registry, reference: Reference) -> tuple[Digest, Artifact]:
    data = registry.manifest(reference.name, media_type=MANIFEST_TYPE, limit_bytes=MAX_OCI_MANIFEST)
    if data is None:
        raise ChannelError(f"{reference}: not there", hint="name a repository and a tag that were pushed")
    try:
        return Digest.sha256(data), parse_artifact(data, artifact_type=PUBLICATION_TYPE)
    except FormatError as error:
        attached = _attached(registry, reference)
        if attached is None:
            raise ChannelError(f"{reference}: {error.message}") from error
    return _read_attached(registry, reference, attached)


def _attached(registry: Registry, reference: Reference) -> Descriptor | None:
    """Return the one publication that is attached to a manifest, or None when there is none."""
    if reference.digest is None:
        return None  # by tag it would be unclear what was meant: this one, or what it is attached to
    data = registry.attached(reference.digest, artifact_type=PUBLICATION_TYPE)
    if data is None:
        return None
    try:
        found = find_attached(data, artifact_type=PUBLICATION_TYPE)
    except FormatError as error:
        raise ChannelError(f"{reference}: attached: {error.message}") from error
    if len(found) > 1:
        listed = ", ".join(str(entry.digest) for entry in found[:4])
        raise ChannelError(
            f"{reference}: expected one publication attached to it, got {len(found)}",
            hint=f"name the one you mean by its digest: {listed}",
        )
    return found[0] if found else None


def _read_attached(registry: Registry, reference: Reference, entry: Descriptor) -> tuple[Digest, Artifact]:
    data = registry.manifest(str(entry.digest), media_type=MANIFEST_TYPE, limit_bytes=MAX_OCI_MANIFEST)
    if data is None:
        raise ChannelError(f"{reference.at(entry.digest)}: not there, though it is listed as attached")
    try:
        artifact = parse_artifact(data, artifact_type=PUBLICATION_TYPE)
    except FormatError as error:
        raise ChannelError(f"{reference.at(entry.digest)}: {error.message}") from error
    if artifact.subject is None or artifact.subject.digest != reference.digest:
        raise ChannelError(f"{reference.at(entry.digest)}: expected it to be attached to {reference.name}")
    return entry.digest, artifact


def _name_layers(reference: Reference, artifact: Artifact) -> dict[str, Descriptor]:
    """Return the layers by the names their files have in a directory; titles in the manifest are not used."""
    kinds = {kind.media_type: kind for kind in LAYER_KINDS}
    named: dict[str, Descriptor] = {}
    counts = dict.fromkeys(kinds, 0)
    for layer in artifact.layers:
        kind = kinds.get(layer.media_type)
        if kind is None:
            raise ChannelError(
                f"{reference}: expected layers of a publication, got {layer.media_type[:120]!r}"
            )
        if layer.size > kind.limit_bytes:
            raise ChannelError(
                f"{reference}: {kind.name}: expected at most {kind.limit_bytes} bytes, got {layer.size}"
            )
        counts[layer.media_type] += 1
        if counts[layer.media_type] > kind.most:
            raise ChannelError(f"{reference}: {kind.name}: expected at most {kind.most}, got more")
        named[rebuild_name(counts[layer.media_type]) if kind.name == REBUILDS else kind.name] = layer
    return named
