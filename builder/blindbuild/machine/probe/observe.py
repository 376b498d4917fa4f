"""What one machine showed to everybody around it, as one value; the checks judge nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from blindbuild.digest import Digest
from blindbuild.machine.probe.canary import Hit
from blindbuild.machine.probe.handshake import HandshakeReport
from blindbuild.machine.probe.peer import PeerReport

CANARY = "canary"  # the name of a request that carries one
HEALTH = "health"  # the name of the question whether the gate still answers
WORKED = "done"  # the outcome of an attempt that the kernel let happen


class Phase(Enum):
    """What the machine was doing."""

    BOOT = "boot"
    IDLE = "idle"
    LOAD = "load"
    STRANGER = "stranger"
    LINK = "link"
    KEYS = "keys"
    CRASH = "crash"


@dataclass(frozen=True, slots=True)
class ConsoleSeen:
    """What one serial port or console device got.

    Attributes:
        name: `serial0` or a bait console's.
        size: bytes in all.
        digest: SHA-256 of them.
        late: those that came after the guest's first frame, by phase; the boot's are not among them.
    """

    name: str
    size: int
    digest: Digest
    late: Mapping[Phase, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DiskSeen:
    """How a block device was used from power-on to the end, and what it held before and after."""

    name: str
    reads: int
    writes: int
    before: Digest
    after: Digest


@dataclass(frozen=True, slots=True)
class ScreenSeen:
    """The picture on the screen before the guest was asked anything and at the end, with keys in between."""

    before: Digest
    after: Digest
    keys: int


@dataclass(frozen=True, slots=True)
class TpmSeen:
    """How often each command was sent, until the gate answered and after that, and what it keeps.

    Attributes:
        boot: number of commands by code.
        serving: the same, from when the gate answered.
        before: a digest of each thing it kept before power-on, by name.
        after: the same when the machine is gone.
    """

    boot: Mapping[int, int]
    serving: Mapping[int, int]
    before: Mapping[str, Digest]
    after: Mapping[str, Digest]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request: in which phase, what it was, and the answer's status, or what happened instead."""

    phase: Phase
    request: str
    status: int | None
    words: str = ""


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """The frames on the guest's network card: how many it sent, and in words those it should not have."""

    sent: int
    unexpected: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SearchSeen:
    """Where the canary was looked for, how many bytes that were, and where it was found."""

    sizes: Mapping[str, int]
    hits: tuple[Hit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """Everything about one machine.

    Attributes:
        image: SHA-256 of the boot image.
        phases: seconds of each phase, in order.
        consoles: the serial ports and the bait consoles.
        other_boot: digests of the consoles at another boot with other requests; empty if there was none.
        disks: the machine's own disk and the bait's.
        share: digest of the shared directory, before and after.
        bait_frames: frames on each further network card.
        touches: accesses by name of the device's register block, from when the gate answered.
        screen: see there.
        variables: digest of the firmware's variables, when the gate answered and at the end.
        tpm: see there.
        link: see there.
        port: where the service listens.
        peer: what a neighbour on the link was answered; None if there was none.
        handshake: what a stranger was shown by TLS and HTTP; None if none came.
        other_handshake: the same at another boot; None if there was none.
        exchanges: every request and its answer.
        refusals: why the machine's evidence was refused; empty if it was accepted.
        search: for the canary, in all that was left.
        memory: the same in the guest's memory, read by the host while it served; None if it was not read.
        reporters: who of the image has to report what it tried.
        attempts: what they tried, and how it came out.
        ending: how the machine ended before it was told to; None if it was running.
    """

    image: Digest
    phases: tuple[tuple[Phase, float], ...]
    consoles: tuple[ConsoleSeen, ...]
    other_boot: Mapping[str, Digest]
    disks: tuple[DiskSeen, ...]
    share: tuple[Digest, Digest]
    bait_frames: Mapping[str, int]
    touches: Mapping[str, int]
    screen: ScreenSeen
    variables: tuple[Digest, Digest]
    tpm: TpmSeen
    link: LinkSeen
    port: int
    peer: PeerReport | None
    handshake: HandshakeReport | None
    other_handshake: HandshakeReport | None
    exchanges: tuple[Exchange, ...]
    refusals: tuple[str, ...]
    search: SearchSeen
    memory: SearchSeen | None
    reporters: tuple[str, ...]
    attempts: Mapping[str, Mapping[str, str]]
    ending: str | None
