"""`sign --probe`: as many people sign what a probe saw as clients ask for."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import rfc8785

from blindbuild.errors import EnvelopeError, ManifestError, UsageError, VerificationError
from blindbuild.formats.dsse import parse_envelope
from tests.cli.test_release_signers import Place, done, refused
from tests.fakes.probed import check_of, probe_value
from tests.fakes.published import STATEMENT_TYPE, Publisher

ENVELOPE = "probe.dsse.json"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    (made.image / "probe.json").write_bytes(rfc8785.dumps(value(made)))
    return made


def value(place: Place) -> dict:
    return probe_value(Publisher(value=json.loads((place.image / "statement.json").read_bytes())))


def test_several_keys_sign_a_probe_and_no_release(place: Place) -> None:
    words = ("--key", place.key("anna"), "--key", place.key("bert"), "--json")
    result = done("sign", place.image, "--probe", *words)
    assert place.signers(ENVELOPE, STATEMENT_TYPE) == {"anna", "bert"}
    payload = parse_envelope((place.image / ENVELOPE).read_bytes()).payload
    assert payload == (place.image / "probe.json").read_bytes()
    assert not (place.image / "manifest.dsse.json").exists()
    report = json.loads(result.stdout)
    assert report["probe"] == str(place.image / ENVELOPE)
    assert report["signers"] == [place.keys[name].key_id for name in ("anna", "bert")]


def test_the_next_person_sees_what_the_probe_has_come_to(place: Place) -> None:
    done("sign", place.image, "--probe", "--key", place.key("anna"))
    (place.image / "probe.json").unlink()  # only the envelope travels
    result = done("sign", place.image, "--probe", "--add", "--key", place.key("bert"))
    assert place.signers(ENVELOPE, STATEMENT_TYPE) == {"anna", "bert"}
    for said in (
        "the probe of hello 1.0.0, signatures so far, unverified: 1",
        "16 checks shown (tcg)",
        "memory open",
    ):
        assert said in result.stderr
    assert f"{ENVELOPE} over statement" in result.stdout


def test_what_is_not_shown_is_named_to_who_signs(place: Place) -> None:
    opened = value(place)
    check_of(opened, "disks").update(findings=["written"], verdict="open")
    (place.image / "probe.json").write_bytes(rfc8785.dumps(opened))
    result = done("sign", place.image, "--probe", "--key", place.key("anna"))
    assert "15 checks shown" in result.stderr
    assert "disks open" in result.stderr


def test_nobody_signs_a_probe_twice(place: Place) -> None:
    anna = ("--key", place.key("anna"))
    refused(EnvelopeError, "has signed this envelope", "sign", place.image, "--probe", *anna, *anna)
    assert not (place.image / ENVELOPE).exists()
    done("sign", place.image, "--probe", *anna)
    refused(EnvelopeError, "has signed this envelope", "sign", place.image, "--probe", "--add", *anna)


def test_a_probe_of_another_image_is_not_signed(place: Place) -> None:
    anna = ("--key", place.key("anna"))
    for changes, reason in (
        ({"statement": {"sha256": "00" * 32}}, "probe-of-other-statement"),
        ({"ledger": {"sha256": "00" * 32}}, "probe-disagrees"),
    ):
        probe = copy.deepcopy(value(place))
        probe["predicate"] |= changes
        (place.image / "probe.json").write_bytes(rfc8785.dumps(probe))
        error = refused(VerificationError, "expected a probe", "sign", place.image, "--probe", *anna)
        assert isinstance(error, VerificationError)
        assert (error.step, error.reason) == ("P5", reason)
    assert not (place.image / ENVELOPE).exists()


def test_no_signature_is_added_to_something_else(place: Place) -> None:
    bert = ("--key", place.key("bert"))
    refused(UsageError, "probe.dsse.json", "sign", place.image, "--probe", "--add", *bert)
    done("sign", place.image, "--key", place.key("anna"))
    for name, error in (("manifest", ManifestError), ("release", ManifestError)):
        data = (place.image / f"{name}.dsse.json").read_bytes()
        (place.image / ENVELOPE).write_bytes(data)
        refused(error, "probe", "sign", place.image, "--probe", "--add", *bert)
        assert (place.image / ENVELOPE).read_bytes() == data


def test_without_a_probe_there_is_nothing_to_sign(place: Place) -> None:
    (place.image / "probe.json").unlink()
    error = refused(UsageError, "probe.json", "sign", place.image, "--probe", "--key", place.key("anna"))
    assert "channels" in str(error.hint)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--days", "3"), "--days and --channel are a release's"),
        (("--channel", "beta"), "--days and --channel are a release's"),
        (("--as-rebuilder",), "expected --probe or --as-rebuilder"),
    ],
)
def test_what_means_nothing_for_a_probe_is_a_mistake(place: Place, more: tuple[str, ...], said: str) -> None:
    refused(UsageError, said, "sign", place.image, "--probe", "--key", place.key("anna"), *more)
    refused(UsageError, "belong to --key", "sign", place.image, "--probe", "--secureboot", "x")
