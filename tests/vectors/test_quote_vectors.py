"""Quotes of other machines: a software TPM's good and bad ones, and a cloud machine's.

Provenance: shared vectors, quotes/swtpm (swtpm, tpm2-tools) and quotes/gce (go-attestation, Apache-2.0).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import VerificationError
from blindbuild.formats.certificate import (
    Certificate,
    parse_certificate,
    parse_pem_certificate,
    trim_padding,
)
from blindbuild.formats.gce import instance_name
from blindbuild.formats.tcgevent import parse_variable_data
from blindbuild.formats.tcglog import parse_event_log, replay
from blindbuild.formats.tpm2 import parse_quote, parse_signature
from blindbuild.formats.tpmkey import Attribute, parse_public, parse_sized_public
from blindbuild.verify import Policy
from blindbuild.verify.certificate_path import find_path, verify_path
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.endorse_certificate import check_ak_profile, check_ek_profile, is_certified
from blindbuild.verify.quote import QuoteExpectation, judge_signature, judge_values
from blindbuild.verify.revocation import RevocationCheck, check_revocation
from blindbuild.verify.secure_boot import judge_secure_boot

VECTORS = Path(__file__).resolve().parents[2].parent / "shared" / "vectors" / "quotes"
SWTPM, GCE = VECTORS / "swtpm", VECTORS / "gce"
NONCE = b"blindbuild-test-nonce-0000000001"
NOW = int(datetime(2026, 12, 1, tzinfo=UTC).timestamp())
pytestmark = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no vectors in {VECTORS}")


def swtpm_values(bank: str) -> list[Digest]:
    values = json.loads((SWTPM / "pcrs.json").read_text())[bank]
    algorithm = HashAlgorithm(bank)
    return [Digest.from_hex(algorithm, values[str(register)]) for register in range(24)]


def judge(key, quote: bytes, signature: bytes, expected: QuoteExpectation):
    steps = Checklist()
    parsed = judge_signature(steps, public=key, raw_quote=quote, raw_signature=signature, needs=())
    judge_values(steps, parsed, expected, signature)
    return parsed, {f"{step.id}:{step.reason}" for step in steps.failed()}


def swtpm_case(name: str, key: str):
    attest = next(SWTPM.glob(f"{name}.*attest.bin")).read_bytes()
    signature = (SWTPM / f"{name}.sig.tpmt_signature.bin").read_bytes()
    public = parse_sized_public((SWTPM / f"{key}.ak.tpm2b_public.bin").read_bytes())
    expected = QuoteExpectation(HashAlgorithm.SHA256, frozenset(range(16)), swtpm_values("sha256"))
    return judge(public, attest, signature, expected)


@pytest.mark.parametrize("key", ["ecdsa", "rsassa", "rsapss"])
def test_a_good_quote_is_accepted(key: str) -> None:
    quote, reasons = swtpm_case(f"good-{key}", key)
    assert reasons == set()
    assert quote.extra_data == NONCE
    ek = parse_sized_public((SWTPM / f"{key}.ek.tpm2b_public.bin").read_bytes())
    ak = parse_sized_public((SWTPM / f"{key}.ak.tpm2b_public.bin").read_bytes())
    assert ak.name() == (SWTPM / f"{key}.ak.name.bin").read_bytes()
    # these keys are children of the endorsement key, ours is a primary
    assert quote.qualified_signer == ak.qualified_name(ek.qualified_name())


def key_of(name: str) -> str:
    for key in ("ecdsa", "rsassa", "rsapss"):
        if "Q2:signature-invalid" not in (reasons := swtpm_case(name, key)[1]) and not any(
            reason.startswith("Q3") for reason in reasons
        ):
            return key
    raise AssertionError(f"{name}: no key signed it")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("bad-certify", "Q6:not-a-quote"),
        ("bad-time", "Q6:not-a-quote"),
        ("bad-subset-of-pcrs", "Q8:selection-registers"),
        ("bad-multi-bank", "Q8:selection-banks"),
    ],
)
def test_a_bad_quote_is_refused_for_its_own_reason(name: str, reason: str) -> None:
    assert swtpm_case(name, key_of(name))[1] == {reason}


def test_a_quote_without_a_nonce_is_one_for_nobody() -> None:
    quote, reasons = swtpm_case("bad-no-nonce", key_of("bad-no-nonce"))
    assert reasons == set()
    assert quote.extra_data == b""


@pytest.mark.parametrize("wrong", ["ecdsa", "rsassa", "rsapss"])
def test_a_quote_is_refused_with_another_key(wrong: str) -> None:
    for right in {"ecdsa", "rsassa", "rsapss"} - {wrong}:
        _, reasons = swtpm_case(f"good-{right}", wrong)
        assert reasons <= {"Q2:signature-invalid", "Q3:signature-scheme"}
        assert reasons


def test_the_unrestricted_key_is_seen_to_be_one() -> None:
    public = parse_sized_public((SWTPM / "unrestricted-key.tpm2b_public.bin").read_bytes())
    assert not public.attributes & Attribute.RESTRICTED


@pytest.mark.parametrize("key", ["ecdsa", "rsassa", "rsapss"])
def test_any_flipped_bit_of_a_real_attestation_is_refused(key: str) -> None:
    public = parse_sized_public((SWTPM / f"{key}.ak.tpm2b_public.bin").read_bytes())
    signature = (SWTPM / f"good-{key}.sig.tpmt_signature.bin").read_bytes()
    expected = QuoteExpectation(HashAlgorithm.SHA256, frozenset(range(16)), swtpm_values("sha256"))
    quote = (SWTPM / f"good-{key}.quote.tpms_attest.bin").read_bytes()
    for position in range(len(quote)):
        flipped = bytearray(quote)
        flipped[position] ^= 0x10
        assert judge(public, bytes(flipped), signature, expected)[1] == {"Q2:signature-invalid"}


def test_real_structures_write_back_to_the_same_bytes() -> None:
    for path in SWTPM.glob("*quote.tpms_attest.bin"):
        assert parse_quote(path.read_bytes()).to_bytes() == path.read_bytes()
    for path in VECTORS.glob("*/*tpmt_signature.bin"):
        assert parse_signature(path.read_bytes()).to_bytes() == path.read_bytes()
    for path in VECTORS.glob("*/*tpm2b_public.bin"):
        assert parse_sized_public(path.read_bytes()).to_bytes() == path.read_bytes()[2:]
    for path in VECTORS.glob("*/*tpmt_public.bin"):
        assert parse_public(path.read_bytes()).to_bytes() == path.read_bytes()


def test_a_software_tpms_certificate_leads_to_its_authority() -> None:
    certificate = parse_certificate(trim_padding((SWTPM / "ek-rsa.cert.der").read_bytes()))
    root = parse_pem_certificate((SWTPM / "swtpm-localca.root.pem").read_text())
    issuer = parse_pem_certificate((SWTPM / "swtpm-localca.issuer.pem").read_text())
    assert verify_path(certificate, (root,), (issuer,), NOW) == (certificate, issuer, root)
    assert check_ek_profile(certificate)[1] == "id:00001014 swtpm id:20191023"


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384"])
def test_a_cloud_machines_quotes_are_read(bank: str) -> None:
    key = parse_public((GCE / "nonce9009.akpub.tpmt_public.bin").read_bytes())
    quote = (GCE / f"nonce9009.{bank}.quote.tpms_attest.bin").read_bytes()
    signature = (GCE / f"nonce9009.{bank}.sig.tpmt_signature.bin").read_bytes()
    values = json.loads((GCE / f"nonce9009.{bank}.pcrs.json").read_text())["pcrs"]
    algorithm = HashAlgorithm(bank)
    expected = QuoteExpectation(
        algorithm,
        frozenset(range(24)),
        [Digest.from_hex(algorithm, values[str(register)]) for register in range(24)],
    )
    parsed, reasons = judge(key, quote, signature, expected)
    # the values are right in every bank; a policy of ours never asks for sha1
    assert reasons == set()
    assert parsed.extra_data == b"\x90\x09"
    assert key.attributes == 0x00050072
    assert parsed.qualified_signer == key.qualified_name()


def test_a_cloud_machines_certificate_leads_to_its_root() -> None:
    certificate = parse_certificate((GCE / "nonce9009.akcert.der").read_bytes())
    root = parse_certificate((GCE / "ca-tpm_ek_root_1.cer").read_bytes())
    issuer = parse_certificate((GCE / "ca-tpm_ek_intermediate_2.crt").read_bytes())
    assert verify_path(certificate, (root,), (issuer,), NOW) == (certificate, issuer, root)


def gce_certificate() -> Certificate:
    return parse_certificate(trim_padding((GCE / "nonce9009.akcert.der").read_bytes() + bytes(3000)))


def gce(name: str) -> Certificate:
    return parse_certificate((GCE / name).read_bytes())


def test_a_cloud_machines_certificate_is_that_of_the_key_that_quotes() -> None:
    certificate = gce_certificate()
    key = parse_public((GCE / "nonce9009.akpub.tpmt_public.bin").read_bytes())
    assert check_ak_profile(certificate)[1] == "attestation key, as Google Compute Engine certifies it"
    assert is_certified(certificate, key)
    assert instance_name(certificate) == (
        "gce:117478743145/google.com:wuale-gcp-testing/us-central1-a/cos-test/6797026933021542085"
    )
    other = parse_sized_public((SWTPM / "rsassa.ak.tpm2b_public.bin").read_bytes())
    assert not is_certified(certificate, other)


def test_a_cloud_machines_certificate_is_no_endorsement_certificate_and_no_other_way_round() -> None:
    with pytest.raises(VerificationError) as caught:
        check_ek_profile(gce_certificate())
    assert (caught.value.step, caught.value.reason) == ("A9", "certificate-profile")
    with pytest.raises(VerificationError) as caught:
        check_ak_profile(parse_certificate(trim_padding((SWTPM / "ek-rsa.cert.der").read_bytes())))
    assert (caught.value.step, caught.value.reason) == ("A9", "certificate-profile")


def test_a_cloud_machines_certificate_leads_to_none_of_its_other_roots() -> None:
    others = [
        ((gce("ca-gcp_ek_ak_ca_root.crt"),), (gce("ca-gcp_ek_ak_ca_intermediate_v3.crt"),)),
        ((gce("ca-tpm_ek_root_1.cer"),), (gce("ca-tpm_ek_intermediate_3.crt"),)),
    ]
    with pytest.raises(VerificationError) as caught:
        find_path(gce_certificate(), others, NOW)
    assert (caught.value.step, caught.value.reason) == ("A4", "certificate-path")
    right = ((gce("ca-tpm_ek_root_1.cer"),), (gce("ca-tpm_ek_intermediate_2.crt"),))
    way, path = find_path(gce_certificate(), [*others, right], NOW)
    assert (way, len(path)) == (2, 3)


def test_an_authority_of_a_cloud_without_lists_is_refused_where_they_are_asked_for() -> None:
    path = (gce_certificate(), gce("ca-tpm_ek_intermediate_2.crt"), gce("ca-tpm_ek_root_1.cer"))
    check_revocation(path, RevocationCheck((), False, path[1:], NOW))
    with pytest.raises(VerificationError) as caught:
        check_revocation(path, RevocationCheck((), True, path[1:], NOW))
    assert (caught.value.step, caught.value.reason) == ("A7", "crl-missing")


def test_the_cloud_machines_secure_boot_is_read_from_its_quoted_register() -> None:
    log = parse_event_log((GCE / "nonce9009.eventlog.bin").read_bytes())
    replayed = replay(log, HashAlgorithm.SHA256)
    values = json.loads((GCE / "nonce9009.sha256.pcrs.json").read_text())["pcrs"]
    assert replayed.values[7].hex == values["7"]
    steps = Checklist({"E1": "", "E3": "", "E11": ""})
    for step in ("E1", "E3"):
        steps.run(step, lambda: (None, ""))
    judge_secure_boot(steps, Policy(require_secure_boot=True), replayed)
    first = replayed.events_of(7)[0]
    assert parse_variable_data(first.data).name == "SecureBoot"
    expected = set() if parse_variable_data(first.data).data == b"\x01" else {"secure-boot-off"}
    assert {step.reason for step in steps.failed()} == expected
