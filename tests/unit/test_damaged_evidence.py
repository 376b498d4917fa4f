"""Whatever is cut or flipped on the way to the judge: it is never accepted, and never anything but our error.

A sample in every run; every offset and every bit of the small structures, one bit of each byte of the large
ones, in the full run. A check that breaks on a damaged input is reason `internal-error`, which fails too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from blindbuild.digest import HashAlgorithm
from blindbuild.errors import ManifestError, VerificationError
from blindbuild.formats.dsse import parse_envelope
from blindbuild.formats.tcglog import parse_event_log
from blindbuild.formats.tpm2 import parse_quote
from blindbuild.manifest import parse_trust
from blindbuild.publish import sign_payload
from blindbuild.verify import StoredCertificate, parse_session, session_bytes
from blindbuild.verify.appraisal import Appraisal
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from tests.fakes.channels import closed_ledger, ledger_bytes, publisher_of
from tests.fakes.published import NOW, RELEASE_TYPE, STATEMENT_TYPE, honest_boot, log_bytes
from tests.fakes.world import (
    TEST_POLICY,
    authority,
    judge,
    publisher,
    session,
    tpm,
    with_endorsement,
    with_evidence,
)

Judged = Appraisal | None


@dataclass(frozen=True)
class Structure:
    """What can be damaged.

    Attributes:
        data: as it should be.
        judged: the appraisal, or None when a parser refused it by our error.
        harmless: whether a damaged copy that was accepted says the same to the judge.
        small: short enough that every bit is flipped in the full run.
    """

    data: bytes
    judged: Callable[[bytes], Judged]
    harmless: Callable[[bytes], bool] = lambda _data: False
    small: bool = True


@cache
def honest():
    return session()


LEDGER = ledger_bytes(closed_ledger())
CLOSED = dataclasses.replace(TEST_POLICY, required_closed=frozenset({"disk"}))


def _session(data: bytes) -> Judged:
    try:
        return judge(parse_session(data))
    except VerificationError:
        return None


def _bundle(data: bytes) -> Judged:
    try:
        bundle = parse_bundle(data)
    except VerificationError:
        return None
    return judge.but(envelope=bundle.envelope, release=bundle.release)(bundle.session)


def _trust(data: bytes) -> Judged:
    try:
        trust = parse_trust(data)
    except ManifestError:
        return None
    return judge.but(trust=trust)(honest())


def _statement(data: bytes) -> Judged:
    return judge.but(envelope=sign_payload(publisher().key, STATEMENT_TYPE, data))(session(statement=data))


def _certificate(data: bytes) -> Judged:
    return judge(with_endorsement(honest(), ek_certificates=(StoredCertificate(0x01C00002, data),)))


def _log_says_the_same(data: bytes) -> bool:
    """What is measured, of the quoted bank, of the registers that the statement says something about.

    A type is not measured. The statement says which events have which, but for the firmware's own in register
    0, of which it has the value alone.
    """

    def measured(log: bytes) -> list[tuple]:
        return [
            (event.register, event.register and event.event_type, event.digests[HashAlgorithm.SHA256])
            for event in parse_event_log(log).events
            if event.register not in (1, 16, 23)
        ]

    return measured(data) == measured(log_bytes(honest_boot()))


def _session_says_the_same(data: bytes) -> bool:
    one, other = parse_session(data), parse_session(session_bytes(honest()))
    log = one.evidence.event_log
    return with_evidence(one, event_log=b"") == with_evidence(other, event_log=b"") and _log_says_the_same(
        log
    )


def _bundle_says_the_same(data: bytes) -> bool:
    bundle = parse_bundle(data)
    same_time = dataclasses.replace(bundle, saved_at=NOW)  # as whoever saved it says, and nobody believes
    return _session_says_the_same(session_bytes(same_time.session))


def _hints_only(data: bytes) -> bool:
    """An envelope whose key id, or the name of that field, is another."""
    one, other = parse_envelope(data), parse_envelope(publisher().envelope)
    return (one.payload_type, one.payload, one.signatures[0].value) == (
        other.payload_type,
        other.payload,
        other.signatures[0].value,
    )


def _release_hints_only(data: bytes) -> bool:
    return parse_envelope(data).payload == parse_envelope(publisher().release).payload


STRUCTURES: dict[str, Callable[[], Structure]] = {
    "session": lambda: Structure(session_bytes(honest()), _session, _session_says_the_same, small=False),
    "bundle": lambda: Structure(
        bundle_bytes(Bundle(honest(), publisher().envelope, NOW, publisher().release)),
        _bundle,
        _bundle_says_the_same,
        small=False,
    ),
    "quote": lambda: Structure(honest().evidence.quote, lambda d: judge(with_evidence(honest(), quote=d))),
    "quote, signed so": lambda: Structure(
        honest().evidence.quote,
        lambda d: judge(with_evidence(honest(), quote=d, signature=tpm().sign(d))),
        _clock_only,
    ),
    "signature": lambda: Structure(
        honest().evidence.signature, lambda d: judge(with_evidence(honest(), signature=d))
    ),
    "attestation key": lambda: Structure(
        honest().endorsement.ak_public, lambda d: judge(with_endorsement(honest(), ak_public=d))
    ),
    "endorsement key": lambda: Structure(
        honest().endorsement.ek_public, lambda d: judge(with_endorsement(honest(), ek_public=d))
    ),
    "certificate": lambda: Structure(tpm().ek_certificate, _certificate),
    "event log": lambda: Structure(
        log_bytes(honest_boot()),
        lambda d: judge(with_evidence(honest(), event_log=d)),
        _log_says_the_same,
        small=False,
    ),
    "statement": lambda: Structure(publisher().statement, _statement, _another_statement, small=False),
    "envelope": lambda: Structure(
        publisher().envelope.rstrip(), lambda d: judge.but(envelope=d)(honest()), _hints_only, small=False
    ),
    "release": lambda: Structure(
        publisher().release.rstrip(), lambda d: judge.but(release=d)(honest()), _release_hints_only
    ),
    "release, signed so": lambda: Structure(
        parse_envelope(publisher().release).payload,
        lambda d: judge.but(release=sign_payload(publisher().key, RELEASE_TYPE, d))(honest()),
        _another_release,
    ),
    # the client's own file: what counts here is that no damage is anything but our error
    "trust file": lambda: Structure(
        publisher()
        .trust(test_tpm_roots=[authority().root_pem], test_tpm_intermediates=[authority().issuer_pem])
        .rstrip(),
        _trust,
        lambda _data: True,
        small=False,
    ),
    "ledger": lambda: Structure(
        LEDGER,
        lambda d: judge.but(published=publisher_of(LEDGER), policy=CLOSED, ledger=d)(
            session(statement=publisher_of(LEDGER).statement)
        ),
        small=False,
    ),
}


def _clock_only(data: bytes) -> bool:
    """The TPM's own counters and firmware version may be any when they were never seen before."""
    quote, other = parse_quote(data), parse_quote(honest().evidence.quote)
    return (
        dataclasses.replace(quote, clock=other.clock, firmware_version=other.firmware_version) == other
        and quote.clock.safe
    )


