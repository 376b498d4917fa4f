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
    from blindbuild.formats.tlog_policy import LogPolicy
    from blindbuild.verify.current import CurrentView
    from blindbuild.verify.tlog import RequiredLog

DEFAULT_CLOCK_SKEW_S = 60
DEFAULT_SESSION_S = 3600
DEFAULT_EVIDENCE_AGE_S = 120  # from drawing the nonce to the verdict; an emulated machine takes seconds


@dataclass(frozen=True, slots=True)
class AllowedMachines:
    """The only machines that are accepted; each set that is not empty must have the machine.

    Attributes:
        attestation_keys: TPM names of attestation keys, in hex.
        endorsement_keys: TPM names of endorsement keys, in hex.
        instances: names of machines as a cloud certifies them, in the form of `formats.gce.instance_name`.
    """

    attestation_keys: frozenset[str] = frozenset()
    endorsement_keys: frozenset[str] = frozenset()
    instances: frozenset[str] = frozenset()


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
        platforms: platforms of the statement of which one must match; empty for any one of them.
        memory_confidentiality: what the statement must say of the machine's memory, one of these; empty for
            whatever it says.
        channel_profiles: profiles of the channel of which the statement must promise one; empty for any.
        machines: the only machines that are accepted, or None for any that the trust file believes.
        require_crls: refuse a certificate whose issuer has no current list of what it revoked, and a key that
            has no certificate.
        require_secure_boot: refuse a machine whose firmware did not say that Secure Boot was on.
        require_probe: refuse an image unless its release keys say that its machine was seen to do no more
            than it should.
        required_log: which transparency log must have the release, or None.
        image: SHA-256 of the image that the statement must be about, or None when the caller holds none.
        channel: the line of releases that is wanted; the release says which one it belongs to.
        minimum_tpm_firmware: the lowest firmwareVersion of the TPM that is accepted, or None.
        clock_skew_s: how far the signer's clock may be ahead of ours.
        session_s: how long an accepted session may be used before it must be attested again.
        evidence_age_s: how old a nonce may be when its evidence is judged.
        release_age_s: how long ago the release may have become valid, or None for its whole validity.
    """

    allow_test_tpm: bool = False
    allow_debug: bool = False
    allow_unsafe_clock: bool = False
    require_release: bool = True
    required_closed: frozenset[str] = frozenset()
    platforms: frozenset[str] = frozenset()
    memory_confidentiality: frozenset[str] = frozenset()
    channel_profiles: frozenset[str] = frozenset()
    machines: AllowedMachines | None = None
    require_crls: bool = False
    require_secure_boot: bool = False
    require_probe: bool = False
    required_log: LogPolicy | None = None
    image: Digest | None = None
    channel: str = DEFAULT_CHANNEL
    minimum_tpm_firmware: int | None = None
    clock_skew_s: int = DEFAULT_CLOCK_SKEW_S
    session_s: int = DEFAULT_SESSION_S
    evidence_age_s: int = DEFAULT_EVIDENCE_AGE_S
    release_age_s: int | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What this client accepted before, in one trust domain and of one channel.

    Attributes:
        sequence: the highest that was accepted.
        statement: SHA-256 of the statement that had it.
        time: when, in seconds since 1970.
        clocks: by the hex name of the key by which a TPM is told from others, its clock when last accepted.
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
        current: what a refresh of the trust file's TUF repository has established; None where none is pinned.
        crls: certificate revocation lists, DER or PEM, of the authorities that the trust file pins.
        probe: a DSSE envelope over the probe of the image, or None when it is not at hand.
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
    current: CurrentView | None = None
    crls: Sequence[bytes] = ()
    probe: bytes | None = None
