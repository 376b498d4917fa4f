"""`verify` and `call` with rebuilders and channels: files beside the manifest, --rebuild and --channel."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli import judging
from blindbuild.cli.main import main
from blindbuild.client import Expectation
from blindbuild.errors import VerificationError
from blindbuild.publish import generate_key, sign_rebuild
from tests.fakes.attester import Attester, Server
from tests.fakes.published import NOW, Publisher, honest_boot, log_bytes
from tests.fakes.world import authority, publisher, tpm

ANNA, BERT, STRANGER = generate_key(), generate_key(), generate_key()
TRUST = {
    "test_tpm_roots": [authority().root_pem],
    "test_tpm_intermediates": [authority().issuer_pem],
    "rebuilders": [ANNA.public, BERT.public],
}


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    place = tmp_path / "image"
    place.mkdir()
    write(place, publisher())
    (place / "trust.json").write_bytes(publisher().trust(**TRUST))
    return place


def write(place: Path, published: Publisher) -> None:
    (place / "manifest.dsse.json").write_bytes(published.envelope)
    (place / "release.dsse.json").write_bytes(published.release)


def judged(image: Path, *more: object, verb: str = "verify") -> Result:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as server:
        target = server.url if verb == "verify" else f"{server.url}/v1/hello"
        words = (
            verb,
            target,
            "--manifest",
            image,
            "--trust",
            image / "trust.json",
            "--allow-test-tpm",
            *more,
        )
        return CliRunner().invoke(main, [str(word) for word in words], env={"COLUMNS": "200"})


def rebuild(place: Path, name: str, key) -> Path:
    place.mkdir(exist_ok=True)
    (place / name).write_bytes(sign_rebuild(key, publisher().statement))
    return place / name


@pytest.mark.parametrize("verb", ["verify", "call"])
def test_rebuilders_are_found_beside_the_manifest_or_named(image: Path, tmp_path: Path, verb: str) -> None:
    assert "M14 rebuilds-missing" in str(judged(image, verb=verb).exception)
    rebuild(image / "rebuilds", f"{ANNA.public.key_id}.dsse.json", ANNA)
    assert "M14 too-few-rebuilds" in str(judged(image, verb=verb).exception)
    named = rebuild(tmp_path, "bert.dsse.json", BERT)
    result = judged(image, "--rebuild", named, verb=verb)
    assert result.exit_code == 0, result.exception
    rebuild(image / "rebuilds", "another-name.dsse.json", BERT)
    assert judged(image, verb=verb).exit_code == 0


def test_a_verdict_says_who_found_the_same(image: Path, tmp_path: Path) -> None:
    for key in (ANNA, BERT):
        rebuild(image / "rebuilds", f"{key.public.key_id}.dsse.json", key)
    steps = {step["id"]: step for step in json.loads(judged(image, "--json").stdout)["steps"]}
    assert steps["M14"]["outcome"] == "ok"
    assert steps["M14"]["detail"].startswith("2 of 2 found it, 2 needed: ")


def test_a_refusal_says_what_to_do(image: Path) -> None:
    rebuild(image / "rebuilds", "a.dsse.json", publisher().key)
    error = judged(image).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason, error.exit_code) == ("M14", "rebuild-by-publisher", 3)
    assert "the publisher signed it himself" in error.message
    assert "ask the rebuilders themselves" in (error.hint or "")


def test_a_release_on_a_channel_is_taken_by_who_asks_for_it(image: Path) -> None:
    (image / "trust.json").write_bytes(publisher().trust(**{**TRUST, "rebuilders": []}))
    write(image, dataclasses.replace(publisher(), release_changes={"channel": "beta"}))
    error = judged(image).exception
    assert isinstance(error, VerificationError)
    assert error.reason == "release-of-other-channel"
    assert "expected a release on channel stable, got one on beta" in error.message
    assert judged(image, "--channel", "beta").exit_code == 0
