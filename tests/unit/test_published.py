"""Places that lie, stall or send elsewhere: what a client fetches is bounded, and is what was named."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from email.message import Message
from pathlib import Path

import pytest

from blindbuild.client import oci, published, registry, web
from blindbuild.client.published import Published, read_published
from blindbuild.client.registry import Access, Registry
from blindbuild.client.registry_login import parse_challenge, read_login
from blindbuild.client.web import Reply
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, UsageError
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.oci import Reference
from blindbuild.publish.directory import write_directory
from blindbuild.publish.oci import push_image, push_published
from tests.bad_inputs import numbered, refusing
from tests.fakes.oci_registry import (
    BASIC,
    Answer,
    FakeServer,
    Request,
    docker_config,
    manifest_value,
    serving,
    sha256,
    static_files,
)
from tests.fakes.tls_server import Behaviour, make_context
from tests.fakes.world import publisher

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
FILES = {"manifest.dsse.json": b"an envelope", "release.dsse.json": b"a release", "channels.json": b"rows"}
FILES |= {"probe.dsse.json": b"a probe"}


# --- a web server


def site(**files: bytes | Answer) -> Callable[[Request], Answer]:
    """A web server with these files; a name is `manifest` or `release`."""
    names = {"/hello/manifest.dsse.json": "manifest", "/hello/release.dsse.json": "release"}

    def answer(request: Request) -> Answer:
        found = files.get(names.get(request.path, ""))
        if found is None:
            return Answer(404, b"no such page")
        return found if isinstance(found, Answer) else Answer(200, found)

    return answer


def read_site(answer: Callable[[Request], Answer]) -> published.Published:
    with serving(answer) as server:
        return read_published(f"http://{server.host}/hello/")


def test_a_web_server_needs_no_more_than_the_manifest() -> None:
    found = read_site(site(manifest=b"an envelope"))
    assert (found.envelope, found.release, found.ledger, found.rebuilds) == (b"an envelope", None, None, ())


@pytest.mark.parametrize("path", ["/hello", "/hello/", "/hello/manifest.dsse.json"])
def test_a_directory_is_named_with_or_without_its_slash_or_by_the_manifest(path: str) -> None:
    with serving(site(manifest=b"x", release=b"y")) as server:
        found = read_published(f"http://{server.host}{path}")
    assert (found.envelope, found.release) == (b"x", b"y")
    assert found.source == f"http://{server.host}/hello/manifest.dsse.json"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["http://{other}/hello/manifest.dsse.json", "file:///etc/hostname", ""])
@pytest.mark.bad_input(125)
def test_a_redirect_leads_nowhere(status: int, target: str) -> None:
    with serving(site(manifest=b"an old one")) as other:
        moved = Answer(status, headers={"Location": target.format(other=other.host)})
        with refusing("redirects are not followed", ChannelError) as refused:
            read_site(site(manifest=moved))
        assert f"expected status 200, got {status}" in refused.value.message
        assert other.requests == []


def endless(part: bytes = bytes(1 << 16)) -> Answer:
    return Answer(stream=itertools.repeat(part))


def dripping() -> Iterator[bytes]:
    for _ in range(3000):
        yield b"x"
        time.sleep(0.01)


BROKEN = {
    "126 gzip": (
        lambda: Answer(200, gzip.compress(bytes(1 << 20)), headers={"Content-Encoding": "gzip"}),
        "expected no compression, got 'gzip'",
    ),
    "brotli": (
        lambda: Answer(200, b"x", headers={"Content-Encoding": "br"}),
        "expected no compression, got 'br'",
    ),
    "126 endless": (endless, f"expected at most {MAX_ENVELOPE} bytes, got more"),
    "too large": (
        lambda: Answer(200, bytes(MAX_ENVELOPE + 1)),
        f"expected at most {MAX_ENVELOPE} bytes, got more",
    ),
    "an error": (lambda: Answer(500, b"x" * (1 << 20)), "expected status 200, got 500"),
    "a part": (lambda: Answer(206, b"x"), "expected status 200, got 206"),
    "nothing": (lambda: Answer(204), "expected status 200, got 204"),
    "not there": (lambda: Answer(404), "manifest.dsse.json: not there"),
    "cut": (
        lambda: Answer(headers={"Content-Length": "9"}, stream=iter([b"x"])),
        "expected the whole answer, got 1 bytes of it",
    ),
}


@pytest.mark.parametrize("name", numbered(BROKEN))
def test_a_web_server_that_sends_something_else_is_refused(name: str) -> None:
    make, said = BROKEN[name]
    with refusing(said, ChannelError):
        read_site(site(manifest=make()))
    if name != "not there":  # which of the files beside it may be
        with refusing(said, ChannelError):
            read_site(site(manifest=b"x", release=make()))


def test_a_web_server_that_drips_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "MAX_PUBLICATION_S", 0.3)
    began = time.monotonic()
    with pytest.raises(ChannelError, match="expected the whole answer within 0 s"):
        read_site(site(manifest=Answer(stream=dripping())))
    assert time.monotonic() - began < 20


def test_all_files_together_have_one_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(0.0, 50.0)
    monkeypatch.setattr(published, "time", type("Clock", (), {"monotonic": lambda: next(ticks)}))
    with pytest.raises(ChannelError, match="expected all files within 120 s"):
        read_site(site(manifest=b"x", release=b"y"))


@pytest.mark.parametrize(
    "url",
    [
        "https://user:secret@h/x/",
        "https://h/x/?a=b",
        "https://h/x/#top",
        "https:///x/",
        "https://h:port/",
        "https://[::1/",
        f"https://h/{'x' * 2000}",
    ],
)
def test_an_address_that_is_more_than_a_place_is_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError, match="expected "):
        read_published(url)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://h/x", "oci:/h/x", "s3://bucket/x", "HTTPS://h/"])
def test_other_addresses_are_wrong_usage(url: str) -> None:
    with pytest.raises(UsageError):
        read_published(url)


@pytest.mark.parametrize("host", ["192.0.2.1", "web.example", "localhost.example", "127.0.0.1.example"])
@pytest.mark.bad_input(125)
def test_plain_http_to_another_machine_must_be_wished(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def connect(address: tuple[str, int], *_args: object) -> None:
        asked.append(address)
        raise OSError("unplugged")

    monkeypatch.setattr(web.socket, "create_connection", connect)
    with refusing(", got http://", UsageError) as refused:
        read_published(f"http://{host}/hello/")
    assert refused.value.message.startswith(f"expected https:// for {host}")
    assert "--plain-http" in (refused.value.hint or "")
    assert asked == []
    with pytest.raises(ChannelError, match="unplugged"):
        read_published(f"http://{host}/hello/", plain_http=True)
    assert asked == [(host, 80)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Names that lead to servers on loopback, as a resolver would have it; anything else is not reached."""
    known: dict[str, str] = {}
    connect = socket.create_connection

    def to_loopback(address: tuple[str, int], *args: object, **more: object) -> socket.socket:
        host, port = address
        target = known.get(f"{host}:{port}") or (f"127.0.0.1:{port}" if host == "127.0.0.1" else "")
        if not target:
            raise OSError(f"nobody is to be asked at {host}:{port}")
        return connect(("127.0.0.1", int(target.rpartition(":")[2])), *args, **more)

    monkeypatch.setattr(web.socket, "create_connection", to_loopback)
    return known


