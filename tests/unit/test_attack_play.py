"""How attacks are judged: what a client finds, what only the operator can see, and what is not believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from blindbuild.errors import ChannelError, MachineError, UsageError
from blindbuild.formats.pcap import Frame
from blindbuild.machine import attack_play
from blindbuild.machine.attack_hostile import HOSTILE_ATTACKS
from blindbuild.machine.attack_model import NO_EVIDENCE, BootAttack, Outcome, RunningAttack, Seen, Stage
from blindbuild.machine.attack_play import Played, Scene, play_all
from blindbuild.machine.config import GUEST_MAC, MachineConfig
from blindbuild.machine.machine import Machine
from blindbuild.verify import RecordedSession

ANSWERED = Seen(Outcome.NO_EFFECT, "accepted")
REFUSED = Seen(Outcome.REFUSED, "registers", frozenset({9}), frozenset({"E1:register-mismatch"}))
GUEST = bytes.fromhex(GUEST_MAC.replace(":", ""))
QUESTION = Frame(0, bytes(6) + GUEST + b"\x08\x00" + bytes([0x45]) + bytes(8) + bytes([17]) + bytes(30))


class FakeMachine:
    """A machine that says and sends what a test wants."""

    def __init__(self) -> None:
        self.said, self.sent, self.ended = b"firmware", [], None
        self.config, self.authority = SimpleNamespace(guest_port=443), None
        self.url, self.port = "https://127.0.0.1:1", 1

    def serial_bytes(self, port: int) -> bytes:
        return self.said if port == 0 else b""

    def frames(self) -> tuple[tuple[float, Frame], ...]:
        return tuple((0.0, frame) for frame in self.sent)

    def ending(self) -> str | None:
        return self.ended


@pytest.fixture
def machine() -> FakeMachine:
    return FakeMachine()


def play_on(
    monkeypatch: pytest.MonkeyPatch,
    machine: FakeMachine,
    play: Callable[[Stage], Seen | None],
    client: Seen = ANSWERED,
) -> Seen:
    """Play an attack on a machine about which a client finds this."""
    monkeypatch.setattr(attack_play, "_look", lambda *_: attack_play._Client(client))
    stage = Stage(
        config=cast("MachineConfig", None),
        machine=cast("Machine", machine),
        expect=cast("Callable[..., object]", None),  # type: ignore[arg-type]
        route="/v1/hello",
        directory=Path("/nowhere"),
        session=cast("RecordedSession", None),
        said=(b"firmware", b"", b"", b""),
        ready=lambda _host, _port: True,
    )
    attack = RunningAttack(name="some", summary="does", outcome=Outcome.NO_EFFECT, play=play)
    return attack_play._try(attack, stage, after="")


def nothing(_: Stage) -> None:
    return None


def test_a_machine_on_which_nothing_shows_was_not_affected(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    assert play_on(monkeypatch, machine, nothing) == ANSWERED


def test_a_byte_on_a_serial_port_is_a_success_of_the_operators(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    def speak(_: Stage) -> None:
        machine.said += b"!"

    seen = play_on(monkeypatch, machine, speak)
    assert seen == Seen(Outcome.SUCCEEDS, "the machine spoke on a serial port")


def test_a_frame_that_is_no_answer_is_a_success_of_the_operators(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    def send(_: Stage) -> None:
        machine.sent.append(QUESTION)

    seen = play_on(monkeypatch, machine, send)
    assert seen.outcome is Outcome.SUCCEEDS
    assert "no answer" in seen.words


def test_use_of_what_was_plugged_in_is_a_success_of_the_operators(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    def plug_in(stage: Stage) -> None:
        stage.watch.append(lambda _: "3 reads on the new disk")

    assert play_on(monkeypatch, machine, plug_in) == Seen(Outcome.SUCCEEDS, "3 reads on the new disk")


def test_what_the_operator_got_counts_only_if_the_client_noticed_nothing(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    got = Seen(Outcome.SUCCEEDS, "all of it")
    assert play_on(monkeypatch, machine, lambda _: got) == got
    assert play_on(monkeypatch, machine, lambda _: got, REFUSED) == REFUSED


def test_an_attack_that_cannot_be_carried_out_is_never_as_expected(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    def fail(_: Stage) -> None:
        raise MachineError("QMP device_add: no such bus")

    seen = play_on(monkeypatch, machine, fail)
    assert seen == Seen(Outcome.UNPLAYED, "QMP device_add: no such bus")


def test_an_attack_on_a_machine_that_has_ended_is_not_reached(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    machine.ended = "the guest powered off"
    seen = play_on(monkeypatch, machine, nothing)
    assert seen == Seen(Outcome.STOPS, "not reached: the guest powered off")


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    config = MachineConfig(
        disk=tmp_path / "d", firmware_code=b"", firmware_vars=b"", router=IPv4Address("10.0.2.2")
    )
    return Scene(
        config=config,
        expect=cast("Callable[..., object]", None),  # type: ignore[arg-type]
        route="/",
        ready=lambda _host, _port: True,
        directory=tmp_path / "scratch",
    )


def boot_attack(name: str, *, shared: bool) -> BootAttack:
    def apply(config: MachineConfig, _: object) -> MachineConfig:
        return replace(config, smbios=(*config.smbios, name))

    return BootAttack(name=name, summary="s", outcome=Outcome.NO_EFFECT, apply=apply, shared=shared)


@pytest.mark.parametrize("harmful", [None, "two"])
def test_attacks_that_share_a_boot_are_played_apart_if_anything_is_seen(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, harmful: str | None
) -> None:
    boots: list[tuple[str, ...]] = []

    def boot(config: MachineConfig, _scene: Scene, _attacks: Sequence[BootAttack]) -> Seen:
        boots.append(config.smbios)
        return REFUSED if harmful in config.smbios else ANSWERED

    monkeypatch.setattr(attack_play, "_boot", boot)
    attacks = [boot_attack(name, shared=True) for name in ("one", "two", "three")]
    found = {played.attack.name: played for played in play_all(attacks, scene)}
    assert {name for name, played in found.items() if not played.expected} == ({harmful} - {None})
    together = [("one", "two", "three")]
    assert boots == (together if harmful is None else [*together, ("one",), ("two",), ("three",)])


def test_each_attack_comes_once_however_many_machines_run(
    monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    monkeypatch.setattr(attack_play, "_boot", lambda *_: ANSWERED)
    attacks = [boot_attack(str(number), shared=False) for number in range(9)]
    for jobs in (1, 3):
        assert sorted(p.attack.name for p in play_all(attacks, scene, jobs=jobs)) == [*"012345678"]


def test_a_boot_that_cannot_be_prepared_is_not_as_expected(
    monkeypatch: pytest.MonkeyPatch, scene: Scene
) -> None:
    def fail(*_: object) -> Seen:
        raise MachineError("expected a running QEMU")

    monkeypatch.setattr(attack_play, "_boot", fail)
    (played,) = play_all([boot_attack("one", shared=False)], scene)
    assert isinstance(played, Played)
    assert (played.expected, played.seen.outcome) == (False, Outcome.UNPLAYED)


def test_attacks_from_inside_need_a_probe_image(scene: Scene) -> None:
    with pytest.raises(UsageError, match="accepted-socket: expected a probe image"):
        list(play_all(HOSTILE_ATTACKS, scene))


def test_what_an_attack_wrote_goes_when_it_ends(monkeypatch: pytest.MonkeyPatch, scene: Scene) -> None:
    def write(config: MachineConfig, inputs: attack_play.AttackInputs) -> MachineConfig:
        (inputs.directory / "disk.raw").write_bytes(b"disk")
        return config

    monkeypatch.setattr(attack_play, "_boot", lambda *_: ANSWERED)
    list(play_all([replace(boot_attack("one", shared=False), apply=write)], scene))
    assert list(scene.directory.iterdir()) == []


@pytest.mark.parametrize("answers", [True, False])
def test_a_gate_without_evidence_is_another_thing_than_no_gate(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine, scene: Scene, answers: bool
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ChannelError("evidence: expected status 200, got 422")

    monkeypatch.setattr(attack_play, "attest", refuse)
    around = replace(scene, ready=lambda _host, _port: answers, expect=lambda _: None)
    seen = attack_play._look(cast("Machine", machine), around).seen
    assert seen.outcome is (Outcome.REFUSED if answers else Outcome.STOPS)
    assert seen.reasons == (frozenset({NO_EVIDENCE}) if answers else frozenset())
    machine.ended = "the guest powered off"
    assert attack_play._look(cast("Machine", machine), around).seen == Seen(Outcome.STOPS, machine.ended)


@pytest.mark.parametrize("outcome", [Outcome.STOPS, Outcome.REFUSED])
def test_a_machine_that_stops_counts_only_beside_an_honest_one_that_serves(
    monkeypatch: pytest.MonkeyPatch, scene: Scene, outcome: Outcome
) -> None:
    def not_served(*_: object) -> list[Played]:
        raise MachineError("expected a machine that a client accepts before any attack")

    monkeypatch.setattr(attack_play, "play_running", not_served)
    monkeypatch.setattr(attack_play, "_boot", lambda *_: Seen(Outcome.STOPS, "the guest powered off"))
    attack = replace(boot_attack("one", shared=False), outcome=outcome)
    if outcome is Outcome.STOPS:
        with pytest.raises(MachineError, match="before any attack"):
            list(play_all([attack], scene))
    else:
        assert [played.expected for played in play_all([attack], scene)] == [False]


def test_what_was_said_between_two_attacks_counts_too(
    monkeypatch: pytest.MonkeyPatch, machine: FakeMachine
) -> None:
    machine.said += b" and a late word"
    assert play_on(monkeypatch, machine, nothing).outcome is Outcome.SUCCEEDS
