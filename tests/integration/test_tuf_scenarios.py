"""A publisher, a CDN, thieves and a client on loopback: what the person in front of it reads.

The repository is served by a web server that knows nothing about TUF; the server that is judged keeps every
byte that it is sent.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from blindbuild.cli import judging
from blindbuild.cli.main import run
from blindbuild.client import Expectation, tuf
from blindbuild.client.published import Published
from blindbuild.client.tuf import TufRepository
from blindbuild.client.tuf_memory import TufMemory
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.manifest import parse_trust
from blindbuild.publish import TrustContent, generate_key, make_trust, sign_payload
from blindbuild.publish.sign import add_signature
from blindbuild.publish.tuf_content import NewRelease, release_named
from blindbuild.publish.tuf_metadata import DAY_S, RoleKeys, RootPlan
from blindbuild.publish.tuf_publisher import TufPublisher
from tests.bad_inputs import refusing
from tests.fakes.attester import Attester
from tests.fakes.published import NOW, STATEMENT_TYPE, Publisher, honest_boot, log_bytes
from tests.fakes.recording_server import RecordingServer
from tests.fakes.world import authority, publisher, tpm

SECRET = "the patient's name"
ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


@dataclass
class Clock:
    now: int = NOW

    def __call__(self) -> float:
        return float(self.now)


@dataclass
class Cdn:
    """Serves a directory; it may keep old copies of some files, or answer something else."""

    origin: Path
    url: str = ""
    kept: dict[str, bytes] = field(default_factory=dict)
    endless: str = ""
    asked: list[str] = field(default_factory=list)

    def keep(self, *names: str) -> None:
        """From now on serve these files, or all, as they are now."""
        for path in [path for path in self.origin.rglob("*") if path.is_file()]:
            name = str(path.relative_to(self.origin))
            if not names or name in names:
                self.kept[name] = path.read_bytes()


class Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, cdn: Cdn, *arguments: object) -> None:
        self.cdn = cdn
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        name = self.path.removeprefix("/tuf/")
        self.cdn.asked.append(name)
        if self.cdn.endless and name == self.cdn.endless:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b" " * 65536)
            return
        path = self.cdn.origin / name
        data = self.cdn.kept.get(name) or (path.read_bytes() if path.is_file() else None)
        self.send_response(404 if data is None else 200)
        self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, *_arguments: object) -> None:
        pass


@contextlib.contextmanager
def cdn_of(origin: Path) -> Iterator[Cdn]:
    cdn = Cdn(origin)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, cdn))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    cdn.url = f"http://127.0.0.1:{server.server_address[1]}/tuf"
    try:
        yield cdn
    finally:
        server.shutdown()
        server.server_close()


class House:
    """A publisher whose two release keys must both sign."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path, self.clock = path, clock
        self.roots = [generate_key() for _ in range(2)]
        self.releases = [publisher().key, generate_key()]
        self.online = generate_key()
        self.tuf.init(
            RootPlan(
                root=RoleKeys(tuple(key.public for key in self.roots), 2),
                targets=RoleKeys(tuple(key.public for key in self.releases), 2),
                snapshot=RoleKeys((self.online.public,)),
                timestamp=RoleKeys((self.online.public,)),
            ),
            self.everybody,
        )

    @property
    def tuf(self) -> TufPublisher:
        return TufPublisher(self.path, now=self.clock.now)

    @property
    def everybody(self) -> list:
        return [*self.roots, *self.releases, self.online]

    def add(self, published: Publisher, *, keys: list | None = None, signers: list | None = None) -> bool:
        first, *more = self.releases if keys is None else keys
        envelope = sign_payload(first, STATEMENT_TYPE, published.statement)
        for key in more:
            envelope = add_signature(key, envelope, STATEMENT_TYPE)
        release = NewRelease(Published(envelope, None, None, None, (), "here"))
        who = self.everybody if signers is None else signers
        return self.tuf.add([release], who, channel="stable").published


@dataclass
class Person:
    """Somebody with the program and a trust file that pins the repository, and nothing else."""

    place: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def calls(self, url: str) -> tuple[int, str]:
        words = ["call", f"{url}/v1/hello", "-d", SECRET, "--trust", str(self.place / "trust.json")]
        self.monkeypatch.setattr(sys, "argv", ["blindbuild", *words, "--allow-test-tpm"])
        with pytest.raises(SystemExit) as left:
            run()
        read = self.capsys.readouterr()
        return int(left.value.code or 0), read.out + read.err