def context_of(name: str) -> ssl.SSLContext:
    return make_context(Behaviour(subject=name), name=name)


@pytest.fixture
def believe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[FakeServer], None]:
    """Makes this client believe the certificate of a server that is running."""
    anchors = tmp_path / "anchors.pem"
    anchors.write_bytes(b"")
    monkeypatch.setenv("SSL_CERT_FILE", str(anchors))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))

    def add(server: FakeServer) -> None:
        host, _, port = server.host.rpartition(":")
        with anchors.open("a") as stream:
            stream.write(ssl.get_server_certificate((host, int(port))))

    return add


def test_over_https_the_name_counts(names: dict[str, str], believe: Callable) -> None:
    with serving(site(manifest=b"x"), tls=context_of("web.example")) as server:
        names["web.example:443"] = names["other.example:443"] = server.host
        believe(server)
        assert read_published("https://web.example/hello/").envelope == b"x"
        with pytest.raises(ChannelError, match="certificate verify failed"):
            read_published("https://other.example/hello/")
    with serving(site(manifest=b"x"), tls=context_of("web.example")) as server:
        names["web.example:443"] = server.host
        with pytest.raises(ChannelError, match="certificate verify failed"):
            read_published("https://web.example/hello/")


# --- a registry


@dataclass
class Shelf:
    """A registry that has one publication, with a switch for each lie."""

    files: dict[str, bytes] = field(default_factory=lambda: dict(FILES))
    value: dict | None = None
    manifest: bytes | None = None
    kind: str = MANIFEST_TYPE
    instead: dict[str, Answer] = field(default_factory=dict)  # by the beginning of a path below the name

    @property
    def bytes(self) -> bytes:
        return self.manifest or json.dumps(self.value or manifest_value(self.files)).encode()

    def __call__(self, request: Request) -> Answer:
        path = request.path.removeprefix("/v2/hello/")
        for start, answer in self.instead.items():
            if path.startswith(start):
                return answer
        if path in ("manifests/1", f"manifests/{sha256(self.bytes)}"):
            return Answer(200, self.bytes, kind=self.kind)
        for data in self.files.values():
            if path == f"blobs/{sha256(data)}":
                return Answer(200, data)
        return Answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')


def pull(shelf: Shelf, name: str = ":1", **more) -> published.Published:
    with serving(shelf) as server:
        return read_published(f"oci://{server.host}/hello{name}", plain_http=True, **more)


def changed(**changes: object) -> Shelf:
    return Shelf(value={**manifest_value(FILES), **changes})


def with_layer(**changes: object) -> Shelf:
    value = manifest_value(FILES)
    value["layers"][0] |= changes
    return Shelf(value=value)


def test_an_honest_registry() -> None:
    found = pull(Shelf())
    assert (found.envelope, found.release, found.ledger, found.probe) == tuple(FILES.values())
    assert found.source.endswith(f"/hello@{sha256(Shelf().bytes)}")


