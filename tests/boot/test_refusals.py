"""What an operator tries, played for real; each is refused, and by the reason that belongs to it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blindbuild.assemble.command_line import kernel_command_line
from blindbuild.assemble.kernel import relink_kernel
from blindbuild.assemble.kernel_config import load_fragments
from blindbuild.assemble.toolchain import prepare_toolchain, toolchain_key
from blindbuild.client import Attempt
from blindbuild.errors import VerificationError
from blindbuild.formats.deb import read_deb
from blindbuild.formats.pe import NewSection, append_sections, read_pe
from blindbuild.machine.attack import ATTACKS
from blindbuild.machine.attack_model import BootAttack
from blindbuild.machine.attack_play import play_boot
from blindbuild.machine.forgery import ForgedServer
from blindbuild.machine.interception import Relay, TlsInterceptor
from blindbuild.machine.machine import Machine
from blindbuild.machine.swtpm import DEFAULT_BANKS, SoftwareTpm, manufacture_tpm
from blindbuild.pipeline import STUB_PATH
from blindbuild.publish import generate_key, sign_statement
from blindbuild.verify import Appraisal, Policy, RecordedSession, appraise
from tests.boot.attacks import scene_of
from tests.boot.lab import ROUTE, Lab

pytestmark = pytest.mark.boot


@pytest.fixture(scope="module")
def attempt(lab: Lab, product: Path, machine: Machine) -> Attempt:
    """One genuine exchange, to be judged again with one thing changed."""
    found = lab.judge(machine.url, lab.expect(product, machine))
    found.close()
    assert not found.appraisal.reasons
    return found


@pytest.fixture(scope="module")
def other_uki(lab: Lab, product: Path) -> bytes:
    """The product's UKI with another kernel: relinked with one letter of its command line changed."""
    request = lab.request()
    groups, line = request.lock.groups, kernel_command_line(debug=False)
    kernel = relink_kernel(
        lab.store,
        source=groups["kernel-source"][0],
        toolchain=prepare_toolchain(lab.store, groups["toolchain"]),
        toolchain_key=toolchain_key(groups["toolchain"]),
        fragments=load_fragments(debug=False),
        command_line=line,
        other_command_line=line.replace("panic=-1", "panic=-2"),
        jobs=request.jobs,
        debug=False,
    )
    image = read_pe((product / "hello.efi").read_bytes())
    stub = next(
        entry.data
        for entry in read_deb(lab.store.read(groups["stub"][0].digest)).entries
        if entry.path == STUB_PATH
    )
    kept = [
        NewSection(name, image.section_data(name)) for name in (".osrel", ".cmdline", ".uname", ".initrd")
    ]
    return append_sections(stub, (*kept, NewSection(".linux", kernel.bzimage.read_bytes())))


@pytest.mark.full
def test_a_relinked_kernel_is_refused_by_the_registers_that_have_it(
    lab: Lab, product: Path, other_uki: bytes, tmp_path: Path
) -> None:
    attack = ATTACKS["other-kernel"]
    assert isinstance(attack, BootAttack)
    played = play_boot(attack, replace(scene_of(lab, product, tmp_path), other_uki=other_uki))
    assert played.expected, played.seen
    assert "kernel" in played.seen.words


def judged_again(
    lab: Lab,
    product: Path,
    machine: Machine,
    session: RecordedSession,
    *,
    envelope: Callable[[bytes], bytes] = bytes,
) -> Appraisal:
    """Judge a session as the client that had it would."""
    expectation = lab.expect(product, machine)
    return appraise(
        session,
        envelope=envelope(expectation.envelope),
        release=expectation.release,
        trust=expectation.trust,
        now=expectation.now(),
        policy=expectation.policy,
    )


def test_a_replayed_quote_is_refused_by_its_nonce(
    lab: Lab, product: Path, machine: Machine, attempt: Attempt
) -> None:
    replayed = replace(attempt.session, nonce=bytes(range(32)))
    reasons = judged_again(lab, product, machine, replayed).reasons
    assert "Q7:bound-data-mismatch" in reasons
    assert reasons <= {"Q7:bound-data-mismatch", "C3:other-tls-key"}  # the hash binds both, and neither holds


