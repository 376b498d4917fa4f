"""The image in the least memory that boots, under crowds: it goes on serving, and never runs out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from blindbuild.errors import BlindbuildError
from blindbuild.machine.machine import Machine
from tests.boot.lab import ROUTE, Lab
from tests.load.test_gate_under_load import attacked

pytestmark = [pytest.mark.boot, pytest.mark.full]

LEAST_MIB = 128  # what the firmware takes
ATTEMPTS = 20  # of the honest client, beside a crowd on an emulated processor
CROWDS = {
    "silent": 1000,
    "half_a_handshake": 200,
    "large_hello": 500,
    "evidence_unread": 60,
    "half_a_body": 40,
}


@pytest.fixture(scope="module")
def small_machine(lab: Lab, product: Path) -> Iterator[Machine]:
    """The product in little memory."""
    with lab.running(replace(lab.machine(product), memory_mib=LEAST_MIB)) as machine:
        yield machine


def greet(lab: Lab, product: Path, machine: Machine) -> bytes:
    """Attest, and send one request."""
    with lab.judge(machine.url, lab.expect(product, machine)).accept() as connection:
        return connection.post(ROUTE, b"Ada Lovelace")


@pytest.mark.parametrize("name", CROWDS)
def test_a_small_machine_serves_an_honest_client_beside_a_crowd(
    lab: Lab, product: Path, small_machine: Machine, name: str
) -> None:
    port = urlsplit(small_machine.url).port
    assert port is not None
    refusals: list[str] = []
    with attacked(port, name, CROWDS[name]):
        while len(refusals) < ATTEMPTS:
            try:
                answer = greet(lab, product, small_machine)
                break
            except BlindbuildError as error:
                refusals.append(str(error))
        else:
            pytest.fail(f"refused {ATTEMPTS} times: {refusals}")
    assert b"Ada Lovelace" in answer
    # One that runs out of memory kills the gate, and then powers off.
    assert b"Ada Lovelace" in greet(lab, product, small_machine)