LAYER = manifest_value(FILES)["layers"][0]
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
LISTED = {"mediaType": MANIFEST_TYPE, "digest": sha256(b"x"), "size": 1}
LIST = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [LISTED]}
MANIFESTS = {
    "a list": (Shelf(value=LIST, kind=INDEX_TYPE), f"expected {MANIFEST_TYPE}, got '{INDEX_TYPE}'"),
    "a docker list": (
        Shelf(kind="application/vnd.docker.distribution.manifest.list.v2+json"),
        f"expected {MANIFEST_TYPE}, got 'application/vnd.docker",
    ),
    "a docker manifest": (
        changed(mediaType="application/vnd.docker.distribution.manifest.v2+json"),
        "expected schema 2 and media type",
    ),
    "a list called a manifest": (Shelf(value=LIST), "expected schema 2 and media type"),
    "both at once": (changed(manifests=[LISTED]), "no list of manifests as well"),
    "of schema 1": (changed(schemaVersion=1), "expected schema 2"),
    "of another artifact": (
        changed(artifactType="application/x"),
        "expected artifact type application/vnd.bl",
    ),
    "of none": (changed(artifactType=None), "expected artifact type application/vnd.bl"),
    "with a config": (changed(config=LISTED), "expected the empty config"),
    "without a config": (changed(config=None), "config: expected an object"),
    "without layers": (changed(layers=[]), "expected 1 to 64 layers"),
    "with 65 layers": (changed(layers=[LAYER] * 65), "expected 1 to 64 layers"),
    "with a subject that is none": (changed(subject="x"), "subject: expected an object"),
    "with annotations that are a list": (changed(annotations=[]), "expected annotations"),
    "with annotations that are numbers": (
        changed(annotations={"a": 1}),
        "expected annotations that are text",
    ),
    "a foreign layer": (with_layer(urls=["https://elsewhere.example/x"]), "urls of other places"),
    "a layer of another kind": (with_layer(mediaType="application/x"), "expected layers of a publication"),
    "a layer of no kind": (with_layer(mediaType="x"), "expected a media type"),
    "a layer with another hash": (with_layer(digest=f"md5:{'0' * 32}"), "expected a digest sha256"),
    "a layer in capitals": (with_layer(digest=LAYER["digest"].upper()), "expected a digest sha256"),
    "a path as a digest": (with_layer(digest="sha256:../../../x"), "expected a digest sha256"),
    "a negative size": (with_layer(size=-1), "expected a size in bytes"),
    "a size that is true": (with_layer(size=True), "expected a size in bytes"),
    "a size of text": (with_layer(size="11"), "expected a size in bytes"),
    "too large a layer": (with_layer(size=MAX_ENVELOPE + 1), f"expected at most {MAX_ENVELOPE} bytes, got"),
    "two manifests": (changed(layers=[LAYER, LAYER]), "manifest.dsse.json: expected at most 1, got more"),
    "no manifest": (changed(layers=manifest_value(FILES)["layers"][1:]), "expected a layer of type"),
    "no JSON": (Shelf(manifest=b"<html>"), "not JSON"),
    "duplicate keys": (Shelf(manifest=b'{"mediaType":"a","mediaType":"b"}'), "duplicate key"),
    "nested": (Shelf(manifest=b"[" * 60000), "nested deeper"),
    "too large": (Shelf(manifest=b" " * ((1 << 16) + 1)), "expected at most 65536 bytes"),
    "moved": (
        Shelf(instead={"manifests": Answer(301, headers={"Location": "file:///etc/hostname"})}),
        "got 301 to 'file:///etc/hostname': redirects are not followed",
    ),
    "compressed": (
        Shelf(instead={"manifests": Answer(200, gzip.compress(b"{}"), headers={"Content-Encoding": "gzip"})}),
        "expected no compression",
    ),
    "none": (Shelf(instead={"manifests": Answer(404)}), "not there"),
    "withheld": (Shelf(instead={"manifests": Answer(403)}), "expected status 200, got 403"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_that_is_something_else_is_refused_and_no_blob_is_asked_for(name: str) -> None:
    shelf, said = MANIFESTS[name]
    with serving(shelf) as server:
        with pytest.raises(ChannelError) as refused:
            read_published(f"oci://{server.host}/hello:1", plain_http=True)
        assert not [request for request in server.requests if "/blobs/" in request.path]
    assert said in refused.value.message


def test_another_manifest_than_the_one_named_by_digest_is_refused() -> None:
    honest = Shelf()
    other = changed(annotations={"org.example": "another"})
    other.instead = {f"manifests/{sha256(honest.bytes)}": Answer(200, other.bytes, kind=MANIFEST_TYPE)}
    assert pull(honest, f"@{sha256(honest.bytes)}").envelope == FILES["manifest.dsse.json"]
    with pytest.raises(ChannelError, match=f"expected manifest {sha256(honest.bytes)}, got sha256:"):
        pull(other, f"@{sha256(honest.bytes)}")


ENVELOPE = FILES["manifest.dsse.json"]
BLOB = f"blobs/{sha256(ENVELOPE)}"
BLOBS = {
    "other bytes": (Answer(200, ENVELOPE.upper()), "got other bytes than these"),
    "truncated": (Answer(200, ENVELOPE[:-1]), f"expected {len(ENVELOPE)} bytes, got {len(ENVELOPE) - 1}"),
    "longer": (Answer(200, ENVELOPE + b"x"), f"expected at most {len(ENVELOPE)} bytes, got more"),
    "endless": (endless(), f"expected at most {len(ENVELOPE)} bytes, got more"),
    "compressed": (
        Answer(200, gzip.compress(ENVELOPE), headers={"Content-Encoding": "gzip"}),
        "expected no compression",
    ),
    "not there": (Answer(404, b'{"errors":[{"code":"BLOB_UNKNOWN"}]}'), "got 404 BLOB_UNKNOWN"),
    "an error with escapes": (Answer(500, b'{"errors":[{"code":"\\u001b[31m"}]}'), "got 500"),
    "to plain http": (Answer(307, headers={"Location": "http://cdn.example/x"}), "expected https or the reg"),
    "to a file": (
        Answer(307, headers={"Location": "file:///etc/hostname"}),
        "expected https or the registry",
    ),
    "to nowhere": (Answer(307), "expected at most 3 redirects, got more"),
    "to no address": (Answer(307, headers={"Location": "https://[::1"}), "expected an address"),
    "to itself": (Answer(307, headers={"Location": f"/v2/hello/{BLOB}"}), "expected at most 3 redirects"),
    "to an address inside": (
        Answer(307, headers={"Location": "https://169.254.169.254/latest"}),
        "expected a public name",
    ),
    "to this machine": (Answer(307, headers={"Location": "https://localhost/x"}), "expected a public name"),
    "to this machine's other name": (
        Answer(307, headers={"Location": "https://a.localhost/x"}),
        "expected a public name",
    ),
    "to this machine by number": (Answer(307, headers={"Location": "https://[::1]/x"}), "expected a public"),
    "to another port": (Answer(307, headers={"Location": "http://127.0.0.1:1/x"}), "expected https or the"),
    "to a name with a user": (
        Answer(307, headers={"Location": "https://a:b@cdn.example/x"}),
        "expected an address with a host and no user",
    ),
}


@pytest.mark.parametrize("name", BLOBS)
def test_a_blob_that_is_not_what_its_digest_says_is_refused(name: str, names: dict[str, str]) -> None:
    answer, said = BLOBS[name]
    with pytest.raises(ChannelError) as refused:
        pull(Shelf(instead={BLOB: answer}))
    assert said in refused.value.message
    assert refused.value.message.isprintable()


def test_a_registry_that_drips_is_left_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "MAX_PUBLICATION_S", 0.3)
    began = time.monotonic()
    slow = with_layer(size=100_000)
    slow.instead = {BLOB: Answer(stream=dripping())}
    with pytest.raises(ChannelError, match="expected the whole answer within 0 s"):
        pull(slow)
    assert time.monotonic() - began < 20
    registry = Registry(Reference.parse("oci://h/x"), Access(), within_s=0)
    with pytest.raises(ChannelError, match="expected the registry to be done by now"):
        registry.request("GET", "manifests/1", limit_bytes=1)


@pytest.mark.parametrize("title", ["../../evil", "/etc/cron.d/evil", "..\\evil", "a\0b"])
def test_names_in_a_manifest_are_never_used(
    title: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = pull(with_layer(annotations={"org.opencontainers.image.title": title}))
    assert found.envelope == FILES["manifest.dsse.json"]
    assert list(tmp_path.iterdir()) == []


def test_properties_that_nobody_knows_are_ignored() -> None:
    shelf = changed(new={"a": [1]}, annotations={"x": "y"})
    assert pull(shelf).envelope == FILES["manifest.dsse.json"]


@pytest.mark.parametrize(
    "text",
    [
        "oci://",
        "oci://h",
        "oci://h/",
        "oci://h/Upper:1",
        "oci://h/x:",
        "oci://h/x:1@sha256:" + "0" * 64,
        "oci://h/x@sha256:" + "0" * 63,
        "oci://h/x@sha512:" + "0" * 128,
        "oci://u:p@h/x:1",
        "oci://h/../x:1",
        "oci://h/x/../y",
        "oci://h//x",
        "oci://h/x?y",
        "oci://h/x#y",
        "oci://h:0/x",
        "oci://h:65536/x",
        "oci://h/x:" + "t" * 129,
        "oci://h/" + "x" * 300,
        "oci://h\n/x",
        "oci://h/x\n",
        "oci://\u0068\u0435/x",
    ],
)
def test_what_names_no_manifest_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="expected "):
        read_published(text)


@pytest.mark.parametrize(
    ("text", "host", "repository", "name", "written"),
    [
        ("oci://h/x", "h", "x", "latest", "oci://h/x:latest"),
        ("oci://H.Example:5000/a/b_c__d-e.f:V1", "h.example:5000", "a/b_c__d-e.f", "V1", None),
        (f"oci://[::1]:5000/x@sha256:{'a' * 64}", "[::1]:5000", "x", f"sha256:{'a' * 64}", None),
    ],
)
def test_what_names_a_manifest(text: str, host: str, repository: str, name: str, written: str | None) -> None:
    found = Reference.parse(text)
    assert (found.host, found.repository, found.name) == (host, repository, name)
    assert str(found) == (written or text.replace("H.Example", "h.example"))


# --- what is attached


IMAGE = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "artifactType": "application/x"}).encode()


