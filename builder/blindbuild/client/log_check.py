"""Gather what steps M12 and M13 judge by: the proof, what was seen of the log before, and its files."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from blindbuild.client.log_files import open_log, read_consistency
from blindbuild.client.log_memory import LogMemory
from blindbuild.errors import BlindbuildError, TlogError, VerificationError
from blindbuild.formats.checkpoint import parse_checkpoint
from blindbuild.formats.note import write_note
from blindbuild.formats.tlog_policy import LogPolicy
from blindbuild.formats.tlog_proof import parse_tlog_proof
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.verify.tlog import DEFAULT_SKEW_S, FORKED, RequiredLog, accept_checkpoint


@dataclass(frozen=True, slots=True)
class LogCheck:
    """A log that must have the release.

    Attributes:
        policy: which logs and witnesses count.
        proof: the `.tlog-proof`, or None when there is none.
        channel: which channel's release is expected.
        place: directory or address of the log's files; None for the address in the policy, if it has one.
        memory: what was seen of logs, or None to judge as if at first use.
        remember: record what is accepted; if not, what was recorded before still counts.
        max_age_s: oldest cosignatures that count, or None.
    """

    policy: LogPolicy
    proof: bytes | None
    channel: str = DEFAULT_CHANNEL
    place: str | None = None
    memory: LogMemory | None = None
    remember: bool = True
    max_age_s: int | None = None

    def require(self, *, now: int, skew_s: int = DEFAULT_SKEW_S) -> RequiredLog:
        """Return what is judged; the log's files are read only for a believed checkpoint that is new.

        Raises:
            BlindbuildError: what is remembered cannot be read; that is never first use.
        """
        plain = RequiredLog(self.policy, self.proof, self.channel, max_age_s=self.max_age_s)
        if self.proof is None:
            return plain
        try:
            signed = parse_tlog_proof(self.proof).signed
            accept_checkpoint(signed, self.policy, now=now, max_age_s=self.max_age_s, skew_s=skew_s)
        except (TlogError, VerificationError):
            return plain  # which M12 refuses, in its own words
        new = signed.checkpoint
        remembered = None if self.memory is None else self.memory.read(new.origin)
        path: tuple[bytes, ...] | None = None
        problem = ""
        if remembered is not None:
            before = parse_checkpoint(remembered).checkpoint
            if before.size != new.size:
                try:
                    path = read_consistency(open_log(self._place(new.origin)), before, new)
                except BlindbuildError as error:
                    problem = error.message
        return RequiredLog(
            self.policy, self.proof, self.channel, remembered, path, problem, max_age_s=self.max_age_s
        )

    def record(self, note: bytes | None) -> None:
        """Remember the checkpoint that was accepted, if that is wanted."""
        if note is not None and self.memory is not None and self.remember:
            self.memory.record(note)

    def keep_evidence(self, required: RequiredLog, reasons: Collection[str]) -> str:
        """Keep both checkpoints if a refusal says that the log forked; return where, for people."""
        if FORKED not in reasons or self.memory is None or required.proof is None:
            return ""
        signed = parse_tlog_proof(required.proof).signed
        before, kept = self.memory.keep_conflict(signed.checkpoint.origin, write_note(signed.note))
        return f"both checkpoints are kept: {before} and {kept}"

    def _place(self, origin: str) -> str:
        if self.place is not None:
            return self.place
        for log in self.policy.logs:
            if log.key.name == origin and log.url is not None:
                return log.url
        raise TlogError("neither an address in the policy nor a directory was given")
