"""The decision about evidence that is not a TPM's: which steps there are for it, and whether all passed.

Source: docs/spec/platform-evidence.md.
"""

from __future__ import annotations

from blindbuild.manifest.platform_roots import NitroTrust, PlatformRoots, SnpTrust, TdxTrust
from blindbuild.measure.launch_kinds import KIND_NITRO, KIND_SEV_SNP, KIND_TDX
from blindbuild.verify import evidence, nitro, snp, tdx
from blindbuild.verify.appraise import _may_be_skipped, _titles, judge_profile
from blindbuild.verify.checklist import TITLES, Checklist
from blindbuild.verify.evidence import EvidenceAppraisal, Expected, Reference, ValueResult
from blindbuild.verify.nitro import NitroEvidence, judge_nitro
from blindbuild.verify.policy import Basis
from blindbuild.verify.publication import Publication, judge_publication
from blindbuild.verify.quote import bound_data
from blindbuild.verify.session import NONCE_SIZE
from blindbuild.verify.snp import SnpEvidence, judge_snp
from blindbuild.verify.tdx import TdxEvidence, judge_tdx

PlatformEvidence = SnpEvidence | TdxEvidence | NitroEvidence
BY_HAND = "the reference values were given by hand: no release key vouches for them"


def appraise_evidence(
    judged: PlatformEvidence, *, roots: PlatformRoots, expected: Expected
) -> EvidenceAppraisal:
    """Judge evidence by values that the caller has from elsewhere than a signed statement.

    Args:
        judged: the evidence.
        roots: whom to believe.
        expected: values, binding and time.

    Returns:
        The appraisal; a mismatch is never raised, `accepted()` does that.
    """
    titles = _steps_of(judged)
    steps = Checklist(titles)
    steps.warn(BY_HAND)
    platform, values = _judge(steps, judged, roots, expected)
    return evidence.accept(
        steps, kind_of(judged), platform, values, titles=titles, optional=_skippable(judged, roots)
    )


def appraise_published_evidence(
    judged: PlatformEvidence, *, roots: PlatformRoots, basis: Basis, nonce: bytes, spki: bytes
) -> EvidenceAppraisal:
    """Judge evidence by a signed statement, as `appraise` judges a TPM's quote.

    Args:
        judged: the evidence.
        roots: which makers of processors to believe.
        basis: the statement, the release and whose signatures on them count.
        nonce: what the client chose.
        spki: DER SubjectPublicKeyInfo of the channel's key.
    """
    publishing = {step: title for step, title in _titles(basis).items() if step.startswith(("M", "P"))}
    if basis.policy.channel_profiles:
        publishing |= {"C1": TITLES["C1"]}
    titles = publishing | _steps_of(judged)
    steps = Checklist(titles)
    publication = judge_publication(steps, basis)
    judge_profile(steps, basis.policy, publication)
    expected = Expected(
        references=_references(publication, basis.policy.platforms),
        bound=_bound(publication, nonce, spki),
        now=basis.now,
        nonce=nonce,
        public_key=spki,
    )
    platform, values = _judge(steps, judged, roots, expected)
    optional = _may_be_skipped(basis) | _skippable(judged, roots)
    return evidence.accept(steps, kind_of(judged), platform, values, titles=titles, optional=optional)


def _bound(publication: Publication | None, nonce: bytes, spki: bytes) -> bytes:
    # without a statement, a nonce that was drawn, or a key, nothing is bound: R3 refuses an empty binding
    if publication is None or len(nonce) != NONCE_SIZE or not any(nonce) or not spki:
        return b""
    profile = publication.statement.channel_binding
    return bound_data(nonce=nonce, spki=spki, statement=publication.digest, profile=profile)


def _references(publication: Publication | None, platforms: frozenset[str]) -> tuple[Reference, ...]:
    if publication is None:
        return ()
    return tuple(
        Reference(each.identifier, each.kind, each.measurements)
        for each in publication.statement.platforms
        if each.measurements and (not platforms or each.identifier in platforms)
    )


def _judge(
    steps: Checklist, judged: PlatformEvidence, roots: PlatformRoots, expected: Expected
) -> tuple[str, tuple[ValueResult, ...]]:
    match judged:
        case SnpEvidence():
            return judge_snp(steps, judged, roots.snp or SnpTrust(()), expected)
        case TdxEvidence():
            return judge_tdx(steps, judged, roots.tdx or TdxTrust(()), expected)
        case NitroEvidence():
            return judge_nitro(steps, judged, roots.nitro or NitroTrust(()), expected)


def kind_of(judged: PlatformEvidence) -> str:
    """Return the kind of platform, as `measure.launch_kinds` and statements name it."""
    match judged:
        case SnpEvidence():
            return KIND_SEV_SNP
        case TdxEvidence():
            return KIND_TDX
        case NitroEvidence():
            return KIND_NITRO


def _steps_of(judged: PlatformEvidence) -> dict[str, str]:
    match judged:
        case SnpEvidence():
            return snp.TITLES | evidence.TITLES
        case TdxEvidence():
            return tdx.TITLES | evidence.TITLES
        case NitroEvidence():
            return nitro.TITLES | evidence.TITLES


def _skippable(judged: PlatformEvidence, roots: PlatformRoots) -> frozenset[str]:
    """Return the steps that this evidence may do without, by the relying party's choice."""
    if isinstance(judged, TdxEvidence) and roots.tdx is not None and not roots.tdx.require_collateral:
        return tdx.NEEDS_COLLATERAL
    return frozenset()
