"""What an OCI registry keeps of a publication: the place it is named by, its manifest, and what is attached.

A manifest only says which blobs belong together; nobody signs it. So it is read strictly enough that what is
fetched is bounded and is what was named, and believed in nothing else: no file name of it is ever used.

Source: OCI image-spec 1.1, manifest.md, descriptor.md and image-index.md; distribution-spec 1.1,
"Pulling manifests" and "Referrers Tag Schema"; distribution's reference grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json

SCHEME = "oci://"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"  # the config of a manifest that is no container's
TITLE = "org.opencontainers.image.title"
VERSION = "org.opencontainers.image.version"
MAX_OCI_MANIFEST = 1 << 16  # bytes; ten layers take 3 KiB
MAX_OCI_INDEX = 1 << 18  # bytes; what is attached to one image, by everybody
MAX_LAYERS = 64  # a publication has six kinds of files, and rebuilds are one of them
MAX_ATTACHED = 512  # entries of an index
MAX_BLOB = 1 << 40  # bytes; bounds a size before it is compared with what a file of its kind may have
_MAX_REPOSITORY = 255  # characters, host included: what registries take
_REFERENCE = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::(?P<port>[0-9]{1,5}))?"
    r"/(?P<repository>[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127})|@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True, slots=True)
class Reference:
    """A manifest in a registry, by tag or by digest.

    Attributes:
        host: with its port, if one was given.
        name: a tag, or a digest as `sha256:…`.
    """

    host: str
    repository: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `oci://HOST[:PORT]/REPOSITORY[:TAG|@sha256:…]`; without either, the tag is `latest`.

        Raises:
            FormatError: anything else, a tag together with a digest included.
        """
        rest = text.removeprefix(SCHEME)
        found = _REFERENCE.fullmatch(rest) if rest != text and len(rest) <= 2 * _MAX_REPOSITORY else None
        if found is None or len(f"{found['host']}/{found['repository']}") > _MAX_REPOSITORY:
            raise FormatError(
                f"expected oci://HOST[:PORT]/REPOSITORY, and a :TAG or an @sha256:… behind it, "
                f"got {text[:300]!r}",
                hint="repositories are in lower case; name a tag or a digest, not both",
            )
        if found["port"] and not 1 <= int(found["port"]) <= 65535:
            raise FormatError(f"expected a port from 1 to 65535, got {found['port']}")
        host = f"{found['host']}:{int(found['port'])}" if found["port"] else found["host"]
        return cls(host.lower(), found["repository"], found["digest"] or found["tag"] or "latest")

    @property
    def digest(self) -> Digest | None:
        """The digest that it names, or None for a tag."""
        return _digest(self.name) if _DIGEST.fullmatch(self.name) else None

    @property
    def host_name(self) -> str:
        """The host without its port."""
        return re.sub(r":[0-9]+$", "", self.host)

    def at(self, digest: Digest) -> Reference:
        """The same repository, but this very manifest."""
        return Reference(self.host, self.repository, str(digest))

    def tagged(self, tag: str) -> Reference:
        """The same repository, another tag."""
        return Reference(self.host, self.repository, tag)

    def __str__(self) -> str:
        return f"{SCHEME}{self.host}/{self.repository}{'@' if self.digest else ':'}{self.name}"


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What is to be fetched: its kind, its digest, and its size in bytes.

    Attributes:
        artifact_type: in an index, the type of the manifest that it points at.
        annotations: for people and other programs; this one never acts on them.
    """

    media_type: str
    digest: Digest
    size: int
    artifact_type: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, media_type: str, data: bytes, *, title: str | None = None) -> Descriptor:
        """Describe bytes at hand."""
        annotations = {} if title is None else {TITLE: title}
        return cls(media_type, Digest.sha256(data), len(data), annotations=annotations)


@dataclass(frozen=True, slots=True)
class Artifact:
    """A manifest of files that are no container: what they are together, and the layers that they are.

    Attributes:
        subject: the manifest that this one is attached to, or None.
    """

    artifact_type: str
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


def write_artifact(artifact: Artifact) -> bytes:
    """Return the manifest in RFC 8785 form: the same files give the same digest."""
    value: dict[str, JsonValue] = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": artifact.artifact_type,
        "config": _write(Descriptor.of(EMPTY_TYPE, EMPTY)),
        "layers": [_write(layer) for layer in artifact.layers],
    }
    if artifact.subject is not None:
        value["subject"] = _write(artifact.subject)
    if artifact.annotations:
        value["annotations"] = dict(artifact.annotations)
    return canonical_bytes(value)


def parse_artifact(data: bytes, *, artifact_type: str) -> Artifact:
    """Parse a manifest of one type.

    Properties that are not known are ignored, as considerations.md ("Extensibility") demands. What would make
    the manifest something else as well is refused: `manifests` of an index, `urls` of a layer that lies
    elsewhere, a config that is not the empty one.

    Raises:
        FormatError: another type, a manifest list or index, or malformed.
    """
    value = _document(data, MANIFEST_TYPE, max_bytes=MAX_OCI_MANIFEST)
    if "manifests" in value or "fsLayers" in value:
        raise FormatError("manifest: expected a manifest that is no list of manifests as well")
    if value.get("artifactType") != artifact_type:
        raise FormatError(
            f"manifest: expected artifact type {artifact_type}, got {str(value.get('artifactType'))[:120]!r}"
        )
    config = _read(value.get("config"), "config")
    if (config.media_type, config.digest, config.size) != (EMPTY_TYPE, Digest.sha256(EMPTY), len(EMPTY)):
        raise FormatError("manifest: expected the empty config, got another")
    layers = value.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise FormatError(f"manifest: expected 1 to {MAX_LAYERS} layers")
    return Artifact(
        artifact_type,
        tuple(_read(layer, f"layers[{number}]") for number, layer in enumerate(layers)),
        _read(value["subject"], "subject") if "subject" in value else None,
        _annotations(value, "manifest"),
    )


def attach(index: bytes | None, entry: Descriptor) -> bytes:
    """Return the index of what is attached to one manifest, with one entry more; others' stay as they are.

    Args:
        index: as it was found, or None when nothing is attached yet.
        entry: what is attached; if it is there already, the index stays the same.

    Raises:
        FormatError: no index, or it would have more than `MAX_ATTACHED` entries.

    Source: distribution-spec 1.1, "Pushing Manifests with Subject".
    """
    value: dict[str, JsonValue] = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}
    entries: list[JsonValue] = []
    if index is not None:
        value, entries = _parse_index(index)
    same = [old for old in entries if isinstance(old, dict) and old.get("digest") == str(entry.digest)]
    if len(entries) >= MAX_ATTACHED and not same:
        raise FormatError(f"index: expected less than {MAX_ATTACHED} manifests, got {len(entries)}")
    return canonical_bytes({**value, "manifests": [*entries, *([] if same else [_write(entry)])]})


def find_attached(index: bytes, *, artifact_type: str) -> tuple[Descriptor, ...]:
    """Return the manifests of one type in an index of what is attached, whoever attached them.

    Raises:
        FormatError: no index, or an entry of this type is malformed or no manifest.
    """
    found = []
    for number, entry in enumerate(_parse_index(index)[1]):
        if isinstance(entry, dict) and entry.get("artifactType") == artifact_type:
            descriptor = _read(entry, f"manifests[{number}]")
            if descriptor.media_type != MANIFEST_TYPE:
                raise FormatError(f"manifests[{number}]: expected a manifest, got {descriptor.media_type}")
            found.append(descriptor)
    return tuple(found)


def _parse_index(data: bytes) -> tuple[dict[str, JsonValue], list[JsonValue]]:
    value = _document(data, INDEX_TYPE, max_bytes=MAX_OCI_INDEX)
    entries = value.get("manifests")
    if "layers" in value or not isinstance(entries, list) or len(entries) > MAX_ATTACHED:
        raise FormatError(f"index: expected at most {MAX_ATTACHED} manifests, and no layers")
    return value, entries


def referrers_tag(subject: Digest) -> str:
    """Return the tag under which a registry without a referrers API keeps what is attached.

    Source: distribution-spec 1.1, "Referrers Tag Schema".
    """
    return f"{subject.algorithm.value}-{subject.hex}"


def _document(data: bytes, media_type: str, *, max_bytes: int) -> dict[str, JsonValue]:
    value = parse_json(data, max_bytes=max_bytes)
    if not isinstance(value, dict):
        raise FormatError("expected an object")
    if value.get("mediaType") != media_type or value.get("schemaVersion") != 2:
        raise FormatError(
            f"expected schema 2 and media type {media_type}, got {str(value.get('mediaType'))[:120]!r}"
        )
    return value


def _write(descriptor: Descriptor) -> dict[str, JsonValue]:
    value: dict[str, JsonValue] = {
        "mediaType": descriptor.media_type,
        "digest": str(descriptor.digest),
        "size": descriptor.size,
    }
    if descriptor.artifact_type is not None:
        value["artifactType"] = descriptor.artifact_type
    if descriptor.annotations:
        value["annotations"] = dict(descriptor.annotations)
    return value


def _read(value: JsonValue, where: str) -> Descriptor:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object")
    if "urls" in value:
        # descriptor.md: from where else the content may be had; what is named is to come from where it is
        raise FormatError(f"{where}: expected a blob of this registry, got one with urls of other places")
    media_type, digest, size = value.get("mediaType"), value.get("digest"), value.get("size")
    if not isinstance(media_type, str) or not _TYPE.fullmatch(media_type):
        raise FormatError(f"{where}: expected a media type, got {str(media_type)[:80]!r}")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise FormatError(f"{where}: expected a digest sha256:…, got {str(digest)[:80]!r}")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= MAX_BLOB:
        raise FormatError(f"{where}: expected a size in bytes, got {str(size)[:80]!r}")
    artifact_type = value.get("artifactType")
    if artifact_type is not None and not isinstance(artifact_type, str):
        raise FormatError(f"{where}: expected an artifact type")
    return Descriptor(media_type, _digest(digest), size, artifact_type, _annotations(value, where))


def _annotations(value: Mapping[str, JsonValue], where: str) -> dict[str, str]:
    found = value.get("annotations", {})
    if not isinstance(found, dict):
        raise FormatError(f"{where}: expected annotations that are an object")
    texts = {key: text for key, text in found.items() if isinstance(text, str)}
    if len(texts) != len(found):
        raise FormatError(f"{where}: expected annotations that are text")
    return texts


def _digest(text: str) -> Digest:
    return Digest.from_hex(HashAlgorithm.SHA256, text.removeprefix("sha256:"))
