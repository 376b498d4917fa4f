"""Whatever a server answers, and whatever was published, `appraise` gives a verdict and raises nothing."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from blindbuild.errors import VerificationError
from blindbuild.manifest import parse_trust
from blindbuild.verify import Appraisal, Outcome, Policy, parse_session, session_bytes
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from blindbuild.verify.policy import AllowedMachines
from tests.fakes.ak_authority import AkAuthority, make_crl
from tests.fakes.published import NOW
from tests.fakes.world import TEST_POLICY, judge, publisher, session, tpm, with_endorsement

AK = AkAuthority()
MODES = {
    "credential": (judge, session()),
    "pinned": (
        judge.but(trust=parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))),
        session(credential=False),
    ),
    "certified": (
        judge.but(
            trust=parse_trust(publisher().trust(**AK.pems)),
            policy=Policy(require_crls=True, machines=AllowedMachines(frozenset({tpm().ak_name.hex()}))),
            crls=(make_crl(AK.root_name, AK.root_key), make_crl(AK.issuer_name, AK.issuer_key)),
        ),
        with_endorsement(session(credential=False), ak_certificate=AK.issue(tpm().ak.public_key())),
    ),
}
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def is_whole(appraisal: Appraisal) -> None:
    """A refusal names its reason, an acceptance has no failed step, and neither can be both."""
    assert (appraisal.verdict is None) == bool(appraisal.failed)
    for step in appraisal.steps:
        assert (step.outcome is Outcome.FAILED) == bool(step.reason)
        assert step.reason != "internal-error", (step.id, step.detail)
    json.dumps(appraisal.to_json())
    if appraisal.verdict is None:
        with pytest.raises(VerificationError):
            appraisal.accepted()


def mutate(data: bytes, draw: st.DataObject) -> bytes:
    """One of the ways in which bytes go wrong, or other bytes."""
    kind = draw.draw(st.sampled_from(("flip", "cut", "grow", "repeat", "other")))
    at = draw.draw(st.integers(0, max(len(data) - 1, 0)))
    if kind == "flip" and data:
        changed = bytearray(data)
        changed[at] ^= draw.draw(st.integers(1, 255))
        return bytes(changed)
    if kind == "cut":
        return data[:at]
    if kind == "grow":
        return data[:at] + draw.draw(st.binary(min_size=1, max_size=8)) + data[at:]
    if kind == "repeat":
        return data[:at] + data[at : at + 16] * 2 + data[at + 16 :]
    return draw.draw(st.binary(max_size=64))


FIELDS = (
    *(("evidence", name) for name in ("quote", "signature", "eventLog")),
    *(("endorsement", name) for name in ("akPublic", "ekPublic", "akCertificate", "ekCertificates")),
)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_mutated_here_is_accepted_as_it_is(mode: str) -> None:
    judged_by, honest = MODES[mode]
    judged_by(honest).accepted()


@pytest.mark.parametrize("mode", MODES)
@SLOW
@given(st.data())
def test_whatever_a_server_answers_there_is_a_verdict_and_never_an_accident(
    mode: str, data: st.DataObject
) -> None:
    judged_by, honest = MODES[mode]
    value = json.loads(session_bytes(honest))
    part, name = data.draw(st.sampled_from([f for f in FIELDS if f[1] in value[f[0]]]))
    holder, key = value[part], name
    if name == "ekCertificates":
        holder, key = value[part][name][0], "certificate"
    before = base64.b64decode(holder[key])
    after = mutate(before, data)[:4000] if name != "eventLog" else mutate(before, data)
    holder[key] = base64.b64encode(after).decode()
    try:
        read = parse_session(json.dumps(value).encode())
    except VerificationError:
        return
    appraisal = judged_by(read)
    is_whole(appraisal)
    # what the mode does not look at may differ; everything else has to be noticed
    looked_at = {
        "credential": {"akCertificate"},
        "pinned": {"akCertificate", "ekPublic", "ekCertificates"},
        "certified": {"ekPublic", "ekCertificates"},
    }[mode]
    if appraisal.verdict is not None and after != before:
        unsigned = name == "eventLog"  # descriptions of events that are nobody's word
        padded = name in ("akCertificate", "ekCertificates") and after[: len(before)] == before
        assert name in looked_at or unsigned or padded or _same_number(before, after), name


def _same_number(before: bytes, after: bytes) -> bool:
    # a number of a signature may lack leading zeros; nothing else has two forms
    return before.replace(b"\0", b"") == after.replace(b"\0", b"")


@SLOW
@given(st.data())
def test_whatever_was_published_there_is_a_verdict_and_never_an_accident(data: st.DataObject) -> None:
    which = data.draw(st.sampled_from(("envelope", "release", "ledger", "crls")))
    original = {"envelope": publisher().envelope, "release": publisher().release}.get(which, b"{}")
    changed = mutate(original, data) or b"x"
    given_now = {which: (changed,) if which == "crls" else changed}
    is_whole(judge.but(**given_now)(session()))


@SLOW
@example(253_402_300_799, -1, True, b"")
@given(st.integers(0, 253_402_300_799), st.integers(-1, 10**9), st.booleans(), st.binary(max_size=40))
def test_any_time_policy_and_nonce_give_a_verdict(now: int, minimum: int, flag: bool, nonce: bytes) -> None:
    policy = replace(
        TEST_POLICY,
        minimum_tpm_firmware=None if minimum < 0 else minimum,
        require_secure_boot=flag,
        require_release=not flag,
        machines=AllowedMachines(frozenset({nonce.hex()})) if flag else None,
        session_s=max(minimum, 0),
        release_age_s=max(minimum, 0) if flag else None,
    )
    is_whole(judge.but(now=now, policy=policy)(replace(session(), nonce=nonce)))
    judged_by, honest = MODES["pinned"]
    is_whole(judged_by.but(now=now, policy=replace(policy, machines=None, require_secure_boot=False))(honest))
    is_whole(judged_by.but(now=now, policy=Policy(require_release=False), no_release=True)(honest))


@SLOW
@given(st.data())
def test_a_mutated_bundle_is_refused_or_means_what_it_says(data: st.DataObject) -> None:
    whole = bundle_bytes(Bundle(session(), publisher().envelope, NOW, release=publisher().release))
    changed = mutate(whole, data)
    try:
        read = parse_bundle(changed)
    except VerificationError:
        return
    assert bundle_bytes(read) == changed
    assert not read.session.live
    is_whole(judge.but(envelope=read.envelope or b"x", release=read.release)(read.session))
