"""Release keys by reference: files, key files, URIs; and what a signer may never get past."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from blindbuild.errors import ToolError, UsageError
from blindbuild.formats.dsse import SignerKey, parse_envelope, verify_envelope
from blindbuild.publish import (
    KeyFile,
    KeyKind,
    check_signer,
    generate_release_key,
    generate_token_key,
    load_public_key,
    load_release_key,
    open_signer,
    parse_key_file,
    parse_key_uri,
    read_public,
    scheme_of,
    sign_payload,
    write_key_file,
)
from blindbuild.publish.signers import SERVICES, fixed_size
from tests.fakes.attester import b64

P256, ED25519 = generate_release_key(KeyKind.P256), generate_release_key(KeyKind.ED25519)
URI = "pkcs11:token=releases;object=hello?module-path=/lib/token.so"


def no_pin(what: str) -> str:
    raise AssertionError(f"asked for {what}")


def pem_of(private, password: bytes | None = None) -> bytes:
    locked = NoEncryption() if password is None else BestAvailableEncryption(password)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked)


def public_pem(key: SignerKey) -> bytes:
    return load_der_public_key(key.spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("key", [P256, ED25519], ids=["p256", "ed25519"])
def test_a_key_in_a_file_signs_what_the_verifier_takes(tmp_path: Path, key) -> None:
    (tmp_path / "release.key").write_bytes(key.to_pem())
    with open_signer(str(tmp_path / "release.key"), ask_pin=no_pin) as signer:
        assert signer.public == key.public
        envelope = parse_envelope(sign_payload(signer, "application/x", b"payload"))
    verified = verify_envelope(envelope, keys=[key.public], threshold=1, payload_type="application/x")
    assert verified.signers == (key.public.key_id,)


def test_a_p256_signature_is_r_and_s_of_32_bytes_that_cryptography_accepts() -> None:
    signature = P256.sign(b"message")
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    public = load_der_public_key(P256.public.spki)
    assert isinstance(public, ec.EllipticCurvePublicKey)
    public.verify(encode_dss_signature(r, s), b"message", ec.ECDSA(hashes.SHA256()))
    with pytest.raises(InvalidSignature):
        public.verify(encode_dss_signature(r, s), b"another", ec.ECDSA(hashes.SHA256()))


def test_short_numbers_of_a_signature_are_padded() -> None:
    # the DER by hand: SEQUENCE of INTEGER 1 and INTEGER 0x0080
    der = bytes.fromhex("300702010102020080")
    assert fixed_size(der) == bytes(31) + b"\x01" + bytes(31) + b"\x80"


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"x",
        bytes(64),
        bytes.fromhex("300702010102020080") + b"\0",  # a byte too many
        bytes.fromhex("30060201010201ff"),  # a negative number
        bytes.fromhex("300802020001020201ff"),  # not the shortest form
        encode_dss_signature(1 << 256, 1),
    ],
)
def test_what_is_no_p256_signature_in_der_is_refused(der: bytes) -> None:
    with pytest.raises(ToolError, match="expected an ECDSA P-256 signature in DER"):
        fixed_size(der)


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (b"", "unencrypted private key in PEM"),
        (pem_of(ed25519.Ed25519PrivateKey.generate(), b"secret"), "unencrypted private key in PEM"),
        (
            pem_of(rsa.generate_private_key(65537, 2048)),
            "expected an Ed25519 or P-256 key, got RSA",
        ),
        (pem_of(ec.generate_private_key(ec.SECP384R1())), "expected an Ed25519 or P-256 key"),
        (pem_of(ec.generate_private_key(ec.SECP256K1())), "expected an Ed25519 or P-256 key"),
        (ED25519.public.spki, "unencrypted private key in PEM"),
    ],
)
def test_a_file_that_is_no_release_key_is_refused(pem: bytes, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_release_key(pem)


@pytest.mark.parametrize("key", [P256, ED25519], ids=["p256", "ed25519"])
def test_public_keys_are_read_from_every_form_they_come_in(tmp_path: Path, key) -> None:
    forms = {
        "der": key.public.spki,
        "pem": public_pem(key.public),
        "private": key.to_pem(),
        "key file": write_key_file(KeyFile(URI, key.public)),
    }
    for name, data in forms.items():
        (tmp_path / name).write_bytes(data)
        assert read_public(str(tmp_path / name), ask_pin=no_pin) == key.public
    assert load_public_key(forms["pem"]) == load_public_key(forms["der"]) == key.public


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"-----BEGIN PUBLIC KEY-----\nAAAA\n", P256.public.spki + b"\0"],
)
def test_what_is_no_public_key_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="public key"):
        load_public_key(data)


def test_a_private_key_is_never_taken_for_a_public_one() -> None:
    for key in (P256, ED25519):
        with pytest.raises(UsageError, match="expected a public key, got a private one"):
            load_public_key(key.to_pem())


def test_a_key_is_of_the_kind_that_was_asked_for() -> None:
    assert P256.public.is_p256
    assert not ED25519.public.is_p256


def test_a_public_key_whose_signatures_would_not_count_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    with pytest.raises(UsageError, match="public key: expected curve P-256"):
        load_public_key(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_key_file_reads_back() -> None:
    for uri in (URI, "awskms:alias/releases", "hv:releases/1"):
        assert parse_key_file(write_key_file(KeyFile(uri, P256.public))) == KeyFile(uri, P256.public)


GOOD = {"version": 1, "uri": URI, "public": b64(P256.public.spki)}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (GOOD | {"version": 2}, "expected 1 to 1, got 2"),
        (GOOD | {"pin": "1234"}, "unknown 'pin'"),
        ({"version": 1, "uri": URI}, "missing public"),
        (GOOD | {"public": "AAAA"}, "SubjectPublicKeyInfo"),
        (GOOD | {"uri": "gnupg:1234"}, "expected a path or a URI of pkcs11:, awskms:"),
        (GOOD | {"uri": URI + "&pin-value=1234"}, "expected no pin-value"),
        ([], "expected an object"),
    ],
)
def test_a_key_file_that_breaks_a_rule_is_refused(value: object, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_key_file(json.dumps(value).encode())
    assert said in refused.value.message
    assert "1234" not in f"{refused.value.message} {refused.value.hint}".replace("gnupg:1234", "")


def test_a_key_file_names_a_uri_and_never_another_file(tmp_path: Path) -> None:
    # a path in a key file would be that of whoever hands it on
    (tmp_path / "release.key").write_bytes(json.dumps(GOOD | {"uri": str(tmp_path / "x.pem")}).encode())
    with pytest.raises(UsageError, match="expected a URI"):
        with open_signer(str(tmp_path / "release.key"), ask_pin=no_pin):
            pass


@pytest.mark.parametrize(
    ("reference", "scheme"),
    [
        ("release.key", None),
        ("/a/release.key", None),
        ("./awskms:key", None),
        (URI, "pkcs11"),
        ("awskms:alias/x", "awskms"),
        ("hv:name/1", "hv"),
        ("hsm:2?label=x", "hsm"),
    ],
)
def test_a_reference_is_a_path_or_a_uri(reference: str, scheme: str | None) -> None:
    assert scheme_of(reference) == scheme


@pytest.mark.parametrize(
    "uri", ["gnupg:ABCD", "https://x/", "AWSKMS:alias/x", " awskms:alias/x", "sigstore:"]
)
def test_a_uri_of_another_kind_is_no_path(uri: str) -> None:
    with pytest.raises(UsageError, match="expected a path or a URI of pkcs11:"):
        scheme_of(uri)


@pytest.mark.parametrize("uri", [f"{URI}&pin-value=s3cret", "PKCS11:object=a?pin-value=s3cret"])
def test_a_pin_on_the_command_line_is_refused_and_not_shown(uri: str) -> None:
    with pytest.raises(UsageError) as refused:
        with open_signer(uri, ask_pin=no_pin):
            pass
    assert "s3cret" not in f"{refused.value.message} {refused.value.hint}"


def test_a_pin_file_spares_the_question_and_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "pin").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="expected a PIN in UTF-8"):
        with open_signer(f"{URI}&pin-source=file:{tmp_path}/pin", ask_pin=no_pin):
            pass


@pytest.mark.parametrize("named", ["id=%01", f"object={'a' * 65}"])
def test_a_new_key_in_a_token_gets_a_label_of_a_length_that_tokens_take(named: str) -> None:
    with pytest.raises(UsageError, match="expected object=LABEL of 1 to 64 characters"):
        generate_token_key(parse_key_uri(f"pkcs11:{named}?module-path=/lib/token.so"), pin="1234")


def test_a_key_of_a_service_needs_its_public_key() -> None:
    for uri in ("awskms:alias/x", "hv:name/1", "gcpkms:x"):
        with pytest.raises(UsageError, match="expected the public key beside the URI") as refused:
            with open_signer(uri, ask_pin=no_pin):
                pass
        assert "blindbuild key pin" in (refused.value.hint or "")


LIBRARIES = {"awskms": "boto3", "azurekms": "azure.keyvault", "gcpkms": "google.cloud.kms", "hv": "hvac"}


def missing(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is None
    except ModuleNotFoundError:
        return True


@pytest.mark.parametrize("scheme", LIBRARIES)
def test_a_provider_whose_library_is_missing_says_what_to_install(tmp_path: Path, scheme: str) -> None:
    pytest.importorskip("securesystemslib")
    if not missing(LIBRARIES[scheme]):
        pytest.skip(f"{LIBRARIES[scheme]} is installed")
    (tmp_path / "release.key").write_bytes(write_key_file(KeyFile(f"{scheme}:x/1", P256.public)))
    with pytest.raises(UsageError, match=f"keys of {scheme}: need ") as refused:
        with open_signer(str(tmp_path / "release.key"), ask_pin=no_pin):
            pass
    assert (refused.value.hint or "").startswith("pip install ")


def file2(tmp_path: Path, private, public: SignerKey) -> str:
    """A key file of securesystemslib's own kind of key, which needs no service."""
    pytest.importorskip("securesystemslib")
    (tmp_path / "private.pem").write_bytes(private.to_pem())
    uri = f"file2:{tmp_path / 'private.pem'}"
    (tmp_path / "release.key").write_bytes(write_key_file(KeyFile(uri, public)))
    return str(tmp_path / "release.key")


