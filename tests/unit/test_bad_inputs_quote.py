"""The bad inputs 89 to 124 that test_appraise.py lacks: quotes, keys and logs before the client's judge."""

from __future__ import annotations

import base64
import dataclasses
import json
import struct
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.formats.credential import make_credential
from blindbuild.formats.tpm2 import Algorithm
from blindbuild.formats.tpmkey import PublicArea, RsaKey, Scheme, parse_sized_public
from blindbuild.manifest import parse_trust
from blindbuild.verify import Policy, StoredCertificate, parse_evidence, parse_session, session_bytes
from blindbuild.verify.checklist import Checklist
from blindbuild.verify.quote import judge_signature
from tests.bad_inputs import accepted, numbered, record, refused, refusing
from tests.fakes.attester import bound_data
from tests.fakes.published import (
    NOW,
    STATEMENT_TYPE,
    Event,
    Publisher,
    honest_boot,
    log_bytes,
    separator,
    statement_value,
)
from tests.fakes.software_tpm import MAKING_TIME, QuoteShape, SoftwareTpm, TpmAuthority, sized
from tests.fakes.world import (
    NONCE,
    SECRET,
    SPKI,
    authority,
    boot_of,
    judge,
    pinned_trust,
    publisher,
    real_trust,
    session,
    tpm,
    with_endorsement,
    with_evidence,
)

STATEMENT = Digest.sha256(publisher().statement)
ALL = b"\xff\xff\xff"

# --- quotes


SELECTIONS = {
    "92 a bank that is not allocated, with the digest of nothing": (((12, bytes(3)),), "Q8:selection-bank"),
    "93 sha1 beside nothing": (((4, ALL), (11, bytes(3))), "Q8:selection-banks"),
    "94 one register": (((11, b"\x00\x08\x00"),), "Q8:selection-registers"),
    "95 a register that no PC has": (((11, ALL + b"\x01"),), "Q8:selection-registers"),
    "98 sizeofSelect 0": (((11, b""),), "Q8:selection-registers"),
    "98 sizeofSelect 2": (((11, b"\xff\xff"),), "Q8:selection-registers"),
    "98 sizeofSelect 4, nothing beyond 24": (((11, ALL + b"\x00"),), "Q8:selection-registers"),
    "98 sizeofSelect 5": (((11, ALL + b"\x00\x00"),), "Q10:malformed"),
    "98 no selection": ((), "Q8:selection-banks"),
    "98 17 selections": (((11, ALL),) * 17, "Q10:malformed"),
}


@pytest.mark.parametrize("name", numbered(SELECTIONS))
def test_another_selection(name: str) -> None:
    selections, reason = SELECTIONS[name]
    refused(judge(session(tpm().but(shape=QuoteShape(selections=selections)))), reason)


@pytest.mark.bad_input(98)
@pytest.mark.parametrize("count", [2, 0xFFFF, 0xFFFFFFFF])
def test_a_count_of_selections_that_are_not_there(count: int) -> None:
    honest = tpm().attest("sha256", bound_data(NONCE, SPKI, STATEMENT.value))
    at = honest.index(struct.pack(">IH", 1, 0x000B))
    quote = honest[:at] + struct.pack(">I", count) + honest[at + 4 :]
    refused(judge(with_evidence(session(), quote=quote, signature=tpm().sign(quote))), "Q10:malformed")


@pytest.mark.bad_input(99)
def test_a_digest_by_the_banks_hash() -> None:
    # the TPM hashes with the signature's SHA-256, whatever the bank
    accepted(judge(session(bank="sha384")))
    machine = tpm().but(shape=QuoteShape(digest_hash="sha384"))
    refused(judge(session(machine, bank="sha384")), "Q9:values-mismatch")


@pytest.mark.bad_input(101)
@pytest.mark.parametrize("size", [0, 20, 31, 33])
def test_a_register_value_of_another_length(size: int) -> None:
    value = json.loads(session_bytes(session()))
    value["evidence"]["pcrs"][7] = "00" * size
    with refusing("Q10:malformed"):
        parse_session(json.dumps(value).encode())
    with refusing("Q10:malformed"):
        parse_evidence(json.dumps(value["evidence"]).encode())


@pytest.mark.bad_input(101)
@pytest.mark.parametrize("bank", ["sha384", "sha512"])
def test_a_register_value_of_another_bank(bank: str) -> None:
    made = session()
    values = list(made.evidence.registers)
    values[7] = Digest.zero(HashAlgorithm(bank))
    refused(judge(with_evidence(made, registers=tuple(values))), "Q9:values-bank")


