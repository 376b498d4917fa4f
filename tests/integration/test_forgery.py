"""The attack that succeeds: a fresh software TPM, a genuine log replayed into it, and nothing booted.

The client's verdict must be what the table of platforms says: accepted where software TPMs are believed,
refused everywhere else. TLS interception in front of an attester must be refused in any case.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindbuild.client import Connection, Expectation, attest
from blindbuild.client.sealed import Sealer
from blindbuild.digest import Digest
from blindbuild.errors import FormatError, MachineError, VerificationError
from blindbuild.formats.tcglog import parse_event_log, replay, write_event_log
from blindbuild.machine.forgery import ANSWER, ForgedServer, bind_session, replay_into
from blindbuild.machine.interception import TlsInterceptor
from blindbuild.machine.key_swap import KeySwapper, KeyThief
from blindbuild.machine.swtpm import DEFAULT_BANKS, SoftwareTpm, TpmAuthority, manufacture_tpm
from blindbuild.manifest import TrustRoots, parse_trust
from blindbuild.verify import Policy
from blindbuild.verify.session import SEALED_PROFILE
from tests.fakes.published import Publisher, honest_boot, log_bytes

pytestmark = pytest.mark.skipif(shutil.which("swtpm_setup") is None, reason="swtpm-tools is not installed")

YEAR = datetime.now(UTC).year
LOG = log_bytes(honest_boot())
CHECKQUOTE = shutil.which("tpm2_checkquote")


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    """Whose release is valid now, because swtpm's certificates are made now."""
    validity = {
        f"valid{end}": f"{year}-01-01T00:00:00Z" for end, year in (("From", YEAR - 1), ("Until", YEAR + 2))
    }
    return Publisher().but(release=validity)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TpmAuthority:
    return TpmAuthority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def tpm(authority: TpmAuthority, tmp_path: Path) -> Iterator[SoftwareTpm]:
    manufacture_tpm(tmp_path / "tpm", authority, banks=DEFAULT_BANKS)
    with SoftwareTpm(tmp_path / "tpm", tmp_path / "control", tmp_path / "log") as running:
        yield running


@pytest.fixture
def forged(tpm: SoftwareTpm) -> Iterator[ForgedServer]:
    with ForgedServer(tpm, LOG) as server:
        yield server


@pytest.fixture
def sealing(publisher: Publisher) -> Publisher:
    """Whose image takes sealed requests."""
    return publisher.but(channelBinding=SEALED_PROFILE)


def expect(publisher: Publisher, trust: TrustRoots, *, allow_test_tpm: bool) -> Expectation:
    policy = Policy(allow_test_tpm=allow_test_tpm)
    return Expectation(publisher.envelope, publisher.release, trust, policy)


def operator_trust(publisher: Publisher, authority: TpmAuthority) -> TrustRoots:
    """Believes the operator's authority as a test root."""
    return parse_trust(
        publisher.trust(
            test_tpm_roots=[authority.root_certificate.decode()],
            test_tpm_intermediates=[authority.issuer_certificate.decode()],
        )
    )


def test_the_forgery_is_accepted_where_software_tpms_are_believed(
    forged: ForgedServer, publisher: Publisher, authority: TpmAuthority
) -> None:
    attempt = attest(forged.url, expect(publisher, operator_trust(publisher, authority), allow_test_tpm=True))
    with attempt.accept() as connection:
        assert connection.post("/v1/hello", b"patient data") == ANSWER
    assert forged.stolen == [b"patient data"]
    assert any("operator-run TPM" in warning for warning in attempt.appraisal.warnings)


def test_the_forgery_is_refused_without_permission_for_software_tpms(
    forged: ForgedServer, publisher: Publisher, authority: TpmAuthority
) -> None:
    attempt = attest(
        forged.url, expect(publisher, operator_trust(publisher, authority), allow_test_tpm=False)
    )
    with pytest.raises(VerificationError):
        attempt.accept()
    assert forged.stolen == []


def test_the_forgery_seals_too(tpm: SoftwareTpm, sealing: Publisher, authority: TpmAuthority) -> None:
    trust = operator_trust(sealing, authority)
    with ForgedServer(tpm, LOG, profile=SEALED_PROFILE) as forged:
        for _ in range(2):
            attempt = attest(forged.url, expect(sealing, trust, allow_test_tpm=True))
            with attempt.accept() as connection:
                assert connection.post("/v1/hello", b"patient data") == ANSWER
                assert connection.post("/v1/hello", b"more data") == ANSWER
        assert [request.splitlines()[0] for request in forged.stolen] == [b"POST /v1/hello HTTP/1.1"] * 4
        assert [request.rpartition(b"\r\n")[2] for request in forged.stolen] == [
            b"patient data",
            b"more data",
        ] * 2
        strict = attest(forged.url, expect(sealing, trust, allow_test_tpm=False))
        with pytest.raises(VerificationError):
            strict.accept()
        assert "A11:test-tpm" in strict.appraisal.reasons
        assert len(forged.stolen) == 4


def test_neither_forgery_passes_for_the_other(
    tpm: SoftwareTpm, publisher: Publisher, sealing: Publisher, authority: TpmAuthority
) -> None:
    with ForgedServer(tpm, LOG, profile=SEALED_PROFILE) as forged:
        attempt = attest(
            forged.url, expect(publisher, operator_trust(publisher, authority), allow_test_tpm=True)
        )
        assert "C1:other-profile" in attempt.appraisal.reasons
        with pytest.raises(VerificationError):
            attempt.accept()