@dataclass
class Stage:
    house: House
    cdn: Cdn
    clock: Clock
    person: Person
    server: RecordingServer

    def answered(self) -> None:
        code, screen = self.person.calls(self.server.url)
        assert code == 0, screen
        assert f"hello, {SECRET}" in screen

    def refused(self, reason: str, *words: str) -> str:
        """The person is told, in three sentences, and the server was not even asked."""
        visits = len(self.server.visits)
        code, screen = self.person.calls(self.server.url)
        assert code == 3, screen
        places = [screen.find(start) for start in ("what happened: ", "what it means: ", "what to do: ")]
        assert -1 not in places
        assert places == sorted(places)
        for word in words:
            assert word in screen, screen
        assert len(self.server.visits) == visits
        with pytest.raises(VerificationError) as caught:
            self.client().follow()
        assert caught.value.reason == reason
        return screen

    def client(self) -> TufRepository:
        memory = TufMemory(self.person.place / "state" / "blindbuild" / "trust" / "tuf")
        trust = parse_trust((self.person.place / "trust.json").read_bytes())
        return TufRepository(trust, memory=memory, clock=self.clock)


@pytest.fixture
def stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Stage]:
    clock = Clock()
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=clock))
    monkeypatch.setattr(tuf, "TufRepository", partial(TufRepository, clock=clock))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("NO_COLOR", "1")
    house = House(tmp_path / "repo", clock)
    house.add(publisher())
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with cdn_of(tmp_path / "repo") as cdn, RecordingServer(attester) as server:
        trust = TrustContent(
            product="hello",
            tuf_root=(tmp_path / "repo" / "metadata" / "1.root.json").read_bytes(),
            tuf_repository=cdn.url,
            **ROOTS,
        )
        (tmp_path / "trust.json").write_bytes(make_trust(trust))
        yield Stage(house, cdn, clock, Person(tmp_path, monkeypatch, capsys), server)


def next_release(sequence: int = 43) -> Publisher:
    return publisher().but(sequence=sequence, version="1.0.1")


def test_a_trust_file_is_all_that_a_client_needs(stage: Stage) -> None:
    stage.answered()
    assert "metadata/timestamp.json" in stage.cdn.asked
    stage.cdn.asked.clear()
    stage.answered()
    # what is known already is not fetched again
    assert not any(name.endswith(("snapshot.json", "targets.json")) for name in stage.cdn.asked)


# --- a CDN that serves what is old


def test_a_cdn_with_an_old_copy_of_everything_is_noticed_by_who_saw_the_new_one(stage: Stage) -> None:
    stage.answered()
    stage.cdn.keep()
    old = dict(stage.cdn.kept)
    stage.cdn.kept.clear()
    stage.house.tuf.refresh([stage.house.online])
    stage.answered()
    stage.cdn.kept = old
    screen = stage.refused(
        "rollback", "is out of date", "a cache, a CDN or a mirror holds back what is newer"
    )
    assert "of version 3 or later, as seen before, got 2" in screen


def test_a_cdn_with_a_frozen_timestamp_is_noticed_by_everybody_within_a_day(stage: Stage) -> None:
    stage.cdn.keep()
    stage.house.tuf.withdraw(release_named("hello/stable/42"), stage.house.everybody, reason="vulnerable")
    stage.answered()  # as long as the old timestamp lasts
    stage.clock.now += DAY_S
    stage.house.tuf.refresh([stage.house.online])
    stage.refused("expired", "timestamp.json", "check this computer's clock", "tell the publisher")
    stage.cdn.kept.clear()
    stage.refused("no-release", "it was withdrawn, replaced, or not yet published")


def test_a_cdn_that_mixes_two_states_is_noticed(stage: Stage) -> None:
    stage.cdn.keep("metadata/2.targets.json")
    stage.house.add(next_release())
    # under the name of the new one
    stage.cdn.kept = {"metadata/3.targets.json": stage.cdn.kept["metadata/2.targets.json"]}
    stage.refused("hash-mismatch", "mixed from several states")


def test_a_cdn_that_serves_an_old_manifest_in_place_of_the_new_one_is_noticed(stage: Stage) -> None:
    (old,) = (stage.house.path / "targets").rglob("*.42.dsse.json")
    stage.house.add(next_release())
    (new,) = (stage.house.path / "targets").rglob("*.43.dsse.json")
    stage.cdn.kept = {str(new.relative_to(stage.house.path)): old.read_bytes()[: new.stat().st_size]}
    stage.refused("other-content", "expected")


@pytest.mark.bad_input(56)
def test_a_server_that_never_stops_sending_is_cut_off(stage: Stage) -> None:
    stage.cdn.endless = "metadata/timestamp.json"
    with refusing("expected at most 16384 bytes, got more", ChannelError):
        stage.client().refresh()
    code, _screen = stage.person.calls(stage.server.url)
    assert code == 1  # no verdict
    assert stage.server.visits == []


def test_a_repository_that_is_gone_is_no_verdict_and_no_other_way_is_taken(stage: Stage) -> None:
    stage.answered()
    visits = len(stage.server.visits)
    shutil.rmtree(stage.house.path)
    code, screen = stage.person.calls(stage.server.url)
    assert code == 1
    assert "metadata/timestamp.json: expected the repository's metadata, got nothing there" in screen
    assert len(stage.server.visits) == visits


# --- thieves


