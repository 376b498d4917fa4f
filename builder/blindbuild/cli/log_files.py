"""The files about a transparency log that a client is given, and where it remembers logs."""

from __future__ import annotations

import os
from pathlib import Path

from blindbuild.client.log_memory import LogMemory
from blindbuild.errors import FormatError, UsageError
from blindbuild.formats.tlog_policy import MAX_POLICY, LogPolicy, parse_log_policy
from blindbuild.formats.tlog_proof import MAX_TLOG_PROOF
from blindbuild.host.files import read_bytes

LOG_PROOF = "manifest.tlog-proof"  # beside manifest.dsse.json


def read_log_policy(path: Path) -> LogPolicy:
    """Read a policy file; a mistake in it is wrong usage."""
    try:
        return parse_log_policy(read_bytes(path, error=UsageError, limit_bytes=MAX_POLICY))
    except FormatError as error:
        raise UsageError(f"{path}: {error.message}", hint=error.hint) from error


def read_log_proof(chosen: Path | None, beside: bytes | None) -> bytes | None:
    """Return the proof that was named, or the one beside the manifest; M12 refuses when there is none."""
    if chosen is None:
        return beside
    return read_bytes(chosen, error=UsageError, limit_bytes=MAX_TLOG_PROOF)


def log_memory(chosen: Path | None) -> LogMemory:
    """Return where checkpoints are remembered: below a state directory, the user's if none is named."""
    return LogMemory.default(os.environ) if chosen is None else LogMemory(chosen / "logs")
