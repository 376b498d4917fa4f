"""`verify` with a policy file, with a bundle in an auditor's hands, and with explanations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import judging
from blindbuild.cli.following import record_repository
from blindbuild.cli.main import main
from blindbuild.cli.options import PROFILES, JudgingOptions
from blindbuild.cli.recorded import saved_bytes
from blindbuild.client import Expectation, StateStore
from blindbuild.client.tuf import TufRepository
from blindbuild.client.tuf_memory import TufMemory
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, UsageError, VerificationError
from blindbuild.manifest import format_time, parse_trust
from blindbuild.manifest.statement import CHANNEL_BINDINGS
from blindbuild.verify import History, session_bytes
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from tests.fakes import log_world
from tests.fakes.attester import Attester, Server
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.probed import probe_envelope, probe_value
from tests.fakes.published import NOW, command_line, honest_boot, log_bytes
from tests.fakes.tuf_world import TufWorld, write
from tests.fakes.world import authority, boot_of, publisher, session, tpm

ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
LEDGER = ledger_bytes(closed_ledger())
BY = publisher_of(LEDGER)
THEN = "2026-06-01T00:00:00Z"


@pytest.fixture(autouse=True)
def _at_the_time_of_publication(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))


@pytest.fixture
def image(tmp_path: Path) -> Path:
    place = tmp_path / "image"
    place.mkdir()
    (place / "manifest.dsse.json").write_bytes(BY.envelope)
    (place / "release.dsse.json").write_bytes(BY.release)
    (place / "channels.json").write_bytes(LEDGER)
    (tmp_path / "trust.json").write_bytes(BY.trust(**ROOTS))
    return place


@pytest.fixture
def server() -> Iterator[Server]:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as running:
        yield running


@pytest.fixture
def other_boot() -> Iterator[Server]:
    boot = [command_line("debug") if event.what == "command line" else event for event in honest_boot()]
    machine, log = boot_of(boot)
    attester = Attester(tpm=machine, event_log=log)
    with Server(attester.handle, attester.key) as running:
        yield running


def verify(target: str | Path, tmp_path: Path, *more: str | Path, lenient: bool = True) -> Result:
    arguments = ["verify", str(target), "--trust", str(tmp_path / "trust.json"), *map(str, more)]
    allow = ["--allow-test-tpm"] if lenient else []
    return CliRunner().invoke(main, [*arguments, *allow], env={"COLUMNS": "200"})


def refusal(result: Result) -> BlindbuildError:
    assert isinstance(result.exception, BlindbuildError), (result.output, result.exception)
    return result.exception


def saved(server: Server, image: Path, tmp_path: Path, *more: str | Path) -> Path:
    bundle = tmp_path / "bundle.json"
    done = verify(server.url, tmp_path, "--manifest", image, "--save", bundle, *more)
    assert done.exit_code == 0, done.output
    return bundle


def policy(tmp_path: Path, **rules: object) -> Path:
    path = tmp_path / "policy.json"
    path.write_text(json.dumps({"version": 1, **rules}))
    return path


# --- policy files


def test_a_policy_file_is_what_is_asked_for(server: Server, image: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path, allowTestTpm=True, requireClosed=["disk"], sessionSeconds=60)
    done = verify(server.url, tmp_path, "--manifest", image, "--policy", rules, "--json", lenient=False)
    plain = json.loads(done.stdout)
    assert done.exit_code == 0
    assert plain["policy"]["requireClosed"] == ["disk"]
    assert plain["expires"] == format_time(NOW + 60)
    assert plain["record"]["manifest"] == Digest.sha256(BY.envelope).hex
    assert plain["record"]["server"] == server.url
    assert plain["record"]["attestationKey"] == tpm().ak_name.hex()
    strict = policy(tmp_path, allowTestTpm=True, requireSecureBoot=True)
    error = refusal(verify(server.url, tmp_path, "--manifest", image, "--policy", strict, lenient=False))
    assert (error.step, error.reason) == ("E11", "secure-boot-off")


def test_options_beside_a_policy_make_it_stricter(server: Server, image: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path, allowTestTpm=True, requireClosed=["disk"])
    arguments = (server.url, tmp_path, "--manifest", image, "--policy", rules)
    assert verify(*arguments, "--require-closed", "egress").exit_code == 0
    error = refusal(verify(*arguments, "--require-closed", "memory", lenient=False))
    assert (error.step, error.reason) == ("P3", "channel-not-closed")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--allow-test-tpm",), "--allow-test-tpm: the policy"),
        (("--allow-debug",), "--allow-debug: the policy"),
        (("--allow-unsafe-clock",), "--allow-unsafe-clock: the policy"),
        (("--channel", "beta"), "--channel: the policy wants stable"),
        (("--require-profile", "tls-spki-quote-v1"), "--require-profile: the policy wants hpke-quote-v1"),
    ],
)
@pytest.mark.parametrize("said", [{}, {"channel": "stable"}])
def test_options_that_would_make_a_policy_weaker_are_refused(
    more: tuple[str, ...], message: str, said: dict[str, str], image: Path, tmp_path: Path
) -> None:
    rules = policy(tmp_path, channelProfiles=["hpke-quote-v1"], **said)
    done = verify(
        "https://127.0.0.1:1", tmp_path, "--manifest", image, "--policy", rules, *more, lenient=False
    )
    error = refusal(done)
    assert isinstance(error, UsageError)
    assert message in error.message


def test_the_profile_of_the_channel_can_be_asked_for(server: Server, image: Path, tmp_path: Path) -> None:
    assert PROFILES == CHANNEL_BINDINGS
    tls, hpke = PROFILES
    either = policy(tmp_path, allowTestTpm=True, channelProfiles=[tls, hpke])
    arguments = (server.url, tmp_path, "--manifest", image)
    for lenient, beside in ((True, ()), (False, ("--policy", either))):
        done = verify(*arguments, *beside, "--require-profile", tls, "--json", lenient=lenient)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["policy"]["channelProfiles"] == [tls]
        error = refusal(verify(*arguments, *beside, "--require-profile", hpke, lenient=lenient))
        assert (error.step, error.reason) == ("C1", "profile-not-allowed")
        assert "ask the publisher for an image with the other profile" in str(error.hint)
    done = verify(*arguments, "--policy", either, "--json", lenient=False)
    assert json.loads(done.stdout)["policy"]["channelProfiles"] == [hpke, tls]
    assert verify(*arguments, "--require-profile", "tls").exit_code == 2


def test_a_probe_can_be_asked_for(server: Server, image: Path, tmp_path: Path) -> None:
    probe, elsewhere = probe_envelope(probe_value(BY)), tmp_path / "elsewhere"
    elsewhere.write_bytes(probe)
    rules = policy(tmp_path, allowTestTpm=True, requireProbe=True)
    arguments = (server.url, tmp_path, "--manifest", image)
    asked: tuple[tuple[str | Path, ...], ...] = (
        ("--require-probe", "--allow-test-tpm"),
        ("--policy", rules),
        ("--policy", rules, "--require-probe"),
    )
    for words in asked:
        (image / "probe.dsse.json").unlink(missing_ok=True)
        error = refusal(verify(*arguments, *words, lenient=False))
        assert (error.step, error.reason) == ("P5", "probe-missing")
        assert "ask the publisher for the probe.dsse.json of this very release" in str(error.hint)
        assert verify(*arguments, *words, "--probe", elsewhere, lenient=False).exit_code == 0
        (image / "probe.dsse.json").write_bytes(probe)
        done = verify(*arguments, *words, "--json", lenient=False)
        assert json.loads(done.stdout)["policy"]["requireProbe"] is True
        assert "P5" in {step["id"] for step in json.loads(done.stdout)["steps"]}
    error = refusal(verify(*arguments, "--probe", elsewhere))
    assert isinstance(error, UsageError)
    assert "--probe belongs to --require-probe" in error.message
    assert "P5" not in {step["id"] for step in json.loads(verify(*arguments, "--json").stdout)["steps"]}


def test_an_auditor_may_ask_for_the_probe_in_a_bundle(server: Server, image: Path, tmp_path: Path) -> None:
    bundle = saved(server, image, tmp_path)
    error = refusal(verify(bundle, tmp_path, "--recorded", "--require-probe"))
    assert (error.step, error.reason) == ("P5", "probe-missing")
    (image / "probe.dsse.json").write_bytes(probe_envelope(probe_value(BY)))
    bundle = saved(server, image, tmp_path)
    (image / "probe.dsse.json").unlink()
    assert verify(bundle, tmp_path, "--recorded", "--require-probe").exit_code == 0


def test_another_log_than_the_policys_is_refused(image: Path, tmp_path: Path) -> None:
    rules = policy(tmp_path, allowTestTpm=True, requireLog=log_world.policy_text().decode())
    (tmp_path / "weak").write_bytes(log_world.policy_text("quorum none\n"))
    arguments = ("https://127.0.0.1:1", tmp_path, "--manifest", image, "--policy", rules)
    error = refusal(verify(*arguments, "--require-log", tmp_path / "weak"))
    assert "the policy asks for another log" in error.message
    # and the policy's own log is asked for without any option
    error = refusal(verify(*arguments))
    assert (error.step, error.reason) == ("M12", "log-proof-missing")


def test_a_policy_file_with_a_mistake_is_wrong_usage(image: Path, tmp_path: Path) -> None:
    error = refusal(verify("https://x", tmp_path, "--manifest", image, "--policy", policy(tmp_path)))
    assert isinstance(error, UsageError)
    assert "expected at least one rule" in error.message


# --- bundles


def test_a_bundle_has_all_that_an_auditor_needs(server: Server, image: Path, tmp_path: Path) -> None:
    bundle = saved(server, image, tmp_path)
    for path in image.iterdir():
        path.unlink()
    done = verify(bundle, tmp_path, "--recorded", "--require-closed", "disk", "--json")
    assert done.exit_code == 0
    plain = json.loads(done.stdout)
    assert plain["accepted"]
    assert not plain["live"]
    audit = verify(bundle, tmp_path, "--recorded", "--offline-audit", "--at-time", THEN, "--json")
    assert audit.exit_code == 4
    plain = json.loads(audit.stdout)
    assert plain["offlineAudit"] == {"atTime": THEN}
    assert not plain["live"]
    assert plain["record"]["time"] == THEN


def test_an_auditor_is_told_that_no_server_was_verified(server: Server, image: Path, tmp_path: Path) -> None:
    bundle = saved(server, image, tmp_path)
    done = verify(bundle, tmp_path, "--recorded", "--offline-audit", "--at-time", THEN)
    assert done.exit_code == 4
    assert f"accepted as of {THEN}; no server was verified" in done.output


@pytest.mark.parametrize("when", ["2025-12-31T23:00:00Z", "2027-01-01T00:00:00Z"])
def test_an_audit_at_a_time_without_a_release_is_refused(
    when: str, server: Server, image: Path, tmp_path: Path
) -> None:
    bundle = saved(server, image, tmp_path)
    error = refusal(verify(bundle, tmp_path, "--recorded", "--offline-audit", "--at-time", when))
    assert isinstance(error, VerificationError)
    assert error.step == "M9"


def test_what_is_remembered_does_not_count_in_an_audit_and_is_not_changed(
    server: Server, image: Path, tmp_path: Path
) -> None:
    bundle = saved(server, image, tmp_path)
    store = StateStore(tmp_path / "state")
    domain = judging.parse_trust((tmp_path / "trust.json").read_bytes()).domain
    newer = History(99, Digest.sha256(b"newer"), NOW)
    store.record(domain, newer)
    state = ("--state", tmp_path / "state")
    assert refusal(verify(bundle, tmp_path, "--recorded", *state)).step == "M10"
    assert verify(bundle, tmp_path, "--recorded", "--offline-audit", *state).exit_code == 4
    assert store.read(domain) == newer


def test_a_manifest_beside_a_bundle_counts_instead_of_its_own(
    server: Server, image: Path, tmp_path: Path
) -> None:
    bundle = saved(server, image, tmp_path)
    (image / "release.dsse.json").unlink()
    error = refusal(verify(bundle, tmp_path, "--recorded", "--manifest", image))
    assert (error.step, error.reason) == ("M9", "release-missing")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--offline-audit",), "expected --recorded"),
        (("--recorded", "--save", "again.json"), "--save: expected a server"),
        (("--recorded", "--at-time", THEN), "expected --offline-audit"),
        (("--recorded", "--offline-audit", "--at-time", "yesterday"), "--at-time: "),
    ],
)
def test_an_audit_that_is_half_asked_for_is_wrong_usage(
    more: tuple[str, ...], message: str, server: Server, image: Path, tmp_path: Path
) -> None:
    target: str | Path = saved(server, image, tmp_path) if "--recorded" in more else server.url
    error = refusal(verify(target, tmp_path, *more))
    assert isinstance(error, UsageError)
    assert message in error.message


def test_a_session_alone_needs_a_manifest(image: Path, tmp_path: Path) -> None:
    alone = tmp_path / "session.json"
    alone.write_bytes(session_bytes(session(statement=BY.statement)))
    assert "expected --manifest" in refusal(verify(alone, tmp_path, "--recorded")).message
    assert verify(alone, tmp_path, "--recorded", "--manifest", image).exit_code == 0


def test_a_changed_bundle_is_refused(server: Server, image: Path, tmp_path: Path) -> None:
    bundle = saved(server, image, tmp_path)
    data = bundle.read_bytes()
    bundle.write_bytes(data + b"\n")
    assert refusal(verify(bundle, tmp_path, "--recorded")).reason == "malformed"
    made = parse_bundle(data)
    assert (made.envelope, made.release, made.ledger) == (BY.envelope, BY.release, LEDGER)
    assert made.saved_at == NOW


# --- explanations


def test_a_refusal_is_explained_register_by_register(other_boot: Server, image: Path, tmp_path: Path) -> None:
    arguments = (other_boot.url, tmp_path, "--manifest", image, "--explain")
    done = verify(*arguments)
    assert refusal(done).exit_code == 3
    assert "PCR 9" in done.output
    assert "command line" in done.output
    plain = json.loads(verify(*arguments, "--json").stdout)
    assert [difference["register"] for difference in plain["explanation"]["differences"]] == [9]
    assert plain["explanation"]["differences"][0]["steps"]


def test_an_accepted_boot_is_explained_if_asked(server: Server, image: Path, tmp_path: Path) -> None:
    done = verify(server.url, tmp_path, "--manifest", image, "--explain")
    assert done.exit_code == 0
    assert "EV_IPL '.cmdline'" in done.output
    assert "explanation" not in json.loads(verify(server.url, tmp_path, "--manifest", image, "--json").stdout)


def test_explain_reads_the_session_in_a_bundle(server: Server, image: Path, tmp_path: Path) -> None:
    bundle = saved(server, image, tmp_path)
    done = CliRunner().invoke(main, ["explain", str(bundle), "--statement", str(image), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["equal"] is True


# --- records


def test_each_decision_leaves_one_line(server: Server, image: Path, tmp_path: Path) -> None:
    log = tmp_path / "audit.jsonl"
    bundle = saved(server, image, tmp_path, "--audit-log", log)
    assert verify(bundle, tmp_path, "--recorded", "--audit-log", log).exit_code == 0
    assert verify(bundle, tmp_path, "--recorded", "--audit-log", log, lenient=False).exit_code != 0
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["accepted"] for line in lines] == [True, True, False]
    assert [line["server"] for line in lines] == [server.url, "", ""]
    assert {line["statement"] for line in lines} == {Digest.sha256(BY.statement).hex}
    assert [line["live"] for line in lines] == [True, False, False]


def test_an_auditors_line_is_not_taken_for_a_verdict_about_a_server(
    server: Server, image: Path, tmp_path: Path
) -> None:
    log, bundle = tmp_path / "audit.jsonl", saved(server, image, tmp_path)
    more = ("--recorded", "--offline-audit", "--at-time", THEN, "--audit-log", log)
    assert verify(bundle, tmp_path, *more).exit_code == 4
    [line] = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["accepted"], line["live"], line["time"]) == (True, False, THEN)


def test_what_cannot_be_remembered_is_not_recorded_as_accepted(
    server: Server, image: Path, tmp_path: Path
) -> None:
    log, state = tmp_path / "audit.jsonl", tmp_path / "state"
    domain = parse_trust((tmp_path / "trust.json").read_bytes()).domain_of("stable")
    StateStore(state).path(domain).with_suffix(".lock").mkdir(parents=True)  # no file can be made there
    more = ("--manifest", image, "--audit-log", log, "--state", state, "--json")
    done = verify(server.url, tmp_path, *more)
    assert "cannot be written" in refusal(done).message
    assert '"accepted": true' not in done.output
    [line] = [json.loads(line) for line in log.read_text().splitlines()]
    assert (line["accepted"], line["reasons"]) == (False, ["not-remembered"])


# --- a repository in a bundle


def audit_of(world: TufWorld, files: dict[str, bytes], tmp_path: Path, at: int = NOW) -> Result:
    """An auditor judges a session by this repository's files alone."""
    (tmp_path / "trust.json").write_text(json.dumps(world.trust_value()))
    made = session(statement=world.publisher.statement)
    bundle = Bundle(made, world.publisher.envelope, NOW, tuf=files)
    (tmp_path / "bundle.json").write_bytes(bundle_bytes(bundle))
    when = ("--at-time", format_time(at))
    return verify(tmp_path / "bundle.json", tmp_path, "--recorded", "--offline-audit", *when)


