"""Fixtures of the gate's tests; the machinery is in gate_harness.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.gate_harness import RunningGate, Swtpm, build_gate, make_tpm_state, running_gate


@pytest.fixture(scope="session")
def gate_binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gate as it is in an image."""
    return build_gate(tmp_path_factory.mktemp("gate") / "gate")


@pytest.fixture(scope="module")
def gate_tpm_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a manufactured TPM's state and its certificate authority."""
    directory = tmp_path_factory.mktemp("tpm")
    make_tpm_state(directory)
    return directory


@pytest.fixture(scope="module")
def gate_tpm(gate_tpm_directory: Path) -> Iterator[Swtpm]:
    """That TPM, running."""
    tpm = Swtpm(gate_tpm_directory / "state", gate_tpm_directory)
    yield tpm
    tpm.stop()


@pytest.fixture(scope="module")
def gate(
    gate_binary: Path, gate_tpm: Swtpm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGate]:
    """A gate on that TPM, shared by a module's tests."""
    with gate_tpm.connect() as channel:
        with running_gate(gate_binary, tmp_path_factory.mktemp("root"), channel) as running:
            yield running
            assert running.alive(), f"the gate ended with {running.process.returncode}"
