"""Fixtures that boot: one product, two machines, and the image that tries to break out, for every test."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.errors import ToolError
from blindbuild.host.process import Tool, find_tool
from blindbuild.machine.machine import Machine
from tests.boot.lab import ROUTE, Lab

NEEDED = (
    Tool("qemu-system-x86_64", "qemu-system-x86"),
    Tool("swtpm", "swtpm"),
    Tool("swtpm_setup", "swtpm-tools"),
    Tool("bwrap", "bubblewrap"),
)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """The lab, where every tool that a boot needs is there."""
    for tool in NEEDED:
        try:
            find_tool(tool)
        except ToolError as error:
            pytest.skip(f"cannot boot: {error.message} ({error.hint})")
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="session")
def product(lab: Lab) -> Path:
    """The signed product image of recipes/hello."""
    return lab.build()


@pytest.fixture(scope="session")
def machine(lab: Lab, product: Path) -> Iterator[Machine]:
    """The product, running; tests only look at it."""
    with lab.running(lab.machine(product, tpm_transcript=True)) as running:
        yield running


@pytest.fixture(scope="session")
def second_machine(lab: Lab, product: Path, machine: Machine) -> Iterator[Machine]:
    """The same product on another machine with another TPM of the same maker."""
    with lab.running(lab.machine(product)) as running:
        yield running


@pytest.fixture(scope="session")
def probing(lab: Lab) -> Path:
    """The probe image; its statement says that it is no product."""
    return lab.build(variant="probe")


@pytest.fixture(scope="session")
def probing_machine(lab: Lab, probing: Path) -> Iterator[Machine]:
    """The probe image, running."""
    with lab.running(lab.machine(probing)) as running:
        yield running


@pytest.fixture(scope="session")
def reports(lab: Lab, probing: Path, probing_machine: Machine) -> dict[str, dict[str, str]]:
    """What launcher and workload report: the launcher answers the first request, the workload the next."""
    with lab.judge(
        probing_machine.url, lab.expect(probing, probing_machine, allow_debug=True)
    ).accept() as server:
        found = [json.loads(server.post(ROUTE, b"attempts")) for _ in range(2)]
    return {report["context"]: report["attempts"] for report in found}
