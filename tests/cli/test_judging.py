"""What `verify` and `call` hold against a server, what they remember, and what they let a terminal see."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import judging
from blindbuild.cli.main import main
from blindbuild.client import Expectation, StateStore
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, UsageError, VerificationError
from blindbuild.verify import CHANNEL_GROUPS, History
from blindbuild.verify.bundle import MAX_BUNDLE
from tests.fakes.attester import Attester, Server
from tests.fakes.channels import but_row, check, closed_ledger, ledger_bytes, publisher_of, without_row
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.software_tpm import QuoteShape
from tests.fakes.world import authority, pinned_trust, publisher, tpm

ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A published image directory with a trust file, at the time for which it was published."""
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    place = tmp_path / "image"
    place.mkdir()
    (place / "manifest.dsse.json").write_bytes(publisher().envelope)
    (place / "release.dsse.json").write_bytes(publisher().release)
    (place / "trust.json").write_bytes(publisher().trust(**ROOTS))
    return place


@pytest.fixture
def server() -> Iterator[Server]:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as running:
        yield running


def judged(verb: str, target: str, image: Path, *more: str) -> Result:
    arguments = (target, "--manifest", str(image), "--trust", str(image / "trust.json"), "--allow-test-tpm")
    return CliRunner().invoke(main, [verb, *arguments, *more], env={"COLUMNS": "200"})


def refusal(result: Result) -> BlindbuildError:
    assert isinstance(result.exception, BlindbuildError), result.output
    return result.exception


# --- memory


@pytest.mark.parametrize("more", [(), ("--no-remember",)])
@pytest.mark.parametrize("verb", ["verify", "call"])
def test_an_older_release_is_refused_whether_or_not_this_run_is_remembered(
    verb: str, more: tuple[str, ...], image: Path, server: Server, tmp_path: Path
) -> None:
    state = StateStore(tmp_path / "state")
    newer = History(10**9, Digest.sha256(b"newer"), NOW)
    state.record(pinned_trust().domain, newer)
    error = refusal(
        judged(
            verb,
            f"{server.url}/v1/hello" if verb == "call" else server.url,
            image,
            "--state",
            str(tmp_path / "state"),
            *more,
        )
    )
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("M10", "rollback")
    assert state.read(pinned_trust().domain) == newer


@pytest.mark.parametrize("verb", ["verify", "call"])
def test_without_remembering_nothing_is_recorded(
    verb: str, image: Path, server: Server, tmp_path: Path
) -> None:
    target = f"{server.url}/v1/hello" if verb == "call" else server.url
    state = ("--state", str(tmp_path / "state"))
    assert judged(verb, target, image, "--no-remember", *state).exit_code == 0
    assert not (tmp_path / "state").exists()
    assert judged(verb, target, image, *state).exit_code == 0
    assert StateStore(tmp_path / "state").read(pinned_trust().domain) is not None


def test_command_line_and_library_share_one_memory(image: Path, server: Server, tmp_path: Path) -> None:
    assert judged("verify", server.url, image).exit_code == 0
    memory = StateStore.default({"XDG_STATE_HOME": str(tmp_path / "xdg")})
    assert memory.read(pinned_trust().domain) is not None


def test_without_history_even_a_newer_release_is_not_held_against_the_demo(image: Path) -> None:
    options = judging.JudgingOptions(manifest=image, trust=image / "trust.json", history=False)
    assert judging.expect(options).history() is None


# --- recorded sessions


def test_a_recorded_session_needs_to_be_called_one(image: Path, server: Server, tmp_path: Path) -> None:
    saved = tmp_path / "session.json"
    live = judged("verify", server.url, image, "--save", str(saved), "--json")
    assert (json.loads(live.stdout)["accepted"], json.loads(live.stdout)["live"]) == (True, True)
    error = refusal(judged("verify", str(saved), image, "--json"))
    assert isinstance(error, UsageError)
    assert error.hint is not None
    assert "--recorded" in error.hint
    again = judged("verify", str(saved), image, "--recorded", "--json")
    assert again.exit_code == 0
    assert (json.loads(again.stdout)["accepted"], json.loads(again.stdout)["live"]) == (True, False)


def test_an_address_is_no_recorded_session(image: Path, server: Server) -> None:
    error = refusal(judged("verify", server.url, image, "--recorded"))
    assert isinstance(error, UsageError)
    assert server.connections == 0