@pytest.mark.bad_input(102)
@pytest.mark.parametrize("tail", [b"\0", b"\xff", bytes(64)])
def test_bytes_after_the_structures(tail: bytes) -> None:
    made = session()
    quote = made.evidence.quote + tail
    refused(judge(with_evidence(made, quote=quote, signature=tpm().sign(quote))), "Q10:malformed")
    refused(judge(with_evidence(made, quote=quote)), "Q2:signature-invalid")
    longer = made.evidence.signature + tail
    refused(judge(with_evidence(made, signature=longer)), "Q4:signature-malformed")
    public = made.endorsement.ak_public + tail
    refused(judge(with_endorsement(made, ak_public=public)), "A2:malformed")


@pytest.mark.bad_input(103)
def test_a_quote_cut_at_any_byte_and_signed_so() -> None:
    made = session()
    steps = set()
    for size in range(len(made.evidence.quote)):
        quote = made.evidence.quote[:size]
        appraisal = judge(with_evidence(made, quote=quote, signature=tpm().sign(quote)))
        refused(appraisal, *appraisal.reasons)
        steps |= appraisal.reasons
    # magic and type are read first, then everything else
    assert steps == {"Q5:malformed", "Q10:malformed"}


@pytest.mark.bad_input(103)
def test_a_quote_cut_at_any_byte_after_it_was_signed() -> None:
    made = session()
    for size in range(len(made.evidence.quote)):
        refused(judge(with_evidence(made, quote=made.evidence.quote[:size])), "Q2:signature-invalid")


@pytest.mark.bad_input(103)
def test_a_signature_cut_at_any_byte() -> None:
    made = session()
    for size in range(len(made.evidence.signature)):
        appraisal = judge(with_evidence(made, signature=made.evidence.signature[:size]))
        refused(appraisal, "Q3:malformed" if size < 4 else "Q4:signature-malformed")


@pytest.mark.bad_input(103)
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.full)])
@pytest.mark.parametrize("field", ["ak_public", "ek_public"])
def test_a_public_area_cut_at_any_byte(field: str, step: int) -> None:
    made = session()
    reason = "A2:malformed" if field == "ak_public" else "A5:malformed"
    whole = getattr(made.endorsement, field)
    for size in range(0, len(whole), step):
        refused(judge(with_endorsement(made, **{field: whole[:size]})), reason)


def rsa_key(scheme: Algorithm) -> tuple[rsa.RSAPrivateKey, PublicArea]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    modulus = key.public_key().public_numbers().n.to_bytes(256, "big")
    made = Scheme(scheme, HashAlgorithm.SHA256.tpm_id)
    return key, PublicArea(0x000B, 0x00050072, b"", None, made, RsaKey(2048, 65537, modulus))


@pytest.mark.bad_input(104)
@pytest.mark.parametrize(
    ("of_key", "of_signature"),
    [(Algorithm.RSASSA, Algorithm.RSAPSS), (Algorithm.RSAPSS, Algorithm.RSASSA)],
)
def test_an_rsa_signature_of_the_other_scheme(of_key: Algorithm, of_signature: Algorithm) -> None:
    key, area = rsa_key(of_key)
    message = tpm().attest("sha256", bytes(32))
    paddings = {
        Algorithm.RSAPSS: padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH),
        Algorithm.RSASSA: padding.PKCS1v15(),
    }
    for scheme, expected in ((of_key, set()), (of_signature, {"Q3:signature-scheme"})):
        signature = struct.pack(">HH", scheme, 0x000B) + sized(
            key.sign(message, paddings[scheme], hashes.SHA256())
        )
        steps = Checklist()
        judge_signature(steps, public=area, raw_quote=message, raw_signature=signature, needs=())
        assert {f"{step.id}:{step.reason}" for step in steps.failed()} == expected
        for reason in expected:
            record(reason)


# --- keys


def web_certificate(machine: SoftwareTpm, *, by: TpmAuthority | None = None) -> bytes:
    """A certificate for a web server, for the endorsement key."""
    usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.SERVER_AUTH])
    key, issuer = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=web CA")
    if by is not None:
        key, issuer = by._issuer_key, by.issuer.subject
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name.from_rfc4514_string("CN=www.example.com"))
        .issuer_name(issuer)
        .public_key(machine.ek.public_key())
        .serial_number(7)
        .not_valid_before(MAKING_TIME)
        .not_valid_after(MAKING_TIME + timedelta(days=3650))
        .add_extension(usage, False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("www.example.com")]), False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.bad_input(113)
