"""Who signs, played against servers on loopback: a thief of one key of two, rebuilders, rotation, tokens."""

from __future__ import annotations

import base64
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from blindbuild.cli.main import main
from blindbuild.client import Expectation, StateStore, attest
from blindbuild.errors import VerificationError
from blindbuild.formats.dsse import SignerKey, parse_envelope, verify_envelope
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.publish import (
    Envelopes,
    ReleaseSigner,
    TrustContent,
    cosign_envelopes,
    generate_key,
    load_public_key,
    make_trust,
    replace_trust,
    sign_payload,
    sign_rebuild,
)
from tests.cli.test_image_directory import write_image
from tests.fakes.attester import Attester, Server
from tests.fakes.published import (
    NOW,
    RELEASE_TYPE,
    STATEMENT_TYPE,
    command_line,
    honest_boot,
    log_bytes,
    release_value,
    statement_value,
)
from tests.fakes.world import TEST_POLICY, authority, boot_of, tpm

SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
ANNA, BERT, CARL, DORA = (generate_key() for _ in range(4))


def trust_content(*keys: ReleaseSigner, needed: int, **changes) -> TrustContent:
    base = TrustContent(
        product="hello",
        release_keys=[key.public for key in keys],
        threshold=needed,
        test_tpm_roots=[authority().root_pem],
        test_tpm_intermediates=[authority().issuer_pem],
    )
    return dataclasses.replace(base, **changes)


def trust_of(*keys: ReleaseSigner, needed: int, **changes) -> TrustRoots:
    return parse_trust(make_trust(trust_content(*keys, needed=needed, **changes)))


def published(*signers: ReleaseSigner, value: dict | None = None) -> tuple[Envelopes, bytes]:
    """Envelopes that these people signed, and the statement."""
    said = statement_value() if value is None else value
    statement = rfc8785.dumps(said)
    release = rfc8785.dumps(release_value(statement, said))
    first, *others = signers
    envelopes = Envelopes(
        sign_payload(first, STATEMENT_TYPE, statement), sign_payload(first, RELEASE_TYPE, release)
    )
    for key in others:
        envelopes = cosign_envelopes(key, envelopes)
    return envelopes, statement


def ask(server: Server, trust: TrustRoots, envelopes: Envelopes, **changes) -> bytes:
    expectation = Expectation(envelopes.manifest, envelopes.release, trust, TEST_POLICY, clock=lambda: NOW)
    with attest(server.url, dataclasses.replace(expectation, **changes)).accept() as connection:
        return connection.post("/v1/hello", b"secret")


def evil_statement() -> tuple[dict, Attester]:
    """A statement about a machine with another command line, and that machine: the thief's own release."""
    events = [command_line("evil") if e.what == "command line" else e for e in honest_boot()]
    machine, log = boot_of(events)
    value = statement_value(events)
    value["predicate"]["sequence"] += 1
    return value, Attester(tpm=machine, event_log=log)


def test_two_of_two_people_release_and_data_flows() -> None:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    envelopes, _ = published(ANNA, BERT)
    with Server(attester.handle, attester.key) as server:
        assert ask(server, trust_of(ANNA, BERT, needed=2), envelopes) == b"hello, secret"


def key_thief_envelopes(value: dict) -> dict[str, Envelopes]:
    """What somebody who stole Anna's key can publish, where Anna and Bert are needed."""
    alone, _ = published(ANNA, value=value)
    stranger, _ = published(ANNA, DORA, value=value)
    genuine, _ = published(ANNA, BERT)
    twice = Envelopes(*(double(envelope) for envelope in (alone.manifest, alone.release)))
    borrowed = Envelopes(
        *(
            with_signatures(mine, theirs)
            for mine, theirs in ((alone.manifest, genuine.manifest), (alone.release, genuine.release))
        )
    )
    return {
        "one signature": alone,
        "the same signature twice, under another key id": twice,
        "a second signature by a key of his own": stranger,
        "Bert's signature over the genuine release": borrowed,
    }


def double(envelope: bytes) -> bytes:
    """Claims that Bert made the signature too."""
    return with_signatures(envelope, envelope, key_id=BERT.public.key_id)


