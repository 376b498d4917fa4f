"""Play attacks and judge what comes of them, as a client would: with the image's own statement.

Attacks that are in bytes are judged on kept evidence; those on a running machine share one; those on the boot
that are expected to have no effect share another, and are played apart if anything is seen.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

from blindbuild.client import Attempt, Expectation, attest
from blindbuild.errors import BlindbuildError, ChannelError, MachineError, UsageError, VerificationError
from blindbuild.formats.pcap import Frame
from blindbuild.machine.attack_model import (
    NO_EVIDENCE,
    AnyAttack,
    Attack,
    AttackInputs,
    BootAttack,
    BytesAttack,
    HostileAttack,
    Outcome,
    RunningAttack,
    Seen,
    Stage,
)
from blindbuild.machine.attack_running import STAGE_DEVICES
from blindbuild.machine.attack_tpm import TpmInterposer
from blindbuild.machine.config import GUEST_MAC, HOST_ADDRESS, MachineConfig
from blindbuild.machine.machine import Machine, ReadinessProbe
from blindbuild.machine.serial_ports import PORT_COUNT
from blindbuild.machine.swtpm import TpmAuthority
from blindbuild.machine.workplace import disposable_directory
from blindbuild.verify import Appraisal, RecordedSession, appraise

READY_S = 240.0  # a boot takes 10-20 s under emulation on an idle machine, and CI is not idle
TIMEOUT_S = 60.0  # an answer under emulation, with a busy machine beside it
REQUEST = b"a request"

_SERVER_ERROR = 500
_UNHARMED = (Outcome.NO_EFFECT, Outcome.SUCCEEDS)  # a client was answered afterwards
_GUEST = bytes.fromhex(GUEST_MAC.replace(":", ""))
_ARP, _IPV4, _TCP = b"\x08\x06", b"\x08\x00", 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The image that is attacked, and the client who judges.

    Attributes:
        config: an honest machine with the image.
        expect: what the client judges by, given who endorsed the machine's TPM.
        route: one of the recipe's.
        ready: whether a gate answers there.
        directory: where attacks may write.
        hostile: a machine with the probe image of the same recipe, for attacks from inside.
        other_uki: an image with another kernel, if there is one.
    """

    config: MachineConfig
    expect: Callable[[TpmAuthority], Expectation]
    route: str
    ready: ReadinessProbe
    directory: Path
    hostile: MachineConfig | None = None
    other_uki: bytes | None = None


@dataclass(frozen=True, slots=True)
class Played:
    """An attack, what came of it, and how long it took."""

    attack: Attack
    seen: Seen
    seconds: float

    @property
    def expected(self) -> bool:
        """Whether it ended as it must."""
        return self.attack.expects(self.seen)


@dataclass(frozen=True, slots=True)
class _Client:
    """What a client found out about a machine, and the exchange if there was one."""

    seen: Seen
    session: RecordedSession | None = None


def play_all(attacks: Sequence[AnyAttack], scene: Scene, *, jobs: int = 1) -> Iterator[Played]:
    """Play attacks, and yield each as it ends.

    Args:
        attacks: which; their order is kept among those that share a machine.
        scene: on what.
        jobs: how many machines may run at a time.

    Raises:
        UsageError: an attack needs the probe image, and there is none.
        MachineError: the honest machine does not run, or an attack cannot be carried out.
    """
    boots = [attack for attack in attacks if isinstance(attack, BootAttack)]
    shared = [attack for attack in boots if attack.shared]
    running = [attack for attack in attacks if isinstance(attack, RunningAttack | BytesAttack)]
    hostile = [attack for attack in attacks if isinstance(attack, HostileAttack)]
    tasks: list[Callable[[], Iterable[Played]]] = []
    # the longest first, so that the others fill the time beside it
    # that a machine stops says nothing unless an honest one beside it does not
    control = any(attack.outcome is Outcome.STOPS for attack in boots)
    tasks += [lambda: play_running(running, scene)] if running or control else []
    tasks += [lambda: play_together(shared, scene)] if shared else []
    tasks += [lambda: play_hostile(hostile, scene)] if hostile else []
    tasks += [_alone(attack, scene) for attack in boots if not attack.shared]
    ended: SimpleQueue[Played | None] = SimpleQueue()
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            futures = [pool.submit(_run, task, ended) for task in tasks]
            for _ in futures:
                while (played := ended.get()) is not None:
                    yield played
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _run(task: Callable[[], Iterable[Played]], ended: SimpleQueue[Played | None]) -> None:
    try:
        for played in task():
            ended.put(played)
    finally:
        ended.put(None)


def _alone(attack: BootAttack, scene: Scene) -> Callable[[], Iterable[Played]]:
    return lambda: [play_boot(attack, scene)]


