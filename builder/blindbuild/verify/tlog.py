"""Steps M12 and M13: is this release in the log that everybody sees, and is it the log seen before?

The order of M12 is that of C2SP tlog-proof, "Verifying a tlog proof": leaf hash, log signature, witness
quorum, inclusion. Nothing of the proof is believed before the signature that covers it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from blindbuild.errors import TlogError, VerificationError
from blindbuild.formats.checkpoint import Checkpoint, UnverifiedCheckpoint, parse_checkpoint
from blindbuild.formats.cosignature import KeyVerdict, judge_key
from blindbuild.formats.merkle import leaf_hash, verify_consistency, verify_inclusion
from blindbuild.formats.note import SignatureState, write_note
from blindbuild.formats.tlog_policy import NO_QUORUM, LogPolicy
from blindbuild.formats.tlog_proof import parse_tlog_proof
from blindbuild.manifest.log_entry import log_entry_bytes, log_entry_of
from blindbuild.manifest.rfc3339 import MAX_TIME, format_time
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.verify.checklist import Checklist, found, refuse

FORKED = "M13:log-forked"
NO_WITNESS = "the log's policy asks for no witness: this client alone would notice a log that forks"
FIRST_USE_OF_LOG = "first use of this log: a fork that began earlier could not be noticed"
DEFAULT_SKEW_S = 60  # how far a witness's clock may be ahead of ours
_FORK_HINT = (
    "somebody shows you another history than others see: use no release from this log until its owner and "
    "its witnesses have explained it, and keep both signed checkpoints, they prove it"
)


@dataclass(frozen=True, slots=True)
class RequiredLog:
    """A log that must have the release, and all that is at hand to tell.

    Attributes:
        policy: which logs and witnesses count.
        proof: the `.tlog-proof` beside the manifest, or None when there is none.
        channel: the channel that the client asks for.
        remembered: the signed checkpoint of this log that was accepted before; None at first use.
        path: consistency proof between `remembered` and the proof's checkpoint; None when it cannot be had.
        problem: why it cannot be had, for people.
        max_age_s: the quorum's cosignatures must not be older; None for any age.
    """

    policy: LogPolicy
    proof: bytes | None
    channel: str = DEFAULT_CHANNEL
    remembered: bytes | None = None
    path: tuple[bytes, ...] | None = None
    problem: str = ""
    max_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class AcceptedCheckpoint:
    """A checkpoint that a log of the policy signed and a quorum of its witnesses saw.

    Attributes:
        witnesses: the names of those whose cosignatures counted, with their times.
    """

    checkpoint: Checkpoint
    note: bytes
    witnesses: tuple[tuple[str, int], ...]

    @property
    def in_words(self) -> str:
        """Who vouches for it."""
        names = ", ".join(name for name, _time in self.witnesses)
        return (
            f"log {self.checkpoint.origin}, cosigned by {names}" if names else f"log {self.checkpoint.origin}"
        )


@dataclass(frozen=True, slots=True)
class LoggedEntry:
    """Where an entry was found."""

    index: int
    accepted: AcceptedCheckpoint


def judge_logged(
    steps: Checklist, required: RequiredLog, envelope: bytes, *, now: int, skew_s: int = DEFAULT_SKEW_S
) -> bytes | None:
    """Run M12 and M13 after M6; return the signed checkpoint to remember, or None."""
    if required.policy.quorum == NO_QUORUM:
        steps.warn(NO_WITNESS)
    logged = steps.run("M12", partial(_find_entry, required, envelope, now, skew_s), needs=("M6",))
    if required.remembered is None and logged is not None:
        steps.skip("M13", "first use: nothing is remembered about this log")
        steps.warn(FIRST_USE_OF_LOG)
        return logged.accepted.note
    if logged is not None and _may_skip_consistency(required, logged.accepted):
        steps.skip("M13", "the log's files are not at hand; its witnesses have compared")
        why = required.problem or "its files are not at hand"
        steps.warn(f"the log was not compared with what was seen of it before: {why}")
        return None
    return steps.run(
        "M13",
        lambda: _compare(found(logged).accepted, required),
        needs=("M12",),
    )


def verify_log_proof(
    required: RequiredLog, envelope: bytes, *, now: int, skew_s: int = DEFAULT_SKEW_S
) -> LoggedEntry:
    """Return where a manifest is in a log.

    Raises:
        VerificationError: step M12.
        EnvelopeError, ManifestError: what is looked for is not a manifest.
    """
    leaf = leaf_hash(log_entry_bytes(log_entry_of(envelope, channel=required.channel)))
    if required.proof is None:
        raise refuse(
            "M12",
            "log-proof-missing",
            "expected a proof that this release is in the log, got none",
            hint="fetch the .tlog-proof that is published beside the manifest",
        )
    try:
        proof = parse_tlog_proof(required.proof)
    except TlogError as error:
        raise refuse("M12", "log-proof-malformed", error.message) from error
    accepted = accept_checkpoint(
        proof.signed, required.policy, now=now, max_age_s=required.max_age_s, skew_s=skew_s
    )
    checkpoint = accepted.checkpoint
    try:
        verify_inclusion(leaf, proof.index, checkpoint.size, proof.path, checkpoint.root)
    except TlogError as error:
        raise refuse(
            "M12",
            "not-in-log",
            f"expected this release in {checkpoint.origin} on channel {required.channel}, got a proof of "
            f"something else: {error.message}",
            hint="a release that only you were given looks like this: ask its maker whether he logged it",
        ) from error
    return LoggedEntry(proof.index, accepted)


def accept_checkpoint(
    signed: UnverifiedCheckpoint,
    policy: LogPolicy,
    *,
    now: int,
    max_age_s: int | None = None,
    skew_s: int = DEFAULT_SKEW_S,
) -> AcceptedCheckpoint:
    """Return a checkpoint that its log signed and a quorum saw.

    Raises:
        VerificationError: step M12: another log, a signature that is missing or bad, or no quorum.
    """
    _check_log(signed, policy)
    witnesses = _check_witnesses(signed, policy, now=now, max_age_s=max_age_s, skew_s=skew_s)
    return AcceptedCheckpoint(signed.checkpoint, write_note(signed.note), witnesses)


def check_history(
    accepted: AcceptedCheckpoint,
    remembered: Checkpoint,
    path: tuple[bytes, ...] | None,
    *,
    problem: str = "",
) -> bool:
    """Check that a log is the one that was seen before; return whether it is the newer view.

    Raises:
        VerificationError: step M13: a fork, or no proof at hand.
    """
    new = accepted.checkpoint
    first, second = sorted((new, remembered), key=lambda checkpoint: checkpoint.size)
    if first.size == second.size:
        path = ()
    if new.origin != remembered.origin:
        raise refuse("M13", "other-log", f"expected log {remembered.origin}, got {new.origin}")
    if path is None:
        raise refuse(
            "M13",
            "log-unreachable",
            f"expected the files of log {new.origin}, to compare it with what was seen of it before"
            + (f": {problem}" if problem else ""),
            hint="name the log's address or directory with --log",
        )
    try:
        verify_consistency(first.size, first.root, second.size, second.root, path)
    except TlogError as error:
        raise refuse(
            "M13",
            "log-forked",
            f"log {new.origin}: expected one history, got two: its tree of {new.size} entries does not agree "
            f"with the tree of {remembered.size} entries that was accepted before: {error.message}",
            hint=_FORK_HINT,
        ) from error
    return new.size >= remembered.size


def _find_entry(required: RequiredLog, envelope: bytes, now: int, skew_s: int) -> tuple[LoggedEntry, str]:
    logged = verify_log_proof(required, envelope, now=now, skew_s=skew_s)
    size = logged.accepted.checkpoint.size
    return logged, f"entry {logged.index} of {size} in {logged.accepted.in_words}"


def _check_log(signed: UnverifiedCheckpoint, policy: LogPolicy) -> None:
    origin = signed.checkpoint.origin
    keys = [log.key for log in policy.logs if log.key.name == origin]
    if not keys:
        known = ", ".join(sorted({log.key.name for log in policy.logs})) or "none"
        raise refuse("M12", "other-log", f"expected a log of the policy ({known}), got {origin!r}")
    verdicts = [judge_key(signed, key) for key in keys]
    _refuse_bad(verdicts, "log-signature-bad")
    if not any(verdict.state is SignatureState.GOOD for verdict in verdicts):
        raise refuse(
            "M12",
            "log-signature-missing",
            f"expected a checkpoint signed by log {origin}, got no signature of a key in the policy",
        )


def _check_witnesses(
    signed: UnverifiedCheckpoint, policy: LogPolicy, *, now: int, max_age_s: int | None, skew_s: int
) -> tuple[tuple[str, int], ...]:
    verdicts = {witness.name: judge_key(signed, witness.key) for witness in policy.witnesses}
    _refuse_bad(list(verdicts.values()), "witness-signature-bad")
    counted: dict[str, int] = {}
    problems: dict[str, str] = {}  # reason -> what, for those that do not count
    for name, verdict in verdicts.items():
        if verdict.time is None:
            continue
        if verdict.time > now + skew_s:
            problems["cosignature-in-future"] = f"{name} signed at {_moment(verdict.time)}, which is to come"
        elif max_age_s is not None and now - verdict.time > max_age_s:
            problems["cosignature-too-old"] = (
                f"{name} signed at {_moment(verdict.time)}, which is too long ago"
            )
        else:
            counted[name] = verdict.time
    if policy.is_met(counted):
        return tuple(sorted(counted.items()))
    got = ", ".join(sorted(counted)) or "none"
    raise refuse(
        "M12",
        min(problems, default="quorum-missed"),
        "; ".join(
            (f"expected cosignatures by {policy.quorum_in_words}, got {got}", *problems.values()),
        ),
        hint="fetch the proof again later, or check this machine's clock" if problems else None,
    )


def _refuse_bad(verdicts: list[KeyVerdict], reason: str) -> None:
    for verdict in verdicts:
        if verdict.state is SignatureState.BAD:
            raise refuse("M12", reason, verdict.problem)


def _may_skip_consistency(required: RequiredLog, accepted: AcceptedCheckpoint) -> bool:
    """Return whether nothing can be compared, and need not be: a quorum of witnesses has."""
    if required.path is not None or required.policy.quorum == NO_QUORUM or required.remembered is None:
        return False
    try:
        return parse_checkpoint(required.remembered).checkpoint.size != accepted.checkpoint.size
    except TlogError:
        return False  # M13 refuses it


def _compare(accepted: AcceptedCheckpoint, required: RequiredLog) -> tuple[bytes, str]:
    remembered = found(required.remembered)
    before = _remembered(remembered)
    newer = check_history(accepted, before, required.path, problem=required.problem)
    note = accepted.note if newer else remembered
    return note, f"{accepted.checkpoint.size} entries, {before.size} before"


def _remembered(note: bytes) -> Checkpoint:
    try:
        return parse_checkpoint(note).checkpoint
    except TlogError as error:
        raise VerificationError(error.message, step="M13", reason="memory-malformed") from error


def _moment(seconds: int) -> str:
    return format_time(seconds) if seconds <= MAX_TIME else f"{seconds} s after 1970"
