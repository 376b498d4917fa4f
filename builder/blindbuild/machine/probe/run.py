"""One machine with bait around it, looked at while it boots, idles, answers, is provoked and is crashed."""

from __future__ import annotations

import contextlib
import errno
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from blindbuild.client import AttestedConnection, Expectation, attest
from blindbuild.digest import Digest
from blindbuild.errors import BlindbuildError, ChannelError, MachineError
from blindbuild.formats.pcap import parse_pcap
from blindbuild.host.files import temporary_directory
from blindbuild.host.reporter import Reporter
from blindbuild.machine.config import HOST_ADDRESS, MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.bait import Bait, lay_bait
from blindbuild.machine.probe.canary import Canary, search_files
from blindbuild.machine.probe.conclude import (
    Untouched,
    count_frames,
    search_artefacts,
    see_consoles,
    see_disks,
    see_tpm,
)
from blindbuild.machine.probe.consoles import BaitConsoles
from blindbuild.machine.probe.devices import (
    hash_directory,
    hash_file,
    picture,
    press_keys,
    read_block_use,
    read_touches,
    save_memory,
    trace_touches,
)
from blindbuild.machine.probe.frames import Guest, classify_frames
from blindbuild.machine.probe.handshake import HandshakeReport, observe_handshake
from blindbuild.machine.probe.http_corpus import HEALTH_PATH
from blindbuild.machine.probe.observe import (
    CANARY,
    HEALTH,
    WORKED,
    Exchange,
    LinkSeen,
    Observation,
    Phase,
    ScreenSeen,
    SearchSeen,
)
from blindbuild.machine.probe.peer import LinkPeer, PeerReport, scan_machine
from blindbuild.machine.probe.plain import ask_plainly, ask_sealed, gate_speaks
from blindbuild.machine.probe.tpm_state import read_kept
from blindbuild.machine.qemu import MachineFiles
from blindbuild.machine.serial_ports import PORT_COUNT, SerialCapture
from blindbuild.machine.swtpm import TpmAuthority, manufacture_tpm
from blindbuild.machine.transcript import read_commands

READY_LIMIT_S = 240.0  # a boot takes 10 to 20 s under emulation on an idle machine
EXCHANGE_LIMIT_S = 60.0
IDLE_S = 8.0
LOADS = 4  # requests that carry the canary
SETTLE_S = 1.0  # for what a key or a crash would make a kernel say
ATTEMPTS = b"attempts"
GATE_ATTEMPTS = "/.well-known/blindbuild/probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is probed, and how.

    Attributes:
        role: product, hostile or leaky; for people.
        image: SHA-256 of the boot image.
        config: the machine, without bait.
        expect: what its evidence is judged by, once the TPM's authority is known.
        route: where the workload answers.
        sealed: it takes requests that are sealed to a key in its evidence, and no others.
        canary: what requests carry.
        asks_dhcp: the guest asks for its address.
        reporters: who of the image reports what it tried to break out; empty for a workload that does not.
        scan: a neighbour on the link asks for everything.
        crash: the words that make it misbehave.
        idle_s: how long nobody asks it anything.
    """

    role: str
    image: Digest
    config: MachineConfig
    expect: Callable[[Machine], Expectation]
    route: str
    canary: Canary
    sealed: bool = False
    asks_dhcp: bool = False
    reporters: tuple[str, ...] = ()
    scan: bool = True
    crash: tuple[bytes, ...] = ()
    idle_s: float = IDLE_S


def observe_machine(subject: Subject, *, reporter: Reporter) -> Observation:
    """Boot a machine with every bait, and return all that it showed.

    Raises:
        MachineError: the machine does not start, never answers, or ends although nobody crashed it.
        ToolError: QEMU or swtpm is missing.
    """
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(temporary_directory(prefix="probe-"))
        state = directory / "state"
        state.mkdir()
        bait = lay_bait(state, directory)
        peer = stack.enter_context(LinkPeer(directory)) if subject.scan else None
        config = replace(
            subject.config,
            link_socket=None if peer is None else peer.socket_path,
            tpm_transcript=True,
            more_devices=(*subject.config.more_devices, *bait.arguments),
            state_dir=state,
        )
        before = Untouched.of(bait, config, read_kept(_make_tpm(config, state)))
        with BaitConsoles(bait.consoles, state) as consoles:
            with Machine(config) as machine:
                consoles.start()
                watch = _Watch(subject, machine, bait, consoles, peer, reporter)
                watch.play()
                end, ending = watch.finish()
                files = machine.files
        return watch.conclude(files, before, end, ending)


def _make_tpm(config: MachineConfig, state: Path) -> Path:
    """Make the machine's TPM before the machine does, which then takes it as it is; return its state."""
    place = MachineFiles(state, state).tpm_state
    authority = TpmAuthority((config.tpm_authority or state / "authority").absolute())
    manufacture_tpm(place, authority, banks=config.tpm_banks)
    return place


