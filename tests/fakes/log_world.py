"""An honest log with three witnesses, made by `naive_log`, from which each test departs."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from blindbuild.formats.tlog_policy import LogPolicy, parse_log_policy
from blindbuild.verify.checklist import LOG_TITLES, Checklist
from blindbuild.verify.tlog import RequiredLog, judge_logged
from tests.bad_inputs import ACCEPTED, record
from tests.fakes import naive_log
from tests.fakes.naive_log import LOG, WITNESS, Key
from tests.fakes.published import NOW
from tests.fakes.world import publisher

ORIGIN = "example.com/log"
SEEN = NOW - 100  # when the witnesses cosigned
LOG_KEY = Key.make(ORIGIN, LOG)
WITNESSES = tuple(Key.make(f"w{number}.example", WITNESS) for number in (1, 2, 3))
QUORUM = "group two 2 w1 w2 w3\nquorum two\n"


def policy_text(quorum: str = QUORUM, *, log: str | None = None, url: str = "") -> bytes:
    named = "".join(f"witness w{n} {key.vkey}\n" for n, key in enumerate(WITNESSES, 1))
    return f"# whom to believe\nlog {log or LOG_KEY.vkey} {url}\n\n{named}{quorum}".encode()


@functools.cache
def policy(quorum: str = QUORUM) -> LogPolicy:
    return parse_log_policy(policy_text(quorum))


@functools.cache
def our_entry() -> bytes:
    return naive_log.entry(publisher().envelope, publisher().statement)


def others(count: int, start: int = 0) -> list[bytes]:
    return [naive_log.entry(b"%d" % n, b"%d" % n, product=f"p{n}") for n in range(start, start + count)]


@dataclass(frozen=True)
class Shown:
    """A log as somebody shows it; each field can be something else in one test."""

    entries: Sequence[bytes] = field(default_factory=lambda: [*others(3), our_entry(), *others(7, 3)])
    index: int = 3
    path: Sequence[bytes] | None = None
    text: str | None = None
    lines: Sequence[str] | None = None

    def but(self, **changes) -> Shown:
        return replace(self, **changes)

    @property
    def body(self) -> str:
        return naive_log.checkpoint_text(ORIGIN, self.entries) if self.text is None else self.text

    @property
    def checkpoint(self) -> bytes:
        lines = self.lines
        if lines is None:
            lines = [LOG_KEY.sign(self.body), *(key.cosign(self.body, SEEN) for key in WITNESSES)]
        return naive_log.note(self.body, *lines)

    @property
    def proof(self) -> bytes:
        path = naive_log.path(self.index, self.entries) if self.path is None else self.path
        return naive_log.proof_file(self.index, path, self.checkpoint)


def judged(
    shown: Shown | bytes | None, *, envelope: bytes | None = None, now: int = NOW, **more
) -> Checklist:
    """Run M12 and M13 as a client would."""
    proof = shown.proof if isinstance(shown, Shown) else shown
    required = RequiredLog(**{"policy": policy(), "proof": proof, **more})
    steps = Checklist({"M6": "the manifest is one that can be logged", **LOG_TITLES})
    steps.run("M6", lambda: (None, ""))
    judge_logged(steps, required, publisher().envelope if envelope is None else envelope, now=now)
    return steps


def reason(steps: Checklist) -> str | None:
    """The first refusal, as `step:reason`; recorded when the test is one of a numbered bad input."""
    failed = steps.failed()
    first = f"{failed[0].id}:{failed[0].reason}" if failed else None
    record(first or ACCEPTED)
    return first
