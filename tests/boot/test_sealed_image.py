"""An image behind somebody who ends TLS: built, booted, and asked through such a middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.machine.machine import Machine
from blindbuild.manifest import parse_statement
from tests.boot.lab import ROOT, ROUTE, Lab
from tests.fakes.middle import Middle
from tests.integration.sealed_machine import PROFILE, SEALED

pytestmark = pytest.mark.boot
RECIPE = ROOT / "recipes" / "hello-sealed"
CANARY = b"canary-of-the-sealed-image"


@pytest.fixture(scope="module")
def sealed(lab: Lab) -> Path:
    """recipes/hello-sealed, built and signed."""
    return lab.build(RECIPE)


@pytest.fixture(scope="module")
def sealed_running(lab: Lab, sealed: Path) -> Iterator[Machine]:
    """The image, running."""
    with lab.running(lab.machine(sealed)) as running:
        yield running


def test_a_booted_image_answers_through_a_middle_that_sees_nothing(
    lab: Lab, sealed: Path, sealed_running: Machine
) -> None:
    assert parse_statement((sealed / "statement.json").read_bytes()).channel_binding == PROFILE
    expectation = lab.expect(sealed, sealed_running, product="hello-sealed")
    port = int(sealed_running.url.rpartition(":")[2])
    with Middle(port) as middle:
        attempt = lab.judge(middle.url, expectation)
        assert attempt.appraisal.reasons == frozenset()
        with attempt.accept() as connection:
            assert json.loads(connection.post(ROUTE, CANARY))["greeting"] == f"hello, {CANARY.decode()}"
            assert connection.request("/v1/other", CANARY).status == 404
    assert middle.paths[2:] == [SEALED, SEALED]
    assert CANARY not in middle.seen
    assert len(set(middle.sizes[2:])) == 1