def with_signatures(envelope: bytes, other: bytes, *, key_id: str | None = None) -> bytes:
    """Return an envelope with another one's signatures beside its own."""
    value, more = json.loads(envelope), json.loads(other)
    for signature in more["signatures"]:
        value["signatures"].append(signature if key_id is None else signature | {"keyid": key_id})
    assert base64.b64decode(value["payload"])
    return json.dumps(value).encode()


@pytest.mark.parametrize("name", key_thief_envelopes(statement_value()))
def test_a_thief_of_one_key_of_two_gets_no_data(name: str) -> None:
    value, attester = evil_statement()
    envelopes = key_thief_envelopes(value)[name]
    with Server(attester.handle, attester.key) as server:
        # where one key is enough, the thief wins: that is what the threshold is for
        assert ask(server, trust_of(ANNA, BERT, needed=1), envelopes) == b"hello, secret"
        asked = len(attester.requests)
        with pytest.raises(VerificationError) as refused:
            ask(server, trust_of(ANNA, BERT, needed=2), envelopes)
        assert len(attester.requests) == asked  # not even the server is asked
    error = refused.value
    assert (error.step, error.reason) == ("M4", "envelope-refused")
    assert "expected signatures by 2 trusted keys, got 1" in error.message
    assert "signed by too few of its publisher's keys" in (error.hint or "")
    assert "No server was asked" in (error.hint or "")


def test_a_thief_of_both_release_keys_needs_the_rebuilders_too() -> None:
    value, attester = evil_statement()
    envelopes, statement = published(ANNA, BERT, value=value)
    needing = {"rebuilders": [CARL.public, DORA.public], "rebuilders_needed": 1}
    trust = trust_of(ANNA, BERT, needed=2, **needing)
    genuine, honest = published(ANNA, BERT)
    with Server(attester.handle, attester.key) as server:
        for rebuilds, reason in (
            ((), "rebuilds-missing"),
            ((sign_rebuild(ANNA, statement), sign_rebuild(BERT, statement)), "rebuild-by-publisher"),
            ((sign_rebuild(CARL, honest), sign_rebuild(DORA, honest)), "rebuild-of-other-statement"),
        ):
            with pytest.raises(VerificationError) as refused:
                ask(server, trust, envelopes, rebuilds=rebuilds)
            assert (refused.value.step, refused.value.reason) == ("M14", reason)
            assert (
                "expected 1 independent rebuilders to have found this statement, got 0"
                in refused.value.message
            )
        assert attester.requests == []
    good = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    with Server(good.handle, good.key) as server:
        assert ask(server, trust, genuine, rebuilds=(sign_rebuild(CARL, honest),)) == b"hello, secret"


def test_new_release_keys_do_not_let_an_older_release_in(tmp_path: Path) -> None:
    old = make_trust(trust_content(ANNA, BERT, CARL, needed=2))
    # Carl's key is replaced by Dora's; Anna and Bert, who signed the older release, stay
    new = replace_trust(
        old, TrustContent(product="hello", release_keys=[k.public for k in (ANNA, BERT, DORA)])
    )
    by_hand = make_trust(trust_content(ANNA, BERT, DORA, needed=2))
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    newer_value = statement_value()
    newer_value["predicate"]["sequence"] = 43
    older, _ = published(ANNA, BERT)
    newer, _ = published(ANNA, BERT, value=newer_value)
    state = StateStore(tmp_path)
    with Server(attester.handle, attester.key) as server:
        assert ask(server, parse_trust(old), newer, state=state)
        with pytest.raises(VerificationError) as refused:
            ask(server, parse_trust(new), older, state=state)
        assert (refused.value.step, refused.value.reason) == ("M10", "rollback")
        assert ask(server, parse_trust(new), newer, state=state)
        # a file that begins anew begins anew: the older release comes in, and the first use is said aloud
        assert ask(server, parse_trust(by_hand), older, state=state)


