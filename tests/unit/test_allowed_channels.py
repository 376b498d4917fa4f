"""A channel that a recipe leaves open: named there, shown in the ledger, refused by who wants it closed."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.recipe import load_recipe, render_recipe
from blindbuild.audit.channels import Allowance, LedgerInputs, write_ledger
from blindbuild.errors import ManifestError, PolicyError, RecipeError
from blindbuild.manifest import parse_ledger
from blindbuild.verify import Appraisal, Policy
from tests.fakes.channels import but_row, check, closed_ledger, ledger_bytes, publisher_of
from tests.fakes.ledger_image import Parts, clean_parts
from tests.fakes.world import TEST_POLICY, judge, session

KEXEC = Allowance("kexec", "recipe.yaml:12:19")
RECIPE = """\
name: hello
version: 1.0.0
sequence: 7
tree:
  compile: [{from: hello.c, to: /app/hello}]
service:
  command: [/app/hello]
  routes: [/v1/hello]
  memory: 64M
network:
  address: dhcp
"""


@pytest.fixture(scope="module")
def clean() -> Parts:
    return clean_parts()


@pytest.fixture(scope="module")
def with_kexec(clean: Parts) -> LedgerInputs:
    """An image whose kernel can start another one, and nothing else to find."""
    return clean.with_symbol("T", "kernel_kexec").inputs()


def write(inputs: LedgerInputs, *allowed: Allowance) -> dict:
    given = replace(inputs, allowed=allowed, allowed_where="recipe.yaml:12:11")
    return json.loads(write_ledger("hello", "1.0.0", given))


# --- the recipe


def test_a_recipe_names_channels_with_their_places_and_they_are_part_of_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    (tmp_path / "hello.c").write_text("int main(void) { return 0; }\n")
    path.write_text(RECIPE)
    before = load_recipe(path)
    assert (before.channels, before.channels_where) == ((), f"{path}:1:1")
    path.write_text(RECIPE + "channels:\n  allow: [kexec,\n          kernel-log]\n")
    recipe = load_recipe(path)
    assert [(item.identifier, item.where) for item in recipe.channels] == [
        ("kexec", f"{path}:13:11"),
        ("kernel-log", f"{path}:14:11"),
    ]
    assert recipe.channels_where == f"{path}:13:10"
    assert recipe.checksum != before.checksum
    path.write_text(render_recipe(recipe))
    assert [item.identifier for item in load_recipe(path).channels] == ["kexec", "kernel-log"]


# --- the build


def test_an_open_channel_that_the_recipe_does_not_name_fails_the_build_at_its_place(
    with_kexec: LedgerInputs,
) -> None:
    with pytest.raises(PolicyError) as caught:
        write(with_kexec)
    assert caught.value.message.startswith(
        "recipe.yaml:12:11: expected no open channel but those that `channels.allow` names, got kexec: 1 f"
    )
    assert "channel 13 (kexec): the kernel has kernel_kexec" in caught.value.message
    assert caught.value.hint is not None
    assert "name it in `channels.allow`" in caught.value.hint


def test_an_open_channel_that_the_recipe_names_is_built_and_the_ledger_says_so(
    with_kexec: LedgerInputs,
) -> None:
    ledger = write(with_kexec, KEXEC)
    row = next(row for row in ledger["channels"] if row["id"] == "kexec")
    assert (row["state"], row["allowedByRecipe"]) == ("open", True)
    assert [row["id"] for row in ledger["channels"] if "allowedByRecipe" in row] == ["kexec"]


def test_what_is_allowed_stands_behind_what_no_image_can_close_and_before_all_else(
    with_kexec: LedgerInputs,
) -> None:
    rows = write(with_kexec, KEXEC)["channels"]
    never = [row["id"] for row in rows if not row["closable"]]
    assert [row["id"] for row in rows[: len(never)]] == never
    assert rows[len(never)]["id"] == "kexec"
    assert not any(check["findings"] for row in rows[len(never) + 1 :] for check in row["checks"])


def test_a_second_channel_with_a_finding_is_not_covered_by_the_first(clean: Parts) -> None:
    inputs = clean.with_symbol("T", "kernel_kexec").with_symbol("T", "do_coredump").inputs()
    with pytest.raises(PolicyError) as caught:
        write(inputs, KEXEC)
    assert "got core-dumps: 1 finding" in caught.value.message
    assert "kernel_kexec" not in caught.value.message


def test_a_finding_about_two_channels_needs_both_to_be_allowed(clean: Parts) -> None:
    # packet_rcv is of the row arp, which no image can close, and of outgoing-connections
    inputs = clean.with_symbol("T", "packet_rcv").inputs()
    with pytest.raises(PolicyError, match="got arp: 1 finding"):
        write(inputs, Allowance("outgoing-connections"))
    ledger = write(inputs, Allowance("outgoing-connections"), Allowance("arp"))
    assert ledger["channels"][0]["id"] == "host-reads-memory"  # a finding elsewhere does not push it down
    assert [row["id"] for row in ledger["channels"] if "allowedByRecipe" in row] == [
        "arp",
        "outgoing-connections",
    ]


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("kexek", "expected the id of a channel, got `kexek`", "did you mean `kexec`?"),
        ("telephone", "expected the id of a channel, got `telephone`", "an id of channels.json"),
        ("tracing", "got `tracing`, in which nothing was found", "remove it"),
        ("host-reads-memory", "got `host-reads-memory`, which no image can close", "remove it"),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_an_allowance_that_allows_nothing_is_an_error_at_its_place(
    with_kexec: LedgerInputs, name: str, message: str, hint: str, debug: bool
) -> None:
    with pytest.raises(RecipeError) as caught:
        write(replace(with_kexec, debug=debug), KEXEC, Allowance(name, "recipe.yaml:12:26"))
    assert caught.value.where == "recipe.yaml:12:26"
    assert message in caught.value.message
    assert caught.value.hint is not None
    assert hint in caught.value.hint


def test_a_debug_image_need_not_name_what_debugging_opens(with_kexec: LedgerInputs) -> None:
    row = next(row for row in write(replace(with_kexec, debug=True))["channels"] if row["id"] == "kexec")
    assert row["state"] == "open"
    assert "allowedByRecipe" not in row


# --- its readers

OPENED = {"state": "open", "checks": [check("the kernel has kernel_kexec")]}
SECOND = closed_ledger(2)
ALLOWED = but_row(SECOND, "kexec", allowedByRecipe=True, **OPENED)
UNDECLARED = but_row(SECOND, "kexec", **OPENED)


def test_the_builders_ledger_reads_as_allowed(with_kexec: LedgerInputs) -> None:
    given = replace(with_kexec, allowed=(KEXEC,))
    row = parse_ledger(write_ledger("hello", "1.0.0", given)).find("kexec")
    assert row is not None
    assert (row.closable, row.allowed, row.undeclared) == (True, True, False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"allowedByRecipe": True}, "expected true, and findings that the recipe allows"),
        ({"allowedByRecipe": True, "state": "open"}, "expected true, and findings that the recipe allows"),
        ({"allowedByRecipe": False, **OPENED}, "expected true, and findings that the recipe allows"),
        ({"allowedByRecipe": 1, **OPENED}, "expected true or false"),
        ({"allowedByRecipe": True, **OPENED, "state": "narrowed"}, "expected open because of its findings"),
    ],
)
def test_an_allowance_in_a_ledger_that_breaks_a_rule_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        parse_ledger(ledger_bytes(but_row(SECOND, "kexec", **changes)))


def test_version_1_has_no_allowances() -> None:
    with pytest.raises(ManifestError, match="unknown 'allowedByRecipe'"):
        parse_ledger(ledger_bytes(but_row(closed_ledger(1), "kexec", allowedByRecipe=True)))


def judged(ledger: dict, *required: str, **predicate) -> Appraisal:
    data = ledger_bytes(ledger)
    published = publisher_of(data, **predicate)
    allow_debug = bool(predicate)
    rules: Policy = dataclasses.replace(
        TEST_POLICY, required_closed=frozenset(required), allow_debug=allow_debug
    )
    return judge.but(published=published, policy=rules, ledger=data)(session(statement=published.statement))


def details(appraisal: Appraisal) -> str:
    return " ".join(step.detail for step in appraisal.steps)


def test_what_the_recipe_allows_is_accepted_and_said_first() -> None:
    appraisal = judged(ALLOWED)
    appraisal.accepted()
    assert "open: kexec (allowed by the recipe), host-reads-memory" in details(appraisal)


def test_what_the_recipe_allows_is_refused_by_who_wants_it_closed() -> None:
    appraisal = judged(ALLOWED, "admin")
    assert appraisal.reasons == {"P3:channel-not-closed"}
    assert "kexec is open" in details(appraisal)
    judged(ALLOWED, "disk").accepted()


@pytest.mark.parametrize("required", [(), ("disk",), ("kexec",)])
def test_an_open_row_that_nobody_allowed_is_refused_whatever_must_be_closed(
    required: tuple[str, ...],
) -> None:
    appraisal = judged(UNDECLARED, *required)
    assert appraisal.reasons == {"P2:channel-undeclared"}
    assert appraisal.verdict is None
    assert "row 10 kexec (the kernel has kernel_kexec)" in details(appraisal)


def test_an_open_row_without_a_finding_is_refused_too() -> None:
    assert judged(but_row(SECOND, "kexec", state="open")).reasons == {"P2:channel-undeclared"}


def test_a_row_that_no_image_can_close_is_refused_only_for_a_finding() -> None:
    judged(SECOND).accepted()
    found = but_row(SECOND, "arp", state="open", checks=[check("the kernel has packet_rcv")])
    assert judged(found).reasons == {"P2:channel-undeclared"}


def test_a_debug_image_says_as_a_whole_that_it_is_open() -> None:
    judged(UNDECLARED | {"debug": True}, debug=True).accepted()
    assert judged(UNDECLARED, debug=True).reasons == {"P2:channel-undeclared"}
