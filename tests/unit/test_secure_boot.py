"""Secure Boot: what a variable store boots with, which entry of db is the authority, and register 7."""

from __future__ import annotations

import datetime
import functools
import hashlib
import struct
from dataclasses import replace
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.hashes import SHA256 as HASH
from cryptography.hazmat.primitives.serialization import Encoding

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import MeasureError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.der import (
    NULL,
    OCTET_STRING,
    read_only,
    write_element,
    write_object_identifier,
    write_sequence,
)
from blindbuild.formats.efivars import EfiVariable
from blindbuild.formats.image_signature import (
    _ALGORITHMS,
    attach_signature,
    signed_content,
    write_signed_data,
)
from blindbuild.formats.siglist import (
    EFI_CERT_SHA256,
    EFI_CERT_SHA384,
    EFI_CERT_X509_SHA256,
    EFI_CERT_X509_SHA384,
    EFI_CERT_X509_SHA512,
    IMAGE_DIGESTS,
    SignatureEntry,
    SignatureList,
    write_signature_lists,
    x509_list,
)
from blindbuild.formats.tcgevent import EventType
from blindbuild.measure.bank import extend_all
from blindbuild.measure.pcr07 import predict_authority, predict_pcr07
from blindbuild.measure.secure_boot import SecureBootState, find_authority, read_secure_boot
from tests.fakes.pe_image import make_pe, with_certificates

SHA256 = HashAlgorithm.SHA256
OWNER = UUID("77777777-7777-7777-7777-777777777777")
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"
DATABASE = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SWITCH = "f0a30bc7-af08-4556-99c4-001009c93a44"
IMAGE = make_pe()


@functools.cache
def pair(name: str, issuer: str | None = None) -> tuple[EllipticCurvePrivateKey, bytes]:
    """Make a key and its certificate, self-signed or by another key."""
    key = generate_private_key(SECP256R1())
    signer = key if issuer is None else pair(issuer)[0]
    made = x509.CertificateBuilder(
        issuer_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer or name)]),
        subject_name=x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]),
        public_key=key.public_key(),
        serial_number=int.from_bytes(name.encode(), "big"),
        not_valid_before=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
        not_valid_after=datetime.datetime(2036, 1, 1, tzinfo=datetime.UTC),
    ).sign(signer, HASH())
    return key, made.public_bytes(Encoding.DER)


def lists(*names: str) -> bytes:
    """Return an ESL of these certificates."""
    return write_signature_lists([x509_list(pair(name)[1], OWNER) for name in names])


def digest_list(*digests: bytes) -> bytes:
    """Return an ESL of SHA-256 digests."""
    entries = tuple(SignatureEntry(OWNER, digest) for digest in digests)
    return write_signature_lists([SignatureList(EFI_CERT_SHA256, entries)])


def image_digest(image: bytes = IMAGE) -> Digest:
    return authenticode_digests(image, (SHA256,))[SHA256]


def signed(*certificates: bytes, of: bytes = IMAGE) -> bytes:
    """Return the image with a signature whose value nobody checks here."""
    return attach_signature(
        IMAGE, write_signed_data(signed_content(image_digest(of)), certificates, b"value")
    )


def state(db: bytes, dbx: bytes = b"") -> SecureBootState:
    return SecureBootState(enabled=True, pk=lists("pk"), kek=lists("pk"), db=db, dbx=dbx)


def entry(name: str) -> bytes:
    return OWNER.bytes_le + pair(name)[1]


def test_the_authority_is_the_first_entry_that_holds_the_signers_certificate() -> None:
    db = lists("other", "signer", "signer")
    assert find_authority(state(db), signed(pair("signer")[1])) == entry("signer")


def test_an_issuer_in_db_is_the_authority_whether_or_not_the_image_carries_it() -> None:
    leaf = pair("leaf", "root")[1]
    assert find_authority(state(lists("other", "root")), signed(leaf)) == entry("root")
    assert find_authority(state(lists("other", "root")), signed(leaf, pair("root")[1])) == entry("root")


def test_an_issuer_that_comes_first_in_db_wins_over_the_signer() -> None:
    leaf = pair("leaf", "root")[1]
    db = write_signature_lists([x509_list(pair("root")[1], OWNER), x509_list(leaf, OWNER)])
    assert find_authority(state(db), signed(leaf)) == entry("root")


def test_a_certificate_that_only_has_the_issuers_name_is_no_authority() -> None:
    leaf = pair("leaf", "root")[1]
    key = generate_private_key(SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "root")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    forged = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day).sign(key, HASH())
    db = write_signature_lists([x509_list(forged.public_bytes(Encoding.DER), OWNER)])
    with pytest.raises(MeasureError, match="1 signatures over it and none that does"):
        find_authority(state(db), signed(leaf))


