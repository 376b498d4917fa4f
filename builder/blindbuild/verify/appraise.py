"""The client's decision: a pure function of the exchange, of what was published, and of whom we trust.

The steps, their numbers and the attack that each one stops are in docs/spec/verification.md. They run cheap
and signature first; what one step refuses no later one builds upon, and what does not depend on a refused
step is still checked, so that all mismatches are reported and not only the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from blindbuild.formats.tcglog import ReplayedLog
from blindbuild.formats.tpm2 import Quote
from blindbuild.manifest import DEFAULT_ATTESTATION_KEY, Release, TrustRoots
from blindbuild.manifest.rfc3339 import MAX_TIME
from blindbuild.verify.appraisal import _PROOF, AcceptedSession, Appraisal, broken_appraisal
from blindbuild.verify.checklist import (
    LOG_TITLES,
    PROBE_TITLES,
    SEALED_TITLES,
    TITLES,
    Checklist,
    Outcome,
    found,
    refuse,
)
from blindbuild.verify.difference import Difference
from blindbuild.verify.endorse import AttestationKey, TrustMode, judge_endorsement, trust_mode
from blindbuild.verify.policy import Basis, History, Policy
from blindbuild.verify.publication import Publication, judge_publication
from blindbuild.verify.quote import (
    ALL_REGISTERS,
    QuoteExpectation,
    check_nonce,
    judge_binding,
    judge_machine,
    judge_signature,
    judge_values,
)
from blindbuild.verify.rebuilders import REBUILD_TITLES
from blindbuild.verify.registers import PlatformMatch, check_registers, match_platform
from blindbuild.verify.replay import judge_log
from blindbuild.verify.secure_boot import judge_secure_boot
from blindbuild.verify.session import SEALED_PROFILE, RecordedSession

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.verify.current import CurrentView
    from blindbuild.verify.tlog import RequiredLog

RECORDED = "recorded session: it proves nothing about now, whoever wrote the file knew nonce and secret"
# M13 is skipped at first use of a log, or when its files are not at hand and its witnesses have compared
_OPTIONAL = frozenset({"M13"})
_CERTIFIED_ONLY = frozenset({"A6", "A9", "A4", "A11", "A8"})


@dataclass(frozen=True, slots=True)
class _Judged:
    """What each part of the checklist has established."""

    publication: Publication
    key: AttestationKey
    quote: Quote
    match: PlatformMatch


def check_publication(
    envelope: bytes,
    *,
    release: bytes | None,
    trust: TrustRoots,
    now: int,
    policy: Policy,
    history: History | None = None,
    ledger: bytes | None = None,
    log: RequiredLog | None = None,
    rebuilds: Sequence[bytes] = (),
    current: CurrentView | None = None,
    probe: bytes | None = None,
) -> Appraisal:
    """Judge what was published, before any server is asked; the appraisal can fail but never accept."""
    basis = Basis(
        envelope,
        release,
        trust,
        now,
        policy,
        history,
        ledger,
        log,
        rebuilds=rebuilds,
        current=current,
        probe=probe,
    )
    try:
        steps = Checklist(_titles(basis))
        publication = judge_publication(steps, basis)
        judge_profile(steps, policy, publication)
        return _appraisal(steps, publication, None, None, None, live=False)
    except Exception as error:  # as in `appraise`
        return broken_appraisal(error, live=False)


def appraise(
    session: RecordedSession,
    *,
    envelope: bytes,
    release: bytes | None,
    trust: TrustRoots,
    now: int,
    policy: Policy,
    history: History | None = None,
    ledger: bytes | None = None,
    log: RequiredLog | None = None,
    rebuilds: Sequence[bytes] = (),
    current: CurrentView | None = None,
    crls: Sequence[bytes] = (),
    probe: bytes | None = None,
) -> Appraisal:
    """Judge one session.

    Args:
        session: the exchange, live or recorded.
        envelope: the manifest: a DSSE envelope over the statement.
        release: a DSSE envelope over the release, or None when there is none.
        trust: whom to believe.
        now: seconds since 1970.
        policy: how much to accept.
        history: what this client accepted before in this trust domain; None at first use.
        ledger: the bytes of channels.json, or None when they are not at hand.
        log: the transparency log that must have the release, or None when none is asked for.
        rebuilds: DSSE envelopes over rebuild records; they count when the trust file names rebuilders.
        current: what a refresh of the TUF repository has established, whose root the trust file pins.
        crls: certificate revocation lists, DER or PEM.
        probe: a DSSE envelope over the probe of the image, or None when it is not at hand.

    Returns:
        The appraisal; a mismatch is never raised, `accepted()` does that.
    """
    basis = Basis(
        envelope,
        release,
        trust,
        now,
        policy,
        history,
        ledger,
        log,
        rebuilds=rebuilds,
        current=current,
        crls=crls,
        probe=probe,
    )
    try:
        return _appraise(session, basis)
    except Exception as error:  # C7: what breaks has not passed, and a caller need not know what can break
        return broken_appraisal(error, live=session.live)


def _appraise(session: RecordedSession, basis: Basis) -> Appraisal:
    sealed = SEALED_TITLES if session.profile == SEALED_PROFILE else {}
    steps = Checklist(_titles(basis) | sealed)
    publication, policy = judge_publication(steps, basis), basis.policy
    rule = DEFAULT_ATTESTATION_KEY if publication is None else publication.statement.attestation_key
    steps.run("C1", lambda: _same_statement(session, found(publication), policy), needs=("M6",))
    key = judge_endorsement(steps, session, basis, rule)
    quote = _judge_quote(steps, session, key, basis)
    operator_run = key is not None and key.operator_run
    match, replayed = _judge_registers(steps, session, publication, policy, operator_run=operator_run)
    if not session.live:
        steps.warn(RECORDED)
    verdict = None
    if publication and key and quote and match and _complete(steps, basis):
        judged = _Judged(publication, key, quote, match)
        verdict = _accept(session, judged, basis, steps.warnings)
    return _appraisal(steps, publication, match, replayed, verdict, live=session.live)


def _judge_quote(
    steps: Checklist,
    session: RecordedSession,
    key: AttestationKey | None,
    basis: Basis,
) -> Quote | None:
    evidence = session.evidence
    public = None if key is None else key.public
    steps.run("Q1", partial(check_nonce, session.nonce))
    quote = judge_signature(
        steps,
        public=public,
        raw_quote=evidence.quote,
        raw_signature=evidence.signature,
        needs=("A2", "A3"),
    )
    expected = QuoteExpectation(session.bank, ALL_REGISTERS, evidence.registers)
    judge_values(steps, quote, expected, evidence.signature)
    judge_machine(steps, quote, key, basis)
    judge_binding(steps, quote, session)
    return quote


def _judge_registers(
    steps: Checklist,
    session: RecordedSession,
    publication: Publication | None,
    policy: Policy,
    *,
    operator_run: bool,
) -> tuple[PlatformMatch | None, ReplayedLog | None]:
    values = session.evidence.registers
    match = steps.run(
        "E2",
        lambda: match_platform(
            found(publication).statement, session.bank, values, policy, operator_run=operator_run
        ),
        needs=("M6", "Q9"),
    )
    steps.run("E1", lambda: check_registers(found(match)), needs=("E2", "Q9"))
    log = judge_log(steps, session.evidence, match)
    judge_secure_boot(steps, policy, log)
    return match, log


def judge_profile(steps: Checklist, policy: Policy, publication: Publication | None) -> None:
    """Run of step C1 what needs no session, where the policy names profiles: no server need be asked."""
    if policy.channel_profiles:
        steps.run("C1", lambda: _allowed_profile(found(publication), policy), needs=("M6",))


def _allowed_profile(publication: Publication, policy: Policy) -> tuple[None, str]:
    promised, allowed = publication.statement.channel_binding, policy.channel_profiles
    if allowed and promised not in allowed:
        raise refuse(
            "C1",
            "profile-not-allowed",
            f"expected {' or '.join(sorted(allowed))}, got a statement that promises {promised}",
            hint="a recipe says which profile its image has: ask for an image with the other one",
        )
    return None, promised


def _same_statement(session: RecordedSession, publication: Publication, policy: Policy) -> tuple[None, str]:
    if session.statement != publication.digest:
        raise refuse(
            "C1",
            "other-statement",
            f"expected statement {publication.digest}, got a session about {session.statement}",
        )
    _allowed_profile(publication, policy)
    if session.profile != publication.statement.channel_binding:
        raise refuse(
            "C1",
            "other-profile",
            f"expected profile {publication.statement.channel_binding}, got {session.profile}",
        )
    if session.evidence.profile != session.profile or session.evidence.bank is not session.bank:
        raise refuse("C1", "other-profile", "expected an answer of the profile and bank that were asked for")
    return None, str(publication.digest)


def _titles(basis: Basis) -> dict[str, str]:
    wants_log = basis.log is not None or basis.policy.required_log is not None
    log = LOG_TITLES if wants_log else {}
    rebuilds = REBUILD_TITLES if basis.trust.rebuilders else {}
    probe = PROBE_TITLES if basis.policy.require_probe else {}
    return TITLES | log | rebuilds | probe | _current_titles(basis)


def _current_titles(basis: Basis) -> dict[str, str]:
    if basis.trust.tuf_root is None and basis.current is None:
        return {}
    from blindbuild.verify.current import CURRENT_TITLES

    return CURRENT_TITLES


def _may_be_skipped(basis: Basis) -> frozenset[str]:
    """Return the steps that need not apply, by what the relying party asks for."""
    policy, mode = basis.policy, trust_mode(basis.trust)
    asked = {
        "M7": policy.image is not None,
        "M9": policy.require_release and basis.trust.tuf_root is None,
        "M10": basis.history is not None,
        "Q14": policy.minimum_tpm_firmware is not None,
        "P2": bool(policy.required_closed),
        "P3": bool(policy.required_closed),
        "P4": bool(policy.memory_confidentiality),
        "A7": policy.require_crls or bool(basis.crls),
        "A10": policy.machines is not None,
        "E11": policy.require_secure_boot,
    }
    skippable = _OPTIONAL | {step for step, wanted in asked.items() if not wanted}
    if mode is TrustMode.PINNED_KEY:
        return skippable | _CERTIFIED_ONLY
    return skippable | {"A8"} if mode is TrustMode.AK_CERTIFICATE else skippable


def _complete(steps: Checklist, basis: Basis) -> bool:
    """Return whether every step there is passed, but those that need not apply."""
    skippable = _may_be_skipped(basis)
    return {step.id for step in steps.steps} == _titles(basis).keys() and all(
        step.outcome is Outcome.OK or (step.outcome is Outcome.SKIPPED and step.id in skippable)
        for step in steps.steps
    )


def _accept(
    session: RecordedSession, judged: _Judged, basis: Basis, warnings: tuple[str, ...]
) -> AcceptedSession:
    statement = judged.publication.statement
    clocks = {**(basis.history.clocks if basis.history else {}), judged.key.tpm.hex(): judged.quote.clock}
    return AcceptedSession(
        product=statement.name,
        version=statement.version,
        sequence=statement.sequence,
        statement=judged.publication.digest,
        platform=judged.match.platform.identifier,
        bank=session.bank,
        spki=session.spki,
        attestation_key=judged.key.public.name(),
        live=session.live,
        expires=min(judged.key.until, _expires(judged.publication.release, basis)),
        warnings=warnings,
        history=History(statement.sequence, judged.publication.digest, basis.now, clocks),
        checkpoint=judged.publication.checkpoint,
        proof=_PROOF,
    )


def _expires(release: Release | None, basis: Basis) -> int:
    """Return when M9 would refuse, or the policy's time is over: the first second that no longer counts."""
    view, age = basis.current, basis.policy.release_age_s
    ends = [basis.now + basis.policy.session_s, MAX_TIME]
    began = None
    if release is not None:
        ends.append(release.valid_until)
        began = release.valid_from
    if view is not None:
        ends.append(view.expires)
        began = view.issued
    if age is not None and began is not None:
        ends.append(began + age + 1)
    return min(ends)


def _appraisal(
    steps: Checklist,
    publication: Publication | None,
    match: PlatformMatch | None,
    log: ReplayedLog | None,
    verdict: AcceptedSession | None,
    *,
    live: bool,
) -> Appraisal:
    statement = None if publication is None else publication.statement
    return Appraisal(
        steps=steps.steps,
        registers=() if match is None else match.registers,
        differences=_explain(match, log),
        warnings=steps.warnings,
        hints=steps.hints,
        product=None if statement is None else (statement.name, statement.version, statement.sequence),
        platform=None if match is None else match.platform.identifier,
        live=live,
        verdict=verdict,
    )


def _explain(match: PlatformMatch | None, log: ReplayedLog | None) -> tuple[Difference, ...]:
    if match is None or not match.differing:
        return ()
    # half of this package is about explaining; who is shown what was promised need not load it
    from blindbuild.verify.explain import explain_differences

    return explain_differences(match, log)
