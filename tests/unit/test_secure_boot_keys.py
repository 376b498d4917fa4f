"""Keys and certificates that `sign --secureboot` takes, and PKCS#11 URIs."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from blindbuild.errors import ToolError, UsageError
from blindbuild.publish import generate_key, load_certificates, load_rsa_key, open_token_key, parse_key_uri
from tests.fakes.secure_boot import make_key

KEY = make_key("db")
PLAIN = "pkcs11:object=db?module-path=/lib/token.so"


def test_a_key_that_is_no_rsa_key_is_refused_and_release_keys_are_apart() -> None:
    with pytest.raises(UsageError, match="expected an RSA key, got Ed25519PrivateKey") as refused:
        load_rsa_key(generate_key().to_pem())
    assert "apart from release keys" in (refused.value.hint or "")


def test_an_encrypted_key_or_other_bytes_are_refused() -> None:
    locked = KEY.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    for pem in (locked, b"", b"\xff" * 100, KEY.certificate_pem):
        with pytest.raises(UsageError, match="expected an unencrypted private key in PEM"):
            load_rsa_key(pem)


def test_a_certificate_is_read_from_pem_and_der() -> None:
    assert load_certificates(KEY.certificate_pem).chain == load_certificates(KEY.der).chain == (KEY.der,)


@pytest.mark.parametrize("data", [b"", b"\x30\x03\x02\x01\x01", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="expected a certificate in PEM or DER"):
        load_certificates(data)


def test_a_key_that_firmware_does_not_take_is_refused() -> None:
    with pytest.raises(UsageError, match="2048 to 4096 bits, got 1024 bits"):
        load_certificates(make_key("short", bits=1024).der)


def test_more_certificates_than_any_chain_are_refused() -> None:
    with pytest.raises(UsageError, match="at most 64 certificates, got 65"):
        load_certificates(KEY.certificate_pem * 65)


def test_a_uri_names_token_key_module_and_pin() -> None:
    uri = parse_key_uri(
        "pkcs11:token=My%20token;serial=01;manufacturer=Maker;model=M1;object=db%2Fkey;id=%01%ff;type=private"
        "?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin"
    )
    assert (uri.token, uri.serial, uri.manufacturer, uri.model) == ("My token", "01", "Maker", "M1")
    assert (uri.label, uri.identifier, uri.pin, uri.pin_file) == ("db/key", b"\x01\xff", None, "/run/pin")
    assert uri.module == "/usr/lib/softhsm/libsofthsm2.so"
    assert parse_key_uri(f"{PLAIN}&pin-value=1234").pin == "1234"


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("file:/key", "starts with 'pkcs11:'"),
        ("pkcs11:object=db", "expected module-path"),
        ("pkcs11:token=a?module-path=/m", "expected object= or id="),
        ("pkcs11:object=db;type=cert?module-path=/m", "expected type=private"),
        ("pkcs11:object=db;slot-id=1?module-path=/m", "unknown attribute, got 'slot-id'"),
        ("pkcs11:object=db;object=db?module-path=/m", "expected object once"),
        ("pkcs11:object=db;?module-path=/m", "unknown attribute, got ''"),
        ("pkcs11:object?module-path=/m", "unknown attribute, got 'object'"),
        ("pkcs11:object=?module-path=/m", "percent-encoded value"),
        ("pkcs11:object=%zz?module-path=/m", "percent-encoded value"),
        ("pkcs11:object=%ff?module-path=/m", "expected UTF-8"),
        ("pkcs11:object=a%00?module-path=/m", "expected no NUL"),
        (f"{PLAIN}&pin-value=1&pin-source=/f", "pin-value or pin-source, got both"),
        (f"{PLAIN}&module-name=x", "unknown attribute, got 'module-name'"),
        ("pkcs11:" + "a" * 5000, "at most 4096"),
    ],
)
def test_a_uri_that_says_something_else_is_refused(uri: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_key_uri(uri)


@pytest.mark.parametrize(
    "uri",
    [
        f"{PLAIN}&pin-value=12&s3cret",
        f"{PLAIN}&pin-value=12&s3cret=1",
        f"{PLAIN}&pin-value:s3cret",
        f"{PLAIN}&pin_value=12&s3cret",
        "pkcs11:object=db;pin-value=12;s3cret?module-path=/m",
        f"{PLAIN}&pin-value=s3cret%zz",
        f"{PLAIN}&pin-value=s3cret%00",
        f"{PLAIN}&pin-value=s3cret%ff",
        f"{PLAIN}&pin-value=s3cret&pin-value=s3cret",
        f"{PLAIN}&pin-value=s3cret&pin-source=/f",
    ],
)
def test_no_part_of_a_pin_is_in_a_message(uri: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_key_uri(uri)
    assert "s3cret" not in f"{refused.value.message} {refused.value.hint}"


def test_a_pin_is_not_shown_with_the_key_it_opens() -> None:
    assert "1234" not in repr(parse_key_uri(f"{PLAIN}&pin-value=1234"))


def test_a_module_that_is_not_there_is_a_tool_that_is_missing() -> None:
    pytest.importorskip("pkcs11", reason="needs python-pkcs11 (the extra `pkcs11`)")
    with pytest.raises(ToolError, match=r"pkcs11: /nowhere/token\.so: "):
        with open_token_key(parse_key_uri("pkcs11:object=db?module-path=/nowhere/token.so"), pin="1"):
            pass
