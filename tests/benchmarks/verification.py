"""What a verification costs, where the time goes, and what tpm2-tools take for the part of it that they do.

The peer checks the quote's signature and nonce and prints the log. It has no statement, no signatures over
it, no certificates and no registers to compare; and each of its two programs starts in milliseconds, which
Python does not. Hence three figures: in a process that runs, as a command, and what a command takes before it
begins. All is processor time, of this process and of those it starts: what else runs on the machine only adds
to a clock's.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blindbuild.client import Expectation
from blindbuild.machine.machine import Machine
from blindbuild.verify import (
    Policy,
    RecordedSession,
    appraise,
    bound_data,
    check_publication,
    parse_session,
    session_bytes,
)
from tests.boot.lab import Lab

PROGRAM = Path(sys.executable).parent / "blindbuild"
POLICY = Policy(allow_test_tpm=True)
OFTEN, SOME = 50, 7  # runs, of which the median counts

Say = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange with a real machine, and what it is judged by."""

    session: RecordedSession
    expectation: Expectation
    image: Path
    trust: bytes

    def judge(self) -> None:
        """The whole checklist, from parsed evidence to a verdict."""
        e = self.expectation
        appraise(
            self.session,
            envelope=e.envelope,
            release=e.release,
            trust=e.trust,
            now=e.now(),
            policy=POLICY,
        ).accepted()

    def check_publication(self) -> None:
        """The part that is done before any server is asked, and once for many servers."""
        e = self.expectation
        check_publication(e.envelope, release=e.release, trust=e.trust, now=e.now(), policy=POLICY)


def milliseconds(run: Callable[[], object], repeats: int) -> float:
    """Processor time of one run, the median of several, with that of the programs it starts."""
    return statistics.median(_milliseconds(run) for _ in range(repeats))


def _milliseconds(run: Callable[[], object]) -> float:
    began = _processor_s()
    run()
    return 1000 * (_processor_s() - began)


def _processor_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def record(lab: Lab, image: Path, machine: Machine) -> Case:
    """Have one exchange with a running machine."""
    expectation = lab.expect(image, machine)
    attempt = lab.judge(machine.url, expectation)
    attempt.close()
    return Case(attempt.session, expectation, image, lab.trust_bytes(machine))


def bench_verification(case: Case, place: Path, say: Say) -> None:
    """Print the three figures and the peer's, on the same evidence in the same run."""
    write_peer_files(case.session, place)
    saved = session_bytes(case.session)
    judged = milliseconds(case.judge, OFTEN)
    published = milliseconds(case.check_publication, OFTEN)
    parsed = milliseconds(lambda: parse_session(saved), OFTEN)
    say("verify, in process", f"{judged:.1f} ms", "20 ms")
    say("  of it signatures, statement and release", f"{published:.1f} ms")
    say("  beside it, reading a saved session", f"{parsed:.1f} ms")
    quote = milliseconds(lambda: check_quote(case.session, place), SOME)
    log = milliseconds(lambda: run("tpm2_eventlog", "log", cwd=place), SOME)
    say("tpm2_checkquote of the same quote", f"{quote:.1f} ms")
    say("tpm2_eventlog of the same log", f"{log:.1f} ms")
    say("verify in process, relative to these two", f"{judged / (quote + log):.2f} x")
    as_command = milliseconds(lambda: verify_command(case, place, saved), SOME)
    python = milliseconds(lambda: run(sys.executable, "-c", "pass"), SOME)
    loaded = milliseconds(lambda: run(sys.executable, "-c", "import blindbuild.cli.verify"), SOME)
    say("verify, as a command", f"{as_command:.0f} ms", "400 ms")
    say("  of it Python alone", f"{python:.0f} ms")
    say("  of it loading the verb", f"{loaded - python:.0f} ms")
    say("verify as a command, relative to these two", f"{as_command / (quote + log):.2f} x")


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a program that has to succeed."""
    subprocess.run(command, cwd=cwd, capture_output=True, check=True)


def verify_command(case: Case, place: Path, saved: bytes) -> None:
    """`blindbuild verify` of the saved session."""
    (place / "session.json").write_bytes(saved)
    (place / "trust.json").write_bytes(case.trust)
    names = ("session.json", "--manifest", case.image, "--trust", "trust.json")
    flags = ("--allow-test-tpm", "--recorded", "--no-remember", "--json")
    run(PROGRAM, "verify", *names, *flags, cwd=place)


def write_peer_files(session: RecordedSession, place: Path) -> None:
    """The evidence as tpm2-tools read it."""
    (place / "ak.pub").write_bytes(session.endorsement.ak_public)
    (place / "quote").write_bytes(session.evidence.quote)
    (place / "signature").write_bytes(session.evidence.signature)
    (place / "log").write_bytes(session.evidence.event_log)


def check_quote(session: RecordedSession, place: Path) -> None:
    """The quote's signature by tpm2-tools, and that it is about this nonce, key and statement."""
    extra = bound_data(nonce=session.nonce, spki=session.spki, statement=session.statement).hex()
    run("tpm2_checkquote", "-u", "ak.pub", "-m", "quote", "-s", "signature", "-q", extra, cwd=place)


def main() -> None:
    """Run this part alone, with a machine of its own."""
    from tests.benchmarks.__main__ import say

    with tempfile.TemporaryDirectory(prefix="blindbuild-bench-") as name:
        lab = Lab(Path(name))
        image = lab.build()
        with lab.running(lab.machine(image)) as machine:
            case = record(lab, image, machine)
        bench_verification(case, Path(name), say)


if __name__ == "__main__":
    main()