def test_evidence_of_another_machine_is_refused_by_its_tls_key(
    lab: Lab, product: Path, machine: Machine, second_machine: Machine, attempt: Attempt
) -> None:
    other = lab.judge(second_machine.url, lab.expect(product, second_machine))
    other.close()
    relayed = replace(attempt.session, spki=other.session.spki)
    reasons = judged_again(lab, product, machine, relayed).reasons
    assert reasons
    assert reasons <= {"Q7:bound-data-mismatch", "C3:other-tls-key"}


def test_a_man_in_the_middle_with_his_own_key_is_refused_and_sees_no_data(
    lab: Lab, product: Path, machine: Machine
) -> None:
    with TlsInterceptor("127.0.0.1", machine.port) as middle:
        found = lab.judge(middle.url, lab.expect(product, machine))
        with pytest.raises(VerificationError):
            found.accept().post(ROUTE, b"secret of a patient")
        assert found.appraisal.reasons
        assert found.appraisal.reasons <= {"Q7:bound-data-mismatch", "C3:other-tls-key"}
        assert b"/.well-known/blindbuild/evidence" in middle.seen
        assert b"secret of a patient" not in middle.seen


def test_a_relay_below_tls_is_harmless(lab: Lab, product: Path, machine: Machine) -> None:
    with Relay("127.0.0.1", machine.port) as relay:
        with lab.judge(relay.url, lab.expect(product, machine)).accept() as connection:
            assert json.loads(connection.post(ROUTE, b"Ada"))["greeting"] == "hello, Ada"


def test_an_envelope_by_another_key_is_refused(
    lab: Lab, product: Path, machine: Machine, attempt: Attempt
) -> None:
    statement = (product / "statement.json").read_bytes()
    appraisal = judged_again(
        lab, product, machine, attempt.session, envelope=lambda _: sign_statement(generate_key(), statement)
    )
    assert "M4:envelope-refused" in appraisal.reasons
    assert not appraisal.verdict


def test_a_changed_statement_is_refused(lab: Lab, product: Path, machine: Machine, attempt: Attempt) -> None:
    def change(envelope: bytes) -> bytes:
        parsed = json.loads(envelope)
        payload = base64.b64decode(parsed["payload"]).replace(b'"sequence":1', b'"sequence":2')
        return json.dumps({**parsed, "payload": base64.b64encode(payload).decode()}).encode()

    appraisal = judged_again(lab, product, machine, attempt.session, envelope=change)
    assert "M4:envelope-refused" in appraisal.reasons
    assert not appraisal.verdict


def test_another_statement_of_the_right_key_is_not_what_was_quoted(
    lab: Lab, product: Path, machine: Machine, attempt: Attempt
) -> None:
    statement = (product / "statement.json").read_bytes().replace(b'"sequence":1', b'"sequence":2')
    appraisal = judged_again(
        lab, product, machine, attempt.session, envelope=lambda _: sign_statement(lab.key, statement)
    )
    assert "C1:other-statement" in appraisal.reasons
    assert not appraisal.verdict


def test_no_server_is_asked_when_the_envelope_is_refused(lab: Lab, product: Path, machine: Machine) -> None:
    statement = (product / "statement.json").read_bytes()
    expectation = replace(lab.expect(product, machine), envelope=sign_statement(generate_key(), statement))
    before = len(machine.frames())
    with pytest.raises(VerificationError) as refused:
        lab.judge(machine.url, expectation)
    assert (refused.value.step, refused.value.reason) == ("M4", "envelope-refused")
    assert len(machine.frames()) == before


def test_an_operator_who_runs_the_tpm_can_forge_everything_and_a_strict_client_refuses_him(
    lab: Lab, product: Path, machine: Machine, attempt: Attempt, tmp_path: Path
) -> None:
    """The expected outcome is that the forgery succeeds: a software TPM proves nothing about its operator."""
    state = tmp_path / "tpm"
    manufacture_tpm(state, machine.authority, banks=DEFAULT_BANKS)
    with SoftwareTpm(state, tmp_path / "tpm.sock", tmp_path / "tpm.log") as tpm:
        with ForgedServer(tpm, attempt.session.evidence.event_log) as forged:
            expectation = lab.expect(product, machine)
            with lab.judge(forged.url, expectation).accept() as connection:
                connection.post(ROUTE, b"secret of a patient")
            assert forged.stolen == [b"secret of a patient"]
            strict = lab.judge(forged.url, replace(expectation, policy=Policy()))
            strict.close()
            assert any(reason.startswith("A11:") for reason in strict.appraisal.reasons)
            assert not strict.appraisal.verdict
