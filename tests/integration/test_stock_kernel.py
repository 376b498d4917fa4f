"""hello on the kernel that Debian ships for clouds: built, and its ledger says plainly what that opens."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.cli.outputs import MANIFEST, RELEASE
from blindbuild.digest import Digest
from blindbuild.errors import PolicyError
from blindbuild.host.clock import unix_time
from blindbuild.manifest import parse_trust
from blindbuild.pipeline import build_image
from blindbuild.publish import TrustContent, make_trust
from blindbuild.verify import Appraisal, Policy, check_publication
from tests.boot.lab import ROOT, Lab
from tests.fakes.world import authority
from tests.locked import QUIET

RECIPE = ROOT / "recipes" / "stock-kernel"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("stock-kernel"))


@pytest.fixture(scope="module")
def image(lab: Lab) -> Path:
    return lab.build(RECIPE, keep_objects=False)


@pytest.fixture(scope="module")
def ledger(image: Path) -> dict:
    return json.loads((image / "channels.json").read_text())


def rows(ledger: dict) -> dict[str, dict]:
    return {row["id"]: row for row in ledger["channels"]}


def findings(row: dict) -> list[str]:
    return [finding for check in row["checks"] for finding in check["findings"]]


def test_every_channel_that_the_kernel_would_close_is_open_and_named_by_the_recipe(
    lab: Lab, ledger: dict
) -> None:
    allowed = {item.identifier for item in lab.request(RECIPE).recipe.channels}
    found = {name for name, row in rows(ledger).items() if findings(row)}
    assert found == allowed == {name for name, row in rows(ledger).items() if "allowedByRecipe" in row}
    assert {rows(ledger)[name]["state"] for name in found} == {"open"}
    assert found >= {"serial-console", "kernel-log", "disks-file-systems", "kexec", "code-loading", "tracing"}


def test_what_a_kernel_of_a_distribution_lacks_is_said_in_words(ledger: dict) -> None:
    told = [finding for row in ledger["channels"] for finding in findings(row)]
    for words in (
        "CONFIG_CMDLINE_OVERRIDE: expected y, got n",
        "the command line is not the one that is compiled into the kernel",
        "System.map is a placeholder without a symbol table",
        "drivers of the kernel are unknown: System.map does not show them",
        "CONFIG_MODULES: expected it to be off, got y",
        "CONFIG_PRINTK: expected it to be off, got y",
    ):
        assert words in told, words


def test_the_number_of_broken_rules_is_that_of_the_study_or_more(ledger: dict) -> None:
    # an older list of 83 options found 72 broken by Debian's 6.1 kernel
    policy = ledger["kernel"]["policy"]
    off = [text for text in policy["broken"] if "expected it to be off" in text]
    assert len(off) >= 72
    assert policy["modules"] > 1000
    assert len(policy["broken"]) > len(off)


def test_what_no_image_can_close_stands_first_and_then_what_this_one_opens(ledger: dict) -> None:
    listed = ledger["channels"]
    never = [row["id"] for row in listed if not row["closable"]]
    assert [row["id"] for row in listed[: len(never)]] == never
    opened = [bool(findings(row)) for row in listed[len(never) :]]
    assert opened == sorted(opened, reverse=True)


def test_the_ledger_is_recomputed_from_the_outputs(image: Path) -> None:
    program = Path(sys.executable).parent / "blindbuild"
    done = subprocess.run([program, "channels", image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].split()[:3] == ["open", "34", "host-reads-memory"]
    assert "the recipe leaves it open" in done.stdout


def judged(lab: Lab, image: Path, *required: str) -> Appraisal:
    trust = make_trust(
        TrustContent(
            product="stock-kernel",
            release_keys=(lab.key.public,),
            test_tpm_roots=(authority().root_pem,),
            test_tpm_intermediates=(authority().issuer_pem,),
        )
    )
    return check_publication(
        (image / MANIFEST).read_bytes(),
        release=(image / RELEASE).read_bytes(),
        trust=parse_trust(trust),
        now=unix_time(),
        policy=Policy(allow_test_tpm=True, required_closed=frozenset(required)),
        ledger=(image / "channels.json").read_bytes(),
    )


@pytest.mark.parametrize("group", ["disk", "console", "egress", "admin"])
def test_a_policy_that_requires_a_group_to_be_closed_refuses_the_statement(
    lab: Lab, image: Path, group: str
) -> None:
    assert judged(lab, image, group).reasons == {"P3:channel-not-closed"}


def test_without_such_a_policy_what_is_open_is_said_first(lab: Lab, image: Path) -> None:
    appraisal = judged(lab, image)
    assert appraisal.reasons == set()
    detail = next(step.detail for step in appraisal.steps if step.id == "P2")
    assert detail.startswith("open: host-reads-memory, host-supplied-acpi, tpm (allowed by the recipe), ")


def test_without_its_allowances_the_recipe_is_not_built(lab: Lab) -> None:
    request = lab.request(RECIPE, keep_objects=False)
    silent = replace(request.recipe, channels=request.recipe.channels[1:], checksum=Digest.sha256(b"silent"))
    with pytest.raises(PolicyError) as caught:
        build_image(replace(request, recipe=silent), store=lab.store, reporter=QUIET)
    left_out, where = request.recipe.channels[0], request.recipe.channels_where
    assert caught.value.message.startswith(f"{where}: expected no open channel but those that")
    assert f"got {left_out.identifier}: " in caught.value.message
