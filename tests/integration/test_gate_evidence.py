"""The gate's evidence from a real swtpm, judged by `cryptography` and by tpm2-tools."""

from __future__ import annotations

import hashlib
import secrets
import struct
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.gate_harness import (
    ENDORSEMENT,
    EVENT_LOG,
    EVIDENCE,
    RunningGate,
    Swtpm,
    b64,
    binding,
    evidence_request,
    make_tpm_state,
    need,
    running_gate,
)

MAX_REPLIES, MAX_WAITING = 16, 16  # guest/gate: evidence under way, and clients in line for it
SIZES = {"sha256": 32, "sha384": 48, "sha512": 64}
ALGORITHMS = {"sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}


def take_sized(data: bytes) -> tuple[bytes, bytes]:
    (size,) = struct.unpack_from(">H", data)
    return data[2 : 2 + size], data[2 + size :]


def ak_public_key(tpm2b: bytes) -> ec.EllipticCurvePublicKey:
    template = bytes.fromhex("0023000b00050072000000100018000b00030010")
    area, rest = take_sized(tpm2b)
    assert rest == b""
    assert area.startswith(template)
    x, rest = take_sized(area[len(template) :])
    y, rest = take_sized(rest)
    assert rest == b""
    return ec.EllipticCurvePublicNumbers(
        int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
    ).public_key()


def pem(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def run_tool(*arguments: object) -> bytes:
    done = subprocess.run([str(a) for a in arguments], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_endorsement_key_is_the_one_its_certificate_names(gate: RunningGate) -> None:
    answer = gate.client().get(ENDORSEMENT).json()
    assert list(answer) == ["version", "ekCertificates", "ekPublic", "akPublic"]
    assert answer["version"] == 1
    certificates = answer["ekCertificates"]
    assert isinstance(certificates, list)
    assert [entry["nvIndex"] for entry in certificates] == ["0x01c00002", "0x01c00016"]
    first, second = (x509.load_der_x509_certificate(b64(entry["certificate"])) for entry in certificates)
    area, rest = take_sized(b64(answer["ekPublic"]))
    assert rest == b""
    assert first.public_key().public_numbers().n == int.from_bytes(area[-256:], "big")
    assert area[-258:-256] == b"\x01\x00"
    assert second.public_key().curve.name == "secp384r1"
    ak_public_key(b64(answer["akPublic"]))


@pytest.mark.parametrize("bank", sorted(SIZES))
def test_a_quote_covers_all_registers_of_the_bank_and_binds_the_connection(
    gate: RunningGate, bank: str, tmp_path: Path
) -> None:
    client = gate.client()
    ak = ak_public_key(b64(client.get(ENDORSEMENT).json()["akPublic"]))
    nonce, statement = secrets.token_bytes(32), secrets.token_bytes(32)
    answer = client.evidence(nonce=nonce.hex(), statement=statement.hex(), bank=bank).json()
    assert list(answer) == ["version", "profile", "bank", "quote", "signature", "pcrs", "eventLog"]
    assert (answer["version"], answer["profile"], answer["bank"]) == (1, "tls-spki-quote-v1", bank)
    assert b64(answer["eventLog"]) == EVENT_LOG
    pcrs = [bytes.fromhex(value) for value in answer["pcrs"]]
    size = SIZES[bank]
    assert pcrs == [bytes(size)] * 17 + [b"\xff" * size] * 6 + [bytes(size)]
    quote, signature = b64(answer["quote"]), b64(answer["signature"])
    check_quote(quote, binding(nonce, client.spki(), statement), ALGORITHMS[bank], pcrs)
    check_signature(ak, quote, signature)
    need("tpm2_checkquote")
    for name, data in {"ak.pem": pem(ak), "quote": quote, "signature": signature}.items():
        (tmp_path / name).write_bytes(data)
    extra = binding(nonce, client.spki(), statement).hex()
    arguments = [
        "-u",
        tmp_path / "ak.pem",
        "-m",
        tmp_path / "quote",
        "-s",
        tmp_path / "signature",
        "-q",
        extra,
    ]
    run_tool("tpm2_checkquote", *arguments, "-g", "sha256")


def check_quote(quote: bytes, extra: bytes, algorithm: int, pcrs: list[bytes]) -> None:
    assert quote.startswith(bytes.fromhex("ff5443478018"))
    _signer, rest = take_sized(quote[6:])
    found, rest = take_sized(rest)
    assert found == extra
    selection = struct.pack(">IHB3s", 1, algorithm, 3, b"\xff\xff\xff")
    assert rest[25:].startswith(selection)
    assert take_sized(rest[25 + len(selection) :]) == (hashlib.sha256(b"".join(pcrs)).digest(), b"")


def check_signature(ak: ec.EllipticCurvePublicKey, quote: bytes, signature: bytes) -> None:
    assert signature[:4] == bytes.fromhex("0018000b")
    r, rest = take_sized(signature[4:])
    s, rest = take_sized(rest)
    assert rest == b""
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    ak.verify(der, quote, ec.ECDSA(hashes.SHA256()))


def make_credential(
    client_answer: dict[str, object], directory: Path, secret: bytes, name: bytes
) -> tuple[bytes, bytes]:
    """Return TPM2B_ID_OBJECT and TPM2B_ENCRYPTED_SECRET, made by tpm2_makecredential."""
    need("tpm2_makecredential")
    (directory / "ek.pub").write_bytes(b64(client_answer["ekPublic"]))
    (directory / "secret").write_bytes(secret)
    arguments = ["-T", "none", "-u", directory / "ek.pub", "-s", directory / "secret", "-n", name.hex()]
    run_tool("tpm2_makecredential", *arguments, "-o", directory / "credential")
    credential = (directory / "credential").read_bytes()
    assert credential[:8] == bytes.fromhex("badcc0de00000001")
    blob, rest = take_sized(credential[8:])
    encrypted, rest = take_sized(rest)
    assert rest == b""
    return len(blob).to_bytes(2, "big") + blob, len(encrypted).to_bytes(2, "big") + encrypted


def ak_name(answer: dict[str, object]) -> bytes:
    return bytes.fromhex("000b") + hashlib.sha256(b64(answer["akPublic"])[2:]).digest()


def as_fields(blob: bytes, encrypted: bytes) -> dict[str, str]:
    from base64 import b64encode

    return {"credentialBlob": b64encode(blob).decode(), "encryptedSecret": b64encode(encrypted).decode()}


def test_a_credential_for_this_key_is_activated_as_often_as_asked(gate: RunningGate, tmp_path: Path) -> None:
    client = gate.client()
    endorsement = client.get(ENDORSEMENT).json()
    for _ in range(5):  # more often than a TPM has room for sessions
        secret = secrets.token_bytes(32)
        fields = as_fields(*make_credential(endorsement, tmp_path, secret, ak_name(endorsement)))
        answer = client.evidence(**fields)
        assert answer.status == 200
        assert b64(answer.json()["activatedSecret"]) == secret


def test_credentials_that_do_not_fit_are_refused_and_do_no_harm(gate: RunningGate, tmp_path: Path) -> None:
    client = gate.client()
    endorsement = client.get(ENDORSEMENT).json()
    name = ak_name(endorsement)
    blob, encrypted = make_credential(endorsement, tmp_path, secrets.token_bytes(32), name)
    other, _ = make_credential(
        endorsement, tmp_path, secrets.token_bytes(32), name[:-1] + bytes([name[-1] ^ 1])
    )
    short, short_encrypted = make_credential(endorsement, tmp_path, b"sixteen bytes....", name)
    cases = [
        (other, encrypted),
        (blob[:-1] + bytes([blob[-1] ^ 1]), encrypted),
        (blob, encrypted[:-1] + bytes([encrypted[-1] ^ 1])),
        (b"\x00\x00", encrypted),
        (blob, b"\x00\x00"),
        (blob, b"\x00\x04abcd"),
        (short, short_encrypted),
    ]
    for index, case in enumerate(cases * 2):
        answer = client.evidence(**as_fields(*case))
        assert (index, answer.status, answer.json()) == (index, 422, {"version": 1, "error": "credential"})
    assert client.evidence(**as_fields(blob, encrypted)).status == 200


@pytest.mark.parametrize(
    "changes",
    [
        {"bank": "sha1"},
        {"bank": None},
        {"nonce": "11" * 31},
        {"nonce": "AA" * 32},
        {"statement": "zz" * 32},
        {"profile": "hpke-quote-v1"},
        {"version": 2},
        {"version": "1"},
        {"extra": 1},
        {"credentialBlob": "AAA="},
        {"credentialBlob": "AAE=", "encryptedSecret": "AAA="},
    ],
)
def test_requests_that_are_not_exact_are_a_bad_request(gate: RunningGate, changes: dict[str, object]) -> None:
    client = gate.client()
    answer = client.evidence(**changes)
    assert (answer.status, answer.body) == (400, b"")
    assert client.at_end()


def test_the_two_answers_come_from_one_key_for_all_connections(gate: RunningGate) -> None:
    clients = [gate.client() for _ in range(3)]
    assert len({client.spki() for client in clients}) == 1
    assert len({client.get(ENDORSEMENT).body for client in clients}) == 1


def test_the_certificate_is_constant_but_for_key_and_signature(
    gate: RunningGate, gate_binary: Path, gate_tpm_directory: Path, tmp_path: Path
) -> None:
    del gate_tpm_directory
    certificates = []
    for number in range(2):
        directory = tmp_path / str(number)
        directory.mkdir()
        state = make_tpm_state(directory)
        tpm = Swtpm(state, directory)
        with tpm.connect() as channel, running_gate(gate_binary, directory, channel) as other:
            der = other.client().stream.getpeercert(binary_form=True)
            assert der is not None
            certificates.append(der)
        tpm.stop()
    parsed = [x509.load_der_x509_certificate(der) for der in certificates]
    keys = [c.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for c in parsed]
    assert keys[0] != keys[1]
    bodies = [c.tbs_certificate_bytes.replace(key, b"") for c, key in zip(parsed, keys, strict=True)]
    assert bodies[0] == bodies[1]
    assert (parsed[0].serial_number, parsed[0].subject.rdns) == (1, [])
    assert parsed[0].not_valid_after_utc.year == 9999


def test_many_clients_at_once_all_get_right_evidence(gate: RunningGate) -> None:
    def ask(number: int) -> bool:
        client = gate.client()
        nonce = number.to_bytes(32, "big")
        answer = client.evidence(nonce=nonce.hex())
        extra = binding(nonce, client.spki(), b"\x22" * 32)
        return answer.status == 200 and extra in b64(answer.json()["quote"])

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(ask, range(36)))


def test_only_the_listed_commands_reach_the_tpm(gate: RunningGate, gate_tpm: Swtpm) -> None:
    canary = secrets.token_bytes(16)
    client = gate.client()
    assert client.evidence().status == 200
    assert client.post("/v1/hello", canary).body == canary
    commands = gate_tpm.commands()
    listed = {0x131, 0x147, 0x14E, 0x151, 0x158, 0x165, 0x169, 0x176, 0x17A, 0x17E}
    assert {code for code, _ in commands} <= listed
    assert {0x131, 0x14E, 0x158, 0x17E} <= {code for code, _ in commands}
    assert not any(canary in data for _, data in commands)
    # Two primary keys, made once.
    assert [code for code, _ in commands].count(0x131) == 2


def test_a_bank_that_is_not_allocated_is_named(gate_binary: Path, tmp_path: Path) -> None:
    tpm = Swtpm(make_tpm_state(tmp_path, "sha256"), tmp_path)
    with tpm.connect() as channel, running_gate(gate_binary, tmp_path, channel) as gate:
        client = gate.client()
        assert client.evidence(bank="sha256").status == 200
        for bank in ("sha384", "sha512"):
            answer = client.evidence(bank=bank)
            assert (answer.status, answer.body) == (422, b'{"version":1,"error":"bank"}')
        assert client.evidence(bank="sha256").status == 200
    tpm.stop()


def test_a_tpm_without_certificates_gives_none(gate_binary: Path, tmp_path: Path) -> None:
    state = tmp_path / "empty"
    state.mkdir()
    tpm = Swtpm(state, tmp_path)
    with tpm.connect() as channel, running_gate(gate_binary, tmp_path, channel) as gate:
        assert gate.client().get(ENDORSEMENT).json()["ekCertificates"] == []
    tpm.stop()


def test_a_tpm_that_is_gone_is_said_so_and_the_rest_goes_on(gate_binary: Path, tmp_path: Path) -> None:
    tpm = Swtpm(make_tpm_state(tmp_path), tmp_path)
    with tpm.connect() as channel, running_gate(gate_binary, tmp_path, channel) as gate:
        client = gate.client()
        assert client.evidence().status == 200
        tpm.stop()
        assert client.evidence().json() == {"version": 1, "error": "tpm"}
        assert client.get(ENDORSEMENT).status == 200  # read once, kept
        assert client.post("/v1/hello", b"x").body == b"x"


def test_a_silent_tpm_holds_nobody_but_those_who_ask_it(gate_binary: Path, tmp_path: Path) -> None:
    with running_gate(gate_binary, tmp_path, None) as gate:
        waiting = [gate.client() for _ in range(MAX_REPLIES + MAX_WAITING)]
        for client in waiting:
            client.send(f"GET {ENDORSEMENT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        time.sleep(2)
        other = gate.client()
        assert other.get(ENDORSEMENT).json() == {"version": 1, "error": "busy"}
        assert other.post("/v1/hello", b"x").body == b"x"
        assert other.get("/healthz").status == 204


def test_evidence_needs_post_and_a_body(gate: RunningGate) -> None:
    assert gate.client().get(EVIDENCE).status == 404
    assert gate.client().post(ENDORSEMENT, b"{}").status == 404
    assert gate.client().post(EVIDENCE, b"").status == 400
    assert gate.client().post(EVIDENCE, b" " * (64 << 10) + b"{").status == 413
    assert evidence_request()["version"] == 1
