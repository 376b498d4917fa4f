"""Policy files: what a relying party asks for, written down once and used by every program.

People make them, so they are strict JSON, but not canonical. An absent field has the strict default. Source:
docs/spec/policy.md.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.canonical import JsonValue, canonical_bytes, parse_json
from blindbuild.formats.fields import Fields
from blindbuild.manifest.ledger import CHANNEL
from blindbuild.manifest.statement import CHANNEL_BINDINGS
from blindbuild.manifest.words import DEFAULT_CHANNEL, NAME
from blindbuild.verify.policy import (
    DEFAULT_CLOCK_SKEW_S,
    DEFAULT_EVIDENCE_AGE_S,
    DEFAULT_SESSION_S,
    AllowedMachines,
    Policy,
)

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.formats.tlog_policy import LogPolicy

MAX_POLICY_FILE = 1 << 19  # bytes; a log's policy of the largest size fits, twice
MAX_NAMED = 4096  # machines, as many as a client remembers TPMs
MAX_CLOCK_SKEW_S = 3600  # more is no clock
MAX_SESSION_S = 7 * 86400  # a verdict of last week says nothing about now
MAX_RELEASE_AGE_S = 10 * 366 * 86400
MEMORY = ("sev-snp", "tdx")
_PLATFORM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,127}")
_TPM_NAME = re.compile(r"000b[0-9a-f]{64}")  # TPM_ALG_SHA256, then the digest of the public area
_INSTANCE = re.compile(r"gce:[\x21-\x7e]{1,512}")
_FIRMWARE = re.compile(r"0x[0-9a-f]{16}")
_FLAGS = (
    *("allowTestTpm", "allowDebug", "allowUnsafeClock"),
    *("requireCrls", "requireSecureBoot", "requireProbe"),
)
_LISTS = ("requireClosed", "platforms", "memoryConfidentiality", "channelProfiles")
_SECONDS = ("clockSkewSeconds", "sessionSeconds", "maxEvidenceAgeSeconds", "maxReleaseAgeSeconds")
_OTHERS = ("minimumTpmFirmware", "machines", "requireLog", "channel")


def parse_policy(data: bytes) -> Policy:
    """Parse a policy file.

    Raises:
        ManifestError: not strict JSON, an unknown field, an empty list, a file that says nothing at all, or a
            number out of bounds.
    """
    try:
        value = parse_json(data, max_bytes=MAX_POLICY_FILE)
    except FormatError as error:
        raise ManifestError(f"policy: {error.message}") from error
    optional = (*_FLAGS, *_LISTS, *_SECONDS, *_OTHERS)
    fields = Fields(value, "policy", required=("version",), optional=optional, error=ManifestError)
    fields.integer("version", minimum=1, maximum=1)
    if not any(key in fields for key in optional):
        raise ManifestError(
            "policy: expected at least one rule, got none",
            hint="without a policy file the strict defaults hold",
        )
    flags = {name: name in fields and fields.boolean(name) for name in _FLAGS}
    return Policy(
        allow_test_tpm=flags["allowTestTpm"],
        allow_debug=flags["allowDebug"],
        allow_unsafe_clock=flags["allowUnsafeClock"],
        required_closed=_words(fields, "requireClosed", CHANNEL),
        platforms=_words(fields, "platforms", _PLATFORM),
        memory_confidentiality=_words(fields, "memoryConfidentiality", re.compile("|".join(MEMORY))),
        channel_profiles=_words(fields, "channelProfiles", re.compile("|".join(CHANNEL_BINDINGS))),
        machines=_machines(fields) if "machines" in fields else None,
        require_crls=flags["requireCrls"],
        require_secure_boot=flags["requireSecureBoot"],
        require_probe=flags["requireProbe"],
        required_log=_log(fields) if "requireLog" in fields else None,
        minimum_tpm_firmware=_firmware(fields) if "minimumTpmFirmware" in fields else None,
        clock_skew_s=_seconds(fields, "clockSkewSeconds", MAX_CLOCK_SKEW_S, DEFAULT_CLOCK_SKEW_S, minimum=0),
        session_s=_seconds(fields, "sessionSeconds", MAX_SESSION_S, DEFAULT_SESSION_S),
        evidence_age_s=_seconds(
            fields, "maxEvidenceAgeSeconds", DEFAULT_EVIDENCE_AGE_S, DEFAULT_EVIDENCE_AGE_S
        ),
        release_age_s=_seconds(fields, "maxReleaseAgeSeconds", MAX_RELEASE_AGE_S, 0) or None,
        channel=fields.token("channel", NAME) if "channel" in fields else DEFAULT_CHANNEL,
    )


def policy_json(policy: Policy) -> dict[str, JsonValue]:
    """Return a policy as plain data, every field said; what is in force, for people and records."""
    machines = policy.machines or AllowedMachines()
    firmware = policy.minimum_tpm_firmware
    return {
        "version": 1,
        "allowTestTpm": policy.allow_test_tpm,
        "allowDebug": policy.allow_debug,
        "allowUnsafeClock": policy.allow_unsafe_clock,
        "requireRelease": policy.require_release,
        "requireClosed": [*sorted(policy.required_closed)],
        "platforms": [*sorted(policy.platforms)],
        "memoryConfidentiality": [*sorted(policy.memory_confidentiality)],
        "channelProfiles": [*sorted(policy.channel_profiles)],
        "machines": {
            "attestationKeys": [*sorted(machines.attestation_keys)],
            "endorsementKeys": [*sorted(machines.endorsement_keys)],
            "instances": [*sorted(machines.instances)],
        }
        if policy.machines is not None
        else None,
        "requireCrls": policy.require_crls,
        "requireSecureBoot": policy.require_secure_boot,
        "requireProbe": policy.require_probe,
        "requireLog": None if policy.required_log is None else _log_json(policy.required_log),
        "channel": policy.channel,
        "image": None if policy.image is None else policy.image.hex,
        "minimumTpmFirmware": None if firmware is None else f"0x{firmware:016x}",
        "clockSkewSeconds": policy.clock_skew_s,
        "sessionSeconds": policy.session_s,
        "maxEvidenceAgeSeconds": policy.evidence_age_s,
        "maxReleaseAgeSeconds": policy.release_age_s,
    }


def policy_bytes(policy: Policy) -> bytes:
    """Return the RFC 8785 form of `policy_json`: what a record of a decision names by its digest."""
    return canonical_bytes(policy_json(policy))


def _words(fields: Fields, key: str, pattern: re.Pattern[str]) -> frozenset[str]:
    if key not in fields:
        return frozenset()
    # an empty list would ask for nothing, and look as if it asked for something
    words = fields.texts(key, minimum=1, maximum=MAX_NAMED)
    for word in words:
        if not pattern.fullmatch(word):
            raise fields.fail(key, f"expected {pattern.pattern}, got {word[:80]!r}")
    if len(set(words)) != len(words):
        raise fields.fail(key, "expected each entry once")
    return frozenset(words)


def _machines(fields: Fields) -> AllowedMachines:
    names = ("attestationKeys", "endorsementKeys", "instances")
    inner = Fields(
        fields.raw("machines"), fields.at("machines"), required=(), optional=names, error=ManifestError
    )
    machines = AllowedMachines(
        attestation_keys=_words(inner, names[0], _TPM_NAME),
        endorsement_keys=_words(inner, names[1], _TPM_NAME),
        instances=_words(inner, names[2], _INSTANCE),
    )
    if machines == AllowedMachines():
        raise fields.fail("machines", f"expected one of {', '.join(names)}, got none")
    return machines


def _log(fields: Fields) -> LogPolicy:
    from blindbuild.formats.tlog_policy import parse_log_policy

    try:
        return parse_log_policy(fields.text("requireLog").encode("utf-8"))
    except FormatError as error:
        raise fields.fail("requireLog", error.message) from error


def _log_json(policy: LogPolicy) -> JsonValue:
    return {
        "logs": [log.key.text for log in policy.logs],
        "witnesses": {witness.name: witness.key.text for witness in policy.witnesses},
        "groups": {
            group.name: {"threshold": group.threshold, "members": [*group.members]} for group in policy.groups
        },
        "quorum": policy.quorum,
    }


def _firmware(fields: Fields) -> int:
    return int(fields.token("minimumTpmFirmware", _FIRMWARE), 16)


def _seconds(fields: Fields, key: str, maximum: int, default: int, *, minimum: int = 1) -> int:
    return fields.integer(key, minimum=minimum, maximum=maximum) if key in fields else default