@pytest.mark.parametrize("key", [P256, ED25519], ids=["p256", "ed25519"])
def test_a_signer_of_securesystemslib_signs_what_the_verifier_takes(tmp_path: Path, key) -> None:
    with open_signer(file2(tmp_path, key, key.public), ask_pin=no_pin) as signer:
        check_signer(signer)
        envelope = parse_envelope(sign_payload(signer, "application/x", b"payload"))
    assert verify_envelope(envelope, keys=[key.public], threshold=1, payload_type="application/x").signers


def test_a_service_with_another_key_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    other = generate_release_key(KeyKind.P256)
    with pytest.raises((UsageError, ToolError), match="file2: "):
        with open_signer(file2(tmp_path, other, P256.public), ask_pin=no_pin):
            pass


def test_a_signature_that_the_pinned_key_did_not_make_goes_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer_module = pytest.importorskip("securesystemslib.signer")
    other = generate_release_key(KeyKind.P256)
    reference = file2(tmp_path, P256, P256.public)
    # a service that answers with a key of its own choice
    monkeypatch.setattr(
        signer_module.CryptoSigner,
        "sign",
        lambda self, payload: signer_module.Signature("x", encode_of(other, payload).hex()),
    )
    with open_signer(reference, ask_pin=no_pin) as signer:
        with pytest.raises(ToolError, match="got one that this key did not make"):
            signer.sign(b"message")


