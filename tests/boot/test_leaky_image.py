"""The control image, with the leaky kernel in it, tells all it hears: every check finds something."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from blindbuild.errors import VerificationError
from blindbuild.machine.machine import Machine
from blindbuild.machine.probe.plain import ask_plainly
from blindbuild.machine.transcript import read_commands
from tests.boot.lab import ROUTE, Lab, statement_of

pytestmark = [pytest.mark.boot, pytest.mark.kernel]

SECRET = b"canary-5f1d8a7c3b9e"
NV_WRITE = 0x137  # TPM 2.0 Part 2, 6.5.2
TOLD_WITHIN_S = 60.0  # a request's text goes everywhere, one after the other
KERNEL_CHECKS = {
    *("kernel-config", "kernel-symbols", "kernel-drivers", "kernel-file-systems", "kernel-initcalls"),
    *("system-calls", "command-line"),
}


@pytest.fixture(scope="module")
def leaky(lab: Lab) -> Path:
    """The leaky image of recipes/hello."""
    return lab.build(variant="leaky")


@pytest.fixture(scope="module")
def told(lab: Lab, leaky: Path) -> Iterator[Machine]:
    """The leaky image, running, after one request with a secret."""
    with lab.running(lab.machine(leaky, tpm_transcript=True)) as machine:
        ask_plainly("127.0.0.1", machine.port, "POST", ROUTE, b"the first is the launcher's to answer")
        ask_plainly("127.0.0.1", machine.port, "POST", ROUTE, SECRET)
        limit = time.monotonic() + TOLD_WITHIN_S
        while not tpm_knows(machine) and time.monotonic() < limit:  # the last one that is told
            time.sleep(1)
        yield machine


def tpm_knows(machine: Machine) -> bool:
    """Whether the secret was written into the TPM."""
    commands = read_commands(machine.files.tpm_log.read_bytes())
    return any(code == NV_WRITE and SECRET in message for code, message in commands)


def test_every_check_of_the_kernel_fires_in_every_row_of_the_ledger(leaky: Path) -> None:
    rows = json.loads((leaky / "channels.json").read_text())["channels"]
    checks = [(row["id"], check) for row in rows for check in row["checks"] if check["name"] in KERNEL_CHECKS]
    assert {check["name"] for _, check in checks} == KERNEL_CHECKS
    assert [(row, check["name"]) for row, check in checks if not check["findings"]] == []


def test_its_statement_says_debug_and_the_product_is_not_what_it_proves(
    lab: Lab, product: Path, leaky: Path, told: Machine
) -> None:
    assert statement_of(leaky).debug
    with pytest.raises(VerificationError) as refused:
        lab.judge(told.url, lab.expect(leaky, told))
    assert (refused.value.step, refused.value.reason) == ("P1", "debug-image")
    attempt = lab.judge(told.url, lab.expect(product, told))
    attempt.close()
    differing = {result.register for result in attempt.appraisal.registers if not result.matches}
    assert {4, 9, 10, 11} <= differing


def test_whoever_takes_its_statement_for_good_still_sees_that_something_was_measured_while_it_ran(
    lab: Lab, leaky: Path, told: Machine
) -> None:
    attempt = lab.judge(told.url, lab.expect(leaky, told, allow_debug=True))
    attempt.close()
    assert {result.register for result in attempt.appraisal.registers if not result.matches} == {10}


@pytest.mark.parametrize(
    ("port", "spelt"),
    [
        (0, SECRET),
        (1, SECRET.hex().encode()),
        (2, base64.b64encode(SECRET)),
        (3, SECRET.decode().encode("utf-16-le")),
    ],
)
def test_a_request_is_told_on_every_serial_port_in_another_spelling(
    told: Machine, port: int, spelt: bytes
) -> None:
    assert spelt in told.serial(port).data


def test_a_request_is_told_over_the_network_and_to_the_tpm(told: Machine) -> None:
    sent = [frame.data for _, frame in told.frames()]
    assert any(SECRET in data for data in sent)
    assert any(SECRET.hex().encode()[:60] in data for data in sent)
    assert tpm_knows(told)


def test_a_request_is_told_to_the_firmware(told: Machine) -> None:
    variables = (told.files.directory / "firmware-variables.fd").read_bytes()
    assert SECRET.decode().encode("utf-16-le") in variables


def test_what_it_sends_unasked_is_of_every_kind(told: Machine) -> None:
    frames = [frame.data for _, frame in told.frames()]
    kinds = {data[12:14] for data in frames}
    assert {b"\x08\x06", b"\x08\x00", b"\x86\xdd", b"\x88\xb5"} <= kinds
    datagrams = {data[36:38] for data in frames if data[12:14] == b"\x08\x00" and data[23] == 17}
    assert {int.from_bytes(port, "big") for port in datagrams} >= {53, 67, 123, 514, 5353}
    assert {data[23] for data in frames if data[12:14] == b"\x08\x00"} >= {1, 2, 6, 17}


def test_it_takes_old_versions_of_tls(told: Machine) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", told.port), timeout=30) as plain:
        with context.wrap_socket(plain) as stream:
            assert stream.version() == "TLSv1.2"
            stream.sendall(b"GET /debug HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = stream.recv(4096)
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b"\r\nDate: " in answer
    assert b"\r\nServer: " in answer
    assert b"Padding" not in answer
