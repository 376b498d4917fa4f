"""An image behind somebody who ends TLS: built, booted, and asked through such a middle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.cli.probe_table import summarize_controls
from blindbuild.cli.probing import ProbeOptions, probe_image
from blindbuild.machine.attack import ATTACKS, attacks_on
from blindbuild.machine.attack_network import NETWORK_ATTACKS
from blindbuild.machine.attack_play import play_all
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.checks import CHECKS
from blindbuild.manifest import parse_statement
from tests.boot.attacks import scene_of
from tests.boot.lab import ROOT, ROUTE, Lab
from tests.fakes.middle import Middle
from tests.integration.sealed_machine import PROFILE, SEALED
from tests.locked import QUIET

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


def test_who_stands_between_or_in_the_images_place_gets_what_the_table_says(
    lab: Lab, sealed: Path, tmp_path: Path
) -> None:
    table = attacks_on(next(sealed.glob("*.efi")).read_bytes(), profile=PROFILE)
    played = list(
        play_all([table[attack.name] for attack in NETWORK_ATTACKS], scene_of(lab, sealed, tmp_path))
    )
    assert len(played) == len(NETWORK_ATTACKS) == 3
    for each in played:
        assert each.expected, each.seen
    intercepted = next(each for each in played if each.attack.name == "tls-mitm")
    assert "he ends TLS and has seen" in intercepted.seen.words
    # what is said of an image whose TLS ends inside would be wrong here
    assert not ATTACKS["tls-mitm"].expects(intercepted.seen)


@pytest.mark.full
@pytest.mark.kernel
def test_the_probe_shows_of_it_what_it_shows_of_any_other(
    lab: Lab, sealed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(lab.directory / "state"))
    controls = {variant: lab.build(RECIPE, variant=variant) for variant in ("probe", "leaky")}
    options = ProbeOptions(hostile=controls["probe"], control=controls["leaky"])
    probed = probe_image(sealed, options, store=lab.store, build_in=lab.directory, reporter=QUIET)
    closable = [check.name for check in CHECKS if check.closable]
    assert {check.name: check.reasons for check in probed.checks if check.closable} == dict.fromkeys(
        closable, ()
    )
    assert summarize_controls(probed) == f"{len(closable)} of {len(closable)} controls caught"
