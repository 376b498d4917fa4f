"""`keygen`, `key`, `sign` with several signers and as a rebuilder, and `trust` with its successor."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import click
import pytest
import rfc8785
from click.testing import CliRunner, Result

from blindbuild.cli.main import main
from blindbuild.cli.signing import ask_pin
from blindbuild.errors import BlindbuildError, BuildError, EnvelopeError, UsageError, VerificationError
from blindbuild.formats.dsse import parse_envelope, verify_envelope
from blindbuild.manifest import parse_release, parse_trust
from blindbuild.publish import load_public_key, load_release_key, sign_payload
from tests.cli.test_image_directory import write_image, write_sums
from tests.fakes.published import RELEASE_TYPE, STATEMENT_TYPE
from tests.fakes.world import authority

REBUILD_TYPE = "application/vnd.blindbuild.rebuild+json"
WORLD = {"COLUMNS": "200", "BLINDBUILD_PIN": ""}


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=WORLD)


def done(*words: object) -> Result:
    result = run(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(error: type[BlindbuildError], said: str, *words: object) -> BlindbuildError:
    result = run(*words)
    assert type(result.exception) is error, (result.output, result.exception)
    assert said in result.exception.message, result.exception.message
    return result.exception


class Place:
    """A directory with an image and the keys of three people."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.image = write_image(root / "image")
        self.keys = {}
        for name in ("anna", "bert", "carl"):
            kind = "p256" if name == "bert" else "ed25519"
            done("keygen", "-o", root / f"{name}.key", "--kind", kind)
            self.keys[name] = load_public_key((root / f"{name}.key.pub").read_bytes())

    def key(self, name: str) -> Path:
        return self.root / f"{name}.key"

    def public(self, name: str) -> Path:
        return self.root / f"{name}.key.pub"

    def signers(self, file: str, payload_type: str) -> set[str]:
        envelope = parse_envelope((self.image / file).read_bytes())
        keys = list(self.keys.values())
        verified = verify_envelope(envelope, keys=keys, threshold=1, payload_type=payload_type)
        return {name for name, key in self.keys.items() if key.key_id in verified.signers}

    def who_signed(self) -> tuple[set[str], set[str]]:
        return (
            self.signers("manifest.dsse.json", STATEMENT_TYPE),
            self.signers("release.dsse.json", RELEASE_TYPE),
        )

    def sign_payloads(self, name: str, said: bytes | None = None, **release: object) -> None:
        """Write both envelopes by hand, the release with other fields."""
        there = (self.image / "statement.json").read_bytes()
        predicate = json.loads(there)["predicate"]
        value = {
            "_type": "urn:blindbuild:release:v1",
            "product": predicate["name"],
            "version": predicate["version"],
            "sequence": predicate["sequence"],
            "statement": {"sha256": hashlib.sha256(there).hexdigest()},
            "validFrom": "2026-01-01T00:00:00Z",
            "validUntil": "2126-01-01T00:00:00Z",
        }
        key = load_release_key(self.key(name).read_bytes())
        envelopes = {
            "manifest.dsse.json": sign_payload(key, STATEMENT_TYPE, said or there),
            "release.dsse.json": sign_payload(key, RELEASE_TYPE, rfc8785.dumps(value | release)),
        }
        for file, data in envelopes.items():
            (self.image / file).write_bytes(data)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- keygen and key


def test_a_key_is_shown_in_every_form_it_has(place: Place) -> None:
    for name, key in place.keys.items():
        for form in (place.key(name), place.public(name)):
            assert done("key", "show", form).stdout.strip() == key.key_id
    shown = json.loads(done("key", "show", place.key("bert"), "--json").stdout)
    assert shown == {"keyid": place.keys["bert"].key_id, "kind": "p256"}


def test_a_key_is_never_written_over(place: Place) -> None:
    before = place.key("anna").read_bytes()
    refused(UsageError, "anna.key: there already", "keygen", "-o", place.key("anna"))
    (place.root / "new.key.pub").write_bytes(b"somebody's")
    refused(UsageError, "new.key.pub: there already", "keygen", "-o", place.root / "new.key")
    assert not (place.root / "new.key").exists()
    assert place.key("anna").read_bytes() == before


