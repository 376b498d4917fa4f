"""Step M14: k of n people who do not work together found the same statement."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest
import rfc8785

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import FormatError, ManifestError
from blindbuild.formats.dsse import UnverifiedEnvelope, parse_envelope, write_envelope
from blindbuild.manifest import TrustRoots
from blindbuild.manifest.rebuild import (
    MAX_REBUILD_ENVELOPE,
    MAX_REBUILDS,
    parse_rebuild,
    rebuild_bytes,
)
from blindbuild.publish import SigningKey, generate_key, sign_payload
from blindbuild.verify import Appraisal, appraise
from tests.fakes.published import NOW, STATEMENT_TYPE
from tests.fakes.world import TEST_POLICY, judge, pinned_trust, publisher, session
from tests.unit.test_tuf_current import TRUST as FOLLOWED
from tests.unit.test_tuf_current import view

TYPE = "application/vnd.blindbuild.rebuild+json"
ANNA, BERT, CARL, STRANGER = (generate_key() for _ in range(4))
ABOUT = hashlib.sha256(publisher().statement).hexdigest()


def trust(*keys: SigningKey, needed: int = 1) -> TrustRoots:
    public = tuple(key.public for key in keys)
    return dataclasses.replace(pinned_trust(), rebuilders=public, rebuilder_threshold=needed)


def record_of(statement: str = ABOUT) -> bytes:
    return rfc8785.dumps({"_type": "urn:blindbuild:rebuild:v1", "statement": {"sha256": statement}})


def rebuild(key: SigningKey, payload: bytes | None = None, payload_type: str = TYPE) -> bytes:
    return sign_payload(key, payload_type, record_of() if payload is None else payload)


def together(*envelopes: bytes) -> bytes:
    """One envelope with the signatures of all of them."""
    parsed = [parse_envelope(envelope) for envelope in envelopes]
    signatures = tuple(signature for each in parsed for signature in each.signatures)
    return write_envelope(UnverifiedEnvelope(parsed[0].payload_type, parsed[0].payload, signatures))


def judged(believed: TrustRoots, *rebuilds: bytes) -> Appraisal:
    return judge.but(trust=believed, rebuilds=rebuilds)(session())


def detail_of(appraisal: Appraisal) -> str:
    return next(step.detail for step in appraisal.steps if step.id == "M14")


def test_a_trust_file_without_rebuilders_has_no_such_step() -> None:
    appraisal = judged(pinned_trust(), b"rubbish")
    assert "M14" not in {step.id for step in appraisal.steps}
    assert appraisal.accepted()


def test_a_trust_file_with_rebuilders_lists_the_step_before_the_statement_is_believed() -> None:
    appraisal = judge.but(trust=trust(ANNA), envelope=b"rubbish")(session())
    assert "M14" in {step.id for step in appraisal.steps}
    assert appraisal.verdict is None


@pytest.mark.parametrize("needed", [1, 2])
def test_enough_rebuilders_are_accepted(needed: int) -> None:
    appraisal = judged(trust(ANNA, BERT, CARL, needed=needed), rebuild(BERT), rebuild(CARL))
    assert appraisal.accepted()
    assert detail_of(appraisal).startswith(f"2 of 3 found it, {needed} needed: ")
    for key in (BERT, CARL):
        assert key.public.key_id[:16] in detail_of(appraisal)


def test_rebuilders_may_sign_one_envelope() -> None:
    assert judged(trust(ANNA, BERT, needed=2), together(rebuild(ANNA), rebuild(BERT))).accepted()


def test_a_release_keys_signature_beside_a_rebuilders_does_no_harm() -> None:
    both = together(rebuild(ANNA), rebuild(publisher().key))
    assert judged(trust(ANNA, needed=1), both).accepted()
    assert judged(trust(ANNA, BERT, needed=2), both).reasons == {"M14:too-few-rebuilds"}


def test_files_that_do_not_count_do_no_harm() -> None:
    files = (b"rubbish", rebuild(STRANGER), rebuild(ANNA), rebuild(ANNA), publisher().envelope)
    assert judged(trust(ANNA, BERT), *files).accepted()


OTHER = record_of("ab" * 32)
REFUSED = {
    "none at all": ((), "rebuilds-missing", "expected 2 independent rebuilders to have found this statement"),
    "one of two": ((rebuild(ANNA),), "too-few-rebuilds", "got 1"),
    "one rebuilder twice": (
        (rebuild(ANNA), rebuild(ANNA)),
        "rebuild-repeated",
        "rebuild 2: the rebuilder who signed it is counted already",
    ),
    "one rebuilder's signature twice in one file": (
        (together(rebuild(ANNA), rebuild(ANNA)),),
        "too-few-rebuilds",
        "got 1",
    ),
    "the publisher's own": (
        (rebuild(ANNA), rebuild(publisher().key)),
        "rebuild-by-publisher",
        "rebuild 2: the publisher signed it himself: a release key is no rebuilder",
    ),
    "a stranger's": (
        (rebuild(ANNA), rebuild(STRANGER)),
        "rebuild-by-stranger",
        "rebuild 2: no rebuilder of the trust file signed it",
    ),
    "one of another statement": (
        (rebuild(ANNA), rebuild(BERT, OTHER)),
        "rebuild-of-other-statement",
        f"rebuild 2: expected one of statement sha256:{ABOUT}, got one of sha256:{'ab' * 32}",
    ),
    "the statement itself under the publisher's type": (
        (rebuild(ANNA), rebuild(BERT, publisher().statement, STATEMENT_TYPE)),
        "not-a-rebuild",
        "expected a rebuild record, got 'application/vnd.in-toto+json'",
    ),
    "the statement itself under the rebuilder's type": (
        (rebuild(ANNA), rebuild(BERT, publisher().statement)),
        "rebuild-malformed",
        "rebuild: ",
    ),
    "a damaged file": ((rebuild(ANNA), rebuild(BERT)[:-1]), "rebuild-malformed", "envelope: "),
    "a signature over other bytes": (
        (
            rebuild(ANNA),
            rebuild(BERT, OTHER).replace(
                *(part.split(b'"')[3] for part in (rebuild(BERT, OTHER), rebuild(BERT)))
            ),
        ),
        "rebuild-by-stranger",
        "no rebuilder of the trust file signed it",
    ),
    "a file without end": (
        (rebuild(ANNA), rebuild(BERT) + b" " * MAX_REBUILD_ENVELOPE),
        "rebuild-malformed",
        f"expected at most {MAX_REBUILD_ENVELOPE} bytes",
    ),
    "more files than are looked at": (
        (rebuild(ANNA), rebuild(BERT)) * 9,
        "too-many-rebuilds",
        f"expected at most {MAX_REBUILDS} files, got 18",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_rebuilds_that_are_not_enough_are_refused(name: str) -> None:
    files, reason, message = REFUSED[name]
    appraisal = judged(trust(ANNA, BERT, needed=2), *files)
    assert appraisal.reasons == {f"M14:{reason}"}
    assert appraisal.verdict is None
    assert message in detail_of(appraisal)


def test_a_key_that_signs_releases_never_counts_as_a_rebuilder() -> None:
    # trust files cannot say so, but the keys that count may come from elsewhere
    appraisal = judged(trust(ANNA, publisher().key), rebuild(ANNA))
    assert appraisal.reasons == {"M14:rebuilder-is-publisher"}


def test_a_key_that_a_tuf_repository_lets_release_never_counts_as_a_rebuilder() -> None:
    def followed(*keys: SigningKey) -> Appraisal:
        named = dataclasses.replace(
            FOLLOWED, rebuilders=tuple(key.public for key in keys), rebuilder_threshold=1
        )
        return appraise(
            session(),
            envelope=publisher().envelope,
            release=None,
            trust=named,
            now=NOW,
            policy=TEST_POLICY,
            rebuilds=(rebuild(ANNA), rebuild(publisher().key)),
            current=view(),
        )

    assert followed(ANNA).accepted()
    assert followed(BERT).reasons == {"M14:rebuild-by-stranger"}
    assert followed(ANNA, publisher().key).reasons == {"M14:rebuilder-is-publisher"}


def test_a_rebuilders_signature_never_counts_as_a_release() -> None:
    believed = dataclasses.replace(trust(BERT), release_keys=(ANNA.public,))
    for envelope in (rebuild(ANNA), rebuild(ANNA, publisher().statement)):
        appraisal = judge.but(trust=believed, envelope=envelope, rebuilds=(rebuild(BERT),))(session())
        assert "M4:envelope-refused" in appraisal.reasons


def test_a_record_writes_back_to_the_same_bytes() -> None:
    assert rebuild_bytes(Digest.from_hex(HashAlgorithm.SHA256, ABOUT)) == record_of()
    assert parse_rebuild(record_of()).hex == ABOUT


GOOD = {"_type": "urn:blindbuild:rebuild:v1", "statement": {"sha256": ABOUT}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (GOOD | {"_type": "urn:blindbuild:release:v1"}, "rebuild._type: expected"),
        (GOOD | {"role": "publisher"}, "unknown 'role'"),
        (GOOD | {"statement": {"sha1": "ab" * 20}}, "missing sha256"),
        (GOOD | {"statement": {"sha256": ABOUT.upper()}}, "rebuild.statement.sha256: "),
        ({"_type": GOOD["_type"]}, "missing statement"),
        ([], "expected an object"),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused(value: object, message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        parse_rebuild(rfc8785.dumps(value))
    assert message in caught.value.message


def test_a_record_is_read_in_its_one_form_only() -> None:
    with pytest.raises(ManifestError):
        parse_rebuild(record_of().replace(b":", b": ", 1))
    for length in range(len(record_of())):
        with pytest.raises(ManifestError):
            parse_rebuild(record_of()[:length])


def test_a_digest_of_another_kind_is_not_written() -> None:
    with pytest.raises((ManifestError, FormatError)):
        rebuild_bytes(Digest.of(HashAlgorithm.SHA384, b"x"))


def test_the_policy_of_the_tests_is_the_strict_one_but_for_the_tpm() -> None:
    assert dataclasses.replace(TEST_POLICY, allow_test_tpm=False) == type(TEST_POLICY)()


def test_a_release_on_another_channel_is_refused() -> None:
    appraisal = judge.but(published=publisher().but(release={"channel": "beta"}))(session())
    assert appraisal.reasons == {"M9:release-of-other-channel"}
    wanted = dataclasses.replace(TEST_POLICY, channel="beta")
    assert judge.but(published=publisher().but(release={"channel": "beta"}), policy=wanted)(
        session()
    ).accepted()
    assert judge.but(policy=wanted)(session()).reasons == {"M9:release-of-other-channel"}