def test_each_channel_remembers_its_own_releases(tmp_path: Path) -> None:
    attester = Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))
    beta_value = statement_value()
    beta_value["predicate"]["sequence"] = 50
    statement = rfc8785.dumps(beta_value)
    release = rfc8785.dumps(release_value(statement, beta_value) | {"channel": "beta"})
    beta = Envelopes(sign_payload(ANNA, STATEMENT_TYPE, statement), sign_payload(ANNA, RELEASE_TYPE, release))
    stable, _ = published(ANNA)
    trust, state = trust_of(ANNA, needed=1), StateStore(tmp_path)
    wanted = dataclasses.replace(TEST_POLICY, channel="beta")
    with Server(attester.handle, attester.key) as server:
        assert ask(server, trust, beta, state=state, policy=wanted)
        # sequence 42 is older than 50, but that is another line of releases
        assert ask(server, trust, stable, state=state)
        for envelopes, policy in ((beta, TEST_POLICY), (stable, wanted)):
            with pytest.raises(VerificationError) as refused:
                ask(server, trust, envelopes, state=state, policy=policy)
            assert "M9 release-of-other-channel" in refused.value.message
    kept = [state.read(trust.domain_of(channel)) for channel in ("stable", "beta")]
    assert [history.sequence for history in kept if history is not None] == [42, 50]


# --- tokens


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An empty SoftHSM token, and the environment of programs that use it."""
    pytest.importorskip("pkcs11", reason="needs python-pkcs11 (the extra `pkcs11`)")
    if not SOFTHSM.exists():
        pytest.skip(f"needs {SOFTHSM} (Debian package libsofthsm2)")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration), "PYTHONPATH": os.pathsep.join(sys.path)}
    made = ["softhsm2-util", "--init-token", "--free", "--label", "releases", "--so-pin", "5678"]
    subprocess.run([*made, "--pin", "1234"], env=environment, check=True, capture_output=True)
    return environment


URI = f"pkcs11:token=releases;object=hello?module-path={SOFTHSM}"
RIGHT = {"BLINDBUILD_PIN": "1234"}
_PLAY = """
import json, sys
from click.testing import CliRunner
from blindbuild.cli.main import main
played = []
for words, environment in json.load(sys.stdin):
    done = CliRunner().invoke(main, words, env={"BLINDBUILD_PIN": "", **environment})
    error = done.exception
    said = done.output if error is None else f"{done.output} {getattr(error, 'message', error)} {error}"
    played.append([getattr(error, "exit_code", done.exit_code), said])
