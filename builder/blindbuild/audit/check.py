"""One static check: what it read, how much of it, and what it found wrong."""

from __future__ import annotations

from dataclasses import dataclass

from blindbuild.digest import Digest


@dataclass(frozen=True, slots=True)
class Check:
    """One check that was run: its name, the digest of what it read, and what it found wrong."""

    name: str
    source: Digest
    looked_at: int
    findings: tuple[str, ...]
