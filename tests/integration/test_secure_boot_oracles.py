"""Secure Boot signatures and keys against sbverify, osslsigncode, LIEF, SoftHSM and virt-firmware."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import lief
import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.efivars import read_variables
from blindbuild.formats.image_signature import read_signatures, remove_signatures, signer_certificates
from blindbuild.machine.enrol import SecureBootKeys, enrol_keys
from blindbuild.publish import load_certificates, load_rsa_key, sign_boot_image
from tests.fakes.pe_image import make_pe
from tests.fakes.secure_boot import OWNER, make_key
from tests.fakes.variable_store import empty_store

STUB = Path("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
VIRT_FW_VARS = Path(sys.executable).parent / "virt-fw-vars"
KEY = make_key("db")


def need(tool: str, package: str) -> str:
    found = shutil.which(tool)
    if found is None:
        pytest.skip(f"needs {tool} (Debian package {package})")
    return found


def run(*arguments: str | Path, **options: object) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True, **options).stdout


@pytest.fixture(scope="module")
def image() -> bytes:
    """A program of the kind that is signed: the stub of systemd where it is, else a made one."""
    return STUB.read_bytes() if STUB.exists() and STUB.stat().st_size % 8 == 0 else make_pe()


@pytest.fixture(scope="module")
def signed(image: bytes) -> bytes:
    return sign_boot_image(image, load_rsa_key(KEY.pem), load_certificates(KEY.certificate_pem))


@pytest.fixture
def files(tmp_path: Path, image: bytes, signed: bytes) -> Path:
    (tmp_path / "unsigned.efi").write_bytes(image)
    (tmp_path / "signed.efi").write_bytes(signed)
    (tmp_path / "key.pem").write_bytes(KEY.pem)
    (tmp_path / "certificate.pem").write_bytes(KEY.certificate_pem)
    (tmp_path / "other.pem").write_bytes(make_key("other").certificate_pem)
    return tmp_path


def test_sbverify_accepts_the_signature_by_its_certificate_only(files: Path) -> None:
    sbverify = need("sbverify", "sbsigntool")
    run(sbverify, "--cert", files / "certificate.pem", files / "signed.efi")
    for certificate, image in (("other.pem", "signed.efi"), ("certificate.pem", "unsigned.efi")):
        with pytest.raises(subprocess.CalledProcessError):
            run(sbverify, "--cert", files / certificate, files / image)


def test_sbverify_refuses_the_signature_over_a_changed_image(files: Path, signed: bytes) -> None:
    sbverify = need("sbverify", "sbsigntool")
    changed = bytearray(signed)
    changed[1100] ^= 1
    (files / "changed.efi").write_bytes(changed)
    with pytest.raises(subprocess.CalledProcessError):
        run(sbverify, "--cert", files / "certificate.pem", files / "changed.efi")


def test_osslsigncode_accepts_the_signature(files: Path) -> None:
    osslsigncode = need("osslsigncode", "osslsigncode")
    said = run(osslsigncode, "verify", "-CAfile", files / "certificate.pem", "-in", files / "signed.efi")
    assert "Number of verified signatures: 1" in said


def test_lief_verifies_the_signature_and_finds_the_same_digest(signed: bytes, image: bytes) -> None:
    parsed = lief.PE.parse(list(signed))
    assert parsed.verify_signature(lief.PE.Signature.VERIFICATION_CHECKS.HASH_ONLY) == (
        lief.PE.Signature.VERIFICATION_FLAGS.OK
    )
    (signature,) = parsed.signatures
    assert signature.check() == lief.PE.Signature.VERIFICATION_FLAGS.OK
    expected = authenticode_digests(image, (HashAlgorithm.SHA256,))[HashAlgorithm.SHA256]
    assert bytes(signature.content_info.digest) == expected.value


@pytest.mark.parametrize("tool", ["sbsign", "osslsigncode"])
def test_signatures_of_other_tools_are_read_and_can_be_replaced(
    tool: str, files: Path, image: bytes, signed: bytes
) -> None:
    program = need(tool, "sbsigntool" if tool == "sbsign" else tool)
    key, certificate, output = files / "key.pem", files / "certificate.pem", files / "theirs.efi"
    if tool == "sbsign":
        run(program, "--key", key, "--cert", certificate, "--output", output, files / "unsigned.efi")
    else:
        arguments = ["-key", key, "-certs", certificate, "-h", "sha256"]
        run(program, "sign", *arguments, "-in", files / "unsigned.efi", "-out", output)
    theirs = output.read_bytes()
    (signature,) = read_signatures(theirs)
    assert signature.digest == authenticode_digests(image, (HashAlgorithm.SHA256,))[HashAlgorithm.SHA256]
    assert signer_certificates(theirs) == (KEY.der,)
    again = sign_boot_image(
        theirs, load_rsa_key(KEY.pem), load_certificates(KEY.certificate_pem), replace=True
    )
    assert again == signed
    assert remove_signatures(again) == remove_signatures(signed)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SoftHSM token with the key in it; return its URI without a PIN."""
    pytest.importorskip("pkcs11", reason="needs python-pkcs11 (the extra `pkcs11`)")
    softhsm = need("softhsm2-util", "softhsm2")
    if not SOFTHSM.exists():
        pytest.skip(f"needs {SOFTHSM} (Debian package libsofthsm2)")
    (tmp_path / "tokens").mkdir()
    configuration = tmp_path / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tmp_path / 'tokens'}\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(configuration))
    environment = {**os.environ, "SOFTHSM2_CONF": str(configuration)}
    (tmp_path / "key.pem").write_bytes(KEY.pem)
    named = ["--label", "secure boot", "--so-pin", "5678", "--pin", "1234"]
    run(softhsm, "--init-token", "--free", *named, env=environment)
    imported = ["--import", tmp_path / "key.pem", "--token", "secure boot", "--label", "db", "--id", "01"]
    run(softhsm, *imported, "--pin", "1234", env=environment)
    return f"pkcs11:token=secure%20boot;object=db;id=%01?module-path={SOFTHSM}"


