"""What verify, call and demo share: what a client judges by, and how a verdict looks."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from blindbuild.cli.log_files import log_memory, read_log_policy, read_log_proof
from blindbuild.cli.options import JudgingOptions
from blindbuild.client import Expectation, StateStore
from blindbuild.client.log_check import LogCheck
from blindbuild.client.published import Published, read_published
from blindbuild.digest import HashAlgorithm
from blindbuild.errors import UsageError
from blindbuild.host.files import read_bytes
from blindbuild.manifest import parse_trust
from blindbuild.manifest.ledger import MAX_LEDGER
from blindbuild.manifest.trust import MAX_TRUST
from blindbuild.verify import Appraisal, Policy
from blindbuild.verify.registers import RegisterResult


def expect(options: JudgingOptions) -> Expectation:
    """Read the files that a client judges by."""
    published = read_published(options.manifest, plain_http=options.plain_http, environ=os.environ)
    return Expectation(
        envelope=published.envelope,
        release=published.release,
        trust=parse_trust(read_bytes(options.trust, error=UsageError, limit_bytes=MAX_TRUST)),
        policy=Policy(
            allow_test_tpm=options.allow_test_tpm,
            allow_debug=options.allow_debug,
            allow_unsafe_clock=options.allow_unsafe_clock,
            required_closed=frozenset(options.require_closed),
        ),
        bank=HashAlgorithm(options.bank),
        state=_state(options.state) if options.history else None,
        remember=options.remember,
        ledger=_ledger(options.ledger, published),
        log=_log(options, published),
        rebuilds=published.rebuilds,
    )


def _log(options: JudgingOptions, published: Published) -> LogCheck | None:
    if options.require_log is None:
        if options.log_proof is not None or options.log_place is not None:
            raise UsageError("--log-proof and --log belong to --require-log")
        return None
    return LogCheck(
        policy=read_log_policy(options.require_log),
        proof=read_log_proof(options.log_proof, published.log_proof),
        channel=options.channel,
        place=options.log_place,
        memory=log_memory(options.state) if options.history else None,
        remember=options.remember,
    )


def _ledger(chosen: Path | None, published: Published) -> bytes | None:
    if chosen is None:
        return published.ledger  # without one, step P2 refuses when a channel must be closed
    return read_bytes(chosen, error=UsageError, limit_bytes=MAX_LEDGER)


def _state(chosen: Path | None) -> StateStore:
    # the library's own place: what a program accepted, the command line must not take back in time
    return StateStore.default(os.environ) if chosen is None else StateStore(chosen)


def show_appraisal(appraisal: Appraisal, *, bank: str, as_json: bool, to_stderr: bool = False) -> None:
    """Print a verdict step by step, with all registers."""
    if as_json:
        click.echo(json.dumps(appraisal.to_json(), indent=2, sort_keys=True))
        return
    from blindbuild.cli.render import (  # rich costs a tenth of a second, which --json need not pay
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
