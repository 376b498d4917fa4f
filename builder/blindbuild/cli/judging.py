"""What verify, call and demo share: what a client judges by, and how a verdict looks."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from blindbuild.cli.following import read_publication, replay_repository
from blindbuild.cli.log_files import log_memory, read_log_proof
from blindbuild.cli.options import JudgingOptions
from blindbuild.cli.policy_options import choose_policy
from blindbuild.cli.recorded import Recorded
from blindbuild.client import Expectation, StateStore
from blindbuild.client.audit import AuditLog, record_decision
from blindbuild.client.log_check import LogCheck
from blindbuild.client.published import Published
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.formats.canonical import JsonValue
from blindbuild.formats.dsse import MAX_ENVELOPE
from blindbuild.formats.tpm2 import MAX_CRL
from blindbuild.host.files import read_bytes
from blindbuild.manifest import parse_trust
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.rebuild import MAX_REBUILD_ENVELOPE
from blindbuild.manifest.trust import MAX_TRUST
from blindbuild.verify import Appraisal, Policy, RecordedSession
from blindbuild.verify.current import CurrentView
from blindbuild.verify.policy_file import policy_json
from blindbuild.verify.registers import RegisterResult


def expect(
    options: JudgingOptions, recorded: Recorded | None = None, *, now: int | None = None, for_tpm: bool = True
) -> Expectation:
    """Read the files that a client judges by.

    Args:
        options: where they are.
        recorded: a bundle: what was published is in it unless --manifest names something else.
        now: judge at this time, in seconds since 1970; None for the clock's.
        for_tpm: the trust file must say how to believe a TPM.
    """
    policy = choose_policy(options)
    trust = parse_trust(read_bytes(options.trust, error=UsageError, limit_bytes=MAX_TRUST), for_tpm=for_tpm)
    view: CurrentView | None = None
    if recorded is None or recorded.published is None or options.manifest is not None:
        published, view = read_publication(replace(options, channel=policy.channel), trust)
    else:
        published = recorded.published
        if trust.tuf_root is not None:
            at = int(time.time()) if now is None else now
            view = replay_repository(recorded.tuf, options, trust, policy.channel, at)
    crls = tuple(read_bytes(path, error=UsageError, limit_bytes=MAX_CRL) for path in options.crl)
    clock = {} if now is None else {"clock": lambda: float(now)}
    return Expectation(
        envelope=published.envelope,
        release=published.release,
        trust=trust,
        policy=policy,
        bank=HashAlgorithm(options.bank),
        state=_state(options.state) if options.history else None,
        remember=options.remember,
        ledger=_ledger(options.ledger, published),
        log=_log(options, policy, published),
        rebuilds=(*published.rebuilds, *_rebuilds(options.rebuild)),
        current=view,
        probe=_probe(options.probe, policy, published),
        crls=crls if recorded is None else (*recorded.crls, *crls),
        audit=None if options.audit_log is None else AuditLog(options.audit_log),
        **clock,
    )


def _log(options: JudgingOptions, policy: Policy, published: Published) -> LogCheck | None:
    if policy.required_log is None:
        if options.log_proof is not None or options.log_place is not None:
            raise UsageError("--log-proof and --log belong to --require-log")
        return None
    return LogCheck(
        policy=policy.required_log,
        proof=read_log_proof(options.log_proof, published.log_proof),
        channel=policy.channel,
        place=options.log_place,
        memory=log_memory(options.state) if options.history else None,
        remember=options.remember,
    )


def _ledger(chosen: Path | None, published: Published) -> bytes | None:
    if chosen is None:
        return published.ledger  # without one, step P2 refuses when a channel must be closed
    return read_bytes(chosen, error=UsageError, limit_bytes=MAX_LEDGER)


def _probe(chosen: Path | None, policy: Policy, published: Published) -> bytes | None:
    if chosen is None:
        return published.probe  # without one, step P5 refuses if it is asked for
    if not policy.require_probe:
        raise UsageError("--probe belongs to --require-probe, or to a policy with requireProbe")
    return read_bytes(chosen, error=UsageError, limit_bytes=MAX_ENVELOPE)


def _rebuilds(paths: tuple[Path, ...]) -> tuple[bytes, ...]:
    return tuple(read_bytes(path, error=UsageError, limit_bytes=MAX_REBUILD_ENVELOPE) for path in paths)


def _state(chosen: Path | None) -> StateStore:
    # the library's own place: what a program accepted, the command line must not take back in time
    return StateStore.default(os.environ) if chosen is None else StateStore(chosen)


def verdict_json(
    appraisal: Appraisal, judged_by: Expectation, session: RecordedSession | None, *, server: str = ""
) -> dict[str, JsonValue]:
    """Return a verdict for machines, with the policy in force and the record that an audit log would get."""
    records: list[Mapping[str, JsonValue]] = []
    record_decision(
        replace(judged_by, audit=records.append), server=server, appraisal=appraisal, session=session
    )
    value = appraisal.to_json()
    if not isinstance(value, dict):
        raise TypeError("an appraisal is an object")
    return value | {"policy": policy_json(judged_by.policy), "record": dict(records[0])}


def show_appraisal(appraisal: Appraisal, *, bank: str, to_stderr: bool = False) -> None:
    """Print a verdict step by step, with all registers, for people."""
    from blindbuild.cli.render import (  # rich costs a tenth of a second, which others need not pay
        RegisterRow,
        error_console,
        output_console,
        print_registers,
        print_steps,
        print_warning,
    )

    console = error_console() if to_stderr else output_console()
    print_steps(((s.id, s.title, s.outcome.value, s.detail) for s in appraisal.steps), console=console)
    rows = [
        RegisterRow(
            register=result.register,
            rule=result.rule,
            expected=_closest(result),
            measured=result.actual.hex,
            outcome="skipped" if result.rule == "unconstrained" else ("ok" if result.matches else "failed"),
            why=result.why,
        )
        for result in appraisal.registers
    ]
    if rows:
        print_registers(rows, bank=bank, console=console)
    for warning in appraisal.warnings:
        print_warning(warning)


def _closest(result: RegisterResult) -> str:
    """Return the expected value to show: the one that was met, or the first."""
    values = [value for value in result.expected if value == result.actual] or list(result.expected)
    return values[0].hex if values else ""
