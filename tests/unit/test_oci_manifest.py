"""Manifests of an OCI registry: written so that others read them, read so that nothing else is believed."""

from __future__ import annotations

import json

import jsonschema
import oras.schemas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindbuild.digest import Digest
from blindbuild.errors import FormatError
from blindbuild.formats.oci import (
    EMPTY,
    EMPTY_TYPE,
    INDEX_TYPE,
    MANIFEST_TYPE,
    MAX_ATTACHED,
    MAX_LAYERS,
    Artifact,
    Descriptor,
    Reference,
    attach,
    find_attached,
    parse_artifact,
    referrers_tag,
    write_artifact,
)

KIND = "application/vnd.example.thing.v1"
ENTRY = Descriptor(MANIFEST_TYPE, Digest.sha256(b"attached"), 8, KIND, {"a": "b"})
WHOLE = Artifact(
    KIND,
    (Descriptor.of("application/a", b"one", title="a.json"), Descriptor.of("text/b", b"")),
    Descriptor.of(MANIFEST_TYPE, b"subject"),
    {"org.example.key": "värde"},
)
_WORDS = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
_DESCRIPTORS = st.builds(
    lambda kind, data, title: Descriptor.of(f"application/{kind}", data, title=title),
    _WORDS,
    st.binary(max_size=8),
    st.none() | st.text(max_size=8),
)


@given(
    st.lists(_DESCRIPTORS, min_size=1, max_size=5),
    st.none() | _DESCRIPTORS,
    st.dictionaries(_WORDS, st.text(max_size=9), max_size=3),
)
def test_what_is_written_is_read_again(
    layers: list[Descriptor], subject: Descriptor | None, annotations: dict[str, str]
) -> None:
    artifact = Artifact(KIND, tuple(layers), subject, annotations)
    assert parse_artifact(write_artifact(artifact), artifact_type=KIND) == artifact


def test_another_clients_schema_takes_what_is_written() -> None:
    value = json.loads(write_artifact(WHOLE))
    jsonschema.validate(value, oras.schemas.manifest)
    assert value["schemaVersion"] == 2
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**value, "layers": {}}, oras.schemas.manifest)


def test_the_empty_config_is_the_one_of_the_specification() -> None:
    # image-spec 1.1, manifest.md, "Guidance for an Empty Descriptor"
    empty = Descriptor.of(EMPTY_TYPE, EMPTY)
    assert str(empty.digest) == "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert empty.size == 2


def test_a_manifest_that_was_cut_anywhere_is_refused() -> None:
    data = write_artifact(WHOLE)
    for end in range(len(data)):
        with pytest.raises(FormatError):
            parse_artifact(data[:end], artifact_type=KIND)


def test_a_flipped_bit_gives_our_error_or_another_manifest() -> None:
    data = write_artifact(WHOLE)
    for position in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        try:
            assert parse_artifact(bytes(damaged), artifact_type=KIND) is not None
        except FormatError:
            continue


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_anything_else_is_refused(data: bytes) -> None:
    for read in (lambda: parse_artifact(data, artifact_type=KIND), lambda: attach(data, ENTRY)):
        with pytest.raises(FormatError):
            read()


@given(st.text(max_size=80))
def test_any_text_is_a_reference_that_is_written_the_same_or_refused(text: str) -> None:
    try:
        found = Reference.parse(f"oci://{text}")
    except FormatError:
        return
    assert Reference.parse(str(found)) == found


# --- what is attached


def index(*entries: dict, **changes: object) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": list(entries), **changes}
    ).encode()


def test_attaching_twice_is_attaching_once() -> None:
    once = attach(None, ENTRY)
    assert attach(once, ENTRY) == once
    assert find_attached(once, artifact_type=KIND) == (ENTRY,)
    assert find_attached(once, artifact_type="application/other") == ()
    assert referrers_tag(ENTRY.digest) == f"sha256-{ENTRY.digest.hex}"


def test_entries_of_others_stay_as_they_are_whatever_they_hold() -> None:
    theirs = {"mediaType": "x", "digest": "sha512:zz", "new": [1], "artifactType": "application/theirs"}
    data = attach(index(theirs, annotations={"k": "v"}), ENTRY)
    value = json.loads(data)
    assert value["manifests"][0] == theirs
    assert value["annotations"] == {"k": "v"}
    assert find_attached(data, artifact_type=KIND) == (ENTRY,)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[]", "expected an object"),
        (write_artifact(WHOLE), "expected schema 2 and media type"),
        (index(layers=[]), "and no layers"),
        (index(manifests={}), f"expected at most {MAX_ATTACHED} manifests"),
        (index(*[{}] * (MAX_ATTACHED + 1)), f"expected at most {MAX_ATTACHED} manifests"),
    ],
)
def test_a_list_that_is_none_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        find_attached(data, artifact_type=KIND)
    with pytest.raises(FormatError, match=said):
        attach(data, ENTRY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mediaType": INDEX_TYPE}, "expected a manifest, got"),
        ({"digest": "sha256:0"}, "expected a digest"),
        ({"size": -1}, "expected a size"),
        ({"urls": []}, "urls of other places"),
    ],
)
def test_an_entry_of_ours_that_is_malformed_is_refused(changes: dict, said: str) -> None:
    entry = json.loads(attach(None, ENTRY))["manifests"][0]
    with pytest.raises(FormatError, match=said):
        find_attached(index(entry | changes), artifact_type=KIND)


def test_a_full_list_takes_no_more() -> None:
    full = index(*[{"digest": str(number)} for number in range(MAX_ATTACHED)])
    with pytest.raises(FormatError, match=f"expected less than {MAX_ATTACHED} manifests"):
        attach(full, ENTRY)


def test_as_many_layers_as_there_may_be() -> None:
    layer = Descriptor.of("application/a", b"")
    most = Artifact(KIND, (layer,) * MAX_LAYERS)
    assert parse_artifact(write_artifact(most), artifact_type=KIND) == most
    with pytest.raises(FormatError, match=f"expected 1 to {MAX_LAYERS} layers"):
        parse_artifact(write_artifact(Artifact(KIND, (layer,) * (MAX_LAYERS + 1))), artifact_type=KIND)
