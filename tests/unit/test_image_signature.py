"""Signatures in PE images: what is written, read and refused; integration has the oracles."""

from __future__ import annotations

import struct
from functools import cache

import pytest

from blindbuild.digest import Digest, HashAlgorithm
from blindbuild.errors import BlindbuildError, PeError, UsageError
from blindbuild.formats.authenticode import authenticode_digests
from blindbuild.formats.der import write_integer, write_sequence
from blindbuild.formats.image_signature import (
    MAX_TABLE,
    attach_signature,
    attributes_to_sign,
    read_signatures,
    remove_signatures,
    signed_content,
    signer_certificates,
    write_signed_data,
)
from blindbuild.formats.pe import compute_checksum, read_pe
from blindbuild.publish import load_certificates, load_rsa_key, sign_boot_image
from tests.fakes.damage import assert_nothing_else_raised, bit_flips, truncations
from tests.fakes.pe_image import make_pe, with_certificates
from tests.fakes.secure_boot import make_key

IMAGE = make_pe()
SHA256 = HashAlgorithm.SHA256


@cache
def signed_image() -> bytes:
    key = make_key("db")
    return sign_boot_image(IMAGE, load_rsa_key(key.pem), load_certificates(key.certificate_pem))


def signed_by_leaf() -> bytes:
    root, leaf = make_key("root"), make_key("leaf", issuer="root")
    certificates = load_certificates(leaf.certificate_pem + root.certificate_pem)
    return sign_boot_image(IMAGE, load_rsa_key(leaf.pem), certificates)


def digest(image: bytes) -> Digest:
    return authenticode_digests(image, [SHA256])[SHA256]


def entry(data: bytes, *, length: int | None = None, revision: int = 0x0200, kind: int = 2) -> bytes:
    size = 8 + len(data) if length is None else length
    packed = struct.pack("<IHH", size, revision, kind) + data
    return packed + bytes(-len(packed) % 8)


def test_a_signed_image_has_the_digest_of_the_unsigned_one() -> None:
    assert digest(signed_image()) == digest(IMAGE)
    assert [one.digest for one in read_signatures(signed_image())] == [digest(IMAGE)]


def test_signing_twice_gives_the_same_bytes() -> None:
    key = make_key("db")
    again = sign_boot_image(IMAGE, load_rsa_key(key.pem), load_certificates(key.der))
    assert again == signed_image()


def test_the_certificate_table_ends_the_file_at_a_multiple_of_eight() -> None:
    pe = read_pe(signed_image())
    offset, size = pe.certificate_table
    assert (offset, offset + size) == (len(IMAGE), len(signed_image()))
    assert (offset % 8, size % 8) == (0, 0)
    assert pe.checksum == compute_checksum(signed_image(), pe.checksum_offset)


def test_without_its_signature_the_image_is_what_it_was() -> None:
    pe = read_pe(IMAGE)
    checksum = struct.pack("<I", compute_checksum(IMAGE, pe.checksum_offset))
    summed = IMAGE[: pe.checksum_offset] + checksum + IMAGE[pe.checksum_offset + 4 :]
    assert remove_signatures(signed_image()) == summed
    assert remove_signatures(IMAGE) == IMAGE


def test_the_chain_begins_with_the_signer() -> None:
    assert signer_certificates(signed_by_leaf()) == (
        make_key("leaf", issuer="root").der,
        make_key("root").der,
    )
    assert signer_certificates(signed_image()) == (make_key("db").der,)
    assert signer_certificates(IMAGE) == ()


def test_a_certificate_that_issued_nothing_of_the_chain_is_no_signers() -> None:
    key, other = make_key("db"), make_key("other")
    certificates = load_certificates(key.certificate_pem + other.certificate_pem)
    image = sign_boot_image(IMAGE, load_rsa_key(key.pem), certificates)
    assert signer_certificates(image) == (key.der,)


def test_a_signed_image_is_signed_anew_only_when_asked() -> None:
    key = make_key("other")
    signer, certificates = load_rsa_key(key.pem), load_certificates(key.der)
    with pytest.raises(UsageError, match="expected an unsigned image, got a signed one") as refused:
        sign_boot_image(signed_image(), signer, certificates)
    assert "--replace" in (refused.value.hint or "")
    again = sign_boot_image(signed_image(), signer, certificates, replace=True)
    assert signer_certificates(again) == (key.der,)
    assert digest(again) == digest(IMAGE)


