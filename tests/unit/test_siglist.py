"""EFI_SIGNATURE_LIST, byte by byte."""

from __future__ import annotations

import struct
from pathlib import Path
from uuid import UUID

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.siglist import (
    EFI_CERT_SHA256,
    EFI_CERT_X509,
    MAX_LISTS_BYTES,
    SignatureEntry,
    SignatureList,
    parse_signature_lists,
    write_signature_lists,
    x509_entries,
    x509_list,
)
from tests.fakes.damage import assert_all_refused, assert_nothing_else_raised, bit_flips, truncations

OWNER = UUID("00112233-4455-6677-8899-aabbccddeeff")
OWNER_BYTES = bytes.fromhex("33221100554477668899aabbccddeeff")  # mixed-endian, UEFI 2.10 appendix A
X509_BYTES = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
SHA256_BYTES = bytes.fromhex("2616c4c14c509240aca941f936934328")
KEYS = Path(__file__).resolve().parents[1] / "golden" / "secureboot"


def by_hand(kind: bytes, *entries: bytes, header: bytes = b"") -> bytes:
    """Write a list field by field from the specification."""
    size = 16 + len(entries[0])
    body = header + b"".join(OWNER_BYTES + entry for entry in entries)
    return kind + struct.pack("<III", 28 + len(body), len(header), size) + body


TWO = by_hand(X509_BYTES, b"certificate") + by_hand(SHA256_BYTES, b"\x01" * 32, b"\x02" * 32)


def test_lists_are_read_with_their_owners() -> None:
    first, second = parse_signature_lists(TWO)
    assert first == x509_list(b"certificate", OWNER)
    assert (second.kind, len(second.entries)) == (EFI_CERT_SHA256, 2)
    assert second.entries[1].encoded == OWNER_BYTES + b"\x02" * 32


def test_an_empty_variable_holds_no_lists() -> None:
    assert parse_signature_lists(b"") == ()


def test_what_was_read_is_written_back() -> None:
    data = TWO + by_hand(bytes(16), b"entry", header=b"header")
    assert write_signature_lists(parse_signature_lists(data)) == data


def test_only_certificates_are_certificates() -> None:
    assert [entry.data for entry in x509_entries(TWO)] == [b"certificate"]


def test_the_lists_of_debians_test_keys_hold_one_certificate_each() -> None:
    for name in ("PK", "KEK", "db"):
        (found,) = parse_signature_lists((KEYS / f"debian-13-snakeoil.{name}.esl").read_bytes())
        assert (found.kind, len(found.entries)) == (EFI_CERT_X509, 1)
        assert found.entries[0].data.startswith(b"\x30\x82")
    (forbidden,) = parse_signature_lists((KEYS / "debian-13-snakeoil.dbx.esl").read_bytes())
    assert forbidden.kind == EFI_CERT_SHA256


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (TWO + b"\0", "expected 28 bytes of header, got 1"),
        (X509_BYTES + struct.pack("<III", 27, 0, 17), "expected a size up to 28, got 27"),
        (X509_BYTES + struct.pack("<III", 28, 0, 17), "0 bytes are not one or more entries of 17"),
        (
            X509_BYTES + struct.pack("<III", 44, 0, 16) + bytes(16),
            "16 bytes are not one or more entries of 16",
        ),
        (X509_BYTES + struct.pack("<III", 45, 17, 17) + bytes(17), "0 bytes are not one or more entries"),
        (X509_BYTES + struct.pack("<III", 45, 99, 17) + bytes(17), "-82 bytes are not one or more entries"),
        (
            X509_BYTES + struct.pack("<III", 46, 0, 17) + bytes(18),
            "18 bytes are not one or more entries of 17",
        ),
        (X509_BYTES + struct.pack("<III", 45, 0, 0) + bytes(17), "17 bytes are not one or more entries of 0"),
        (by_hand(SHA256_BYTES, bytes(31)), "expected digests of 32 bytes, got 31"),
        (bytes(MAX_LISTS_BYTES + 1), f"expected at most {MAX_LISTS_BYTES} bytes"),
    ],
)
def test_a_malformed_list_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_signature_lists(data)


def test_a_list_that_no_firmware_could_read_is_not_written() -> None:
    for entries in (
        (),
        (SignatureEntry(OWNER, b"1"), SignatureEntry(OWNER, b"22")),
        (SignatureEntry(OWNER, b""),),
    ):
        with pytest.raises(FormatError, match="expected entries of one size"):
            write_signature_lists([SignatureList(EFI_CERT_X509, entries)])


def test_every_truncation_is_refused_and_damage_gives_only_our_error() -> None:
    data = by_hand(X509_BYTES, b"certificate")
    assert_all_refused(parse_signature_lists, (cut for cut in truncations(data) if cut), FormatError)
    assert assert_nothing_else_raised(parse_signature_lists, bit_flips(TWO), FormatError) > 8
