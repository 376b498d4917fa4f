"""The product with bait around it shows nothing; the image that leaks is caught by every check."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.cli.probe_options import require_shown
from blindbuild.cli.probe_table import render_page, summarize_controls
from blindbuild.cli.probing import PROBE, PROBE_ENVELOPE, ProbeOptions, probe_image, write_probe
from blindbuild.digest import Digest
from blindbuild.formats.dsse import parse_envelope
from blindbuild.machine.probe.checks import CHECKS
from blindbuild.manifest import TrustRoots, parse_statement
from blindbuild.manifest.probe import CheckReport, Probe, Verdict, parse_probe, probe_bytes
from blindbuild.publish import sign_probe
from blindbuild.verify.checklist import PROBE_TITLES, Checklist
from blindbuild.verify.probe import judge_probe
from tests.boot.lab import Lab
from tests.locked import QUIET

pytestmark = [pytest.mark.boot, pytest.mark.kernel]
CLOSABLE = [check.name for check in CHECKS if check.closable]


@pytest.fixture(scope="module")
def images(lab: Lab) -> dict[str, Path]:
    """The product and its two controls, built from one recipe."""
    return {variant: lab.build(variant=variant) for variant in ("product", "probe", "leaky")}


@pytest.fixture(scope="module")
def probed(lab: Lab, images: dict[str, Path]) -> Iterator[Probe]:
    """One probe of the product: three machines."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(lab.directory / "state"))
        options = ProbeOptions(hostile=images["probe"], control=images["leaky"])
        yield probe_image(images["product"], options, store=lab.store, build_in=lab.directory, reporter=QUIET)


@pytest.fixture
def report(probed: Probe, request: pytest.FixtureRequest) -> CheckReport:
    """The report of one check."""
    return next(check for check in probed.checks if check.name == request.param)


@pytest.mark.parametrize("report", CLOSABLE, indirect=True)
def test_the_product_shows_nothing(report: CheckReport) -> None:
    assert report.findings == ()


@pytest.mark.parametrize("report", CLOSABLE, indirect=True)
def test_the_leaky_image_is_caught(report: CheckReport) -> None:
    assert report.control is not None
    assert report.control.saw != ()


def test_every_check_that_an_image_can_satisfy_is_shown(probed: Probe, tmp_path: Path) -> None:
    reasons = {check.name: check.reasons for check in probed.checks if check.closable}
    assert reasons == dict.fromkeys(CLOSABLE, ())
    assert summarize_controls(probed) == f"{len(CLOSABLE)} of {len(CLOSABLE)} controls caught"
    require_shown(probed, tmp_path)


def test_the_host_reads_the_request_in_the_guests_memory_and_that_stands_first(probed: Probe) -> None:
    first = probed.checks[0]
    assert (first.name, first.verdict, first.channels) == ("memory", Verdict.OPEN, ("host-reads-memory",))


def test_the_probe_is_about_these_very_images(probed: Probe, images: dict[str, Path]) -> None:
    digests = {name: Digest.sha256((place / "hello.efi").read_bytes()) for name, place in images.items()}
    assert probed.subject == ("hello.efi", digests["product"])
    assert dict(probed.images) == {"hostile": digests["probe"], "leaky": digests["leaky"]}
    statement = (images["product"] / "statement.json").read_bytes()
    assert probed.statement == Digest.sha256(statement)
    assert probed.ledger == Digest.sha256((images["product"] / "channels.json").read_bytes())


def test_it_is_written_signed_and_read_again(lab: Lab, probed: Probe, images: dict[str, Path]) -> None:
    place = lab.copy(images["product"], "probed")
    write_probe(probed, place, key=lab.key)
    data = (place / PROBE).read_bytes()
    assert parse_probe(data) == probed
    assert parse_envelope((place / PROBE_ENVELOPE).read_bytes()).payload == data
    write_probe(probed, place, key=None)
    assert not (place / PROBE_ENVELOPE).exists()
    assert json.loads(data)["predicate"]["machine"]["memoryMiB"] == 256


def test_a_client_that_asks_for_a_probe_takes_it(lab: Lab, probed: Probe, images: dict[str, Path]) -> None:
    statement = (images["product"] / "statement.json").read_bytes()
    trust = TrustRoots(probed.name, (lab.key.public,), 1, (), (), (), (), ())
    steps = Checklist({"M6": "", **PROBE_TITLES})
    steps.run("M6", lambda: (None, ""))
    judge_probe(
        steps,
        sign_probe(lab.key, probe_bytes(probed)),
        parse_statement(statement),
        Digest.sha256(statement),
        trust=trust,
    )
    assert steps.failed() == ()
    assert steps.steps[-1].detail.startswith(f"{len(CLOSABLE)} checks shown")


def test_the_page_for_people_names_every_check_and_no_digest(probed: Probe) -> None:
    page = render_page(probed, date="2026-11-23")
    assert all(f"| `{check.name}` |" in page for check in CHECKS)
    assert probed.subject[1].hex not in page