def play_boot(attack: BootAttack, scene: Scene) -> Played:
    """Boot the attacked machine, and have a client judge it."""
    began = time.monotonic()
    with _directory(scene, attack.name) as directory:
        try:
            config = attack.apply(scene.config, AttackInputs(directory, scene.other_uki))
            seen = _boot(config, scene, (attack,))
        except BlindbuildError as error:
            seen = Seen(Outcome.UNPLAYED, error.message)
        return Played(attack, seen, time.monotonic() - began)


def play_together(attacks: Sequence[BootAttack], scene: Scene) -> list[Played]:
    """Boot one machine with all attacks that shall have no effect; play each alone if there is any."""
    began = time.monotonic()
    try:
        with _directory(scene, "shared") as directory:
            config = scene.config
            for attack in attacks:
                config = attack.apply(config, AttackInputs(directory, scene.other_uki))
            seen = _boot(config, scene, attacks)
    except BlindbuildError as error:
        seen = Seen(Outcome.UNPLAYED, error.message)
    if seen.outcome is not Outcome.NO_EFFECT and len(attacks) > 1:
        return [play_boot(attack, scene) for attack in attacks]
    others = [attack.name for attack in attacks]
    seconds = (time.monotonic() - began) / len(attacks)
    together = f"; on one machine: {', '.join(others)}" if len(others) > 1 else ""
    return [Played(attack, replace(seen, words=seen.words + together), seconds) for attack in attacks]


def play_hostile(attacks: Sequence[HostileAttack], scene: Scene) -> list[Played]:
    """Boot the probe image once, and play all attacks from inside.

    Raises:
        UsageError: there is no probe image.
    """
    if scene.hostile is None:
        raise UsageError(f"{attacks[0].name}: expected a probe image of the recipe, got none")
    began, played = time.monotonic(), []
    with Machine(scene.hostile) as machine:
        machine.wait_until_ready(scene.ready, READY_S)
        for attack in attacks:
            try:
                seen = attack.play(machine)
            except BlindbuildError as error:
                seen = Seen(Outcome.UNPLAYED, error.message)
            if (ending := machine.ending()) is not None:
                seen = Seen(Outcome.STOPS, f"{seen.words}; then {ending}")
            played.append(Played(attack, seen, time.monotonic() - began))
            began = time.monotonic()
    return played


def play_running(attacks: Sequence[RunningAttack | BytesAttack], scene: Scene) -> Iterator[Played]:
    """Boot the image once, and play every attack on the machine while it serves."""
    ordered = sorted(attacks, key=lambda attack: isinstance(attack, RunningAttack) and attack.last)
    config = replace(scene.config, more_devices=(*scene.config.more_devices, *STAGE_DEVICES))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        interposer = stack.enter_context(TpmInterposer(stack.enter_context(disposable_directory())))
        config = replace(config, tpm_between=interposer.stand_before)
        machine = stack.enter_context(Machine(config))
        machine.wait_until_ready(scene.ready, READY_S)
        directory = stack.enter_context(_directory(scene, "running"))
        session = _genuine_session(machine, scene)
        doubt, said = "", _serial_output(machine)
        for attack in ordered:
            stage = Stage(
                config=config,
                machine=machine,
                expect=scene.expect,
                route=scene.route,
                directory=directory / attack.name,
                session=session,
                said=said,
                ready=scene.ready,
                parts={TpmInterposer.__name__: interposer},
            )
            stage.directory.mkdir()
            seen = _try(attack, stage, after=doubt)
            if isinstance(attack, RunningAttack):
                doubt = "" if seen.outcome in _UNHARMED else attack.name
            if stage.serial_may_grow:
                said = _serial_output(machine)
            yield Played(attack, seen, time.monotonic() - began)
            began = time.monotonic()


def _try(attack: RunningAttack | BytesAttack, stage: Stage, *, after: str) -> Seen:
    """Play one attack; `after` is one that the machine may not have survived."""
    try:
        if after and _look(stage.machine, stage).session is None:
            return Seen(Outcome.UNPLAYED, f"the machine gives no evidence after {after}")
        return _judge_bytes(attack, stage) if isinstance(attack, BytesAttack) else _play_on(attack, stage)
    except BlindbuildError as error:
        return Seen(Outcome.UNPLAYED, error.message)


def _play_on(attack: RunningAttack, stage: Stage) -> Seen:
    """Play one attack; what only the operator can see counts, then what a client finds, then what leaked."""
    machine = stage.machine
    if (ending := machine.ending()) is not None:
        return Seen(Outcome.STOPS, f"not reached: {ending}")
    with stage.closing:
        seen = attack.play(stage)
        client = _look(machine, stage)
        gains = [words for look in stage.watch if (words := look(client.session)) is not None]
    if not stage.serial_may_grow and stage.said != _serial_output(machine):
        gains.append("the machine spoke on a serial port")
    gains += _other_frames(machine.frames(), machine.config.guest_port)
    if gains:
        return Seen(Outcome.SUCCEEDS, "; ".join(gains))
    if seen is not None and client.seen.outcome is Outcome.NO_EFFECT:
        return seen
    return client.seen


