"""Steps M and P: who says so, about what, and is it still so?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from blindbuild.digest import Digest
from blindbuild.errors import EnvelopeError, ManifestError
from blindbuild.formats.dsse import VerifiedPayload, parse_envelope, verify_envelope
from blindbuild.manifest import (
    RELEASE_PAYLOAD_TYPE,
    STATEMENT_PAYLOAD_TYPE,
    Release,
    Statement,
    TrustRoots,
    format_time,
    parse_release,
    parse_statement,
)
from blindbuild.verify.channels import judge_channels
from blindbuild.verify.checklist import Checklist, found, refuse
from blindbuild.verify.policy import Basis, History, Policy
from blindbuild.verify.rebuilders import judge_rebuilds

FIRST_USE = "first use: an older release of this product could not be noticed"


@dataclass(frozen=True, slots=True)
class Publication:
    """What the release keys vouch for; `checkpoint` is that of the log which has it, to be remembered."""

    statement: Statement
    digest: Digest
    release: Release | None
    checkpoint: bytes | None = None


def judge_publication(steps: Checklist, basis: Basis) -> Publication | None:
    """Run steps M1 to M14 and P1 to P5; return what is vouched for, or None when nothing is.

    A statement that is well signed is returned even when it is withdrawn, too old or for debugging: the
    failed step refuses it, and the evidence is still explained by it.
    """
    followed = basis.trust.tuf_root is not None or basis.current is not None
    if followed:
        from blindbuild.verify.current import judge_current

        basis = judge_current(steps, basis)
    trust, image = basis.trust, basis.policy.image
    steps.run("M2", partial(_keys_differ, trust), needs=("M1",) if followed else ())
    payload = steps.run("M4", partial(_open_statement, basis.envelope, trust), needs=("M2",))
    parsed = steps.run("M6", lambda: _parse(found(payload)), needs=("M4",))
    if image is None:
        steps.skip("M7", "no image at hand to compare with")
    else:
        steps.run("M7", lambda: _about_image(found(parsed).statement, found(image)), needs=("M6",))
    steps.run("M8", lambda: _about_product(found(parsed).statement, trust), needs=("M6",))
    release = None if followed else _judge_release(steps, basis, parsed)
    if followed:
        from blindbuild.verify.current import judge_target

        judge_target(steps, basis)
    _judge_sequence(steps, basis.history, parsed)
    checkpoint = _judge_log(steps, basis)
    digest = None if parsed is None else parsed.digest
    judge_rebuilds(steps, basis.rebuilds, digest, trust=trust, release_keys=trust.release_keys)
    steps.run("P1", lambda: _not_debug(found(parsed).statement, basis.policy, steps), needs=("M6",))
    judge_channels(steps, basis, None if parsed is None else parsed.statement)
    _judge_memory(steps, basis.policy, parsed)
    _judge_probe(steps, basis, parsed)
    return None if parsed is None else replace(parsed, release=release, checkpoint=checkpoint)


def _keys_differ(trust: TrustRoots) -> tuple[None, str]:
    unique = {key.spki for key in trust.release_keys}
    if not 1 <= trust.threshold <= len(unique) or len(unique) != len(trust.release_keys):
        raise refuse(
            "M2", "keys-not-unique", f"expected {trust.threshold} different release keys, got {len(unique)}"
        )
    return None, f"{trust.threshold} of {len(unique)}"


def _open_statement(envelope: bytes, trust: TrustRoots) -> tuple[VerifiedPayload, str]:
    try:
        payload = verify_envelope(
            parse_envelope(envelope),
            keys=trust.release_keys,
            threshold=trust.threshold,
            payload_type=STATEMENT_PAYLOAD_TYPE,
        )
    except EnvelopeError as error:
        raise refuse("M4", "envelope-refused", error.message) from error
    return payload, f"signed by {', '.join(key[:16] for key in payload.signers)}"


def _parse(payload: VerifiedPayload) -> tuple[Publication, str]:
    # M5: the bytes that were verified are the bytes that are parsed, and nothing is ever written again
    statement = parse_statement(payload.payload)
    detail = f"{statement.name} {statement.version}, sequence {statement.sequence}"
    return Publication(statement, Digest.sha256(payload.payload), None), detail


def _about_image(statement: Statement, image: Digest) -> tuple[None, str]:
    for subject in statement.subjects:
        if subject.digests.get(image.algorithm) == image:
            return None, subject.name
    raise refuse("M7", "other-image", f"expected a statement about {image}, got none of its subjects")


def _about_product(statement: Statement, trust: TrustRoots) -> tuple[None, str]:
    if statement.name != trust.product:
        raise refuse("M8", "other-product", f"expected product {trust.product}, got {statement.name}")
    return None, trust.product


def _judge_release(steps: Checklist, basis: Basis, parsed: Publication | None) -> Release | None:
    if basis.release is None and not basis.policy.require_release:
        steps.skip("M9", "no release was asked for")
        steps.warn("no release was checked: the statement may have been withdrawn or replaced")
        return None
    return steps.run("M9", lambda: _check_release(basis, found(parsed)), needs=("M6",))


def _check_release(basis: Basis, parsed: Publication) -> tuple[Release, str]:
    if basis.release is None:
        raise refuse(
            "M9", "release-missing", "expected a signed release, got none", hint="pass the release file"
        )
    release = _open_release(basis.release, basis.trust)
    statement = parsed.statement
    if release.statement != parsed.digest:
        raise refuse(
            "M9",
            "release-of-other-statement",
            f"expected a release of {parsed.digest}, got one of {release.statement}",
        )
    said = (release.product, release.version, release.sequence)
    expected = (statement.name, statement.version, statement.sequence)
    if said != expected:
        raise refuse("M9", "release-disagrees", f"expected release of {expected}, got {said}")
    if release.channel != basis.policy.channel:
        raise refuse(
            "M9",
            "release-of-other-channel",
            f"expected a release on channel {basis.policy.channel}, got one on {release.channel}",
            hint=f"pass --channel {release.channel} only if that line of releases is wanted",
        )
    _check_time(release, basis)
    return release, f"valid until {format_time(release.valid_until)}"


def _open_release(envelope: bytes, trust: TrustRoots) -> Release:
    try:
        payload = verify_envelope(
            parse_envelope(envelope),
            keys=trust.release_keys,
            threshold=trust.threshold,
            payload_type=RELEASE_PAYLOAD_TYPE,
        )
        return parse_release(payload.payload)
    except EnvelopeError as error:
        raise refuse("M9", "release-refused", error.message) from error
    except ManifestError as error:
        raise refuse("M9", "release-malformed", error.message) from error


def _check_time(release: Release, basis: Basis) -> None:
    now, policy, history = basis.now, basis.policy, basis.history
    if now + policy.clock_skew_s < release.valid_from:
        raise refuse(
            "M9",
            "release-not-yet-valid",
            f"expected a release valid at {format_time(now)}, got one from {format_time(release.valid_from)}",
            hint="check this machine's clock",
        )
    if now >= release.valid_until:
        raise refuse(
            "M9",
            "release-expired",
            f"expected a release valid at {format_time(now)}, got one until "
            f"{format_time(release.valid_until)}",
            hint="fetch the current release",
        )
    if policy.release_age_s is not None and now > release.valid_from + policy.release_age_s:
        raise refuse(
            "M9",
            "release-too-old",
            f"expected a release of the last {policy.release_age_s} s, got one from "
            f"{format_time(release.valid_from)}",
            hint="fetch the current release",
        )
    # M9: a clock that was set back makes an old release look valid
    if history is not None and now + policy.clock_skew_s < history.time:
        raise refuse(
            "M9",
            "clock-went-back",
            f"expected a time after {format_time(history.time)}, when a session was accepted, "
            f"got {format_time(now)}",
            hint="check this machine's clock",
        )


def _judge_sequence(steps: Checklist, history: History | None, parsed: Publication | None) -> None:
    if history is None:
        steps.skip("M10", "first use: nothing is remembered about this product")
        steps.warn(FIRST_USE)
        return
    steps.run("M10", lambda: _not_older(found(parsed), history), needs=("M6",))


def _judge_log(steps: Checklist, basis: Basis) -> bytes | None:
    # M12 and M13 are steps only for who asks for a log
    required = basis.policy.required_log
    if basis.log is None or (required is not None and basis.log.policy != required):
        if required is not None:
            steps.run("M12", _other_log)
            steps.skip("M13", "not reached: needs M12")
        return None
    from blindbuild.verify.tlog import judge_logged

    return judge_logged(steps, basis.log, basis.envelope, now=basis.now, skew_s=basis.policy.clock_skew_s)


def _other_log() -> tuple[None, str]:
    raise refuse(
        "M12",
        "log-policy-mismatch",
        "expected to judge by the log that the policy asks for, got another or none",
    )


def _not_older(parsed: Publication, history: History) -> tuple[None, str]:
    sequence = parsed.statement.sequence
    if sequence < history.sequence:
        raise refuse(
            "M10",
            "rollback",
            f"expected sequence {history.sequence} or later, as accepted before, got {sequence}",
        )
    if sequence == history.sequence and parsed.digest != history.statement:
        raise refuse(
            "M10",
            "equivocation",
            f"expected statement {history.statement} for sequence {sequence}, as accepted before, "
            f"got {parsed.digest}",
            hint="two statements with one sequence: keep both files, they prove it",
        )
    return None, f"sequence {sequence}, before {history.sequence}"


def _judge_memory(steps: Checklist, policy: Policy, parsed: Publication | None) -> None:
    if not policy.memory_confidentiality:
        steps.skip("P4", "it is not asked for")
        return
    steps.run("P4", lambda: _memory_is_confidential(found(parsed).statement, policy), needs=("M6",))


def _judge_probe(steps: Checklist, basis: Basis, parsed: Publication | None) -> None:
    # P5 is a step only for who asks for a probe
    if not basis.policy.require_probe:
        return
    from blindbuild.verify.probe import judge_probe

    statement, digest = (None, None) if parsed is None else (parsed.statement, parsed.digest)
    judge_probe(steps, basis.probe, statement, digest, trust=basis.trust)


def _memory_is_confidential(statement: Statement, policy: Policy) -> tuple[None, str]:
    stated = statement.memory_confidentiality
    if stated not in policy.memory_confidentiality:
        raise refuse(
            "P4",
            "memory-not-confidential",
            f"expected memory protected by {' or '.join(sorted(policy.memory_confidentiality))}, "
            f"got an image that states {stated}",
            hint="the host can read this image's memory; only another machine and image help",
        )
    return None, f"{stated}, as stated"


def _not_debug(statement: Statement, policy: Policy, steps: Checklist) -> tuple[None, str]:
    if not statement.debug:
        return None, "debug is false"
    if not policy.allow_debug:
        raise refuse(
            "P1", "debug-image", "expected an image for use, got a debug image", hint="pass --allow-debug"
        )
    steps.warn("debug image: people can look inside it")
    return None, "debug, allowed by policy"