print(json.dumps(played))
"""


def play(environment: dict[str, str], *commands: tuple[tuple[object, ...], dict[str, str]]) -> list[str]:
    """Run commands in a process of their own, since a module reads its configuration once."""
    asked = json.dumps([([str(word) for word in words], more) for words, more in commands])
    program = [sys.executable, "-c", _PLAY]
    done = subprocess.run(program, env=environment, input=asked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [f"{code}: {said}" for code, said in json.loads(done.stdout)]


def signers_of(image: Path, *keys: SignerKey) -> tuple[str, ...]:
    envelope = parse_envelope((image / "manifest.dsse.json").read_bytes())
    verified = verify_envelope(envelope, keys=keys, threshold=1, payload_type=STATEMENT_TYPE)
    assert verified.payload == (image / "statement.json").read_bytes()
    return verified.signers


def test_a_key_made_in_a_token_signs_releases_and_never_leaves_it(
    tmp_path: Path, token: dict[str, str]
) -> None:
    images = [write_image(tmp_path / name) for name in ("by-file", "by-uri")]
    key, pin = tmp_path / "release.key", tmp_path / "pin"
    pin.write_text("1234\n")
    said = play(
        token,
        (("keygen", "--token", URI, "-o", key), RIGHT),
        (("sign", images[0], "--key", key), RIGHT),
        (("sign", images[1], "--key", f"{URI}&pin-source=file:{pin}"), {}),
        (("sign", images[0], "--add", "--key", URI), RIGHT),
        (("sign", images[0], "--as-rebuilder", "--key", key), RIGHT),
        (("key", "show", URI), RIGHT),
        (("keygen", "--token", URI, "-o", tmp_path / "again.key"), RIGHT),
    )
    assert [line[0] for line in said] == ["0", "0", "0", "1", "0", "0", "2"], said
    public = load_public_key((tmp_path / "release.key.pub").read_bytes())
    assert public.is_p256
    assert "PRIVATE" not in key.read_text()
    assert "1234" not in key.read_text()
    assert [signers_of(image, public) for image in images] == [(public.key_id,)] * 2
    assert "has signed this release already" in said[3]  # by another name it is the same key
    assert (images[0] / "rebuilds" / f"{public.key_id}.dsse.json").is_file()
    assert said[5].strip() == f"0: {public.key_id}"
    assert "a key 'hello' is there already" in said[6]


def test_a_wrong_pin_or_a_wrong_key_signs_nothing(tmp_path: Path, token: dict[str, str]) -> None:
    image, key = write_image(tmp_path / "image"), tmp_path / "release.key"
    other = URI.replace("object=hello", "object=other")
    third = URI.replace("object=hello", "object=third")
    mixed = ("key", "pin", URI, "--public", tmp_path / "other.key.pub", "-o", tmp_path / "mixed.key")
    said = play(
        token,
        (("keygen", "--token", URI, "-o", key), RIGHT),
        (("keygen", "--token", other, "-o", tmp_path / "other.key"), RIGHT),
        (("sign", image, "--key", key), {"BLINDBUILD_PIN": "4321"}),
        (("sign", image, "--key", third), RIGHT),
        (("sign", image, "--key", URI.replace("token=releases", "token=other")), RIGHT),
        (("sign", image, "--key", f"{URI}&pin-value=1234"), {}),
        (mixed, RIGHT),
    )
    for line, code, expected in zip(
        said[2:],
        "12221",
        (
            "pkcs11: ",
            "expected one P-256 or Ed25519 private key that fits, got 0",
            "expected one token that fits, got 0",
            "expected no pin-value",
            "got one that this key did not make",
        ),
        strict=True,
    ):
        assert line.startswith(f"{code}: ")
        assert expected in line
    assert not (tmp_path / "mixed.key").exists()
    assert not (image / "manifest.dsse.json").exists()


def test_other_ways_to_a_token_sign_too(tmp_path: Path, token: dict[str, str]) -> None:
    """The signer of securesystemslib for PKCS#11, and a key that was made elsewhere, an Ed25519 one."""
    pytest.importorskip("securesystemslib")
    images, edwards = [write_image(tmp_path / name) for name in ("hsm", "edwards")], generate_key()
    (tmp_path / "key.pem").write_bytes(edwards.to_pem())
    named = ["--token", "releases", "--label", "edwards", "--id", "09", "--pin", "1234"]
    made = ["softhsm2-util", "--import", str(tmp_path / "key.pem"), *named]
    subprocess.run(made, env=token, check=True, capture_output=True)
    large = ec.generate_private_key(ec.SECP384R1())
    (tmp_path / "key.pem").write_bytes(large.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    named = ["--token", "releases", "--label", "large", "--id", "0a", "--pin", "1234"]
    subprocess.run([*made[:3], *named], env=token, check=True, capture_output=True)
    numbered = URI.replace("object=hello", "object=hello;id=%07")
    public = tmp_path / "release.key.pub"
    said = play(
        {**token, "PYKCS11LIB": str(SOFTHSM)},
        (("keygen", "--token", numbered, "-o", tmp_path / "release.key"), RIGHT),
        (("key", "pin", "hsm:7?label=releases", "--public", public, "-o", tmp_path / "hsm.key"), RIGHT),
        (("sign", images[0], "--key", tmp_path / "hsm.key"), RIGHT),
        (("sign", images[1], "--key", URI.replace("object=hello", "object=edwards")), RIGHT),
        (("key", "show", URI.replace("object=hello", "id=%09")), RIGHT),
        (("key", "show", URI.replace("object=hello", "object=large")), RIGHT),
    )
    assert [line[0] for line in said] == ["0"] * 5 + ["2"], said
    assert said[4].strip() == f"0: {edwards.public.key_id}"
    assert "expected a P-256 or Ed25519 key, got one with parameters 06052b81040022" in said[5]
    assert signers_of(images[0], load_public_key(public.read_bytes()))
    assert signers_of(images[1], edwards.public) == (edwards.public.key_id,)


def test_a_pin_is_asked_for_when_nothing_gives_it(tmp_path: Path) -> None:
    image = write_image(tmp_path / "image")
    uri = "pkcs11:token=releases;object=a?module-path=/nowhere/token.so"
    words = ["sign", str(image), "--key", uri]
    done = CliRunner().invoke(main, words, input="open-sesame\n", env={"BLINDBUILD_PIN": ""})
    assert "PIN of the token releases" in done.output
    assert "sesame" not in done.output
