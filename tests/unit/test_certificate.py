"""Endorsement certificates as NV indices hold them."""

from __future__ import annotations

import pytest

from blindbuild.errors import FormatError
from blindbuild.formats.certificate import (
    TpmAttributes,
    parse_certificate,
    parse_pem_certificate,
    read_endorsement_profile,
    trim_padding,
)
from tests.fakes.software_tpm import Profile
from tests.fakes.world import authority, tpm

DER = tpm().ek_certificate


def test_zeros_after_the_certificate_are_trimmed() -> None:
    assert trim_padding(DER + bytes(512)) == DER
    assert trim_padding(DER) == DER


@pytest.mark.parametrize("tail", [b"\x01", b"\0\0\0\1", b"\xff" * 16, DER])
def test_anything_else_after_the_certificate_is_refused(tail: bytes) -> None:  # 116
    with pytest.raises(FormatError, match="only zeros after"):
        trim_padding(DER + tail)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x31\x01\x00\x00",
        b"\x30\x80\0\0",
        b"\x30\x81\x05aaaaa",
        b"\x30\x82\x00\x90",
        b"\x30\x84aaaa",
    ],
)
def test_what_is_not_one_der_sequence_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        trim_padding(data)


def test_a_certificate_over_the_limit_is_refused() -> None:
    with pytest.raises(FormatError, match="at most 8192 bytes"):
        trim_padding(DER + bytes(8192))


def test_a_signature_whose_last_bits_are_said_to_be_unused_is_refused() -> None:
    """Nobody signs that byte, and where the last bit is 0 a lenient reader takes both forms for the same."""
    issued = (authority().issue(tpm().ek.public_key()) for _ in range(200))
    der = next(der for der in issued if der[-1] % 2 == 0)
    at = der.rindex(parse_certificate(der).parsed.signature) - 1
    assert der[at] == 0
    with pytest.raises(FormatError, match="whole bytes"):
        parse_certificate(der[:at] + b"\1" + der[at + 1 :])


def test_a_certificate_cut_at_any_byte_is_refused() -> None:
    for length in range(len(DER)):
        with pytest.raises(FormatError):
            trim_padding(DER[:length])
        with pytest.raises(FormatError):
            parse_certificate(DER[:length])


def test_a_flipped_bit_gives_another_certificate_or_our_error() -> None:
    for position in range(len(DER)):
        flipped = bytearray(DER)
        flipped[position] ^= 0x04
        try:
            certificate = parse_certificate(trim_padding(bytes(flipped)))
            read_endorsement_profile(certificate)
        except FormatError:
            continue
        assert certificate.der != DER


def test_the_profile_is_read() -> None:
    profile = read_endorsement_profile(parse_certificate(DER))
    assert profile.attributes == TpmAttributes("id:00001014", "swtpm", "id:20191023")
    assert profile.alternative_name_is_critical
    assert not profile.subject_is_empty
    assert profile.is_authority is False
    assert profile.usages == {"keyEncipherment"}
    assert profile.extended_usages == {"2.23.133.8.1"}


def test_a_certificate_without_extensions_has_an_empty_profile() -> None:
    bare = Profile(common_name=None, attributes=(), is_authority=None, extended_usage=None)
    profile = read_endorsement_profile(parse_certificate(authority().issue(tpm().ek.public_key(), bare)))
    assert profile.attributes is None
    assert profile.is_authority is None
    assert profile.subject_is_empty
    assert profile.extended_usages == frozenset()


@pytest.mark.parametrize("text", ["", "x", authority().root_pem * 2, authority().root_pem[:-30]])
def test_text_that_is_not_one_pem_certificate_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        parse_pem_certificate(text)
