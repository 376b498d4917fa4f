"""Statements, ledgers, releases and trust files: exactly what is signed, and whose signatures count."""

from __future__ import annotations

from blindbuild.manifest.ledger import Channel, ChannelState, Ledger, LedgerCheck, parse_ledger
from blindbuild.manifest.release import RELEASE_PAYLOAD_TYPE, Release, parse_release, release_bytes
from blindbuild.manifest.rfc3339 import format_time, parse_time
from blindbuild.manifest.statement import (
    DEFAULT_ATTESTATION_KEY,
    STATEMENT_PAYLOAD_TYPE,
    AttestationKeyRule,
    BuildInput,
    Statement,
    Subject,
    parse_statement,
    statement_bytes,
)
from blindbuild.manifest.trust import TrustRoots, parse_trust

__all__ = [
    "DEFAULT_ATTESTATION_KEY",
    "RELEASE_PAYLOAD_TYPE",
    "STATEMENT_PAYLOAD_TYPE",
    "AttestationKeyRule",
    "BuildInput",
    "Channel",
    "ChannelState",
    "Ledger",
    "LedgerCheck",
    "Release",
    "Statement",
    "Subject",
    "TrustRoots",
    "format_time",
    "parse_ledger",
    "parse_release",
    "parse_statement",
    "parse_time",
    "parse_trust",
    "release_bytes",
    "statement_bytes",
]
