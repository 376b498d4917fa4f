"""Enclave images against OpenSSL's digests and signatures, and cbor2's reading of the signature section."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.fakes.enclave_image import CERTIFICATE, image_bytes, make_enclave
from tests.fakes.enclave_reader import load


@pytest.fixture
def cbor2() -> ModuleType:
    """An independent implementation of CBOR."""
    return cast(ModuleType, pytest.importorskip("cbor2", reason="the Python package cbor2 is not installed"))


def openssl(*arguments: str, stdin: bytes = b"") -> bytes:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("the Debian package openssl is not installed")
    done = subprocess.run([program, *arguments], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def sha384(data: bytes) -> bytes:
    return openssl("dgst", "-sha384", "-binary", stdin=data)


def test_openssl_computes_the_same_registers() -> None:
    built = make_enclave()
    enclave = load(image_bytes(built))
    front = enclave.kernel + enclave.cmdline
    der = openssl("x509", "-outform", "DER", stdin=CERTIFICATE)
    contents = (
        front + b"".join(enclave.ramdisks),
        front + enclave.ramdisks[0],
        b"".join(enclave.ramdisks[1:]),
    )
    expected = [sha384(bytes(48) + sha384(content)).hex() for content in (*contents, der)]
    assert [item.digest.hex for item in built.measurements] == expected


def test_cbor2_reads_the_signature_section_and_writes_the_same_bytes(cbor2: ModuleType) -> None:
    section = load(image_bytes(make_enclave())).signature
    assert cbor2.dumps(cbor2.loads(section)) == section
    (entry,) = cbor2.loads(section)
    assert bytes(entry["signing_certificate"]) == CERTIFICATE
    protected, unprotected, payload, _ = cbor2.loads(bytes(entry["signature"]))
    assert (cbor2.loads(protected), unprotected) == ({1: -35}, {})
    assert cbor2.loads(payload)["register_index"] == 0


def test_openssl_verifies_the_signature_over_pcr0(tmp_path: Path, cbor2: ModuleType) -> None:
    built = make_enclave()
    (entry,) = cbor2.loads(load(image_bytes(built)).signature)
    protected, _, payload, signature = cbor2.loads(bytes(entry["signature"]))
    assert bytes(cbor2.loads(payload)["register_value"]) == built.measurements[0].digest.value
    r, s = (int.from_bytes(half, "big") for half in (signature[:48], signature[48:]))
    (tmp_path / "certificate.pem").write_bytes(CERTIFICATE)
    key = openssl("x509", "-pubkey", "-noout", "-in", str(tmp_path / "certificate.pem"))
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "signature").write_bytes(encode_dss_signature(r, s))
    signed = cbor2.dumps(["Signature1", protected, b"", payload])
    verified = openssl(
        "dgst",
        "-sha384",
        "-verify",
        str(tmp_path / "key.pem"),
        "-signature",
        str(tmp_path / "signature"),
        stdin=signed,
    )
    assert verified.decode().strip() == "Verified OK"