def attached(value: dict | None = None, *, entries: list | None = None) -> Shelf:
    """A registry with an image, and a publication that its list says is attached to it."""
    subject = {"mediaType": MANIFEST_TYPE, "digest": sha256(IMAGE), "size": len(IMAGE)}
    shelf = Shelf(value=value or {**manifest_value(FILES), "subject": subject})
    entry = {"mediaType": MANIFEST_TYPE, "digest": sha256(shelf.bytes), "size": len(shelf.bytes)}
    entry["artifactType"] = "application/vnd.blindbuild.publication.v1"
    listed = {**LIST, "manifests": [entry] if entries is None else entries}
    shelf.instead = {
        f"manifests/{sha256(IMAGE)}": Answer(200, IMAGE, kind=MANIFEST_TYPE),
        f"manifests/sha256-{sha256(IMAGE)[7:]}": Answer(200, json.dumps(listed).encode(), kind=INDEX_TYPE),
    }
    return shelf


def test_a_release_is_found_through_the_image_that_it_is_attached_to() -> None:
    assert pull(attached(), f"@{sha256(IMAGE)}").source.endswith(f"@{sha256(attached().bytes)}")


MISSING = {"mediaType": MANIFEST_TYPE, "digest": sha256(b"none"), "size": 4}
ATTACHED = {
    "to something else": (
        attached({**manifest_value(FILES), "subject": LISTED}),
        f"expected it to be attached to {sha256(IMAGE)}",
    ),
    "to nothing": (attached(manifest_value(FILES)), f"expected it to be attached to {sha256(IMAGE)}"),
    "and not there": (
        attached(entries=[MISSING | {"artifactType": "application/vnd.blindbuild.publication.v1"}]),
        "not there, though it is listed as attached",
    ),
    "and of another kind": (
        attached({**manifest_value(FILES), "artifactType": "application/y"}),
        "expected artifact type application/vnd.blindbuild.publication.v1, got 'application/y'",
    ),
    "by nobody": (attached(entries=[]), "expected artifact type application/vnd.blindbuild.publication.v1"),
    "in a list that is none": (attached(entries=[7] * 600), "expected at most 512 manifests"),
}


