"""Profile hpke-quote-v1 before the client's judge, and what the client seals."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindbuild.client import Expectation
from blindbuild.client.audit import AuditLog, record_decision
from blindbuild.client.exchange import prepare
from blindbuild.client.sealed import ANSWER_LABEL, Sealer, bucket
from blindbuild.digest import Digest
from blindbuild.errors import ChannelError, ManifestError
from blindbuild.formats.hpke import AES_256_GCM, Sender
from blindbuild.manifest import parse_statement
from blindbuild.manifest.revoked import Revocation
from blindbuild.verify import Appraisal, RecordedSession, appraise, bound_data, parse_session, session_bytes
from blindbuild.verify.bundle import Bundle, bundle_bytes, parse_bundle
from blindbuild.verify.current import CurrentView, RoleState, Target
from blindbuild.verify.session import Sealing
from tests.bad_inputs import accepted, refused, refusing
from tests.fakes.published import NOW, Publisher
from tests.fakes.tuf_world import DAY, MANIFEST, TufWorld
from tests.fakes.world import (
    HPKE_KEY,
    NONCE,
    SPKI,
    TEST_POLICY,
    judge,
    pinned_trust,
    publisher,
    sealed_publisher,
    sealed_session,
    session,
    with_evidence,
)
from tests.unit.test_session import MISSING, changed

judge_sealed = judge.but(published=sealed_publisher())
TLS_LABEL = b"blindbuild/tls-spki-quote/v1"
OTHER_KEY = HPKE_KEY[:-1] + b"\1"
DATA = session_bytes(sealed_session())
VALUE = json.loads(DATA)

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "hpke-channel.md"


@pytest.mark.bad_input(125)
def test_a_session_with_an_image_that_takes_sealed_requests_is_accepted() -> None:
    appraisal = judge_sealed(sealed_session())
    accepted(appraisal)
    assert appraisal.accepted().spki == HPKE_KEY
    (step,) = (step for step in appraisal.steps if step.id == "C3")
    assert step.title == "what is sent opens inside the attested image only"
    assert hashlib.sha256(HPKE_KEY).hexdigest() in step.detail


def test_the_vectors_of_the_page_are_right() -> None:
    key, statement = (hashlib.sha256(word).digest() for word in (b"spki", b"statement"))
    for name, label, role in (("extraData", b"", b"server"), ("info     ", b"/request", b"client")):
        parts = (b"blindbuild/hpke-quote/v1" + label, bytes(range(32)), key, statement, role)
        digest = hashlib.sha256(b"".join(len(p).to_bytes(2, "big") + p for p in parts)).hexdigest()
        assert f"{name}  {digest}\n" in PAGE.read_text()


def test_the_binding_has_a_label_of_its_own() -> None:
    statement = sealed_session().statement
    parts = (
        b"blindbuild/hpke-quote/v1",
        NONCE,
        hashlib.sha256(HPKE_KEY).digest(),
        statement.value,
        b"server",
    )
    expected = hashlib.sha256(b"".join(len(p).to_bytes(2, "big") + p for p in parts)).digest()
    sealed = bound_data(nonce=NONCE, spki=HPKE_KEY, statement=statement, profile="hpke-quote-v1")
    assert sealed == expected
    assert sealed != bound_data(nonce=NONCE, spki=HPKE_KEY, statement=statement)


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    ("judged", "published", "reasons"),
    [
        pytest.param(
            lambda: sealed_session(TLS_LABEL),
            None,
            ("Q7:bound-data-mismatch", "C3:other-hpke-key"),
            id="label",
        ),
        pytest.param(
            lambda: sealed_session(b"blindbuild/hpke-quote/v1/request"),
            None,
            ("Q7:bound-data-mismatch", "C3:other-hpke-key"),
            id="label of requests",
        ),
        pytest.param(
            lambda: sealed_session(spki=OTHER_KEY),
            None,
            ("Q7:bound-data-mismatch", "C3:other-hpke-key"),
            id="another HPKE key",
        ),
        pytest.param(
            lambda: sealed_session(spki=SPKI),
            None,
            ("Q7:bound-data-mismatch", "C3:other-hpke-key"),
            id="the TLS key",
        ),
        pytest.param(
            lambda: with_evidence(sealed_session(), sealing=Sealing(OTHER_KEY, b"i" * 16)),
            None,
            ("C3:other-hpke-key",),
            id="evidence with another key than is sealed to",
        ),
        pytest.param(
            lambda: with_evidence(sealed_session(), sealing=None),
            None,
            ("C3:other-hpke-key",),
            id="evidence without a key",
        ),
        pytest.param(
            lambda: with_evidence(sealed_session(), profile="tls-spki-quote-v1"),
            None,
            ("C1:other-profile",),
            id="answered for the other profile",
        ),
        pytest.param(
            lambda: session(statement=sealed_publisher().statement),
            None,
            ("C1:other-profile",),
            id="asked for the other profile",
        ),
        pytest.param(
            lambda: dataclasses.replace(sealed_session(), statement=session().statement),
            publisher(),
            ("C1:other-profile", "Q7:bound-data-mismatch", "C3:other-hpke-key"),
            id="an image of the other profile",
        ),
    ],
)
def test_neither_profile_passes_for_the_other(
    judged, published: Publisher | None, reasons: tuple[str, ...]
) -> None:
    refused(judge.but(published=published or sealed_publisher())(judged()), *reasons)


@pytest.mark.bad_input(125)
def test_a_quote_that_was_replayed_or_reflected_is_refused() -> None:
    other_nonce = dataclasses.replace(sealed_session(), nonce=bytes(31) + b"\1")
    refused(judge_sealed(other_nonce), "Q7:bound-data-mismatch", "C3:other-hpke-key")


def test_a_statement_names_one_of_two_profiles() -> None:
    assert parse_statement(sealed_publisher().statement).channel_binding == "hpke-quote-v1"
    for word in ("hpke-quote-v2", "HPKE-quote-v1", "", "tls-exporter-v1", 1, None, ["hpke-quote-v1"]):
        with pytest.raises(ManifestError):
            parse_statement(publisher().but(channelBinding=word).statement)


def test_a_sealed_session_reads_back_and_is_judged_again() -> None:
    read = parse_session(DATA)
    assert read == dataclasses.replace(sealed_session(), live=False, evidence=read.evidence)
    assert session_bytes(read) == DATA
    assert set(VALUE) == set(json.loads(session_bytes(session()))) - {"spki"}
    accepted_again = judge_sealed(read)
    assert accepted_again.reasons == frozenset()


@pytest.mark.bad_input(125)
@pytest.mark.parametrize(
    ("path", "new"),
    [
        ("spki", "AA=="),
        ("spki", VALUE["evidence"]["hpkeKey"]),
        ("profile", "tls-spki-quote-v1"),
        ("evidence/profile", "tls-spki-quote-v1"),
        ("evidence/hpkeKey", MISSING),
        ("evidence/hpkeKey", ""),
        ("evidence/hpkeKey", VALUE["evidence"]["hpkeKey"][:-4]),
        ("evidence/hpkeKey", "MCowBQYDK2VwAyEA" + VALUE["evidence"]["hpkeKey"][16:]),  # Ed25519
        ("evidence/session", MISSING),
        ("evidence/session", "69" * 15),
        ("evidence/session", "69" * 17),
        ("evidence/session", "6A" * 16),
        ("evidence/session", 1),
    ],
)
def test_a_sealed_session_is_strict(path: str, new: object) -> None:
    with refusing("Q10:malformed"):
        parse_session(changed(path, new, VALUE))


@pytest.mark.bad_input(125)
@pytest.mark.parametrize("asked", ["tls-spki-quote-v1", "hpke-quote-v1"])
def test_an_answer_of_the_other_profile_can_be_saved_and_is_refused_again(asked: str) -> None:
    tls, sealed = session(statement=sealed_publisher().statement), sealed_session()
    mixed = {
        "tls-spki-quote-v1": dataclasses.replace(tls, evidence=sealed.evidence),
        "hpke-quote-v1": dataclasses.replace(sealed, evidence=tls.evidence, spki=b""),  # as `exchange` has it
    }[asked]
    published = sealed_publisher() if asked == "hpke-quote-v1" else publisher()
    mixed = dataclasses.replace(mixed, statement=Digest.sha256(published.statement))
    again = parse_session(session_bytes(mixed))
    assert again == dataclasses.replace(mixed, live=False, evidence=again.evidence)
    assert session_bytes(again) == session_bytes(mixed)
    for judged in (mixed, again):
        appraisal = judge.but(published=published)(judged)
        assert {"C1:other-profile", "Q7:bound-data-mismatch"} <= appraisal.reasons
    refused(appraisal, *appraisal.reasons)


@pytest.mark.bad_input(125)
def test_a_recorded_session_has_the_key_of_its_profile_only() -> None:
    tls = json.loads(session_bytes(session()))
    for value in (VALUE | {"spki": tls["spki"]}, {key: tls[key] for key in tls if key != "spki"}):
        with refusing("Q10:malformed"):
            parse_session(json.dumps(value).encode())


def test_what_a_tuf_repository_says_counts_for_sealed_requests_as_well() -> None:
    published = sealed_publisher()
    repository = TufWorld(publisher=published)
    statement = Digest.sha256(published.statement)
    current = CurrentView(
        pinned=Digest.sha256(repository.roots[0]),
        channel="stable",
        refreshed=NOW,
        issued=NOW - 3600,
        roles={name: RoleState(1, NOW + DAY) for name in ("root", "timestamp", "snapshot", "targets")},
        release_keys=(published.key.public,),
        threshold=1,
        targets={MANIFEST: Target(len(published.envelope), Digest.sha256(published.envelope))},
        revoked=(),
    )
    withdrawn = Revocation(statement, "hello", "stable", 42, "vulnerable", NOW - 60)

    def judged(view: CurrentView) -> Appraisal:
        return appraise(
            sealed_session(),
            envelope=published.envelope,
            release=None,
            trust=repository.trust(),
            now=NOW,
            policy=TEST_POLICY,
            current=view,
        )

    verdict = judged(current).accepted()
    assert (verdict.spki, verdict.statement) == (HPKE_KEY, statement)
    refused(judged(dataclasses.replace(current, revoked=(withdrawn,))), "M11:withdrawn")


def test_a_bundle_with_a_sealed_session_comes_back_as_it_was() -> None:
    again = parse_bundle(bundle_bytes(Bundle(parse_session(DATA), sealed_publisher().envelope, NOW)))
    assert session_bytes(again.session) == DATA
    assert judge_sealed(again.session).accepted().spki == HPKE_KEY


def test_the_record_of_a_decision_says_which_kind_of_key_it_was(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path / "decisions.jsonl")
    expectation = Expectation(b"", None, pinned_trust(), TEST_POLICY, audit=audit)
    unanswered = dataclasses.replace(sealed_session(), spki=b"")
    for judged in (sealed_session(), session(), unanswered, None):
        record_decision(expectation, server="", appraisal=None, session=judged)
    records = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    hpke, tls = (hashlib.sha256(key).hexdigest() for key in (HPKE_KEY, SPKI))
    expected = [(None, hpke), (tls, None), (None, None), (None, None)]
    assert [(record["tlsKey"], record["hpkeKey"]) for record in records] == expected


def test_a_client_that_cannot_seal_says_so_before_it_asks() -> None:
    for published, spki in ((sealed_publisher(), SPKI), (publisher(), None)):
        expectation = Expectation(
            published.envelope, published.release, pinned_trust(), TEST_POLICY, clock=lambda: NOW
        )
        prepared = prepare(expectation)
        assert prepared.sealed is (spki is not None)
        with pytest.raises(ChannelError, match="expected a client for images of profile"):
            next(prepared.exchange(spki))


def test_only_a_session_with_a_key_can_be_sealed_to() -> None:
    mixed = with_evidence(sealed_session(), sealing=Sealing(OTHER_KEY, b"i" * 16))
    for wrong in (session(), with_evidence(sealed_session(), sealing=None), mixed):
        with pytest.raises(ChannelError, match="expected a session with a key to seal to"):
            Sealer(wrong)


@pytest.mark.bad_input(125)
def test_nothing_is_sealed_to_a_key_that_everybody_knows_the_secret_of() -> None:
    known = HPKE_KEY[:12] + bytes(32)
    judged = with_evidence(sealed_session(), sealing=Sealing(known, b"i" * 16))
    with refusing("expected an X25519 key that gives a secret", ChannelError):
        Sealer(dataclasses.replace(judged, spki=known)).seal(b"x")


def test_a_request_that_no_gate_would_take_is_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blindbuild.client.sealed.MAX_REQUEST", 10)
    judged, _ = with_key()
    Sealer(judged).seal(bytes(10))
    with pytest.raises(ChannelError, match="a request of at most 10 bytes, got 11"):
        Sealer(judged).seal(bytes(11))


def with_key() -> tuple[RecordedSession, X25519PrivateKey]:
    key = X25519PrivateKey.generate()
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    judged = with_evidence(sealed_session(), sealing=Sealing(spki, b"i" * 16))
    return dataclasses.replace(judged, spki=spki), key


class _NoAdditional(Sender):
    """`cryptography` has no way to give additional data to HPKE, so the oracle reads what has none."""

    __slots__ = ()

    def seal(self, additional: bytes, message: bytes) -> bytes:
        assert additional == b"i" * 16
        return AESGCM(self._key).encrypt(self._nonce, message, b"")


def test_requests_are_what_the_page_says_to_another_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    judged, key = with_key()
    real = Sender.seal
    monkeypatch.setattr(Sender, "seal", _NoAdditional.seal)
    sealer = Sealer(judged)
    bodies = [sealer.seal(b"GET / HTTP/1.1\r\n\r\n").body for _ in range(3)]
    monkeypatch.setattr(Sender, "seal", real)
    parts = (
        b"blindbuild/hpke-quote/v1/request",
        judged.nonce,
        hashlib.sha256(judged.spki).digest(),
        judged.statement.value,
        b"client",
    )
    info = hashlib.sha256(b"".join(len(p).to_bytes(2, "big") + p for p in parts)).digest()
    suite = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    for number, body in enumerate(bodies, 1):
        assert body[:16] == b"i" * 16
        message = suite.decrypt(body[16:], key, info)
        assert message[:12] == number.to_bytes(8, "big") + (18).to_bytes(4, "big")
        assert message[12:].rstrip(b"\0") == b"GET / HTTP/1.1\r\n\r\n"
        assert len(message) == 1024 - 256
    assert len({body[16:48] for body in bodies}) == 3


def test_sizes_show_a_bucket_only() -> None:
    judged, _ = with_key()
    sealer = Sealer(judged)
    sizes = {len(sealer.seal(b"x" * size).body) for size in range(1, 757)}
    assert sizes == {1024 - 256 + 64}
    assert len(sealer.seal(b"x" * 757).body) == 4096 - 256 + 64
    for size in range(1, 300_000, 997):
        assert bucket(size) >= size
    assert [bucket(1 << 10), bucket(1025), bucket(65537), bucket(131_073)] == [1024, 4096, 131_072, 196_608]


@pytest.mark.bad_input(125)
@pytest.mark.parametrize("size", [0, 1, 31, 32, 47, 48, 49, 1000])
def test_an_answer_that_nobody_sealed_is_refused(size: int) -> None:
    judged, _ = with_key()
    with refusing("C3:answer-not-sealed"):
        Sealer(judged).seal(b"x").open(bytes(itertools.islice(itertools.cycle(b"answer"), size)))


def test_requests_and_answers_have_keys_of_their_own() -> None:
    judged, _ = with_key()
    sealed = Sealer(judged).seal(b"x")
    secrets = {sealed._sender.export(use, AES_256_GCM.key_size) for use in (ANSWER_LABEL, b"", b"request")}
    assert len(secrets) == 3
    assert sealed._sender._key not in secrets


def test_what_is_shown_of_a_request_has_no_secrets() -> None:
    judged, _ = with_key()
    sealed = Sealer(judged).seal(b"x")
    shown = repr(sealed) + repr(sealed._sender)
    for secret in (sealed._sender._key, sealed._sender._nonce, sealed._sender._exporter):
        assert repr(secret) not in shown
