"""`export`: only what a client accepts goes out, and other people's readers find in it what was signed."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from sigstore_models.bundle.v1 import Bundle

from blindbuild.cli import judging
from blindbuild.cli.main import main
from blindbuild.client import Expectation
from blindbuild.errors import UsageError, VerificationError
from blindbuild.formats.dsse import SignerKey
from blindbuild.manifest import parse_trust
from blindbuild.publish import add_signature, exporters, generate_key
from blindbuild.publish.export_sigstore import sigstore_signature
from blindbuild.verify import Policy
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.published import NOW, RELEASE_TYPE, STATEMENT_TYPE, Publisher
from tests.fakes.world import authority
from tests.unit.test_platform_roots import NITRO

ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
LEDGER = ledger_bytes(closed_ledger())


class P256Signer:
    """A release key as key services have them, signing with another library's calls than ours."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public = SignerKey.from_spki(spki)

    def sign(self, message: bytes) -> bytes:
        r, s = decode_dss_signature(self._key.sign(message, ec.ECDSA(SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def write_release(place: Path, owner: Publisher, *more_keys: object, threshold: int = 1) -> None:
    place.mkdir(parents=True, exist_ok=True)
    envelope, release = owner.envelope, owner.release
    for key in more_keys:
        envelope = add_signature(key, envelope, STATEMENT_TYPE)
        release = add_signature(key, release, RELEASE_TYPE)
    keys = [owner.key.public, *(key.public for key in more_keys)]
    (place / "manifest.dsse.json").write_bytes(envelope)
    (place / "release.dsse.json").write_bytes(release)
    (place / "channels.json").write_bytes(LEDGER)
    trust = owner.trust(**ROOTS, release_keys=keys, threshold=threshold)
    (place / "trust.json").write_bytes(trust)


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(judging, "Expectation", partial(Expectation, clock=lambda: NOW))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    write_release(tmp_path / "image", publisher_of(LEDGER))
    return tmp_path / "image"


def exported(kind: str, image: Path, *more: str) -> Result:
    words = ("--manifest", str(image), "--trust", str(image / "trust.json"), *more)
    return CliRunner().invoke(main, ["export", "--format", kind, *words])


def key_for(kind: str, image: Path) -> tuple[str, ...]:
    """The options that sign a format, with a key of the kind that it wants."""
    form = exporters.FORMATS[kind]
    if form.signed_by is None:
        return ()
    pem = generate_key().to_pem()
    if form.signed_by is exporters.SignedBy.RSA_KEY:
        rsa_key = rsa.generate_private_key(65537, 2048)
        pem = rsa_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (image / "export.key").write_bytes(pem)
    return ("--key", str(image / "export.key"))


def verify_signature(spki: bytes, signature: bytes, payload: bytes) -> None:
    """Check a DSSE signature as sigstore's clients do: Ed25519, or ECDSA in DER."""
    message = f"DSSEv1 {len(STATEMENT_TYPE)} {STATEMENT_TYPE} {len(payload)} ".encode() + payload
    key = load_der_public_key(spki)
    if isinstance(key, Ed25519PublicKey):
        key.verify(signature, message)
    else:
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, message, ec.ECDSA(SHA256()))


def test_a_sigstore_bundle_is_read_by_sigstores_own_models(image: Path) -> None:
    done = exported("sigstore", image)
    assert done.exit_code == 0, done.exception
    bundle = Bundle.from_json(done.stdout)
    assert bundle.media_type == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle.dsse_envelope is not None
    assert bundle.verification_material.public_key is not None
    owner = publisher_of(LEDGER)
    payload = base64.b64decode(json.loads(done.stdout)["dsseEnvelope"]["payload"])
    assert payload == owner.statement
    (signature,) = json.loads(done.stdout)["dsseEnvelope"]["signatures"]
    spki = owner.key.public.spki
    verify_signature(spki, base64.b64decode(signature["sig"]), payload)
    hint = base64.b64encode(hashlib.sha256(spki).digest()).decode()
    assert bundle.verification_material.public_key.hint == hint
    assert "note: no entry of a Rekor log is in it" in done.stderr


def test_a_signature_of_a_p256_key_is_one_that_sigstores_clients_read(image: Path) -> None:
    other = P256Signer()
    write_release(image, publisher_of(LEDGER), other, threshold=2)
    done = exported("sigstore", image)
    assert done.exit_code == 0, done.exception
    value = json.loads(done.stdout)
    keys = {key.key_id: key for key in (other.public, publisher_of(LEDGER).key.public)}
    first = keys[min(keys)]
    hint = base64.b64decode(value["verificationMaterial"]["publicKey"]["hint"])
    assert hint.hex() == first.key_id
    assert "one signature, where the trust file wants 2" in done.stderr
    envelope = value["dsseEnvelope"]
    verify_signature(
        first.spki,
        base64.b64decode(envelope["signatures"][0]["sig"]),
        base64.b64decode(envelope["payload"]),
    )


def test_every_p256_signature_becomes_der(image: Path) -> None:
    signer = P256Signer()
    payload = publisher_of(LEDGER).statement
    message = f"DSSEv1 {len(STATEMENT_TYPE)} {STATEMENT_TYPE} {len(payload)} ".encode() + payload
    for _ in range(20):  # of random numbers that begin with a set bit, or with zeros
        made = sigstore_signature(exporters.CountedSignature(signer.public, signer.sign(message)))
        verify_signature(signer.public.spki, made, payload)


def test_an_in_toto_bundle_is_verified_by_another_dsse_library(image: Path) -> None:
    other = generate_key()
    write_release(image, publisher_of(LEDGER), other, threshold=2)
    done = exported("intoto", image, "-o", str(image / "hello.intoto.jsonl"))
    assert done.exit_code == 0, done.exception
    assert done.stdout == f"{image}/hello.intoto.jsonl\n"
    (line,) = (image / "hello.intoto.jsonl").read_text().splitlines()
    keys = [_sslib_key(key) for key in (other.public, publisher_of(LEDGER).key.public)]
    envelope = Envelope.from_dict(json.loads(line))
    assert set(envelope.verify(keys, 2)) == {key.keyid for key in keys}
    assert envelope.payload == publisher_of(LEDGER).statement
    assert json.loads(envelope.payload)["_type"] == "https://in-toto.io/Statement/v1"


def _sslib_key(key: SignerKey) -> SSlibKey:
    crypto = load_der_public_key(key.spki)
    assert isinstance(crypto, Ed25519PublicKey)
    made = SSlibKey.from_crypto(crypto)
    made.keyid = key.key_id
    return made


@pytest.mark.parametrize("kind", ["intoto", "sigstore"])
def test_signatures_that_nobody_checked_do_not_go_out(kind: str, image: Path) -> None:
    stranger = generate_key()
    path = image / "manifest.dsse.json"
    path.write_bytes(add_signature(stranger, path.read_bytes(), STATEMENT_TYPE))
    value = json.loads(exported(kind, image).stdout)
    signatures = value.get("dsseEnvelope", value)["signatures"]
    assert len(signatures) == 1
    assert stranger.public.key_id not in json.dumps(value)


REFUSED = {
    "a stranger's": (lambda owner: Publisher(generate_key(), owner.value), "M4", "envelope-refused"),
    "expired": (
        lambda owner: owner.but(release={"validUntil": "2026-02-01T00:00:00Z"}),
        "M9",
        "release-expired",
    ),
    "for debugging": (lambda owner: owner.but(debug=True), "P1", "debug-image"),
    "another product's": (lambda owner: owner.but(name="other"), "M8", "other-product"),
}


@pytest.mark.parametrize("kind", exporters.FORMATS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_a_client_refuses_is_not_exported(kind: str, name: str, image: Path) -> None:
    make, step, reason = REFUSED[name]
    bad = make(publisher_of(LEDGER))
    (image / "manifest.dsse.json").write_bytes(bad.envelope)
    (image / "release.dsse.json").write_bytes(bad.release)
    output = image / "out"
    error = exported(kind, image, "-o", str(output), *key_for(kind, image)).exception
    assert isinstance(error, VerificationError)
    assert (error.step, error.reason, error.exit_code) == (step, reason, 3)
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--platform", "x"), "--platform: intoto holds the whole statement"),
        (("--key", "x"), "--key: intoto has no signature of its own"),
    ],
)
def test_an_option_that_would_do_nothing_is_wrong_usage(
    more: tuple[str, ...], said: str, image: Path
) -> None:
    error = exported("intoto", image, *more).exception
    assert isinstance(error, UsageError)
    assert said in error.message


def test_a_format_of_one_platform_is_told_which(image: Path) -> None:
    release = _verified(image)
    (only,) = release.statement.platforms
    assert exporters.ExportRequest(release).chosen_platform() == only
    assert exporters.ExportRequest(release, platform=only.identifier).chosen_platform() == only
    with pytest.raises(UsageError, match=f"expected --platform to be one of {only.identifier}, got x"):
        exporters.ExportRequest(release, platform="x").chosen_platform()


def _verified(image: Path) -> exporters.VerifiedRelease:
    trust = parse_trust((image / "trust.json").read_bytes())
    files = [(image / name).read_bytes() for name in ("manifest.dsse.json", "release.dsse.json")]
    return exporters.verify_release(Expectation(*files, trust, Policy(), clock=lambda: NOW))


def test_every_format_has_its_module_and_the_help_names_it() -> None:
    shown = " ".join(CliRunner().invoke(main, ["export", "--help"], env={"COLUMNS": "400"}).stdout.split())
    for name, form in exporters.FORMATS.items():
        assert f"{name}: {form.line}" in shown


KEYS_OF_PAGE = {"corim": "release.key", "pcrsig": "policy.pem"}


def release_of_enclave(place: Path) -> None:
    """The same owner's release of an enclave image."""
    write_release(place, publisher_of(LEDGER).but(platforms=[NITRO]))


def test_a_format_with_a_signature_of_its_own_wants_a_key_of_its_kind(image: Path) -> None:
    for kind, said in (("corim", "a key as releases have"), ("pcrsig", "an RSA key")):
        error = exported(kind, image).exception
        assert isinstance(error, UsageError)
        assert error.message == f"{kind}: expected --key with {said}, which signs it, got none"
    error = exported("pcrsig", image, *key_for("corim", image)).exception
    assert isinstance(error, UsageError)
    assert error.message.startswith("expected an RSA key")
    error = exported("corim", image, *key_for("pcrsig", image)).exception
    assert isinstance(error, UsageError)
    assert error.message.endswith("expected an Ed25519 or P-256 key, got RSAPrivateKey")


def test_the_bank_of_a_policy_is_the_one_that_was_asked_for(image: Path) -> None:
    made = json.loads(exported("keylime", image, "--bank", "sha384").stdout)
    assert {len(values[0]) for values in made.values()} == {96}


def test_the_commands_of_the_page_run(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "export.md").read_text()
    monkeypatch.chdir(image.parent)
    write_release(Path("images/hello/1.0.0"), publisher_of(LEDGER))
    Path("trust.json").write_bytes((image / "trust.json").read_bytes())
    lines = [line.removeprefix("$ ") for line in page.splitlines() if line.startswith("$ ")]
    assert {shlex.split(line)[3] for line in lines} <= exporters.FORMATS.keys()
    for kind in ("corim", "pcrsig"):
        key_for(kind, image)
        (image / "export.key").rename(KEYS_OF_PAGE[kind])
    release_of_enclave(Path("images/enclave/1.0.0"))
    for line in lines:
        done = CliRunner().invoke(main, shlex.split(line)[1:])
        assert done.exit_code == 0, (line, done.exception)
        assert Path(shlex.split(line)[-1]).stat().st_size > 0
    assert all(f"`{name}`" in page for name in exporters.FORMATS)
