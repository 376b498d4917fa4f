"""What the operator can make of evidence that was given to a client: judged on a session that was kept."""

from __future__ import annotations

from dataclasses import replace

from blindbuild.digest import Digest
from blindbuild.formats.tcglog import parse_event_log, write_event_log
from blindbuild.machine.attack_model import BytesAttack, Outcome
from blindbuild.verify import RecordedSession

ANOTHER_NONCE = bytes(range(32))
IMAGE_REGISTER = 11


def _replay(session: RecordedSession) -> RecordedSession:
    """What a client with a nonce of its own gets if it is answered with old evidence."""
    return replace(session, nonce=ANOTHER_NONCE)


def _claim_registers(session: RecordedSession) -> RecordedSession:
    registers = list(session.evidence.registers)
    registers[IMAGE_REGISTER] = Digest(registers[IMAGE_REGISTER].algorithm, b"\x5a" * 32)
    return replace(session, evidence=replace(session.evidence, registers=tuple(registers)))


def _drop_event(session: RecordedSession) -> RecordedSession:
    """Leave the last event of the image's register out of the log."""
    log = parse_event_log(session.evidence.event_log)
    last = max(i for i, event in enumerate(log.events) if event.register == IMAGE_REGISTER)
    shorter = replace(log, events=(*log.events[:last], *log.events[last + 1 :]))
    return replace(session, evidence=replace(session.evidence, event_log=write_event_log(shorter)))


def _drop_credential(session: RecordedSession) -> RecordedSession:
    return replace(session, evidence=replace(session.evidence, activated_secret=b"\x5a" * 32))


BYTES_ATTACKS: tuple[BytesAttack, ...] = (
    BytesAttack(
        name="replay",
        summary="answers a new nonce with old evidence",
        outcome=Outcome.REFUSED,
        reasons=frozenset({"Q7:bound-data-mismatch"}),
        forge=_replay,
    ),
    BytesAttack(
        name="claimed-registers",
        summary="sends other register values than the quoted ones",
        outcome=Outcome.REFUSED,
        reasons=frozenset({"Q9:values-mismatch"}),
        forge=_claim_registers,
    ),
    BytesAttack(
        name="shorter-log",
        summary="leaves an event out of the log",
        outcome=Outcome.REFUSED,
        reasons=frozenset({"E3:log-incomplete"}),
        forge=_drop_event,
    ),
    BytesAttack(
        name="guessed-secret",
        summary="answers the challenge to his endorsement key without the TPM",
        outcome=Outcome.REFUSED,
        reasons=frozenset({"A8:credential-mismatch"}),
        forge=_drop_credential,
    ),
)
