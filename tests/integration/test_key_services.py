"""Release keys of HashiCorp Vault and AWS KMS, by the providers' own client libraries, served on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.cli.main import main
from blindbuild.errors import ToolError
from blindbuild.formats.dsse import parse_envelope, verify_envelope
from blindbuild.publish import load_public_key
from tests.cli.test_image_directory import write_image
from tests.fakes.key_services import Kms, Vault, served
from tests.fakes.published import STATEMENT_TYPE


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def pin(tmp_path: Path, uri: str, public_pem: bytes) -> Result:
    (tmp_path / "public.pem").write_bytes(public_pem)
    return run("key", "pin", uri, "--public", tmp_path / "public.pem", "-o", tmp_path / "release.key")


def check_signed(tmp_path: Path, public_pem: bytes) -> None:
    image = write_image(tmp_path / "image")
    done = run("sign", image, "--key", tmp_path / "release.key", "--json")
    assert done.exit_code == 0, done.output
    key = load_public_key(public_pem)
    envelope = parse_envelope((image / "manifest.dsse.json").read_bytes())
    verified = verify_envelope(envelope, keys=[key], threshold=1, payload_type=STATEMENT_TYPE)
    assert verified.payload == (image / "statement.json").read_bytes()
    # the file that clients' trust files are made of is written too
    assert load_public_key((tmp_path / "release.key.pub").read_bytes()) == key


@pytest.fixture
def vault(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("hvac")
    service = Vault()
    with served(service.answer) as address:
        monkeypatch.setenv("VAULT_ADDR", address)
        monkeypatch.setenv("VAULT_TOKEN", service.token)
        yield service


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("boto3")
    service = Kms()
    with served(service.answer) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", address)
        monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "an id")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield service


def test_a_key_in_vault_signs_a_release(tmp_path: Path, vault: Vault) -> None:
    assert pin(tmp_path, "hv:releases/1", vault.public_pem()).exit_code == 0
    assert vault.asked == [b"blindbuild: does this key sign?"]
    check_signed(tmp_path, vault.public_pem())
    assert len(vault.asked) == 3


def test_a_key_in_aws_kms_signs_a_release(tmp_path: Path, kms: Kms) -> None:
    assert pin(tmp_path, "awskms:alias/releases", kms.public_pem()).exit_code == 0
    check_signed(tmp_path, kms.public_pem())
    assert [len(digest) for digest in kms.asked] == [32, 32, 32]


def test_another_key_than_the_pinned_one_is_noticed_at_once(tmp_path: Path, vault: Vault) -> None:
    done = pin(tmp_path, "hv:releases/1", Vault().public_pem())
    assert isinstance(done.exception, ToolError)
    assert "got one that this key did not make" in done.exception.message
    assert not (tmp_path / "release.key").exists()


def test_a_service_that_refuses_is_an_error_and_nothing_is_written(tmp_path: Path, vault: Vault) -> None:
    assert pin(tmp_path, "hv:releases/1", vault.public_pem()).exit_code == 0
    image = write_image(tmp_path / "image")
    vault.token = "another"
    done = run("sign", image, "--key", tmp_path / "release.key")
    assert isinstance(done.exception, ToolError)
    assert "hv: the key did not sign" in done.exception.message
    assert "a token" not in f"{done.exception.message} {done.exception.hint}"
    assert not (image / "manifest.dsse.json").exists()


def test_a_key_that_aws_kms_does_not_have_is_an_error(tmp_path: Path, kms: Kms) -> None:
    done = pin(tmp_path, "awskms:alias/other", kms.public_pem())
    assert isinstance(done.exception, ToolError)
    assert "awskms: the key did not sign" in done.exception.message
    assert "alias/other" in done.exception.message
    assert not kms.asked


def test_what_is_shown_before_signing_can_be_read_by_machines_and_people(
    tmp_path: Path, vault: Vault
) -> None:
    assert pin(tmp_path, "hv:releases/1", vault.public_pem()).exit_code == 0
    image = write_image(tmp_path / "image")
    done = run("sign", image, "--key", tmp_path / "release.key", "--json")
    assert json.loads(done.stdout)["signers"] == [load_public_key(vault.public_pem()).key_id]
    assert "signing hello 1.0.0, sequence 42, channel stable" in done.stderr
