"""The whole exchange against swtpm and tpm2-tools: an independent TPM, and an independent MakeCredential."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.client import Expectation, attest
from blindbuild.errors import VerificationError
from blindbuild.formats.certificate import parse_certificate, trim_padding
from blindbuild.formats.credential import make_credential
from blindbuild.formats.tpm2 import parse_quote, parse_signature
from blindbuild.formats.tpmkey import parse_sized_public
from blindbuild.manifest import parse_trust
from blindbuild.verify import Policy
from tests.fakes.attester import Attester, Server
from tests.fakes.published import command_line, honest_boot, log_bytes
from tests.fakes.swtpm import PROGRAMS, Swtpm
from tests.fakes.world import TEST_POLICY, publisher, tpm

MISSING = [name for name in PROGRAMS if shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin") is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"missing programs: {', '.join(MISSING)}")
# swtpm_setup makes certificates that begin now, so the clock is the real one
LATER = 1_830_000_000


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swtpm]:
    with Swtpm(tmp_path_factory.mktemp("swtpm")) as made:
        made.extend(honest_boot())
        yield made


def expectation(machine: Swtpm, policy: Policy = TEST_POLICY) -> Expectation:
    trust = publisher().trust(test_tpm_roots=[machine.root_pem], test_tpm_intermediates=[machine.issuer_pem])
    published = publisher().but(release={"validUntil": "2037-01-01T00:00:00Z"})
    return Expectation(published.envelope, published.release, parse_trust(trust), policy, clock=lambda: LATER)


def test_digests_extended_by_the_operator_are_accepted_as_a_test_tpm_and_only_so(machine: Swtpm) -> None:
    # decision 1: nothing was booted here, and every register is right
    attester = Attester(machine, log_bytes(honest_boot()))
    with Server(attester.handle, attester.key) as server:
        attempt = attest(server.url, expectation(machine))
        assert attempt.appraisal.failed == ()
        assert any("nothing about the operator" in warning for warning in attempt.appraisal.warnings)
        assert attempt.accept().post("/v1/hello", b"x") == b"hello, x"
        strict = attest(server.url, expectation(machine, Policy()))
        assert strict.appraisal.reasons == {"A11:test-tpm"}
        with pytest.raises(VerificationError):
            strict.accept()


def test_another_boot_in_a_real_tpm_is_refused(tmp_path: Path) -> None:
    events = [command_line("evil") if e.what == "command line" else e for e in honest_boot()]
    with Swtpm(tmp_path) as other:
        other.extend(events)
        attester = Attester(other, log_bytes(events))
        with Server(attester.handle, attester.key) as server:
            appraisal = attest(server.url, expectation(other)).appraisal
    assert appraisal.reasons == {"E1:register-mismatch"}
    assert [difference.register for difference in appraisal.differences] == [9]


@pytest.mark.parametrize("size", [1, 16, 32])
def test_a_real_tpm_activates_our_credential(machine: Swtpm, size: int) -> None:
    secret = bytes(range(size))
    credential = make_credential(
        parse_sized_public(machine.ek_public),
        machine.ak_name,
        secret=secret,
        seed=b"\x11" * 32,
        oaep_seed=b"\x22" * 32,
    )
    assert machine.activate(credential.blob, credential.encrypted_secret) == secret


def test_a_real_tpm_does_not_activate_a_credential_for_another_key(machine: Swtpm) -> None:
    credential = make_credential(
        parse_sized_public(machine.ek_public),
        b"\x00\x0b" + bytes(32),
        secret=b"s",
        seed=b"\x11" * 32,
        oaep_seed=b"\x22" * 32,
    )
    with pytest.raises(ValueError, match="integrity"):
        machine.activate(credential.blob, credential.encrypted_secret)


def test_the_software_tpm_of_the_tests_opens_what_tpm2_makecredential_made(machine: Swtpm) -> None:
    blob, encrypted = machine.make_credential(tpm().ek_public, tpm().ak_name, b"secret")
    assert tpm().activate(blob, encrypted) == b"secret"
    # the same sizes as ours
    ours = make_credential(
        parse_sized_public(tpm().ek_public),
        tpm().ak_name,
        secret=b"secret",
        seed=bytes(32),
        oaep_seed=bytes(32),
    )
    assert (len(ours.blob), len(ours.encrypted_secret)) == (len(blob), len(encrypted))


def test_names_and_structures_are_those_of_a_real_tpm(machine: Swtpm) -> None:
    ak = parse_sized_public(machine.ak_public)
    assert ak.name() == machine.ak_name
    assert ak.attributes == 0x00050072
    assert ak.to_bytes() == machine.ak_public[2:]
    raw, signature = machine.quote("sha384", bytes(32))
    quote = parse_quote(raw)
    assert quote.to_bytes() == raw
    assert quote.qualified_signer == ak.qualified_name()
    assert parse_signature(signature).to_bytes() == signature
    index, stored = machine.endorsement()[0]
    assert index == 0x01C00002
    assert stored.startswith(parse_certificate(trim_padding(stored)).der)


def test_the_software_tpm_of_the_tests_has_the_shape_of_a_real_one(machine: Swtpm) -> None:
    real, _ = machine.quote("sha256", bytes(32))
    made, _ = tpm().quote("sha256", bytes(32))
    assert len(real) == len(made)
    assert real[:8] == made[:8]
    real_ek, made_ek = machine.ek_public, tpm().ek_public
    assert real_ek[:-256] == made_ek[:-256]
    assert machine.ak_public[:-68] == tpm().ak_public[:-68]
    assert struct.unpack(">H", real_ek[:2])[0] == len(real_ek) - 2


def test_an_unallocated_bank_is_not_accepted_as_a_quote_about_it(machine: Swtpm) -> None:  # 92
    # the TPM signs an empty selection and says nothing; the register values have to come from elsewhere
    from blindbuild.digest import Digest, HashAlgorithm
    from blindbuild.verify.checklist import Checklist
    from blindbuild.verify.quote import ALL_REGISTERS, QuoteExpectation, judge_signature, judge_values

    raw, signature = machine.quote("sha512", bytes(32))
    steps = Checklist()
    quote = judge_signature(
        steps,
        public=parse_sized_public(machine.ak_public),
        raw_quote=raw,
        raw_signature=signature,
        needs=(),
    )
    zero = [Digest.zero(HashAlgorithm.SHA512)] * 24
    judge_values(steps, quote, QuoteExpectation(HashAlgorithm.SHA512, ALL_REGISTERS, zero), signature)
    assert steps.passed("Q2")
    assert [f"{step.id}:{step.reason}" for step in steps.failed()] == ["Q8:selection-registers"]


def test_a_tpm_that_lost_power_counts_it_and_is_not_sure_of_its_clock(tmp_path: Path) -> None:  # 107
    events = honest_boot()
    with Swtpm(tmp_path) as lost:
        before = parse_quote(lost.quote("sha256", bytes(32))[0]).clock
        lost.kill()
        lost.power_on()
        lost.extend(events)
        attester = Attester(lost, log_bytes(events))
        with Server(attester.handle, attester.key) as server:
            attempt = attest(server.url, expectation(lost))
    after = parse_quote(attempt.session.evidence.quote).clock
    assert before.safe
    assert after.reset_count == before.reset_count + 1
    # libtpms is sure again 4 s after the start; a slow machine may have got there
    assert attempt.appraisal.reasons == (set() if after.safe else {"Q12:clock-unsafe"})
