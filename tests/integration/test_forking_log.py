"""A log that forks, on loopback: real witnesses, files over HTTP, a real client. Each stops it, in words.

The verbs are those that people run; the fork is made by `naive_log` with the log's own key, which is what
somebody has who stole it, or who was made to serve one client another history.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from blindbuild.cli.log_witness import route
from blindbuild.cli.main import main
from blindbuild.client.web import fetch
from blindbuild.errors import BlindbuildError
from blindbuild.formats.note import parse_vkey
from blindbuild.host.clock import unix_time
from blindbuild.host.http_server import serve
from blindbuild.publish import load_key
from blindbuild.publish.witness import MAX_REQUEST, Witness, WitnessKey
from tests.fakes import naive_log
from tests.fakes.log_world import ORIGIN, others
from tests.fakes.naive_log import LOG, Key
from tests.fakes.published import Publisher

PROGRAM = Path(sys.executable).parent / "blindbuild"


@dataclass
class Done:
    """What a run printed, and what a person then reads on stderr."""

    stdout: str
    stderr: str


@dataclass
class Place:
    """A directory with keys, releases, a log, and the addresses of who serves."""

    root: Path
    vkey: str = ""
    policy: Path = Path()

    def run(self, *words: str, code: int = 0) -> Done:
        done = CliRunner().invoke(main, words, env={"COLUMNS": "300"})
        error = done.exception
        shown = f"{error.message}\n{error.hint}" if isinstance(error, BlindbuildError) else ""
        got = error.exit_code if isinstance(error, BlindbuildError) else done.exit_code
        assert got == code, (done.output, shown, error)
        return Done(done.stdout, done.stderr + shown)

    def release(self, name: str) -> Publisher:
        """A release with keys of its own: another envelope over the same statement."""
        made = Publisher()
        (self.root / name).mkdir()
        (self.root / name / "manifest.dsse.json").write_bytes(made.envelope)
        return made

    def log_key(self) -> Key:
        key = load_pem_private_key((self.root / "log.key").read_bytes(), password=None)
        return Key(ORIGIN, LOG, key)

    def verify(self, name: str, *more: str, code: int = 0) -> Done:
        return self.run("log", "verify", name, "--policy", "policy.txt", *more, code=code)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args) -> None:
        pass


@contextlib.contextmanager
def served(directory: Path) -> Iterator[str]:
    """Serve a directory with a web server that knows nothing about logs."""
    handler = functools.partial(_Quiet, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def witness(place: Place, name: str) -> Iterator[str]:
    """Run a witness behind its HTTP server; give its line in a policy."""
    key = WitnessKey.of(f"{name}.example", load_key((place.root / f"{name}.key").read_bytes()))
    made = Witness(place.root / f"{name}.state", key, [parse_vkey(place.vkey)], clock=unix_time)
    assert made.begin() == (ORIGIN,)
    with serve("127.0.0.1", 0, route(made), max_body=MAX_REQUEST) as address:
        yield f"witness {name} {key.key.text} {address}\n"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A log with two witnesses, of which both must cosign, and two releases in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    place = Place(tmp_path)
    for name in ("log", "w1", "w2"):
        place.run("keygen", "-o", f"{name}.key")
    place.vkey = place.run("log", "init", "log", "--origin", ORIGIN, "--key", "log.key").stdout.strip()
    with served(tmp_path / "log") as address, witness(place, "w1") as one, witness(place, "w2") as two:
        place.policy = tmp_path / "policy.txt"
        place.policy.write_text(f"log {place.vkey} {address}\n{one}{two}group both all w1 w2\nquorum both\n")
        for name in ("first", "second"):
            place.release(name)
            place.run("log", "append", "log", name, "--key", "log.key", "--policy", "policy.txt")
        yield place


def fork(place: Place, entries: list[bytes], index: int, *, cosigned: bool = True) -> None:
    """Serve `victim` a private release, in a history that only it is shown."""
    key = place.log_key()
    text = naive_log.checkpoint_text(ORIGIN, entries)
    lines = [key.sign(text)]
    if cosigned:  # by witnesses that the attacker owns, or none that the policy knows
        lines += [Key.make("evil.example", naive_log.WITNESS).cosign(text, 1_700_000_000)]
    proof = naive_log.proof_file(index, naive_log.path(index, entries), naive_log.note(text, *lines))
    (place.root / "victim" / "manifest.tlog-proof").write_bytes(proof)


def private_release(place: Place) -> list[bytes]:
    made = place.release("victim")
    return [*others(2), naive_log.entry(made.envelope, made.statement)]


def test_a_release_in_a_private_history_is_refused_for_want_of_witnesses(place: Place) -> None:
    place.verify("first")
    fork(place, private_release(place), 2)
    done = place.verify("victim", code=3)
    assert "M12 quorum-missed: expected cosignatures by 2 of w1, w2, got none" in done.stderr


def test_the_witnesses_do_not_cosign_the_private_history(place: Place) -> None:
    entries = private_release(place)
    fork(place, entries, 2)
    # the attacker has the key and a directory of his own, and asks the real witnesses
    files = naive_log.tiles(entries[:2])
    text = naive_log.checkpoint_text(ORIGIN, entries[:2])
    files["checkpoint"] = naive_log.note(text, place.log_key().sign(text))
    for path, data in files.items():
        (place.root / "evil" / path).parent.mkdir(parents=True, exist_ok=True)
        (place.root / "evil" / path).write_bytes(data)
    done = place.run("log", "append", "evil", "victim", "--key", "log.key", "--policy", "policy.txt", code=1)
    assert "w1: it saw another history of this log: the log has forked" in done.stderr
    assert "w2: it saw another history of this log: the log has forked" in done.stderr
    # and the honest log goes on
    place.release("third")
    place.run("log", "append", "log", "third", "--key", "log.key", "--policy", "policy.txt")
    place.verify("third")


def test_a_log_that_was_restored_from_an_old_copy_is_told_so(place: Place) -> None:
    place.run("log", "init", "old", "--origin", ORIGIN, "--key", "log.key")
    place.release("victim")
    done = place.run("log", "append", "old", "victim", "--key", "log.key", "--policy", "policy.txt", code=1)
    assert "it saw 2 entries of this log and this directory has 1" in done.stderr
    assert "the directory is older than what was published" in done.stderr


def test_without_witnesses_the_client_itself_notices_the_fork(place: Place) -> None:
    lines = place.policy.read_text().splitlines()
    place.policy.write_text(f"{lines[0]}\nquorum none\n")
    first = place.verify("second")
    assert "this client alone would notice a log that forks" in first.stderr
    entries = private_release(place)
    fork(place, entries, 2)
    evil = place.root / "evil"  # the attacker also serves files that fit the history he shows
    for path, data in naive_log.tiles(entries).items():
        (evil / path).parent.mkdir(parents=True, exist_ok=True)
        (evil / path).write_bytes(data)
    with served(evil) as address:
        done = place.verify("victim", "--log", address, code=3)
    assert "M13 log-forked" in done.stderr
    assert "expected one history, got two" in done.stderr
    assert "use no release from this log until its owner and its witnesses have explained it" in done.stderr
    kept = [Path(word) for word in done.stderr.split() if word.endswith(".note")]
    assert len(kept) == 2
    key = place.log_key()
    texts = [path.read_text() for path in kept]
    assert texts[0] != texts[1]
    for text in texts:  # each is signed by the log's key: together they prove what it did
        body = text.split("\n\n")[0] + "\n"
        assert key.sign(body) in text
    # a client that was stopped is not taken in: the honest log is still the one it knows
    place.verify("first")


def test_files_that_do_not_fit_are_not_called_a_fork(place: Place) -> None:
    lines = place.policy.read_text().splitlines()
    place.policy.write_text(f"{lines[0]}\nquorum none\n")
    place.verify("second")
    tile = place.root / "log" / "tile" / "0" / "000.p" / "2"
    tile.write_bytes(bytes(64))
    done = place.verify("first", code=3)
    assert "M13 log-unreachable" in done.stderr
    assert "its files do not lead to its signed checkpoint of 2 entries" in done.stderr
    done = place.verify("first", "--log", "http://127.0.0.1:9", code=3)
    assert "M13 log-unreachable" in done.stderr
    assert "cannot be reached" in done.stderr


def test_the_owner_is_told_of_a_release_that_he_did_not_make(place: Place) -> None:
    made = place.release("stolen")
    monitor = ("log", "monitor", "--policy", "policy.txt", "--product", "hello")
    known = ("--known", "first", "--known", "second")
    place.run(*monitor, *known)
    place.run("log", "append", "log", "stolen", "--key", "log.key", "--policy", "policy.txt")
    done = place.run(*monitor, *known, code=3)
    assert (
        "L2 unknown-release: expected releases of hello that are on your list, got 1 others: entry 2"
        in done.stderr
    )
    assert "somebody else used a release key: revoke it" in done.stderr
    done = place.run(*monitor, *known, "--json", code=3)
    report = json.loads(done.stdout)
    assert [release["known"] for release in report["releases"]] == [True, True, False]
    assert report["size"] == 3
    # of another product, nothing is his
    place.run("log", "monitor", "--policy", "policy.txt", "--product", "other")
    # and what he finds to be his own is known from then on
    digest = hashlib.sha256(made.envelope).hexdigest()
    (place.root / "list.txt").write_text(f"# mine\n{digest} the third\n")
    place.run(*monitor, *known, "--known-list", "list.txt")


def test_the_owner_is_told_what_a_monitor_of_this_log_cannot_see(place: Place) -> None:
    monitor = ("log", "monitor", "--policy", "policy.txt", "--product", "hello", "--known", "first")
    monitor += ("--known", "second")
    done = place.run(*monitor, "--max-age-days", "1")
    assert "warning" not in done.stderr
    # a release that is logged elsewhere is accepted by the same clients
    other = Key.make("elsewhere.example/log", LOG).vkey
    place.policy.write_text(f"log {other}\n{place.policy.read_text()}".replace("quorum both", "quorum none"))
    done = place.run(*monitor, "--json")
    warnings = json.loads(done.stdout)["warnings"]
    assert [warning.partition(":")[0] for warning in warnings] == [
        "clients also accept releases from elsewhere.example/log, which is not read here",
        "the log's policy asks for no witness",
        "cosignatures of any age count",
    ]


def test_the_owner_is_told_when_his_log_is_shown_shorter_or_with_other_entries(place: Place) -> None:
    monitor = (
        "log",
        "monitor",
        "--policy",
        "policy.txt",
        "--product",
        "hello",
        "--known",
        "first",
        "--known",
        "second",
    )
    old = (place.root / "log" / "checkpoint").read_bytes()
    place.release("third")
    place.run("log", "append", "log", "third", "--key", "log.key", "--policy", "policy.txt")
    place.run(*monitor, "--known", "third")
    newest = (place.root / "log" / "checkpoint").read_bytes()
    (place.root / "log" / "checkpoint").write_bytes(old)
    done = place.run(*monitor, code=3)
    assert "M13 log-shrank" in done.stderr
    assert "serves an old copy, or hides what was released since" in done.stderr
    (place.root / "log" / "checkpoint").write_bytes(newest)
    entries = place.root / "log" / "tile" / "entries" / "000.p" / "3"
    entries.write_bytes(entries.read_bytes().replace(b'"sequence":42', b'"sequence":41', 1))
    done = place.run(*monitor, "--known", "third", code=3)
    assert "L1 entries-differ" in done.stderr


def test_what_the_owner_cannot_read_is_said_and_never_taken_for_nothing(place: Place) -> None:
    monitor = ("log", "monitor", "--policy", "policy.txt", "--product", "hello", "--known", "first")
    monitor += ("--known", "second")
    place.run(*monitor)
    place.release("third")
    place.run("log", "append", "log", "third", "--key", "log.key", "--policy", "policy.txt")
    (place.root / "log" / "tile" / "entries" / "000.p" / "3").unlink()
    done = place.run(*monitor, code=3)
    assert "L1 log-unreachable: expected every entry: the log has no tile/entries/000.p/3" in done.stderr
    (place.root / "log" / "tile" / "0" / "000.p" / "3").unlink()
    done = place.run(*monitor, code=3)
    assert "M13 log-unreachable: the log has no tile/0/000.p/3" in done.stderr
    assert "internal-error" not in done.stderr


def test_a_cosigned_log_is_not_appended_to_without_its_witnesses(place: Place) -> None:
    place.release("third")
    done = place.run("log", "append", "log", "third", "--key", "log.key", code=2)
    assert "witnesses cosigned this log's last checkpoint" in done.stderr


def test_a_release_is_logged_on_the_channel_that_it_says_itself(place: Place) -> None:
    made = place.release("third")
    (place.root / "third" / "release.dsse.json").write_bytes(made.release)
    words = ("log", "append", "log", "third", "--key", "log.key", "--policy", "policy.txt")
    done = place.run(*words, "--channel", "beta", code=2)
    assert "expected a release on channel beta, got one on stable" in done.stderr
    assert "pass --channel stable" in done.stderr
    place.run(*words)


def test_the_verb_witness_runs_until_it_is_stopped_and_remembers(place: Place) -> None:
    program = Path(sys.executable).parent / "blindbuild"
    place.run("keygen", "-o", "w3.key")
    words = ("log", "witness", "--key", "w3.key", "--name", "w3.example", "--log", place.vkey)
    line = place.run("log", "key", "--key", "w3.key", "--name", "w3.example", "--witness").stdout.strip()
    for first in (True, False):
        process = subprocess.Popen(
            [program, *words, "--state", "w3.state", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        policy = f"log {place.vkey} {place.root}/log\nwitness w3 {line} {address}\nquorum w3\n"
        (place.root / "three.txt").write_text(policy)
        place.run("log", "append", "log", "second", "--key", "log.key", "--policy", "three.txt")
        place.run("log", "verify", "second", "--policy", "three.txt")
        place_of_it = f"{address}/{hashlib.sha256(ORIGIN.encode()).hexdigest()}/checkpoint"
        assert b"w3.example" in (fetch(place_of_it, limit_bytes=4096) or b"")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0
        assert (f"first use of {ORIGIN}" in errors) == first
        assert line in errors


def test_the_server_of_a_witness_bounds_what_it_reads(place: Place) -> None:
    with witness(place, "log") as line:  # any key will do
        address = line.split()[-1].removeprefix("http://")
        host, port = address.split(":")
        cases = {
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n": b" 411 ",
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n": b" 413 ",
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\n": b" 411 ",
            b"POST /add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc": b" 400 ",
            b"POST /other HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n": b" 404 ",
            b"GET /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n": b" 404 ",
            b"GET /../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n": b" 404 ",
            b"GET /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nPUT ": b" 404 ",
            b"PUT /add-checkpoint HTTP/1.1\r\nHost: x\r\n\r\n": b" 501 ",
        }
        for request, status in cases.items():
            with socket.create_connection((host, int(port)), timeout=10) as stream:
                stream.sendall(request)
                assert status in stream.recv(4096).split(b"\r\n")[0] + b" "
        # many that say nothing do not keep an honest one out for long
        silent = [socket.create_connection((host, int(port))) for _ in range(50)]
        with socket.create_connection((host, int(port)), timeout=10) as stream:
            stream.sendall(next(iter(cases)))
            assert b" 411 " in stream.recv(4096)
        for one in silent:
            one.close()