@dataclass(frozen=True, slots=True)
class _Live:
    """What has to be asked while QEMU runs."""

    block_use: Mapping[str, tuple[int, int]]
    screen: Digest
    variables: Digest


@dataclass(slots=True)
class _Watch:
    """One probe while it goes on."""

    subject: Subject
    machine: Machine
    bait: Bait
    consoles: BaitConsoles
    peer: LinkPeer | None
    reporter: Reporter
    phases: list[tuple[Phase, float, float]] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    attempts: dict[str, dict[str, str]] = field(default_factory=dict)
    refusals: tuple[str, ...] = ()
    memory: SearchSeen | None = None
    ready: _Live | None = None
    commands_at_ready: int = 0
    handshake: HandshakeReport | None = None
    scanned: PeerReport | None = None
    keys: int = 0
    first_frame_s: float = 0.0

    def play(self) -> None:
        """Go through all phases; those after an unexpected end are left out."""
        self._phase(Phase.BOOT, self._boot)
        self._phase(Phase.IDLE, lambda: time.sleep(self.subject.idle_s))
        self._phase(Phase.LOAD, self._load)
        self._phase(Phase.STRANGER, self._look)
        if (peer := self.peer) is not None:
            self._phase(Phase.LINK, lambda: self._scan(peer))
        self._phase(Phase.KEYS, self._press)
        if self.subject.crash:
            self._phase(Phase.CRASH, self._crash)

    def finish(self) -> tuple[_Live, str | None]:
        """Ask what only a running QEMU answers; if it has ended, what it answered before."""
        ending = self.machine.ending()
        if self.ready is None or (ending is not None and not self.subject.crash):
            raise MachineError(f"expected the {self.subject.role} machine to serve to the end, {ending}")
        return (self._ask(), None) if ending is None else (self.ready, ending)

    def conclude(self, files: MachineFiles, before: Untouched, end: _Live, ending: str | None) -> Observation:
        """Return all that was seen, when the machine is gone and its files are whole."""
        ready = end if self.ready is None else self.ready
        return Observation(
            image=self.subject.image,
            phases=tuple((phase, stop - start) for phase, start, stop in self.phases),
            consoles=see_consoles(self._captures(), self.phases, self.first_frame_s),
            other_boot={},
            disks=see_disks(
                self.bait, self.machine.config, before, at_ready=ready.block_use, at_end=end.block_use
            ),
            share=(before.share, hash_directory(self.bait.share)),
            bait_frames=count_frames(self.bait.captures),
            touches=read_touches(self.bait.trace),
            screen=ScreenSeen(ready.screen, end.screen, self.keys),
            variables=(ready.variables, end.variables),
            tpm=see_tpm(
                files.tpm_log.read_bytes(),
                self.commands_at_ready,
                before=before.tpm,
                after=read_kept(files.tpm_state),
            ),
            link=self._see_link(files),
            port=self.machine.config.guest_port,
            peer=self.scanned,
            handshake=self.handshake,
            other_handshake=None,
            exchanges=tuple(self.exchanges),
            refusals=self.refusals,
            search=search_artefacts(files, self.subject.canary),
            memory=self.memory,
            reporters=self.subject.reporters,
            attempts=self.attempts,
            ending=ending,
        )

    def _see_link(self, files: MachineFiles) -> LinkSeen:
        guest = Guest.of(self.machine.config, asks_dhcp=self.subject.asks_dhcp)
        frames = parse_pcap(files.capture.read_bytes())
        unexpected = classify_frames(frames, guest=guest, port=self.machine.config.guest_port)
        return LinkSeen(sum(frame.source == guest.mac for frame in frames), unexpected)

    def _captures(self) -> dict[str, SerialCapture]:
        serial = {f"serial{port}": self.machine.serial(port) for port in range(PORT_COUNT)}
        return serial | self.consoles.captures()

    def _phase(self, phase: Phase, act: Callable[[], None]) -> None:
        if self.phases and self.machine.ending() is not None:
            return
        self.reporter.begin(f"{self.subject.role}: {phase.value}")
        started = time.monotonic()
        act()
        self.phases.append((phase, started, time.monotonic()))
        self.reporter.finish()

    def _boot(self) -> None:
        self.machine.wait_until_ready(gate_speaks, READY_LIMIT_S)
        self.commands_at_ready = len(read_commands(self.machine.files.tpm_log.read_bytes()))
        self.first_frame_s = self.machine.first_guest_frame_time() or self.machine.power_on_s
        self.ready = self._ask()
        trace_touches(self.machine)

    def _ask(self) -> _Live:
        picture_file = self.machine.files.directory / "screen.ppm"
        return _Live(
            read_block_use(self.machine),
            picture(self.machine, picture_file),
            hash_file(self.machine.files.directory / "firmware-variables.fd"),
        )

    def _load(self) -> None:
        """Have the evidence judged, then send what the image takes: words, or requests with the canary."""
        self.refusals = self._judge()
        if self.subject.reporters:
            self._collect_attempts()
        if not any(exchange.request == CANARY for exchange in self.exchanges):
            for _ in range(LOADS):
                self._ask_plainly(Phase.LOAD, self.subject.canary.text, name=CANARY)
        self._read_memory()

    def _judge(self) -> tuple[str, ...]:
        """Return why the evidence is refused; if it is not, send the requests on the same connection."""
        try:
            attempt = attest(self.machine.url, self.subject.expect(self.machine), timeout_s=EXCHANGE_LIMIT_S)
            with contextlib.closing(attempt):
                if not attempt.appraisal.reasons and not self.subject.reporters:
                    self._send(attempt.accept())
                return tuple(sorted(attempt.appraisal.reasons))
        except BlindbuildError as error:
            return (error.message.split("\n")[0],)

    def _send(self, connection: AttestedConnection) -> None:
        for _ in range(LOADS):
            try:
                answer = connection.request(self.subject.route, self.subject.canary.text)
            except ChannelError as error:
                self.exchanges.append(Exchange(Phase.LOAD, CANARY, None, error.message))
                return
            self.exchanges.append(Exchange(Phase.LOAD, CANARY, answer.status))

    def _ask_plainly(self, phase: Phase, body: bytes, *, name: str) -> bytes:
        """POST a body without judging anybody; return the answer's, or nothing."""
        machine, subject = self.machine, self.subject
        try:
            if subject.sealed:
                status, answer = ask_sealed(machine.url, subject.expect(machine), subject.route, body)
            else:
                status, answer = ask_plainly(HOST_ADDRESS, machine.port, "POST", subject.route, body)
        except OSError as error:
            self.exchanges.append(Exchange(phase, name, None, str(error)))
            return b""
        self.exchanges.append(Exchange(phase, name, status))
        return answer

    def _collect_attempts(self) -> None:
        """Have launcher, workload and gate try everything; the launcher answers the first request itself."""
        for _ in range(2):
            answer = self._ask_plainly(Phase.LOAD, ATTEMPTS, name="attempts")
            with contextlib.suppress(ValueError, KeyError, TypeError):
                report = json.loads(answer)
                self.attempts[str(report["context"])] = _outcomes(report["attempts"].items())
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _, answer = ask_plainly(HOST_ADDRESS, self.machine.port, "GET", GATE_ATTEMPTS)
            self.attempts["gate"] = _outcomes(
                (entry["attempt"], _name_error(entry["errno"])) for entry in json.loads(answer)
            )

    def _read_memory(self) -> None:
        """Do what any host can: read the guest's memory, and look for the canary."""
        path = self.machine.files.directory / "memory"
        save_memory(self.machine, path)
        hits, sizes = search_files({"memory": path}, self.subject.canary)
        self.memory = SearchSeen(sizes, hits)
        path.unlink()

    def _look(self) -> None:
        host, port = HOST_ADDRESS, self.machine.port
        self.handshake = observe_handshake(
            host, port, routes=(self.subject.route,), sealed=self.subject.sealed
        )

    def _scan(self, peer: LinkPeer) -> None:
        self.scanned = scan_machine(peer, self.machine, asks_dhcp=self.subject.asks_dhcp)

    def _press(self) -> None:
        self.keys = press_keys(self.machine)
        time.sleep(SETTLE_S)

    def _crash(self) -> None:
        for word in self.subject.crash:
            self._ask_plainly(Phase.CRASH, word, name=word.decode("ascii"))
        time.sleep(SETTLE_S)
        try:
            status, _ = ask_plainly(HOST_ADDRESS, self.machine.port, "GET", HEALTH_PATH)
            self.exchanges.append(Exchange(Phase.CRASH, HEALTH, status))
        except OSError as error:
            self.exchanges.append(Exchange(Phase.CRASH, HEALTH, None, str(error)))


def _outcomes(pairs: Iterable[tuple[object, object]]) -> dict[str, str]:
    return {str(name): str(outcome) for name, outcome in pairs}


def _name_error(number: int) -> str:
    return errno.errorcode.get(number, f"errno {number}") if number else WORKED
