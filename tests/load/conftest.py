"""The gate's fixtures, for gates under load as well."""

from __future__ import annotations

from tests.integration.conftest import gate, gate_binary, gate_tpm, gate_tpm_directory

__all__ = ["gate", "gate_binary", "gate_tpm", "gate_tpm_directory"]
