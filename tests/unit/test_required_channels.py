"""Steps P2 and P3: the pinned ledger or none, and what must be closed is closed in it."""

from __future__ import annotations

import dataclasses

import pytest

from blindbuild.digest import Digest
from blindbuild.verify import CHANNEL_GROUPS, Appraisal, Outcome, Policy, Step, check_publication
from tests.fakes.channels import (
    but_row,
    check,
    closed_ledger,
    ledger_bytes,
    publisher_of,
    row,
    without_row,
)
from tests.fakes.damage import bit_flips, truncations
from tests.fakes.published import NOW
from tests.fakes.world import TEST_POLICY, judge, pinned_trust, session

LEDGER = closed_ledger()


def policy(*required: str, **more) -> Policy:
    return dataclasses.replace(TEST_POLICY, required_closed=frozenset(required), **more)


def judged(ledger: object, *required: str, allow_debug: bool = False, **predicate) -> Appraisal:
    """A session with an image whose statement pins this ledger."""
    data = ledger if isinstance(ledger, bytes) else ledger_bytes(ledger)
    published = publisher_of(data, **predicate)
    made = session(statement=published.statement)
    rules = policy(*required, allow_debug=allow_debug)
    return judge.but(published=published, policy=rules, ledger=data)(made)


def step(appraisal: Appraisal, identifier: str) -> Step:
    return next(found for found in appraisal.steps if found.id == identifier)


# --- what is closed


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("group", ["disk", "console", "egress", "admin"])
def test_a_group_that_is_closed_is_accepted(group: str, version: int) -> None:
    appraisal = judged(closed_ledger(version), group)
    appraisal.accepted()
    assert step(appraisal, "P3").detail == ", ".join(sorted(CHANNEL_GROUPS[group]))


def test_groups_and_ids_can_be_asked_for_together() -> None:
    appraisal = judged(LEDGER, "disk", "core-dumps", "kexec")
    appraisal.accepted()
    assert step(appraisal, "P3").detail == (
        "core-dumps, disks-file-systems, firmware-storage, kexec, swap-hibernation"
    )


def test_what_is_open_is_said_first() -> None:
    detail = step(judged(LEDGER, "disk"), "P2").detail
    assert detail == "open: host-reads-memory, host-supplied-acpi; narrowed: arp; 1 stated; 17 closed"


def test_memory_cannot_be_closed_by_an_image() -> None:
    appraisal = judged(LEDGER, "memory")
    assert appraisal.reasons == {"P3:channel-not-closed"}
    assert "host-reads-memory is open (what holds of host-reads-memory)" in step(appraisal, "P3").detail


# --- what is not


@pytest.mark.parametrize(
    ("identifier", "number", "state"),
    [("standard-streams", 4, "stated"), ("arp", 19, "narrowed"), ("host-reads-memory", 20, "open")],
)
def test_a_row_in_another_state_is_refused_by_name_state_and_claim(
    identifier: str, number: int, state: str
) -> None:
    appraisal = judged(LEDGER, identifier, "disk")
    assert appraisal.reasons == {"P3:channel-not-closed"}
    assert appraisal.verdict is None
    assert step(appraisal, "P3").detail == (
        f"expected 5 channels to be closed, got: row {number} {identifier} is {state} "
        f"(what holds of {identifier})"
    )


@pytest.mark.parametrize("identifier", CHANNEL_GROUPS["disk"])
@pytest.mark.parametrize("state", ["stated", "narrowed", "open"])
def test_one_row_of_a_group_is_enough_to_refuse_it(identifier: str, state: str) -> None:
    appraisal = judged(but_row(LEDGER, identifier, state=state), "disk")
    assert appraisal.reasons == {"P3:channel-not-closed"}
    assert f" {identifier} is {state} (" in step(appraisal, "P3").detail


def test_all_rows_that_are_not_closed_are_named() -> None:
    detail = step(judged(LEDGER, "memory", "arp"), "P3").detail
    assert [name for name in ("arp", "host-reads-memory", "host-supplied-acpi") if name in detail] == [
        "arp",
        "host-reads-memory",
        "host-supplied-acpi",
    ]


def test_an_open_row_shows_what_was_found() -> None:
    found = {"state": "open", "checks": [check("the kernel has kernel_kexec")]}
    ledger = but_row(closed_ledger(2), "kexec", allowedByRecipe=True, **found)
    appraisal = judged(ledger, "admin")
    assert appraisal.reasons == {"P3:channel-not-closed"}
    assert step(appraisal, "P3").detail.endswith(": the kernel has kernel_kexec")
    judged(ledger, "disk").accepted()


@pytest.mark.parametrize("identifier", CHANNEL_GROUPS["console"])
def test_a_row_that_is_not_there_is_refused(identifier: str) -> None:
    appraisal = judged(without_row(LEDGER, identifier), "console")
    assert appraisal.reasons == {"P3:channel-missing"}
    assert f"{identifier} is not in the ledger" in step(appraisal, "P3").detail


