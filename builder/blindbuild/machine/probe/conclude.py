"""From what a machine left behind to one value: files are hashed, counted, and searched for the canary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from blindbuild.digest import Digest
from blindbuild.formats.pcap import parse_pcap
from blindbuild.machine.config import MachineConfig
from blindbuild.machine.probe.bait import Bait
from blindbuild.machine.probe.canary import Canary, search_files
from blindbuild.machine.probe.devices import hash_directory, hash_file
from blindbuild.machine.probe.observe import ConsoleSeen, DiskSeen, Phase, SearchSeen, TpmSeen
from blindbuild.machine.probe.tpm_state import Kept
from blindbuild.machine.qemu import MachineFiles
from blindbuild.machine.serial_ports import SerialCapture
from blindbuild.machine.transcript import read_commands

Period = tuple[Phase, float, float]  # of the monotonic clock


@dataclass(frozen=True, slots=True)
class Untouched:
    """Digests of everything that could be written to, before power-on."""

    disks: Mapping[str, Digest]
    share: Digest
    tpm: Kept

    @classmethod
    def of(cls, bait: Bait, config: MachineConfig, tpm: Kept) -> Untouched:
        """Read it all but the TPM, which `read_kept` has read."""
        disks = {name: hash_file(path) for name, path in _disk_files(bait, config)}
        return cls(disks, hash_directory(bait.share), tpm)


def see_consoles(
    captures: Mapping[str, SerialCapture], periods: Sequence[Period], first_frame_s: float
) -> tuple[ConsoleSeen, ...]:
    """Return what each console said, and what of it came after the guest's first frame, by phase."""
    return tuple(
        ConsoleSeen(
            name, len(capture.data), Digest.sha256(capture.data), _late(capture, periods, first_frame_s)
        )
        for name, capture in captures.items()
    )


def see_disks(
    bait: Bait,
    config: MachineConfig,
    before: Untouched,
    *,
    at_ready: Mapping[str, tuple[int, int]],
    at_end: Mapping[str, tuple[int, int]],
) -> tuple[DiskSeen, ...]:
    """Return how each disk was used: the bait's from power-on, the machine's own since the gate answered."""
    seen = []
    for name, path in _disk_files(bait, config):
        reads, writes = at_end[name]
        # the firmware reads the boot image from it
        first_reads, first_writes = (0, 0) if name in bait.disks else at_ready[name]
        seen.append(
            DiskSeen(name, reads - first_reads, writes - first_writes, before.disks[name], hash_file(path))
        )
    return tuple(seen)


def see_tpm(transcript: bytes, commands_at_ready: int, *, before: Kept, after: Kept) -> TpmSeen:
    """Return how often each command was sent, and what the TPM kept.

    Raises:
        MachineError: the transcript cannot be read.
    """
    codes = [code for code, _ in read_commands(transcript)]
    return TpmSeen(Counter(codes[:commands_at_ready]), Counter(codes[commands_at_ready:]), before, after)


def count_frames(captures: Mapping[str, Path]) -> dict[str, int]:
    """Return how many frames each further network card has seen.

    Raises:
        FormatError: a capture that is none.
    """
    return {name: len(parse_pcap(path.read_bytes())) for name, path in captures.items()}


def search_artefacts(files: MachineFiles, canary: Canary) -> SearchSeen:
    """Look for the canary in everything the machine and its devices wrote, and in every TPM command."""
    # the transcript itself is a dump, in which no text of more than 16 bytes stands in one piece
    spoken = files.directory / "tpm-commands"
    spoken.write_bytes(b"".join(message for _, message in read_commands(files.tpm_log.read_bytes())))
    artefacts = {path.name: path for path in sorted(files.directory.iterdir()) if path.name != "authority"}
    hits, sizes = search_files(artefacts, canary)
    return SearchSeen(sizes, hits)


def _disk_files(bait: Bait, config: MachineConfig) -> Iterator[tuple[str, Path]]:
    yield from bait.disks.items()
    if config.disk is not None:
        yield "disk", config.disk


def _late(capture: SerialCapture, periods: Sequence[Period], first_frame_s: float) -> dict[Phase, bytes]:
    late: dict[Phase, bytes] = {}
    for arrival in capture.arrivals:
        if arrival.time_s < first_frame_s:
            continue
        phase = next((phase for phase, _, end in periods if arrival.time_s <= end), periods[-1][0])
        late[phase] = late.get(phase, b"") + arrival.data
    return late