@pytest.mark.parametrize("by_a_tpm_maker", [False, True])
def test_a_certificate_of_a_web_server(by_a_tpm_maker: bool) -> None:
    der = web_certificate(tpm(), by=authority() if by_a_tpm_maker else None)
    made = with_endorsement(session(), ek_certificates=(StoredCertificate(0x01C00002, der),))
    expected = {"A9:certificate-profile"} | (set() if by_a_tpm_maker else {"A4:certificate-path"})
    refused(judge(made), *expected)


@pytest.mark.bad_input(113)
def test_a_leaf_that_was_pinned_as_a_root() -> None:
    pem = x509.load_der_x509_certificate(tpm().ek_certificate).public_bytes(Encoding.PEM).decode()
    trust = parse_trust(publisher().trust(tpm_roots=[pem]))
    refused(judge.but(trust=trust)(session()), "A4:certificate-path")


@pytest.mark.bad_input(113)
@pytest.mark.parametrize("years", [-1, 25])
def test_a_chain_whose_authorities_are_not_valid_now(years: int) -> None:
    now = int((datetime.fromtimestamp(NOW, UTC) + timedelta(days=365 * years)).timestamp())
    policy = Policy(require_release=False)
    appraisal = judge.but(trust=real_trust(), now=now, no_release=True, policy=policy)(session())
    refused(appraisal, "A4:certificate-path")


def credential_for(name: bytes) -> tuple[bytes, bytes]:
    ek = parse_sized_public(tpm().ek_public)
    made = make_credential(ek, name, secret=SECRET, seed=b"\1" * 32, oaep_seed=b"\2" * 32)
    return made.blob, made.encrypted_secret


@pytest.mark.bad_input(112)
def test_a_software_key_beside_a_genuine_endorsement_key() -> None:
    forger = tpm().but(ak=ec.generate_private_key(ec.SECP256R1()))
    assert forger.ak_attributes == tpm().ak_attributes
    # the client's credential names the forger's key: the genuine TPM, which does not hold it, keeps silent
    assert tpm().activate(*credential_for(tpm().ak_name)) == SECRET
    with pytest.raises(ValueError, match="integrity"):
        tpm().activate(*credential_for(forger.ak_name))
    for secret, reason in ((None, "A8:credential-missing"), (bytes(32), "A8:credential-mismatch")):
        refused(judge(with_evidence(session(forger), activated_secret=secret)), reason)


@pytest.mark.bad_input(112)
def test_a_software_key_where_another_is_pinned() -> None:
    forger = tpm().but(ak=ec.generate_private_key(ec.SECP256R1()))
    trust = parse_trust(publisher().trust(attestation_keys=[tpm().ak_public]))
    accepted(judge.but(trust=trust, policy=Policy())(session(credential=False)))
    refused(judge.but(trust=trust, policy=Policy())(session(forger, credential=False)), "A5:key-not-pinned")


@pytest.mark.bad_input(118)
def test_the_answer_to_another_credential() -> None:
    made = session()
    # what this TPM answered an hour ago, to this client or to another
    earlier = with_evidence(made, activated_secret=b"e" * 32)
    refused(judge(earlier), "A8:credential-mismatch")
    for secret in (SECRET[:31], SECRET + b"\0", b"", SECRET[::-1][:31] + b"\0"):
        refused(judge(with_evidence(made, activated_secret=secret)), "A8:credential-mismatch")


@pytest.mark.bad_input(119)
def test_swtpms_authority_pinned_as_a_test_root_needs_its_flag() -> None:
    refused(judge.but(policy=Policy())(session()), "A11:test-tpm")
    accepted(judge(session()))


@pytest.mark.bad_input(120)
@pytest.mark.parametrize(
    ("x", "y"),
    [
        (0, 0),
        (0, 1),
        (2**256 - 1, 2**256 - 1),
        # the generator of P-256 with its x made larger by p, which is another spelling of a point
        (0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296, 1),
    ],
)
def test_a_point_that_is_none(x: int, y: int) -> None:
    area = tpm().ak_area[:-68] + sized(x.to_bytes(32, "big")) + sized(y.to_bytes(32, "big"))
    appraisal = judge(with_endorsement(session(), ak_public=sized(area)))
    assert "A3:key-off-curve" in appraisal.reasons
    assert appraisal.verdict is None
    record("A3:key-off-curve")