@pytest.mark.parametrize("name", ["disc", "Disk", "disk ", "", "disk,console", "*"])
def test_a_name_that_is_nothing_is_refused_and_helped(name: str) -> None:
    appraisal = judged(LEDGER, name)
    assert appraisal.reasons == {"P3:channel-missing"}
    assert any("disk, console, egress, admin, memory" in hint for hint in appraisal.hints)


# --- which ledger


def test_without_a_ledger_nothing_is_closed() -> None:
    appraisal = judge.but(policy=policy("disk"))(session())
    assert appraisal.reasons == {"P2:ledger-missing"}
    assert appraisal.verdict is None
    assert step(appraisal, "P3").outcome is Outcome.SKIPPED


def test_without_a_ledger_and_a_wish_both_steps_are_skipped() -> None:
    appraisal = judge(session())
    appraisal.accepted()
    assert {step(appraisal, name).outcome for name in ("P2", "P3")} == {Outcome.SKIPPED}


def test_another_ledger_is_refused_whether_or_not_something_must_be_closed() -> None:
    other = ledger_bytes(but_row(LEDGER, "kexec", claim="another"))
    published = publisher_of(ledger_bytes(LEDGER))
    made = session(statement=published.statement)
    for rules in (policy(), policy("disk")):
        appraisal = judge.but(published=published, policy=rules, ledger=other)(made)
        assert appraisal.reasons == {"P2:other-ledger"}
        assert appraisal.verdict is None
        assert str(Digest.sha256(other)) in step(appraisal, "P2").detail


def test_every_change_of_a_byte_is_another_ledger() -> None:
    data = ledger_bytes(LEDGER)
    published = publisher_of(data)
    for changed in (*truncations(data, step=97), *bit_flips(data, step=97), data + b"\n"):
        appraisal = check_publication(
            published.envelope,
            release=published.release,
            trust=pinned_trust(),
            now=NOW,
            policy=policy("disk"),
            ledger=changed,
        )
        assert appraisal.reasons == {"P2:other-ledger"}


def test_what_was_published_is_refused_before_a_server_is_asked() -> None:
    data = ledger_bytes(LEDGER)
    published = publisher_of(data)
    appraisal = check_publication(
        published.envelope,
        release=published.release,
        trust=pinned_trust(),
        now=NOW,
        policy=policy("memory"),
        ledger=data,
    )
    assert appraisal.reasons == {"P3:channel-not-closed"}


MALFORMED = {
    "closed without a check": but_row(LEDGER, "kexec", checks=[]),
    "closed with a finding": but_row(LEDGER, "kexec", checks=[check("x")]),
    "an undeclared finding": but_row(LEDGER, "kexec", state="open", checks=[check("x")]),
    "a row twice": LEDGER | {"channels": [*LEDGER["channels"], row(40, "kexec", "open")]},
    "a field more": LEDGER | {"more": 1},
    "version 3": LEDGER | {"version": 3},
    "not JSON": b"ledger",
    "not canonical": b" " + ledger_bytes(LEDGER),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("required", [(), ("disk",)])
def test_a_signed_ledger_that_breaks_a_rule_is_refused(name: str, required: tuple[str, ...]) -> None:
    appraisal = judged(MALFORMED[name], *required)
    assert appraisal.reasons == {"P2:ledger-malformed"}
    assert appraisal.verdict is None


@pytest.mark.parametrize("changes", [{"name": "other"}, {"imageVersion": "1.0.1"}, {"debug": True}])
def test_a_ledger_that_contradicts_its_statement_is_refused(changes: dict) -> None:
    assert judged(LEDGER | changes, "disk").reasons == {"P2:ledger-disagrees"}
    assert judged(LEDGER | changes, "disk", allow_debug=True).reasons == {"P2:ledger-disagrees"}


def test_a_debug_ledger_is_refused_as_a_debug_statement_is() -> None:
    debug = but_row(LEDGER | {"debug": True}, "kexec", state="open", checks=[check("x")])
    assert judged(debug, debug=True).reasons == {"P1:debug-image", "P2:debug-ledger"}
    judged(debug, "disk", debug=True, allow_debug=True).accepted()
    assert judged(debug, "admin", debug=True, allow_debug=True).reasons == {"P3:channel-not-closed"}


def test_a_debug_statement_may_have_the_ledger_of_a_product() -> None:  # an image with the probe in it
    assert judged(LEDGER, "disk", debug=True).reasons == {"P1:debug-image"}
    judged(LEDGER, "disk", debug=True, allow_debug=True).accepted()


def test_a_ledger_is_not_read_before_the_statement_is_believed() -> None:
    data = ledger_bytes(LEDGER)
    published = publisher_of(data)
    made = session(statement=published.statement)
    appraisal = judge.but(published=published, policy=policy("disk"), ledger=data, envelope=b"{}")(made)
    assert appraisal.reasons == {"M4:envelope-refused"}
    assert {step(appraisal, name).outcome for name in ("P2", "P3")} == {Outcome.SKIPPED}