def test_a_key_on_a_token_signs_the_same_bytes_as_its_file(token: str, image: bytes, signed: bytes) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from blindbuild.publish import *\n"
        "image, certificate, output, uri = sys.argv[1:]\n"
        "with open_token_key(parse_key_uri(uri), pin='1234') as key:\n"
        "    chain = load_certificates(Path(certificate).read_bytes())\n"
        "    Path(output).write_bytes(sign_boot_image(Path(image).read_bytes(), key, chain))\n"
    )
    directory = Path(os.environ["SOFTHSM2_CONF"]).parent
    (directory / "image.efi").write_bytes(image)
    (directory / "certificate.pem").write_bytes(KEY.certificate_pem)
    # a process of its own: the module reads its configuration once
    paths = [directory / name for name in ("image.efi", "certificate.pem", "signed.efi")]
    run(sys.executable, "-c", script, *paths, token)
    assert (directory / "signed.efi").read_bytes() == signed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("object=db", "object=other"), "expected one RSA private key that fits, got 0"),
        (("token=secure%20boot", "token=other"), "expected one token that fits, got 0"),
        (("1234", "4321"), "check module-path, token and PIN"),
    ],
)
def test_another_key_token_or_pin_is_refused(token: str, change: tuple[str, str], said: str) -> None:
    script = (
        "import sys; from blindbuild.errors import BlindbuildError\n"
        "from blindbuild.publish import *\n"
        "try:\n"
        "    with open_token_key(parse_key_uri(sys.argv[1]), pin=sys.argv[2]): print('opened')\n"
        "except BlindbuildError as error: print(error.message, error.hint)\n"
    )
    changed, pin = token.replace(*change), "1234".replace(*change)
    assert said in run(sys.executable, "-c", script, changed, pin)


def test_virt_firmware_reads_the_enrolled_keys(tmp_path: Path) -> None:
    if not VIRT_FW_VARS.exists():
        pytest.skip("virt-firmware is not installed")
    pk, kek, db = make_key("pk"), make_key("kek"), make_key("db")
    image, listing = tmp_path / "vars.fd", tmp_path / "vars.json"
    image.write_bytes(enrol_keys(empty_store(), SecureBootKeys(pk=pk.esl, kek=kek.esl, db=db.esl)))
    run(VIRT_FW_VARS, "-i", image, "--output-json", listing)
    found = {entry["name"]: entry for entry in json.loads(listing.read_text())["variables"]}
    assert {name: bytes.fromhex(entry["data"]) for name, entry in found.items()} == {
        "PK": pk.esl,
        "KEK": kek.esl,
        "db": db.esl,
        "SecureBootEnable": b"\x01",
        "CustomMode": b"\x00",
    }


def test_virt_firmware_enrols_the_same_variables(tmp_path: Path) -> None:
    if not VIRT_FW_VARS.exists():
        pytest.skip("virt-firmware is not installed")
    keys = {name: make_key(name.lower()) for name in ("PK", "KEK", "db")}
    before, after = tmp_path / "in.fd", tmp_path / "out.fd"
    before.write_bytes(empty_store())
    arguments: list[str | Path] = ["-i", before, "-o", after, "--secure-boot"]
    for name, option in (("PK", "--set-pk"), ("KEK", "--add-kek"), ("db", "--add-db")):
        path = tmp_path / f"{name}.pem"
        path.write_bytes(keys[name].certificate_pem)
        arguments += [option, str(OWNER), path]
    run(VIRT_FW_VARS, *arguments)
    theirs = {variable.name: variable for variable in read_variables(after.read_bytes())}
    # with Secure Boot it enrols a dbx that refuses the empty file, so that the variable is there
    ours = enrol_keys(
        empty_store(),
        SecureBootKeys(pk=keys["PK"].esl, kek=keys["KEK"].esl, db=keys["db"].esl, dbx=theirs["dbx"].data),
    )
    for variable in read_variables(ours):
        other = theirs.pop(variable.name)
        assert (variable.vendor, variable.data, variable.attributes) == (
            other.vendor,
            other.data,
            other.attributes,
        )
        assert any(variable.timestamp) == any(other.timestamp)
    assert not theirs
