"""The probe's look at a gate that takes sealed requests only: what it asks plainly, and what it seals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.machine.probe.handshake import handshake_findings, observe_handshake
from blindbuild.machine.probe.plain import ask_sealed
from blindbuild.verify import Policy
from tests.integration.gate_harness import RunningGate
from tests.integration.sealed_machine import SealedMachine, sealed_machine

ROUTE = "/v1/hello"


@pytest.fixture(scope="module")
def machine(gate_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SealedMachine]:
    with sealed_machine(gate_binary, tmp_path_factory.mktemp("sealed"), routes=[ROUTE]) as running:
        yield running


def url_of(machine: SealedMachine) -> str:
    return f"https://127.0.0.1:{machine.gate.port}"


def test_a_stranger_finds_neither_routes_nor_words(machine: SealedMachine) -> None:
    started = machine.launcher.started
    report = observe_handshake("127.0.0.1", machine.gate.port, routes=[ROUTE], sealed=True)
    assert handshake_findings(report) == ()
    sealed = {a.request: a.status for a in report.answers if "sealed" in a.request}
    assert sealed["GET sealed"] == 404
    assert set(sealed.values()) == {404, 422}
    assert {a.status for a in report.answers if ROUTE in a.request} == {404}
    assert machine.launcher.started == started


def test_a_route_outside_the_seal_would_be_found(machine: SealedMachine, gate: RunningGate) -> None:
    report = observe_handshake("127.0.0.1", gate.port, routes=[ROUTE], sealed=True)
    assert any(f"POST {ROUTE} with 0 bytes" in finding for finding in handshake_findings(report))
    report = observe_handshake("127.0.0.1", machine.gate.port, routes=[ROUTE])
    assert any("status 404" in finding for finding in handshake_findings(report))


def test_a_request_is_sealed_to_whoever_answers_even_if_no_client_would_believe_it(
    machine: SealedMachine,
) -> None:
    strict = replace(machine.expectation, policy=Policy())
    for expectation in (machine.expectation, strict):
        assert ask_sealed(url_of(machine), expectation, ROUTE, b"words") == (200, b"words")
    assert ask_sealed(url_of(machine), machine.expectation, "/other", b"")[0] == 404


def test_what_gives_no_key_is_an_error_of_the_connection(machine: SealedMachine, gate: RunningGate) -> None:
    with pytest.raises(OSError, match="evidence: expected status 200, got 400"):
        ask_sealed(f"https://127.0.0.1:{gate.port}", machine.expectation, ROUTE, b"")
    with pytest.raises(OSError, match="cannot connect"):
        ask_sealed("https://127.0.0.1:1", machine.expectation, ROUTE, b"")
