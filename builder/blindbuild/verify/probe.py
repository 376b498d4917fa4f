"""Step P5: was a machine of this image seen to do no more than it should?

The ledger says what an image's bytes show; a probe says what somebody with the release keys saw its machine
do, beside a machine that leaks as a control. There is such a step only for those who ask for it.

Source: docs/spec/probe.md, "A client that asks for one".
"""

from __future__ import annotations

from collections.abc import Sequence

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import EnvelopeError, ManifestError
from blindbuild.formats.dsse import parse_envelope, verify_envelope
from blindbuild.manifest import STATEMENT_PAYLOAD_TYPE, Statement, TrustRoots
from blindbuild.manifest.probe import ROLES, CheckReport, Probe, Verdict, parse_probe
from blindbuild.verify.checklist import Checklist, found, refuse

STEP = "P5"
_CONTROLS = ROLES[1:]
# docs/spec/probe.md, "Checks": those that an image can satisfy, and those that none can
CHECKS = frozenset(
    {
        *("tpm", "tpm-state", "evidence", "consoles-same", "consoles-silent", "screen", "disks", "networks"),
        *("touches", "variables", "frames", "scan", "stranger", "canary", "attempts", "crash"),
    }
)
OPEN_CHECKS = frozenset({"memory", "neighbour"})


def judge_probe(
    steps: Checklist,
    envelope: bytes | None,
    statement: Statement | None,
    digest: Digest | None,
    *,
    trust: TrustRoots,
) -> None:
    """Run step P5.

    Args:
        envelope: a DSSE envelope over the probe, or None when there is none.
        statement: what the release keys vouch for, or None when nothing was believed.
        digest: its SHA-256.
        trust: with the keys whose signatures make a release now, and how many of them must have signed.
    """
    steps.run(STEP, lambda: _check(envelope, found(statement), found(digest), trust), needs=("M6",))


def _check(
    envelope: bytes | None, statement: Statement, digest: Digest, trust: TrustRoots
) -> tuple[None, str]:
    if envelope is None:
        raise refuse(
            STEP,
            "probe-missing",
            "expected a signed probe of this image, got none",
            hint="ask the publisher for the probe.dsse.json of this very release",
        )
    probe = _open(envelope, trust)
    check_subject(probe, statement, digest)
    _check_controls(probe, statement)
    _check_shown(probe.checks)
    return None, summarize_probe(probe)


def _open(envelope: bytes, trust: TrustRoots) -> Probe:
    try:
        payload = verify_envelope(
            parse_envelope(envelope),
            keys=trust.release_keys,
            threshold=trust.threshold,
            payload_type=STATEMENT_PAYLOAD_TYPE,
        )
        return parse_probe(payload.payload)
    except EnvelopeError as error:
        raise refuse(STEP, "probe-refused", error.message) from error
    except ManifestError as error:
        raise refuse(STEP, "probe-malformed", error.message) from error


def check_subject(probe: Probe, statement: Statement, digest: Digest) -> None:
    """Refuse a probe that is not about an image.

    Args:
        probe: whoever signed it.
        statement: the image's.
        digest: its SHA-256.

    Raises:
        VerificationError: step P5, `probe-of-other-statement` or `probe-disagrees`.
    """
    if not probe.statement.equals(digest):
        raise refuse(
            STEP,
            "probe-of-other-statement",
            f"expected a probe of statement {digest}, got one of {probe.statement}",
            hint="ask the publisher for the probe.dsse.json of this very release",
        )
    expected = (statement.name, statement.version, statement.debug)
    said = (probe.name, probe.version, probe.debug)
    if said != expected:
        raise refuse(STEP, "probe-disagrees", f"expected a probe of {expected}, got one of {said}")
    if not probe.ledger.equals(statement.ledger):
        raise refuse(
            STEP, "probe-disagrees", f"expected a probe beside ledger {statement.ledger}, got {probe.ledger}"
        )
    images = {subject.name: subject.digests.get(HashAlgorithm.SHA256) for subject in statement.subjects}
    name, image = probe.subject
    if images.get(name) != image:
        raise refuse(STEP, "probe-disagrees", f"expected an image of the statement, got {name} {image}")


def _check_controls(probe: Probe, statement: Statement) -> None:
    # a check is worth what its control is: another image that does what the check is to find
    # the parser has seen to it that no role is there twice, and none but these
    controls = {image for _role, image in probe.images}
    images = {subject.digests.get(HashAlgorithm.SHA256) for subject in statement.subjects}
    if len(controls) < len(_CONTROLS) or controls & images:
        raise refuse(
            STEP,
            "probe-disagrees",
            f"expected other images as controls, {' and '.join(_CONTROLS)}, each of its own",
        )
    idle = sorted(set(ROLES) - {phase.role for phase in probe.phases})
    if idle:
        raise refuse(
            STEP,
            "probe-disagrees",
            f"expected a machine of each image to run, got none of: {', '.join(idle)}",
        )


def _check_shown(checks: Sequence[CheckReport]) -> None:
    missing = sorted((CHECKS | OPEN_CHECKS) - {check.name for check in checks})
    lacking = [f"{name} is not in the probe" for name in missing]
    # which check may stay open is not the probe's to say
    lacking += [
        f"{check.name} is {check.verdict.value} ({check.claim}): {(*check.findings, *check.reasons)[0]}"
        for check in checks
        if check.name not in OPEN_CHECKS and check.verdict is not Verdict.SHOWN
    ]
    if lacking:
        raise refuse(
            STEP,
            "check-missing" if missing else "check-not-shown",
            f"expected every check that an image can satisfy to be shown, got: {'; '.join(lacking)}",
        )


def summarize_probe(probe: Probe) -> str:
    """Return what a probe has come to, in one line: what is not shown is named."""
    shown = [check.name for check in probe.checks if check.verdict is Verdict.SHOWN]
    rest = [f"{check.name} {check.verdict.value}" for check in probe.checks if check.name not in shown]
    unseen = [what for what, _why in probe.not_looked_at]
    parts = [f"{len(shown)} checks shown ({probe.machine.accelerator})", *rest]
    if unseen:
        parts.append(f"not looked at: {'; '.join(unseen)}")
    return "; ".join(parts)