@pytest.mark.parametrize("name", ATTACHED)
def test_a_list_of_what_is_attached_is_not_believed(name: str) -> None:
    shelf, said = ATTACHED[name]
    with pytest.raises(ChannelError) as refused:
        pull(shelf, f"@{sha256(IMAGE)}")
    assert said in refused.value.message


def test_a_registry_may_keep_the_list_itself() -> None:
    shelf = attached()
    tag = next(name for name in shelf.instead if "sha256-" in name)
    listed = shelf.instead.pop(tag)
    with pytest.raises(ChannelError, match="expected artifact type"):
        pull(shelf, f"@{sha256(IMAGE)}")
    query = "?artifactType=application%2Fvnd.blindbuild.publication.v1"
    shelf.instead[f"referrers/{sha256(IMAGE)}{query}"] = listed
    assert pull(shelf, f"@{sha256(IMAGE)}").envelope == ENVELOPE
    shelf.instead[f"referrers/{sha256(IMAGE)}{query}"] = Answer(200, listed.body, kind="text/html")
    with pytest.raises(ChannelError, match=f"expected {INDEX_TYPE}, got 'text/html'".replace("+", "[+]")):
        pull(shelf, f"@{sha256(IMAGE)}")


def test_what_is_attached_to_a_tag_is_not_guessed() -> None:
    shelf = attached()
    shelf.instead["manifests/1"] = Answer(200, IMAGE, kind=MANIFEST_TYPE)
    with pytest.raises(ChannelError, match="expected artifact type"):
        pull(shelf)


# --- logins


def wanting(challenge: str, shelf: Shelf | None = None) -> Callable:
    """A registry that wants a login first."""
    inner = shelf or Shelf()

    def answer(request: Request) -> Answer:
        if request.headers.get("authorization") in ("Bearer t", f"Basic {BASIC}"):
            return inner(request)
        return Answer(401, b"{}", headers={"WWW-Authenticate": challenge})

    return answer


def test_a_login_goes_to_the_registry_that_it_is_for(names: dict[str, str]) -> None:
    with serving(wanting("Basic realm=x")) as server:
        place = f"oci://{server.host}/hello:1"
        known = docker_config(server.host)
        assert read_published(place, plain_http=True, environ=known).release == FILES["release.dsse.json"]
        with pytest.raises(ChannelError, match="wants a login, and there is none"):
            read_published(place, plain_http=True, environ=docker_config("127.0.0.1"))
        with pytest.raises(ChannelError, match="wants a login, and there is none"):
            read_published(place, plain_http=True)