def test_a_thief_of_one_of_two_release_keys_gets_nothing_to_clients(stage: Stage) -> None:
    stage.answered()
    stolen, house = stage.house.releases[0], stage.house
    assert not house.add(next_release(), keys=[stolen], signers=[stolen, house.online])
    house.tuf.refresh([house.online])
    stage.answered()
    # he serves what he has signed alone, without asking the tool
    state = house.tuf.files.staged(tuf_targets())
    assert state is not None
    targets = (house.path / "staged" / "targets.json").read_bytes()
    (house.path / "metadata" / "3.targets.json").write_bytes(targets)
    publish_by_force(house, state)
    stage.refused("not-signed", "is not signed as your trust file asks for")


def tuf_targets() -> type:
    from tuf.api.metadata import Targets

    return Targets


def publish_by_force(house: House, targets: object) -> None:
    """Sign snapshot and timestamp over targets that too few have signed."""
    from blindbuild.publish.tuf_metadata import expiry, make_snapshot, make_timestamp, sign, to_bytes

    state = house.tuf.files.state()
    assert state is not None
    end = expiry(house.clock.now, 7)
    snapshot = make_snapshot(
        to_bytes(targets),  # type: ignore[arg-type]
        version=state.snapshot.signed.version + 1,
        targets_version=3,
        expires=end,
    )
    sign(snapshot, [house.online], [state.root.signed])
    timestamp = make_timestamp(
        to_bytes(snapshot),
        version=state.timestamp.signed.version + 1,
        snapshot_version=snapshot.signed.version,
        expires=end,
        now=house.clock.now,
    )
    sign(timestamp, [house.online], [state.root.signed])
    house.tuf.files.write(snapshot)
    house.tuf.files.write_timestamp(timestamp)


def test_after_the_stolen_key_is_rotated_an_old_client_goes_on(stage: Stage) -> None:
    stage.answered()
    house, new = stage.house, generate_key()
    keys = RoleKeys((house.releases[1].public, new.public), 2)
    outcome = house.tuf.rotate(lambda plan: replace(plan, targets=keys), [*house.everybody, new])
    assert not outcome.published
    stage.answered()  # nobody is left without a release meanwhile
    house.releases = [house.releases[1], new]
    assert house.add(publisher())
    stage.answered()
    assert stage.client().refresh().roles["root"].version == 2


def test_an_online_key_that_was_stolen_no_longer_counts_after_the_rotation(stage: Stage) -> None:
    stage.answered()
    house = stage.house
    thief = house.path.parent / "thief"
    shutil.copytree(house.path, thief)
    TufPublisher(thief, now=stage.clock.now).refresh([house.online])
    new = generate_key()
    keys = RoleKeys((new.public,))
    assert house.tuf.rotate(
        lambda plan: replace(plan, snapshot=keys, timestamp=keys), [*house.roots, new]
    ).published
    stage.answered()
    stage.cdn.origin = thief
    stage.refused("not-signed", "or somebody changed it without having enough of the publisher's keys")


# --- withdrawals


def test_a_withdrawal_reaches_a_client_at_its_next_call(stage: Stage) -> None:
    stage.answered()
    stage.house.tuf.withdraw(release_named("hello/stable/42"), stage.house.everybody, reason="vulnerable")
    stage.refused("no-release", "do not go on with an older one")


def test_a_withdrawn_manifest_at_hand_is_refused_with_the_publishers_reason(
    stage: Stage, tmp_path: Path
) -> None:
    manifest = tmp_path / "manifest.dsse.json"
    manifest.write_bytes(stage.client().follow().published.envelope)
    house = stage.house
    house.tuf.withdraw(release_named("hello/stable/42"), house.everybody, reason="vulnerable")
    words = ["call", stage.server.url, "-d", SECRET, "--manifest", str(manifest), "--allow-test-tpm"]
    stage.person.monkeypatch.setattr(
        sys, "argv", ["blindbuild", *words, "--trust", str(tmp_path / "trust.json")]
    )
    with pytest.raises(SystemExit) as left:
        run()
    screen = "".join(stage.person.capsys.readouterr())
    assert left.value.code == 3
    assert "M11 withdrawn" in screen
    assert "it has a known vulnerability" in screen
    assert stage.server.visits == []


def test_a_clock_that_was_set_back_is_told(stage: Stage) -> None:
    stage.answered()
    stage.clock.now -= 3600
    stage.refused("clock-went-back", "this computer's clock shows a time that is over already")


# --- readers while something is published


def test_readers_at_any_moment_see_one_state_or_another(stage: Stage) -> None:
    done = threading.Event()
    failures: list[BaseException] = []
    seen: set[int] = set()

    def read(make: Callable[[], TufRepository]) -> None:
        while not done.is_set():
            try:
                seen.add(make().follow().name.sequence)
            except BaseException as error:
                failures.append(error)
                return

    forgetful = lambda: replace(stage.client(), memory=None)  # noqa: E731
    readers = [threading.Thread(target=read, args=(make,)) for make in (stage.client, forgetful)]
    for reader in readers:
        reader.start()
    for sequence in range(43, 51):
        assert stage.house.add(next_release(sequence))
    done.set()
    for reader in readers:
        reader.join(timeout=60)
    assert failures == []
    assert len(seen) > 1