def test_a_private_key_is_for_its_owner_alone(place: Place) -> None:
    for name in place.keys:
        assert place.key(name).stat().st_mode & 0o777 == 0o600


def test_a_token_makes_keys_of_one_kind(place: Place) -> None:
    words = (
        "keygen",
        "--token",
        "pkcs11:object=a?module-path=/m",
        "--kind",
        "ed25519",
        "-o",
        place.root / "t",
    )
    refused(UsageError, "--token makes P-256 keys", *words)


def test_a_file_needs_no_pinning(place: Place) -> None:
    words = ("key", "pin", place.key("anna"), "-o", place.root / "pinned")
    refused(UsageError, "expected a URI, got a path", *words)
    done("key", "pin", "hv:x/1", "--public", place.public("anna"), "--no-check", "-o", place.root / "pinned")
    refused(UsageError, "pinned: there already", "key", "pin", "hv:x/1", "-o", place.root / "pinned")
    assert load_public_key((place.root / "pinned.pub").read_bytes()) == place.keys["anna"]


# --- several signers


def test_several_keys_sign_in_one_go(place: Place) -> None:
    result = done("sign", place.image, "--key", place.key("anna"), "--key", place.key("bert"), "--json")
    assert place.who_signed() == ({"anna", "bert"}, {"anna", "bert"})
    assert json.loads(result.stdout)["signers"] == [place.keys[name].key_id for name in ("anna", "bert")]


def test_one_key_twice_is_one_signer(place: Place) -> None:
    words = ("sign", place.image, "--key", place.key("anna"), "--key", place.key("anna"))
    refused(EnvelopeError, "has signed this release already", *words)
    assert not (place.image / "manifest.dsse.json").exists()


def test_the_next_person_adds_a_signature_after_seeing_what_it_is_for(place: Place) -> None:
    done("sign", place.image, "--key", place.key("anna"), "--days", "7", "--channel", "beta")
    release = parse_envelope((place.image / "release.dsse.json").read_bytes()).payload
    # somebody else, elsewhere: a build of his own, and the two envelopes
    elsewhere = place.root / "elsewhere"
    shutil.copytree(place.image, elsewhere)
    result = done("sign", elsewhere, "--add", "--key", place.key("bert"))
    digest = hashlib.sha256((place.image / "statement.json").read_bytes()).hexdigest()
    for said in (
        "hello 1.0.0, sequence 42, channel beta",
        f"statement sha256:{digest}",
        "signatures so far: 1",
    ):
        assert said in result.stderr
    place.image = elsewhere
    assert place.who_signed() == ({"anna", "bert"}, {"anna", "bert"})
    assert parse_envelope((elsewhere / "release.dsse.json").read_bytes()).payload == release
    assert parse_release(release).channel == "beta"


def test_a_signature_is_not_added_twice(place: Place) -> None:
    done("sign", place.image, "--key", place.key("anna"))
    words = ("sign", place.image, "--add", "--key", place.key("anna"))
    refused(EnvelopeError, "has signed this release already", *words)


def test_a_run_that_was_cut_off_between_the_two_files_is_finished(place: Place) -> None:
    done("sign", place.image, "--key", place.key("anna"))
    manifest = (place.image / "manifest.dsse.json").read_bytes()
    done("sign", place.image, "--add", "--key", place.key("bert"))
    (place.image / "manifest.dsse.json").write_bytes(manifest)
    assert place.who_signed() == ({"anna"}, {"anna", "bert"})
    done("sign", place.image, "--add", "--key", place.key("bert"))
    assert place.who_signed() == ({"anna", "bert"}, {"anna", "bert"})


def other_statement(place: Place) -> bytes:
    value = json.loads((place.image / "statement.json").read_bytes())
    value["predicate"]["version"] = "1.0.1"
    return rfc8785.dumps(value)