def test_a_login_is_not_sent_to_where_a_blob_is_redirected(names: dict[str, str], believe: Callable) -> None:
    with ExitStack() as stack:
        cdn = stack.enter_context(serving(lambda _: Answer(200, ENVELOPE), tls=context_of("cdn.example")))
        believe(cdn)
        shelf = Shelf(instead={BLOB: Answer(307, headers={"Location": "https://cdn.example/blob?signed"})})
        server = stack.enter_context(serving(wanting("Basic", shelf)))
        names["cdn.example:443"] = cdn.host
        known = docker_config(server.host)
        found = read_published(f"oci://{server.host}/hello:1", plain_http=True, environ=known)
    assert found.envelope == ENVELOPE
    assert [request.path for request in cdn.requests] == ["/blob?signed"]
    assert "authorization" not in cdn.requests[0].headers
    assert BASIC not in str(cdn.requests[0])


def test_a_redirect_to_other_bytes_is_refused(names: dict[str, str], believe: Callable) -> None:
    with serving(lambda _: Answer(200, b"other bytes"), tls=context_of("cdn.example")) as cdn:
        believe(cdn)
        names["cdn.example:443"] = cdn.host
        away = Answer(302, headers={"Location": "https://cdn.example/x"})
        with pytest.raises(ChannelError, match="got other bytes than these"):
            pull(Shelf(instead={BLOB: away}))


def test_a_login_over_plain_http_stays_on_this_machine(names: dict[str, str]) -> None:
    with serving(wanting("Basic")) as server:
        names["registry.example:5000"] = server.host
        place = "oci://registry.example:5000/hello:1"
        with pytest.raises(ChannelError, match="expected TLS for a login, got plain http"):
            read_published(place, plain_http=True, environ=docker_config("registry.example:5000"))
        assert not [request for request in server.requests if "authorization" in request.headers]


@dataclass
class Tokens:
    """Two servers: a registry that wants a token, and a token server of another name."""

    registry: FakeServer
    tokens: FakeServer


@pytest.fixture
def two(names: dict[str, str], believe: Callable) -> Iterator[Tokens]:
    issued = Answer(200, b'{"access_token":"t"}')
    with serving(lambda _: issued, tls=context_of("auth.example")) as tokens:
        challenge = 'Bearer realm="https://auth.example/token",service="s&x", scope="repository:other:*"'
        with serving(wanting(challenge), tls=context_of("registry.example")) as registry:
            believe(tokens)
            believe(registry)
            names["auth.example:443"], names["registry.example:443"] = tokens.host, registry.host
            yield Tokens(registry, tokens)


def test_a_token_server_of_another_name_gets_no_login_unless_it_is_named(two: Tokens) -> None:
    place, known = "oci://registry.example/hello:1", docker_config("registry.example")
    assert read_published(place, environ=known).envelope == ENVELOPE
    (request,) = two.tokens.requests
    assert "authorization" not in request.headers
    assert request.path == "/token?service=s%26x&scope=repository%3Ahello%3Apull"
    registry = Registry(Reference.parse(place), Access(environ=known, token_hosts=("auth.example",)))
    assert registry.manifest("1", media_type=MANIFEST_TYPE, limit_bytes=9999) is not None
    assert two.tokens.requests[1].headers["authorization"] == f"Basic {BASIC}"


def test_who_is_refused_after_all_is_told_that_the_login_was_not_sent(two: Tokens) -> None:
    two.tokens.answer = lambda _: Answer(403, b"{}")
    with pytest.raises(ChannelError, match="token: expected status 200, got 403") as refused:
        read_published("oci://registry.example/hello:1", environ=docker_config("registry.example"))
    assert refused.value.hint == (
        "the login was not sent to the token server auth.example; if it is the registry's own, pass "
        "--token-host auth.example"
    )


def test_a_token_that_has_expired_is_renewed(two: Tokens) -> None:
    valid = iter("abcde")
    current = [""]

    def issue(_request: Request) -> Answer:
        current[0] = next(valid)
        return Answer(200, json.dumps({"token": current[0]}).encode())

    def once(request: Request) -> Answer:
        if request.headers.get("authorization") != f"Bearer {current[0]}" or not current[0]:
            challenge = 'Bearer realm="https://auth.example/token"'
            return Answer(401, b"{}", headers={"WWW-Authenticate": challenge})
        current[0] = ""  # good for one request
        return Shelf()(request)

    two.tokens.answer, two.registry.answer = issue, once
    assert read_published("oci://registry.example/hello:1").envelope == ENVELOPE
    assert len(two.tokens.requests) == 1 + len(FILES)  # the manifest, and each file


TOKENS = {
    "none": (b"{}", "token: expected one of visible characters"),
    "a list": (b"[]", "token: expected one of visible characters"),
    "with a line end": (b'{"token":"a\\r\\nX-Evil: 1"}', "token: expected one of visible characters"),
    "with a space": (b'{"token":"a b"}', "token: expected one of visible characters"),
    "a number": (b'{"token":7}', "token: expected one of visible characters"),
    "too long": (b'{"token":"%s"}' % (b"a" * 16385), "token: expected one of visible characters"),
    "no JSON": (b"token", "token: not JSON"),
    "endless": (b"x" * ((1 << 16) + 1), "expected at most 65536 bytes"),
}


@pytest.mark.parametrize("name", TOKENS)
def test_a_token_that_is_none_is_refused(name: str, two: Tokens) -> None:
    body, said = TOKENS[name]
    two.tokens.answer = lambda _: Answer(200, body)
    with pytest.raises(ChannelError, match=said):
        read_published("oci://registry.example/hello:1")


