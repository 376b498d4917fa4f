"""What a client that only verifies has to load."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("lief", "yaml", "jinja2", "click", "rich", "subprocess")


@pytest.mark.parametrize("module", ["blindbuild.verify", "blindbuild.client", "blindbuild.manifest"])
def test_verifying_loads_no_builder(module: str) -> None:
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
