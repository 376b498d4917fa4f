"""Fixtures that boot: one product, two machines, shared by every test that only looks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.errors import ToolError
from blindbuild.host.process import Tool, find_tool
from blindbuild.machine.machine import Machine
from tests.boot.lab import Lab

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
