"""Ask witnesses to cosign a checkpoint, and say in words what each of them answered.

Source: C2SP tlog-witness (c2sp.org/tlog-witness), "add-checkpoint".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from blindbuild.client.web import Answer
from blindbuild.errors import BlindbuildError, ChannelError
from blindbuild.formats.checkpoint import UnverifiedCheckpoint, parse_size
from blindbuild.formats.cosignature import judge_key
from blindbuild.formats.fields import encode_base64
from blindbuild.formats.merkle import ReadSubtree, prove_consistency
from blindbuild.formats.note import (
    MAX_NOTE,
    MAX_SIGNATURES,
    NoteSignature,
    SignatureState,
    UnverifiedNote,
    parse_signature_lines,
    write_note,
)
from blindbuild.formats.printable import visible
from blindbuild.formats.tlog_policy import LogPolicy, PolicyWitness
from blindbuild.verify.tlog import DEFAULT_SKEW_S

OK, FORBIDDEN, NOT_FOUND, CONFLICT, UNPROCESSABLE = 200, 403, 404, 409, 422
SIZE_TYPE = "text/x.tlog.size"
_ATTEMPTS = 3  # the first may name an old size, the second the right one, the third after somebody else's

Post = Callable[..., Answer]
"""`client.web.post`, or what stands for it in a test."""


class _RefusedError(Exception):
    """Why a witness has not cosigned, for people."""


@dataclass(frozen=True, slots=True)
class WitnessAnswers:
    """Who cosigned, by name in the policy, and why the others did not."""

    cosignatures: dict[str, tuple[NoteSignature, ...]]
    refusals: dict[str, str]


class Cosigners:
    """Asks the witnesses of a policy that have an address.

    Args:
        policy: whose quorum must be met.
        post: sends a request.
        clock: gives seconds since 1970.
    """

    def __init__(self, policy: LogPolicy, *, post: Post, clock: Callable[[], int]) -> None:
        self._policy = policy
        self._post = post
        self._clock = clock

    def collect(
        self, signed: UnverifiedCheckpoint, read: ReadSubtree, published: int
    ) -> Sequence[NoteSignature]:
        """Return cosignatures that meet the quorum.

        Args:
            signed: the checkpoint with the log's signature.
            read: its tree.
            published: the size that the witnesses most likely saw last.

        Raises:
            BlindbuildError: the quorum was missed; the message says what each witness answered.
        """
        answers = self.ask(signed, read, published)
        if not self._policy.is_met(answers.cosignatures):
            said = "\n".join(f"{name}: {why}" for name, why in answers.refusals.items())
            raise BlindbuildError(
                f"expected cosignatures by {self._policy.quorum_in_words}, "
                f"got {', '.join(answers.cosignatures) or 'none'}\n{said}".rstrip(),
                hint="nothing was published; run this again when the witnesses can be reached",
            )
        kept = _fewest_that_fit(self._policy, answers.cosignatures)
        return tuple(signature for name in kept for signature in answers.cosignatures[name])

    def ask(self, signed: UnverifiedCheckpoint, read: ReadSubtree, published: int) -> WitnessAnswers:
        """Ask every witness that has an address."""
        cosignatures: dict[str, tuple[NoteSignature, ...]] = {}
        refusals: dict[str, str] = {}
        for witness in self._policy.witnesses:
            if witness.url is None:
                refusals[witness.name] = "the policy has no address of it"
                continue
            try:
                cosignatures[witness.name] = self._ask(witness, witness.url, signed, read, published)
            except _RefusedError as error:
                refusals[witness.name] = str(error)
            except BlindbuildError as error:
                refusals[witness.name] = error.message
        return WitnessAnswers(cosignatures, refusals)

    def _ask(
        self,
        witness: PolicyWitness,
        url: str,
        signed: UnverifiedCheckpoint,
        read: ReadSubtree,
        published: int,
    ) -> tuple[NoteSignature, ...]:
        old = published
        for _attempt in range(_ATTEMPTS):
            body = add_checkpoint_request(signed, read, old)
            answer = self._post(f"{url.rstrip('/')}/add-checkpoint", body, limit_bytes=MAX_NOTE)
            if answer.status != CONFLICT:
                return _read_answer(witness, signed, answer, now=self._clock())
            old = _known_size(answer, signed.checkpoint.size)
        raise _RefusedError("it names another size each time: somebody else submits for this log")


def add_checkpoint_request(signed: UnverifiedCheckpoint, read: ReadSubtree, old: int) -> bytes:
    """Return the body of an add-checkpoint request from an earlier size."""
    path = prove_consistency(read, old, signed.checkpoint.size)
    lines = (f"old {old}", *(encode_base64(value) for value in path), "", "")
    return "\n".join(lines).encode() + write_note(signed.note)


def _known_size(answer: Answer, size: int) -> int:
    text = answer.body.decode("latin-1")
    if answer.content_type != SIZE_TYPE or not text.endswith("\n"):
        raise ChannelError("status 409 without the size that it must name")
    known = parse_size(text.removesuffix("\n"))
    if known > size:
        raise _RefusedError(
            f"it saw {known} entries of this log and this directory has {size}: the directory is older than "
            "what was published, or somebody else has the log's key"
        )
    return known


def _read_answer(
    witness: PolicyWitness, signed: UnverifiedCheckpoint, answer: Answer, *, now: int
) -> tuple[NoteSignature, ...]:
    if answer.status != OK:
        said = visible(answer.body[:200].decode("utf-8", "replace").strip())
        raise _RefusedError(f"{_STATUS.get(answer.status, f'status {answer.status}')} ({said})")
    lines = parse_signature_lines(answer.body)
    note = UnverifiedNote(signed.note.text, lines)
    verdict = judge_key(UnverifiedCheckpoint(signed.checkpoint, note), witness.key)
    if verdict.state is not SignatureState.GOOD or verdict.time is None:
        raise _RefusedError(f"its answer has no good cosignature of {witness.key.name}")
    if verdict.time > now + DEFAULT_SKEW_S:
        ahead_s = verdict.time - now
        raise _RefusedError(f"its cosignature is {ahead_s} s ahead of this clock: clients would refuse it")
    key_id = witness.key.key_id
    return tuple(line for line in lines if line.name == witness.key.name and line.key_id == key_id)[:1]


def _fewest_that_fit(policy: LogPolicy, cosignatures: dict[str, tuple[NoteSignature, ...]]) -> list[str]:
    # a note has room for so many: what the quorum can do without goes first
    names = list(cosignatures)
    for name in reversed(list(cosignatures)):
        if len(names) < MAX_SIGNATURES:  # the log's own is one more
            break
        without = [other for other in names if other != name]
        if policy.is_met(without):
            names = without
    return names


_STATUS = {
    FORBIDDEN: "it does not take the log's signature: it knows another key",
    NOT_FOUND: "it does not know this log: give its operator the key that `log key` prints",
    UNPROCESSABLE: "it saw another history of this log: the log has forked",
}