RELEASES = {
    "another statement": (
        {"statement": {"sha256": "ab" * 32}},
        "expected a release of hello 1.0.0 42 sha256:",
    ),
    "another product": ({"product": "other"}, "got one of other 1.0.0 42"),
    "another version": ({"version": "2.0.0"}, "got one of hello 2.0.0 42"),
    "another sequence": ({"sequence": 43}, "got one of hello 1.0.0 43"),
    "no longer valid": ({"validUntil": "2026-01-02T00:00:00Z"}, "expected a release that is still valid"),
}


@pytest.mark.parametrize("name", RELEASES)
def test_nothing_is_added_to_a_release_of_something_else(place: Place, name: str) -> None:
    changes, said = RELEASES[name]
    place.sign_payloads("anna", **changes)
    error = refused(VerificationError, said, "sign", place.image, "--add", "--key", place.key("bert"))
    assert isinstance(error, VerificationError)
    assert error.step == "M9"
    assert place.who_signed() == ({"anna"}, {"anna"})


def test_nothing_is_added_to_a_manifest_about_another_image(place: Place) -> None:
    place.sign_payloads("anna", other_statement(place))
    words = ("sign", place.image, "--add", "--key", place.key("bert"))
    error = refused(VerificationError, "that of the image at hand", *words)
    assert "do not sign" in (error.hint or "")
    assert place.signers("manifest.dsse.json", STATEMENT_TYPE) == {"anna"}


def test_nothing_is_added_to_an_envelope_of_another_type(place: Place) -> None:
    place.sign_payloads("anna")
    for file in ("manifest.dsse.json", "release.dsse.json"):
        before = (place.image / file).read_bytes()
        value = json.loads(before) | {"payloadType": "application/json"}
        (place.image / file).write_text(json.dumps(value))
        words = ("sign", place.image, "--add", "--key", place.key("bert"))
        refused(EnvelopeError, "got 'application/json'", *words)
        assert "signing" not in run(*words).stderr  # before anybody is shown what he would sign
        (place.image / file).write_bytes(before)


def test_a_statement_about_a_second_image_is_not_signed(place: Place) -> None:
    value = json.loads((place.image / "statement.json").read_bytes())
    value["subject"].append({"name": "other.efi", "digest": {"sha256": "ab" * 32}})
    image = write_image(place.root / "two", statement__json=rfc8785.dumps(value))
    refused(
        BuildError, "not the image that the statement is about", "sign", image, "--key", place.key("anna")
    )


def test_nothing_is_added_where_nobody_has_signed(place: Place) -> None:
    refused(
        UsageError, "manifest.dsse.json: not there", "sign", place.image, "--add", "--key", place.key("bert")
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--add",), "expected --key or --secureboot"),
        (("--key", "K", "--add", "--as-rebuilder"), "expected --add or --as-rebuilder, got both"),
        (("--key", "K", "--add", "--days", "3"), "--days and --channel are the first signer's"),
        (
            ("--key", "K", "--as-rebuilder", "--channel", "beta"),
            "--days and --channel are the first signer's",
        ),
        (("--key", "K", "--published", "."), "--published belongs to --as-rebuilder"),
        (("--secureboot", "K", "--certificate", "C", "--as-rebuilder"), "belong to --key"),
        (("--key", "K", "--channel", "../x"), "--channel: expected a name"),
        (("--key", "/nowhere/release.key"), "/nowhere/release.key: "),
        (("--key", "gnupg:1234"), "expected a path or a URI"),
    ],
)
def test_options_of_which_one_half_would_do_nothing_are_refused(
    place: Place, words: tuple[str, ...], said: str
) -> None:
    names = {"K": str(place.key("anna")), "C": str(place.public("anna"))}
    refused(UsageError, said, "sign", place.image, *(names.get(word, word) for word in words))
    assert not (place.image / "manifest.dsse.json").exists()


# --- rebuilders