def test_an_image_without_a_signature_is_allowed_by_its_digest() -> None:
    db = digest_list(b"\x01" * 32, image_digest().value)
    assert find_authority(state(db), IMAGE) == OWNER.bytes_le + image_digest().value


@pytest.mark.parametrize(
    ("db", "dbx", "image", "reason"),
    [
        (lists("other"), b"", IMAGE, "0 signatures over it and none that does"),
        (b"", b"", signed(pair("signer")[1]), "none that does"),
        (digest_list(b"\x01" * 32), b"", IMAGE, "none that does"),
        (lists("signer"), lists("signer"), signed(pair("signer")[1]), "dbx forbids"),
        (lists("signer"), digest_list(image_digest().value), signed(pair("signer")[1]), "dbx forbids"),
        (lists("signer"), b"", signed(pair("signer")[1], of=make_pe(tail=b"other")), "0 signatures over it"),
    ],
)
def test_an_image_that_firmware_would_refuse_has_no_authority(
    db: bytes, dbx: bytes, image: bytes, reason: str
) -> None:
    with pytest.raises(MeasureError, match=reason):
        find_authority(state(db, dbx), image)


def test_each_signature_is_tried_with_certificates_and_then_with_the_digest() -> None:
    blobs = [
        write_signed_data(signed_content(image_digest()), (pair(name)[1],), b"value")
        for name in ("first", "second")
    ]
    entries = [struct.pack("<IHH", 8 + len(blob), 0x0200, 2) + blob for blob in blobs]
    image = with_certificates(IMAGE, b"".join(item + bytes(-len(item) % 8) for item in entries))
    by_digest = OWNER.bytes_le + image_digest().value
    db = lists("second") + digest_list(image_digest().value)
    assert find_authority(state(db), image) == by_digest
    assert find_authority(state(lists("second")), image) == entry("second")
    assert find_authority(state(lists("first") + db), image) == entry("first")


def other_digests(kind: UUID, *data: bytes) -> bytes:
    """Return an ESL of entries of this type."""
    entries = tuple(SignatureEntry(OWNER, item) for item in data)
    return write_signature_lists([SignatureList(kind, entries)])


def test_a_digest_in_db_counts_only_as_the_kind_of_digest_that_the_signature_has() -> None:
    digests = authenticode_digests(IMAGE, (SHA256, HashAlgorithm.SHA384))
    db = other_digests(EFI_CERT_SHA384, digests[HashAlgorithm.SHA384].value)
    for image in (IMAGE, signed(pair("signer")[1])):
        with pytest.raises(MeasureError, match="none that does"):
            find_authority(state(db), image)


def signed_part(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).tbs_certificate_bytes


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [
        (EFI_CERT_X509_SHA256, "sha256"),
        (EFI_CERT_X509_SHA384, "sha384"),
        (EFI_CERT_X509_SHA512, "sha512"),
    ],
)
def test_a_certificate_whose_digest_is_in_dbx_is_forbidden(kind: UUID, algorithm: str) -> None:
    leaf = pair("leaf", "root")[1]
    image = signed(leaf, pair("root")[1])
    for certificate in (leaf, pair("root")[1]):
        digest = hashlib.new(algorithm, signed_part(certificate)).digest()
        dbx = other_digests(kind, digest + bytes(16))
        with pytest.raises(MeasureError, match="dbx forbids"):
            find_authority(state(lists("root"), dbx), image)
    harmless = other_digests(kind, hashlib.new(algorithm, leaf).digest() + bytes(16))
    assert find_authority(state(lists("root"), harmless), image) == entry("root")


def test_an_issuer_in_dbx_forbids_the_image_although_it_does_not_carry_it() -> None:
    leaf = pair("leaf", "root")[1]
    db = write_signature_lists([x509_list(leaf, OWNER)])
    assert find_authority(state(db), signed(leaf)) == OWNER.bytes_le + leaf
    with pytest.raises(MeasureError, match="dbx forbids"):
        find_authority(state(db, lists("root")), signed(leaf))


