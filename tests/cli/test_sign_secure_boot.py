"""`sign --secureboot`: what it writes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from blindbuild.assemble.disk import BOOT_PATH, build_gpt_disk
from blindbuild.cli.outputs import check_image
from blindbuild.cli.sign import command
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import BuildError, UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.fat import read_fat
from blindbuild.formats.gpt import parse_gpt
from blindbuild.formats.image_signature import signer_certificates
from tests.cli.test_image_directory import write_image
from tests.fakes.pe_image import make_pe
from tests.fakes.secure_boot import make_key

KEY = make_key("db")
UKI = make_pe()


def sign(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], standalone_mode=False)


@pytest.fixture
def keys(tmp_path: Path) -> tuple[str | Path, ...]:
    key, certificate = tmp_path / "db.key", tmp_path / "db.crt"
    key.write_bytes(KEY.pem)
    certificate.write_bytes(KEY.certificate_pem)
    return ("--secureboot", key, "--certificate", certificate)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return write_image(tmp_path / "image", hello__efi=UKI)


def test_an_image_directory_gets_two_files_and_keeps_the_others(
    image: Path, keys: tuple[str | Path, ...]
) -> None:
    before = {path.name: path.read_bytes() for path in image.iterdir()}
    done = sign(image, *keys, "--json")
    assert done.exception is None
    assert json.loads(done.stdout) == {
        "signedImage": str(image / "hello.signed.efi"),
        "signedDisk": str(image / "hello.signed.raw"),
        "authenticodeSha256": authenticode_digests(UKI, (HashAlgorithm.SHA256,))[HashAlgorithm.SHA256].hex,
    }
    signed = (image / "hello.signed.efi").read_bytes()
    assert signer_certificates(signed) == (KEY.der,)
    assert read_fat((image / "hello.signed.raw").read_bytes()) == {BOOT_PATH: signed}
    assert {name: (image / name).read_bytes() for name in before} == before
    assert check_image(image)["hello.efi"] == UKI


def test_a_boot_image_alone_is_signed_beside_itself_or_where_asked(
    tmp_path: Path, keys: tuple[str | Path, ...]
) -> None:
    uki = tmp_path / "linux.efi"
    uki.write_bytes(UKI)
    assert sign(uki, *keys).stdout.startswith(f"{tmp_path / 'linux.signed.efi'} over Authenticode sha256:")
    assert sign(uki, *keys, "--output", tmp_path / "other.efi").exception is None
    assert (tmp_path / "other.efi").read_bytes() == (tmp_path / "linux.signed.efi").read_bytes()
    assert not list(tmp_path.glob("*.raw"))


def test_a_signed_image_is_refused_unless_its_signature_may_go(
    tmp_path: Path, keys: tuple[str | Path, ...]
) -> None:
    uki = tmp_path / "linux.efi"
    uki.write_bytes(UKI)
    sign(uki, *keys, "--output", uki)
    done = sign(uki, *keys, "--output", uki)
    assert isinstance(done.exception, UsageError)
    assert "--replace" in (done.exception.hint or "")
    assert sign(uki, *keys, "--output", uki, "--replace").exception is None


@pytest.mark.parametrize("name", ["db.key", "db.crt"])
def test_the_key_and_its_certificate_are_not_written_over(
    tmp_path: Path, keys: tuple[str | Path, ...], name: str
) -> None:
    (tmp_path / "linux.efi").write_bytes(UKI)
    (tmp_path / "link").symlink_to(tmp_path)
    before = (tmp_path / name).read_bytes()
    done = sign(tmp_path / "linux.efi", *keys, "--output", tmp_path / "link" / name)
    assert isinstance(done.exception, UsageError)
    assert "another name than a file of the image, key or certificate" in done.exception.message
    assert (tmp_path / name).read_bytes() == before


def test_the_signed_disk_has_a_partition_table_where_the_unsigned_one_has(
    tmp_path: Path, keys: tuple[str | Path, ...]
) -> None:
    image = write_image(tmp_path / "image", hello__efi=UKI, hello__raw=build_gpt_disk(UKI))
    assert sign(image, *keys).exception is None
    disk = (image / "hello.signed.raw").read_bytes()
    assert disk == build_gpt_disk((image / "hello.signed.efi").read_bytes())
    assert parse_gpt(disk).event_data == parse_gpt(build_gpt_disk(UKI)).event_data


@pytest.mark.parametrize("start", ["PKCS11:", " pkcs11:", "Pkcs11:"])
def test_a_uri_that_is_written_wrong_is_no_file_whose_name_is_shown(
    tmp_path: Path, keys: tuple[str | Path, ...], start: str
) -> None:
    (tmp_path / "linux.efi").write_bytes(UKI)
    uri = f"{start}object=db?module-path=/m&pin-value=s3cret"
    done = sign(tmp_path / "linux.efi", "--secureboot", uri, *keys[2:])
    assert isinstance(done.exception, UsageError)
    assert done.exception.message.startswith("expected a URI that starts with 'pkcs11:'")
    assert "s3cret" not in str(done.exception) + done.output


def test_a_link_at_the_target_is_replaced_and_not_followed(
    tmp_path: Path, keys: tuple[str | Path, ...]
) -> None:
    (tmp_path / "linux.efi").write_bytes(UKI)
    (tmp_path / "other").write_bytes(b"other")
    (tmp_path / "linux.signed.efi").symlink_to(tmp_path / "other")
    assert sign(tmp_path / "linux.efi", *keys).exception is None
    assert (tmp_path / "other").read_bytes() == b"other"
    assert not (tmp_path / "linux.signed.efi").is_symlink()


def test_a_directory_with_another_image_than_it_says_is_refused(
    image: Path, keys: tuple[str | Path, ...]
) -> None:
    (image / "hello.efi").write_bytes(make_pe(tail=bytes(512)))
    done = sign(image, *keys)
    assert isinstance(done.exception, BuildError)
    assert not (image / "hello.signed.efi").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("hello.efi", "another name than a file of the image"),
        ("../image/hello.x", "another name than a file of the image"),
        ("kernel.config", "another name than a file of the image"),
        ("SHA256SUMS", "another name than a file of the image"),
        ("manifest.dsse.json", "another name than a file of the image"),
        ("release.dsse.json", "another name than a file of the image"),
        ("signed.raw", "the disk goes there"),
    ],
)
def test_no_file_of_an_image_is_written_over(
    image: Path, keys: tuple[str | Path, ...], name: str, reason: str
) -> None:
    before = {path.name: path.read_bytes() for path in image.iterdir()}
    done = sign(image, *keys, "--output", image / name)
    assert isinstance(done.exception, UsageError)
    assert reason in str(done.exception)
    assert {path.name: path.read_bytes() for path in image.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "expected --key or --secureboot, got neither"),
        (("--secureboot", "k"), "--secureboot and --certificate together"),
        (("--certificate", "db.crt"), "expected --key or --secureboot"),
        (("--key", "db.key", "--certificate", "db.crt"), "--secureboot and --certificate together"),
        (("--key", "db.key", "--replace"), "belong to --secureboot"),
        (("--key", "db.key", "--output", "x"), "belong to --secureboot"),
        (("--secureboot", "missing.key", "--certificate", "db.crt"), "missing.key"),
        (("--secureboot", "db.crt", "--certificate", "db.crt"), "expected an unencrypted private key"),
        (("--secureboot", "pkcs11:object=db", "--certificate", "db.crt"), "expected module-path"),
    ],
)
def test_a_call_of_which_a_part_would_do_nothing_is_refused(
    image: Path,
    keys: tuple[str | Path, ...],
    arguments: tuple[str, ...],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(image.parent)
    done = sign(image, *arguments)
    assert isinstance(done.exception, UsageError)
    assert reason in str(done.exception)


def test_a_release_key_signs_directories_only(tmp_path: Path, keys: tuple[str | Path, ...]) -> None:
    uki = tmp_path / "linux.efi"
    uki.write_bytes(UKI)
    done = sign(uki, "--key", tmp_path / "db.key")
    assert isinstance(done.exception, UsageError)
    assert "expected an image directory for --key" in str(done.exception)


def test_a_pin_that_nobody_gave_is_asked_for_without_echo(
    image: Path, keys: tuple[str | Path, ...], tmp_path: Path
) -> None:
    uri = "pkcs11:object=db?module-path=/nowhere/token.so"
    arguments = [image, "--secureboot", uri, "--certificate", tmp_path / "db.crt"]
    done = CliRunner().invoke(
        command, [str(word) for word in arguments], standalone_mode=False, input="open-sesame\n"
    )
    assert "PIN of the token" in done.output
    assert "sesame" not in done.output
