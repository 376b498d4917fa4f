"""The comparison image answers like the product, so that what differs between them is the kernel alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.machine.machine import Machine
from tests.boot.lab import ROOT, ROUTE, Lab

pytestmark = [pytest.mark.boot, pytest.mark.kernel]

MEMORY_MIB = 512  # as `blindbuild run` has it; less was not tried


@pytest.fixture(scope="module")
def running(lab: Lab) -> Iterator[tuple[Path, Machine]]:
    image = lab.build(ROOT / "recipes" / "stock-kernel", keep_objects=False)
    with lab.running(lab.machine(image, memory_mib=MEMORY_MIB)) as machine:
        yield image, machine


def test_the_modules_are_loaded_and_an_attested_request_is_answered(
    lab: Lab, running: tuple[Path, Machine]
) -> None:
    image, machine = running
    with lab.judge(machine.url, lab.expect(image, machine, product="stock-kernel")).accept() as connection:
        assert json.loads(connection.post(ROUTE, b"Ada")) == {"greeting": "hello, Ada", "bytes": 3}
