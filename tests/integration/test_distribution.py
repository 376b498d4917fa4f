"""One release by three ways: a directory, a web server, Debian's docker-registry. The verdict is the same."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from oras.client import OrasClient

from blindbuild.client import Expectation
from blindbuild.client.log_check import LogCheck
from blindbuild.client.published import Published, read_published
from blindbuild.client.registry import Access
from blindbuild.client.registry_login import read_login
from blindbuild.client.state import StateStore
from blindbuild.digest import Digest
from blindbuild.errors import BuildError, ChannelError, UsageError
from blindbuild.formats.oci import Reference
from blindbuild.formats.tlog_policy import parse_log_policy
from blindbuild.manifest import parse_trust
from blindbuild.manifest.log_entry import log_entry_bytes, log_entry_of
from blindbuild.publish import SigningKey, generate_key, sign_rebuild
from blindbuild.publish.directory import check_publishable, write_directory
from blindbuild.publish.oci import push_image, push_published
from blindbuild.verify import History, Policy
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.log_world import Shown, others, policy_text
from tests.fakes.oci_registry import (
    BASIC,
    PASSWORD,
    Answer,
    Request,
    TokenServer,
    basic_auth,
    call,
    docker_config,
    docker_registry,
    manifest_value,
    naive_push,
    needs_registry,
    serving,
    sha256,
    static_files,
)
from tests.fakes.probed import probe_envelope, probe_value
from tests.fakes.published import NOW, Publisher
from tests.fakes.world import authority, publisher

pytestmark = needs_registry
LOCAL = Access(plain_http=True)
LEDGER = ledger_bytes(closed_ledger())
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


def files_of(owner: Publisher, **more: bytes | None) -> dict[str, bytes]:
    """The files of a release by name; None leaves one out."""
    files = {"manifest.dsse.json": owner.envelope, "release.dsse.json": owner.release}
    files |= {"channels.json": LEDGER, "manifest.tlog-proof": Shown().proof}
    files |= {"probe.dsse.json": probe_envelope(probe_value(owner), owner.key)}
    records = [sign_rebuild(key, owner.statement) for key in rebuilders()]
    files |= {f"rebuilds/{number}.dsse.json": data for number, data in enumerate(records, 1)}
    names = {"release": "release.dsse.json", "ledger": "channels.json", "proof": "manifest.tlog-proof"}
    names |= {"second": "rebuilds/2.dsse.json", "probe": "probe.dsse.json"}
    for key, data in more.items():
        files[names.get(key, "manifest.dsse.json")] = data
    return {name: data for name, data in files.items() if data is not None}


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@contextlib.contextmanager
def by_directory(files: dict[str, bytes], folder: Path, _registry: str) -> Iterator[str]:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    yield str(folder)


@contextlib.contextmanager
def by_web(files: dict[str, bytes], folder: Path, registry: str) -> Iterator[str]:
    with by_directory(files, folder, registry), static_files(folder) as address:
        yield address


@contextlib.contextmanager
def by_oci(files: dict[str, bytes], folder: Path, registry: str) -> Iterator[str]:
    name = sha256(str(folder).encode())[7:27]
    naive_push(registry, name, "1.0.0", files)
    yield f"oci://{registry}/{name}:1.0.0"


WAYS: dict[str, Callable] = {"directory": by_directory, "web": by_web, "oci": by_oci}


@functools.cache
def owner() -> Publisher:
    return publisher_of(LEDGER)


@functools.cache
def rebuilders() -> tuple[SigningKey, SigningKey]:
    return generate_key(), generate_key()


def judged(published: Published, *, history: History | None = None, closed: str = "") -> list[tuple]:
    """Every step before a server is asked, with outcome, reason and what is said."""
    trust = parse_trust(owner().trust(**ROOTS, rebuilders=[key.public for key in rebuilders()]))
    expectation = Expectation(
        envelope=published.envelope,
        release=published.release,
        trust=trust,
        policy=Policy(allow_test_tpm=True, required_closed=frozenset(closed.split()), require_probe=True),
        clock=lambda: NOW,
        ledger=published.ledger,
        log=LogCheck(parse_log_policy(policy_text()), published.log_proof),
        rebuilds=published.rebuilds,
        probe=published.probe,
    )
    if history is not None:
        expectation = replace(expectation, state=_Remembered(history))
    appraisal = expectation.check_publication(now=NOW, log=expectation.required_log(NOW))
    return [(s.id, s.outcome, s.reason, s.detail) for s in appraisal.steps]


class _Remembered(StateStore):
    def __init__(self, history: History) -> None:
        self.history = history

    def read(self, domain: Digest) -> History | None:
        return self.history


@dataclass(frozen=True)
class Case:
    """A publication and what it is refused for; an empty reason is none."""

    files: Callable[[], dict[str, bytes]]
    reason: str = ""
    history: History | None = None
    closed: str = "disk"


def logged(judge: Publisher) -> bytes:
    return Shown(entries=[*others(3), log_entry_bytes(log_entry_of(judge.envelope)), *others(5, 20)]).proof


def release_files(judge: Publisher | None = None, **more: bytes | None) -> dict[str, bytes]:
    made = judge or owner()
    return files_of(made, **{"proof": logged(made), **more})


def stranger() -> Publisher:
    return Publisher(generate_key(), owner().value)


STATEMENT = Digest.sha256(b"another")
CASES = {
    "good": Case(release_files),
    "without a ledger that nobody needs": Case(lambda: release_files(ledger=None), closed=""),
    "signed by a stranger": Case(lambda: release_files(stranger()), "M4:envelope-refused"),
    "one byte changed": Case(
        lambda: release_files(envelope=owner().envelope.replace(b'"sig":"', b'"sig":"A', 1)),
        "M4:envelope-refused",
    ),
    "no envelope at all": Case(lambda: release_files(envelope=b"{}"), "M4:envelope-refused"),
    "a release of another statement": Case(
        lambda: release_files(release=owner().but(sequence=41).release), "M9:release-of-other-statement"
    ),
    "expired": Case(
        lambda: release_files(owner().but(release={"validUntil": "2026-02-01T00:00:00Z"})),
        "M9:release-expired",
    ),
    "no release": Case(lambda: release_files(release=None), "M9:release-missing"),
    "older than before": Case(release_files, "M10:rollback", History(43, STATEMENT, NOW)),
    "another of the same sequence": Case(release_files, "M10:equivocation", History(42, STATEMENT, NOW)),
    "another ledger": Case(lambda: release_files(ledger=LEDGER + b" "), "P2:other-ledger"),
    "no ledger though one is needed": Case(lambda: release_files(ledger=None), "P2:ledger-missing"),
    "no proof": Case(lambda: release_files(proof=None), "M12:log-proof-missing"),
    "no probe": Case(lambda: release_files(probe=None), "P5:probe-missing"),
    "a probe of another release": Case(
        lambda: release_files(probe=files_of(owner().but(sequence=41))["probe.dsse.json"]),
        "P5:probe-of-other-statement",
    ),
    "one rebuilder of two": Case(lambda: release_files(second=None), "M14:too-few-rebuilds"),
    "the same rebuilder twice": Case(
        lambda: release_files(second=release_files()["rebuilds/1.dsse.json"]), "M14:rebuild-repeated"
    ),
    "a proof of something else": Case(
        lambda: release_files(proof=Shown(entries=others(9)).proof), "M12:not-in-log"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_whichever_way_a_release_comes_the_verdict_is_the_same(
    name: str, tmp_path: Path, registry: str
) -> None:
    case = CASES[name]
    verdicts = {}
    for way, serve in WAYS.items():
        with serve(case.files(), tmp_path / way, registry) as place:
            published = read_published(place, plain_http=True)
            verdicts[way] = judged(published, history=case.history, closed=case.closed)
    assert verdicts["directory"] == verdicts["web"] == verdicts["oci"]
    failed = [f"{step}:{reason}" for step, outcome, reason, _ in verdicts["oci"] if outcome.value == "failed"]
    assert failed[:1] == ([case.reason] if case.reason else [])


@pytest.mark.parametrize("way", WAYS)
def test_every_file_comes_as_it_was_published(way: str, tmp_path: Path, registry: str) -> None:
    files = release_files()
    with WAYS[way](files, tmp_path, registry) as place:
        published = read_published(place, plain_http=True)
    beside = (published.envelope, published.release, published.ledger, published.log_proof, published.probe)
    assert list(beside) == list(files.values())[:5]
    assert list(published.rebuilds) == list(files.values())[5:]
    assert len(published.rebuilds) == 2


def test_a_directory_may_name_rebuilders_files_as_it_likes(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / "rebuilds").mkdir(exist_ok=True)
        (tmp_path / f"rebuilds/{name}.dsse.json").write_bytes(name.encode())
    (tmp_path / "manifest.dsse.json").write_bytes(b"x")
    assert read_published(tmp_path).rebuilds == (b"a", b"b")


# --- pushing


def published() -> Published:
    envelope, release, ledger, proof, probe, *records = release_files().values()
    return Published(envelope, release, ledger, proof, tuple(records), "here", probe)


def test_the_same_files_give_the_same_digest_and_are_pulled_again(registry: str) -> None:
    first = push_published(published(), Reference.parse(f"oci://{registry}/same:1"), LOCAL)
    second = push_published(published(), Reference.parse(f"oci://{registry}/elsewhere/same:2"), LOCAL)
    assert first.publication.digest == second.publication.digest
    assert first.listed is None
    pulled = read_published(f"oci://{registry}/same:1", plain_http=True)
    assert pulled == replace(published(), source=str(first.publication))
    assert read_published(str(first.publication), plain_http=True) == pulled


def test_what_is_pushed_says_nothing_of_who_where_and_when(registry: str, tmp_path: Path) -> None:
    pushed = push_published(published(), Reference.parse(f"oci://{registry}/plain:1"), LOCAL)
    client = OrasClient(insecure=True)
    manifest = client.get_manifest(client.get_container(f"{registry}/plain:1"))
    expected = manifest_value(release_files())
    expected["layers"].sort(key=lambda layer: layer["annotations"]["org.opencontainers.image.title"])
    manifest["layers"].sort(key=lambda layer: layer["annotations"]["org.opencontainers.image.title"])
    about = {"org.opencontainers.image.title": "hello", "org.opencontainers.image.version": "1.0.0"}
    assert manifest == expected | {"annotations": about}
    assert pushed.publication.digest is not None


def test_an_independent_client_pulls_a_directory_that_is_judged_the_same(
    registry: str, tmp_path: Path
) -> None:
    push_published(published(), Reference.parse(f"oci://{registry}/oras:1"), LOCAL)
    OrasClient(insecure=True).pull(f"{registry}/oras:1", outdir=str(tmp_path))
    files = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {str(name): path.read_bytes() for name, path in files.items()} == release_files()
    assert replace(read_published(tmp_path), source="here") == published()


def test_files_of_two_releases_are_not_pushed_and_nothing_is_asked(tmp_path: Path) -> None:
    mixed = replace(published(), release=owner().but(sequence=41).release)
    with pytest.raises(BuildError, match=r"release\.dsse\.json: expected sha256:"):
        push_published(mixed, Reference.parse("oci://127.0.0.1:1/x:1"), LOCAL)


MIXED = {
    "envelope": (b"{}", "payloadType: expected a string"),
    "release": (publisher().envelope, "expected payload type application/vnd.blindbuild.release"),
    "ledger": (b"{}", "channels.json: expected sha256:"),
    "log_proof": (b"x", "log proof: expected an empty line"),
    "probe": (publisher().release, "probe.dsse.json: expected payload type"),
    "rebuilds": ((publisher().envelope,), "rebuilds/1.dsse.json: expected payload type"),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_every_client_would_refuse_is_not_published(name: str) -> None:
    bad, said = MIXED[name]
    assert check_publishable(published()).name == "hello"
    with pytest.raises(BuildError, match=said):
        check_publishable(replace(published(), **{name: bad}))


# --- attaching


def test_a_release_is_found_by_the_image_it_is_attached_to(registry: str) -> None:
    image = push_image({"hello.efi": b"MZ", "sbom.cdx.json": b"{}"}, at(registry, "app:1-image"), LOCAL)
    pushed = push_published(published(), at(registry, "app:1"), LOCAL, subject=image.digest)
    assert image.digest is not None
    assert str(pushed.listed) == f"oci://{registry}/app:sha256-{image.digest.hex}"
    found = read_published(str(image), plain_http=True)
    assert found == replace(published(), source=str(pushed.publication))
    again = push_published(published(), at(registry, "app:again"), LOCAL, subject=image.digest)
    assert again.publication.digest == pushed.publication.digest
    assert read_published(str(image), plain_http=True) == found


def test_of_two_attached_releases_none_is_guessed(registry: str) -> None:
    image = push_image({"hello.efi": b"MZ two"}, at(registry, "two:image"), LOCAL)
    push_published(published(), at(registry, "two:1"), LOCAL, subject=image.digest)
    later = replace(published(), log_proof=None)
    second = push_published(later, at(registry, "two:2"), LOCAL, subject=image.digest)
    with pytest.raises(ChannelError, match="expected one publication attached to it, got 2") as refused:
        read_published(str(image), plain_http=True)
    assert str(second.publication.digest) in (refused.value.hint or "")


def test_what_others_attached_stays(registry: str) -> None:
    image = push_image({"hello.efi": b"MZ others"}, at(registry, "others:image"), LOCAL)
    assert image.digest is not None
    theirs = {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": sha256(b"x"), "size": 1}
    theirs |= {"artifactType": "application/theirs", "annotations": {"a": "b"}}
    listing = {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json"}
    digest = naive_push(registry, "others", "theirs", {"x": b"x"})
    theirs["digest"] = digest
    index = json.dumps({**listing, "manifests": [theirs]}).encode()
    address = f"http://{registry}/v2/others/manifests/sha256-{image.digest.hex}"
    call("PUT", address, index, listing["mediaType"])
    push_published(published(), at(registry, "others:1"), LOCAL, subject=image.digest)
    client = OrasClient(insecure=True)
    place = client.get_container(f"{registry}/others:sha256-{image.digest.hex}")
    listed = client.get_manifest(place, allowed_media_type=[listing["mediaType"]])["manifests"]
    assert listed[0] == theirs
    assert listed[1]["artifactType"] == "application/vnd.blindbuild.publication.v1"
    assert len(listed) == 2


def test_nothing_is_attached_to_what_is_not_there(registry: str) -> None:
    missing = Digest.sha256(b"no such manifest")
    with pytest.raises(ChannelError, match="expected status 200, got 404 MANIFEST_UNKNOWN"):
        push_published(published(), at(registry, "nothing:1"), LOCAL, subject=missing)


def at(registry: str, rest: str) -> Reference:
    return Reference.parse(f"oci://{registry}/{rest}")


# --- logins, with the registry's own checks


def test_a_login_by_name_and_password(tmp_path: Path) -> None:
    with docker_registry(tmp_path, auth=basic_auth(tmp_path)) as host:
        with pytest.raises(ChannelError, match="the registry wants a login, and there is none"):
            push_published(published(), at(host, "x:1"), LOCAL)
        known = docker_config(host)
        push_published(published(), at(host, "x:1"), replace(LOCAL, environ=known))
        assert read_published(f"oci://{host}/x:1", plain_http=True, environ=known).release is not None
        wrong = docker_config(host, "YWRhOndyb25n")
        with pytest.raises(ChannelError, match="got 401 UNAUTHORIZED") as refused:
            read_published(f"oci://{host}/x:1", plain_http=True, environ=wrong)
        assert "wrong" not in str(refused.value)


def test_a_token_that_may_push_and_one_that_may_only_pull(tmp_path: Path) -> None:
    tokens = TokenServer(tmp_path)
    with _proxied(tmp_path, tokens) as host:
        known = docker_config(host)
        pushed = push_published(published(), at(host, "a/b:1"), replace(LOCAL, environ=known))
        assert f"Basic {BASIC}" in {authorization for authorization, _ in tokens.seen}
        tokens.seen.clear()
        pulled = read_published(f"oci://{host}/a/b:1", plain_http=True)
        assert pulled.source == str(pushed.publication)
        assert {authorization for authorization, _ in tokens.seen} == {""}
        assert {query for _, query in tokens.seen} == {"service=tests&scope=repository%3Aa%2Fb%3Apull"}
        with pytest.raises(ChannelError, match="got 401"):
            push_published(published(), at(host, "a/b:2"), LOCAL)


@contextlib.contextmanager
def _proxied(folder: Path, tokens: TokenServer) -> Iterator[str]:
    """A registry and its token server behind one address, as a reverse proxy has them."""
    upstream = ""

    def answer(request: Request) -> Answer:
        if request.path.startswith("/token"):
            return tokens.answer(request)
        connection = http.client.HTTPConnection(upstream, timeout=20)
        sent = {key: value for key, value in request.headers.items() if key not in ("host", "connection")}
        connection.request(
            request.method, request.path, request.body or None, {**sent, "Host": request.headers["host"]}
        )
        reply = connection.getresponse()
        kept = {k: v for k, v in reply.getheaders() if k in ("Location", "Www-Authenticate")}
        return Answer(reply.status, reply.read(), reply.headers.get_content_type(), kept)

    with serving(answer) as front:
        tokens.url = f"http://{front.host}/token"
        with docker_registry(folder, auth=tokens.auth) as upstream:
            yield front.host


def test_a_login_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with docker_registry(tmp_path, auth=basic_auth(tmp_path)) as host:
        access = replace(LOCAL, environ=docker_config(host))
        with caplog.at_level("DEBUG"):
            push_published(published(), at(host, "x:1"), access)
    said = f"{access!r} {read_login(host, access.environ)!r} {caplog.text}"
    assert not any(secret in said for secret in (BASIC, PASSWORD))


def test_a_digest_is_nothing_to_publish_under(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected a tag to publish under"):
        push_published(published(), at("127.0.0.1:1", f"x@sha256:{'0' * 64}"), LOCAL)


# --- a directory for web servers


def test_exactly_what_clients_need_is_copied_and_what_is_stale_goes(tmp_path: Path) -> None:
    place = tmp_path / "public"
    assert write_directory(published(), place) == tuple(sorted(release_files()))
    (place / "rebuilds/3.dsse.json").write_bytes(b"of before")
    (place / "index.html").write_bytes(b"mine")
    write_directory(replace(published(), log_proof=None), place)
    names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
    assert names == [
        "channels.json",
        "index.html",
        "manifest.dsse.json",
        "probe.dsse.json",
        "rebuilds/1.dsse.json",
        "rebuilds/2.dsse.json",
        "release.dsse.json",
    ]
    assert replace(read_published(place), source="here") == replace(published(), log_proof=None)