def test_a_recorded_session_is_not_remembered(image: Path, server: Server, tmp_path: Path) -> None:
    saved, state = tmp_path / "session.json", tmp_path / "state"
    assert judged("verify", server.url, image, "--save", str(saved), "--no-remember").exit_code == 0
    assert judged("verify", str(saved), image, "--recorded", "--state", str(state)).exit_code == 0
    assert not state.exists()


# --- files and policy


@pytest.mark.parametrize(
    ("name", "limit"),
    [("manifest.dsse.json", 2 << 20), ("release.dsse.json", 2 << 20), ("trust.json", 1 << 20)],
)
def test_a_file_beyond_what_it_may_be_is_not_read_whole(name: str, limit: int, image: Path) -> None:
    with (image / name).open("r+b") as stream:
        stream.truncate(3 << 30)
    error = refusal(judged("verify", "https://127.0.0.1:1", image))
    assert isinstance(error, UsageError)
    assert f"{name}: expected at most {limit} bytes" in error.message


def test_a_session_beyond_what_it_may_be_is_not_read_whole(image: Path, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(3 << 30)
    error = refusal(judged("verify", str(tmp_path / "huge"), image, "--recorded"))
    assert f"expected at most {MAX_BUNDLE} bytes" in error.message


def test_a_clock_that_may_have_gone_back_is_accepted_only_when_asked_for(image: Path) -> None:
    attester = Attester(tpm=tpm().but(shape=QuoteShape(safe=0)), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as server:
        error = refusal(judged("verify", server.url, image))
        assert isinstance(error, VerificationError)
        assert error.reason == "clock-unsafe"
        assert judged("verify", server.url, image, "--allow-unsafe-clock").exit_code == 0


# --- channels that must be closed


LEDGER = ledger_bytes(closed_ledger())


def publish(image: Path, ledger: bytes, *, beside: bytes | None = None) -> None:
    """Sign a statement that pins a ledger, and put it, or something else, beside the manifest."""
    published = publisher_of(ledger)
    (image / "manifest.dsse.json").write_bytes(published.envelope)
    (image / "release.dsse.json").write_bytes(published.release)
    (image / "channels.json").write_bytes(ledger if beside is None else beside)


def address(verb: str, server: Server) -> str:
    return f"{server.url}/v1/hello" if verb == "call" else server.url


@pytest.mark.parametrize("verb", ["verify", "call"])
def test_an_image_whose_channels_are_closed_is_accepted(verb: str, image: Path, server: Server) -> None:
    publish(image, LEDGER)
    wanted = ("--require-closed", "disk,console,egress", "--require-closed", "admin,kexec")
    done = judged(verb, address(verb, server), image, *wanted)
    assert done.exit_code == 0, done.output


REFUSED_CHANNELS = {
    "open": (LEDGER, "memory", "channel-not-closed", "host-reads-memory is open (what holds of"),
    "narrowed": (LEDGER, "disk,arp", "channel-not-closed", "arp is narrowed (what holds of arp)"),
    "stated": (LEDGER, "standard-streams", "channel-not-closed", "standard-streams is stated (what"),
    "opened": (
        ledger_bytes(
            but_row(
                closed_ledger(2), "kexec", state="open", allowedByRecipe=True, checks=[check("it is there")]
            )
        ),
        "admin",
        "channel-not-closed",
        "kexec is open (what holds of kexec)",
    ),
    "left out": (
        ledger_bytes(without_row(closed_ledger(), "core-dumps")),
        "disk",
        "channel-missing",
        "core-dumps is not in the ledger",
    ),
    "mistyped": (LEDGER, "disc", "channel-missing", "disc is not in the ledger"),
}


@pytest.mark.parametrize("verb", ["verify", "call"])
@pytest.mark.parametrize("name", REFUSED_CHANNELS)
def test_a_channel_that_is_not_closed_is_refused_before_the_server_is_asked(
    name: str, verb: str, image: Path, server: Server
) -> None:
    ledger, wanted, reason, said = REFUSED_CHANNELS[name]
    publish(image, ledger)
    error = refusal(judged(verb, address(verb, server), image, "--require-closed", wanted))
    assert isinstance(error, VerificationError)
    assert (error.exit_code, error.step, error.reason) == (3, "P3", reason)
    assert said in error.message
    assert server.connections == 0


@pytest.mark.parametrize("verb", ["verify", "call"])
def test_without_a_ledger_no_channel_is_closed(verb: str, image: Path, server: Server) -> None:
    error = refusal(judged(verb, address(verb, server), image, "--require-closed", "disk"))
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("P2", "ledger-missing")
    assert error.hint is not None
    assert "channels.json" in error.hint
    assert server.connections == 0


@pytest.mark.parametrize("more", [(), ("--require-closed", "disk")])
def test_a_ledger_beside_the_manifest_that_is_not_the_pinned_one_is_refused(
    more: tuple[str, ...], image: Path, server: Server
) -> None:
    publish(image, LEDGER, beside=ledger_bytes(but_row(closed_ledger(), "arp", state="closed")))
    error = refusal(judged("verify", server.url, image, *more))
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("P2", "other-ledger")
    assert server.connections == 0


def test_a_ledger_from_elsewhere_takes_the_place_of_the_one_beside(
    image: Path, server: Server, tmp_path: Path
) -> None:
    publish(image, LEDGER, beside=b"another")
    elsewhere = tmp_path / "ledger"
    elsewhere.write_bytes(LEDGER)
    wanted = ("--require-closed", "disk", "--ledger")
    assert judged("verify", server.url, image, *wanted, str(elsewhere)).exit_code == 0
    elsewhere.write_bytes(LEDGER + b" ")
    error = refusal(judged("verify", server.url, image, *wanted, str(elsewhere)))
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("P2", "other-ledger")


def test_a_recorded_session_is_held_against_the_channels_too(
    image: Path, server: Server, tmp_path: Path
) -> None:
    publish(image, LEDGER)
    saved = str(tmp_path / "session.json")
    assert judged("verify", server.url, image, "--save", saved).exit_code == 0
    closed = judged("verify", saved, image, "--recorded", "--require-closed", "disk", "--json")
    assert closed.exit_code == 0
    steps = {step["id"]: step for step in json.loads(closed.stdout)["steps"]}
    assert steps["P2"]["outcome"] == steps["P3"]["outcome"] == "ok"
    assert "open: host-reads-memory, host-supplied-acpi" in steps["P2"]["detail"]
    refused = judged("verify", saved, image, "--recorded", "--require-closed", "memory", "--json")
    steps = {step["id"]: step for step in json.loads(refused.stdout)["steps"]}
    assert (steps["P3"]["outcome"], steps["P3"]["reason"]) == ("failed", "channel-not-closed")
    error = refusal(refused)
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("P3", "channel-not-closed")
    (image / "channels.json").unlink()
    error = refusal(judged("verify", saved, image, "--recorded", "--require-closed", "disk"))
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason) == ("P2", "ledger-missing")


def test_the_steps_are_shown(image: Path, server: Server) -> None:
    publish(image, LEDGER)
    shown = judged("verify", server.url, image, "--require-closed", "disk").stdout
    assert "P2" in shown
    assert "the channels that must be closed are closed" in shown


@pytest.mark.parametrize(
    "wanted", ["", "disk,", ",", "disk,,console", "disk, console", "Disk", "disk;console"]
)
def test_a_wish_that_names_no_channel_is_wrong_usage(wanted: str, image: Path, server: Server) -> None:
    done = judged("verify", server.url, image, "--require-closed", wanted)
    assert done.exit_code == 2
    assert "expected ids of channels with commas between them" in done.stderr
    assert server.connections == 0


@pytest.mark.parametrize("verb", ["verify", "call"])
def test_help_names_every_group(verb: str) -> None:
    shown = " ".join(CliRunner().invoke(main, [verb, "--help"]).stdout.split())
    assert f"groups {', '.join(CHANNEL_GROUPS)}".replace(", memory", " and memory") in shown


def test_a_ledger_beyond_what_it_may_be_is_not_read_whole(image: Path) -> None:
    with (image / "channels.json").open("wb") as stream:
        stream.truncate(3 << 30)
    error = refusal(judged("verify", "https://127.0.0.1:1", image))
    assert isinstance(error, UsageError)
    assert f"channels.json: expected at most {4 << 20} bytes" in error.message