def encode_of(key, payload: bytes) -> bytes:
    raw = key.sign(payload)
    return encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))


def test_a_service_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    signer_module = pytest.importorskip("securesystemslib.signer")
    reference = file2(tmp_path, P256, P256.public)

    def fail(self, payload: bytes) -> None:
        raise RuntimeError("access\ndenied" + "x" * 1000)

    monkeypatch.setattr(signer_module.CryptoSigner, "sign", fail)
    with open_signer(reference, ask_pin=no_pin) as signer:
        with pytest.raises(
            ToolError, match="file2: the key did not sign: RuntimeError: access denied"
        ) as refused:
            signer.sign(b"message")
    assert len(refused.value.message) < 300


@pytest.mark.parametrize(
    ("raised", "error", "said"),
    [
        (ValueError("odd URI"), UsageError, "file2: no such key: ValueError: odd URI"),
        (
            RuntimeError("no permission"),
            ToolError,
            "file2: the key cannot be used: RuntimeError: no p",
        ),
        # what could not be read may be a PIN
        (
            UnicodeDecodeError("utf-8", b"s3cret", 0, 1, "s3cret"),
            UsageError,
            "no such key: UnicodeDecode",
        ),
    ],
)
def test_a_service_that_cannot_be_opened_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, error: type, said: str
) -> None:
    signer_module = pytest.importorskip("securesystemslib.signer")
    reference = file2(tmp_path, P256, P256.public)

    def fail(*_arguments: object) -> None:
        raise raised

    monkeypatch.setattr(signer_module.CryptoSigner, "from_priv_key_uri", fail)
    with pytest.raises(error) as refused:
        with open_signer(reference, ask_pin=no_pin):
            pass
    assert said in refused.value.message
    assert "s3cret" not in refused.value.message


def test_without_securesystemslib_a_service_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = file2(tmp_path, P256, P256.public)
    monkeypatch.setitem(sys.modules, "securesystemslib.signer", None)
    with pytest.raises(UsageError, match="need securesystemslib"):
        with open_signer(reference, ask_pin=no_pin):
            pass


def test_the_probe_message_is_no_message_of_dsse() -> None:
    signed = []

    class Recorder:
        public = P256.public

        def sign(self, message: bytes) -> bytes:
            signed.append(message)
            return P256.sign(message)

    check_signer(Recorder())
    assert signed == [b"blindbuild: does this key sign?"]
    assert not signed[0].startswith(b"DSSEv1 ")


def test_the_services_are_those_that_the_library_knows() -> None:
    known = pytest.importorskip("securesystemslib.signer").SIGNER_FOR_URI_SCHEME
    assert set(known) - {"gnupg"} == set(SERVICES)