def _another_statement(data: bytes) -> bool:
    """Signed by the publisher, asked for and quoted: a statement that says something else, as well formed."""
    return data != publisher().statement


def _another_release(data: bytes) -> bool:
    """Signed by the publisher, and valid now."""
    return data != parse_envelope(publisher().release).payload


def cuts(data: bytes, step: int) -> Iterator[bytes]:
    return (data[:size] for size in sorted({*range(0, len(data), step), len(data) - 1}))


def flips(data: bytes, step: int, bits: range | None) -> Iterator[bytes]:
    for number, offset in enumerate(range(0, len(data), step)):
        for bit in bits or (number % 8,):
            flipped = bytearray(data)
            flipped[offset] ^= 1 << bit
            yield bytes(flipped)


def assert_refused(structure: Structure, damaged: bytes) -> None:
    appraisal = structure.judged(damaged)
    if appraisal is None:
        return
    assert not any(reason.endswith(":internal-error") for reason in appraisal.reasons)
    if appraisal.verdict is not None:
        assert structure.harmless(damaged)
    else:
        assert appraisal.reasons


FULL = pytest.param("all", marks=pytest.mark.full)
SAMPLE = 40  # damaged copies of each kind in every run


@pytest.mark.parametrize("name", STRUCTURES)
def test_what_these_tests_damage_is_accepted_as_it_is(name: str) -> None:
    structure = STRUCTURES[name]()
    appraisal = structure.judged(structure.data)
    assert appraisal is not None
    appraisal.accepted()


@pytest.mark.parametrize("amount", ["sample", FULL])
@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_that_was_cut_is_accepted(name: str, amount: str) -> None:
    structure = STRUCTURES[name]()
    step = 1 if amount == "all" else max(1, len(structure.data) // SAMPLE)
    for damaged in cuts(structure.data, step):
        appraisal = structure.judged(damaged)
        assert appraisal is None or appraisal.verdict is None
        assert appraisal is None or not any(r.endswith(":internal-error") for r in appraisal.reasons)


@pytest.mark.parametrize("amount", ["sample", FULL])
@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_with_a_flipped_bit_is_accepted(name: str, amount: str) -> None:
    structure = STRUCTURES[name]()
    step = 1 if amount == "all" else max(1, len(structure.data) // SAMPLE)
    bits = range(8) if amount == "all" and structure.small else None
    for damaged in flips(structure.data, step, bits):
        assert_refused(structure, damaged)


@pytest.mark.parametrize("name", STRUCTURES)
def test_nothing_with_bytes_after_it_is_accepted(name: str) -> None:
    structure = STRUCTURES[name]()
    for tail in (b"x", b"\n{}", structure.data):
        if name == "event log" and tail is structure.data:
            continue  # a second log is events after the first, which its own tests have
        appraisal = structure.judged(structure.data + tail)
        assert appraisal is None or appraisal.verdict is None
