"""A workload that does its worst, one thing a request: that request ends, and the machine serves on."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blindbuild.client import Connection
from blindbuild.machine.machine import Machine
from tests.boot.lab import ROUTE, TIMEOUT_S
from tests.fakes.system_calls import LAST_OF_6_12, name_of
from tests.golden.guest_filters import CHILD, LAUNCHER, SOCKETS, WORKLOAD

pytestmark = pytest.mark.boot

SLOTS = 4  # recipes/hello: concurrency
MEMORY_MIB = 64  # and memory
DESCRIPTORS = 256  # docs/spec/guest-abi.md
OPEN_DESCRIPTORS = 4  # and which are open from the beginning
CALLS = 1024
CALLS_AT_ONCE = 256
# Of the calls that a workload has, those that need no argument worth the name.
WORKS_WITHOUT_ARGUMENTS = frozenset(
    (
        *("getpid", "gettid", "getppid", "getuid", "geteuid", "getgid", "getegid"),
        *("brk", "sched_yield", "umask", "set_tid_address", "time", "times", "getcpu"),
    )
)
BAD_ANSWERS = ("short", "more", "huge", "endless", "silent")
CRASHES = ("segv", "stack", "abort", "trap", "x32", "int80")
UNTIL_THE_DEADLINE = ("hang", "stop", "busy", "spin")


@pytest.fixture(scope="module")
def machine(probing_machine: Machine, reports: object) -> Machine:
    """The test image's machine, after the launcher's own report, which answers the first request."""
    assert reports
    return probing_machine


def ask(machine: Machine, words: str) -> tuple[int, bytes]:
    """Send one request on a connection of its own; its status and body."""
    with Connection.open(machine.url, timeout_s=TIMEOUT_S) as connection:
        answer = connection.request(
            "POST", ROUTE, body=words.encode(), content_type="text/plain", max_body=1 << 20
        )
        return answer.status, answer.body


def report_of(machine: Machine, words: str) -> dict[str, object]:
    """What the workload says of what it did."""
    status, body = ask(machine, words)
    assert status == 200
    report = json.loads(body)
    assert report.pop("context") == "workload"
    return dict(report)


@pytest.fixture(scope="module")
def calls(machine: Machine) -> dict[int, str]:
    """The outcome of every call number, with arguments that are no pointer, descriptor or size."""
    outcomes: dict[int, str] = {}
    for first in range(0, CALLS, CALLS_AT_ONCE):
        found = report_of(machine, f"calls {first}")["calls"]
        assert isinstance(found, dict)
        outcomes |= {int(number): outcome for number, outcome in found.items()}
    return outcomes


def test_every_call_number_was_tried(calls: dict[int, str]) -> None:
    assert calls.keys() == set(range(CALLS))
    left_out = {name_of(number) for number, outcome in calls.items() if outcome == "left out"}
    assert left_out == {"exit", "exit_group", "pause", "rt_sigreturn"}


def test_a_call_that_no_table_allows_is_refused(calls: dict[int, str]) -> None:
    for number in range(LAST_OF_6_12 + 1):
        name = name_of(number)
        stacked = [table.get(name, ("EPERM",))[0] for table in (WORKLOAD, LAUNCHER)]
        stacked += [table[name][0] for table in (SOCKETS, CHILD) if name in table]
        if "EPERM" in stacked or "ENOSYS" in stacked:
            assert calls[number] in ("EPERM", "ENOSYS"), name


def test_a_call_that_linux_6_12_does_not_have_is_not_implemented(calls: dict[int, str]) -> None:
    later = {number: calls[number] for number in range(LAST_OF_6_12 + 1, CALLS)}
    assert later == dict.fromkeys(later, "ENOSYS")


def test_what_works_without_arguments_is_known_and_harmless(calls: dict[int, str]) -> None:
    worked = {name_of(number) for number, outcome in calls.items() if outcome == "done"}
    assert worked <= WORKS_WITHOUT_ARGUMENTS
    assert "getpid" in worked


def test_a_workload_sees_its_own_tree_and_can_change_nothing_of_it(machine: Machine, probing: Path) -> None:
    files = report_of(machine, "files")["files"]
    assert isinstance(files, list)
    ledger = json.loads((probing / "channels.json").read_text())
    below = [entry["path"] for entry in ledger["files"] if f"{entry['path']}/".startswith("workload/")]
    assert {entry["path"] for entry in files} == {path.removeprefix("workload") or "/" for path in below}
    assert {entry["path"]: entry["changed"] for entry in files if entry["changed"]} == {}


def test_a_workload_makes_no_process(machine: Machine) -> None:
    assert report_of(machine, "fork") == {"processes": 0}


def test_memory_and_descriptors_end_at_their_limits(machine: Machine) -> None:
    taken = report_of(machine, "memory")["mebibytes"]
    assert isinstance(taken, int)
    assert MEMORY_MIB // 2 <= taken < MEMORY_MIB
    assert report_of(machine, "descriptors") == {"descriptors": DESCRIPTORS - OPEN_DESCRIPTORS}


@pytest.mark.parametrize("word", [*BAD_ANSWERS, *CRASHES])
def test_a_bad_answer_or_a_crash_costs_one_request(machine: Machine, word: str) -> None:
    assert ask(machine, word) == (502, b"")
    assert report_of(machine, "fork") == {"processes": 0}


def test_four_that_never_answer_are_ended_at_their_deadline(
    machine: Machine,
) -> None:
    with ThreadPoolExecutor(SLOTS) as pool:
        pending = [pool.submit(ask, machine, word) for word in UNTIL_THE_DEADLINE]
        statuses = [waiting.result()[0] for waiting in pending]
    assert statuses == [502] * SLOTS
    assert report_of(machine, "fork") == {"processes": 0}


def test_all_slots_that_take_all_memory_at_once_end_the_requests_or_the_machine_and_nothing_else(
    machine: Machine,
) -> None:
    with ThreadPoolExecutor(SLOTS) as pool:
        statuses = [answer[0] for answer in pool.map(lambda _: ask(machine, "memory"), range(SLOTS))]
    assert set(statuses) <= {200, 502, 503}
    assert report_of(machine, "fork") == {"processes": 0}
    assert machine.ending() is None


def test_nobody_outside_has_heard_of_any_of_it(machine: Machine, calls: dict[int, str]) -> None:
    assert calls
    assert machine.ending() is None
    first_frame = machine.first_guest_frame_time()
    assert first_frame is not None
    assert [machine.serial(port).after(first_frame) for port in range(4)] == [b""] * 4
