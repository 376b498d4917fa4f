"""Step M14: did people who do not work together build the very same image?

A publisher, or whoever took the release keys, can sign a statement that no recipe leads to. A rebuilder takes
recipe and lock, builds on his own, and signs a record of the statement's digest; the trust file says whose
records count and how many are needed. Records that do not count are passed over: leaving one out can only
lose an acceptance, never win one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, FormatError, ManifestError, VerificationError
from blindbuild.formats.dsse import (
    SignerKey,
    UnverifiedEnvelope,
    parse_envelope,
    verify_envelope,
)
from blindbuild.manifest import TrustRoots
from blindbuild.manifest.rebuild import (
    MAX_REBUILD_ENVELOPE,
    MAX_REBUILDS,
    REBUILD_PAYLOAD_TYPE,
    parse_rebuild,
)
from blindbuild.verify.checklist import Checklist, found, refuse

STEP = "M14"
REBUILD_TITLES = {STEP: "enough independent rebuilders found the same statement"}
_FETCH = "ask the publisher for the files in rebuilds/ of this very release"


def judge_rebuilds(
    steps: Checklist,
    rebuilds: Sequence[bytes],
    statement: Digest | None,
    *,
    trust: TrustRoots,
    release_keys: Sequence[SignerKey],
) -> None:
    """Run step M14, for trust files that name rebuilders; without any there is no such step.

    Args:
        rebuilds: envelopes over rebuild records, by anybody, in any order.
        statement: SHA-256 of the statement, or None when none was believed.
        release_keys: the keys whose signatures make a release now.
    """
    if trust.rebuilders:
        check = partial(_enough, rebuilds, trust=trust, release_keys=release_keys)
        steps.run(STEP, lambda: check(found(statement)), needs=("M6",))


def _enough(
    rebuilds: Sequence[bytes], statement: Digest, *, trust: TrustRoots, release_keys: Sequence[SignerKey]
) -> tuple[None, str]:
    needed, counted = trust.rebuilder_threshold, _counting(trust, release_keys)
    if len(rebuilds) > MAX_REBUILDS:
        raise refuse(STEP, "too-many-rebuilds", f"expected at most {MAX_REBUILDS} files, got {len(rebuilds)}")
    signed: set[str] = set()
    passed_over: list[VerificationError] = []
    for number, envelope in enumerate(rebuilds, 1):
        try:
            signers = _signers(envelope, statement, keys=counted, release_keys=release_keys)
            if signers <= signed:
                raise refuse(STEP, "rebuild-repeated", "the rebuilder who signed it is counted already")
            signed |= signers
        except VerificationError as error:
            passed_over.append(refuse(STEP, error.reason, f"rebuild {number}: {error.message}"))
    if len(signed) < needed:
        raise _too_few(len(signed), needed, passed_over)
    names = ", ".join(sorted(key[:16] for key in signed))
    return None, f"{len(signed)} of {len(counted)} found it, {needed} needed: {names}"


def _counting(trust: TrustRoots, release_keys: Sequence[SignerKey]) -> tuple[SignerKey, ...]:
    # a trust file with both is refused when it is read, but the keys that count may also come from elsewhere
    released = {key.spki for key in release_keys}
    if any(key.spki in released for key in trust.rebuilders):
        raise refuse(
            STEP,
            "rebuilder-is-publisher",
            "expected rebuilders that are not the publisher, got a key that signs releases as well",
            hint="take the key out of the rebuilders of the trust file: it would vouch for itself",
        )
    return trust.rebuilders


def _signers(
    envelope: bytes, statement: Digest, *, keys: Sequence[SignerKey], release_keys: Sequence[SignerKey]
) -> frozenset[str]:
    """Return the key ids of the rebuilders who signed that this statement came out.

    Raises:
        VerificationError: it does not count, and why.
    """
    if len(envelope) > MAX_REBUILD_ENVELOPE:
        raise refuse(STEP, "rebuild-malformed", f"expected at most {MAX_REBUILD_ENVELOPE} bytes")
    try:
        parsed = parse_envelope(envelope)
    except FormatError as error:
        raise refuse(STEP, "rebuild-malformed", error.message) from error
    if parsed.payload_type != REBUILD_PAYLOAD_TYPE:
        raise refuse(STEP, "not-a-rebuild", f"expected a rebuild record, got {parsed.payload_type[:80]!r}")
    signers = _accepted(parsed, keys)
    if not signers and _accepted(parsed, release_keys):
        raise refuse(
            STEP, "rebuild-by-publisher", "the publisher signed it himself: a release key is no rebuilder"
        )
    if not signers:
        raise refuse(STEP, "rebuild-by-stranger", "no rebuilder of the trust file signed it")
    try:
        about = parse_rebuild(parsed.payload)
    except ManifestError as error:
        raise refuse(STEP, "rebuild-malformed", error.message) from error
    if about != statement:
        raise refuse(
            STEP, "rebuild-of-other-statement", f"expected one of statement {statement}, got one of {about}"
        )
    return signers


def _accepted(envelope: UnverifiedEnvelope, keys: Sequence[SignerKey]) -> frozenset[str]:
    try:
        verified = verify_envelope(envelope, keys=keys, threshold=1, payload_type=REBUILD_PAYLOAD_TYPE)
    except EnvelopeError:
        return frozenset()
    return frozenset(verified.signers)


def _too_few(count: int, needed: int, passed_over: Sequence[VerificationError]) -> VerificationError:
    why = "".join(f"; {error.message}" for error in passed_over)
    reason = passed_over[0].reason if passed_over else ("too-few-rebuilds" if count else "rebuilds-missing")
    return refuse(
        STEP,
        reason,
        f"expected {needed} independent rebuilders to have found this statement, got {count}{why}",
        hint=_FETCH,
    )
