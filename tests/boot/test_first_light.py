"""The product image on a real (emulated) machine: what it measures, what it says, and to whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.client import Attempt
from blindbuild.digest import HashAlgorithm
from blindbuild.machine.config import GUEST_MAC
from blindbuild.machine.machine import Machine
from blindbuild.measure.classification import Exact, Initial, OneOf, Unconstrained, initial_value
from blindbuild.verify import Policy
from tests.boot.lab import ROUTE, Lab, statement_of

pytestmark = pytest.mark.boot

GUEST = bytes.fromhex(GUEST_MAC.replace(":", ""))
CANARY = "canary-7f3a91c2"
# TPM 2.0 Part 2, 6.5.2: everything that may ever be asked of the TPM by firmware, kernel, init and gate
ALLOWED_COMMANDS = {
    0x0144: "Startup",
    0x0143: "SelfTest",
    0x0145: "Shutdown",
    0x017A: "GetCapability",
    0x017B: "GetRandom",
    0x0182: "PCR_Extend",
    0x017E: "PCR_Read",
    0x013C: "PCR_Event",
    0x0185: "PCR_SetAuthPolicy",
    0x0131: "CreatePrimary",
    0x0121: "HierarchyControl",
    0x0129: "HierarchyChangeAuth",
    0x0158: "Quote",
    0x0169: "NV_ReadPublic",
    0x014E: "NV_Read",
    0x0173: "ReadPublic",
    0x0176: "StartAuthSession",
    0x0151: "PolicySecret",
    0x0147: "ActivateCredential",
    0x0165: "FlushContext",
    0x0162: "ContextSave",
    0x0161: "ContextLoad",
    0x0181: "ReadClock",
}


@pytest.fixture(scope="module")
def attempts(lab: Lab, product: Path, machine: Machine) -> dict[HashAlgorithm, Attempt]:
    """One judged exchange a bank, with the running product."""
    found = {}
    for bank in (HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512):
        attempt = lab.judge(machine.url, lab.expect(product, machine, bank=bank))
        attempt.close()
        found[bank] = attempt
    return found


@pytest.mark.parametrize("bank", [HashAlgorithm.SHA256, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
def test_every_exact_and_initial_register_is_what_the_statement_said_before_the_boot(
    product: Path, attempts: dict[HashAlgorithm, Attempt], bank: HashAlgorithm
) -> None:
    quoted = attempts[bank].session.evidence.registers
    rules = statement_of(product).platforms[0].banks[bank]
    assert len(quoted) == len(rules) == 24
    assert {n: quoted[n].hex for n, rule in enumerate(rules) if isinstance(rule, Exact)} == {
        n: rule.value.hex for n, rule in enumerate(rules) if isinstance(rule, Exact)
    }
    for number, rule in enumerate(rules):
        if isinstance(rule, Initial):
            assert quoted[number] == initial_value(number, bank), number
        if isinstance(rule, OneOf):
            assert quoted[number] in rule.values, number


def test_the_registers_are_classified_as_the_specification_says(product: Path) -> None:
    rules = statement_of(product).platforms[0].banks[HashAlgorithm.SHA256]
    kinds = {
        kind: {n for n, rule in enumerate(rules) if isinstance(rule, kind)}
        for kind in (Exact, OneOf, Initial, Unconstrained)
    }
    assert kinds[Exact] == {2, 3, 4, 6, 7, 9, 11}
    assert kinds[OneOf] == {0, 5}
    assert kinds[Initial] == {8, 10, 12, 13, 14, 15, *range(17, 23)}
    assert kinds[Unconstrained] == {1, 16, 23}


def test_the_running_product_is_accepted_and_says_that_its_tpm_is_operator_run(
    attempts: dict[HashAlgorithm, Attempt],
) -> None:
    for attempt in attempts.values():
        assert not attempt.appraisal.reasons
        accepted = attempt.appraisal.accepted()
        assert any("operator-run TPM" in warning for warning in accepted.warnings)


def test_an_operator_run_tpm_is_refused_unless_it_is_allowed(
    lab: Lab, product: Path, machine: Machine
) -> None:
    attempt = lab.judge(machine.url, replace(lab.expect(product, machine), policy=Policy()))
    attempt.close()
    assert any(reason.startswith("A11:") for reason in attempt.appraisal.reasons)


def test_the_workload_greets_and_counts_what_it_was_given(lab: Lab, product: Path, machine: Machine) -> None:
    body = b"Ada Lovelace"
    with lab.judge(machine.url, lab.expect(product, machine)).accept() as connection:
        first = json.loads(connection.post(ROUTE, body))
        second = json.loads(connection.post(ROUTE, json.dumps({"name": CANARY}).encode()))
    assert first == {"greeting": "hello, Ada Lovelace", "bytes": len(body)}
    assert second["greeting"] == f"hello, {CANARY}"


def test_the_tpm_hears_only_known_commands_and_never_a_request(
    lab: Lab, product: Path, machine: Machine
) -> None:
    with lab.judge(machine.url, lab.expect(product, machine)).accept() as connection:
        connection.post(ROUTE, CANARY.encode())
    transcript = machine.files.tpm_log.read_bytes()
    codes = set(read_command_codes(transcript))
    assert 0x0158 in codes, "the transcript shows the quote, so it would show the rest"
    assert {hex(code) for code in codes - set(ALLOWED_COMMANDS)} == set()
    flat = b"".join(transcript.upper().split())
    assert CANARY.encode() not in transcript
    assert CANARY.encode().hex().upper().encode() not in flat


def read_command_codes(transcript: bytes) -> Iterator[int]:
    """Command codes in swtpm's log: after `SWTPM_IO_Read`, hex lines of tag, size, code."""
    lines = transcript.decode("ascii", "replace").splitlines()
    for number, line in enumerate(lines):
        if "SWTPM_IO_Read" in line and number + 1 < len(lines):
            words = lines[number + 1].split()
            if len(words) >= 10 and words[0] == "80" and words[1] in ("01", "02"):
                yield int("".join(words[6:10]), 16)


