"""A client whose policy wants the release in a transparency log: `verify` and `call` with --require-log."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import judging
from blindbuild.cli.main import main
from blindbuild.client import Expectation
from blindbuild.client.log_memory import LogMemory
from blindbuild.errors import UsageError, VerificationError
from tests.fakes import naive_log
from tests.fakes.attester import Attester, Server
from tests.fakes.log_world import LOG_KEY, ORIGIN, WITNESSES, Shown, others, our_entry, policy_text
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.world import authority, publisher, tpm

ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
FORK = Shown(entries=[*others(2, 70), our_entry(), *others(9, 80)], index=2)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published image directory with trust file, log proof and log policy."""
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    place = tmp_path / "image"
    place.mkdir()
    (place / "manifest.dsse.json").write_bytes(publisher().envelope)
    (place / "release.dsse.json").write_bytes(publisher().release)
    (place / "trust.json").write_bytes(publisher().trust(**ROOTS))
    (place / "manifest.tlog-proof").write_bytes(Shown().proof)
    (place / "policy.txt").write_bytes(policy_text())
    return place


@pytest.fixture
def server() -> Iterator[Server]:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as running:
        yield running


def judged(verb: str, server: Server, image: Path, *more: str) -> Result:
    target = server.url if verb == "verify" else f"{server.url}/v1/hello"
    words = [verb, target, "--manifest", str(image), "--trust", str(image / "trust.json"), "--allow-test-tpm"]
    words += ["--state", str(image.parent / "state"), "--require-log", str(image / "policy.txt"), *more]
    return CliRunner().invoke(main, words, env={"COLUMNS": "300"})


def memory(image: Path) -> LogMemory:
    return LogMemory(image.parent / "state" / "logs")


def test_a_logged_release_is_accepted_and_the_log_remembered(image: Path, server: Server) -> None:
    done = judged("verify", server, image, "--json")
    assert done.exit_code == 0, done.output
    steps = {step["id"]: step for step in json.loads(done.stdout)["steps"]}
    assert steps["M12"]["outcome"] == "ok"
    assert steps["M12"]["detail"] == f"entry 3 of 11 in log {ORIGIN}, cosigned by w1, w2, w3"
    assert steps["M13"]["outcome"] == "skipped"
    assert memory(image).read(ORIGIN) == Shown().checkpoint
    done = judged("call", server, image, "-d", "x")
    assert done.exit_code == 0, done.output


def test_without_asking_there_is_no_such_step(image: Path, server: Server) -> None:
    words = ["--manifest", str(image), "--trust", str(image / "trust.json"), "--allow-test-tpm", "--json"]
    words += ["--state", str(image.parent / "state")]
    done = CliRunner().invoke(main, ["verify", server.url, *words])
    assert done.exit_code == 0
    assert not {"M12", "M13"} & {step["id"] for step in json.loads(done.stdout)["steps"]}


@pytest.mark.parametrize("verb", ["verify", "call"])
@pytest.mark.parametrize(
    ("proof", "expected"),
    [
        (None, "log-proof-missing"),
        (b"x", "log-proof-malformed"),
        (Shown(lines=[naive_log.Key.make("x", 1).sign(Shown().body)]).proof, "log-signature-missing"),
        (Shown(entries=others(5)).proof, "not-in-log"),
    ],
)
def test_a_release_that_is_not_shown_to_be_logged_is_refused_before_the_server_is_asked(
    image: Path, server: Server, verb: str, proof: bytes | None, expected: str
) -> None:
    path = image / "manifest.tlog-proof"
    if proof is None:
        path.unlink()
    else:
        path.write_bytes(proof)
    error = judged(verb, server, image).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("M12", expected)
    assert server.connections == 0
    assert memory(image).read(ORIGIN) is None


def test_a_fork_is_refused_before_the_server_is_asked_and_both_sides_are_kept(
    image: Path, server: Server
) -> None:
    memory(image).record(Shown().checkpoint)
    (image / "manifest.tlog-proof").write_bytes(FORK.proof)
    for path, data in naive_log.tiles(FORK.entries).items():
        (image / "log" / path).parent.mkdir(parents=True, exist_ok=True)
        (image / "log" / path).write_bytes(data)
    error = judged("verify", server, image, "--log", str(image / "log")).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("M13", "log-forked")
    assert error.hint is not None
    assert "both checkpoints are kept" in error.hint
    assert server.connections == 0
    assert len(list((image.parent / "state" / "logs").glob("*.note"))) == 2
    assert memory(image).read(ORIGIN) == Shown().checkpoint


def test_a_fork_beside_a_recorded_session_is_kept_too(image: Path, server: Server) -> None:
    saved = str(image / "session.json")
    assert judged("verify", server, image, "--save", saved).exit_code == 0
    (image / "manifest.tlog-proof").write_bytes(FORK.proof)
    for path, data in naive_log.tiles(FORK.entries).items():
        (image / "log" / path).parent.mkdir(parents=True, exist_ok=True)
        (image / "log" / path).write_bytes(data)
    words = ["verify", saved, "--recorded", "--manifest", str(image), "--trust", str(image / "trust.json")]
    words += ["--allow-test-tpm", "--state", str(image.parent / "state"), "--log", str(image / "log")]
    done = CliRunner().invoke(main, [*words, "--require-log", str(image / "policy.txt")])
    assert isinstance(done.exception, VerificationError)
    assert "M13 log-forked" in done.exception.message
    assert "both checkpoints are kept" in done.stderr
    assert len(list((image.parent / "state" / "logs").glob("*.conflict-*"))) == 1


def test_a_clock_that_ticks_makes_no_first_use_of_a_log_that_is_remembered(
    image: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # cosigned one second too far ahead: refused when memory is read, and good when M12 looks a second later
    ticks = itertools.count(NOW)
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: next(ticks)))
    memory(image).record(Shown().checkpoint)
    lines = [LOG_KEY.sign(FORK.body), *(key.cosign(FORK.body, NOW + 61) for key in WITNESSES)]
    (image / "manifest.tlog-proof").write_bytes(FORK.but(lines=lines).proof)
    error = judged("verify", server, image).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("M12", "cosignature-in-future")
    assert server.connections == 0
    assert memory(image).read(ORIGIN) == Shown().checkpoint


def test_options_of_a_log_without_a_policy_are_wrong_usage(image: Path, server: Server) -> None:
    words = ["verify", server.url, "--manifest", str(image), "--trust", str(image / "trust.json")]
    done = CliRunner().invoke(main, [*words, "--log", "somewhere"])
    assert isinstance(done.exception, UsageError)
    (image / "policy.txt").write_bytes(policy_text("quorum nobody\n"))
    error = judged("verify", server, image).exception
    assert isinstance(error, UsageError)
    assert "line 7: expected a witness or group of a line above" in error.message


def test_a_log_that_cannot_be_compared_is_said_and_witnesses_are_enough(image: Path, server: Server) -> None:
    memory(image).record(Shown(entries=Shown().entries[:5]).checkpoint)
    done = judged("verify", server, image, "--log", "http://127.0.0.1:9")
    assert done.exit_code == 0, done.output
    assert "was not compared with what was seen of it before: http://127.0.0.1:9" in done.stderr
