"""A client that believes certificates of attestation keys, against real TLS servers of every kind."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest

from blindbuild.client import Expectation, attest, exchange
from blindbuild.errors import ChannelError, VerificationError
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.verify import Policy, session_bytes
from tests.fakes.ak_authority import AkAuthority
from tests.fakes.attester import Attester, Server, b64
from tests.fakes.published import NOW, honest_boot, log_bytes
from tests.fakes.world import TEST_POLICY, authority, pinned_trust, publisher, real_trust, tpm

AUTHORITY = AkAuthority()
CERTIFICATE = AUTHORITY.issue(tpm().ak.public_key())
AK_TRUST = parse_trust(publisher().trust(**AUTHORITY.pems))
STRICT = Policy()
EVIDENCE = "/.well-known/blindbuild/evidence"


def certified(certificate: bytes = CERTIFICATE, *, without_ek: bool = False) -> Attester:
    def endorse(answer: dict) -> dict:
        listed = [] if without_ek else answer["ekCertificates"]
        return answer | {"akCertificate": b64(certificate), "ekCertificates": listed}

    return Attester(tpm=tpm(), event_log=log_bytes(honest_boot()), endorse=endorse)


def ordinary() -> Attester:
    return Attester(tpm=tpm(), event_log=log_bytes(honest_boot()))


def judged(attester: Attester, trust: TrustRoots, policy: Policy = STRICT):
    expectation = Expectation(publisher().envelope, publisher().release, trust, policy, clock=lambda: NOW)
    with Server(attester.handle, attester.key) as server:
        attempt = attest(server.url, expectation)
        attempt.close()
    return attempt


@pytest.mark.parametrize("without_ek", [False, True])
def test_a_server_with_a_certified_key_is_verified_without_a_credential(without_ek: bool) -> None:
    attester = certified(without_ek=without_ek)
    attempt = judged(attester, AK_TRUST)
    attempt.appraisal.accepted()
    assert attempt.session.credential_secret is None
    assert "akCertificate" in json.loads(session_bytes(attempt.session))["endorsement"]
    assert all("credentialBlob" not in json.loads(b) for _, path, b in attester.requests if path == EVIDENCE)


OTHER_KINDS = {
    "an endorsement certificate": (ordinary(), AK_TRUST, "A6:certificate-missing"),
    "a stranger's certificate": (
        certified(AkAuthority().issue(tpm().ak.public_key())),
        AK_TRUST,
        "A4:certificate-path",
    ),
    "a certified key where a TPM maker is asked for": (
        certified(without_ek=True),
        real_trust(),
        "A6:certificate-missing",
    ),
    "a certified key where another is pinned": (
        certified(),
        parse_trust(publisher().trust(attestation_keys=[tpm().but(ak_attributes=0x00050073).ak_public])),
        "A5:key-not-pinned",
    ),
}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_a_server_that_offers_another_kind_of_proof_is_refused(name: str) -> None:
    attester, trust, reason = OTHER_KINDS[name]
    attempt = judged(attester, trust)
    assert reason in attempt.appraisal.reasons
    with pytest.raises(VerificationError):
        attempt.appraisal.accepted()


def test_a_certificate_beside_a_genuine_tpm_changes_nothing() -> None:
    judged(certified(), pinned_trust(), TEST_POLICY).appraisal.accepted()
    trust = parse_trust(publisher().trust(tpm_roots=[authority().root_pem]))
    attempt = judged(certified(), trust)  # the issuer is not pinned
    assert attempt.appraisal.reasons == {"A4:certificate-path"}


def test_evidence_that_took_longer_than_the_policy_allows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    ticks = iter((began, *[began + 31] * 50))
    monkeypatch.setattr(exchange, "time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with pytest.raises(ChannelError, match="within 30 s, got it after 31 s"):
        judged(certified(), AK_TRUST, Policy(evidence_age_s=30))