def test_a_rebuilder_vouches_for_the_statement_and_for_nothing_else(place: Place) -> None:
    done("sign", place.image, "--key", place.key("anna"))
    before = [(place.image / name).read_bytes() for name in ("manifest.dsse.json", "release.dsse.json")]
    result = done("sign", place.image, "--as-rebuilder", "--key", place.key("carl"), "--json")
    path = place.image / "rebuilds" / f"{place.keys['carl'].key_id}.dsse.json"
    assert json.loads(result.stdout)["rebuilds"] == [str(path)]
    envelope = parse_envelope(path.read_bytes())
    verified = verify_envelope(envelope, keys=[place.keys["carl"]], threshold=1, payload_type=REBUILD_TYPE)
    digest = hashlib.sha256((place.image / "statement.json").read_bytes()).hexdigest()
    assert json.loads(verified.payload) == {
        "_type": "urn:blindbuild:rebuild:v1",
        "statement": {"sha256": digest},
    }
    after = [(place.image / name).read_bytes() for name in ("manifest.dsse.json", "release.dsse.json")]
    assert before == after


def test_a_file_where_the_records_go_is_wrong_usage(place: Place) -> None:
    (place.image / "rebuilds").write_bytes(b"")
    words = ("sign", place.image, "--as-rebuilder", "--key", place.key("carl"))
    refused(UsageError, "rebuilds: expected a directory", *words)


def test_a_rebuilder_whose_build_differs_signs_nothing(place: Place) -> None:
    published = place.root / "published"
    shutil.copytree(place.image, published)
    value = other_statement(place)
    (place.image / "statement.json").write_bytes(value)
    names = [line.split("  ")[1] for line in (place.image / "SHA256SUMS").read_text().splitlines()]
    write_sums(place.image, {name: (place.image / name).read_bytes() for name in names})
    done("sign", published, "--key", place.key("anna"))
    words = ("sign", place.image, "--as-rebuilder", "--key", place.key("carl"))
    for more in (("--published", published), ("--published", published / "manifest.dsse.json")):
        error = refused(VerificationError, "expected the published statement", *words, *more)
        assert isinstance(error, VerificationError)
        assert error.reason == "rebuild-of-other-statement"
    shutil.copy(published / "manifest.dsse.json", place.image)
    refused(VerificationError, "expected the published statement", *words)
    assert not (place.image / "rebuilds").exists()


# --- trust


def trust_words(place: Place, *more: object) -> tuple[object, ...]:
    root = place.root / "root.pem"
    root.write_text(authority().root_pem)
    return ("trust", "--product", "hello", "--tpm-root", root, *more, "-o", place.root / "trust.json")


def read_trust(place: Place, name: str = "trust.json"):
    return parse_trust((place.root / name).read_bytes())


def test_a_trust_file_names_a_threshold_and_rebuilders(place: Place) -> None:
    keys = ("--release-key", place.public("anna"), "--release-key", place.public("bert"))
    result = done(*trust_words(place, *keys, "--threshold", 2, "--rebuilder", place.public("carl"), "--json"))
    trust = read_trust(place)
    assert trust.release_keys == (place.keys["anna"], place.keys["bert"])
    assert (trust.threshold, trust.rebuilder_threshold) == (2, 1)
    assert trust.rebuilders == (place.keys["carl"],)
    assert json.loads(result.stdout) == {
        "trust": str(place.root / "trust.json"),
        "releaseKeys": [key.key_id for key in trust.release_keys],
        "threshold": 2,
        "rebuilders": [place.keys["carl"].key_id],
        "rebuildersNeeded": 1,
        "domain": trust.domain.hex,
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--release-key", "anna", "--rebuilder", "anna"), "expected rebuilders that are no release keys"),
        (("--release-key", "anna", "--release-key", "anna"), "the same release key is listed twice"),
        (("--release-key", "anna", "--threshold", "2"), "threshold: expected 1 to 1, got 2"),
        (("--release-key", "anna", "--rebuilders-needed", "1"), "rebuilders.keys: expected 1 to 16 entries"),
        (("--rebuilder", "anna"), "missing releaseKeys and threshold"),
    ],
)
def test_a_trust_file_that_would_ask_one_person_twice_is_not_made(
    place: Place, words: tuple[str, ...], said: str
) -> None:
    result = run(*trust_words(place, *(place.public(word) if word in place.keys else word for word in words)))
    assert isinstance(result.exception, BlindbuildError)
    assert said in result.exception.message
    assert not (place.root / "trust.json").exists()


