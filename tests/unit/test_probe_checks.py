"""Every dynamic check is silent on a machine that shows nothing, and fires on each way to show something."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from blindbuild.audit.rows import RULES
from blindbuild.machine.probe.checks import CHECKS, POWER_OFF_TOUCHES
from blindbuild.machine.probe.judge import MAX_FINDINGS, Observations, judge_all, shorten
from blindbuild.machine.probe.observe import Exchange, Observation, Phase, SearchSeen
from blindbuild.manifest.probe import MAX_TEXT, CheckReport, Verdict
from tests.fakes.probe_world import LEAKS, good

BY_NAME = {check.name: check for check in CHECKS}
ALL_LEAKS = [(name, words, change) for name, leaks in LEAKS.items() for words, change in leaks]


def leaky() -> Observation:
    """An image on which every check fires."""
    seen = good(b"leaky")
    for leaks in LEAKS.values():
        seen = leaks[0][1](seen)
    talkative = replace(seen.consoles[0], late={Phase.IDLE: b"idle", Phase.CRASH: b"segfault"})
    return replace(seen, consoles=(talkative, *seen.consoles[1:]), exchanges=good().exchanges)


def judge(product: Observation | None = None, **others: Observation | None) -> dict[str, CheckReport]:
    seen = {"hostile": good(b"hostile"), "leaky": leaky()} | others
    return {report.name: report for report in judge_all(Observations(product=product or good(), **seen))}


def test_every_check_has_a_leak_that_it_is_tried_on() -> None:
    assert LEAKS.keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", BY_NAME)
def test_a_check_is_silent_on_a_machine_that_shows_nothing(name: str) -> None:
    assert BY_NAME[name].findings(good()) == ()
    assert all(BY_NAME[name].count(good()).values())


@pytest.mark.parametrize(("name", "words", "change"), ALL_LEAKS, ids=[f"{n}: {w}" for n, w, _ in ALL_LEAKS])
def test_a_check_fires_on_its_leak_and_says_which(
    name: str, words: str, change: Callable[[Observation], Observation]
) -> None:
    assert any(words in finding for finding in BY_NAME[name].findings(change(good())))


def test_every_channel_that_a_check_names_is_a_row_of_the_ledger() -> None:
    rows = {rule.identifier for rule in RULES}
    assert {channel for check in CHECKS for channel in check.channels} <= rows


def test_the_checks_of_what_no_image_can_close_stand_first() -> None:
    assert [check.closable for check in CHECKS] == sorted(check.closable for check in CHECKS)
    assert CHECKS[0].name == "memory"


def test_a_check_without_findings_whose_control_was_caught_is_shown() -> None:
    reports = judge()
    assert {name: report.verdict for name, report in reports.items() if report.closable} == {
        check.name: Verdict.SHOWN for check in CHECKS if check.closable
    }


def test_what_no_image_can_close_is_never_shown() -> None:
    found = judge(replace(good(), memory=leaky().memory))
    assert found["memory"].verdict is Verdict.OPEN
    unfound = judge()["memory"]
    assert unfound.verdict is Verdict.NOT_PROVEN
    assert unfound.reasons == ("nothing was found, which does not show that there is nothing",)


def test_without_a_leaky_image_nothing_is_proven() -> None:
    reports = judge(leaky=None)
    assert {report.verdict for report in reports.values()} == {Verdict.NOT_PROVEN}
    assert "no leaky image was run" in reports["disks"].reasons


def test_a_control_that_is_not_caught_makes_the_check_no_proof() -> None:
    report = judge(leaky=replace(leaky(), disks=good().disks, share=good().share))["disks"]
    assert (report.verdict, report.reasons) == (Verdict.NOT_PROVEN, ("the leaky image was not caught",))


def test_a_leak_of_the_hostile_image_opens_the_check_of_the_product() -> None:
    change = LEAKS["networks"][0][1]
    report = judge(hostile=change(good(b"hostile")))["networks"]
    assert (report.verdict, report.findings) == (Verdict.OPEN, ("hostile: 3 frames on bait-nic",))


def test_a_check_that_looked_at_nothing_is_not_proven() -> None:
    report = judge(replace(good(), touches={}))["touches"]
    assert report.verdict is Verdict.NOT_PROVEN
    assert "looked at no accesses" in report.reasons


def test_no_second_boot_is_no_proof_that_consoles_always_say_the_same() -> None:
    report = judge(hostile=None)["consoles-same"]
    assert report.verdict is Verdict.NOT_PROVEN
    assert "looked at no consoles of another boot" in report.reasons


def test_a_canary_that_nobody_took_was_looked_for_in_vain() -> None:
    unanswered = replace(good(), exchanges=(Exchange(Phase.LOAD, "canary", None, "timed out"),))
    report = judge(unanswered)["canary"]
    assert (report.verdict, report.reasons) == (Verdict.NOT_PROVEN, ("looked at no requests with the text",))


def test_a_leaky_machine_that_looked_at_nothing_is_no_control() -> None:
    blind = replace(leaky(), exchanges=(), search=SearchSeen({}, leaky().search.hits))
    assert judge(leaky=blind)["canary"].reasons == ("the leaky image was not caught",)


def test_an_image_that_reports_no_attempts_is_not_taken_for_a_tame_one() -> None:
    report = judge(hostile=replace(good(b"hostile"), reporters=("gate", "workload")))["attempts"]
    assert "looked at no hostile: attempts of the gate" in report.reasons


def test_a_machine_that_powers_itself_off_may_touch_what_that_takes() -> None:
    touches = {**good().touches, **dict.fromkeys(POWER_OFF_TOUCHES, 1)}
    assert BY_NAME["touches"].findings(replace(good(), touches=touches, ending="the guest powered off")) == ()


def test_the_first_boot_is_compared_with_the_second_and_not_with_itself() -> None:
    other = replace(good(b"hostile"), consoles=good().consoles[:1])
    assert judge(hostile=other)["consoles-same"].verdict is Verdict.OPEN


def test_a_console_that_writes_control_sequences_is_quoted_without_them() -> None:
    change = replace(good().consoles[0], late={Phase.IDLE: b"\x1b[2J\x07"})
    (finding,) = BY_NAME["consoles-silent"].findings(replace(good(), consoles=(change,)))
    assert finding.isprintable()


def test_many_long_findings_are_cut_to_what_a_report_may_hold() -> None:
    texts = shorten([f"{number} " + "x" * 5000 for number in range(1000)])
    assert len(texts) == MAX_FINDINGS
    assert max(map(len, texts)) == MAX_TEXT
    assert texts[-1] == f"and {1000 - MAX_FINDINGS + 1} more"