# --- event logs


def judged_boot(events: list[Event], *, stated: list[Event] | None = None):
    """A machine after this boot, judged by a statement about another one, or about this one."""
    machine, log = boot_of(events)
    signer = Publisher(publisher().key, statement_value(honest_boot() if stated is None else stated))
    return judge.but(published=signer)(session(machine, log, statement=signer.statement))


def retyped(kind: str, what: str) -> list[Event]:
    return [dataclasses.replace(e, kind=kind) if e.what == what else e for e in honest_boot()]


@pytest.mark.bad_input(121)
@pytest.mark.parametrize("kind", ["EV_UNUSED", "EV_EVENT_TAG"])
def test_an_event_that_a_reader_of_types_would_overlook(kind: str) -> None:
    refused(judge(session(log=log_bytes(retyped(kind, "content of .linux")))), "E6:event-type")


@pytest.mark.bad_input(121)
def test_hidden_events_with_copies_of_the_right_ones_after_them() -> None:
    events = honest_boot()
    hidden = [
        Event(e.register, "EV_UNUSED", b"evil " + e.measured, e.what, b"") if e.register == 11 else e
        for e in events
    ]
    appended = [*hidden, *(e for e in events if e.register == 11)]
    refused(judged_boot(appended), "E1:register-mismatch")
    # and with the registers of the honest boot, the log does not lead to them
    refused(judge(session(log=log_bytes(appended))), "E3:log-incomplete")


@pytest.mark.bad_input(121)
def test_events_in_another_order() -> None:
    events = honest_boot()
    ours = [i for i, e in enumerate(events) if e.register == 11]
    events[ours[0]], events[ours[2]] = events[ours[2]], events[ours[0]]
    refused(judged_boot(events), "E1:register-mismatch")
    refused(judge(session(log=log_bytes(events))), "E3:log-incomplete")


@pytest.mark.bad_input(122)
@pytest.mark.parametrize("register", [0, 5])
def test_an_event_after_the_separator_although_its_value_was_recorded(register: int) -> None:
    late = Event(register, "EV_S_CRTM_VERSION", b"late", "late")
    events = [*honest_boot(), late]
    refused(judged_boot(events, stated=events), "E8:event-after-separator")


@pytest.mark.bad_input(122)
@pytest.mark.parametrize("data", [b"\1\0\0\0", b"\0\0\0\1", b"\xff\xff\xff\xff", b"", bytes(5)])
def test_a_separator_with_other_data(data: bytes) -> None:
    events = [dataclasses.replace(e, measured=data) if e == separator(0) else e for e in honest_boot()]
    refused(judged_boot(events, stated=events), "E8:separator")


def raw_record(
    register: int, kind: int, data: bytes, digests: list[tuple[int, bytes]] | None = None
) -> bytes:
    """One record of a crypto-agile log with the two banks that all logs here have."""
    both = [(0x0B, bytes(32)), (0x0C, bytes(48))] if digests is None else digests
    head = struct.pack("<III", register, kind, len(both))
    return (
        head + b"".join(struct.pack("<H", bank) + d for bank, d in both) + struct.pack("<I", len(data)) + data
    )


HONEST_LOG = log_bytes(honest_boot())
SPEC_SIZE = 32 + struct.unpack_from("<I", HONEST_LOG, 28)[0]
EXTENDED = [(0x0B, b"\1" * 32), (0x0C, b"\1" * 48)]
ONE_BANK = [(0x0B, bytes(32))]


def inserted(data: bytes) -> bytes:
    """The honest log with this behind its Spec ID event."""
    return HONEST_LOG[:SPEC_SIZE] + data + HONEST_LOG[SPEC_SIZE:]