def test_a_key_that_is_put_into_the_evidence_is_refused_and_would_have_opened_all(
    tpm: SoftwareTpm, sealing: Publisher, authority: TpmAuthority
) -> None:
    expectation = expect(sealing, operator_trust(sealing, authority), allow_test_tpm=True)
    with ForgedServer(tpm, LOG, profile=SEALED_PROFILE) as machine:
        with KeySwapper("127.0.0.1", machine.port) as swapper:
            attempt = attest(swapper.url, expectation)
            with pytest.raises(VerificationError):
                attempt.accept()
            assert attempt.appraisal.reasons == {"Q7:bound-data-mismatch", "C3:other-hpke-key"}
            assert swapper.stolen == []
            # a client that does not judge: the same key opens what it sends, and answers it
            careless = Sealer(attempt.session).seal(b"GET /secret HTTP/1.1\r\n\r\n")
            with Connection.open(swapper.url) as connection:
                answer = careless.answer(connection.ask(careless.question(max_body=100)))
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert swapper.stolen == [b"GET /secret HTTP/1.1\r\n\r\n"]
        assert machine.stolen == []


def test_requests_of_another_session_or_another_key_are_not_opened() -> None:
    thief = KeyThief()
    asked = {"nonce": "00" * 32, "statement": "11" * 32}
    fields = thief.name_key(asked, session=bytes(16))
    assert base64.b64decode(fields["hpkeKey"]) == thief.spki
    for body in (b"", bytes(16), b"\1" * 80, bytes(16) + b"\x09" + bytes(31) + bytes(40)):
        with pytest.raises(FormatError):
            thief.open(body, b"")


def test_a_man_in_the_middle_of_tls_is_refused_and_gets_no_data(
    forged: ForgedServer, publisher: Publisher, authority: TpmAuthority
) -> None:
    with TlsInterceptor("127.0.0.1", forged.port) as interceptor:
        expectation = expect(publisher, operator_trust(publisher, authority), allow_test_tpm=True)
        attempt = attest(interceptor.url, expectation)
        with pytest.raises(VerificationError):
            attempt.accept()
        assert attempt.appraisal.reasons == {"Q7:bound-data-mismatch", "C3:other-tls-key"}
        assert b"/.well-known/blindbuild/evidence" in interceptor.seen
        assert b"/v1/" not in interceptor.seen


def test_the_replayed_registers_are_those_of_the_log(tpm: SoftwareTpm) -> None:
    log = parse_event_log(LOG)
    with tpm.connect() as connection:
        connection.power_on()
        replay_into(connection, log)
        for bank in log.algorithms:
            assert connection.read_registers(bank) == replay(log, bank).values


def test_a_log_from_another_locality_cannot_be_replayed(tpm: SoftwareTpm) -> None:
    log = parse_event_log(LOG)
    algorithms = {algorithm: Digest.zero(algorithm) for algorithm in log.algorithms}
    start = type(log.events[0])(0, 3, algorithms, b"StartupLocality\0\x03")
    moved = parse_event_log(write_event_log(type(log)(log.algorithms, (start, *log.events), log.spec)))
    with tpm.connect() as connection:
        connection.power_on()
        with pytest.raises(MachineError, match="locality 0"):
            replay_into(connection, moved)


@pytest.mark.skipif(CHECKQUOTE is None, reason="tpm2-tools is not installed")
def test_tpm2_tools_accept_the_quote(forged: ForgedServer, tmp_path: Path) -> None:
    with Connection.open(forged.url) as connection:
        body = json.dumps({"nonce": "00" * 32, "statement": "11" * 32, "bank": "sha256"}).encode()
        answers = {
            name: json.loads(
                connection.request(
                    method,
                    f"/.well-known/blindbuild/{name}",
                    body=sent,
                    content_type="application/json",
                    max_body=1 << 22,
                ).body
            )
            for name, method, sent in (("endorsement", "GET", None), ("evidence", "POST", body))
        }
        spki = connection.spki
    files = {
        "ak.pub": answers["endorsement"]["akPublic"],
        "quote": answers["evidence"]["quote"],
        "signature": answers["evidence"]["signature"],
    }
    for name, text in files.items():
        (tmp_path / name).write_bytes(base64.b64decode(text))
    qualification = bind_session(nonce=bytes(32), spki=spki, statement=b"\x11" * 32).hex()
    subprocess.run(
        [CHECKQUOTE, "-u", "ak.pub", "-m", "quote", "-s", "signature", "-q", qualification, "-g", "sha256"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )


def test_the_binding_is_the_specified_one() -> None:
    # docs/spec/evidence.md gives this vector
    key = b"spki"
    statement = hashlib.sha256(b"statement").digest()
    assert (
        bind_session(nonce=bytes(range(32)), spki=key, statement=statement).hex()
        == "e3887c8beb4d3097f68bec8be432f3243c5ad9c063a60e9f561e371c8fcc91d7"
    )


def test_the_forgery_is_accepted_in_every_bank(
    forged: ForgedServer, publisher: Publisher, authority: TpmAuthority
) -> None:
    trust = operator_trust(publisher, authority)
    for bank in parse_event_log(LOG).algorithms:
        expectation = replace(expect(publisher, trust, allow_test_tpm=True), bank=bank)
        attest(forged.url, expectation).accept().close()
