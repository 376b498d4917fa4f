"""The test image whose gate, launcher and workload try to break out, inside the real kernel."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from blindbuild.client import Attempt, Connection
from blindbuild.errors import VerificationError
from blindbuild.machine.machine import Machine
from tests.boot.lab import TIMEOUT_S, Lab

pytestmark = pytest.mark.boot

# What may work besides, by role. The launcher changes to the slot's user and hands the gate descriptors; an
# address on its connected local socket is ignored by the kernel.
HARMLESS = {
    "launcher": {"clone", "setuid", "setgid", "setgroups", "chroot", "kill", "capset", "prlimit64", "vfork"}
    | {"seccomp", "sendmsg"},
    "workload": {"open", "kill"},
}


@pytest.fixture(scope="module")
def gate_report(probing_machine: Machine) -> dict[str, int]:
    """What the gate reports, with a second accepted connection to try things on."""
    with (
        Connection.open(probing_machine.url, timeout_s=TIMEOUT_S),
        Connection.open(probing_machine.url, timeout_s=TIMEOUT_S) as asking,
    ):
        answer = asking.request(
            "GET", "/.well-known/blindbuild/probe", content_type="text/plain", max_body=1 << 20
        )
    return {entry["attempt"]: entry["errno"] for entry in json.loads(answer.body)}


def test_the_product_manifest_does_not_fit_the_probe_image_and_says_debug(
    lab: Lab, product: Path, probing: Path, probing_machine: Machine
) -> None:
    against_product = judged(lab, product, probing_machine)
    assert "E1:register-mismatch" in against_product.appraisal.reasons
    with pytest.raises(VerificationError) as refused:
        judged(lab, probing, probing_machine)
    assert (refused.value.step, refused.value.reason) == ("P1", "debug-image")


def judged(lab: Lab, image: Path, machine: Machine) -> Attempt:
    """One judged exchange."""
    attempt = lab.judge(machine.url, lab.expect(image, machine))
    attempt.close()
    return attempt


@pytest.mark.parametrize("who", ["launcher", "workload"])
def test_no_socket_of_any_family_can_be_made(reports: dict[str, dict[str, str]], who: str) -> None:
    tried = {name: outcome for name, outcome in reports[who].items() if name.startswith("socket:")}
    assert len(tried) == 48 * 4
    assert set(tried.values()) == {"EPERM"}


@pytest.mark.parametrize("who", ["launcher", "workload"])
def test_what_could_open_a_way_out_is_refused(reports: dict[str, dict[str, str]], who: str) -> None:
    ways = (
        *(
            "connect:unspec",
            "connect:inet",
            "bind",
            "listen",
            "sendto:address",
            "sendto:fastopen",
            "sendmmsg",
        ),
        *("sendmsg:fastopen", "socketpair:inet", "setsockopt:TCP_REPAIR", "setsockopt:SO_BINDTODEVICE"),
        *("ptrace:attach", "process_vm_readv", "pidfd_getfd", "perf_event_open", "mount:proc", "unshare:net"),
        *("setns", "execve:self", "open:create", "memfd_create", "bpf", "io_uring_setup", "userfaultfd"),
    )
    assert {way: reports[who][way] for way in ways} == dict.fromkeys(ways, "EPERM")


def test_nothing_of_a_request_stays_for_the_next(reports: dict[str, dict[str, str]]) -> None:
    kept = [name for name in reports["workload"] if name.startswith("fcntl:")]
    kept += ["futex:shared-wake", "sched_getaffinity:other", "sysinfo"]
    assert len(kept) == 10
    assert {name: reports["workload"][name] for name in kept} == dict.fromkeys(kept, "EPERM")


@pytest.mark.parametrize("who", ["launcher", "workload"])
def test_what_worked_is_known_and_harmless(reports: dict[str, dict[str, str]], who: str) -> None:
    worked = {name for name, outcome in reports[who].items() if outcome == "done"}
    assert {name for name in worked if name.split(":")[0] not in HARMLESS[who]} == set()


def test_the_gate_can_make_no_socket(gate_report: dict[str, int]) -> None:
    tried = {name: code for name, code in gate_report.items() if name.startswith(("socket ", "socketpair "))}
    assert len(tried) > 100
    assert set(tried.values()) == {errno.EPERM}


@pytest.mark.parametrize("name", ["listener", "accepted"])
def test_the_gates_sockets_cannot_be_turned_elsewhere(gate_report: dict[str, int], name: str) -> None:
    tried = {attempt: code for attempt, code in gate_report.items() if attempt.startswith(f"{name}: ")}
    assert len(tried) >= 10
    assert {attempt: code for attempt, code in tried.items() if code != errno.EPERM} == {}


def test_the_machine_still_serves_after_all_that(probing_machine: Machine, reports: object) -> None:
    assert reports
    assert probing_machine.ending() is None