@pytest.mark.parametrize("algorithm", [HashAlgorithm.SHA1, HashAlgorithm.SHA384, HashAlgorithm.SHA512])
def test_dbx_forbids_an_image_by_a_digest_of_its_signature_s_kind(algorithm: HashAlgorithm) -> None:
    identifiers = {v: k for k, v in _ALGORITHMS.items()}
    digest = authenticode_digests(IMAGE, (algorithm,))[algorithm]
    content = signed_content(image_digest())
    old = write_sequence(
        write_sequence(write_object_identifier(identifiers[SHA256]), write_element(NULL)),
        write_element(OCTET_STRING, image_digest().value),
    )
    new = write_sequence(
        write_sequence(write_object_identifier(identifiers[algorithm]), write_element(NULL)),
        write_element(OCTET_STRING, digest.value),
    )
    head, _ = content.split(old)
    about = read_only(content).content[: len(head) - (len(content) - len(read_only(content).content))]
    image = attach_signature(
        IMAGE, write_signed_data(write_sequence(about, new), (pair("signer")[1],), b"value")
    )
    kinds = {v: k for k, v in IMAGE_DIGESTS.items()}
    assert find_authority(state(lists("signer")), image) == entry("signer")
    with pytest.raises(MeasureError, match="dbx forbids"):
        find_authority(state(lists("signer"), other_digests(kinds[algorithm], digest.value)), image)
    by_digest = state(other_digests(kinds[algorithm], digest.value))
    assert find_authority(by_digest, image) == OWNER.bytes_le + digest.value


def test_an_entry_that_is_no_certificate_validates_nothing_and_stops_nothing() -> None:
    db = write_signature_lists([x509_list(b"rubbish", OWNER)]) + lists("signer")
    assert find_authority(state(db), signed(pair("signer")[1])) == entry("signer")


def test_trusting_finds_the_authority_only_where_secure_boot_is_on() -> None:
    image = signed(pair("signer")[1])
    assert state(lists("signer")).trusting(image).authority == entry("signer")
    off = SecureBootState(db=lists("signer"))
    assert off.trusting(image) == off


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"pk": b""}, "expected a platform key where it is on, got none"),
        ({"db": b"\0"}, "variable db: signature list at 0: cut off"),
        ({"dbt": b"\0"}, "variable dbt: signature list"),
        ({"authority": OWNER.bytes_le + b"other"}, "expected an authority that is an entry of db"),
    ],
)
def test_a_state_that_no_machine_can_have_is_refused(changes: dict[str, bytes], reason: str) -> None:
    with pytest.raises(MeasureError, match=reason):
        replace(state(lists("signer")), **changes)


def stored(**changes: bytes | None) -> list[EfiVariable]:
    """Return a variable store with keys; None leaves a variable out."""
    held: dict[str, bytes | None] = {
        "PK": lists("pk"),
        "db": lists("signer"),
        "SecureBootEnable": b"\x01",
        **changes,
    }
    vendors = {"PK": GLOBAL, "KEK": GLOBAL, "SecureBootEnable": SWITCH}
    return [EfiVariable(vendors.get(k, DATABASE), k, v) for k, v in held.items() if v is not None]


def test_a_store_with_a_platform_key_boots_with_secure_boot_unless_the_switch_is_off() -> None:
    assert read_secure_boot(stored()).enabled
    assert read_secure_boot(stored(SecureBootEnable=None)).enabled
    assert not read_secure_boot(stored(SecureBootEnable=b"\0")).enabled
    assert not read_secure_boot(stored(PK=None)).enabled
    assert read_secure_boot([]) == SecureBootState()


def test_the_variables_of_a_store_are_those_of_its_namespaces() -> None:
    found = read_secure_boot([*stored(dbt=lists("signer")), EfiVariable(GLOBAL, "dbx", b"not this one")])
    assert (found.db, found.dbx, found.dbt, found.dbr) == (lists("signer"), b"", lists("signer"), None)


def variable(vendor: str, name: str, data: bytes) -> bytes:
    """Write UEFI_VARIABLE_DATA by hand."""
    head = UUID(vendor).bytes_le + struct.pack("<QQ", len(name), len(data))
    return head + name.encode("utf-16-le") + data


def test_register_7_is_the_chain_of_policy_separator_and_authority() -> None:
    held = replace(state(lists("signer"), digest_list(bytes(32))), dbt=b"", authority=entry("signer"))
    events = predict_pcr07((SHA256,), secure_boot_data=b"\x01", state=held)
    authority = predict_authority(entry("signer"), (SHA256,))
    assert authority.event_type is EventType.EV_EFI_VARIABLE_AUTHORITY
    value = bytes(32)
    for measured in (
        variable(GLOBAL, "SecureBoot", b"\x01"),
        variable(GLOBAL, "PK", lists("pk")),
        variable(GLOBAL, "KEK", lists("pk")),
        variable(DATABASE, "db", lists("signer")),
        variable(DATABASE, "dbx", digest_list(bytes(32))),
        variable(DATABASE, "dbt", b""),
        bytes(4),
        variable(DATABASE, "db", entry("signer")),
    ):
        value = hashlib.sha256(value + hashlib.sha256(measured).digest()).digest()
    assert extend_all(7, (*events, authority), SHA256).value == value
