"""What each exported file says, read by other people's code or by readers written after their sources."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cbor2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)

from blindbuild.client import Expectation
from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.tpm_policy import pcr_policy_digest
from blindbuild.manifest import parse_trust
from blindbuild.publish import exporters, generate_key
from blindbuild.publish.policy_key import PolicyKey, load_policy_key
from blindbuild.publish.signers import KeyKind, generate_release_key
from blindbuild.verify import Policy
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.published import NOW, Publisher, honest_boot, register_values, rules
from tests.fakes.world import authority
from tests.unit.test_platform_roots import NITRO, SNP, TDX

ROOTS = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
VERIFIER = Path(__file__).resolve().parents[1] / "fakes" / "keylime_verifier.py"
SHA256_BANK, SHA384_BANK = HashAlgorithm.SHA256, HashAlgorithm.SHA384
RULES = {bank: rules(honest_boot(), bank) for bank in ("sha256", "sha384")}
OF_PLATFORM = [name for name, form in exporters.FORMATS.items() if form.of_platform]
OF_REGISTERS = ["keylime", "pcrlock", "pcrsig"]


def honest() -> Publisher:
    return publisher_of(ledger_bytes(closed_ledger()))


def request(owner: Publisher | None = None, **chosen) -> exporters.ExportRequest:
    """A release that was verified, and what somebody chose."""
    owner = honest() if owner is None else owner
    trust = parse_trust(owner.trust(**ROOTS))
    expectation = Expectation(owner.envelope, owner.release, trust, Policy(), clock=lambda: NOW)
    keys = {"signer": generate_key(), "policy_key": policy_key()}
    return exporters.ExportRequest(exporters.verify_release(expectation), **(keys | chosen))


@functools.cache
def policy_key() -> PolicyKey:
    return load_policy_key(pem_of(rsa.generate_private_key(65537, 2048)))


def pem_of(key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def with_rules(**changed) -> Publisher:
    """The honest release, with other rules for some registers of the SHA-256 bank."""
    owner = honest()
    platform = json.loads(json.dumps(owner.value["predicate"]["platforms"][0]))
    for bank in platform["banks"].values():
        size = len(bank["pcrs"]["4"]["value"])
        for register, rule in changed.items():
            said = json.loads(json.dumps(rule))
            if "values" in said:
                said["values"] = [value * (size // 2) for value in said["values"]]
            bank["pcrs"][register.removeprefix("r")] = said
    return owner.but(platforms=[platform])


def expected_values(bank: str) -> dict[int, str]:
    """Every register that a statement of the honest boot says something about, computed by the fake."""
    values = register_values(honest_boot(), bank)
    silent = {int(number) for number, rule in RULES[bank].items() if rule["rule"] == "unconstrained"}
    assert silent == {1, 16, 23}
    return {number: value.hex() for number, value in enumerate(values) if number not in silent}


# --- CoRIM ---


def read_cose(data: bytes) -> tuple[dict, dict, bytes]:
    """The protected header, the CoRIM's map, and the bytes that are signed (RFC 9052, 4.4), by cbor2."""
    tagged = cbor2.loads(data)
    assert tagged.tag == 18
    protected, unprotected, payload, _signature = tagged.value
    assert unprotected == {}
    inner = cbor2.loads(payload)
    assert inner.tag == 501
    return cbor2.loads(protected), inner.value, cbor2.dumps(["Signature1", protected, b"", payload])