REALMS = {
    "plain http": "http://auth.example/token",
    "another port of this machine": "http://127.0.0.1:1/token",
    "a file": "file:///etc/hostname",
    "a name and password": "https://a:b@auth.example/token",
    "no host": "https:///token",
    "no address": "https://[::1/token",
    "a fragment": "https://auth.example/token#x",
}


@pytest.mark.parametrize("name", REALMS)
def test_a_login_goes_to_no_token_server_without_tls(name: str, names: dict[str, str]) -> None:
    with serving(wanting(f'Bearer realm="{REALMS[name]}"')) as server:
        with pytest.raises(ChannelError, match=r"expected (a token server|the address|an address)"):
            read_published(
                f"oci://{server.host}/hello:1", plain_http=True, environ=docker_config(server.host)
            )
        assert not [request for request in server.requests if "authorization" in request.headers]


@pytest.mark.parametrize("host", ["10.0.0.1", "localhost", "printer", "x.localhost", "[fd00::1]"])
def test_a_public_registry_sends_nobody_to_machines_that_only_he_can_reach(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def answer(method: str, url: str, **_options: object) -> Reply:
        asked.append(url)
        headers = Message()
        headers["WWW-Authenticate"] = f'Bearer realm="https://{host}/token"'
        return Reply(401, headers, b"{}")

    monkeypatch.setattr(registry, "exchange", answer)
    with pytest.raises(ChannelError, match="expected a token server with a public name"):
        read_published("oci://registry.example/hello:1")
    assert [url for url in asked if "registry.example" not in url] == []


def test_a_login_is_tried_once(names: dict[str, str]) -> None:
    with serving(lambda _: Answer(401, b"{}", headers={"WWW-Authenticate": "Basic"})) as server:
        with pytest.raises(ChannelError, match="expected status 200, got 401") as refused:
            read_published(
                f"oci://{server.host}/hello:1", plain_http=True, environ=docker_config(server.host)
            )
        assert len(server.requests) == 2
    assert BASIC not in f"{refused.value.message}{refused.value.hint}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Digest realm=x",
        "Bearer",
        "Bearer realm=",
        'Bearer realm="x" service="y"',
        'Bearer realm="x",realm="y"',
        'Bearer realm="x",',
        'Bearer realm="x\\"y"',
        'Bearer service="y"',
        'Bearer realm=""',
        'Bearer realm="x"' + "," * 5000,
        "Basicrealm=x",
    ],
)
def test_a_challenge_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ChannelError, match="expected "):
        parse_challenge(text, host="h")


def test_challenges_of_real_registries() -> None:
    assert not parse_challenge('Basic realm="Registry Realm"', host="h").bearer
    found = parse_challenge(
        'Bearer realm="https://auth.example/token", service="registry.example" ,scope="repository:a:pull"',
        host="h",
    )
    assert (found.realm, found.service) == ("https://auth.example/token", "registry.example")
    assert parse_challenge("bearer realm=https", host="h").realm == "https"


def test_where_a_login_is_found(tmp_path: Path) -> None:
    config = tmp_path / ".docker" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps({"auths": {"https://h:1/": {"auth": BASIC}}, "credsStore": "evil"}))
    for environ in ({"HOME": str(tmp_path)}, {"DOCKER_CONFIG": str(config.parent), "HOME": "/none"}):
        login = read_login("h:1", environ)
        assert login is not None
        assert login.encoded == BASIC
        assert BASIC not in repr(login)
        for other in ("h", "h:11", "h:1/x", "x.h:1"):
            assert read_login(other, environ) is None
    assert read_login("h:1", {}) is None
    assert read_login("h:1", {"HOME": "relative"}) is None
    assert read_login("h:1", docker_config("other") | {"HOME": str(tmp_path)}) is None


def test_a_helper_that_a_configuration_names_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = tmp_path / "docker-credential-evil"
    helper.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    text = json.dumps({"auths": {"h": {}}, "credsStore": "evil", "credHelpers": {"h": "evil"}})
    assert read_login("h", {"DOCKER_AUTH_CONFIG": text}) is None
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "[]",
        '{"auths":[]}',
        '{"auths":{"h":{"auth":"*"}}}',
        '{"auths":{"h":{"auth":7}}}',
        '{"auths":{"h":{"auth":"YQ=="}}}',
        '{"auths":{"h":{"auth":"OnB3"}}}',
    ],
)
def test_a_configuration_that_is_none_is_named_and_not_shown(text: str) -> None:
    with pytest.raises(UsageError, match="DOCKER_AUTH_CONFIG: ") as refused:
        read_login("h", {"DOCKER_AUTH_CONFIG": text})
    assert "YQ==" not in refused.value.message


# --- pushing


def taking(location: str, *, kept: bytes | None = None) -> Callable[[Request], Answer]:
    """A registry that takes uploads where it says, and shows `kept` as the manifest."""
    seen: dict[str, bytes] = {}

    def answer(request: Request) -> Answer:
        if request.method == "POST":
            return Answer(202, headers={"Location": location})
        if request.method == "PUT":
            seen[request.path] = request.body
            return Answer(201)
        if "/manifests/" in request.path:
            return Answer(200, kept if kept is not None else seen[request.path], kind=MANIFEST_TYPE)
        return Answer(404)

    return answer


