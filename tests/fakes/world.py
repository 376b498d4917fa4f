"""One honest machine and one honest publisher, made once, from which each test departs."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, replace

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.verify import (
    Appraisal,
    Endorsement,
    Evidence,
    History,
    Policy,
    RecordedSession,
    StoredCertificate,
    appraise,
)
from blindbuild.verify.session import Sealing
from tests.fakes.attester import bound_data
from tests.fakes.published import BANKS, NOW, Event, Publisher, honest_boot, log_bytes, register_values
from tests.fakes.software_tpm import SoftwareTpm, TpmAuthority

TEST_POLICY = Policy(allow_test_tpm=True)
NONCE = bytes(range(32))
SPKI = b"the key of this connection"
SECRET = b"s" * 32
HPKE_KEY = bytes.fromhex("302a300506032b656e032100") + b"\x09" + bytes(31)  # RFC 8410; RFC 7748's base point


@functools.cache
def authority() -> TpmAuthority:
    return TpmAuthority()


@functools.cache
def tpm() -> SoftwareTpm:
    return SoftwareTpm(authority(), {bank: register_values(honest_boot(), bank) for bank in BANKS})


@functools.cache
def publisher() -> Publisher:
    return Publisher()


@functools.cache
def pinned_trust() -> TrustRoots:
    """Believes the software TPM's authority, as a test root."""
    roots = {"test_tpm_roots": [authority().root_pem], "test_tpm_intermediates": [authority().issuer_pem]}
    return parse_trust(publisher().trust(**roots))


@functools.cache
def real_trust() -> TrustRoots:
    """Believes the same authority as if it were a TPM maker's."""
    roots = {"tpm_roots": [authority().root_pem], "tpm_intermediates": [authority().issuer_pem]}
    return parse_trust(publisher().trust(**roots))


def trust_for(pinned: TpmAuthority) -> TrustRoots:
    roots = {"test_tpm_roots": [pinned.root_pem], "test_tpm_intermediates": [pinned.issuer_pem]}
    return parse_trust(publisher().trust(**roots))


def boot_of(events: list[Event]) -> tuple[SoftwareTpm, bytes]:
    """The same TPM after another boot, and that boot's log."""
    return tpm().but(registers={bank: register_values(events, bank) for bank in BANKS}), log_bytes(events)


def session(
    machine: SoftwareTpm | None = None,
    log: bytes | None = None,
    *,
    bank: str = "sha256",
    statement: bytes | None = None,
    credential: bool = True,
) -> RecordedSession:
    """A live exchange with a machine; the credential's secret comes back as an honest TPM gives it."""
    used = tpm() if machine is None else machine
    digest = hashlib.sha256(publisher().statement if statement is None else statement).digest()
    quote, signature = used.quote(bank, bound_data(NONCE, SPKI, digest))
    algorithm = HashAlgorithm(bank)
    return RecordedSession(
        profile="tls-spki-quote-v1",
        nonce=NONCE,
        statement=Digest(HashAlgorithm.SHA256, digest),
        bank=algorithm,
        spki=SPKI,
        credential_secret=SECRET if credential else None,
        endorsement=Endorsement(
            ek_certificates=tuple(StoredCertificate(index, data) for index, data in used.endorsement()),
            ek_public=used.ek_public,
            ak_public=used.ak_public,
        ),
        evidence=Evidence(
            profile="tls-spki-quote-v1",
            bank=algorithm,
            quote=quote,
            signature=signature,
            registers=tuple(Digest(algorithm, value) for value in used.read_registers(bank)),
            event_log=log_bytes(honest_boot()) if log is None else log,
            activated_secret=SECRET if credential else None,
        ),
        live=True,
    )


def sealed_session(label: bytes = b"blindbuild/hpke-quote/v1", spki: bytes = HPKE_KEY) -> RecordedSession:
    """The same exchange with an image whose requests are sealed; the quote is for `spki` under `label`."""
    honest = session(statement=sealed_publisher().statement)
    quote, signature = tpm().quote("sha256", bound_data(NONCE, spki, honest.statement.value, label=label))
    evidence = replace(
        honest.evidence,
        profile="hpke-quote-v1",
        quote=quote,
        signature=signature,
        sealing=Sealing(HPKE_KEY, b"i" * 16),
    )
    return replace(honest, profile="hpke-quote-v1", spki=HPKE_KEY, evidence=evidence)


def sealed_publisher() -> Publisher:
    """The release engineer, of an image whose requests are sealed."""
    return publisher().but(channelBinding="hpke-quote-v1")


@dataclass(frozen=True)
class Judge:
    """Judges sessions; each field can be something else in one test."""

    published: Publisher | None = None
    trust: TrustRoots | None = None
    policy: Policy = TEST_POLICY
    now: int = NOW
    history: History | None = None
    envelope: bytes | None = None
    release: bytes | None = None
    no_release: bool = False
    ledger: bytes | None = None
    crls: tuple[bytes, ...] = ()
    rebuilds: tuple[bytes, ...] = ()
    probe: bytes | None = None

    def but(self, **changes) -> Judge:
        return replace(self, **changes)

    def __call__(self, judged: RecordedSession) -> Appraisal:
        published = self.published or publisher()
        release = published.release if self.release is None else self.release
        return appraise(
            judged,
            envelope=published.envelope if self.envelope is None else self.envelope,
            release=None if self.no_release else release,
            trust=self.trust or pinned_trust(),
            now=self.now,
            policy=self.policy,
            history=self.history,
            ledger=self.ledger,
            crls=self.crls,
            rebuilds=self.rebuilds,
            probe=self.probe,
        )


judge = Judge()


def with_evidence(judged: RecordedSession, **changes) -> RecordedSession:
    return replace(judged, evidence=replace(judged.evidence, **changes))


def with_endorsement(judged: RecordedSession, **changes) -> RecordedSession:
    return replace(judged, endorsement=replace(judged.endorsement, **changes))