def test_a_private_key_is_not_taken_for_a_public_one(place: Place) -> None:
    words = trust_words(place, "--release-key", place.key("anna"))
    refused(UsageError, "expected a public key, got a private one", *words)


def test_a_successor_keeps_everything_but_what_is_named(place: Place) -> None:
    keys = ("--release-key", place.public("anna"), "--release-key", place.public("bert"))
    done(*trust_words(place, *keys, "--threshold", 2))
    old = read_trust(place)
    rotate = ("trust", "--rotate", place.root / "trust.json", "-o", place.root / "next.json")
    result = done(*rotate, "--release-key", place.public("bert"), "--release-key", place.public("carl"))
    new = read_trust(place, "next.json")
    assert new.release_keys == (place.keys["bert"], place.keys["carl"])
    assert (new.threshold, new.tpm_roots, new.product) == (2, old.tpm_roots, "hello")
    assert new.domain == old.domain
    for word, name in (("added", "carl"), ("removed", "anna"), ("kept", "bert")):
        assert f"release key {word}: {place.keys[name].key_id}" in result.stderr
    # once more: the domain is still that of the first one
    third = ("trust", "--rotate", place.root / "next.json", "-o", place.root / "third.json")
    done(*third, "--rebuilder", place.public("anna"))
    assert read_trust(place, "third.json").domain == old.domain
    assert read_trust(place, "third.json").release_keys == new.release_keys


def test_a_successor_changes_how_many_are_needed(place: Place) -> None:
    keys = ("--release-key", place.public("anna"), "--rebuilder", place.public("bert"))
    done(*trust_words(place, *keys, "--rebuilder", place.public("carl")))
    assert read_trust(place).rebuilder_threshold == 2
    rotate = ("trust", "--rotate", place.root / "trust.json", "-o", place.root / "next.json")
    said = done(*rotate, "--rebuilders-needed", 1)
    assert "rebuilders needed: 1, before 2" in said.stderr
    assert read_trust(place, "next.json").rebuilder_threshold == 1
    assert read_trust(place, "next.json").rebuilders == read_trust(place).rebuilders
    # where it is not asked for, it is said as well
    said = done(*rotate, "--rebuilder", place.public("carl"))
    assert "rebuilders needed: 1, before 2" in said.stderr
    assert "release keys needed" not in said.stderr


def test_a_successor_says_anew_how_a_tpm_is_believed(place: Place) -> None:
    done(*trust_words(place, "--release-key", place.public("anna")))
    issuer = place.root / "issuer.pem"
    issuer.write_text(authority().issuer_pem)
    rotate = ("trust", "--rotate", place.root / "trust.json", "-o", place.root / "next.json")
    done(*rotate, "--test-tpm-root", place.root / "root.pem", "--test-tpm-issuer", issuer)
    new = read_trust(place, "next.json")
    assert (len(new.tpm_roots), len(new.test_tpm_roots), len(new.test_tpm_intermediates)) == (0, 1, 1)


def test_a_successor_is_about_the_same_product(place: Place) -> None:
    done(*trust_words(place, "--release-key", place.public("anna")))
    words = ("trust", "--rotate", place.root / "trust.json", "--product", "other", "-o", place.root / "x")
    refused(UsageError, "expected a trust file for other, got one for hello", *words)
    refused(UsageError, "expected --product", "trust", "-o", place.root / "x")


def test_a_name_in_a_key_file_does_not_steer_the_terminal_of_who_is_asked_for_a_pin() -> None:
    @click.command()
    def ask() -> None:
        assert ask_pin("PIN of the token \x1b[2K\x1b[1Aother") == "1234"

    said = CliRunner().invoke(ask, input="1234\n", env={"BLINDBUILD_PIN": ""})
    assert said.exit_code == 0
    assert "\x1b" not in said.output
    assert r"PIN of the token \x1b[2K" in said.output
