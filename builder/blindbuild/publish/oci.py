"""Push a publication to an OCI registry, and attach it to what it is about.

The manifest is a pure function of the files: no time, no host, no name of a builder. So pushing twice gives
one digest, and two people can tell by it that they published the same.

Source: OCI distribution-spec 1.1, "Push" and "Pushing Manifests with Subject"; docs/adr/0009-oci-client.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from blindbuild.client.oci import LAYER_KINDS, PUBLICATION_TYPE
from blindbuild.client.published import Published
from blindbuild.client.registry import Access, Registry
from blindbuild.client.web import MAX_REFUSAL, MOVED, Reply, is_loopback
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, FormatError, UsageError
from blindbuild.formats.oci import (
    EMPTY,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_OCI_INDEX,
    MAX_OCI_MANIFEST,
    TITLE,
    VERSION,
    Artifact,
    Descriptor,
    Reference,
    attach,
    referrers_tag,
    write_artifact,
)
from blindbuild.publish.directory import check_publishable, files_of

IMAGE_TYPE = "application/vnd.blindbuild.image.v1"
MAX_PUSH_S = 3600.0  # for all that is pushed; disks of some hundred MB over a slow line
MAX_SUBJECT = 4 << 20  # bytes of somebody else's manifest: what registries take (distribution-spec, "Push")
_SUBJECT_TYPES = (
    MANIFEST_TYPE,
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
# by the end of the name; IANA has them, but for the first two
_IMAGE_TYPES = {
    ".efi": "application/vnd.microsoft.portable-executable",
    ".cdx.json": "application/vnd.cyclonedx+json",
    ".spdx.json": "application/spdx+json",
    "statement.json": "application/vnd.in-toto+json",
    ".json": "application/json",
}
_OTHER = "application/octet-stream"
_OK, _CREATED, _ACCEPTED, _NOT_FOUND = 200, 201, 202, 404


@dataclass(frozen=True, slots=True)
class Pushed:
    """What lies in the registry now.

    Attributes:
        publication: by digest.
        listed: the tag of the list of what is attached to the same subject; None without a subject, or when
            the registry keeps that list itself.
    """

    publication: Reference
    listed: Reference | None = None


def push_published(
    published: Published, reference: Reference, access: Access, *, subject: Digest | None = None
) -> Pushed:
    """Push the files of a release, and give them a tag.

    Args:
        published: what is pushed.
        reference: repository and tag.
        access: how the registry may be spoken to.
        subject: a manifest in the same repository, such as the image's, to attach the publication to.

    Raises:
        BuildError: the files are not of one release.
        UsageError: a digest instead of a tag, or plain http to another machine.
        ChannelError: the registry cannot be reached, refuses, or keeps something else than was pushed.
    """
    statement = check_publishable(published)
    registry = _open(reference, access)
    described = None if subject is None else _describe_subject(registry, subject)
    artifact = Artifact(
        PUBLICATION_TYPE,
        tuple(_layer(name, data) for name, data in files_of(published).items()),
        described,
        {TITLE: statement.name, VERSION: statement.version},
    )
    entry, keeps_list = _push_artifact(registry, artifact, files_of(published).values())
    listed = None
    if described is not None and not keeps_list:
        listed = _list_attached(registry, described.digest, entry)
    return Pushed(reference.at(entry.digest), listed)


def push_image(files: Mapping[str, bytes], reference: Reference, access: Access) -> Reference:
    """Push the files of an image as a manifest of their own; return it by digest.

    Args:
        files: by name.
        reference: repository and tag.
        access: how the registry may be spoken to.

    Raises:
        UsageError, ChannelError: as `push_published`.
    """
    layers = tuple(Descriptor.of(_image_type(name), files[name], title=name) for name in sorted(files))
    entry, _ = _push_artifact(_open(reference, access), Artifact(IMAGE_TYPE, layers), files.values())
    return reference.at(entry.digest)


def _open(reference: Reference, access: Access) -> Registry:
    if reference.digest is not None:
        raise UsageError(f"{reference}: expected a tag to publish under, got a digest")
    if access.plain_http and not is_loopback(reference.host_name):
        # what is pushed is signed, but a login and the right to replace it are not to be shown around
        raise UsageError(
            f"{reference}: expected TLS, got --plain-http", hint="it is for a registry on this very machine"
        )
    return Registry(reference, replace(access, push=True), within_s=MAX_PUSH_S)


def _layer(name: str, data: bytes) -> Descriptor:
    kinds = {kind.name: kind for kind in LAYER_KINDS}
    kind = kinds[name] if name in kinds else kinds[name.partition("/")[0]]
    return Descriptor.of(kind.media_type, data, title=name)


def _image_type(name: str) -> str:
    return next((kind for end, kind in _IMAGE_TYPES.items() if name.endswith(end)), _OTHER)


def _push_artifact(
    registry: Registry, artifact: Artifact, contents: Iterable[bytes]
) -> tuple[Descriptor, bool]:
    """Push blobs and manifest; return its entry for a list, and whether the registry lists it itself."""
    for data in (EMPTY, *contents):
        _push_blob(registry, data)
    manifest = write_artifact(artifact)
    if len(manifest) > MAX_OCI_MANIFEST:
        raise UsageError(f"{registry.reference}: expected a manifest of at most {MAX_OCI_MANIFEST} bytes")
    reply = _push_manifest(registry, registry.reference.name, manifest, MANIFEST_TYPE)
    entry = replace(
        Descriptor.of(MANIFEST_TYPE, manifest),
        artifact_type=artifact.artifact_type,
        annotations=artifact.annotations,
    )
    subject = artifact.subject
    return entry, subject is not None and reply.headers.get("OCI-Subject") == str(subject.digest)


def _push_blob(registry: Registry, data: bytes) -> None:
    digest = Digest.sha256(data)
    reply = registry.request("HEAD", f"blobs/{digest}", limit_bytes=0)
    if reply.status in (_OK, *MOVED):  # it has it; some say so by where it lies
        return
    registry.expect(reply, _NOT_FOUND, f"blob {digest}")
    reply = registry.request("POST", "blobs/uploads/", limit_bytes=MAX_REFUSAL, body=b"")
    registry.expect(reply, _ACCEPTED, "upload")
    address = registry.own_address(reply.headers.get("Location", ""))
    address += f"{'&' if '?' in address else '?'}digest={digest}"
    headers = {"Content-Type": _OTHER}
    reply = registry.request("PUT", address, limit_bytes=MAX_REFUSAL, headers=headers, body=data)
    registry.expect(reply, _CREATED, f"upload of blob {digest}")


def _push_manifest(registry: Registry, name: str, data: bytes, media_type: str) -> Reply:
    headers = {"Content-Type": media_type}
    reply = registry.request("PUT", f"manifests/{name}", limit_bytes=MAX_REFUSAL, headers=headers, body=data)
    registry.expect(reply, _CREATED, f"upload of manifest {name}")
    if registry.manifest(name, media_type=media_type, limit_bytes=len(data)) != data:
        raise ChannelError(f"{registry.reference.tagged(name)}: expected what was pushed, got something else")
    return reply


def _describe_subject(registry: Registry, subject: Digest) -> Descriptor:
    reply = registry.request(
        "GET",
        f"manifests/{subject}",
        limit_bytes=MAX_SUBJECT,
        headers={"Accept": ", ".join(_SUBJECT_TYPES)},
    )
    registry.expect(reply, _OK, f"manifest {subject}")
    kind = reply.headers.get_content_type()
    if kind not in _SUBJECT_TYPES or not Digest.sha256(reply.body).equals(subject):
        raise ChannelError(
            f"{registry.reference.at(subject)}: expected a manifest with this digest, got {kind}"
        )
    return Descriptor.of(kind, reply.body)


def _list_attached(registry: Registry, subject: Digest, entry: Descriptor) -> Reference:
    # two who do this at once can lose an entry: a tag cannot be replaced on a condition
    tag = referrers_tag(subject)
    before = registry.manifest(tag, media_type=INDEX_TYPE, limit_bytes=MAX_OCI_INDEX)
    try:
        after = attach(before, entry)
    except FormatError as error:
        raise ChannelError(f"{registry.reference.tagged(tag)}: {error.message}") from error
    if after != before:
        _push_manifest(registry, tag, after, INDEX_TYPE)
    return registry.reference.tagged(tag)