def test_a_table_that_nobody_can_read_counts_as_a_signature_and_can_be_replaced() -> None:
    key = make_key("db")
    signer, certificates = load_rsa_key(key.pem), load_certificates(key.der)
    other = with_certificates(IMAGE, entry(b"x" * 8, kind=1))
    with pytest.raises(UsageError, match="got a signed one"):
        sign_boot_image(other, signer, certificates)
    assert sign_boot_image(other, signer, certificates, replace=True) == signed_image()


def test_a_key_that_is_not_the_certificates_is_refused() -> None:
    with pytest.raises(UsageError, match="expected the certificate of the key, got another one's"):
        sign_boot_image(IMAGE, load_rsa_key(make_key("db").pem), load_certificates(make_key("other").der))


@pytest.mark.parametrize("tail", [b"x", b"seven b"])
def test_an_image_that_would_need_padding_is_refused(tail: bytes) -> None:
    key = make_key("db")
    with pytest.raises(PeError, match="expected a size that is a multiple of 8") as refused:
        sign_boot_image(make_pe(tail=tail), load_rsa_key(key.pem), load_certificates(key.der))
    assert "digest" in (refused.value.hint or "")


def test_an_image_without_a_certificate_directory_is_refused() -> None:
    with pytest.raises(PeError, match="expected a certificate table among the data directories"):
        attach_signature(make_pe(directories=4), b"signature")


def test_a_second_signature_is_not_attached_behind_the_first() -> None:
    with pytest.raises(PeError, match="expected an unsigned image"):
        attach_signature(signed_image(), b"signature")


def test_only_sha256_is_signed() -> None:
    with pytest.raises(PeError, match="expected a sha256 digest to sign, got sha1"):
        signed_content(Digest.zero(HashAlgorithm.SHA1))


def test_no_certificate_is_no_signer() -> None:
    content = signed_content(digest(IMAGE))
    with pytest.raises(BlindbuildError, match="expected the signer's certificate, got none"):
        write_signed_data(content, (), b"")


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (entry(b"x" * 8, kind=1), "expected PKCS signed data .* type 1"),
        (entry(b"x" * 8, revision=0x0100), "revision 0x0100"),
        (entry(b"x" * 8, length=8), "entry of 8 bytes"),
        (entry(b"x" * 8, length=4000), "entry of 4000 bytes"),
        (bytes(4), "cut off"),
        (bytes(MAX_TABLE + 8), "at most"),
        (entry(write_sequence(write_integer(1))), "ContentInfo: expected 2 fields, got 1"),
        (entry(b"\x04\x06octets"), "expected ContentInfo"),
    ],
)
def test_a_table_that_holds_something_else_is_refused(table: bytes, reason: str) -> None:
    with pytest.raises(PeError, match=reason):
        read_signatures(with_certificates(IMAGE, table))


def signature_blob() -> bytes:
    pe = read_pe(signed_image())
    offset, _ = pe.certificate_table
    (length,) = struct.unpack_from("<I", signed_image(), offset)
    return signed_image()[offset + 8 : offset + length]


def test_two_signatures_are_both_read() -> None:
    blob = signature_blob()
    image = with_certificates(IMAGE, entry(blob) + entry(blob))
    assert [one.digest for one in read_signatures(image)] == [digest(IMAGE)] * 2
    assert signer_certificates(image) == (make_key("db").der,)


def test_eight_zero_bytes_after_a_signature_are_no_padding() -> None:
    blob = signature_blob()
    assert read_signatures(with_certificates(IMAGE, entry(blob + bytes(7))))
    for more in (bytes(8), b"x"):
        with pytest.raises(PeError, match="fewer than 8 zero bytes"):
            read_signatures(with_certificates(IMAGE, entry(blob + more)))


def test_damage_gives_only_our_error() -> None:
    blob = signature_blob()

    def parse(data: bytes) -> object:
        return read_signatures(with_certificates(IMAGE, entry(data)))

    assert assert_nothing_else_raised(parse, bit_flips(blob), PeError) > 100
    for cut in truncations(blob):
        with pytest.raises(PeError):
            parse(cut)


def test_the_signature_is_over_content_type_and_digest_and_nothing_that_changes() -> None:
    # RFC 2315, 9.2: attributes as a SET; no signing time (1.2.840.113549.1.9.5) is among them
    signed = attributes_to_sign(signed_content(digest(IMAGE)))
    assert read_signatures(signed_image())[0].signed == signed
    assert bytes.fromhex("06092a864886f70d010903") in signed
    assert bytes.fromhex("06092a864886f70d010904") in signed
    assert bytes.fromhex("06092a864886f70d010905") not in signature_blob()