def check_cose(data: bytes, spki: bytes) -> None:
    """Verify as RFC 9053 says, by cryptography and with nothing of ours."""
    header, _corim, message = read_cose(data)
    signature = cbor2.loads(data).value[3]
    key = load_der_public_key(spki)
    if isinstance(key, Ed25519PublicKey):
        assert header[1] == -8
        key.verify(signature, message)
    else:
        assert header[1] == -7
        assert len(signature) == 64
        halves = (int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big"))
        key.verify(encode_dss_signature(*halves), message, ec.ECDSA(SHA256()))


def states_of(corim: dict) -> list[tuple[str, str, dict]]:
    """Product, platform and registers of each reference-values triple."""
    (tag,) = corim[1]
    assert tag.tag == 506
    comid = cbor2.loads(tag.value)
    assert set(comid) == {1, 4}
    assert set(comid[4]) == {0}
    found = []
    for environment, claims in comid[4][0]:
        (claim,) = claims
        assert set(claim) == {0, 1}
        assert set(claim[1]) == {14}
        found.append((environment[0][2], claim[0], claim[1][14]))
    return found


@pytest.mark.parametrize("kind", KeyKind)
def test_a_corim_is_signed_by_the_key_that_was_chosen(kind: KeyKind) -> None:
    signer = generate_release_key(kind)
    made = exporters.export("corim", request(signer=signer))
    check_cose(made.data, signer.public.spki)
    header, corim, _ = read_cose(made.data)
    assert set(header) == {1, 3, 4, 8}
    assert header[3] == "application/rim+cbor"
    assert header[4] == hashlib.sha256(signer.public.spki).digest()
    meta = cbor2.loads(header[8])
    assert meta[0] == {0: "hello release key"}
    assert meta[1] == corim[4]
    ends = [int(moment.timestamp()) for moment in (corim[4][0], corim[4][1])]
    assert ends == [1_767_225_600, 1_798_761_600 - 1]  # 2026-01-01 and the second before 2027-01-01


def test_a_changed_corim_has_no_valid_signature() -> None:
    signer = generate_key()
    made = exporters.export("corim", request(signer=signer)).data
    place = made.index(bytes.fromhex(RULES["sha256"]["11"]["value"]))
    changed = made[:place] + bytes((made[place] ^ 1,)) + made[place + 1 :]
    with pytest.raises(InvalidSignature):
        check_cose(changed, signer.public.spki)


@pytest.mark.parametrize(("bank", "number"), [(SHA256_BANK, 1), (SHA384_BANK, 7)])
def test_a_corim_has_every_register_that_the_statement_speaks_of(bank: HashAlgorithm, number: int) -> None:
    _, corim, _ = read_cose(exporters.export("corim", request(bank=bank)).data)
    ((product, platform, registers),) = states_of(corim)
    assert (product, platform) == ("hello", "qemu-q35-ovmf-2025.02")
    wanted = {name: [[number, bytes.fromhex(value)]] for name, value in expected_values(bank.value).items()}
    assert {name: [list(digest) for digest in digests] for name, digests in registers.items()} == wanted


def test_a_corim_names_the_statement_and_its_sequence() -> None:
    asked = request()
    _, corim, _ = read_cose(exporters.export("corim", asked).data)
    digest = hashlib.sha256(honest().statement).hexdigest()
    assert corim[0] == f"hello 1.0.0 qemu-q35-ovmf-2025.02 sha256:{digest}"
    assert cbor2.loads(corim[1][0].value)[1] == {0: corim[0], 1: 42}


def test_a_corim_without_an_end_says_so() -> None:
    asked = request()
    endless = replace(asked, release=replace(asked.release, validity=None))
    made = exporters.export("corim", endless)
    header, corim, _ = read_cose(made.data)
    assert set(corim) == {0, 1}
    assert set(cbor2.loads(header[8])) == {0}
    assert any("no end of validity" in note for note in made.notes)
    assert not any("no end of validity" in note for note in exporters.export("corim", asked).notes)


def test_each_state_that_is_allowed_is_a_triple_with_one_digest_a_register() -> None:
    two = {"rule": "oneOf", "values": ["aa", "bb"], "why": "recorded"}
    three = {"rule": "oneOf", "values": ["01", "02", "03"], "why": "recorded"}
    _, corim, _ = read_cose(exporters.export("corim", request(with_rules(r0=two, r5=three))).data)
    states = [registers for _, _, registers in states_of(corim)]
    assert all(len(digests) == 1 for registers in states for digests in registers.values())
    pairs = [(registers[0][0][1][:1].hex(), registers[5][0][1][:1].hex()) for registers in states]
    assert pairs == list(itertools.product(("aa", "bb"), ("01", "02", "03")))


def test_a_corim_of_more_states_than_a_reader_should_be_asked_to_try_is_refused() -> None:
    many = {"rule": "oneOf", "values": [f"{number:02x}" for number in range(17)], "why": "recorded"}
    with pytest.raises(UsageError, match="corim: expected at most 256 states that are allowed, got 289"):
        exporters.export("corim", request(with_rules(r0=many, r5=many)))


def test_a_corim_of_another_root_of_trust_names_its_registers() -> None:
    asked = request(honest().but(platforms=[SNP, TDX]), platform="b-tdx")
    _, corim, _ = read_cose(exporters.export("corim", asked).data)
    ((_, platform, registers),) = states_of(corim)
    assert platform == "b-tdx"
    assert set(registers) == {"MRTD", "RTMR1", "RTMR2", "RTMR3"}
    for name, digests in registers.items():
        (wanted,) = TDX["measurements"][name]["values"]
        assert [(number, value.hex()) for number, value in digests] == [(7, wanted)]


# --- trustee ---


def register_at_trustee(message: bytes) -> dict[str, object]:
    """What trustee's RVPS stores: after rvps/src/lib.rs and extractors/sample/mod.rs of commit 78962cd4.

    Its Message has a `version` that must be 0.1.0, a `payload` and the `type` of an extractor; the
    sample extractor takes the payload for base64 of a JSON object, each member a reference value.
    """
    value = json.loads(message)
    assert {"payload", "type"} <= value.keys()
    assert value.get("version", "0.1.0") == "0.1.0"
    assert value["type"] == "sample"
    stored = json.loads(base64.b64decode(value["payload"], validate=True))
    assert isinstance(stored, dict)
    return stored


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_trustee_stores_every_register_by_a_name_of_its_recommended_form(bank: str) -> None:
    made = exporters.export("rvps", request(bank=HashAlgorithm(bank)))
    place = f"rvps:///hello/qemu-q35-ovmf-2025.02/{bank}"
    wanted = {f"{place}/pcr{name:02}:1.0.0": [value] for name, value in expected_values(bank).items()}
    assert register_at_trustee(made.data) == wanted
    assert "not signed" in made.notes[0]


def test_trustee_gets_all_values_of_a_register_and_the_names_of_a_launch() -> None:
    two = {"rule": "oneOf", "values": ["aa", "bb"], "why": "recorded"}
    stored = register_at_trustee(exporters.export("rvps", request(with_rules(r0=two))).data)
    assert stored["rvps:///hello/qemu-q35-ovmf-2025.02/sha256/pcr00:1.0.0"] == ["aa" * 32, "bb" * 32]
    launch = register_at_trustee(exporters.export("rvps", request(honest().but(platforms=[SNP]))).data)
    wanted = SNP["measurements"]["LAUNCH_DIGEST"]["values"]
    assert launch == {"rvps:///hello/a-snp/sha384/launch_digest:1.0.0": wanted}


# --- keylime ---


def ask_keylime(policy: bytes, registers: dict[int, str], tmp_path: Path, bank: str = "sha256") -> list[str]:
    """keylime's reasons to refuse a quote with these registers."""
    pytest.importorskip("keylime")
    (tmp_path / "policy.json").write_bytes(policy)
    said = {str(number): value for number, value in registers.items()}
    words = [sys.executable, str(VERIFIER), str(tmp_path / "policy.json"), json.dumps(said), bank]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def judged_by_keylime(bank: str = "sha256") -> dict[int, str]:
    return {number: value for number, value in expected_values(bank).items() if number != 10}


@pytest.mark.parametrize("bank", ["sha256", "sha384"])
def test_keylime_lets_the_registers_of_the_honest_boot_pass(bank: str, tmp_path: Path) -> None:
    made = exporters.export("keylime", request(bank=HashAlgorithm(bank)))
    assert json.loads(made.data) == {str(name): [value] for name, value in judged_by_keylime(bank).items()}
    assert ask_keylime(made.data, judged_by_keylime(bank), tmp_path, bank) == []


@pytest.mark.parametrize("register", [0, 4, 11, 12, 17])
def test_keylime_refuses_another_value_of_a_register(register: int, tmp_path: Path) -> None:
    made = exporters.export("keylime", request())
    bad = judged_by_keylime() | {register: "5a" * 32}
    assert ask_keylime(made.data, bad, tmp_path) == [f"pcr_validation.invalid_pcr_{register}"]


def test_keylime_refuses_a_quote_without_a_register(tmp_path: Path) -> None:
    made = exporters.export("keylime", request())
    some = {number: value for number, value in judged_by_keylime().items() if number != 12}
    assert ask_keylime(made.data, some, tmp_path) == ["pcr_validation.missing_pcrs"]


def test_what_keylime_cannot_be_told_is_said() -> None:
    notes = " ".join(exporters.export("keylime", request()).notes)
    assert "left out: registers 1, 16, 23" in notes
    assert "no values for registers 10 and 16" in notes
    assert "ask for sha256" in notes
    assert "no measured-boot reference state" in notes


# --- Nitro ---


def test_an_enclave_image_is_described_as_nitro_cli_describes_it() -> None:
    made = exporters.export("nitro", request(honest().but(platforms=[NITRO])))
    wanted = {name: rule["values"][0] for name, rule in NITRO["measurements"].items()}
    # the shape: aws-nitro-enclaves-cli, docs/image_signing.md
    assert json.loads(made.data) == {"Measurements": {"HashAlgorithm": "Sha384 { ... }", **wanted}}


def test_registers_of_an_enclave_that_are_not_of_its_image_are_left_out() -> None:
    rule = {"rule": "oneOf", "values": ["ab" * 48]}
    more = {**NITRO, "measurements": {**NITRO["measurements"], "PCR3": rule, "PCR8": rule}}
    made = json.loads(exporters.export("nitro", request(honest().but(platforms=[more]))).data)
    assert set(made["Measurements"]) == {"HashAlgorithm", "PCR0", "PCR1", "PCR2", "PCR8"}


def test_an_enclave_with_two_values_of_a_register_is_not_exported() -> None:
    two = {"rule": "oneOf", "values": ["ab" * 48, "cd" * 48]}
    more = {**NITRO, "measurements": {**NITRO["measurements"], "PCR1": two}}
    with pytest.raises(UsageError, match="nitro: expected one value of PCR1, got 2"):
        exporters.export("nitro", request(honest().but(platforms=[more])))


# --- the signed PCR policy ---


def test_the_policy_digest_is_that_of_systemd_measure() -> None:
    # systemd-measure sign 257.13-1~deb13u1, of 5,000 random bytes as --linux=, --bank=sha256, --phase=:
    held = Digest.from_hex(SHA256_BANK, "84ef926c01e38d9db0c49532f777e40050c8e6b6455579639c0c8e0103ae0cd9")
    made = pcr_policy_digest(SHA256_BANK, {11: held})
    assert made.hex == "817adda48db4278f9be91a3c19e97f18e3069fbd0c528eebfb12ff1c103a7d53"


def test_a_policy_of_no_register_or_one_that_there_is_not_is_refused() -> None:
    value = Digest.sha256(b"")
    for values in ({}, {24: value}, {-1: value}):
        with pytest.raises(FormatError, match="expected registers from 0 to 23"):
            pcr_policy_digest(SHA256_BANK, values)
    with pytest.raises(FormatError, match="expected sha384 values"):
        pcr_policy_digest(SHA384_BANK, {11: value})


@pytest.mark.parametrize("bits", [2048, 3072])
def test_one_policy_over_all_single_values_is_signed(bits: int) -> None:
    key = rsa.generate_private_key(65537, bits)
    made = exporters.export("pcrsig", request(policy_key=load_policy_key(pem_of(key))))
    ((bank, (entry,)),) = json.loads(made.data).items()
    assert bank == "sha256"
    assert entry["pcrs"] == sorted(expected_values("sha256"))
    pkcs1 = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert entry["pkfp"] == hashlib.sha256(pkcs1).hexdigest()
    policy, signature = bytes.fromhex(entry["pol"]), base64.b64decode(entry["sig"], validate=True)
    key.public_key().verify(signature, policy, padding.PKCS1v15(), SHA256())
    registers = "+".join(map(str, entry["pcrs"]))
    assert f"secrets must be sealed with --tpm2-public-key-pcrs={registers}" in made.notes


def test_a_register_of_several_values_is_not_in_the_policy() -> None:
    two = {"rule": "oneOf", "values": ["aa", "bb"], "why": "recorded"}
    made = exporters.export("pcrsig", request(with_rules(r0=two)))
    ((entry,),) = json.loads(made.data).values()
    assert 0 not in entry["pcrs"]
    assert "left out, for having several values: registers 0" in made.notes


BAD_KEYS = {
    "no PEM": (b"key", "expected an unencrypted RSA key in PEM"),
    "P-256": (pem_of(ec.generate_private_key(ec.SECP256R1())), "expected an RSA key, which is all that"),
    "a release key": (generate_key().to_pem(), "expected an RSA key, which is all that"),
    "another exponent": (pem_of(rsa.generate_private_key(3, 2048)), "got 2048 and 3"),
    "too short": (pem_of(rsa.generate_private_key(65537, 1024)), "got 1024 and 65537"),  # noqa: S505
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_a_key_that_systemd_could_not_check_is_refused(name: str) -> None:
    pem, said = BAD_KEYS[name]
    with pytest.raises(UsageError) as caught:
        load_policy_key(pem)
    assert said in caught.value.message


# --- all of them ---


@pytest.mark.parametrize("kind", OF_PLATFORM)
def test_the_same_release_gives_the_same_bytes(kind: str) -> None:
    platforms = [NITRO] if kind == "nitro" else honest().value["predicate"]["platforms"]
    asked = request(honest().but(platforms=platforms))
    assert exporters.export(kind, asked).data == exporters.export(kind, asked).data


@pytest.mark.parametrize("kind", OF_REGISTERS)
def test_a_platform_without_registers_is_refused(kind: str) -> None:
    with pytest.raises(
        UsageError, match="a-snp: expected a platform with the registers of a TPM, got sev-snp"
    ):
        exporters.export(kind, request(honest().but(platforms=[SNP])))


def test_a_platform_that_is_no_enclave_is_refused() -> None:
    with pytest.raises(
        UsageError, match="kind nitro-enclave, got uefi-tpm: the statement has no measurements"
    ):
        exporters.export("nitro", request())


@pytest.mark.parametrize("kind", ["corim", "keylime", "pcrlock", "rvps"])
def test_a_bank_that_the_statement_lacks_is_refused(kind: str) -> None:
    with pytest.raises(UsageError, match="expected --bank to be one of sha256, sha384, got sha512"):
        exporters.export(kind, request(bank=HashAlgorithm.SHA512))


def test_a_signed_policy_is_of_sha256_only() -> None:
    with pytest.raises(
        UsageError, match="pcrsig: expected --bank sha256, got sha384: for other banks systemd"
    ):
        exporters.export("pcrsig", request(bank=SHA384_BANK))


@pytest.mark.parametrize("kind", OF_PLATFORM)
def test_one_of_several_platforms_must_be_chosen(kind: str) -> None:
    with pytest.raises(UsageError, match="expected --platform to be one of a-snp, b-tdx, got none"):
        exporters.export(kind, request(honest().but(platforms=[SNP, TDX])))


@pytest.mark.parametrize(("kind", "field"), [("corim", "signer"), ("pcrsig", "policy_key")])
def test_a_format_with_a_signature_needs_its_key(kind: str, field: str) -> None:
    with pytest.raises(UsageError, match=f"{kind}: expected .* key to sign with, got none"):
        exporters.export(kind, request(**{field: None}))


SILENT = {"rule": "unconstrained", "reason": "says nothing"}


@pytest.mark.parametrize("kind", [*OF_REGISTERS, "corim", "rvps"])
def test_a_platform_that_nothing_is_said_of_is_not_exported(kind: str) -> None:
    nothing = {f"r{register}": SILENT for register in range(24)}
    with pytest.raises(UsageError, match=r"expected a register .*, got none"):
        exporters.export(kind, request(with_rules(**nothing)))