@pytest.mark.parametrize("kept", [True, False])
def test_who_keeps_the_list_of_what_is_attached(kept: bool) -> None:
    owner = publisher()
    release = Published(owner.envelope, owner.release, None, None, (), "here")
    shelf, seen = attached(), {}

    def answer(request: Request) -> Answer:
        if request.method == "PUT":
            seen[request.path.rpartition("/")[2]] = request.body
            return Answer(201, headers={"OCI-Subject": sha256(IMAGE)} if kept else {})
        if request.method == "POST":
            return Answer(202, headers={"Location": "up"})
        name = request.path.rpartition("/")[2]
        if name in seen:
            kind = INDEX_TYPE if name.startswith("sha256-") else MANIFEST_TYPE
            return Answer(200, seen[name], kind=kind)
        return Answer(404) if "sha256-" in name else shelf(request)

    with serving(answer) as server:
        place = Reference.parse(f"oci://{server.host}/hello:1")
        subject = Reference.parse(f"oci://h/x@{sha256(IMAGE)}").digest
        pushed = push_published(release, place, Access(plain_http=True), subject=subject)
    assert (pushed.listed is None) == kept
    assert (f"sha256-{sha256(IMAGE)[7:]}" in seen) == (not kept)


@pytest.mark.parametrize("location", ["up?state=1", "/v2/hello/blobs/uploads/1", "https://h"])
def test_an_upload_stays_at_the_registry(location: str, names: dict[str, str]) -> None:
    with serving(taking(location)) as server:
        place = Reference.parse(f"oci://{server.host}/hello:1")
        if location != "https://h":
            pushed = push_image({"a.efi": b"MZ"}, place, Access(plain_http=True))
            assert pushed.digest is not None
            (first, *_) = [request for request in server.requests if request.method == "PUT"]
            sign = "&" if "?" in location else "?"
            assert first.path.endswith(f"{location}{sign}digest={sha256(b'{}')}")
            return
        with pytest.raises(ChannelError, match="expected to upload to http://127"):
            push_image({"a.efi": b"MZ"}, place, Access(plain_http=True))
        assert not [request for request in server.requests if request.method == "PUT"]


def test_a_registry_that_keeps_something_else_is_not_believed() -> None:
    with serving(taking("up", kept=b"{}")) as server:
        with pytest.raises(ChannelError, match="expected what was pushed, got something else"):
            push_image(
                {"a.efi": b"MZ"}, Reference.parse(f"oci://{server.host}/hello:1"), Access(plain_http=True)
            )


@pytest.mark.parametrize(
    "shown",
    [
        Answer(200, b"another", kind=MANIFEST_TYPE),
        Answer(200, b"subject", kind="text/html"),
        Answer(200, bytes((4 << 20) + 1), kind=MANIFEST_TYPE),
        Answer(404),
    ],
)
def test_what_a_release_is_attached_to_is_what_was_named(shown: Answer) -> None:
    owner = publisher()
    files = Published(owner.envelope, owner.release, None, None, (), "here")
    with serving(lambda _: shown) as server:
        place = Reference.parse(f"oci://{server.host}/hello:1")
        with pytest.raises(ChannelError, match=r"expected (a manifest with this digest|at most|status 200)"):
            push_published(files, place, Access(plain_http=True), subject=Digest.sha256(b"subject"))
        assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_registry_that_refuses_is_quoted(status: int) -> None:
    said = Answer(status, b'{"errors":[{"code":"DENIED","message":"\\u001b"}]}')
    with serving(lambda _: said) as server, pytest.raises(ChannelError, match=f"got {status}"):
        push_image({"a": b""}, Reference.parse(f"oci://{server.host}/hello:1"), Access(plain_http=True))


def test_nothing_is_pushed_over_plain_http_to_another_machine() -> None:
    with pytest.raises(UsageError, match="expected TLS, got --plain-http"):
        push_image({"a": b""}, Reference.parse("oci://registry.example/hello:1"), Access(plain_http=True))


# --- a directory


def test_a_directory_keeps_no_probe_of_an_earlier_release(tmp_path: Path) -> None:
    files = Published(b"manifest", None, None, None, (), "here", b"probe")
    assert write_directory(files, tmp_path) == ("manifest.dsse.json", "probe.dsse.json")
    assert read_published(tmp_path).probe == b"probe"
    assert write_directory(replace(files, probe=None), tmp_path) == ("manifest.dsse.json",)
    assert read_published(tmp_path).probe is None


def test_a_directory_is_served_as_it_lies(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    with static_files(tmp_path) as address:
        served = read_published(address)
    local = read_published(tmp_path)
    assert replace(served, source="") == replace(local, source="")
    assert served.probe == b"a probe"


@pytest.mark.parametrize("kind", ["missing", "fifo", "directory", "too large"])
def test_a_manifest_that_cannot_be_read_is_wrong_usage(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.dsse.json"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "too large":
        path.write_bytes(bytes(MAX_ENVELOPE + 1))
    with pytest.raises(UsageError):
        read_published(tmp_path)