def _judge_bytes(attack: BytesAttack, stage: Stage) -> Seen:
    expectation = stage.expect(stage.machine.authority)
    appraisal = appraise(
        attack.forge(stage.session),
        envelope=expectation.envelope,
        release=expectation.release,
        trust=expectation.trust,
        now=expectation.now(),
        policy=expectation.policy,
        ledger=expectation.ledger,
    )
    return describe_appraisal(appraisal)


def _boot(config: MachineConfig, scene: Scene, attacks: Sequence[BootAttack]) -> Seen:
    limit_s = min((attack.ready_s or READY_S for attack in attacks), default=READY_S)
    with Machine(config) as machine:
        try:
            machine.wait_until_ready(scene.ready, limit_s)
        except MachineError as error:
            return Seen(Outcome.STOPS, error.message.splitlines()[0])
        gains = [seen for attack in attacks if (seen := attack.look(machine)) is not None]
        client = _look(machine, scene)
        if client.seen.outcome is Outcome.NO_EFFECT and gains:
            return gains[0]
        return client.seen


def _genuine_session(machine: Machine, scene: Scene) -> RecordedSession:
    """Return an exchange that a client accepts; without it no attack means anything."""
    client = _look(machine, scene)
    if client.seen.outcome is not Outcome.NO_EFFECT or client.session is None:
        raise MachineError(f"expected a machine that a client accepts before any attack: {client.seen.words}")
    return client.session


def _look(machine: Machine, around: Scene | Stage) -> _Client:
    """Judge a machine as a client does; if it is accepted, have a request answered."""
    try:
        attempt = attest(machine.url, around.expect(machine.authority), timeout_s=TIMEOUT_S)
    except (ChannelError, VerificationError) as error:
        # a gate that answers and gives no evidence is another thing than one that cannot be reached
        if machine.ending() is None and around.ready(HOST_ADDRESS, machine.port):
            return _Client(Seen(Outcome.REFUSED, error.message, reasons=frozenset({NO_EVIDENCE})))
        return _Client(Seen(Outcome.STOPS, machine.ending() or f"no gate answers: {error.message}"))
    with contextlib.closing(attempt):
        seen = describe_appraisal(attempt.appraisal)
        if seen.outcome is Outcome.NO_EFFECT:
            seen = _ask(attempt, around.route)
        return _Client(seen, attempt.session)


def _ask(attempt: Attempt, route: str) -> Seen:
    try:
        with attempt.accept() as connection:
            status = connection.request(route, REQUEST).status
    except ChannelError as error:
        return Seen(Outcome.STOPS, f"accepted, but a request gets no answer: {error.message}")
    if status >= _SERVER_ERROR:
        return Seen(Outcome.STOPS, f"accepted, but a request gets status {status}")
    return Seen(Outcome.NO_EFFECT, f"accepted with the same verdict, and a request is answered ({status})")


def _serial_output(machine: Machine) -> tuple[bytes, ...]:
    return tuple(machine.serial_bytes(port) for port in range(PORT_COUNT))


def describe_appraisal(appraisal: Appraisal) -> Seen:
    """Return a verdict as what came of an attack."""
    if appraisal.verdict is not None:
        return Seen(Outcome.NO_EFFECT, "accepted with the same verdict")
    causes = [f"PCR {difference.register}: {difference.cause}" for difference in appraisal.differences]
    causes = causes or [f"{step.id}: {step.detail}" for step in appraisal.failed]
    return Seen(
        Outcome.REFUSED,
        "; ".join(causes),
        registers=frozenset(result.register for result in appraisal.registers if not result.matches),
        reasons=appraisal.reasons,
    )


def _other_frames(frames: Sequence[tuple[float, Frame]], port: int) -> list[str]:
    """Return what the guest sent that is neither ARP nor an answer from the served port."""
    for _, frame in frames:
        if frame.source == _GUEST and not _allowed(frame.data, port):
            return [f"the guest sent a frame that is no answer: {frame.data[:48].hex()}"]
    return []


def _allowed(data: bytes, port: int) -> bool:
    """Say whether a frame of the guest's is ARP, or TCP from the port that it serves (RFC 791, RFC 9293)."""
    kind, packet = data[12:14], data[14:]
    if kind != _IPV4 or len(packet) < 20 or packet[9] != _TCP:
        return kind == _ARP
    return int.from_bytes(packet[4 * (packet[0] & 0xF) :][:2], "big") == port


@contextlib.contextmanager
def _directory(scene: Scene, name: str) -> Iterator[Path]:
    """A directory of one attack; what is in it has the size of disks, and goes when the attack ends."""
    place = scene.directory / f"{name}-{os.urandom(4).hex()}"
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        for path in sorted(place.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        place.rmdir()