LOGS = {
    "123 a no-action that extends": (
        inserted(raw_record(11, 3, b"x", EXTENDED)),
        "E4:log-malformed",
        "zero digests",
    ),
    "123 StartupLocality 5": (
        inserted(raw_record(0, 3, b"StartupLocality\0\5")),
        "E5:log-not-replayable",
        "startup locality of 0, 3 or 4",
    ),
    "123 StartupLocality twice": (
        inserted(raw_record(0, 3, b"StartupLocality\0\3") * 2),
        "E5:log-not-replayable",
        "StartupLocality at most once",
    ),
    "123 StartupLocality in another register": (
        inserted(raw_record(11, 3, b"StartupLocality\0\3")),
        "E5:log-not-replayable",
        "StartupLocality at most once",
    ),
    "123 StartupLocality 3, which was not so": (
        inserted(raw_record(0, 3, b"StartupLocality\0\3")),
        "E3:log-incomplete",
        "others in 0",
    ),
    "123 a second Spec ID": (
        inserted(raw_record(0, 3, b"Spec ID Event03\0")),
        "E4:log-malformed",
        "a Spec ID event that is not the first event",
    ),
    "123 no Spec ID": (HONEST_LOG[SPEC_SIZE:], "E4:log-malformed", "event log"),
    "124 one digest of two": (
        inserted(raw_record(1, 5, b"x", ONE_BANK)),
        "E4:log-malformed",
        "expected 2 digests, as in the Spec ID event, got 1",
    ),
    "124 2^32-1 digests": (
        inserted(struct.pack("<III", 1, 5, 0xFFFFFFFF)),
        "E4:log-malformed",
        "got 4294967295",
    ),
    "124 one algorithm twice": (
        inserted(raw_record(1, 5, b"x", ONE_BANK * 2)),
        "E4:log-malformed",
        "a second sha256",
    ),
    "124 an algorithm that is not listed": (
        inserted(raw_record(1, 5, b"x", [(0x0B, bytes(32)), (0x04, bytes(20))])),
        "E4:log-malformed",
        "also a sha1",
    ),
    "124 an event of 2^32-1 bytes": (
        inserted(raw_record(1, 5, b"")[:-4] + b"\xff" * 4),
        "E4:log-malformed",
        "expected at most 262144 bytes of event data",
    ),
    "124 register 24": (inserted(raw_record(24, 5, b"x")), "E4:log-malformed", "a register up to 23, got 24"),
    "124 register 2^32-1": (
        inserted(raw_record(0xFFFFFFFF, 5, b"x")),
        "E4:log-malformed",
        "a register up to 23, got 4294967295",
    ),
    "124 one byte less": (HONEST_LOG[:-1], "E4:log-malformed", "for the event data"),
    "124 the last event left out": (
        log_bytes(honest_boot()[:-1]),
        "E3:log-incomplete",
        "others in 5",
    ),
}


@pytest.mark.parametrize("name", numbered(LOGS))
def test_a_log_that_cannot_be(name: str) -> None:
    log, reason, saying = LOGS[name]
    refused(judge(session(log=log)), reason, saying=saying)


@pytest.mark.bad_input(124)
@pytest.mark.parametrize("what", ["content of .linux", "separator"])
def test_an_event_of_no_bytes_where_they_were_measured(what: str) -> None:
    events = [dataclasses.replace(e, data=b"") if e.what == what else e for e in honest_boot()]
    # the kernel's own bytes are never in a log: they may be missing. A separator's are what it is.
    appraisal = judge(session(log=log_bytes(events)))
    if what == "separator":
        refused(appraisal, "E7:event-data", "E8:separator")
    else:
        accepted(appraisal)


@pytest.mark.bad_input(124)
@pytest.mark.parametrize("step", [97, pytest.param(1, marks=pytest.mark.full)])
def test_a_log_cut_at_any_byte(step: int) -> None:
    made = session()
    # between two events it is a log, of another boot
    between = {len(log_bytes(honest_boot()[:count])) for count in range(1, len(honest_boot()))}
    for size in sorted({*range(0, len(HONEST_LOG), step), *between}):
        appraisal = judge(with_evidence(made, event_log=HONEST_LOG[:size]))
        refused(appraisal, "E3:log-incomplete" if size in between else "E4:log-malformed")


@pytest.mark.bad_input(124)
@pytest.mark.parametrize("register", [8, 10, 12, 13, 14, 15, 18, 21])
def test_a_value_without_events(register: int) -> None:
    values = {bank: [*values] for bank, values in tpm().registers.items()}
    values["sha256"][register] = b"\x01" * 32
    refused(judge(session(tpm().but(registers=values))), "E1:register-mismatch", "E3:log-incomplete")


def test_what_these_tests_depart_from_is_accepted() -> None:
    accepted(judged_boot(honest_boot()))
    accepted(judge.but(trust=pinned_trust())(session(log=HONEST_LOG)))
    assert base64.b64decode(json.loads(publisher().envelope)["payload"]) == publisher().statement
    assert json.loads(publisher().envelope)["payloadType"] == STATEMENT_TYPE
