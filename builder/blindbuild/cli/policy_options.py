"""A policy file and the options beside it: options only make a policy stricter, or are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from blindbuild.cli.log_files import read_log_policy
from blindbuild.cli.options import JudgingOptions
from blindbuild.errors import ManifestError, UsageError
from blindbuild.formats.tlog_policy import LogPolicy
from blindbuild.host.files import read_bytes
from blindbuild.manifest.words import DEFAULT_CHANNEL
from blindbuild.verify import Policy
from blindbuild.verify.policy_file import MAX_POLICY_FILE, parse_policy


def choose_policy(options: JudgingOptions) -> Policy:
    """Return what is asked for: the policy file, if there is one, made stricter by the options.

    Raises:
        UsageError: the file is none, or an option allows or names what the file does not.
    """
    log = None if options.require_log is None else read_log_policy(options.require_log)
    if options.policy is None:
        return Policy(
            allow_test_tpm=options.allow_test_tpm,
            allow_debug=options.allow_debug,
            allow_unsafe_clock=options.allow_unsafe_clock,
            required_closed=frozenset(options.require_closed),
            require_probe=options.require_probe,
            required_log=log,
            channel_profiles=_profiles(options),
            channel=options.channel or DEFAULT_CHANNEL,
        )
    policy = read_policy(options.policy)
    _refuse_weaker(policy, options)
    return replace(
        policy,
        required_closed=policy.required_closed | frozenset(options.require_closed),
        require_probe=policy.require_probe or options.require_probe,
        required_log=_narrow_log(policy, log),
        channel_profiles=_profiles(options) or policy.channel_profiles,
    )


def read_policy(path: Path) -> Policy:
    """Read a policy file; a mistake in it is wrong usage."""
    try:
        return parse_policy(read_bytes(path, error=UsageError, limit_bytes=MAX_POLICY_FILE))
    except ManifestError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def _refuse_weaker(policy: Policy, options: JudgingOptions) -> None:
    allowances = (
        ("--allow-test-tpm", options.allow_test_tpm, policy.allow_test_tpm),
        ("--allow-debug", options.allow_debug, policy.allow_debug),
        ("--allow-unsafe-clock", options.allow_unsafe_clock, policy.allow_unsafe_clock),
    )
    for option, wanted, allowed in allowances:
        if wanted and not allowed:
            raise UsageError(
                f"{option}: the policy {options.policy} does not allow it",
                hint="options make a policy stricter, never weaker: whoever keeps the policy can change it",
            )
    if policy.channel_profiles and not _profiles(options) <= policy.channel_profiles:
        raise UsageError(
            f"--require-profile: the policy wants {' or '.join(sorted(policy.channel_profiles))}, "
            f"got {options.require_profile}"
        )
    if options.channel is not None and policy.channel != options.channel:
        raise UsageError(
            f"--channel: the policy wants {policy.channel}, got {options.channel}",
            hint=f"a policy that names no channel wants {DEFAULT_CHANNEL}",
        )


def _profiles(options: JudgingOptions) -> frozenset[str]:
    return frozenset() if options.require_profile is None else frozenset({options.require_profile})


def _narrow_log(policy: Policy, log: LogPolicy | None) -> LogPolicy | None:
    if log is None or policy.required_log is None:
        return log or policy.required_log
    if log != policy.required_log:
        raise UsageError("--require-log: the policy asks for another log, or for other witnesses")
    return log
