"""What the relying party adds to the trust file: how much it is willing to accept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from blindbuild.digest import Digest
from blindbuild.formats.tpm2 import ClockInfo
from blindbuild.manifest import TrustRoots
from blindbuild.manifest.words import DEFAULT_CHANNEL

if TYPE_CHECKING:  # a log is loaded by those who ask for one
    from blindbuild.verify.tlog import RequiredLog


@dataclass(frozen=True, slots=True)
class Policy:
    """Choices of the relying party; the defaults are the strict ones.

    Attributes:
        allow_test_tpm: accept a TPM that its operator runs; with such a one the statement need not pin the
            firmware.
        allow_debug: accept an image that says of itself that it is for debugging.
        allow_unsafe_clock: accept a TPM whose clock may have gone back (it lost power without a shutdown).
        require_release: refuse a statement that nobody says is current.
        required_closed: channels that the ledger must show to be closed: its ids, or names of groups of them
            (`verify.channels.CHANNEL_GROUPS`).
        platform: the platform of the statement that must match, or None for any one of them.
        image: SHA-256 of the image that the statement must be about, or None when the caller holds none.
        channel: the line of releases that is wanted; the release says which one it belongs to.
        minimum_tpm_firmware: the lowest firmwareVersion of the TPM that is accepted, or None.
        clock_skew_s: how far the signer's clock may be ahead of ours.
        session_s: how long an accepted session may be used before it must be attested again.
    """

    allow_test_tpm: bool = False
    allow_debug: bool = False
    allow_unsafe_clock: bool = False
    require_release: bool = True
    required_closed: frozenset[str] = frozenset()
    platform: str | None = None
    image: Digest | None = None
    channel: str = DEFAULT_CHANNEL
    minimum_tpm_firmware: int | None = None
    clock_skew_s: int = 60
    session_s: int = 3600


@dataclass(frozen=True, slots=True)
class History:
    """What this client accepted before, in one trust domain and of one channel.

    Attributes:
        sequence: the highest that was accepted.
        statement: SHA-256 of the statement that had it.
        time: when, in seconds since 1970.
        clocks: by the hex name of each attestation key, its clock when it was last accepted.
    """

    sequence: int
    statement: Digest
    time: int
    clocks: Mapping[str, ClockInfo] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Basis:
    """All that a session is judged by.

    Attributes:
        envelope: a DSSE envelope over the statement.
        release: a DSSE envelope over the release, or None when there is none.
        trust: whom to believe.
        now: seconds since 1970.
        policy: how much to accept.
        history: what was accepted before; None at first use.
        ledger: the bytes of channels.json, or None when they are not at hand.
        log: the transparency log that must have the release, or None when none is asked for.
        rebuilds: DSSE envelopes over rebuild records; they count when the trust file names rebuilders.
    """

    envelope: bytes
    release: bytes | None
    trust: TrustRoots
    now: int
    policy: Policy
    history: History | None
    ledger: bytes | None = None
    log: RequiredLog | None = None
    rebuilds: Sequence[bytes] = ()