def test_serial_ports_say_nothing_once_the_kernel_runs_and_nothing_about_requests(
    machine: Machine, second_machine: Machine, lab: Lab, product: Path
) -> None:
    for running, name in ((machine, b"first"), (second_machine, b"second and longer")):
        with lab.judge(running.url, lab.expect(product, running)).accept() as connection:
            connection.post(ROUTE, name)
    for port in range(4):
        assert machine.serial_bytes(port) == second_machine.serial_bytes(port)
        for running in (machine, second_machine):
            assert running.serial(port).after(kernel_frames(running)[0][0]) == b""


def test_two_boots_never_share_a_tls_key(
    machine: Machine, second_machine: Machine, lab: Lab, product: Path
) -> None:
    keys = set()
    for running in (machine, second_machine):
        attempt = lab.judge(running.url, lab.expect(product, running))
        attempt.close()
        keys.add(attempt.session.spki)
    assert len(keys) == 2


def kernel_frames(machine: Machine) -> list[tuple[float, bytes]]:
    """Time and bytes of the frames the guest's kernel sent, from the first with the image's own address on.

    Firmware speaks before it, IPv6 neighbour discovery for example, and has no such address.
    """
    address = bytes([10, 0, 2, 15])
    sent = [(time, frame.data) for time, frame in machine.frames() if frame.source == GUEST]
    first = next(n for n, (_time, data) in enumerate(sent) if address in (data[26:30], data[28:32]))
    return sent[first:]


def test_the_guest_sends_arp_and_answers_of_its_port_and_nothing_else(machine: Machine) -> None:
    sent = kernel_frames(machine)
    assert len(sent) > 10
    for _time, data in sent:
        if data[12:14] == b"\x08\x06":  # ARP
            continue
        assert data[12:14] == b"\x08\x00", data[:40].hex()
        assert data[23] == 6, "TCP only"
        header = 14 + (data[14] & 15) * 4
        assert int.from_bytes(data[header : header + 2], "big") == 443