def test_an_auditor_follows_the_repository_in_the_bundle(tmp_path: Path) -> None:
    world = TufWorld(publisher())
    assert audit_of(world, world.files(), tmp_path).exit_code == 4


def test_a_bundles_repository_is_judged_like_a_served_one(tmp_path: Path) -> None:
    world = TufWorld(publisher())
    files = world.files()
    assert refusal(audit_of(world, {}, tmp_path)).reason == "not-refreshed"
    assert refusal(audit_of(world, files, tmp_path, at=NOW + 40 * 86400)).reason == "expired"
    stranger = TufWorld(publisher())
    assert refusal(audit_of(world, stranger.files(), tmp_path)).step == "M1"
    cut = {name: data[: len(data) // 2] for name, data in files.items()}
    assert refusal(audit_of(world, cut, tmp_path)).step == "M1"


def test_an_older_repository_in_a_bundle_is_refused_by_who_saw_a_later_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blindbuild.cli.judging.time.time", lambda: float(NOW))
    world, state = TufWorld(publisher()), tmp_path / "state"
    files = world.files()
    assert audit_of(world, files, tmp_path).exit_code == 4  # at any time: nothing remembered counts
    recorded = (tmp_path / "bundle.json", tmp_path, "--recorded", "--state", state)
    assert verify(*recorded).exit_code == 0
    assert not state.exists() or not list(state.rglob("*.json"))
    world.versions |= {"timestamp": 2}
    memory = TufMemory(state / "tuf")
    served = write(world.files(), tmp_path / "served")
    TufRepository(world.trust(), str(served), memory=memory, clock=lambda: float(NOW)).refresh()
    seen = {path: path.read_bytes() for path in state.rglob("*.json")}
    error = refusal(verify(*recorded))
    assert (error.step, error.reason) == ("M1", "rollback")
    assert {path: path.read_bytes() for path in state.rglob("*.json")} == seen
    assert audit_of(world, files, tmp_path).exit_code == 4


def test_what_a_refresh_read_is_what_a_bundle_needs(tmp_path: Path) -> None:
    world = TufWorld(publisher()).rotated()
    place = write(world.files(), tmp_path / "served")
    options = JudgingOptions(trust=tmp_path / "trust.json", tuf=str(place))
    files = record_repository(options, world.trust(), "stable", NOW)
    assert files.keys() <= world.files().keys()
    assert audit_of(world, files, tmp_path).exit_code == 4


def test_what_could_not_be_read_again_is_not_written() -> None:
    made = session(statement=BY.statement)
    many = Bundle(made, BY.envelope, NOW, rebuilds=(b"x",) * 17)
    with pytest.raises(VerificationError, match="rebuilds: expected 1 to 16"):
        saved_bytes(many)
    assert parse_bundle(saved_bytes(Bundle(made, BY.envelope, NOW))).envelope == BY.envelope
