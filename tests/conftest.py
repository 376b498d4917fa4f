"""What holds for every test: the same examples in every run, and no judgement by the clock."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.bad_inputs import Recording

MAX_NAME = 60  # characters; a digest in hex has 64
LONG = {"tests/mutation/test_mutation.py", "tests/unit/test_damaged_evidence.py"}  # shared out test by test

# A busy machine is no failure, and CI that fails once in fifty runs teaches nobody; test-full draws anew.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.register_profile("searching", deadline=None, max_examples=500)
settings.load_profile(os.environ.get("BLINDBUILD_HYPOTHESIS", "steady"))


def pytest_configure(config: pytest.Config) -> None:
    """Let marked tests record by which reason a bad input was refused."""
    config.pluginmanager.register(Recording())


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    """Keep in one process what shares fixtures: all boots, which share machines, and each file but LONG."""
    return _ByMachine(config, log)


class _ByMachine(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        if path.startswith("tests/boot/"):
            return "boot"
        return nodeid if path in LONG else path


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name bytes and long texts by their place: some hold fresh keys, and all processes must agree."""
    return argname if isinstance(val, bytes) or (isinstance(val, str) and len(val) > MAX_NAME) else None
