"""The look at TLS and HTTP from outside: the gate passes, a server that does one thing wrong does not."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from blindbuild.errors import ChannelError
from blindbuild.machine.probe.handshake import (
    HandshakeReport,
    certificate_findings,
    handshake_findings,
    observe_handshake,
)
from tests.fakes.tls_server import Behaviour, serving
from tests.integration.gate_harness import RunningGate


def look(behaviour: Behaviour) -> HandshakeReport:
    with serving(behaviour) as port:
        return observe_handshake("127.0.0.1", port, routes=["/v1/hello"])


def test_the_gate_shows_nothing(gate: RunningGate) -> None:
    report = observe_handshake("127.0.0.1", gate.port, routes=["/v1/hello"])
    assert handshake_findings(report) == ()
    assert report.version == "TLSv1.3"
    assert all("PROTOCOL_VERSION" in (reason or "") for reason in report.old_versions.values())
    assert report.tickets == 0
    statuses = {answer.status for answer in report.answers}
    assert statuses >= {200, 204, 400, 404}
    assert report.answer_lengths <= {1 << 10, 4 << 10, 16 << 10, 64 << 10}
    assert len(report.answer_lengths) >= 2
    assert {len(answer.records) for answer in report.answers if answer.length == 1 << 10} == {1}


def test_a_server_that_does_as_the_gate_shows_nothing() -> None:
    assert handshake_findings(look(Behaviour())) == ()


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(tickets=2), "gives session tickets: 2 on one connection"),
        (Behaviour(tickets=1), "resumes a session"),
        (Behaviour(oldest=ssl.TLSVersion.TLSv1_2), "takes TLS 1.2"),
        (Behaviour(oldest=ssl.TLSVersion.TLSv1), "takes TLS 1.0, TLS 1.1, TLS 1.2"),
        (Behaviour(protocols=("h2", "http/1.1")), "chooses h2 by ALPN"),
        (Behaviour(second_certificate=True), "depends on the server name"),
        (Behaviour(name="machine-7.example"), "names machine-7.example"),
        (Behaviour(subject="machine 7"), "subject CN=machine 7"),
        (Behaviour(serial=7), "serial 7"),
        (Behaviour(not_before=datetime(2026, 1, 2, tzinfo=UTC)), "from 2026-01-02"),
        (
            Behaviour(header="Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"),
            "header date, in answer to GET",
        ),
        (Behaviour(header="Server: gate/1\r\n"), "header server, in answer to"),
        (Behaviour(header="Cache-Control: max-age=7\r\n"), "header cache-control: max-age=7"),
        (Behaviour(filling="01"), "padding with something in it"),
        (Behaviour(padded=False), "which is no bucket's"),
        (Behaviour(cut=True), "come in different TLS records"),
        (Behaviour(metrics=True), "status 200, in answer to GET /metrics"),
        (Behaviour(echoes_path=True), "different answers with status 404"),
        (Behaviour(takes_http10=True), "status 204, in answer to HTTP/1.0"),
        (Behaviour(dumb=True), "requests were not answered, so nothing is known of them"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_server_that_does_one_thing_wrong_is_found_out(behaviour: Behaviour, reason: str) -> None:
    findings = handshake_findings(look(behaviour))
    assert any(reason in finding for finding in findings), findings


def test_each_mistake_of_the_headers_gives_only_its_own_findings() -> None:
    (finding,) = handshake_findings(look(Behaviour(header="Server: gate/1\r\n")))
    assert finding.startswith("header server, in answer to GET /healthz, GET endorsement")
    assert finding.endswith(" more")


def test_a_server_without_tls_1_3_cannot_be_looked_at() -> None:
    behaviour = Behaviour(oldest=ssl.TLSVersion.TLSv1_2, newest=ssl.TLSVersion.TLSv1_2)
    with serving(behaviour) as port, pytest.raises(ChannelError, match="no handshake: "):
        observe_handshake("127.0.0.1", port)


def test_nobody_at_the_port_is_our_error() -> None:
    with serving(Behaviour()) as port:
        pass
    with pytest.raises(ChannelError, match="cannot connect: "):
        observe_handshake("127.0.0.1", port)


def test_certificates_of_two_boots_differ_in_their_keys_only() -> None:
    first, second = look(Behaviour()), look(Behaviour())
    assert certificate_findings(first, second) == ()
    assert certificate_findings(first, first) == ("two boots have the same certificate, so the same key",)
    other = look(replace(Behaviour(), serial=2))
    assert certificate_findings(first, other) == (
        "the certificate says something different at each boot besides its key",
    )


def test_a_request_that_is_never_answered_is_a_finding_and_does_not_end_the_look(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("blindbuild.machine.probe.tls_stream.TIMEOUT_S", 1.0)
    findings = handshake_findings(look(Behaviour(stalls=True)))
    assert any(finding.startswith("5 requests were not answered") for finding in findings), findings
