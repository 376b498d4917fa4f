"""An image to look into: it talks on its console, says so in its statement, and is not the product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.errors import VerificationError
from blindbuild.machine.machine import Machine
from tests.boot.lab import Lab, statement_of
from tests.boot.test_first_light import kernel_frames

pytestmark = [pytest.mark.boot, pytest.mark.kernel]


@pytest.fixture(scope="module")
def debug_image(lab: Lab) -> Path:
    """The same recipe with --debug."""
    return lab.build(debug=True)


@pytest.fixture(scope="module")
def debug_machine(lab: Lab, debug_image: Path) -> Iterator[Machine]:
    """The debug image, running."""
    with lab.running(lab.machine(debug_image)) as running:
        yield running


def test_a_debug_image_writes_to_its_console_so_the_check_for_silence_can_fail(
    debug_machine: Machine,
) -> None:
    first_frame = kernel_frames(debug_machine)[0][0]
    spoken = [debug_machine.serial(port) for port in range(4)]
    assert b"Linux version" in spoken[0].data
    assert any(port.after(first_frame) or b"Linux version" in port.data for port in spoken)


def test_a_debug_image_is_refused_by_the_product_manifest(
    lab: Lab, product: Path, debug_machine: Machine
) -> None:
    attempt = lab.judge(debug_machine.url, lab.expect(product, debug_machine))
    attempt.close()
    differing = {result.register for result in attempt.appraisal.registers if not result.matches}
    assert {4, 9, 11} <= differing
    assert "E1:register-mismatch" in attempt.appraisal.reasons


def test_a_debug_statement_is_refused_unless_it_is_allowed(
    lab: Lab, debug_image: Path, debug_machine: Machine
) -> None:
    assert statement_of(debug_image).debug
    with pytest.raises(VerificationError) as refused:
        lab.judge(debug_machine.url, lab.expect(debug_image, debug_machine))
    assert (refused.value.step, refused.value.reason) == ("P1", "debug-image")
    allowed = lab.judge(debug_machine.url, lab.expect(debug_image, debug_machine, allow_debug=True))
    allowed.close()
    assert allowed.appraisal.reasons == frozenset()


def test_the_ledger_of_a_debug_image_says_what_is_open(debug_image: Path) -> None:
    ledger = (debug_image / "channels.json").read_text()
    assert '"debug":true' in ledger
    assert "CONFIG_TTY is waived for debugging" in ledger
